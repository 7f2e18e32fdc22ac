"""Multilayer perceptrons as fields."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .. import stack
from ..taylor import ACTIVATIONS, JetAlgebra, composition
from .embedding import Embedding
from .field import ChainRecord, Context, Field, Linear


class Mlp(Field):
    """Embedding, ``depth`` hidden layers of equal width, linear read-out.

    Args:
        embedding: coordinates to features.
        outputs: number of fields.
        width: units of a hidden layer.
        depth: number of hidden layers.
        activation: a name in `residua.engine.taylor.ACTIVATIONS`.
        factorised: random weight factorisation of every hidden layer.
        gated: the modified MLP of Wang, Teng & Perdikaris (SIAM J. Sci. Comput. 43, 2021): two
            encoders
            U, V of the features blend every hidden layer, ``h <- U + h (V - U)``.
        generator: source of the initial weights.
        background: sizes of the fields of a background that is a further input (each is divided
            by its size); None for a network of the coordinates alone.
    """

    steady = True

    def __init__(
        self,
        embedding: Embedding,
        outputs: int,
        *,
        width: int,
        depth: int,
        activation: str = "tanh",
        factorised: bool = False,
        gated: bool = False,
        generator: torch.Generator,
        background: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.activation = ACTIVATIONS[activation]
        self.background: Tensor | None
        self.register_buffer("background", background)
        features = embedding.features + (0 if background is None else len(background))
        sizes = [features] + [width] * depth

        def layer(inputs: int, units: int) -> Linear:
            return Linear(inputs, units, factorised=factorised, generator=generator)

        self.hidden = nn.ModuleList(
            layer(inputs, units) for inputs, units in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.encoders = nn.ModuleList(layer(features, width) for _ in range(2 if gated else 0))
        self.readout = Linear(width, outputs, generator=generator)
        self._workspace = stack.Workspace()

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        context = context or Context()
        features = context.constant(
            self, algebra, "features", lambda: self._features(points, algebra, context)
        )
        if algebra.channels > 1 and not self.encoders and not features.requires_grad:
            return self._chain(features, algebra, context)
        gates = [
            algebra.apply(self.activation, encoder(features, context)) for encoder in self.encoders
        ]
        state = features
        for layer in self.hidden:
            state = algebra.apply(self.activation, layer(state, context))
            if gates:
                state = gates[0] + algebra.multiply(state, gates[1] - gates[0])
        return self.readout(state, context)

    def linear_parameters(self) -> list[nn.Parameter]:
        """The parameters that the values are affine in."""
        return list(self.readout.parameters())

    def _chain(self, features: Tensor, algebra: JetAlgebra, context: Context) -> Tensor:
        layers = [cast(Linear, layer) for layer in (*self.hidden, self.readout)]
        pairs = [(layer.effective_weight(), cast(Tensor, layer.bias)) for layer in layers]
        plan = composition(algebra)
        if context.tape is None:
            return stack.evaluate(plan, self.activation, pairs, features, self._workspace)
        record = ChainRecord(
            layers, stack.Pass(plan, self.activation, pairs, features, self._workspace)
        )
        context.tape.append(record)
        return record.outputs

    def _features(self, points: Tensor, algebra: JetAlgebra, context: Context) -> Tensor:
        features = self.embedding.jet(points, algebra)
        if self.background is None:
            return features
        if context.background is None:
            raise ValueError("the network takes a background as input and was given none")
        return torch.cat([features, context.background / self.background], dim=2)
