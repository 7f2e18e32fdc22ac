"""Multigrid neural operator: every layer a learned, linear V-cycle and a pointwise activation.

A layer is ``v = sigma(W u + B u)``, where W solves ``A v = u`` approximately by one V-cycle whose
smoothers, residual stencils, restrictions and prolongations are trained, and B mixes the channels
of each node. There is no lifting and no projection: the first layer takes the channels of the data,
and a mixing of channels at each node reads the last one out. Boundary conditions are built in, for
every stencil, and the prolongations, know what lies outside the grid (`grids`).

Source: He, Liu and Xu, "MgNO: efficient parameterization of linear operators via multigrid",
ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from .grids import Boundary, Prolongation, Stencil, coarsened, convolved

__all__ = ["MgNO", "VCycle"]

SMALLEST = 2
"""Nodes along each coordinate of the coarsest grid: fewer have no neighbours to smooth with."""


class VCycle(nn.Module):
    """A linear map between fields: one multigrid cycle for a system that is itself trained.

    On each level ``v <- v + S (f - A v)`` is repeated, with stencils of its own each time; then f
    and v are restricted to the next. On the way back up the coarse v is prolonged and added. The
    first smoothing of the finest level starts from zero, where A does not matter.

    Args:
        inputs: channels of f.
        outputs: channels of v.
        smoothings: by level from the finest, how many times; a grid too small for all levels uses
            the first few.
        boundary: what lies outside the grid.
        dimension: 1, 2 or 3.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        smoothings: Sequence[int],
        *,
        boundary: Boundary,
        dimension: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        stencil = partial(Stencil, boundary=boundary, dimension=dimension, generator=generator)
        self.smoothers = nn.ModuleList(
            nn.ModuleList(stencil(inputs, outputs) for _ in range(count)) for count in smoothings
        )
        self.systems = nn.ModuleList(
            nn.ModuleList(stencil(outputs, inputs) for _ in range(count - (level == 0)))
            for level, count in enumerate(smoothings)
        )
        steps = range(len(smoothings) - 1)
        self.restrict_data = nn.ModuleList(stencil(inputs, inputs, stride=2) for _ in steps)
        self.restrict = nn.ModuleList(stencil(outputs, outputs, stride=2) for _ in steps)
        self.prolong = nn.ModuleList(
            Prolongation(outputs, boundary=boundary, dimension=dimension, generator=generator)
            for _ in steps
        )

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        depth = self._depth(data.shape[2:])
        states: list[Tensor] = []
        state: Tensor | None = None
        for level in range(depth):
            systems = iter(self.systems[level])  # type: ignore[arg-type]
            for smoother in self.smoothers[level]:  # type: ignore[union-attr]
                if state is None:
                    state = smoother(data)
                else:
                    state = state + smoother(data - next(systems)(state))
            assert state is not None
            states.append(state)
            if level + 1 < depth:
                data = self.restrict_data[level](data)
                state = self.restrict[level](state)
        result = states.pop()
        for level in range(depth - 2, -1, -1):
            fine = states.pop()
            result = fine + self.prolong[level](result, fine.shape[2:])
        return result

    def _depth(self, size: Sequence[int]) -> int:
        """Levels that a grid has room for."""
        depth = 1
        while depth < len(self.smoothers) and min(size := coarsened(size)) >= SMALLEST:
            depth += 1
        return depth


class MgNO(nn.Module):
    """The operator; any resolution.

    Args:
        inputs: channels of the data.
        outputs: channels of the solution.
        width: channels between layers.
        depth: layers.
        smoothings: by level; see `VCycle`.
        boundary: what lies outside the grid.
        dimension: of space.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 24,
        depth: int = 4,
        smoothings: Sequence[int] = (1, 1, 1, 1, 2),
        boundary: Boundary = "dirichlet",
        dimension: int = 2,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.cycles = nn.ModuleList(
            VCycle(
                start,
                end,
                smoothings,
                boundary=boundary,
                dimension=dimension,
                generator=generator,
            )
            for start, end in pairs
        )
        self.mixers = nn.ModuleList(
            Mixer(start, end, dimension=dimension, generator=generator) for start, end in pairs
        )
        self.readout = Mixer(width, outputs, dimension=dimension, generator=generator, bias=False)

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        for cycle, mixer in zip(self.cycles, self.mixers, strict=True):
            data = functional.gelu(cycle(data) + mixer(data))
        return self.readout(data)


class Mixer(nn.Module):
    """The same affine map of the channels at every node.

    Args:
        inputs: channels.
        outputs: channels.
        dimension: of space.
        generator: source of the initial weights.
        bias: whether to add one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dimension: int,
        generator: torch.Generator,
        bias: bool = True,
    ) -> None:
        super().__init__()
        bound = inputs**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)

        self.weight = uniform(outputs, inputs, *[1] * dimension)
        self.bias = uniform(outputs) if bias else None

    def forward(self, field: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        return convolved(field, self.weight, self.bias)
