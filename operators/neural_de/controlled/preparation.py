"""Observations put in order for interpolation: channels added, gaps and ends found by channel.

Conventions, the same for all paths:

* Within a sample, a channel between two of its observations is interpolated from these alone.
* After the last observation of a channel its value is held.
* Before the first one, `Linear` and `Hermite` hold the first observation, and `Rectilinear`, which
  must not look ahead, holds zero. A channel without any observation is zero.
* After the length of a sample every channel is held, that of time too: nothing moves there, and a
  controlled equation rests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import ConfigurationError, DataError
from ..trajectories.series import Series

__all__ = ["Channels", "Neighbours", "neighbours", "prepare", "take"]


@dataclass(frozen=True)
class Channels:
    """What is interpolated.

    Attributes:
        times: shape (batch, n), float64, of the knots; the last one repeated after the length.
        values: shape (batch, n, channels), zero where unknown.
        known: shape (batch, n, channels), bool.
        lengths: shape (batch,), int64.
        leading: number of channels, at the front, that hold time.
    """

    times: Tensor
    values: Tensor
    known: Tensor
    lengths: Tensor
    leading: int


def prepare(
    times: Tensor,
    values: Tensor,
    lengths: Tensor | None = None,
    *,
    time: bool = True,
    counts: float | None = None,
) -> Channels:
    """Add time and counts to observations, in the order time, values, counts.

    Args:
        times: shape (batch, n), or (n,) for all samples, rising within each length.
        values: shape (batch, n, c), NaN where missing.
        lengths: shape (batch,), how many of the n belong to a sample; None for all.
        time: whether time is a channel.
        counts: how many observations make one unit of c more channels, in which those of each
            channel so far are counted; None for no such channels. When something is observed can
            tell as much as what (Kidger et al., arXiv 2005.08926, section 3.2, "observational
            intensity").

    Raises:
        DataError: shapes do not fit, times do not rise, values are infinite, n is below two.
        ConfigurationError: the unit of the counts is not positive.
    """
    if counts is not None and not 0 < counts < float("inf"):
        raise ConfigurationError(
            "Counts need a unit.", found=counts, advice="give a positive number of observations"
        )
    if times.dim() == 1 and values.dim() == 3:
        times = times.expand(len(values), -1)
    if values.dim() == 3 and values.shape[1] < 2:
        raise DataError(f"a path needs two times or more, and these series have {values.shape[1]}")
    if lengths is None:
        whole = values.shape[1] if values.dim() == 3 else 0
        lengths = torch.full((len(values),), whole, dtype=torch.int64, device=values.device)
    series = Series(times.to(torch.float64), values, lengths)
    known = series.known
    filled = torch.where(known, values, 0)
    inside = series.inside[..., None]
    # Gathered, because what lies after the length may be anything.
    held = torch.arange(values.shape[1], device=values.device).clamp(max=lengths[:, None] - 1)
    clock = series.times.gather(1, held)
    channels, seen = [filled], [known]
    if time:
        channels.insert(0, torch.where(inside, clock[..., None], 0).to(values.dtype))
        seen.insert(0, inside)
    if counts is not None:
        channels.append(known.cumsum(dim=1).to(values.dtype) / counts)
        seen.append(inside.expand_as(known))
    return Channels(clock, torch.cat(channels, 2), torch.cat(seen, 2), lengths, int(time))


@dataclass(frozen=True)
class Neighbours:
    """Observations next to each knot in each channel; shapes (batch, n, channels), int64.

    Attributes:
        before: index of the last one at or before the knot; -1 for none.
        after: index of the first one at or after it; n for none.
    """

    before: Tensor
    after: Tensor


def neighbours(known: Tensor) -> Neighbours:
    """Observations next to each knot, from the mask (batch, n, channels)."""
    n = known.shape[1]
    index = torch.arange(n, device=known.device)[:, None]
    before = torch.where(known, index, -1).cummax(dim=1).values
    after = torch.where(known, index, n).flip(1).cummin(dim=1).values.flip(1)
    return Neighbours(before, after)


def take(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, index[b, j, c], c]``, with an index outside of 0 to n - 1 moved to the edge.

    Args:
        values: shape (batch, n, channels).
        index: shape (batch, m, channels).
    """
    return values.gather(1, index.clamp(0, values.shape[1] - 1))
