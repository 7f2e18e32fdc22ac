"""Data of order one inside, the user's units outside: part of the model, saved with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import DataError
from .networks.resampling import resampled

__all__ = ["Normalised", "Scale"]


class Scale(nn.Module):
    """Mean and standard deviation of each channel.

    Args:
        channels: of the fields.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def measure(self, fields: Tensor) -> None:
        """Take both from training data, shape (samples, channels, *n).

        In two passes and in double precision: the difference of mean square and squared mean would
        lose all digits of a field that hardly varies.

        Raises:
            DataError: a channel is not finite.
        """
        axes = [axis for axis in range(fields.ndim) if axis != 1]
        mean = fields.double().mean(axes)
        deviation = (fields.double() - _along(mean, fields.ndim)).square().mean(axes).sqrt()
        if not bool((mean.isfinite() & deviation.isfinite()).all()):
            raise DataError("the training data hold a number that is not finite")
        self.mean.copy_(mean)
        # A constant channel stays at zero.
        size = torch.maximum(mean.abs(), torch.ones_like(mean))
        self.deviation.copy_(torch.where(deviation > 1e-12 * size, deviation, 1.0))

    def inward(self, fields: Tensor) -> Tensor:
        """The user's units to order one; shape (batch, channels, *n)."""
        return (fields - _along(self.mean, fields.ndim)) / _along(self.deviation, fields.ndim)

    def outward(self, fields: Tensor) -> Tensor:
        """Back."""
        return fields * _along(self.deviation, fields.ndim) + _along(self.mean, fields.ndim)


class Normalised(nn.Module):
    """A network between fields in the user's units.

    Args:
        network: between fields of order one.
        inputs: channels.
        outputs: channels.
        residual: the network gives the change of the last channels of the data, as ``u + N(u)``:
            for steps in time, or from a coarse solution to a fine one.
        grid: nodes along each coordinate where the network works, others being brought there and
            back: of one whose stencils know the spacing they were trained with; None for any.
        periodic: whether a domain of `grid` closes on itself.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: int,
        outputs: int,
        *,
        residual: bool = False,
        grid: Sequence[int] | None = None,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.periodic = grid, periodic
        self.network = network
        self.inputs, self.outputs = Scale(inputs), Scale(outputs)
        self.residual = residual

    def measure(self, inputs: Tensor, outputs: Tensor) -> None:
        """Take the scales from training data, shapes (samples, channels, *n)."""
        self.inputs.measure(inputs)
        last = inputs[:, -outputs.shape[1] :]
        self.outputs.measure(outputs - last if self.residual else outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        size = inputs.shape[2:]
        data = self.inputs.inward(inputs)
        if self.grid is not None:
            data = resampled(data, self.grid, periodic=self.periodic)
        found = self.outputs.outward(self.network(data))
        if self.grid is not None:
            found = resampled(found, size, periodic=self.periodic, kind="cubic")
        return inputs[:, -found.shape[1] :] + found if self.residual else found


def _along(values: Tensor, dimensions: int) -> Tensor:
    """Of shape (channels, 1, ...), to broadcast over (batch, channels, *n)."""
    return values[(slice(None), *[None] * (dimensions - 2))]
