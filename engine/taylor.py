"""Taylor-mode differentiation: truncated multivariate Taylor algebras.

Near a point a field is ``u(x + h) = sum_a c_a h^a`` with Taylor coefficients ``c_a = (d^a u) /
a!`` for
multi-indices ``a``. Keeping a downward-closed set of them gives a commutative algebra: sums act
coefficient by
coefficient, products by the truncated Cauchy rule ``c_k(fg) = sum_{i+j=k} c_i(f) c_j(g)``, and a
scalar function
``s`` acts by ``s(f) = sum_m s^(m)(c_0)/m! (f - c_0)^m``, where ``f - c_0`` is nilpotent.
Propagating one such
*bundle* through a network yields exactly the derivatives a residual asks for in one forward pass,
mixed
partials included.

A Laplacian needs only the sum of its second-order coefficients. That sum is closed under the three
rules when
all first-order coefficients are kept, so it travels as one *collapsed* channel: ``2 + d`` channels
instead of
``1 + 2d`` (Dangel et al., "Collapsing Taylor mode automatic differentiation", arXiv 2505.13644;
the forward Laplacian of Li et al., Nature Machine Intelligence 2024). A bilaplacian collapses
likewise: with all coefficients to second order it needs only the gradient of the Laplacian and
itself, 9 channels in the plane instead of 13.

A bundle is a tensor of shape ``(channels, points, width)``; channel 0 is the value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .fused.formulas import Formula
from .kernels import IN_PLACE, Composition, Factor, InPlace, ScalarRule, Scratch, compose

MultiIndex = tuple[int, ...]
MAX_ORDER = 4
"""Highest derivative order the activation rules cover."""


@dataclass(frozen=True)
class JetAlgebra:
    """The truncated Taylor algebra spanned by ``indices``, and collapsed channels after them.

    Attributes:
        indices: downward-closed multi-indices, sorted by order; ``indices[0]`` is the value.
        laplacian: coordinates whose second derivatives are summed into one extra last channel,
            which holds ``sum_i c_{2 e_i}``, that is half the Laplacian; empty when nothing is
            collapsed.
        biharmonic: coordinates whose fourth derivatives are summed: one channel for each, with half
            the derivative of the Laplacian along it, and a last one with an eighth of the
            bilaplacian. At most one of the two is not empty.
    """

    indices: tuple[MultiIndex, ...]
    laplacian: tuple[int, ...] = ()
    biharmonic: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[tuple[tuple[int, MultiIndex], ...], ...]:
        """By channel the Taylor coefficients it is the sum of, with whole weights."""
        return _parts(self)

    @property
    def channels(self) -> int:
        """Number of channels of a bundle."""
        return len(self.parts)

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self.indices[0])

    @property
    def order(self) -> int:
        """Highest total derivative order carried."""
        return max(sum(index) for channel in self.parts for _, index in channel)

    def assemble(self, coefficient: Callable[[MultiIndex], Tensor]) -> Tensor:
        """A bundle from a function that gives each Taylor coefficient, shape (points, width)."""
        rows = []
        for channel in self.parts:
            found = [weight * coefficient(index) for weight, index in channel]
            rows.append(found[0] if len(found) == 1 else torch.stack(found).sum(0))
        return torch.stack(rows)

    def collapsed(self, bundle: Tensor) -> Tensor:
        """The Laplacian or bilaplacian that the last channel stands for, shape (points, width)."""
        return (8 if self.biharmonic else 2) * bundle[-1]

    def channel(self, index: MultiIndex) -> int:
        """Channel that holds the Taylor coefficient of ``index``."""
        return _positions(self)[index]

    def derivative(self, bundle: Tensor, index: MultiIndex) -> Tensor:
        """Partial derivative of ``index`` read off a bundle: ``a! c_a``, shape (points, width)."""
        factor = math.prod(math.factorial(order) for order in index)
        coefficient = bundle[self.channel(index)]
        return coefficient if factor == 1 else factor * coefficient

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """Truncated product of two bundles (broadcasting in points and width)."""
        rows = []
        for pairs in _product_table(self):
            total = left[pairs[0][0]] * right[pairs[0][1]]
            for i, j in pairs[1:]:
                total = total + left[i] * right[j]
            rows.append(total)
        return torch.stack(rows)

    def apply(self, function: ScalarRule, bundle: Tensor) -> Tensor:
        """A scalar function of a bundle by Faa di Bruno's formula.

        Args:
            function: rule giving the normalised derivatives ``s^(m)(z) / m!`` up to the asked
                order.
            bundle: shape (channels, points, width).

        Returns:
            The bundle of the composed function, same shape.
        """
        return compose(composition(self), function, bundle)

    def lift(self, points: Tensor) -> Tensor:
        """The coordinates themselves as a bundle: value and unit first derivatives.

        Args:
            points: shape (points, coordinates).

        Returns:
            Shape (channels, points, coordinates).
        """
        bundle = points.new_zeros((self.channels, *points.shape))
        bundle[0] = points
        for axis in range(points.shape[1]):
            unit = tuple(int(axis == other) for other in range(points.shape[1]))
            if unit in _positions(self):
                bundle[self.channel(unit), :, axis] = 1.0
        return bundle


def algebra_for(
    indices: Iterable[MultiIndex],
    dimension: int,
    laplacian: Sequence[int] = (),
    biharmonic: Sequence[int] = (),
) -> JetAlgebra:
    """Smallest algebra that carries some derivatives, and collapsed ones if asked.

    Args:
        indices: the partial derivatives wanted.
        dimension: number of coordinates.
        laplacian: coordinates of a collapsed Laplacian; their first derivatives are added.
        biharmonic: coordinates of a collapsed bilaplacian; their derivatives to second order are
            added.
    """
    wanted = {(0,) * dimension, *indices}
    for axis in laplacian:
        wanted.add(_index(dimension, axis))
    for pair in itertools.combinations_with_replacement(biharmonic, 2):
        wanted.add(_index(dimension, *pair))
    closed: set[MultiIndex] = set()
    for index in wanted:
        closed.update(itertools.product(*(range(order + 1) for order in index)))
    ordered = sorted(closed, key=lambda index: (sum(index), tuple(-order for order in index)))
    return JetAlgebra(tuple(ordered), tuple(laplacian), tuple(biharmonic))


def _index(dimension: int, *axes: int) -> MultiIndex:
    """The multi-index of one derivative along each of some axes."""
    return tuple(axes.count(axis) for axis in range(dimension))


@lru_cache(maxsize=256)
def _parts(algebra: JetAlgebra) -> tuple[tuple[tuple[int, MultiIndex], ...], ...]:
    parts: list[tuple[tuple[int, MultiIndex], ...]] = [((1, index),) for index in algebra.indices]
    dimension = algebra.dimension
    if algebra.laplacian:
        parts.append(tuple((1, _index(dimension, i, i)) for i in algebra.laplacian))
    if algebra.biharmonic:
        axes = algebra.biharmonic
        for i in axes:
            parts.append(tuple((3 if i == j else 1, _index(dimension, i, j, j)) for j in axes))
        pairs = itertools.combinations_with_replacement(axes, 2)
        parts.append(tuple((3 if i == j else 1, _index(dimension, i, i, j, j)) for i, j in pairs))
    return tuple(parts)


def value_algebra(dimension: int) -> JetAlgebra:
    """The trivial algebra: values only. Evaluating in it is ordinary evaluation."""
    return JetAlgebra(((0,) * dimension,))


def value_and_slopes(dimension: int) -> JetAlgebra:
    """Values and first derivatives."""
    units = [tuple(int(axis == other) for other in range(dimension)) for axis in range(dimension)]
    return algebra_for(units, dimension)


@lru_cache(maxsize=256)
def _positions(algebra: JetAlgebra) -> dict[MultiIndex, int]:
    return {index: position for position, index in enumerate(algebra.indices)}


@lru_cache(maxsize=256)
def _product_table(algebra: JetAlgebra) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For every channel the ordered pairs of channels whose products sum to it."""
    positions = _positions(algebra)
    table: list[tuple[tuple[int, int], ...]] = []
    for index in algebra.indices:
        pairs = []
        for lower in itertools.product(*(range(order + 1) for order in index)):
            upper = tuple(a - b for a, b in zip(index, lower, strict=True))
            pairs.append((positions[lower], positions[upper]))
        table.append(tuple(pairs))
    if algebra.laplacian:
        last = algebra.channels - 1
        units = [positions[_index(algebra.dimension, axis)] for axis in algebra.laplacian]
        table.append(((0, last), (last, 0), *((unit, unit) for unit in units)))
    if algebra.biharmonic:
        table += _biharmonic_products(algebra)
    return tuple(table)


