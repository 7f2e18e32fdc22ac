"""The dense set on which solutions are compared, and the relative L2 distance on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .system import System

__all__ = ["CommonSet"]

Array = NDArray[np.float64]

# Cells per coordinate by number of space coordinates; nodes of no grid fall on their points.
_CELLS = {0: 4000, 1: 60, 2: 24}
_SPACE_CELLS = {0: 0, 1: 700, 2: 60}
_GOLDEN = 0.6180339887


def _graded(low: float, high: float, cells: int, ends: tuple[bool, bool]) -> tuple[Array, Array]:
    """Points and weights of a quadrature on cells, those at the marked ends graded.

    The first instants and the layers at walls are where data and conditions disagree; a uniform set
    would miss them and the bar with them.
    """
    edges = np.linspace(0.0, 1.0, cells + 1)
    fine = edges[1] * 4.0 ** -np.arange(9.0, 0.0, -1.0)
    inner = [edges[1:-1]]
    if ends[0]:
        inner.insert(0, fine)
    if ends[1]:
        inner.append(1.0 - fine[::-1])
    edges = np.concatenate([[0.0], *inner, [1.0]])
    widths = np.diff(edges)
    return low + (high - low) * (edges[:-1] + _GOLDEN * widths), widths


@dataclass(frozen=True)
class CommonSet:
    """A tensor set of points with quadrature weights.

    Attributes:
        times: shape (k,); None for a steady problem.
        axes: points by space coordinate.
        weights: shape (k, n_1, ...), k = 1 for a steady problem; their sum is 1.
    """

    times: Array | None
    axes: Sequence[Array]
    weights: Array

    @classmethod
    def of(cls, system: System) -> CommonSet:
        """The set for a problem, the same for all methods and resolutions."""
        dimension = len(system.space)
        times, weights = None, np.ones(1)
        if system.time is not None:
            times, weights = _graded(*system.span, _CELLS[dimension], (True, False))
        axes = []
        for name in system.space:
            # Periodic ends too: there lies the kink of data that do not close smoothly.
            points, widths = _graded(*system.bounds[name], _SPACE_CELLS[dimension], (True, True))
            axes.append(points)
            weights = weights[..., None] * widths
        return cls(times, axes, weights)

    def relative_l2(self, values: Array, exact: Array) -> Array:
        """Relative L2 distance by field.

        A field that is zero up to the rounding of the others is measured by the largest of them.

        Args:
            values: shape (k, fields, n_1, ...).
            exact: what to compare with, of the same shape; its norm is the unit.

        Returns:
            Shape (fields,).
        """
        size = self._norm(exact)
        largest = float(size.max()) or 1.0
        return self._norm(values - exact) / np.where(size > 1e-13 * largest, size, largest)

    def _norm(self, values: Array) -> Array:
        fields = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        return np.sqrt(fields**2 @ self.weights.ravel())

    def sample(self, function: Callable[[Array], Array], system: System) -> Array:
        """Values (k, fields, n_1, ...) of a function of points (n, coordinates)."""
        lines = [
            self.times if c == system.time else self.axes[system.space.index(c)]
            for c in system.coordinates
        ]
        grid: list[Array] = list(np.meshgrid(*lines, indexing="ij"))
        values = function(np.stack([g.ravel() for g in grid], axis=1))
        values = values.reshape(*grid[0].shape, -1)
        if system.time is None:
            return np.moveaxis(values, -1, 0)[None]
        values = np.moveaxis(values, system.coordinates.index(system.time), 0)
        return np.moveaxis(values, -1, 1)
