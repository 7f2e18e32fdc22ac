"""MgNO as one would write it down from the paper, with torch's own modules, to be timed against.

Source: He, Liu and Xu, "MgNO: efficient parameterization of linear operators via multigrid",
ICLR 2024, section 3; stencils and their sizes are those of the library, so that both can hold the
same weights and must give the same values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..operators.networks.mgno import MgNO, VCycle

__all__ = ["PublishedMgNO"]

MODES: dict[str, Any] = {"dirichlet": "zeros", "neumann": "reflect", "periodic": "circular"}


class PublishedMgNO(nn.Module):
    """The operator in the plane, with the weights of one of the library.

    Args:
        model: to take the weights of.
        boundary: what lies outside the grid.
    """

    def __init__(self, model: MgNO, boundary: str) -> None:
        super().__init__()
        self.cycles = nn.ModuleList(_Cycle(cycle, boundary) for cycle in model.cycles)  # type: ignore[arg-type]
        self.mixers = nn.ModuleList(
            _convolution(mixer.weight, mixer.bias, padding=0)  # type: ignore[arg-type]
            for mixer in model.mixers
        )
        self.readout = _convolution(model.readout.weight, None, padding=0)

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, n, m) -> (batch, outputs, n, m)."""
        for cycle, mixer in zip(self.cycles, self.mixers, strict=True):
            data = functional.gelu(cycle(data) + mixer(data))
        return self.readout(data)


class _Cycle(nn.Module):
    def __init__(self, cycle: VCycle, boundary: str) -> None:
        super().__init__()
        self.boundary = boundary

        def stencils(found: nn.ModuleList, stride: int = 1) -> nn.ModuleList:
            return nn.ModuleList(
                _convolution(s.weight, None, mode=MODES[boundary], stride=stride)  # type: ignore[arg-type]
                for s in found
            )

        self.smoothers = nn.ModuleList(stencils(level) for level in cycle.smoothers)  # type: ignore[arg-type]
        self.systems = nn.ModuleList(stencils(level) for level in cycle.systems)  # type: ignore[arg-type]
        self.restrict_data = stencils(cycle.restrict_data, 2)
        self.restrict = stencils(cycle.restrict, 2)
        self.prolong = nn.ModuleList(_transposed(p.weight) for p in cycle.prolong)  # type: ignore[arg-type]

    def forward(self, f: Tensor) -> Tensor:
        """One V-cycle."""
        levels = 1
        size = f.shape[2:]
        while levels < len(self.smoothers) and min(size := [(n + 1) // 2 for n in size]) >= 2:
            levels += 1
        kept = []
        u: Tensor | None = None
        for level in range(levels):
            systems = list(self.systems[level])  # type: ignore[arg-type]
            for smoother in self.smoothers[level]:  # type: ignore[union-attr]
                u = smoother(f) if u is None else u + smoother(f - systems.pop(0)(u))
            assert u is not None
            kept.append(u)
            if level + 1 < levels:
                f, u = self.restrict_data[level](f), self.restrict[level](u)
        result = kept[-1]
        for level in range(levels - 2, -1, -1):
            result = kept[level] + self._prolonged(level, result, kept[level].shape[2:])
        return result

    def _prolonged(self, level: int, u: Tensor, size: torch.Size) -> Tensor:
        prolong = self.prolong[level]
        if self.boundary == "dirichlet":
            return prolong(u, output_size=size)
        # The module knows no padding but zeros: pad before, cut afterwards.
        mode = MODES[self.boundary]
        wide = prolong(functional.pad(u, [1, 1, 1, 1], mode), output_size=[n + 4 for n in size])
        return wide[..., 2 : 2 + size[0], 2 : 2 + size[1]]


def _convolution(
    weight: Tensor, bias: Tensor | None, *, mode: Any = "zeros", stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    made = nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=padding, bias=bias is not None,
        padding_mode=mode,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(weight)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    return made.to(weight.dtype)


def _transposed(weight: Tensor) -> nn.ConvTranspose2d:
    inputs, outputs = weight.shape[:2]
    made = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    with torch.no_grad():
        made.weight.copy_(weight)
    return made.to(weight.dtype)
