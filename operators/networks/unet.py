"""U-Net: convolutions on ever coarser grids and back, with what was found on the way in.

The nonlinear counterpart of a V-cycle, and a rival that knows nothing of operators. Its stencils,
restrictions and prolongations are those of `grids`, so it keeps boundary conditions and takes any
resolution.

Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015; group normalisation in place of batch
normalisation, as Gupta and Brandstetter, TMLR 2023, recommend for equations.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from .grids import Boundary, Prolongation, Stencil
from .mgno import Mixer

__all__ = ["UNet"]

GROUPS = 8
"""Channels are normalised in so many groups, or as one where that does not go."""


class UNet(nn.Module):
    """The operator; grids of at least ``2^(levels - 1) + 1`` nodes along each coordinate.

    Args:
        inputs: channels of the data.
        outputs: channels of the solution.
        width: channels on the finest grid; each coarser one has twice as many.
        levels: grids.
        boundary: what lies outside the grid.
        dimension: of space.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 16,
        levels: int = 4,
        boundary: Boundary = "dirichlet",
        dimension: int = 2,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]

        stencil = partial(Stencil, boundary=boundary, dimension=dimension, generator=generator)

        def block(start: int, end: int) -> Block:
            return Block([stencil(start, end), stencil(end, end)], end)

        starts = [inputs, *widths[1:]]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(block(a, b) for a, b in zip(starts, widths, strict=True))
        self.restrict = nn.ModuleList(stencil(fine, coarse, stride=2) for fine, coarse in pairs)
        self.prolong = nn.ModuleList(
            Prolongation(coarse, boundary=boundary, dimension=dimension, generator=generator)
            for _, coarse in pairs
        )
        self.up = nn.ModuleList(block(fine + coarse, fine) for fine, coarse in pairs)
        self.readout = Mixer(width, outputs, dimension=dimension, generator=generator)

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        found: list[Tensor] = []
        field = data
        for level, block in enumerate(self.down):
            field = block(field)
            found.append(field)
            if level < len(self.restrict):
                field = self.restrict[level](field)
        field = found.pop()
        for prolong, block in zip(reversed(self.prolong), reversed(self.up), strict=True):
            fine = found.pop()
            field = block(torch.cat([fine, prolong(field, fine.shape[2:])], dim=1))
        return self.readout(field)


class Block(nn.Module):
    """Stencils, each followed by a normalisation of channel groups and an activation.

    Args:
        stencils: one after the other.
        channels: that each of them gives.
    """

    def __init__(self, stencils: list[Stencil], channels: int) -> None:
        super().__init__()
        self.stencils = nn.ModuleList(stencils)
        groups = GROUPS if channels % GROUPS == 0 else 1
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels) for _ in stencils)

    def forward(self, field: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, channels, *n)."""
        for stencil, norm in zip(self.stencils, self.norms, strict=True):
            field = functional.gelu(norm(stencil(field)))
        return field
