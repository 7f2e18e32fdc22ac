"""Where labels begin to go: straight on, slowed so that no two of them meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..taylor import JetAlgebra, algebra_for
from .field import Context, Field


class FreeFlight(Field):
    """Displacements of labels that keep their first velocity v(X), slowed so that none meet.

    ``d = v e / sqrt(1 + (s e)^2)`` with e the time since the start and s the fastest rate at which
    v lets paths converge: in one space coordinate ``J >= 1 - s e / sqrt(1 + (s e)^2) > 0``.
    Only a start for what is trained: right to first order in e.

    Args:
        velocity: v by space coordinate, at the start.
        states: number of fields before the displacements, which are left at zero.
        space: axes of the space coordinates.
        time: axis of time.
        since: the start.
        bounds: of every coordinate.
        restore: the rate will be loaded, so it need not be computed.
    """

    def __init__(
        self,
        velocity: Field,
        states: int,
        *,
        space: Sequence[int],
        time: int,
        since: float,
        bounds: Sequence[tuple[float, float]],
        restore: bool,
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.states, self.space, self.time, self.since = states, tuple(space), time, since
        self.rate: Tensor
        rate = torch.zeros(1, dtype=torch.float64) if restore else self._convergence(bounds)
        self.register_buffer("rate", rate)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        velocity = self._at_start(points, algebra).clone()
        for channel, index in enumerate(algebra.indices):
            if index[self.time]:
                velocity[channel] = 0
        elapsed = algebra.lift(points)[:, :, self.time : self.time + 1]
        elapsed[0] -= self.since
        slowed = algebra.apply(_inverse_hypotenuse, self.rate.to(points) * elapsed)
        time = algebra.multiply(elapsed, slowed)
        flown = algebra.multiply(velocity, time)
        return torch.cat([flown.new_zeros((*flown.shape[:2], self.states)), flown], dim=2)

    def _at_start(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        frozen = points.clone()
        frozen[:, self.time] = self.since
        trained = next(self.velocity.parameters(), points)
        with torch.no_grad():
            return self.velocity.jet(frozen.to(trained), algebra).to(points)

    def _convergence(self, bounds: Sequence[tuple[float, float]]) -> Tensor:
        """The largest eigenvalue of the symmetric part of -grad v, at least 0."""
        count = 1025 if len(self.space) == 1 else 65
        axes = [
            torch.linspace(low, high, 1 if axis == self.time else count, dtype=torch.float64)
            for axis, (low, high) in enumerate(bounds)
        ]
        units = [tuple(int(i == a) for i in range(len(bounds))) for a in self.space]
        algebra = algebra_for(units, len(bounds))
        bundle = self._at_start(torch.cartesian_prod(*axes), algebra)
        slopes = torch.stack([bundle[algebra.channel(unit)] for unit in units], dim=2)
        rates = torch.linalg.eigvalsh(-(slopes + slopes.mT) / 2)
        return rates.max().clamp_min(0).reshape(1).double()


def _inverse_hypotenuse(w: Tensor, order: int) -> list[Tensor]:
    """Normalised derivatives of g = (1 + w^2)^(-1/2), from (1 + w^2) g' + w g = 0."""
    square = 1 + w.square()
    out = [square.rsqrt()]
    for n in range(order):
        total = (2 * n + 1) * w * out[n]
        if n:
            total = total + n * out[n - 1]
        out.append(-total / (square * (n + 1)))
    return out
