"""Series: values of several channels at times of their own, with gaps, of different lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import DataError

__all__ = ["Series", "thinned"]


@dataclass(frozen=True)
class Series:
    """Samples side by side.

    Attributes:
        times: shape (batch, n), float64, rising strictly within the length of each sample.
        values: shape (batch, n, channels); NaN where a value is missing.
        lengths: shape (batch,), int64: how many of the n belong to each sample.
        labels: shape (batch,), int64, the class of each; None without classes.

    Raises:
        DataError: shapes do not fit, or a time is not finite or does not rise; names the sample.
    """

    times: Tensor
    values: Tensor
    lengths: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        batch, n = self.values.shape[:2] if self.values.dim() == 3 else (-1, -1)
        if batch < 0 or tuple(self.times.shape) != (batch, n) or self.lengths.shape != (batch,):
            raise DataError(
                f"series of shapes {tuple(self.times.shape)} (times), {tuple(self.values.shape)} "
                f"(values) and {tuple(self.lengths.shape)} (lengths); give (batch, n), "
                "(batch, n, channels) and (batch,)"
            )
        if self.labels is not None and self.labels.shape != (batch,):
            raise DataError(f"labels of shape {tuple(self.labels.shape)}; give ({batch},)")
        if batch and not bool(((self.lengths >= 1) & (self.lengths <= n)).all()):
            wrong = int(((self.lengths < 1) | (self.lengths > n)).nonzero()[0])
            raise DataError(f"sample {wrong} has length {int(self.lengths[wrong])}; write 1 to {n}")
        self._check_times()
        if bool(self.values.isinf().any()):
            sample, place, channel = self.values.isinf().nonzero()[0].tolist()
            raise DataError(f"sample {sample}, value {place} of channel {channel} is infinite")

    def _check_times(self) -> None:
        inside = self.inside
        wrong = inside & ~self.times.isfinite()
        if bool(wrong.any()):
            sample, place = wrong.nonzero()[0].tolist()
            raise DataError(f"sample {sample}, time {place} is not finite")
        falls = inside[:, 1:] & (self.times.diff(dim=1) <= 0)
        if bool(falls.any()):
            sample, place = falls.nonzero()[0].tolist()
            before, after = self.times[sample, place : place + 2].tolist()
            raise DataError(
                f"sample {sample}: time {after:g} follows {before:g}; sort the times of a sample, "
                "and keep one of each"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def inside(self) -> Tensor:
        """Which of the n places belong to a sample, shape (batch, n), bool."""
        places = torch.arange(self.times.shape[1], device=self.times.device)
        return places < self.lengths[:, None]

    @property
    def known(self) -> Tensor:
        """Which values are there, shape (batch, n, channels), bool."""
        return self.inside[..., None] & ~self.values.isnan()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.values.shape[2]

    @property
    def shared(self) -> bool:
        """Whether all samples have the same times."""
        same = bool((self.lengths == self.times.shape[1]).all())
        return same and bool((self.times == self.times[:1]).all())

    def __getitem__(self, which: Tensor | slice) -> Series:
        """Some of the samples."""
        labels = None if self.labels is None else self.labels[which]
        return Series(self.times[which], self.values[which], self.lengths[which], labels)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Series:
        """The same on a device, with values of a dtype; times stay in double precision."""
        labels = None if self.labels is None else self.labels.to(device)
        values = self.values.to(device, dtype or self.values.dtype)
        return Series(self.times.to(device), values, self.lengths.to(device), labels)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Series]:
        """Endless mini-batches, every sample once in each pass."""
        while True:
            for which in torch.randperm(len(self), generator=generator).split(size):
                yield self[which]


def thinned(series: Series, missing: float, generator: torch.Generator) -> Series:
    """A part of the values taken away, channel by channel, but never the first of a sample.

    Args:
        series: of which.
        missing: probability of every value, 0 to 1.
        generator: of the draw, on the CPU.
    """
    gone = torch.rand(series.values.shape, generator=generator) < missing
    gone[:, 0] = False
    values = series.values.masked_fill(gone.to(series.values.device), torch.nan)
    return Series(series.times, values, series.lengths, series.labels)
