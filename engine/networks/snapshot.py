"""Fields at one moment, kept as splines: what a time window hands over to labels given out anew.

A window in labels that asked the one before it for its state would ask, for every label it looks
for, that one for labels of its own, and so on down: the work would grow as a power of the number
of windows. Splines end the chain.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import DivergedError
from ...problems.given.spline import DEGREE, Axis
from ..taylor import JetAlgebra, MultiIndex
from .field import Context, Field

SAMPLES = {1: 4096, 2: 128}
"""Samples along each axis, by number of space coordinates."""
OVERLAP = 32
"""Samples by which a period is continued at both ends, where a spline feels its ends no more."""
PROBES = 512
CHUNK = 8192


class Snapshot(Field):
    """Splines of degree five through a field at one moment; constant in time.

    Args:
        source: the field; None where the coefficients will be loaded.
        fields: how many it has.
        bounds: (low, high) of every coordinate.
        space: axes of the space coordinates.
        time: axis of time.
        moment: when.
        periodic: space axes that are periodic.

    Attributes:
        missed: largest difference to the field between the samples.

    Raises:
        DivergedError: the field is not a number somewhere.
    """

    def __init__(
        self,
        source: Field | None,
        fields: int,
        bounds: Sequence[tuple[float, float]],
        *,
        space: Sequence[int],
        time: int,
        moment: float,
        periodic: Sequence[int],
    ) -> None:
        super().__init__()
        self.bounds = [(float(low), float(high)) for low, high in bounds]
        self.space, self.time, self.moment = tuple(space), time, moment
        self.periodic = frozenset(periodic)
        count = SAMPLES[len(self.space)]
        self._axes = [self._axis(axis, count) for axis in self.space]
        shape = [len(axis.x) for axis in self._axes]
        self.coefficients: Tensor
        self.register_buffer("coefficients", torch.zeros(*shape, fields, dtype=torch.float64))
        self._tables: dict[tuple[int, int], Tensor] = {}
        self.missed = 0.0
        if source is not None:
            self._fit(source, count)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        return algebra.assemble(lambda index: self._coefficient(points, index))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # Single precision would leave no digits to second derivatives of samples so close.
        kept = self.coefficients
        super()._apply(fn, recurse)
        self.coefficients = kept.to(self.coefficients.device)
        self._tables.clear()
        return self

    def _axis(self, axis: int, count: int) -> Axis:
        low, high = self.bounds[axis]
        if axis not in self.periodic:
            return Axis(np.linspace(low, high, count))
        return Axis(low + (high - low) / count * np.arange(-OVERLAP, count + OVERLAP + 1))

    def _fit(self, source: Field, count: int) -> None:
        from scipy.interpolate import make_interp_spline

        source = copy.deepcopy(source).double()
        grids = [
            axis.x[OVERLAP : OVERLAP + count] if a in self.periodic else axis.x
            for a, axis in zip(self.space, self._axes, strict=True)
        ]
        points = np.array(list(itertools.product(*grids)))
        values = self._sampled(source, points).reshape(*(len(g) for g in grids), -1)
        for number, axis in enumerate(self._axes):
            if self.space[number] in self.periodic:
                around = np.arange(-OVERLAP, count + OVERLAP + 1) % count
                values = np.take(values, around, axis=number)
            spline = make_interp_spline(axis.x, values, k=DEGREE, t=axis.knots, axis=number)
            values = np.moveaxis(np.asarray(spline.c), 0, number)
        self.coefficients.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        lows, highs = zip(*(self.bounds[a] for a in self.space), strict=True)
        probes = np.random.default_rng(0).uniform(lows, highs, (PROBES, len(self.space)))
        expected = self._sampled(source, probes)
        self.missed = float(np.abs(self._sampled(self, probes) - expected).max())

    def _sampled(self, field: Field, places: np.ndarray) -> np.ndarray:
        points = torch.zeros(len(places), len(self.bounds), dtype=torch.float64)
        points[:, self.time] = self.moment
        points[:, list(self.space)] = torch.from_numpy(places)
        points = points.to(next(field.parameters(), self.coefficients).device)
        with torch.no_grad():
            values = torch.cat([field(part) for part in points.split(CHUNK)]).cpu().numpy()
        if not np.isfinite(values).all():
            raise DivergedError(f"the state handed over at {self.moment:.6g} is not a number")
        return values

    def _coefficient(self, points: Tensor, index: MultiIndex) -> Tensor:
        """One Taylor coefficient, shape (points, fields)."""
        total = self.coefficients.new_zeros(len(points), self.coefficients.shape[-1])
        if index[self.time] or max(index) > DEGREE:
            return total.to(points)
        found = [
            self._weights(points[:, axis].double(), number, index[axis])
            for number, axis in enumerate(self.space)
        ]
        for steps in itertools.product(range(DEGREE + 1), repeat=len(self.space)):
            place = tuple(cell + k for (cell, _), k in zip(found, steps, strict=True))
            weight = torch.ones_like(total[:, 0])
            for (_, weights), k in zip(found, steps, strict=True):
                weight = weight * weights[:, k]
            total += weight[:, None] * self.coefficients[place]
        return total.to(points)

    def _weights(self, places: Tensor, number: int, order: int) -> tuple[Tensor, Tensor]:
        """Cells of places, and six B-splines there (derivatives over factorials), (points, 6)."""
        axis, a = self._axes[number], self.space[number]
        low, high = self.bounds[a]
        if a in self.periodic:
            places = low + torch.remainder(places - low, high - low)
        else:
            places = places.clamp(low, high)
        key = (number, order)
        if key not in self._tables:
            # The binomial: a Taylor coefficient, not a derivative.
            scale = 1.0 / float(np.prod(np.arange(1, order + 1)))
            self._tables[key] = torch.from_numpy(axis.table(order) * scale).to(places.device)
        table = self._tables[key]
        breaks = torch.from_numpy(axis.breaks).to(places.device)
        cell = (torch.searchsorted(breaks, places.contiguous(), right=True) - 1).clamp_min(0)
        offset = (places - breaks[cell])[:, None]
        total = table[-1, cell]
        for row in table[:-1].flip(0):
            total = total * offset + row[cell]
        return cell, total
