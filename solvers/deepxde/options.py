"""Settings of the backend `deepxde`; the defaults are those of DeepXDE's own Burgers example.

Source: DeepXDE, examples/pinn_forward/Burgers.py (Lu, Meng, Mao, Karniadakis, SIAM Rev. 63, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...errors import ConfigurationError
from ...typed import option
from ..options import BackendOptions, Fixed, Stage

__all__ = ["DeepxdeAdam", "DeepxdeLbfgs", "DeepxdeOptions", "DeepxdePoints", "Fnn"]

SAMPLERS = {
    "hammersley": "Hammersley",
    "halton": "Halton",
    "sobol": "Sobol",
    "latin_hypercube": "LHS",
    "pseudo": "pseudo",
}
"""Name in a case to DeepXDE's name."""
REDRAWN = ("pseudo", "latin_hypercube")
"""Samplers that give other points at the next call; the others begin their sequence again."""


@dataclass(frozen=True)
class Fnn:
    """DeepXDE's fully connected network on the raw coordinates, Glorot normal weights."""

    width: int = option(20, "neurons in each hidden layer", low=1, high=4096)
    depth: int = option(3, "hidden layers", low=1, high=64)
    activation: Literal["tanh", "sin", "silu"] = option("tanh", "activation function")


@dataclass(frozen=True)
class DeepxdePoints:
    """How many training points, and how DeepXDE draws them."""

    interior: int = option(2540, "points inside the domain", low=1, high=10_000_000)
    boundary: int = option(
        80, "points on the whole boundary (2 on an interval without time)", low=2, high=1_000_000
    )
    initial: int = option(160, "points of the initial data", low=1, high=1_000_000)
    sampler: Literal["hammersley", "halton", "sobol", "latin_hypercube", "pseudo"] = option(
        "hammersley", "point set; DeepXDE's latin_hypercube takes ten seconds for a draw"
    )
    resample_every: int = option(
        0, "Adam iterations between fresh points of the equations; 0 for never", low=0, high=10**7
    )

    def __post_init__(self) -> None:
        if self.resample_every and self.sampler not in REDRAWN:
            raise ConfigurationError(
                f"'{self.sampler}' gives the same points at every draw",
                path=("resample_every",),
                found=self.resample_every,
                advice="write 'sampler: pseudo' beside it, or resample_every: 0",
            )


@dataclass(frozen=True)
class DeepxdeAdam:
    """Adam."""

    name: Literal["adam"] = option("adam", "Adam")
    steps: int = option(15_000, "iterations", low=1, high=10**9)
    learning_rate: float = option(1e-3, "step size", above=0.0, high=1.0)


@dataclass(frozen=True)
class DeepxdeLbfgs:
    """L-BFGS with DeepXDE's tolerances; it stops by itself where it makes no more progress."""

    name: Literal["lbfgs"] = option("lbfgs", "L-BFGS")
    steps: int = option(15_000, "largest number of iterations", low=1, high=10**9)


DeepxdeOptimizer: TypeAlias = DeepxdeAdam | DeepxdeLbfgs


@dataclass(frozen=True)
class DeepxdeOptions(BackendOptions):
    """DeepXDE in a process of its own, all conditions soft, as its users write them."""

    name: Literal["deepxde"] = option("deepxde", "the backend")
    network: Fnn = option(Fnn, "the network that is trained")
    points: DeepxdePoints = option(DeepxdePoints, "training points")
    optimizer: tuple[DeepxdeOptimizer, ...] = option(
        (DeepxdeAdam(), DeepxdeLbfgs()), "the optimisers, one after the other"
    )
    weighting: Fixed = option(Fixed, "weights of the loss terms")

    def __post_init__(self) -> None:
        if not self.optimizer:
            raise ConfigurationError(
                "", path=("optimizer",), found=[], advice="write adam, lbfgs or [adam, lbfgs]"
            )

    @property
    def stages(self) -> Sequence[Stage]:
        """See `BackendOptions.stages`."""
        return self.optimizer

    @property
    def weights(self) -> Mapping[str, float]:
        """See `BackendOptions.weights`."""
        return self.weighting.values
