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

__all__ = ["BOUNDARIES", "Boundary", "Prolongation", "Stencil", "coarsened", "convolved", "pad"]

Boundary = Literal["dirichlet", "neumann", "periodic"]
BOUNDARIES: tuple[str, ...] = get_args(Boundary)
# By dimensions of a batch of fields; those of one coordinate are taken as of two.
CONVOLUTIONS = {4: functional.conv2d, 5: functional.conv3d}
TRANSPOSED = {4: functional.conv_transpose2d, 5: functional.conv_transpose3d}


def coarsened(size: Sequence[int]) -> tuple[int, ...]:
    """Nodes along each coordinate after a restriction."""
    return tuple((n + 1) // 2 for n in size)


def arranged(field: Tensor) -> Tensor:
    """The same values, the channels of a node side by side where that makes stencils faster.

    On a processor a convolution with few channels takes half the time so; what follows keeps the
    arrangement.
    """
    if field.ndim == 4 and field.device.type == "cpu":
        return field.contiguous(memory_format=torch.channels_last)
    return field


def pad(field: Tensor, boundary: Boundary, reach: Sequence[int]) -> Tensor:
    """Add nodes at both ends of each coordinate.

    Args:
        field: shape (batch, channels, *n).
        boundary: which values they get.
        reach: how many, by coordinate; less than n, except for Dirichlet conditions.
    """
    if boundary == "dirichlet":
        return functional.pad(field, [width for width in reversed(reach) for _ in range(2)])
    for axis, width in enumerate(reach, start=2):
        if not width:
            continue
        # One axis after the other: twice as fast as torch's own padding, and in its arrangement.
        n = field.shape[axis]
        if boundary == "periodic":
            low, high = field.narrow(axis, n - width, width), field.narrow(axis, 0, width)
        else:
            low, high = field.narrow(axis, 1, width), field.narrow(axis, n - 1 - width, width)
            low, high = low.flip(axis), high.flip(axis)
        field = torch.cat([low, field, high], axis)
    return field


def convolved(
    field: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    boundary: Boundary = "dirichlet",
    stride: int = 1,
) -> Tensor:
    """A stencil at every node, or every second one.

    Args:
        field: shape (batch, inputs, *n).
        weight: shape (outputs, inputs, *k), k odd.
        bias: shape (outputs,).
        boundary: what lies outside the grid.
        stride: 1 or 2.

    Returns:
        Shape (batch, outputs, *ceil(n / stride)).
    """
    line = field.ndim == 3
    field, weight = arranged(_planar(field)), _planar(weight)
    kernel = weight.shape[2:]
    reach, steps = [k // 2 for k in kernel], [stride if k > 1 else 1 for k in kernel]
    if boundary != "dirichlet":
        field, reach = pad(field, boundary, reach), [0] * len(reach)
    found = CONVOLUTIONS[field.ndim](field, weight, bias, stride=steps, padding=reach)
    return found.squeeze(2) if line else found


def _planar(values: Tensor) -> Tensor:
    """Fields or stencils of one coordinate as of two: torch has the faster convolution for them."""
    return values.unsqueeze(2) if values.ndim == 3 else values


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
        self.weight = _weight(outputs, inputs, dimension, generator)

    def forward(self, field: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n or *ceil(n / 2))."""
        return convolved(field, self.weight, boundary=self.boundary, stride=self.stride)


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
        self.weight = _weight(channels, channels, dimension, generator)

    def forward(self, field: Tensor, size: Sequence[int]) -> Tensor:
        """Shape (batch, channels, *coarse) -> (batch, channels, *size)."""
        coarse = tuple(field.shape[2:])
        if coarsened(size) != coarse:
            raise ConfigurationError(f"a grid of {tuple(size)} nodes has no coarse grid {coarse}")
        line = field.ndim == 3
        field, weight = arranged(_planar(field)), _planar(self.weight)
        reach = [k // 2 for k in weight.shape[2:]]
        extra = [0] * line + [fine - (2 * n - 1) for fine, n in zip(size, coarse, strict=True)]
        # Node i of the coarse grid is node 2 i of the fine one: what reaches over the low end, and
        # over the padding, is cut off.
        cut = reach
        if self.boundary != "dirichlet":
            field, cut = pad(field, self.boundary, reach), [3 * width for width in reach]
        found = TRANSPOSED[field.ndim](
            field, weight, stride=[1 + width for width in reach], padding=cut, output_padding=extra
        )
        return found.squeeze(2) if line else found
