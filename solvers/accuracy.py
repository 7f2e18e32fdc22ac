"""How far a solution is from a reference, as an integral over the whole domain.

The relative L2 error of a field u against a reference u* is

    ( integral (u - u*)^2  /  integral u*^2 )^(1/2)

with both integrals taken over the box of all coordinates, time included, by composite
Gauss-Legendre quadrature. Half of the panels follow the slope of the reference, where a layer would
otherwise slip between the nodes, and the outermost are graded towards the ends, the first instant
and the seam of a period, where data and conditions disagree. The number of panels grows by half
until two rules in succession give the same error to five per cent. Weights matter: a mean over
clustered points would weigh regions by how many points lie in them.

This is the norm of the reference's error bar, with its treatment of small fields: one that is zero
up to the rounding of the others is measured by the largest of them. Where the whole reference
vanishes the quotient is undefined, and the root of the mean square error itself is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..problems.problem import Problem

__all__ = ["Comparison", "compare", "quadrature", "tensor_points"]

NODES_PER_PANEL = 8
# Panels along each axis to begin with, how often their outermost are divided by four, and points
# that see the slope of the reference, all by number of coordinates.
PANELS = {1: 256, 2: 20, 3: 3}
GRADING = {1: 6, 2: 4, 3: 2}
PROBES = {1: 4096, 2: 96, 3: 20}
BEYOND = 4  # points that see the slope, with more coordinates; one panel, not graded
# Beyond this many nodes the error is taken as it is.
MOST_NODES = 450_000
SETTLED = 0.05
# A field smaller than this, relative to the largest, is zero up to rounding.
ZERO = 1e-13
# An error closer than this to the error bar of the reference says more about the reference.
LIMIT = 3.0


@dataclass(frozen=True)
class Comparison:
    """A solution measured against a reference; every attribute is by field.

    Attributes:
        relative_l2: relative L2 error over the whole domain.
        maximum: largest absolute error at a quadrature node.
        error_bar: relative L2 error of the reference itself.
        nodes: quadrature nodes in all.
        absolute: fields whose reference is zero: their "relative" error is the root of the mean
            square error itself.
        settled: whether a finer quadrature rule would give the same errors to five per cent; True
            where the number of nodes was prescribed.
    """

    relative_l2: dict[str, float]
    maximum: dict[str, float]
    error_bar: dict[str, float]
    nodes: int
    absolute: tuple[str, ...] = ()
    settled: bool = True

    @property
    def reference_limited(self) -> dict[str, bool]:
        """Whether the error is below three error bars of the reference, which cannot resolve it."""
        return {
            name: bool(error < LIMIT * self.error_bar.get(name, np.inf))
            for name, error in self.relative_l2.items()
        }


def quadrature(low: float, high: float, n: int, *, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [low, high].

    Args:
        low: lower end.
        high: upper end.
        n: number of nodes; rounded up to whole panels of eight where the rule is Gauss-Legendre.
        periodic: trapezoidal rule on [low, high) instead.

    Returns:
        Nodes and weights, of equal shape (m,); the weights sum to high - low.
    """
    if n < 1:
        raise ValueError(f"quadrature with {n} nodes; give at least 1")
    if periodic:
        step = (high - low) / n
        return low + step * np.arange(n), np.full(n, step)
    panels = -(-n // NODES_PER_PANEL)
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    half = (high - low) / (2 * panels)
    centres = low + half * (2 * np.arange(panels) + 1)
    return (centres[:, None] + half * nodes).ravel(), np.tile(half * weights, panels)


def tensor_points(axes: Sequence[np.ndarray]) -> np.ndarray:
    """All combinations of the axes' values, last axis fastest: (product of lengths, axes)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _gauss(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gauss-Legendre nodes on every panel, and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    half = np.diff(edges) / 2
    centres = (edges[1:] + edges[:-1]) / 2
    return (centres[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()


def _edges(slope: np.ndarray, panels: int, grading: int, ends: tuple[bool, bool]) -> np.ndarray:
    """Ends of panels on [0, 1], half of them by length and half by slope, the outer ones graded.

    Args:
        slope: size of the slope on equal cells.
        panels: their number before grading.
        grading: how often an outermost panel is divided, by four each time.
        ends: which ends are graded.
    """
    slope = np.convolve(np.pad(slope, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    mean = float(slope.mean())
    density = 1.0 + (slope / mean if mean > 0 else 0.0)
    total = np.concatenate([[0.0], np.cumsum(density)])
    share = np.linspace(0.0, total[-1], panels + 1)
    edges = np.interp(share, total, np.linspace(0.0, 1.0, len(total)))
    fine = 4.0 ** -np.arange(grading, 0.0, -1.0)
    low = edges[1] * fine if ends[0] else []
    high = 1.0 - ((1.0 - edges[-2]) * fine)[::-1] if ends[1] else []
    return np.concatenate([edges[:1], low, edges[1:-1], high, edges[-1:]])


def _slopes(problem: Problem, reference: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Along each coordinate, the largest slope of the reference on equal cells, by cell."""
    dimension = len(problem.coordinates)
    count = PROBES.get(dimension, BEYOND)
    lines = [np.linspace(low, high, count + 1) for low, high in problem.bounds]
    values = np.asarray(reference(tensor_points(lines)))
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    sizes = np.abs(values).max(axis=0)
    values = values / np.where(sizes > ZERO * sizes.max(), sizes, sizes.max() or 1.0)
    values = values.reshape(*(count + 1,) * dimension, -1)
    return [
        np.moveaxis(np.abs(np.diff(values, axis=axis)), axis, 0).reshape(count, -1).max(axis=1)
        for axis in range(dimension)
    ]


def compare(
    problem: Problem,
    solution: Callable[[np.ndarray], np.ndarray],
    reference: Callable[[np.ndarray], np.ndarray],
    error_bar: Mapping[str, float],
    n: int | None = None,
) -> Comparison:
    """Relative L2 and largest error of a solution.

    Args:
        problem: gives coordinates, bounds, fields and periodic coordinates.
        solution: maps points (m, coordinates) to values (m, fields).
        reference: the same, taken as the truth.
        error_bar: relative L2 error of the reference by field; 0 for a field that is not named.
        n: quadrature nodes along each axis of a uniform rule, instead of as many as it takes: the
            trapezoidal rule along a periodic coordinate, equal panels along any other.

    Raises:
        ValueError: a shape that does not fit.
    """
    if n is not None:
        rules = [
            quadrature(low, high, n, periodic=name in problem.periodic)
            for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True)
        ]
        return _measured(problem, solution, reference, error_bar, rules)
    dimension = len(problem.coordinates)
    slopes = _slopes(problem, reference)
    panels, grading = PANELS.get(dimension, 1), GRADING.get(dimension, 0)
    last: Comparison | None = None
    while True:
        rules = []
        for name, (low, high), slope in zip(
            problem.coordinates, problem.bounds, slopes, strict=True
        ):
            ends = True, name != problem.time
            nodes, weights = _gauss(_edges(slope, panels, grading, ends))
            rules.append((low + (high - low) * nodes, (high - low) * weights))
        if last is not None and np.prod([len(nodes) for nodes, _ in rules]) > MOST_NODES:
            return replace(last, settled=False)
        found = _measured(problem, solution, reference, error_bar, rules)
        errors = np.array(list(found.relative_l2.values()))
        if not np.all(np.isfinite(errors)):
            return found
        if last is not None:
            before = np.array(list(last.relative_l2.values()))
            if np.all(np.abs(errors - before) <= SETTLED * errors):
                return found
        last, panels = found, panels + max(1, panels // 2)


def _measured(
    problem: Problem,
    solution: Callable[[np.ndarray], np.ndarray],
    reference: Callable[[np.ndarray], np.ndarray],
    error_bar: Mapping[str, float],
    rules: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Comparison:
    points = tensor_points([nodes for nodes, _ in rules])
    weights = np.ones(1)
    for _, axis in rules:
        weights = np.multiply.outer(weights, axis)
    weights = weights.ravel()
    shape = (len(points), len(problem.fields))
    found, true = np.asarray(solution(points)), np.asarray(reference(points))
    for what, values in (("solution", found), ("reference", true)):
        if values.shape != shape:
            raise ValueError(f"the {what} gave values of shape {values.shape}; expected {shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        difference = found - true
        squared, norm = weights @ difference**2, weights @ true**2
        largest = norm.max()
        absolute = tuple(problem.fields) if largest == 0 else ()
        norm = np.where(norm > ZERO**2 * largest, norm, largest or weights.sum())
        relative = np.sqrt(squared / norm)
        maximum = np.abs(difference).max(axis=0)
    names = problem.fields
    return Comparison(
        {name: float(value) for name, value in zip(names, relative, strict=True)},
        {name: float(value) for name, value in zip(names, maximum, strict=True)},
        {name: float(error_bar.get(name, 0.0)) for name in names},
        len(points),
        absolute,
    )
