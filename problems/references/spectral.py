"""Collocation in one coordinate: nodes, differentiation matrices and interpolation.

Two families: Fourier on a period, Chebyshev on an interval. Both interpolate with the barycentric
formula

    p(x) = sum_j w_j k(x - x_j) u_j / sum_j w_j k(x - x_j),

k(d) = 1/d for polynomials and 1/tan(d/2) or 1/sin(d/2) for trigonometric polynomials of even or odd
length (Berrut and Trefethen, SIAM Review 46, 2004; Henrici, Numer. Math. 33, 1979).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Basis", "Chebyshev", "Fourier", "barycentric_matrix", "barycentric_weights"]

Array = NDArray[np.float64]


def barycentric_weights(nodes: Array) -> Array:
    """Polynomial barycentric weights of a few distinct nodes, scaled to largest magnitude 1.

    Args:
        nodes: shape (n,), n of a few tens at most (products of differences overflow beyond).
    """
    difference = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(difference, 1.0)
    scale = 4.0 / (nodes.max() - nodes.min()) if len(nodes) > 1 else 1.0
    weights = 1.0 / np.prod(difference * scale, axis=1)
    return weights / np.abs(weights).max()


def barycentric_matrix(nodes: Array, weights: Array, points: Array) -> Array:
    """Matrix (points, nodes) from values at nodes to the polynomial's values at points."""
    return _normalised(weights, points[:, None] - nodes[None, :])


def _normalised(weights: Array, kernel: Array) -> Array:
    """Rows weights / kernel divided by their sums; a row that hits a node becomes a unit vector."""
    hit = kernel == 0.0
    matrix = weights / np.where(hit, 1.0, kernel)
    rows = hit.any(axis=1)
    matrix[rows] = hit[rows]
    return matrix / matrix.sum(axis=1, keepdims=True)


class Basis(ABC):
    """Interpolation at fixed nodes of [low, high].

    Attributes:
        nodes: shape (n,), increasing; a periodic basis omits the upper end.
        n: number of nodes.
        periodic: whether both ends are one point.
    """

    periodic: bool

    def __init__(self, low: float, high: float, n: int) -> None:
        self.low, self.high, self.n = float(low), float(high), int(n)
        self._powers: dict[int, Array] = {}
        self.nodes = self._nodes()

    @abstractmethod
    def _nodes(self) -> Array: ...

    @abstractmethod
    def _derivative(self, order: int) -> Array: ...

    @abstractmethod
    def interpolation(self, points: Array) -> Array:
        """Matrix (points, n) from nodal values to values at points."""

    @abstractmethod
    def coefficients(self, values: Array, axis: int) -> Array:
        """Magnitudes of coefficients of nodal values along an axis, by degree or wave number."""

    def derivative(self, order: int) -> Array:
        """Matrix (n, n) of the derivative of that order at the nodes."""
        if order not in self._powers:
            self._powers[order] = np.eye(self.n) if order == 0 else self._derivative(order)
        return self._powers[order]


class Fourier(Basis):
    """Trigonometric interpolation at equispaced nodes of one period."""

    periodic = True

    def _nodes(self) -> Array:
        return self.low + (self.high - self.low) * np.arange(self.n) / self.n

    def _derivative(self, order: int) -> Array:
        from scipy.linalg import circulant

        wave = 2j * np.pi * np.fft.rfftfreq(self.n, 1.0 / self.n) / (self.high - self.low)
        symbol = wave**order
        if self.n % 2 == 0 and order % 2:
            symbol[-1] = 0.0  # the highest cosine of an even grid has no odd derivative on it
        impulse = np.zeros(self.n)
        impulse[0] = 1.0
        return circulant(np.fft.irfft(symbol * np.fft.rfft(impulse), self.n))

    def coefficients(self, values: Array, axis: int) -> Array:
        """See `Basis.coefficients`."""
        return np.abs(np.fft.rfft(values, axis=axis, norm="forward"))

    def interpolation(self, points: Array) -> Array:
        """Matrix (points, n); points outside the period are wrapped."""
        half = np.pi / (self.high - self.low)
        offset = np.mod(np.asarray(points, dtype=float) - self.low, self.high - self.low)
        p, q = half * offset, half * (self.nodes - self.low)
        # sin(p - q) from products: no transcendental function per pair.
        sine = np.sin(p)[:, None] * np.cos(q) - np.cos(p)[:, None] * np.sin(q)
        weights = np.where(np.arange(self.n) % 2 == 0, 1.0, -1.0)
        if self.n % 2:
            return _normalised(weights, sine)
        cosine = np.cos(p)[:, None] * np.cos(q) + np.sin(p)[:, None] * np.sin(q)
        hit = sine == 0.0
        return _normalised(
            weights, np.where(hit, 0.0, sine / np.where(cosine == 0.0, 1e-300, cosine))
        )


class Chebyshev(Basis):
    """Polynomial interpolation at Chebyshev points of the second kind, ends included."""

    periodic = False

    def _nodes(self) -> Array:
        """Points cos(j pi / (n-1)) mapped to [low, high], increasing."""
        # The sine form is exactly symmetric about the midpoint.
        reference = np.sin(0.5 * np.pi * np.arange(1 - self.n, self.n, 2) / (self.n - 1))
        nodes = 0.5 * (self.low + self.high) + 0.5 * (self.high - self.low) * reference
        nodes[0], nodes[-1] = self.low, self.high
        return nodes

    @cached_property
    def weights(self) -> Array:
        """Barycentric weights: alternating signs, halved at the ends (Salzer 1972)."""
        weights = np.where(np.arange(self.n) % 2 == 0, 1.0, -1.0)
        weights[[0, -1]] *= 0.5
        return weights

    @cached_property
    def _differences(self) -> Array:
        # x_i - x_j = 2 sin((t_i + t_j)/2) sin((t_i - t_j)/2) keeps the small differences accurate.
        theta = 0.5 * np.pi * np.arange(1 - self.n, self.n, 2) / (self.n - 1)
        plus, minus = theta[:, None] + theta, theta[:, None] - theta
        difference = (self.high - self.low) * np.cos(plus / 2) * np.sin(minus / 2)
        np.fill_diagonal(difference, 1.0)
        return difference

    def _derivative(self, order: int) -> Array:
        """Welfert's recursion (SIAM J. Numer. Anal. 34, 1997), diagonal from vanishing row sums."""
        lower = self.derivative(order - 1)
        ratio = self.weights[None, :] / self.weights[:, None]
        matrix = order * (ratio * np.diag(lower)[:, None] - lower) / self._differences
        np.fill_diagonal(matrix, 0.0)
        np.fill_diagonal(matrix, -matrix.sum(axis=1))
        return matrix

    def coefficients(self, values: Array, axis: int) -> Array:
        """See `Basis.coefficients`."""
        from scipy.fft import dct

        return np.abs(np.asarray(dct(values, type=1, axis=axis, norm="forward")))

    def interpolation(self, points: Array) -> Array:
        """Matrix (points, n) by the barycentric formula."""
        return barycentric_matrix(self.nodes, self.weights, np.asarray(points, dtype=float))

    def first_kind(self, n: int) -> Array:
        """The n Chebyshev points of the first kind, all of them inside."""
        reference = np.sin(0.5 * np.pi * np.arange(1 - n, n, 2) / n)
        return 0.5 * (self.low + self.high) + 0.5 * (self.high - self.low) * reference
