"""What a case file for models of series may say: every setting with its limits and default.

Nothing here imports torch: a wrong setting must be reported before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ....errors import ConfigurationError
from ....execution.options import RunOptions
from ....typed import option

__all__ = [
    "AugmentedOptions",
    "DeepEquilibriumOptions",
    "FitOptions",
    "FlowOptions",
    "LatentOdeOptions",
    "LatentSdeOptions",
    "LogNcdeOptions",
    "ModelOptions",
    "NeuralCdeOptions",
    "NeuralOdeOptions",
    "NeuralRdeOptions",
    "SdeGanOptions",
    "TrajectoryOptions",
    "TrajectoryRun",
]


@dataclass(frozen=True)
class TrajectoryOptions:
    """Where series come from."""

    system: str | None = option(None, "name of a system that is generated")
    parameters: Mapping[str, float] = option(dict, "of the system, instead of its own")
    samples: int = option(100, "series of the system", low=2, high=10**7)
    points: int | None = option(None, "of a series; null for the system's own", low=1, high=10**6)
    span: tuple[float, ...] | None = option(None, "first and last time; null for the system's own")
    noise: float = option(0.0, "added, in parts of the spread of each channel", low=0.0, high=10.0)
    missing: float = option(0.0, "part of the values that is taken away", low=0.0, high=0.99)
    irregular: bool = option(False, "times drawn at random instead of equally spaced")
    seed: int = option(0, "of the series", low=0, high=2**63 - 1)
    file: str | None = option(None, "of series (.csv, .npz, .h5), relative to this file")
    test: float = option(0.2, "part of the series that is tested on, the last ones", above=0.0,
                         high=0.9)  # fmt: skip

    def __post_init__(self) -> None:
        if (self.system is None) == (self.file is None):
            raise ConfigurationError(
                "either a system or a file gives the series",
                path=("system",),
                found=self.system,
                advice="write 'system: lotka_volterra', or 'file: series.csv'",
            )
        if self.span is not None and (len(self.span) != 2 or not self.span[0] < self.span[1]):
            raise ConfigurationError(
                "", path=("span",), found=list(self.span), advice="write two times, as in [0, 10]"
            )


@dataclass(frozen=True)
class NeuralOdeOptions:
    """A network for the whole field: a series from its first values."""

    name: Literal["neural_ode"] = "neural_ode"
    extra: int = option(0, "components that are not observed and start from zero", low=0, high=256)
    width: int = option(64, "of the hidden layers", low=1, high=4096)
    depth: int = option(2, "hidden layers", low=1, high=32)
    window: int | None = option(
        5, "points of a window after its first; null for whole series", low=1, high=10**4
    )
    timed: bool = option(False, "the field depends on time")


@dataclass(frozen=True)
class AugmentedOptions:
    """Components that start from zero beside the first values: to a class, or a number."""

    name: Literal["augmented"] = "augmented"
    extra: int = option(1, "such components", low=0, high=256)
    width: int = option(32, "of the hidden layers", low=1, high=4096)
    depth: int = option(2, "hidden layers", low=1, high=32)


@dataclass(frozen=True)
class LatentOdeOptions:
    """A latent equation whose start is inferred from irregular series: generates series."""

    name: Literal["latent_ode"] = "latent_ode"
    latent: int = option(4, "components of the latent state", low=1, high=256)
    hidden: int = option(32, "of the encoder", low=1, high=4096)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


@dataclass(frozen=True)
class FlowOptions:
    """A continuous normalising flow: the density of points."""

    name: Literal["flow"] = "flow"
    width: int = option(64, "of the hidden layers", low=1, high=4096)
    depth: int = option(2, "hidden layers", low=1, high=32)
    trace: Literal["exact", "hutchinson"] = option("exact", "of the Jacobian in the loss")


@dataclass(frozen=True)
class LatentSdeOptions:
    """A latent stochastic equation, trained by a bound on the likelihood."""

    name: Literal["latent_sde"] = "latent_sde"
    latent: int = option(2, "components of the latent state", low=1, high=256)
    context: int = option(16, "numbers that the encoder hands over", low=1, high=1024)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


@dataclass(frozen=True)
class SdeGanOptions:
    """A stochastic equation as a generator, fitted by comparing laws of paths."""

    name: Literal["sde_gan"] = "sde_gan"
    hidden: int = option(3, "components of the hidden state", low=1, high=256)
    noises: int = option(2, "Brownian motions", low=1, high=256)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


@dataclass(frozen=True)
class DeepEquilibriumOptions:
    """An implicit layer: from the first values to the last, or to a class."""

    name: Literal["deep_equilibrium"] = "deep_equilibrium"
    hidden: int = option(32, "components of the equilibrium", low=1, high=4096)


@dataclass(frozen=True)
class NeuralCdeOptions:
    """A controlled equation driven by the series: to its class."""

    name: Literal["neural_cde"] = "neural_cde"
    hidden: int = option(8, "components of the state", low=1, high=1024)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


@dataclass(frozen=True)
class NeuralRdeOptions:
    """The same driven by log-signatures of windows of the series."""

    name: Literal["neural_rde"] = "neural_rde"
    hidden: int = option(8, "components of the state", low=1, high=1024)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


@dataclass(frozen=True)
class LogNcdeOptions:
    """The same with Lie brackets of one field instead of a wider one."""

    name: Literal["log_ncde"] = "log_ncde"
    hidden: int = option(8, "components of the state", low=1, high=1024)
    width: int = option(32, "of the hidden layers", low=1, high=4096)


ModelOptions: TypeAlias = (
    NeuralOdeOptions
    | AugmentedOptions
    | LatentOdeOptions
    | FlowOptions
    | LatentSdeOptions
    | SdeGanOptions
    | DeepEquilibriumOptions
    | NeuralCdeOptions
    | NeuralRdeOptions
    | LogNcdeOptions
)


@dataclass(frozen=True)
class FitOptions:
    """How the weights are moved: Adam, one cycle of its learning rate."""

    steps: int = option(1000, "of Adam", low=1, high=10**9)
    batch: int = option(64, "series a step", low=1, high=10**6)
    learning_rate: float = option(5e-3, "at its highest", above=0.0, high=1.0)
    warm_up: float = option(0.05, "part of the training in which it rises", low=0.0, high=0.9)
    clip: float = option(10.0, "longest gradient, all weights together", above=0.0)


@dataclass(frozen=True)
class TrajectoryRun(RunOptions):
    """The section `run`: the steps of the training end it."""

    dtype: Literal["float64", "float32"] = option("float32", "precision")
    budget: float | None = option(
        None, "wall time for training, or none", above=0.0, high=366 * 86400.0, duration=True
    )
