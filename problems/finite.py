"""Whether what a problem prescribes is a number wherever it is asked for.

Data on a face (initial and boundary values) must be numbers on all of it, corners included.
Coefficients of an equation may be singular on a face or a line inside, as 1/r is on an axis; a
source may not be infinite inside. Looked at are the ends, the middle and random points; a pole
between them is found where a divisor changes its sign.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .evaluation import NUMPY, evaluate

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["check_finite"]

Array = NDArray[np.float64]

_SAMPLES = 256
_LARGEST = 1e100
"""Squares of larger values, and the sums of them, leave the range of numbers."""
_POLE = 1e9
"""So much larger than usual a value is only on its way to infinity, beside a zero of a divisor."""


@dataclass(frozen=True)
class _Region:
    """Points of a face, or of the inside, by name and as rows."""

    names: tuple[str, ...]
    points: Array

    def values(self, tree: sympy.Expr, points: Array | None = None) -> Array:
        points = self.points if points is None else points
        columns: dict[str, Array] = dict(zip(self.names, points.T, strict=True))
        try:
            with np.errstate(all="ignore"):
                found: Any = evaluate(tree, columns, NUMPY)
        except (ArithmeticError, ValueError):  # of plain numbers, where NumPy would give nan
            found = np.nan
        return np.array(np.broadcast_to(found, len(points)), dtype=float)


def check_finite(problem: Problem) -> None:
    """Refuse data, coefficients and sources that are not numbers where they are needed.

    Raises:
        ConfigurationError: names the condition or equation and a point.
    """
    inside = _region(problem, None)
    for number, equation in enumerate(problem.equations):
        if equation.tree is not None:
            _check(problem, equation.tree, inside, ("equations", number), equation.text)
    for condition in problem.conditions:
        path = ("conditions",) if condition.place is None else ("conditions", condition.place)
        face = condition.faces[0]
        region = _region(problem, (face.coordinate, face.value))
        known = len(condition.targets)
        for target in condition.targets:
            name = problem.namespace.jet(target.field, target.index).name
            tree = problem.substituted(target.tree)
            bad = _not_finite(tree, region) or _pole(tree, region)
            if bad is not None:
                _refuse(bad, f"the prescribed {name}", region, path)
        for equation in condition.equations[known:]:
            if equation.tree is not None:
                _check(problem, equation.tree, region, path, equation.text)


def _region(problem: Problem, face: tuple[str, float] | None) -> _Region:
    """Random points; on a face also its corners and middles, in which order they are shown."""
    low, high = np.array(problem.bounds, dtype=float).T
    generator = np.random.default_rng(7)
    points = low + (high - low) * generator.uniform(0.001, 0.999, (_SAMPLES, len(low)))
    if face is not None:
        axis = problem.coordinates.index(face[0])
        shares = (0.0, 0.5, 1.0) if len(low) > 3 else (0.0, 0.25, 0.5, 0.75, 1.0)
        grid = np.array(list(itertools.product(shares, repeat=len(low) - 1)))
        special = low + (high - low) * np.insert(grid, axis, 0.0, axis=1)
        points = np.concatenate([special, points])
        points[:, axis] = face[1]
    return _Region(problem.coordinates, points)


def _check(
    problem: Problem,
    tree: sympy.Expr,
    region: _Region,
    path: tuple[str | int, ...],
    text: str,
) -> None:
    """The parts of an equation that hold no field: coefficients, and the source."""
    tree = problem.substituted(tree)
    jets = frozenset(problem.namespace.jets(tree))
    for part in _known(tree, jets):
        generic = _Region(region.names, region.points[-_SAMPLES:])
        bad = _not_finite(part, generic)
        if bad is not None:
            _refuse(bad, f"{_short(part)} in '{text}'", generic, path)
    terms = [term for term in sympy.Add.make_args(tree) if not jets & term.free_symbols]
    source = sympy.Add(*terms)
    bad = _pole(source, region)
    if bad is not None:
        _refuse(bad, f"{_short(source)} in '{text}'", region, path)


def _known(tree: Any, jets: frozenset[sympy.Symbol]) -> Iterator[sympy.Expr]:
    """The largest parts of a tree that hold no field. Branches of where(...) are left alone."""
    if not jets & tree.free_symbols:
        yield tree
        return
    if isinstance(tree, sympy.Piecewise):
        return
    free = [a for a in tree.args if not jets & a.free_symbols]
    if isinstance(tree, sympy.Add | sympy.Mul) and free:
        yield tree.func(*free)
    for argument in tree.args:
        if argument not in free:
            yield from _known(argument, jets)


Bad = tuple[Array, float]


def _not_finite(tree: sympy.Expr, region: _Region) -> Bad | None:
    """The first point where a tree is not a number, or a uselessly large one; and its value."""
    values = region.values(tree)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~(np.abs(values) <= _LARGEST))
    if not len(wrong):
        return None
    return region.points[wrong[0]], float(values[wrong[0]])


def _pole(tree: sympy.Expr, region: _Region) -> Bad | None:
    """A point between the samples where a divisor is zero and the quotient is not bounded."""
    if not tree.free_symbols:
        return None
    usual = None
    for divisor in _divisors(tree):
        sizes = region.values(divisor)
        if not np.isfinite(sizes).all() or not sizes.min() < 0 < sizes.max():
            continue
        below, above = region.points[sizes.argmin()], region.points[sizes.argmax()]
        for _ in range(120):
            middle = 0.5 * (below + above)
            (size,) = region.values(divisor, middle[None])
            if size == 0 or not np.isfinite(size):
                break
            below, above = (middle, above) if size < 0 else (below, middle)
        usual = float(np.nanmedian(np.abs(region.values(tree)))) if usual is None else usual
        ends = np.abs(region.values(tree, np.stack([below, above])))
        if not np.nanmax(ends, initial=0.0) <= _POLE * max(usual, 1e-300):
            return 0.5 * (below + above), np.inf
    return None


def _divisors(tree: Any) -> Iterator[sympy.Expr]:
    if isinstance(tree, sympy.Piecewise) or not tree.free_symbols:
        return
    if isinstance(tree, sympy.Pow) and tree.exp.is_number and tree.exp < 0:
        yield tree.base
    if isinstance(tree, sympy.tan):
        yield sympy.cos(tree.args[0])
    for argument in tree.args:
        yield from _divisors(argument)


def _refuse(bad: Bad, what: str, region: _Region, path: Sequence[str | int]) -> None:
    point, value = bad
    kind = "not a number" if np.isnan(value) else "infinite"
    place = ", ".join(f"{n} = {v:.6g}" for n, v in zip(region.names, point, strict=True))
    advice = (
        "change the expression, the domain or the parameters, or write where(...) around the point"
    )
    if np.isfinite(value):
        kind = f"{value:.3g}, too large to compute with,"
        advice = "rescale fields and coordinates so that all numbers are near 1"
    raise ConfigurationError(f"{what} is {kind} at {place}", path=path, advice=advice)


def _short(tree: sympy.Expr) -> str:
    from .equation import to_text

    text = to_text(tree)
    return text if len(text) <= 60 else f"{text[:57]}..."
