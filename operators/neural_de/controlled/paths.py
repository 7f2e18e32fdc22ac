"""Paths through irregular observations: piecewise polynomials, with values and slopes.

Which one (Morrill, Kidger, Yang and Lyons, "Neural controlled differential equations for online
prediction tasks", arXiv 2106.11028):

* `Hermite` has a continuous slope and looks ahead by one observation: for adaptive steps.
* `Linear` has jumps of the slope at the knots: for steps that end there, and for log-signatures.
* `Rectilinear` does not look ahead: for predictions while a series arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .preparation import Channels, neighbours, prepare, take

__all__ = ["Hermite", "Linear", "Path", "Rectilinear"]


class Path:
    """A piecewise polynomial in each channel, a sample a row, each with knots of its own.

    Args:
        knots: shape (batch, n), float64, rising; the last one of a sample may be repeated.
        pieces: shape (batch, n - 1, degree + 1, channels), coefficients of 1, theta, theta^2, ...
            with theta from 0 to 1 in each interval.
        last: shape (batch,), int64, number of the last interval that is not empty; None takes
            n - 2.
    """

    def __init__(self, knots: Tensor, pieces: Tensor, last: Tensor | None = None) -> None:
        self.knots = knots.contiguous()
        self.pieces = pieces
        every = torch.full_like(knots[:, 0], knots.shape[1] - 2).long()
        self.last = every if last is None else last.clamp(min=0)
        gaps = knots.diff(dim=1)
        self._gaps = torch.where(gaps > 0, gaps, 1.0)
        self._end = knots.gather(1, self.last[:, None] + 1)[:, 0]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.pieces.shape[3]

    def value(self, t: Tensor) -> Tensor:
        """Values (batch, channels) at t (batch,); before and after the knots those at the ends."""
        piece, theta, _ = self._place(t)
        value = piece[:, -1]
        for coefficients in piece.flip(1)[:, 1:].unbind(1):
            value = torch.addcmul(coefficients, value, theta)
        return value

    def slope(self, t: Tensor) -> Tensor:
        """Derivatives by t, shape (batch, channels), at t (batch,); zero outside of the knots.

        Where the slope jumps it is that on the right, and at the end of a sample that on the left.
        """
        piece, theta, gap = self._place(t)
        degree = piece.shape[1] - 1
        slope = degree * piece[:, degree]
        for power in range(degree - 1, 0, -1):
            slope = slope * theta + power * piece[:, power]
        inside = (t >= self.knots[:, 0]) & (t <= self._end)
        return torch.where(inside[:, None], slope / gap, 0)

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Piece (batch, degree + 1, channels), theta and length of the interval, (batch, 1)."""
        t = t.to(self.knots.dtype)
        right = torch.searchsorted(self.knots, t.detach()[:, None].contiguous(), right=True)
        index = torch.minimum((right - 1).clamp(min=0), self.last[:, None])
        gap = self._gaps.gather(1, index)
        theta = ((t[:, None] - self.knots.gather(1, index)) / gap).clamp(0, 1)
        piece = self.pieces[torch.arange(len(t), device=t.device), index[:, 0]]
        return piece, theta.to(piece.dtype), gap.to(piece.dtype)

    @property
    def knot_values(self) -> Tensor:
        """Values at the knots, shape (batch, n, channels)."""
        return torch.cat((self.pieces[:, :, 0], self.pieces[:, -1:].sum(2)), dim=1)

    def by_knots(self) -> Path:
        """The same path with the number of the knot, 0 to n - 1, instead of t.

        The solution of a controlled equation at its knots does not change, and now all samples
        pass theirs at once.
        """
        batch, n = self.knots.shape
        number = torch.arange(n, dtype=self.knots.dtype, device=self.knots.device)
        return Path(number.expand(batch, n), self.pieces, self.last)

    def stages(self, fractions: Sequence[float], substeps: int = 1) -> tuple[Tensor, Tensor]:
        """What all steps from knot to knot see, at once.

        Args:
            fractions: of a step, s of them, at which an integrator looks.
            substeps: of equal length, into which each interval is cut.

        Returns:
            times of shape (s, steps, batch), in the dtype of the values, and slopes times the
            length of the step, (s, steps, batch, channels), with steps = (n - 1) substeps. The
            slope at a fraction of one is that on the left.
        """
        pieces = self.pieces
        batch, intervals, terms, channels = pieces.shape
        grid = torch.tensor(fractions, dtype=torch.float64, device=pieces.device)[:, None]
        theta = (grid + torch.arange(substeps, device=pieces.device)) / substeps
        powers = torch.stack([p * theta ** (p - 1) for p in range(1, terms)], dim=-1) / substeps
        slopes = torch.einsum("skp,bnpc->snkbc", powers.to(pieces.dtype), pieces[:, :, 1:])
        start, gap = self.knots[:, :-1].T[:, None], self.knots.diff(dim=1).T[:, None]
        times = start + theta[:, None, :, None] * gap
        steps = intervals * substeps
        return (
            times.reshape(-1, steps, batch).to(pieces.dtype),
            slopes.reshape(-1, steps, batch, channels),
        )


class Linear(Path):
    """Straight lines between the observations of each channel.

    Args:
        times: shape (batch, n), or (n,) for all samples, rising.
        values: shape (batch, n, c), NaN where missing.
        lengths: shape (batch,), how many of the n belong to a sample; None for all.
        time: whether time is the first channel.
        counts: unit of channels that count the observations, see `preparation.prepare`.

    Raises:
        DataError: shapes do not fit, times do not rise, values are infinite, n is below two.
    """

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        lengths: Tensor | None = None,
        *,
        time: bool = True,
        counts: float | None = None,
    ) -> None:
        found = prepare(times, values, lengths, time=time, counts=counts)
        super().__init__(found.times, _lines(_between(found)), found.lengths - 2)


