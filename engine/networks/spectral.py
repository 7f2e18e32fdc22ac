"""A series in space whose coefficients are a network in time: ``u = sum_k c_k(t) phi_k(x)``.

Source: Xia, Bottcher & Chou, "Spectrally adapted physics-informed neural networks", Mach. Learn.:
Sci. Technol. 4 (2023). Along a periodic coordinate the phi are trigonometric, along a bounded one
Chebyshev polynomials; in several coordinates they are products. Smooth solutions need few of them,
and unlike a network of all coordinates the series has no scales finer than its last function, so
that what one time window hands to the next stays smooth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..taylor import JetAlgebra
from .embedding import harmonics
from .field import Context, Field
from .mlp import Mlp

START = 1e-3
"""Share of its usual size at which the read-out starts."""


class Spectral(Field):
    """Coefficients from a network of the coordinates that are not expanded.

    Args:
        coefficients: network with ``outputs * functions`` outputs; must not depend on the expanded
            coordinates.
        outputs: number of fields.
        bases: the expanded coordinates.
    """

    steady = True

    def __init__(self, coefficients: Mlp, outputs: int, bases: Sequence[Basis]) -> None:
        super().__init__()
        self.coefficients = coefficients
        self.outputs = outputs
        self.bases = tuple(bases)
        with torch.no_grad():
            # High derivatives of a random series are huge. From almost nothing, the first steps
            # solve for the read-out, which enters linearly, and leave the layers below alone.
            for parameter in coefficients.readout.parameters():
                parameter.mul_(START)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        context = context or Context()
        functions = context.constant(
            self, algebra, "functions", lambda: self._functions(points, algebra)
        )
        found = self.coefficients.jet(points, algebra, context)
        parts = found.unflatten(2, (self.outputs, -1)).unbind(2)
        return torch.stack([algebra.multiply(functions, part).sum(2) for part in parts], dim=2)

    def _functions(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        product = torch.zeros_like(algebra.lift(points)[:, :, :1])
        product[0] = 1
        for basis in self.bases:
            along = basis.jet(points, algebra)
            pairs = algebra.multiply(product.unsqueeze(3), along.unsqueeze(2))
            product = pairs.flatten(2)
        return product


class Basis:
    """Functions of one coordinate.

    Args:
        axis: the coordinate.
        bounds: its ends.
        degree: highest harmonic or polynomial degree.
        periodic: trigonometric functions instead of polynomials.
        even: only those even about the midpoint (periodic coordinates).
        flat: ends (low, high) at which the first derivative of each function vanishes (bounded
            coordinates).
    """

    def __init__(
        self,
        axis: int,
        bounds: tuple[float, float],
        degree: int,
        *,
        periodic: bool,
        even: bool = False,
        flat: tuple[bool, bool] = (False, False),
    ) -> None:
        self.axis = axis
        self.low, self.high = bounds
        self.degree = degree
        self.periodic = periodic
        self.even = even
        self.flat = flat

    @property
    def count(self) -> int:
        """Number of functions."""
        if self.periodic:
            return 1 + self.degree * (1 if self.even else 2)
        return self.degree + 1 - sum(self.flat)

    def jet(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        """Their Taylor coefficients, shape (channels, points, count)."""
        place = algebra.lift(points)[:, :, self.axis : self.axis + 1].clone()
        place[0] -= (self.low + self.high) / 2
        length = self.high - self.low
        one = torch.zeros_like(place)
        one[0] = 1
        if self.periodic:
            return torch.cat(
                [one, *harmonics(algebra, place, length, self.degree, sines=not self.even)], 2
            )
        z = place * (2 / length)
        polynomials = [one, z]
        for _ in range(self.degree - 1):
            polynomials.append(2 * algebra.multiply(z, polynomials[-1]) - polynomials[-2])
        return torch.cat(self._flattened(polynomials), 2)

    def _flattened(self, polynomials: Sequence[Tensor]) -> list[Tensor]:
        """Sums of two neighbours without slope at the flat ends: ``T_k'(+-1) = (+-1)^(k+1) k^2``.

        (Shen, SIAM J. Sci. Comput. 16, 1995.)
        """
        step = sum(self.flat)
        if step == 0:
            return list(polynomials)
        sign = 1 if self.flat == (True, False) else -1
        return [
            low + sign * (k / (k + step)) ** 2 * high
            for k, (low, high) in enumerate(
                zip(polynomials[:-step], polynomials[step:], strict=True)
            )
        ]


def expand(
    bounds: Sequence[tuple[float, float]],
    time_axis: int,
    *,
    periodic: Mapping[int, int],
    cosine_only: Sequence[int],
    flat: Mapping[int, tuple[bool, bool]],
    degree: int,
) -> list[Basis]:
    """A basis for every coordinate but time; arguments as those of `Embedding`."""
    return [
        Basis(
            axis,
            ends,
            periodic.get(axis, degree),
            periodic=axis in periodic,
            even=axis in cosine_only,
            flat=flat.get(axis, (False, False)),
        )
        for axis, ends in enumerate(bounds)
        if axis != time_axis
    ]


def functions(bases: Sequence[Basis]) -> int:
    """Number of products of basis functions."""
    return math.prod(basis.count for basis in bases)
