"""Gaussians coordinate by coordinate: features ``prod_k F_kr(x_k)``, r = 1..channels.

Each factor is a sum of Gaussians of one coordinate (the separable variant of Kang et al., ICLR
2025, after Cho et al., "Separable physics-informed neural networks", NeurIPS 2023). The number of
Gaussians grows with the number of coordinates instead of exponentially with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..taylor import JetAlgebra, MultiIndex, algebra_for
from .field import Context
from .gaussians import GaussianFeatures, GaussianSettings

START = 0.5
"""Standard deviation of the weights in a factor, whose products are then of size one too."""


class SeparableFeatures(nn.Module):
    """Products of functions of one coordinate.

    Args:
        bounds: (low, high) of every coordinate.
        settings: `channels` products; `count` Gaussians along each coordinate, times its density.
        periodic: periodic axes.
        placed: box in which means begin, as `bounds`.
        generator: source of means and weights.
    """

    def __init__(
        self,
        bounds: Sequence[tuple[float, float]],
        settings: GaussianSettings,
        *,
        periodic: Sequence[int],
        placed: Sequence[tuple[float, float]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.channels = settings.channels
        density = settings.density or (1.0,) * len(bounds)
        self.factors = nn.ModuleList(
            GaussianFeatures(
                [bounds[axis]],
                replace(settings, density=(), count=max(1, round(density[axis] * settings.count))),
                periodic=[0] if axis in periodic else [],
                placed=[placed[axis]],
                generator=generator,
                start=START,
            )
            for axis in range(len(bounds))
        )

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context) -> Tensor:
        """As `GaussianFeatures.jet`. Functions of different coordinates multiply without a sum."""
        along = []
        for axis, factor in enumerate(self.factors):
            assert isinstance(factor, GaussianFeatures)
            most = max(index[axis] for channel in algebra.parts for _, index in channel)
            line = algebra_for([(most,)], 1)
            along.append(factor.jet(points[:, axis : axis + 1], line, context))

        def product(index: MultiIndex) -> Tensor:
            total = along[0][index[0]]
            for function, order in zip(along[1:], index[1:], strict=True):
                total = total * function[order]
            return total

        return algebra.assemble(product)
