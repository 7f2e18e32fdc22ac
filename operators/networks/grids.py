"""Stencils on uniform grids: padding by the boundary condition, restriction, prolongation.

Grids are of nodes. A restriction keeps every second one, so that ``n`` become ``ceil(n / 2)``; a
prolongation goes back to whatever size it is told, odd or even. Values outside the grid are those
the boundary condition implies: zero (Dirichlet), mirrored about the last node (Neumann) or from the
other end (periodic), in the prolongation as well as in the stencils.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ConfigurationError

__all__ = ["BOUNDARIES", "Boundary", "Prolongation", "Stencil", "arranged", "coarsened", "pad"]

Boundary = Literal["dirichlet", "neumann", "periodic"]
BOUNDARIES: tuple[str, ...] = get_args(Boundary)
MODES = {"dirichlet": "constant", "neumann": "reflect", "periodic": "circular"}
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def coarsened(size: Sequence[int]) -> tuple[int, ...]:
    """Nodes along each coordinate after a restriction."""
    return tuple((n + 1) // 2 for n in size)


def arranged(field: Tensor) -> Tensor:
    """The same values, the channels of a node side by side where that makes stencils faster.

    On a processor a convolution of the plane with few channels takes half the time so; what follows
    keeps the arrangement.
    """
    if field.ndim == 4 and field.device.type == "cpu":
        return field.contiguous(memory_format=torch.channels_last)
    return field


def pad(field: Tensor, boundary: Boundary, width: int = 1) -> Tensor:
    """Add `width` nodes at every end.

    Args:
        field: shape (batch, channels, *n).
        boundary: which values they get.
        width: less than every n, except for Dirichlet conditions.
    """
    sides = [width] * (2 * (field.ndim - 2))
    return functional.pad(field, sides, MODES[boundary])


def _weight(outputs: int, inputs: int, dimension: int, generator: torch.Generator) -> nn.Parameter:
    """Uniform, of variance 1 / (3 inputs), as torch's convolutions begin."""
    bound = 1 / math.sqrt(inputs * 3**dimension)
    shape = (outputs, inputs, *[3] * dimension)
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)


class Stencil(nn.Module):
    """A linear stencil of three nodes along each coordinate, without bias.

    Args:
        inputs: channels.
        outputs: channels.
        boundary: what lies outside the grid.
        dimension: 1, 2 or 3.
        generator: source of the initial weights.
        stride: 2 for a restriction.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        boundary: Boundary,
        dimension: int,
        generator: torch.Generator,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.boundary: Boundary = boundary
        self.stride = stride
        self.convolve = CONVOLUTIONS[dimension]
        self.weight = _weight(outputs, inputs, dimension, generator)

    def forward(self, field: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n or *ceil(n / 2))."""
        field = arranged(field)
        if self.boundary == "dirichlet":
            return self.convolve(field, self.weight, stride=self.stride, padding=1)
        return self.convolve(pad(field, self.boundary), self.weight, stride=self.stride)


class Prolongation(nn.Module):
    """From a coarse grid to the finer one whose every second node it has.

    The transpose of a restriction's stencil: a coarse value spreads to its node and the neighbours.

    Args:
        channels: of the field.
        boundary: what lies outside the coarse grid.
        dimension: 1, 2 or 3.
        generator: source of the initial weights.
    """

    def __init__(
        self, channels: int, *, boundary: Boundary, dimension: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.boundary: Boundary = boundary
        self.spread = TRANSPOSED[dimension]
        self.weight = _weight(channels, channels, dimension, generator)

    def forward(self, field: Tensor, size: Sequence[int]) -> Tensor:
        """Shape (batch, channels, *coarse) -> (batch, channels, *size)."""
        coarse = tuple(field.shape[2:])
        if coarsened(size) != coarse:
            raise ConfigurationError(f"a grid of {tuple(size)} nodes has no coarse grid {coarse}")
        extra = [fine - (2 * n - 1) for fine, n in zip(size, coarse, strict=True)]
        field = arranged(field)
        # Node i of the coarse grid is node 2 i of the fine one: what reaches over the low end, and
        # over the padding, is cut off.
        cut = 1
        if self.boundary != "dirichlet":
            field, cut = pad(field, self.boundary), 3
        return self.spread(field, self.weight, stride=2, padding=cut, output_padding=extra)
