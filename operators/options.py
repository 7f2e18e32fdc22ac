"""What a case file for operators may say: every setting with its limits and default.

Nothing here imports torch: a wrong setting must be reported before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import ConfigurationError
from ..execution.options import RunOptions
from ..typed import option

__all__ = [
    "DataOptions",
    "DeepONetOptions",
    "FnoOptions",
    "MgnoOptions",
    "NetworkOptions",
    "OperatorRun",
    "PhysicsOptions",
    "Symmetry",
    "TrainingOptions",
    "UNetOptions",
]


@dataclass(frozen=True)
class DataOptions:
    """Where samples come from, and what of them is learnt."""

    file: str = option("", "of any layout that `residua data info` knows, relative to this file")
    outputs_file: str | None = option(None, "the file of outputs, where `file` is .npy")
    test_file: str | None = option(None, "where the samples of the test lie in a file of their own")
    axes: tuple[str, ...] | None = option(
        None, "of .npy and .mat: 'sample x y', one text for both or one for each"
    )
    splits: Mapping[str, tuple[int, ...]] | None = option(
        None, "first sample and end by name, as train: [0, 1000]; null for those of the file", low=0
    )
    train: str = option("train", "name of the split that is trained on")
    validation: str | None = option(
        "validation", "of the split that is watched and calibrates bands; null for none"
    )
    test: str = option("test", "of the split that is reported")
    samples: int | None = option(
        None, "so many of the split that is trained on; null for all", low=1
    )
    inputs: tuple[str, ...] | None = option(None, "input fields; null for all")
    outputs: tuple[str, ...] | None = option(None, "output fields; null for all")
    map: Literal["auto", "pairs", "steps"] = option(
        "auto",
        "pairs: input to output; steps: one instant to the next; auto: steps where more than two "
        "instants are stored",
    )
    history: int = option(1, "instants that a step is made of", low=1, high=100)
    resolution: int | None = option(
        None, "nodes per coordinate, of those in the file; null for all", low=3
    )
    coarse: int | None = option(
        None,
        "solve classically on so many nodes per coordinate, the operator corrects it; null: do not",
        low=5,
    )
    boundary: Literal["auto", "dirichlet", "neumann", "periodic"] = option(
        "auto", "what lies outside the grid; auto: as the file says"
    )

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigurationError(
                "the file of data is missing",
                path=("file",),
                advice="write 'file: darcy_64.h5' (residua data generate makes one)",
            )
        if self.axes is not None and not 1 <= len(self.axes) <= 2:
            raise ConfigurationError(
                "", path=("axes",), found=list(self.axes), advice="write one or two texts"
            )
        for name, ends in (self.splits or {}).items():
            if len(ends) != 2 or not ends[0] < ends[1]:
                raise ConfigurationError(
                    "not a range of samples",
                    path=("splits", name),
                    found=list(ends),
                    advice="write the first sample and the end, as in [0, 1000]",
                )
        roles = [name for name in (self.train, self.validation, self.test) if name is not None]
        if len(set(roles)) < len(roles):
            raise ConfigurationError(
                "one split is named for two uses",
                found=roles,
                advice="name different splits for train, validation and test",
            )


@dataclass(frozen=True)
class MgnoOptions:
    """Multigrid neural operator."""

    name: Literal["mgno"] = "mgno"
    width: int = option(24, "channels between layers", low=1, high=4096)
    depth: int = option(4, "layers", low=1, high=64)
    smoothings: tuple[int, ...] = option(
        (1, 1, 1, 1, 2), "by level from the finest; a small grid uses the first few", low=1, high=16
    )

    def __post_init__(self) -> None:
        if not self.smoothings:
            raise ConfigurationError(
                "", path=("smoothings",), found=[], advice="write at least one level, as in [1, 2]"
            )

    def refusal(self, size: Sequence[int]) -> str | None:
        """Why a grid of these nodes cannot be taken; None where it can."""
        return None if min(size) >= 3 else "at least 3 nodes are needed along each coordinate"


@dataclass(frozen=True)
class FnoOptions:
    """Fourier neural operator."""

    name: Literal["fno"] = "fno"
    width: int = option(32, "channels between layers", low=1, high=4096)
    depth: int = option(4, "layers", low=1, high=64)
    modes: int = option(12, "Fourier modes kept in each direction", low=1, high=4096)

    def refusal(self, size: Sequence[int]) -> str | None:
        """Why a grid of these nodes cannot be taken; None where it can."""
        if min(size) >= 2 * self.modes:
            return None
        return f"{self.modes} modes need at least {2 * self.modes} nodes along each coordinate"


@dataclass(frozen=True)
class UNetOptions:
    """Convolutions on ever coarser grids and back."""

    name: Literal["unet"] = "unet"
    width: int = option(16, "channels on the finest grid", low=1, high=1024)
    levels: int = option(4, "grids, each of half the nodes", low=1, high=12)

    def refusal(self, size: Sequence[int]) -> str | None:
        """Why a grid of these nodes cannot be taken; None where it can."""
        least = max(2 ** (self.levels - 1) + 1, 3)
        if min(size) >= least:
            return None
        return f"{self.levels} levels need at least {least} nodes along each coordinate"


@dataclass(frozen=True)
class DeepONetOptions:
    """A basis of functions and its coefficients from the data."""

    name: Literal["deeponet"] = "deeponet"
    width: int = option(128, "neurons in each hidden layer", low=1, high=8192)
    depth: int = option(3, "hidden layers of branch and trunk", low=1, high=64)
    basis: int = option(64, "functions for each output", low=1, high=8192)
    pod: bool = option(False, "the basis is that of the principal modes of the training solutions")

    def refusal(self, size: Sequence[int]) -> str | None:
        """Why a grid of these nodes cannot be taken; None where it can."""
        return None if min(size) >= 2 else "at least 2 nodes are needed along each coordinate"


Symmetry: TypeAlias = Literal["square", "shifts", "odd_mirror"]
NetworkOptions: TypeAlias = MgnoOptions | FnoOptions | UNetOptions | DeepONetOptions


@dataclass(frozen=True)
class TrainingOptions:
    """How the weights are moved: AdamW, one cycle of its learning rate, an average of the weights.

    The learning rate rises from a tenth of its highest along a cosine, and falls to a thousandth
    along another (Smith and Topin, "Super-convergence", 2019). The cycle spans `epochs` or the
    budget of time, whichever ends first.
    """

    epochs: int | None = option(
        100, "passes over the data; null to train until the budget ends", low=1, high=10**6
    )
    batch: int = option(20, "samples a step", low=1, high=10**6)
    learning_rate: float = option(1e-3, "of AdamW at its highest", above=0.0, high=1.0)
    warm_up: float = option(0.2, "part of the training in which it rises", low=0.0, high=0.9)
    weight_decay: float = option(1e-4, "of AdamW, for matrices and stencils", low=0.0, high=10.0)
    clip: float = option(1.0, "longest gradient, all weights together", above=0.0)
    average: float = option(
        0.999, "what the average of the weights keeps of itself each step", low=0.0, high=0.999999
    )
    loss: Literal["relative_l2", "relative_h1"] = option(
        "relative_l2", "relative error in the norm of values, or of values and slopes"
    )
    unrolled: int = option(1, "applications of a step in time that are trained", low=1, high=100)
    symmetries: tuple[Symmetry, ...] = option(
        (),
        "of the equation; samples are moved by them at random: square (turns and mirrors), shifts "
        "(on a ring), odd_mirror (u(x) to -u(-x)); for scalar fields",
    )
    mixed_precision: bool = option(
        False, "products of training in bfloat16, for a GPU; what is evaluated is in full precision"
    )
    pushforward: bool = option(False, "only the last of them is differentiated")


@dataclass(frozen=True)
class PhysicsOptions:
    """The equation itself as a teacher: its residual beside the error, in training and after it."""

    equation: Literal["auto", "darcy", "burgers"] = option(
        "auto", "Darcy's law, or Burgers' equation over a step in time; auto: as the file says"
    )
    constant: float | None = option(
        None, "f of Darcy's law, nu of Burgers' equation; null: as the file says"
    )
    weight: float = option(
        0.1, "of the residual in training; 0: it is for fine-tuning only", low=0.0, high=1e6
    )
    data: float = option(
        1.0, "of the error in training; 0: no solution is looked at", low=0.0, high=1e6
    )
    learning_rate: float = option(
        1e-3, "of residua evaluate --fine-tune, at its highest", above=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        if self.weight == 0 and self.data == 0:
            raise ConfigurationError(
                "nothing is left to train on", path=("weight",), found=0.0,
                advice="write a weight above 0, for the residual or for the data",
            )  # fmt: skip


@dataclass(frozen=True)
class OperatorRun(RunOptions):
    """The section `run` of a case for operators: single precision, and epochs end it."""

    dtype: Literal["float64", "float32"] = option("float32", "precision")
    budget: float | None = option(
        None, "wall time for training, or none", above=0.0, high=366 * 86400.0, duration=True
    )
    accuracy: float | None = option(
        None, "mean relative L2 error on the test that must be reached, else exit code 1",
        above=0.0, high=1e6,
    )  # fmt: skip
