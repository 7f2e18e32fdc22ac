"""From settings to a model, for training and for loading alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .networks.deeponet import DeepONet, principal_modes
from .networks.fno import FNO
from .networks.grids import Boundary
from .networks.mgno import MgNO
from .networks.unet import UNet
from .normalisation import Normalised, Scale
from .options import DeepONetOptions, FnoOptions, MgnoOptions, NetworkOptions, UNetOptions

__all__ = ["Shape", "build_model", "model_for"]


@dataclass(frozen=True)
class Shape:
    """What the data say about a model.

    Attributes:
        inputs: names of the input channels.
        outputs: names of the output channels.
        size: nodes along each coordinate of the grid it is trained on.
        boundary: what lies outside the grid.
        residual: whether the network gives the change of the last input channels.
        static: input channels that a step in time keeps.
        modes: principal modes of a POD-DeepONet.
        coarse: nodes per side of the coarse solution that makes the last input channels; 0: none.
        source: right-hand side of the coarse problem.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size: tuple[int, ...]
    boundary: Boundary
    residual: bool
    static: int = 0
    modes: int = 0
    coarse: int = 0
    source: float = 1.0

    @property
    def given(self) -> tuple[str, ...]:
        """Input channels that a person gives; the others are computed from them."""
        return self.inputs[: -len(self.outputs)] if self.coarse else self.inputs

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @classmethod
    def read(cls, value: dict[str, Any]) -> Shape:
        """Back from JSON.

        Raises:
            TypeError: it is something else.
        """
        found: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return cls(**found)


def build_model(
    options: NetworkOptions,
    shape: Shape,
    generator: torch.Generator,
    modes: Tensor | None = None,
) -> Normalised:
    """An untrained model between fields in the user's units.

    Args:
        options: of the network.
        shape: what the data say.
        generator: source of the initial weights.
        modes: of a POD-DeepONet, see `DeepONet`; zeros where they are to be loaded.
    """
    inputs, outputs = len(shape.inputs), len(shape.outputs)
    common: dict[str, Any] = {"boundary": shape.boundary, "generator": generator}
    network: nn.Module
    if isinstance(options, DeepONetOptions):
        if options.pod and modes is None:
            modes = torch.zeros(1 + shape.modes, outputs, *shape.size)
        network = DeepONet(
            inputs, outputs, sensors=shape.size, width=options.width, depth=options.depth,
            basis=options.basis, modes=modes if options.pod else None, **common,
        )  # fmt: skip
        return Normalised(network, inputs, outputs, residual=shape.residual)
    common["dimension"] = len(shape.size)
    if isinstance(options, MgnoOptions):
        network = MgNO(
            inputs, outputs, width=options.width, depth=options.depth,
            smoothings=options.smoothings, **common,
        )  # fmt: skip
    elif isinstance(options, FnoOptions):
        network = FNO(
            inputs, outputs, width=options.width, depth=options.depth, modes=options.modes,
            **common,
        )  # fmt: skip
    else:
        assert isinstance(options, UNetOptions)
        network = UNet(inputs, outputs, width=options.width, levels=options.levels, **common)
    # A Fourier mode is as long on every grid; a stencil reaches half as far on one twice as fine.
    grid = None if isinstance(options, FnoOptions) else shape.size
    return Normalised(
        network, inputs, outputs, residual=shape.residual, grid=grid,
        periodic=shape.boundary == "periodic",
    )  # fmt: skip


def model_for(
    options: NetworkOptions, shape: Shape, inputs: Tensor, outputs: Tensor, seed: int
) -> tuple[Normalised, Shape]:
    """A model with the scales, and where it has some the modes, of training data.

    Args:
        options: of the network.
        shape: what the data say.
        inputs: shape (samples, channels, *n).
        outputs: shape (samples, channels, *n).
        seed: of the initial weights.

    Returns:
        The model in the precision of the data, and the shape with the number of modes.

    Raises:
        ConfigurationError: fewer samples than a POD-DeepONet needs.
        DataError: a number is not finite.
    """
    modes = None
    if isinstance(options, DeepONetOptions) and options.pod:
        if len(outputs) < 3:
            raise ConfigurationError(
                f"principal modes of {len(outputs)} samples", path=("network", "pod"),
                advice="write pod: false, or give more samples",
            )  # fmt: skip
        target = outputs - inputs[:, -outputs.shape[1] :] if shape.residual else outputs
        scale = Scale(len(shape.outputs)).to(outputs)
        scale.measure(target)
        modes = principal_modes(scale.inward(target), options.basis)
        shape = Shape(**{**vars(shape), "modes": len(modes) - 1})
    model = build_model(options, shape, torch.Generator().manual_seed(seed), modes)
    model = model.to(outputs)
    model.measure(inputs, outputs)
    return model, shape


def parameters(model: nn.Module) -> int:
    """Trained numbers of a model; a complex weight is stored as two."""
    return sum(p.numel() for p in model.parameters())


def names(channels: Sequence[str]) -> str:
    """Channels in words."""
    return ", ".join(dict.fromkeys(channels))
