"""Closed-form Taylor coefficients of Gaussians, and their derivatives by means and shapes.

A Gaussian ``G(x) = exp(-|A (x - mu)|^2 / 2)`` satisfies ``grad G = -P (x - mu) G`` with the
precision ``P = A^T A``, so its Taylor coefficients follow from each other (Rodrigues' recursion of
the Hermite polynomials, in several variables):

    (a_k + 1) c_{a + e_k} = -(P (x - mu))_k c_a - sum_l P_kl c_{a - e_l}.

Derivatives by its parameters need no rule of their own. Moving the mean moves the function,
``d c_a / d mu_k = -(a_k + 1) c_{a + e_k}``, and A enters through products with offsets,
``d G / d A_kl = -sum_j A_kj (x - mu)_j (x - mu)_l G``, whose coefficients are those of G times
``y_j y_l``.

Along a periodic coordinate of angular frequency w the distance ``y^2`` is ``2 (1 - cos(w y)) /
w^2``, that of two points on a circle: periodic, and the same for narrow Gaussians (the von Mises
density). The recursion then has all derivatives of the sine in it.

Everything here is made of torch's own operations: with a graph it is its own slow, differentiable
form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .taylor import JetAlgebra, MultiIndex

WAVE = math.pi
"""Angular frequency of a periodic coordinate scaled to [-1, 1]."""


class Bells:
    """Some Gaussians at some points: Taylor coefficients, computed once each.

    Args:
        points: shape (p, d), scaled.
        means: shape (n, d).
        rates: diagonal of A, inverse standard deviations, shape (n, d).
        shears: ``A = diag(rates) (I + U)`` with U strictly lower triangular: its entries row by
            row, shape (n, d (d - 1) / 2); None for a diagonal A.
        periodic: axes that are periodic; A must be diagonal then.
    """

    def __init__(
        self,
        points: Tensor,
        means: Tensor,
        rates: Tensor,
        shears: Tensor | None = None,
        periodic: Sequence[int] = (),
    ) -> None:
        self.dimension = points.shape[1]
        self.rates = rates
        self.shears = shears
        self.periodic = frozenset(periodic)
        self.offsets = [points[:, k, None] - means[:, k] for k in range(self.dimension)]
        self._factor = None if shears is None else _factor(rates, shears)
        self._series: dict[tuple[int, int], Tensor] = {}
        self._slopes = self._first_slopes()
        self._found: dict[MultiIndex, Tensor] = {}

    def coefficient(self, index: MultiIndex) -> Tensor:
        """Taylor coefficient of the Gaussians, shape (p, n)."""
        if index not in self._found:
            self._found[index] = self._compute(index)
        return self._found[index]

    def _compute(self, index: MultiIndex) -> Tensor:
        if not any(index):
            return torch.exp(self._exponent())
        axis = next(k for k, order in enumerate(index) if order)
        below = _shifted(index, axis, -1)
        total = self._slopes[axis] * self.coefficient(below)
        for i in range(self.dimension):
            lower = _shifted(below, i, -1)
            slope = self._second_slope(axis, i)
            if min(lower) >= 0 and slope is not None:
                total = total + slope * self.coefficient(lower)
        if axis in self.periodic:
            for m in range(2, below[axis] + 1):
                lower = _shifted(below, axis, -m)
                total = total + self._sine(axis, m) * self.coefficient(lower)
        return total / index[axis] if index[axis] > 1 else total

    def _first_slopes(self) -> list[Tensor]:
        """Derivative of the exponent along every axis."""
        if self._factor is None:
            return [self._sine(k, 0) for k in range(self.dimension)]
        factor = self._factor
        along = [
            torch.stack([factor[:, k, i] for i in range(k + 1)]) for k in range(self.dimension)
        ]
        steps = [
            sum((row[i] * self.offsets[i] for i in range(1, len(row))), row[0] * self.offsets[0])
            for row in along
        ]
        self._steps = steps
        return [
            -sum(
                (factor[:, j, k] * steps[j] for j in range(k + 1, self.dimension)),
                factor[:, k, k] * steps[k],
            )
            for k in range(self.dimension)
        ]

    def _exponent(self) -> Tensor:
        if self._factor is not None:
            return -0.5 * sum((s * s for s in self._steps[1:]), self._steps[0] * self._steps[0])
        total = -0.5 * self._square(0)
        for k in range(1, self.dimension):
            total = total - 0.5 * self._square(k)
        return total

    def _square(self, axis: int) -> Tensor:
        """Squared distance along an axis in standard deviations (diagonal A)."""
        offset = self.offsets[axis]
        if axis in self.periodic:
            offset = torch.sin(WAVE / 2 * offset) * (2 / WAVE)
        return (offset * self.rates[:, axis]).square()

    def _second_slope(self, axis: int, other: int) -> Tensor | None:
        """Second derivative of the exponent; None for zero."""
        if self._factor is not None:
            return -(self._factor[:, :, axis] * self._factor[:, :, other]).sum(1)
        return self._sine(axis, 1) if axis == other else None

    def _sine(self, axis: int, order: int) -> Tensor:
        """Taylor coefficient of the exponent's derivative along an axis (diagonal A)."""
        key = (axis, order)
        if key not in self._series:
            square = self.rates[:, axis].square()
            offset = self.offsets[axis]
            if axis in self.periodic:
                phase = torch.sin(WAVE * offset + order * math.pi / 2)
                found = phase * (square * (-(WAVE ** (order - 1)) / math.factorial(order)))
            elif order == 0:
                found = -offset * square
            else:
                found = -square
            self._series[key] = found
        return self._series[key]

    def pull(self, adjoint: Mapping[MultiIndex, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Derivatives of ``s_p = sum_{a, i} adjoint_a[p, i] c_a[p, i]``, Gaussian by Gaussian.

        Args:
            adjoint: coefficient to shape (p, n).

        Returns:
            By means (p, n, d), by logarithms of standard deviations (p, n, d), by shears
            (p, n, d (d - 1) / 2) or None.
        """
        axes = range(self.dimension)
        means = [
            -_total(
                ((index[k] + 1) * weight) * self.coefficient(_shifted(index, k, 1))
                for index, weight in adjoint.items()
            )
            for k in axes
        ]
        if self._factor is None:
            widths = torch.stack([self._by_width(k, adjoint) for k in axes], 2)
            return torch.stack(means, 2), widths, None
        factor = self._factor
        assert self.shears is not None
        moments = {(j, i): self._moment(j, i, adjoint) for j in axes for i in range(j + 1)}
        # d s / d A_kl = -B_kl
        by_factor = {
            (k, i): _total(factor[:, k, j] * moments[max(j, i), min(j, i)] for j in range(k + 1))
            for k in axes
            for i in range(k + 1)
        }
        widths = [_total(factor[:, k, i] * by_factor[k, i] for i in range(k + 1)) for k in axes]
        shears = [-self.rates[:, k] * by_factor[k, i] for k in axes for i in range(k)]
        joined = torch.stack(shears, 2) if shears else means[0].new_zeros((*means[0].shape, 0))
        return torch.stack(means, 2), torch.stack(widths, 2), joined

    def _by_width(self, axis: int, adjoint: Mapping[MultiIndex, Tensor]) -> Tensor:
        """By the logarithm of a standard deviation: ``-2 E G``, E the axis' part of the exponent.

        E has the Taylor series of its derivative, integrated.
        """
        square = self._square(axis)

        def product(index: MultiIndex) -> Tensor:
            total = square * self.coefficient(index)
            most = index[axis] if axis in self.periodic else min(index[axis], 2)
            for m in range(1, most + 1):
                part = self._sine(axis, m - 1) * (-2 / m)
                total = total + part * self.coefficient(_shifted(index, axis, -m))
            return total

        return _total(weight * product(index) for index, weight in adjoint.items())

    def _moment(self, j: int, i: int, adjoint: Mapping[MultiIndex, Tensor]) -> Tensor:
        """``sum_a adjoint_a (y_j y_i G)_a`` with the offsets y."""
        y, z = self.offsets[j], self.offsets[i]

        def product(index: MultiIndex) -> Tensor:
            total = y * z * self.coefficient(index)
            for factor, axis in ((y, i), (z, j)):
                if index[axis]:
                    total = total + factor * self.coefficient(_shifted(index, axis, -1))
            both = _shifted(_shifted(index, j, -1), i, -1)
            return total + self.coefficient(both) if min(both) >= 0 else total

        return _total(weight * product(index) for index, weight in adjoint.items())


def channel_parts(
    algebra: JetAlgebra, stretch: Sequence[float]
) -> list[list[tuple[MultiIndex, float]]]:
    """By channel of a bundle, the coefficients of scaled coordinates that it is the sum of.

    Args:
        algebra: the bundle's.
        stretch: derivative of each scaled coordinate by the true one.
    """

    def part(weight: int, index: MultiIndex) -> tuple[MultiIndex, float]:
        powers = (s**order for s, order in zip(stretch, index, strict=True))
        return index, weight * math.prod(powers)

    return [[part(*term) for term in channel] for channel in algebra.parts]


def _factor(rates: Tensor, shears: Tensor) -> Tensor:
    """A, shape (n, d, d)."""
    n, d = rates.shape
    unit = torch.eye(d, dtype=rates.dtype, device=rates.device).expand(n, d, d).clone()
    rows, columns = torch.tril_indices(d, d, -1)
    unit = unit.index_put(
        (torch.arange(n, device=rates.device)[:, None], rows[None], columns[None]), shears
    )
    return rates[:, :, None] * unit


def _shifted(index: MultiIndex, axis: int, by: int) -> MultiIndex:
    return tuple(order + by * (k == axis) for k, order in enumerate(index))


def _total(parts: Iterable[Tensor]) -> Tensor:
    parts = iter(parts)
    total = next(parts)
    for part in parts:
        total = total + part
    return total
