"""A field of labels and ages, as one of labels and time: where paths come in at the ends of a line.

A path that enters at time tau(X) has the age t - tau(X); before, its label moves up to the end at
the speed of the first that came in, so that positions increase with labels at every moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..taylor import JetAlgebra, MultiIndex, algebra_for
from .field import Context, Field


class Entry(NamedTuple):
    """An end where paths come in: -1 for the low one or +1, its position, the first speed."""

    side: int
    end: float
    speed: float


class Entering(Field):
    """States and displacements by label and time, from those by label and age.

    Args:
        field: of label and ``start + age`` to (states, displacement from where a path begins).
        entries: the ends where paths come in.
        space: axis of labels.
        time: axis of time.
        start: the first moment.
    """

    def __init__(
        self, field: Field, entries: Sequence[Entry], *, space: int, time: int, start: float
    ) -> None:
        super().__init__()
        self.field = field
        self.entries, self.space, self.time, self.start = tuple(entries), space, time, start

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        label = points[:, self.space]
        slope, place_slope = torch.zeros_like(label), torch.ones_like(label)  # of tau, of the place
        delay, speed = torch.zeros_like(label), torch.zeros_like(label)
        for side, end, first in self.entries:
            beyond = side * (label - end)
            outside = beyond > 0
            delay = torch.where(outside, beyond / first, delay)
            slope = torch.where(outside, side / first, slope)
            place_slope = torch.where(outside, 0.0, place_slope)
            speed = torch.where(outside, -side * first, speed)
        aged = points.clone()
        aged[:, self.time] -= delay
        still = aged[:, self.time] < self.start
        aged[:, self.time] = aged[:, self.time].clamp_min(self.start)
        coefficients = self._by_age(aged, algebra)
        first_order = torch.zeros_like(points)
        first_order[:, self.space] = place_slope - 1
        # x - X of a label on its way, and of one that has come in: (place - X) + d.
        way = torch.where(still, speed * (points[:, self.time] - self.start), speed * delay)
        first_order[:, self.space] = torch.where(still, 0.0, first_order[:, self.space])
        first_order[:, self.time] = torch.where(still, speed, 0.0)

        def coefficient(index: MultiIndex) -> Tensor:
            found = coefficients(index, slope)
            found = torch.where(still[:, None], found if not any(index) else 0.0, found)
            shift = way if not any(index) else None
            if sum(index) == 1:
                shift = first_order[:, index.index(1)]
            if shift is None:
                return found
            # On its way a label has no displacement of its own.
            own = torch.where(still, 0.0, found[:, -1])
            return torch.cat([found[:, :-1], (own + shift)[:, None]], dim=1)

        return algebra.assemble(coefficient)

    def _by_age(self, points: Tensor, algebra: JetAlgebra):  # type: ignore[no-untyped-def]
        """Taylor coefficients by label and time from those by label and age e = t - tau(X)."""
        most = max(sum(index) for channel in algebra.parts for _, index in channel)
        units = [tuple(i if a == self.space else j for a in range(points.shape[1]))
                 for i in range(most + 1) for j in range(most + 1 - i)]  # fmt: skip
        source = algebra_for(units, points.shape[1])
        bundle = self.field.jet(points, source)

        def coefficient(index: MultiIndex, slope: Tensor) -> Tensor:
            total = torch.zeros_like(bundle[0])
            for m in range(index[self.space] + 1):
                # (h, k - tau' h): of k^(j + m) the part h^m k^j
                at = tuple(
                    order - m if a == self.space else order + m for a, order in enumerate(index)
                )
                factor = math.comb(index[self.time] + m, m) * (-slope) ** m
                total = total + factor[:, None] * bundle[source.channel(at)]
            return total

        return coefficient
