"""Gaussians coordinate by coordinate: ``u = sum_r w_r prod_k F_kr(x_k)``.

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
from .field import Context, Field, Linear
from .gaussians import GaussianFeatures, GaussianSettings

START = 0.5
"""Standard deviation of the weights in a factor, whose products are then of size one too."""


class Separable(Field):
    """A sum of products of functions of one coordinate.

    Args:
        factors: for each coordinate, features of it alone; equally many for all.
        outputs: number of fields.
        generator: source of the initial weights.
    """

    def __init__(
        self, factors: Sequence[GaussianFeatures], outputs: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.factors = nn.ModuleList(factors)
        rank = factors[0].settings.channels
        self.readout = Linear(rank, outputs, generator=generator, bias=False)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`. Functions of different coordinates are multiplied without a sum."""
        context = context or Context()
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

        return self.readout(algebra.assemble(product), context)

    def linear_parameters(self) -> list[nn.Parameter]:
        """The parameters that the values are affine in, factors given."""
        return list(self.readout.parameters())

    def rescale(self, sizes: Tensor) -> None:
        """Multiply each field by a number, shape (fields,)."""
        with torch.no_grad():
            self.readout.weight.mul_(sizes[:, None])


def separable(
    bounds: Sequence[tuple[float, float]],
    settings: GaussianSettings,
    outputs: int,
    *,
    periodic: Sequence[int],
    placed: Sequence[tuple[float, float]],
    generator: torch.Generator,
) -> Separable:
    """A field of `settings.channels` products; `settings.count` Gaussians along each coordinate.

    Other arguments are as in `GaussianFeatures`. Densities multiply the number of Gaussians.
    """
    density = settings.density or (1.0,) * len(bounds)
    factors = [
        GaussianFeatures(
            [bounds[axis]],
            replace(settings, density=(), count=max(1, round(density[axis] * settings.count))),
            periodic=[0] if axis in periodic else [],
            placed=[placed[axis]],
            generator=generator,
            start=START,
        )
        for axis in range(len(bounds))
    ]
    return Separable(factors, outputs, generator=generator)
