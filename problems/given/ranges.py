"""Whether a problem asks its sampled functions only where there are samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from ...errors import ConfigurationError
from .call import GivenCall

if TYPE_CHECKING:
    from ..problem import Problem

__all__ = ["check_ranges"]

_SAMPLES = 256


def check_ranges(problem: Problem) -> None:
    """Refuse an argument outside the samples of a function, or one that could leave them.

    Looked at are the corners of the box, or of the face, and random points of it.

    Raises:
        ConfigurationError: names the function, the argument and a point.
    """
    if all(given.bounds is None for given in problem.functions):
        return
    for path, tree, fixed in _stated(problem):
        for call in sorted(tree.atoms(GivenCall), key=str):
            if call.given.bounds is not None:
                _check(problem, call, path, fixed)


def _stated(
    problem: Problem,
) -> Iterator[tuple[tuple[str | int, ...], sympy.Expr, dict[str, float]]]:
    """Every expression with its path, and the coordinate that is constant where it holds."""
    for number, equation in enumerate(problem.equations):
        if equation.tree is not None:
            yield ("equations", number), equation.tree, {}
    for condition in problem.conditions:
        path = ("conditions",) if condition.place is None else ("conditions", condition.place)
        fixed = {face.coordinate: face.value for face in condition.faces[:1]}
        for equation in condition.equations:
            if equation.tree is not None:
                yield path, equation.tree, fixed


def _check(
    problem: Problem, call: GivenCall, path: tuple[str | int, ...], fixed: dict[str, float]
) -> None:
    from ..evaluation import evaluate

    given, arguments = call.given, [problem.substituted(a) for a in call.arguments]
    assert given.bounds is not None
    ranges = " and ".join(f"from {low:.12g} to {high:.12g}" for low, high in given.bounds)
    sampled = f"{given.name} is sampled {ranges}"
    if any(problem.namespace.jets(argument) for argument in arguments):
        raise ConfigurationError(
            f"{sampled}, and the values of a field in {call} may leave that range",
            path=path,
            advice="write 'beyond: straight' under it, by which it goes on as straight lines",
        )
    ends = [(fixed[c],) * 2 if c in fixed else b for c, b in _bounds(problem)]
    corners = np.array(list(itertools.product(*ends)))
    lowest, highest = np.array(ends, dtype=float).T
    inside = np.random.default_rng(3).uniform(lowest, highest, (_SAMPLES, len(ends)))
    points = np.concatenate([corners, inside])
    values: dict[str, Any] = dict(zip(problem.coordinates, points.T, strict=True))
    with np.errstate(all="ignore"):
        columns = [np.broadcast_to(evaluate(a, values), (len(points),)) for a in arguments]
        asked = np.stack(columns, axis=1)
        outside = np.flatnonzero(np.isnan(given(*columns)) & np.isfinite(asked).all(axis=1))
    if len(outside):
        middle, length = np.mean(given.bounds, axis=1), np.ptp(given.bounds, axis=1)
        row = outside[np.argmax((np.abs(asked[outside] - middle) / length).max(axis=1))]
        shown = ", ".join(f"{value:.6g}" for value in asked[row])
        place = ", ".join(
            f"{c} = {v:.6g}" for c, v in zip(problem.coordinates, points[row], strict=True)
        )
        raise ConfigurationError(
            f"{sampled}, and {call} asks for {shown} at {place}",
            path=path,
            advice="give samples over the whole domain, or write 'beyond: straight'",
        )


def _bounds(problem: Problem) -> Iterator[tuple[str, tuple[float, float]]]:
    return zip(problem.coordinates, problem.bounds, strict=True)
