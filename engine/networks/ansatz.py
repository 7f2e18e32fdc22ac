"""Fields that satisfy conditions by construction: ``u = A + B N``.

A (the *background*) meets the conditions, B (the *envelope*) vanishes to the right order where
they hold, N is a
network. Both are known functions, so their Taylor coefficients are constants at the collocation
points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import sympy
import torch
from torch import Tensor, nn

from ...problems.equation import evaluate
from ..functions import TORCH
from ..taylor import JetAlgebra, MultiIndex, algebra_for
from .field import Context, Field


class SymbolicField(Field):
    """A known function of the coordinates, one expression per field, differentiated symbolically.

    Args:
        coordinates: names in declared order.
        trees: one SymPy expression per field, in the coordinates alone.
    """

    steady = True  # a constant of the context of an `Ansatz`

    def __init__(self, coordinates: Sequence[str], trees: Sequence[sympy.Expr]) -> None:
        super().__init__()
        self.coordinates = tuple(coordinates)
        self.trees = tuple(tree for tree in trees)
        self._derivatives: dict[tuple[int, MultiIndex], sympy.Expr] = {}

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        return algebra.assemble(lambda index: self._coefficient(points, index))

    def _coefficient(self, points: Tensor, index: MultiIndex) -> Tensor:
        values = {name: points[:, axis] for axis, name in enumerate(self.coordinates)}
        factor = math.prod(math.factorial(order) for order in index)
        columns = []
        for position in range(len(self.trees)):
            value = evaluate(self._derivative(position, index), values, TORCH)
            columns.append(
                torch.as_tensor(value, dtype=points.dtype, device=points.device).expand(len(points))
            )
        return torch.stack(columns, dim=1) / factor

    def _derivative(self, position: int, index: MultiIndex) -> sympy.Expr:
        """A partial derivative of one field, from the one below it."""
        if not any(index):
            return self.trees[position]
        key = (position, index)
        if key not in self._derivatives:
            axis = next(i for i, order in enumerate(index) if order)
            lower = tuple(order - (i == axis) for i, order in enumerate(index))
            x = sympy.Symbol(self.coordinates[axis], real=True)
            self._derivatives[key] = sympy.diff(self._derivative(position, lower), x)
        return self._derivatives[key]


class Reflection(Field):
    """Even or odd part of a field about a midpoint: ``(N(x) + p N(2 m - x)) / 2``.

    Args:
        field: any field.
        axis: coordinate reflected.
        midpoint: centre m.
        parities: +1 or -1 for each field.
    """

    steady = True

    def __init__(self, field: Field, axis: int, midpoint: float, parities: Sequence[int]) -> None:
        super().__init__()
        self.field = field
        self.axis = axis
        self.midpoint = midpoint
        self.parities: Tensor
        self.register_buffer(
            "parities", torch.tensor(parities, dtype=torch.float64), persistent=False
        )

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`; the field is evaluated at the points and their images in one batch."""
        image = points.clone()
        image[:, self.axis] = 2 * self.midpoint - image[:, self.axis]
        context = context or Context()

        def signs() -> Tensor:
            found = [(-1.0) ** channel[0][1][self.axis] for channel in algebra.parts]
            column = torch.tensor(found, dtype=points.dtype, device=points.device)[:, None, None]
            return column * self.parities.to(points.dtype)

        sign = context.constant(self, algebra, "signs", signs)
        if context.background is not None:
            # The background has the parity too.
            mirrored = torch.cat([context.background, sign * context.background], dim=1)
            context = replace(context, background=mirrored)
        both = self.field.jet(torch.cat([points, image]), algebra, context)
        here, there = both.unflatten(1, (2, -1)).unbind(1)
        return (here + sign * there) / 2


