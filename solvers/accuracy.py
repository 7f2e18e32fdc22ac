"""How far a solution is from a reference, as an integral over the whole domain.

The relative L2 error of a field u against a reference u* is

    ( integral (u - u*)^2  /  integral u*^2 )^(1/2)

with both integrals taken over the box of all coordinates, time included, by one quadrature rule:
the trapezoidal rule on a uniform grid along a periodic coordinate (spectrally accurate there) and
composite Gauss-Legendre with eight nodes a panel along any other. Weights matter: a mean over
clustered points would weigh regions by how many points lie in them. Where the reference vanishes
identically the quotient is undefined, and the root of the mean square error itself is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..problems.problem import Problem

__all__ = ["Comparison", "compare", "quadrature", "tensor_points"]

NODES_PER_PANEL = 8
# Quadrature nodes along each axis, by number of coordinates.
NODES = {1: 2048, 2: 256, 3: 64}
NODES_BEYOND = 16
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
    """

    relative_l2: dict[str, float]
    maximum: dict[str, float]
    error_bar: dict[str, float]
    nodes: int
    absolute: tuple[str, ...] = ()

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
        n: quadrature nodes along each axis.

    Raises:
        ValueError: a shape that does not fit.
    """
    dimension = len(problem.coordinates)
    n = n or NODES.get(dimension, NODES_BEYOND)
    rules = [
        quadrature(low, high, n, periodic=name in problem.periodic)
        for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True)
    ]
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
        absolute = tuple(np.array(problem.fields)[norm == 0].tolist())
        norm = np.where(norm > 0, norm, weights.sum())
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
