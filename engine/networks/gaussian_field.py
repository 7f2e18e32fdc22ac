"""Fields of Gaussian features: sums of Gaussians, or a small network of such sums."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..taylor import ACTIVATIONS, JetAlgebra
from .field import Context, Field, Linear
from .gaussians import GaussianFeatures
from .separable import SeparableFeatures


class Gaussians(Field):
    """A small network of Gaussian features; without layers, sums of Gaussians themselves.

    Args:
        features: coordinates to features.
        outputs: number of fields; if `depth` is 0, that of the features, unless these are products.
        width: units of a hidden layer.
        depth: number of hidden layers; 0 for a sum of Gaussians or of their products.
        activation: a name in `residua.engine.taylor.ACTIVATIONS`.
        generator: source of the initial weights.
        background: as in `Mlp`.
    """

    def __init__(
        self,
        features: GaussianFeatures | SeparableFeatures,
        outputs: int,
        *,
        width: int,
        depth: int,
        activation: str = "tanh",
        generator: torch.Generator,
        background: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.activation = ACTIVATIONS[activation]
        self.background: Tensor | None
        self.register_buffer("background", background)
        inputs = features.channels + (0 if background is None else len(background))
        sizes = [inputs] + [width] * depth
        self.hidden = nn.ModuleList(
            Linear(before, after, generator=generator)
            for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.readout: Linear | None = None
        if depth or isinstance(features, SeparableFeatures):
            self.readout = Linear(sizes[-1], outputs, generator=generator)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        context = context or Context()
        state = self.features.jet(points, algebra, context)
        if self.readout is None:
            return state
        if self.background is not None:
            if context.background is None:
                raise ValueError("the network takes a background as input and was given none")
            state = torch.cat([state, context.background / self.background], dim=2)
        for layer in self.hidden:
            state = algebra.apply(self.activation, layer(state, context))
        return self.readout(state, context)

    def linear_parameters(self) -> list[nn.Parameter]:
        """The parameters that the values are affine in."""
        if self.readout is None:
            return [cast(GaussianFeatures, self.features).weights]
        return list(self.readout.parameters())

    def rescale(self, sizes: Tensor) -> None:
        """Multiply each field by a number, shape (fields,)."""
        with torch.no_grad():
            if self.readout is None:
                cast(GaussianFeatures, self.features).weights.mul_(sizes[:, None])
                return
            self.readout.weight.mul_(sizes[:, None])
            cast(nn.Parameter, self.readout.bias).mul_(sizes)
