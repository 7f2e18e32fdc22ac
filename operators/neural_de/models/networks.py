"""Right-hand sides by networks, with derivatives along directions where a flow needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import ConfigurationError
from ....typed import nearest

__all__ = ["ACTIVATIONS", "Activation", "GatedField", "VectorField"]

Activation: TypeAlias = Literal["softplus", "tanh", "silu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "silu": F.silu,
}


class VectorField(nn.Module):
    """``f(t, y)`` by a perceptron; at first small, so that states hardly move.

    The buffer ``speed`` (d,) is the unit of its value: what is typical of the slopes of the data.

    Args:
        components: d of the state.
        width: of the hidden layers.
        depth: hidden layers.
        activation: "softplus", "tanh" or "silu", which are smooth: steps of high order count on it.
        bounded: whether the value is ``scale * tanh(layers)`` with a learnt scale a component, so
            that no state can explode, whatever the weights.
        timed: whether f depends on time.

    Raises:
        ConfigurationError: an unknown activation.
    """

    speed: Tensor

    def __init__(
        self,
        components: int,
        width: int = 64,
        depth: int = 2,
        activation: Activation = "tanh",
        bounded: bool = False,
        timed: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigurationError(
                "There is no such activation.",
                found=activation,
                advice=nearest(activation, ACTIVATIONS),
            )
        sizes = [components + timed] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.last = nn.Linear(sizes[-1], components)
        self.scale = nn.Parameter(torch.ones(components)) if bounded else None
        self.register_buffer("speed", torch.ones(components))
        self.activation, self.timed = activation, timed
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Slopes (batch, d) at t (batch,) and y (batch, d)."""
        act = ACTIVATIONS[self.activation]
        y = torch.cat((y, t[:, None]), dim=1) if self.timed else y
        for layer in self.layers:
            y = act(layer(y))
        y = self.last(y)
        return self.speed * (y if self.scale is None else self.scale * torch.tanh(y))


class GatedField(nn.Module):
    """``f(t, z)`` by layers ``sigmoid(a t + b) (W z + c) + e t``, with tanh between them.

    Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, "FFJORD", ICLR 2019 (arXiv 1810.01367),
    "concatsquash": time opens and shuts what a layer does.

    Args:
        components: d of the state.
        width: of the hidden layers.
        depth: hidden layers.
    """

    def __init__(self, components: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        sizes = [components] + [width] * depth + [components]
        pairs = list(zip(sizes, sizes[1:], strict=False))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.gates = nn.ModuleList(nn.Linear(1, b) for _, b in pairs)
        self.shifts = nn.ModuleList(nn.Linear(1, b, bias=False) for _, b in pairs)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Slopes (batch, d) at t (batch,) and z (batch, d)."""
        return self.along(t, z, None)[0]

    def along(self, t: Tensor, z: Tensor, directions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Slopes, and their derivatives along directions.

        The derivatives are carried forward through the layers, so that what differentiates the
        flow finds ordinary operations and not a gradient inside of it.

        Args:
            t: shape (batch,).
            z: shape (batch, d).
            directions: shape (batch, k, d); None for none.

        Returns:
            f, shape (batch, d), and ``J directions``, shape (batch, k, d).
        """
        time = t[:, None]
        moved = z[:, :0, None] if directions is None else directions
        count = len(self.layers)
        for number, (layer, gate, shift) in enumerate(
            zip(self.layers, self.gates, self.shifts, strict=True)
        ):
            opened = torch.sigmoid(gate(time))
            z = opened * layer(z) + shift(time)
            if directions is not None:
                moved = F.linear(moved, layer.weight) * opened[:, None]  # pyright: ignore
            if number < count - 1:
                z = torch.tanh(z)
                if directions is not None:
                    moved = moved * (1 - z * z)[:, None]
        return z, moved