class Rectilinear(Path):
    """First time passes at constant values, then the values move at constant time.

    At knot 2 i the path has seen observations up to number i and no later one; that holds for all
    points before it too. Since values move in no time, the parameter is not time: it counts the
    2 n - 1 knots. Arguments are those of `Linear`.
    """

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        lengths: Tensor | None = None,
        *,
        time: bool = True,
        counts: float | None = None,
    ) -> None:
        found = prepare(times, values, lengths, time=time, counts=counts)
        before = neighbours(found.known).before
        held = torch.where(before >= 0, take(found.values, before), 0)
        corners = held.repeat_interleave(2, dim=1)[:, :-1].clone()
        if found.leading:
            corners[:, 1::2, : found.leading] = held[:, 1:, : found.leading]
        batch, knots = corners.shape[:2]
        number = torch.arange(knots, dtype=torch.float64, device=held.device)
        last = 2 * found.lengths - 3
        # After its length a sample rests at its last corner; the one before has moved its time.
        super().__init__(_halted(number.expand(batch, -1), last + 1), _lines(corners), last)


class Hermite(Path):
    """Cubics by Hermite with backward differences, through the observations of each channel.

    Between two observations of a channel the slope goes from that of the straight line before them
    to that of the line between them, so that it is continuous and no observation later than the
    next is needed (arXiv 2106.11028, section 3). The first piece of a channel is a straight line.
    The slope jumps to zero where a channel is held after its last observation. Arguments are those
    of `Linear`.
    """

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        lengths: Tensor | None = None,
        *,
        time: bool = True,
        counts: float | None = None,
    ) -> None:
        found = prepare(times, values, lengths, time=time, counts=counts)
        super().__init__(found.times, _cubics(found), found.lengths - 2)


def _halted(knots: Tensor, end: Tensor) -> Tensor:
    """Knots (batch, n) held after number `end` (batch,)."""
    return torch.minimum(knots, knots.gather(1, end.clamp(min=0)[:, None]))


def _lines(corners: Tensor) -> Tensor:
    """Pieces of the straight lines through corners (batch, n, channels)."""
    return torch.stack((corners[:, :-1], corners.diff(dim=1)), dim=2)


def _between(found: Channels) -> Tensor:
    """Values at the knots on the straight lines between observations, (batch, n, channels)."""
    near = neighbours(found.known)
    n = found.times.shape[1]
    clock = found.times[..., None].expand_as(found.values)
    start, end = take(found.values, near.before), take(found.values, near.after)
    gap = take(clock, near.after) - take(clock, near.before)
    part = (clock - take(clock, near.before)) / torch.where(gap > 0, gap, 1.0)
    value = torch.lerp(start, end, part.to(start.dtype))
    value = torch.where(near.before < 0, end, value)
    value = torch.where(near.after >= n, start, value)
    nothing = (near.before < 0) & (near.after >= n)
    return torch.where(nothing, 0, value)


def _cubics(found: Channels) -> Tensor:
    """Pieces of the cubics between observations, cut at the knots: (batch, n - 1, 4, channels).

    From observation p to the next, q, at a distance of H, with u from 0 to 1, D = x_q - x_p and m
    the slope before p times H::

        x = x_p + m u + (D - m) u^2 (2 - u),    x' = m at u = 0,  D at u = 1.
    """
    near = neighbours(found.known)
    n, values = found.times.shape[1], found.values
    clock = found.times[..., None].expand_as(values)
    before, after = near.before[:, :-1], near.after[:, 1:]
    origin, start = take(clock, before), take(values, before)
    gap = take(clock, after) - origin
    moving = (before >= 0) & (after < n)
    gap = torch.where(moving, gap, 1.0)
    rise = torch.where(moving, take(values, after) - start, 0)
    m = _slope_before(found, before, rise / gap.to(values.dtype)) * gap.to(values.dtype)
    m = torch.where(moving, m, 0)
    u = ((clock[:, :-1] - origin) / gap).to(values.dtype)
    w = (clock.diff(dim=1) / gap).to(values.dtype)
    u, w = torch.where(moving, u, 0), torch.where(moving, w, 0)
    bend = rise - m
    constant = start + u * (m + bend * u * (2 - u))
    constant = torch.where(before >= 0, constant, _leading(found, near.after[:, :-1]))
    first = w * (m + bend * u * (4 - 3 * u))
    second = w * w * bend * (2 - 3 * u)
    return torch.stack((constant, first, second, -(w**3) * bend), dim=2)


def _slope_before(found: Channels, before: Tensor, own: Tensor) -> Tensor:
    """Slope of the line that ends at observation `before`, or `own` where that is the first."""
    near = neighbours(found.known)
    previous = torch.cat((torch.full_like(near.before[:, :1], -1), near.before[:, :-1]), dim=1)
    clock = found.times[..., None].expand_as(found.values)
    gap = clock - take(clock, previous)
    gap = torch.where(gap > 0, gap, 1.0).to(found.values.dtype)
    line = (found.values - take(found.values, previous)) / gap
    return torch.where(take(previous, before) >= 0, take(line, before), own)


def _leading(found: Channels, after: Tensor) -> Tensor:
    """The first observation of a channel, or zero."""
    return torch.where(after < found.times.shape[1], take(found.values, after), 0)
