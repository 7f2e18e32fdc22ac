"""A computed solution as a function: spectral in space, piecewise polynomial in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spectral import Basis, barycentric_matrix, barycentric_weights

__all__ = ["GridSolution", "Slices"]

Array = NDArray[np.float64]

# Entries of one interpolation matrix; keeps the memory of an evaluation to tens of megabytes.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Slices:
    """Times at which a solution is stored, and the stencils that interpolate between them.

    Args:
        times: shape (k,), increasing.
        width: nodes of one interpolating polynomial.
        stride: distance between the first nodes of neighbouring stencils. A collocation polynomial
            over w - 1 stages has stride w - 1; equispaced slices slide by one.
    """

    times: Array
    width: int
    stride: int

    def stencils(self, t: Array) -> NDArray[np.intp]:
        """First slice of the stencil for each time, shape (n,)."""
        width = min(self.width, len(self.times))
        if self.stride == width - 1 and width > 1:
            breaks = self.times[:: self.stride]
            step = np.clip(np.searchsorted(breaks, t, side="right") - 1, 0, len(breaks) - 2)
            return step * self.stride
        centre = np.searchsorted(self.times, t, side="right") - width // 2
        return np.clip(centre, 0, len(self.times) - width)

    def weights(self, start: int, t: Array) -> Array:
        """Matrix (times, width) that interpolates from the stencil beginning at `start`."""
        nodes = self.times[start : start + min(self.width, len(self.times))]
        return barycentric_matrix(nodes, barycentric_weights(nodes), t)

    def interpolate(self, values: Array, t: Array) -> Array:
        """Values (lines, n) at times t (n,) from those at all slices, (lines, k).

        All stencils are taken to be alike but for shift and scale, as they are where steps are
        equal or each step has its own stencil.
        """
        width = min(self.width, len(self.times))
        starts = self.stencils(t)
        members = starts[:, None] + np.arange(width)
        difference = t[:, None] - self.times[members]
        hit = difference == 0.0
        weights = barycentric_weights(self.times[:width]) / np.where(hit, 1.0, difference)
        rows = hit.any(axis=1)
        weights[rows] = hit[rows]
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("lnw,nw->ln", values[:, members], weights)


@dataclass(frozen=True)
class GridSolution:
    """Nodal values on a tensor grid at stored times.

    Args:
        bases: one per space coordinate, in declared order.
        values: shape (times, fields, n_1, ..., n_d); one time for a steady solution.
        slices: the stored times; None for a steady solution.
        time_column: the column of time in a point array; None for a steady solution.
        rounding: relative change that rounding makes, by field, where it is known.
    """

    bases: Sequence[Basis]
    values: Array
    slices: Slices | None = None
    time_column: int | None = None
    rounding: Array | None = None

    def __call__(self, points: Array) -> Array:
        """Values at scattered points.

        Args:
            points: shape (n, coordinates), columns in declared order.

        Returns:
            Shape (n, fields).
        """
        points = np.asarray(points, dtype=float)
        result = np.empty((len(points), self.values.shape[1]))
        space = points if self.time_column is None else np.delete(points, self.time_column, axis=1)
        lines = [self._line(basis, space[:, axis]) for axis, basis in enumerate(self.bases)]
        for members, weights, start in self._groups(points, self.time_column):
            stored = self.values[start : start + weights.shape[1]]
            limit = max(1, _BLOCK // max(int(np.prod(stored.shape[2:])) * len(stored), 1))
            for first in range(0, len(members), limit):
                chosen = members[first : first + limit]
                matrices = [line(chosen) for line in lines]
                part = slice(first, first + limit)
                result[chosen] = self._scattered(stored, weights[part], matrices)
        return result

    @staticmethod
    def _line(basis: Basis, x: Array) -> Callable[[NDArray[np.intp]], Array]:
        """Rows of the interpolation matrix to x; computed once where points share coordinates."""
        distinct, inverse = np.unique(x, return_inverse=True)
        if len(distinct) * basis.n <= _BLOCK:
            matrix = basis.interpolation(distinct)
            return lambda chosen: matrix[inverse[chosen]]
        return lambda chosen: basis.interpolation(x[chosen])

    def _groups(
        self, points: Array, column: int | None
    ) -> list[tuple[NDArray[np.intp], Array, int]]:
        """Points that share a time stencil: rows, time weights (rows, width), first slice."""
        if self.slices is None or column is None:
            return [(np.arange(len(points)), np.ones((len(points), 1)), 0)]
        t = points[:, column]
        starts = self.slices.stencils(t)
        order = np.argsort(starts, kind="stable")
        cuts = np.flatnonzero(np.diff(starts[order])) + 1
        return [
            (
                members,
                self.slices.weights(int(starts[members[0]]), t[members]),
                int(starts[members[0]]),
            )
            for members in np.split(order, cuts)
            if len(members)
        ]

    @staticmethod
    def _scattered(stored: Array, weights: Array, matrices: Sequence[Array]) -> Array:
        """Contract one coordinate after the other: stored (k, f, n_1, ...) with weights (p, k)."""
        if not matrices:
            return np.einsum("pk,kf->pf", weights, stored)
        # The first coordinate as one matrix product over all slices: (p, k, f, n_2, ...).
        partial = np.tensordot(matrices[0], stored, axes=(1, 2))
        for matrix in matrices[1:]:
            partial = np.einsum("pkf...a,pa->pkf...", np.moveaxis(partial, 3, -1), matrix)
        return np.einsum("pk,pkf->pf", weights, partial)

    def few(self) -> Array:
        """Values at the nodes at eight stored instants at most."""
        return self.values[np.unique(np.linspace(0, len(self.values) - 1, 8).astype(int))]

    def unresolved(self, orders: Sequence[int]) -> Array:
        """How much of the derivatives lies in the highest sixth of the modes.

        What is spectrally resolved has nothing there; a derivative that jumps has a power of the
        number of nodes.

        Args:
            orders: which derivative, by space coordinate.

        Returns:
            Largest relative root mean square over coordinates and a few instants, by field.
        """
        values = self.few()
        worst = np.zeros(values.shape[1])
        for axis, (basis, order) in enumerate(zip(self.bases, orders, strict=True)):
            modes = np.moveaxis(basis.coefficients(values, axis + 2), axis + 2, -1)
            modes = modes * np.arange(1.0, modes.shape[-1] + 1) ** order
            energy = (modes.reshape(*modes.shape[:2], -1, modes.shape[-1]) ** 2).sum(axis=2)
            last = max(3, energy.shape[-1] // 6)  # parity leaves every other mode out
            high = energy[..., -last:].sum(axis=-1)
            whole = energy.sum(axis=-1)
            share = np.sqrt(high / np.where(whole > 0, whole, 1.0))
            worst = np.maximum(worst, share.max(axis=0))
        return worst

    def between(self, times: Array | None) -> Array:
        """What rounding and interpolation in time add: stencils of ten instants against eight.

        A collocation polynomial has a stencil of its own and is compared otherwise.

        Args:
            times: shape (k,), None for a steady solution.

        Returns:
            Relative L2 change over the nodes, by field.
        """
        fields = self.values.shape[1]
        if self.rounding is not None:
            return self.rounding
        if (
            self.slices is None
            or times is None
            or self.slices.stride != 1
            or len(self.slices.times) <= 10
        ):
            return np.zeros(fields)
        shorter = Slices(self.slices.times, self.slices.width - 2, 1)
        pair = [
            GridSolution(self.bases, self.values, slices, self.time_column)._instants(times)
            for slices in (self.slices, shorter)
        ]
        norms = [
            np.sqrt((np.moveaxis(v, 1, 0).reshape(fields, -1) ** 2).sum(axis=1))
            for v in (pair[0], pair[0] - pair[1])
        ]
        return norms[1] / np.where(
            norms[0] > 1e-13 * norms[0].max(), norms[0], norms[0].max() or 1.0
        )

    def _instants(self, times: Array) -> Array:
        """Values at the nodes, shape (k, fields, n_1, ...)."""
        result = np.empty((len(times), *self.values.shape[1:]))
        for members, weights, start in self._groups(times[:, None], 0):
            stored = self.values[start : start + weights.shape[1]]
            result[members] = np.tensordot(weights, stored, axes=(1, 0))
        return result

    def on_grid(self, times: Array | None, axes: Sequence[Array]) -> Array:
        """Values on a tensor grid.

        Args:
            times: shape (k,), or None for a steady solution.
            axes: points by space coordinate.

        Returns:
            Shape (k, fields, len(axes[0]), ...).
        """
        matrices = [
            basis.interpolation(points) for basis, points in zip(self.bases, axes, strict=True)
        ]
        if self.slices is None or times is None:
            return self._refined(self.values[:1], matrices)
        result = np.empty((len(times), self.values.shape[1], *(len(points) for points in axes)))
        for members, weights, start in self._groups(times[:, None], 0):
            stored = self.values[start : start + weights.shape[1]]
            result[members] = self._refined(np.tensordot(weights, stored, axes=(1, 0)), matrices)
        return result

    @staticmethod
    def _refined(values: Array, matrices: Sequence[Array]) -> Array:
        for axis, matrix in enumerate(matrices):
            values = np.moveaxis(np.tensordot(matrix, values, axes=(1, axis + 2)), 0, axis + 2)
        return values