class Handover(Field):
    """State handed over by an earlier time window, as its Taylor polynomial in time.

    ``A(x, t) = sum_{m < order} (t - s)^m / m! d_t^m u(x, s)``, so that the new window starts from
    exactly the
    state (and, for equations of second order, the velocity) the last one reached.

    Args:
        previous: the earlier field; its parameters are not trained any more.
        axis: time coordinate.
        time: hand-over time s.
        orders: order in time of each field.
    """

    steady = True  # a constant of the context of an `Ansatz`

    def __init__(self, previous: Field, axis: int, time: float, orders: Sequence[int]) -> None:
        super().__init__()
        # Not a submodule: with every window before it inside, the state of each window would hold
        # the states of all earlier ones.
        object.__setattr__(self, "previous", previous.requires_grad_(False))
        self.previous: Field
        self.axis = axis
        self.time = time
        self.orders = tuple(orders)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        axis, dimension = self.axis, points.shape[1]
        wanted = {self._at(index, 0) for channel in algebra.parts for _, index in channel}
        terms = max(self.orders)
        source = algebra_for(
            [self._at(index, m) for index in wanted for m in range(terms)], dimension
        )
        frozen = points.clone()
        frozen[:, axis] = self.time
        trained = next(self.previous.parameters(), points)
        state = self.previous.jet(frozen.to(trained), source).to(points)
        elapsed = (points[:, axis] - self.time)[:, None]
        use = torch.tensor(
            [[float(m < order) for order in self.orders] for m in range(terms)],
            dtype=points.dtype,
            device=points.device,
        )

        def coefficient(index: MultiIndex) -> Tensor:
            j = index[axis]
            total = torch.zeros_like(state[0])
            for m in range(j, terms):
                part = state[source.channel(self._at(index, m))]
                total = total + math.comb(m, j) * elapsed ** (m - j) * part * use[m]
            return total

        return algebra.assemble(coefficient)

    def _at(self, index: MultiIndex, order: int) -> MultiIndex:
        return tuple(order if i == self.axis else n for i, n in enumerate(index))


class Ansatz(Field):
    """``u = A + B N`` field by field.

    Args:
        network: the trained part.
        backgrounds: known fields whose sum is A.
        envelope: B, or None for one.
    """

    steady = True

    def __init__(
        self, network: Field, backgrounds: Sequence[Field], envelope: SymbolicField | None
    ) -> None:
        super().__init__()
        self.network = network
        self.backgrounds = nn.ModuleList(backgrounds)
        self.envelope = envelope

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`; with a cache in the context, A and B are computed once."""
        context = context or Context()
        background = self._background(points, algebra, context)
        bundle = self._product(points, algebra, replace(context, background=background))
        return bundle if background is None else bundle + background

    def correction(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        """Taylor coefficients of B N; shapes as in `Field.jet`."""
        background = self._background(points, algebra, Context())
        return self._product(points, algebra, Context(background=background))

    def _product(self, points: Tensor, algebra: JetAlgebra, context: Context) -> Tensor:
        bundle = self.network.jet(points, algebra, context)
        if self.envelope is None:
            return bundle
        envelope = self.envelope
        factor = context.constant(self, algebra, "envelope", lambda: envelope.jet(points, algebra))
        return algebra.multiply(factor, bundle)

    def _background(self, points: Tensor, algebra: JetAlgebra, context: Context) -> Tensor | None:
        if not self.backgrounds:
            return None

        def compute() -> Tensor:
            parts = [b.jet(points, algebra) for b in cast("list[Field]", self.backgrounds)]
            return torch.stack(parts).sum(0)

        return context.constant(self, algebra, "background", compute)


class Windows(Field):
    """Fields on consecutive time windows, joined: each point is answered by the window it lies in.

    Args:
        fields: one per window, in time order.
        edges: window edges, one more than fields.
        axis: time coordinate.
    """

    def __init__(self, fields: Sequence[Field], edges: Sequence[float], axis: int) -> None:
        super().__init__()
        self.fields = nn.ModuleList(fields)
        self.edges = tuple(edges)
        self.axis = axis

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`. A point on an inner edge belongs to the earlier window."""
        inner = torch.tensor(self.edges[1:-1], dtype=points.dtype, device=points.device)
        window = torch.bucketize(points[:, self.axis].contiguous(), inner)
        result: Tensor | None = None
        for number, member in enumerate(self.fields):
            chosen = torch.nonzero(window == number).squeeze(1)
            if len(chosen) == 0:
                continue
            part = cast(Field, member).jet(points[chosen], algebra)
            if result is None:
                result = part.new_zeros((algebra.channels, len(points), part.shape[2]))
            assert result is not None
            result = result.index_copy(1, chosen, part)
        # None: there are no points.
        return cast(Field, self.fields[0]).jet(points, algebra) if result is None else result
