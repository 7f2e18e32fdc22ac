"""Fourier neural operator: convolutions with trained kernels of few modes, mixed at each node.

A layer is ``v = gelu(K u + W u)``: K multiplies the lowest Fourier modes by trained complex
matrices and drops the rest, W mixes the channels of each node. The data, with the coordinates as
further channels, are lifted before the first layer and projected after the last. Where the domain
is not periodic it is continued by zeros over a fraction of its length, so that the same trained
network fits every resolution. There is no batch normalisation, which costs the published
one-dimensional results most of their accuracy.

Source: Li et al., "Fourier neural operator for parametric partial differential equations",
ICLR 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .grids import Boundary
from .mgno import Mixer

__all__ = ["FNO", "SpectralConvolution"]

CONTINUATION = 1 / 7
"""Part of the length by which a bounded domain is continued at its high end, as nearly as whole
steps allow: the waves of a mode must be as long on every grid."""
PROJECTION = 4
"""Width of the projection's hidden layer, in widths of the network."""


class SpectralConvolution(nn.Module):
    """Trained complex matrices on the lowest modes.

    Args:
        width: channels, of input and output.
        modes: kept in each direction, zero included: in all coordinates but the last also as many
            negative ones.
        dimension: of space.
        generator: source of the initial weights.
    """

    def __init__(
        self, width: int, modes: int, *, dimension: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.modes = modes
        corners = 2 ** (dimension - 1)
        shape = (corners, width, width, *[modes] * dimension, 2)
        self.weight = nn.Parameter(torch.rand(shape, generator=generator) / width**2)

    def forward(self, field: Tensor) -> Tensor:
        """Shape (batch, width, *n) -> the same."""
        # There is no transform in bfloat16, which mixed precision may hand over.
        field = field.to(self.weight.dtype)
        size = field.shape[2:]
        axes = tuple(range(2, field.ndim))
        spectrum = torch.fft.rfftn(field, dim=axes, norm="forward")
        result = torch.zeros_like(spectrum)
        weight = torch.view_as_complex(self.weight)
        # A grid may be too coarse for all modes; those it has are used as everywhere.
        counts = [min(self.modes, n // 2) for n in size]
        low = [(slice(0, k), slice(0, k)) for k in counts]
        # Of each coordinate but the last, where modes lie in the spectrum and in the weights.
        halves = [
            (waves, (slice(n - k, n), slice(self.modes - k, self.modes)))
            for waves, k, n in zip(low[:-1], counts, size, strict=False)
        ]
        for corner, chosen in zip(weight, itertools.product(*halves), strict=True):
            places, kept = zip(*chosen, low[-1], strict=True)
            place, matrices = (..., *places), corner[(..., *kept)]
            result[place] = torch.einsum("bi...,io...->bo...", spectrum[place], matrices)
        return torch.fft.irfftn(result, s=size, dim=axes, norm="forward")


class FNO(nn.Module):
    """The operator; any resolution with at least two nodes to a mode.

    Args:
        inputs: channels of the data, without coordinates.
        outputs: channels of the solution.
        width: channels between layers.
        depth: layers.
        modes: see `SpectralConvolution`.
        boundary: continued by zeros unless periodic.
        dimension: of space.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 32,
        depth: int = 4,
        modes: int = 12,
        boundary: Boundary = "dirichlet",
        dimension: int = 2,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.periodic = boundary == "periodic"

        def mixer(start: int, end: int) -> Mixer:
            return Mixer(start, end, dimension=dimension, generator=generator)

        self.lift = mixer(inputs + dimension, width)
        self.convolutions = nn.ModuleList(
            SpectralConvolution(width, modes, dimension=dimension, generator=generator)
            for _ in range(depth)
        )
        self.mixers = nn.ModuleList(mixer(width, width) for _ in range(depth))
        self.project = nn.ModuleList(
            [mixer(width, PROJECTION * width), mixer(PROJECTION * width, outputs)]
        )

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        size = data.shape[2:]
        field = self.lift(torch.cat([data, coordinates(data, periodic=self.periodic)], dim=1))
        if not self.periodic:
            # n nodes lie n - 1 steps apart; at least one node of zeros parts the ends.
            more = [max(round((1 + CONTINUATION) * (n - 1)) - n, 1) for n in size]
            field = functional.pad(field, [end for n in reversed(more) for end in (0, n)])
        last = len(self.mixers) - 1
        for number, (convolution, mixer) in enumerate(
            zip(self.convolutions, self.mixers, strict=True)
        ):
            field = convolution(field) + mixer(field)
            if number < last:
                field = functional.gelu(field)
        field = field[(..., *(slice(0, n) for n in size))]
        return self.project[1](functional.gelu(self.project[0](field)))


def coordinates(field: Tensor, *, periodic: bool) -> Tensor:
    """Coordinates of the nodes, from 0 to 1: shape (batch, dimension, *n).

    Args:
        field: shape (batch, channels, *n).
        periodic: whether 1 is the same place as 0, and no node.
    """
    size: Sequence[int] = field.shape[2:]
    lines = [
        torch.arange(n, dtype=field.dtype, device=field.device) / max(n if periodic else n - 1, 1)
        for n in size
    ]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    return grid.expand(len(field), *grid.shape)