def _biharmonic_products(algebra: JetAlgebra) -> list[tuple[tuple[int, int], ...]]:
    """The table's rows of half the gradient of the Laplacian, and of an eighth of the bilaplacian.

    ``grad lap(fg) = f grad lap g + lap g grad f + 2 (hess g) grad f + ...`` and ``lap lap(fg) =
    f lap lap g + 4 grad f . grad lap g + lap f lap g + 2 hess f : hess g + ...``, where the dots
    are the same with f and g exchanged, in Taylor coefficients.
    """
    positions, dimension, axes = _positions(algebra), algebra.dimension, algebra.biharmonic

    def at(*along: int) -> int:
        return positions[_index(dimension, *along)]

    def both(i: int, j: int) -> list[tuple[int, int]]:
        return [(i, j), (j, i)]

    third = {axis: len(algebra.indices) + place for place, axis in enumerate(axes)}
    last = algebra.channels - 1
    rows = []
    for i in axes:
        row = both(0, third[i]) + 2 * both(at(i), at(i, i))
        for j in axes:
            row += both(at(i), at(j, j))
            if j != i:
                row += both(at(j), at(i, j))
        rows.append(tuple(row))
    row = both(0, last)
    for i in axes:
        row += both(at(i), third[i]) + 2 * [(at(i, i), at(i, i))]
        row += [(at(i, i), at(j, j)) for j in axes]
        row += [(at(i, j), at(i, j)) for j in axes if i < j]
    return [*rows, tuple(row)]


@lru_cache(maxsize=256)
def composition(algebra: JetAlgebra) -> Composition:
    """How a scalar function acts on bundles of the algebra."""
    return Composition.of(_product_table(algebra), algebra.order)


# Scalar rules: normalised derivatives s^(m)(z)/m!, m = 0..order
# ---------------------------------------------


def tanh_rule(z: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of tanh from ``s' = 1 - s^2``."""
    s = torch.tanh(z)
    square = s * s
    d = 1 - square
    out = [s, d]
    if order >= 2:
        out.append(-s * d)
    if order >= 3:
        out.append((3 * square - 1) * d / 3)
    if order >= 4:
        out.append((2 / 3 - square) * s * d)
    if order >= 5:
        out.append((15 * square * (square - 1) + 2) * d / 15)
    return _within(out, order, "tanh")[: order + 1]


def _write_tanh(z: Tensor, out: Tensor) -> None:
    """``2 sigmoid(2 z) - 1``: in torch four to six times as fast as tanh.

    Its error is one unit in the last place of 1 rather than of the value.
    """
    torch.mul(z, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _tanh_factors(s: Tensor, order: int, scratch: Scratch) -> list[Factor]:
    square = torch.mul(s, s, out=scratch.take())
    d = torch.neg(square, out=scratch.take()).add_(1)
    out: list[Factor] = [(d, 1.0)]
    if order >= 2:
        sd = torch.mul(s, d, out=scratch.take())
        out.append((sd, -1.0))
        if order >= 3:
            out.append((torch.mul(square, 3, out=scratch.take()).sub_(1).mul_(d), 1 / 3))
        if order >= 4:
            out.append((torch.neg(square, out=scratch.take()).add_(2 / 3).mul_(sd), 1.0))
        if order >= 5:
            fifth = torch.mul(square, d, out=scratch.take()).mul_(-15).add_(2).mul_(d)
            out.append((fifth, 1 / 15))
    return _within(out, order, "tanh")


def sin_rule(z: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of sin."""
    s = torch.sin(z)
    c = torch.cos(z) if order else s
    cycle = (s, c, -s, -c)
    return [cycle[m % 4] / math.factorial(m) if m > 1 else cycle[m] for m in range(order + 1)]


def cos_rule(z: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of cos."""
    c = torch.cos(z)
    s = torch.sin(z) if order else c
    cycle = (c, -s, -c, s)
    return [cycle[m % 4] / math.factorial(m) if m > 1 else cycle[m] for m in range(order + 1)]


def silu_rule(z: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of ``z sigmoid(z)``: Leibniz with the logistic recursion."""
    s = torch.sigmoid(z)
    d = [s, s * (1 - s)]
    if order >= 2:
        d.append(d[1] * (1 - 2 * s))
    if order >= 3:
        d.append(d[2] * (1 - 2 * s) - 2 * d[1] ** 2)
    if order >= 4:
        d.append(d[3] * (1 - 2 * s) - 6 * d[1] * d[2])
    if order >= 5:
        d.append(d[4] * (1 - 2 * s) - 8 * d[1] * d[3] - 6 * d[2] ** 2)
    out = [z * s]
    for m in range(1, min(order, MAX_ORDER + 1) + 1):
        out.append((z * d[m] + m * d[m - 1]) / math.factorial(m))
    return _within(out, order, "silu")


def gelu_rule(z: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of ``z Phi(z)`` with the Gaussian distribution function."""
    cdf = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    if order == 0:
        return [z * cdf]
    pdf = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    out = [z * cdf, cdf + z * pdf]
    if order >= 2:
        out.append((2 - z * z) * pdf / 2)
    if order >= 3:
        out.append((z * z - 4) * z * pdf / 6)
    if order >= 4:
        out.append((-(z**4) + 7 * z * z - 4) * pdf / 24)
    if order >= 5:
        out.append((z**4 - 11 * z * z + 18) * z * pdf / 120)
    return _within(out, order, "gelu")


def _within(out: list[Any], order: int, name: str) -> list[Any]:
    if order > MAX_ORDER + 1:
        raise NotImplementedError(
            f"the Taylor rule of {name} covers derivatives to order {MAX_ORDER}"
        )
    return out


ACTIVATIONS: dict[str, ScalarRule] = {
    "tanh": tanh_rule,
    "sin": sin_rule,
    "silu": silu_rule,
    "gelu": gelu_rule,
}
"""Rule table: activation name to Taylor rule, to one order more than a bundle carries."""

IN_PLACE[tanh_rule] = InPlace(
    _write_tanh,
    _tanh_factors,
    Formula(
        "1 - 2 / (exponential(2 * z0) + 1)",
        (
            "1 - s * s",
            "-s * s1",
            "(3 * s * s - 1) * s1 / 3",
            "s * (s1 * s1 - s3) / 2",
            "(15 * s * s * (s * s - 1) + 2) * s1 / 15",
        ),
    ),
)
