"""What a case file may say under `solver`: every setting with its limits and default.

Nothing here imports torch: a wrong setting must be reported before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..errors import ConfigurationError
from ..typed import option

__all__ = [
    "Adam",
    "BackendOptions",
    "CausalOptions",
    "CausalWeights",
    "Fixed",
    "GaussNewton",
    "GaussianFeatures",
    "GaussiansOptions",
    "GradientNorm",
    "LagrangianOptions",
    "Ntk",
    "ResidualAttention",
    "Lbfgs",
    "Network",
    "Optimizer",
    "Paths",
    "PinnOptions",
    "Points",
    "QuasiNewton",
    "Soap",
    "SolverOptions",
    "Spring",
    "Stage",
    "Weighting",
]

RESAMPLE_EVERY = {"gauss_newton": 20, "quasi_newton": 500, "soap": 10, "spring": 1, "adam": 100}
"""Optimiser steps between fresh points unless said otherwise.

Fixed points let Gauss-Newton hide steep steps where none of them looks; L-BFGS needs one objective.
The literature on SOAP draws points for every step, which takes as long as the step itself.
"""


TOLERANCE = "stop when the loss falls below this share of the untrained network's"


@dataclass(frozen=True)
class Network:
    """The field that is trained: points in, field values out."""

    kind: Literal["mlp", "modified_mlp", "spectral"] = option(
        "mlp",
        "architecture; spectral: a series in space with coefficients that are a network in time",
    )
    width: int = option(20, "neurons in each hidden layer", low=1, high=4096)
    depth: int = option(3, "hidden layers", low=1, high=64)
    activation: Literal["tanh", "sin", "silu", "gelu"] = option("tanh", "activation function")
    fourier: int = option(
        0, "random Fourier features (of time, under spectral); 0 for none", low=0, high=4096
    )
    fourier_scale: float = option(
        1.0, "standard deviation of the Fourier frequencies", above=0.0, high=1e3
    )
    harmonics: int = option(
        5, "harmonics of a periodic coordinate, in the embedding or the series", low=1, high=256
    )
    degree: int = option(
        24, "polynomial degree of the series along a bounded coordinate", low=2, high=512
    )
    factorised: bool = option(False, "random weight factorisation")
    background: Literal["auto"] | bool = option(
        "auto",
        "the known part of the field (state handed over, hard data) is an input too; auto: in "
        "time windows",
    )

    def __post_init__(self) -> None:
        if self.kind == "spectral" and self.background is True:
            raise ConfigurationError(
                "a spectral series has no input that the known part of the field could be",
                path=("background",),
                advice="write 'background: auto', or another kind of network",
            )


FEATURES = 4


@dataclass(frozen=True)
class GaussianFeatures:
    """Gaussians with trained means and covariances, whose weighted sums are features of a point."""

    count: int = option(400, "Gaussians in a set", low=1, high=100_000)
    features: int = option(
        FEATURES, "features, the inputs of the network on top, or products", low=1, high=256
    )
    covariance: Literal["diagonal", "full"] = option("diagonal", "shape of a Gaussian")
    separable: bool = option(
        False,
        "Gaussians of one coordinate each, 'count' along every one; features are products of their "
        "sums",
    )
    sets: Literal["shared", "own"] = option(
        "shared", "the same Gaussians in every feature, or a set for each"
    )
    network: bool = option(
        False,
        "a network of the features on top; without, the fields are sums of Gaussians, or of their "
        "products",
    )
    overlap: float = option(
        1.5, "first standard deviation in units of the mean spacing", low=0.1, high=10.0
    )
    floor: float = option(
        0.1, "least standard deviation in units of the mean spacing", low=0.0, high=1.0
    )
    density: Mapping[str, float] = option(
        dict, "first Gaussians along a coordinate, relative to the others", above=0.0, high=1e3
    )
    begin: Literal["even", "residual"] = option(
        "even",
        "first means: spread evenly, or more of them where the residual of the untrained field is "
        "large; shared sets only",
    )
    moving: bool = option(True, "train means and covariances, not the weights alone")
    reborn: float = option(
        0.05,
        "share of the Gaussians that are merged and born again where the residual is large, with "
        "every fresh set of points; shared sets only",
        low=0.0,
        high=0.5,
    )
    radius: float = option(
        8.5, "standard deviations beyond which a Gaussian is taken as zero", low=3.0, high=40.0
    )

    def __post_init__(self) -> None:
        if self.separable and self.covariance == "full":
            raise ConfigurationError(
                "separable Gaussians are of one coordinate each",
                path=("covariance",),
                found="full",
                advice="write 'covariance: diagonal' beside 'separable: true'",
            )
        if self.begin == "residual" and (self.separable or self.sets == "own"):
            raise ConfigurationError(
                "means are spread by the residual only where all features share their Gaussians",
                path=("begin",),
                found="residual",
                advice="write 'begin: even' beside 'separable: true' or 'sets: own'",
            )
        if self.covariance == "full" and not self.moving:
            raise ConfigurationError(
                "Gaussians begin with axes along the coordinates, and none is trained",
                path=("covariance",),
                found="full",
                advice="write 'covariance: diagonal' beside 'moving: false'",
            )
        if self.features != FEATURES and not (self.network or self.separable):
            raise ConfigurationError(
                "the fields are sums of Gaussians, so there are no features",
                path=("features",),
                found=self.features,
                advice="write 'network: true' beside it, or leave it out",
            )


@dataclass(frozen=True)
class Points:
    """How many collocation points, and how they are chosen."""

    interior: int = option(2000, "collocation points inside the domain", low=1, high=10_000_000)
    boundary: int = option(100, "points on each boundary face", low=1, high=1_000_000)
    initial: int = option(200, "points of the initial data", low=1, high=1_000_000)
    sampler: Literal["sobol", "latin_hypercube", "uniform", "grid"] = option("sobol", "point set")
    adaptive: Literal["auto", "none", "rad", "r3"] = option(
        "auto",
        "move points to where the residual is large; auto: rad under gauss_newton, quasi_newton",
    )
    resample_every: Literal["auto"] | int = option(
        "auto",
        "optimiser steps between fresh points; 0 for never; auto: 20 under gauss_newton, 500 "
        "under quasi_newton, 10 under soap, 1 under spring, 100 under adam, never under lbfgs",
        low=0,
        high=10_000_000,
    )

    def __post_init__(self) -> None:
        if self.adaptive in ("rad", "r3") and self.resample_every == 0:
            raise ConfigurationError(
                f"'{self.adaptive}' never acts while resample_every is 0",
                path=("adaptive",),
                advice="write 'resample_every: 100' beside it, or 'adaptive: none'",
            )
        if self.adaptive == "r3" and self.sampler == "grid":
            raise ConfigurationError(
                "'r3' replaces points by fresh ones, and a grid has none",
                path=("sampler",),
                found="grid",
                advice="write 'sampler: sobol' beside it, or 'adaptive: rad'",
            )

    def interval(self, optimizer: str) -> int:
        """Steps of an optimiser between fresh points; 0 for never."""
        if self.resample_every != "auto":
            return self.resample_every
        return RESAMPLE_EVERY.get(optimizer, 0)

    def rule(self, optimizer: str) -> str:
        """How points move under an optimiser: none, rad or r3."""
        if self.adaptive != "auto":
            return self.adaptive
        moving = optimizer in ("gauss_newton", "quasi_newton") and self.interval(optimizer)
        return "rad" if moving else "none"


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton with Levenberg-Marquardt damping on the collocation residuals."""

    name: Literal["gauss_newton"] = option("gauss_newton", "damped Gauss-Newton")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    damping: float = option(
        1e-3, "first damping, relative to the scaled normal matrix", above=0.0, high=1e6
    )
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)
    patience: int | None = option(
        100, "stop when the loss has not halved in so many steps; null for never", low=1, high=10**9
    )
    solver: Literal["auto", "primal", "dual", "qr", "randomised"] = option(
        "auto",
        "how a step is found: normal equations over parameters (primal) or residuals (dual), "
        "orthogonal factors, or a random sketch as preconditioner; auto: the smaller normal "
        "equations, and qr when the damping is too small for them",
    )
    line_search: Literal["damping", "grid"] = option(
        "damping",
        "how long a step is: raise the damping until the loss falls, or try lengths 1, 1/2, 1/4, "
        "... for each damping",
    )
    acceleration: bool = option(
        True, "bend each step by the second derivative along it (geodesic acceleration)"
    )
    variable_projection: bool = option(
        False, "solve for the linear read-out of the network by least squares in every step"
    )

    def __post_init__(self) -> None:
        if self.variable_projection and self.line_search == "grid":
            raise ConfigurationError(
                "'grid' would leave the best read-out, which variable_projection is about",
                path=("line_search",),
                advice="write 'line_search: damping' beside it",
            )


@dataclass(frozen=True)
class Spring:
    """Damped Gauss-Newton with momentum, made for fresh points in every step (SPRING)."""

    name: Literal["spring"] = option("spring", "SPRING")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    damping: float = option(1e-3, "relative to the scaled normal matrix", above=0.0, high=1e6)
    momentum: float = option(0.9, "share of the last step that is kept", low=0.0, high=0.9999)
    learning_rate: float = option(
        0.1, "step size; stable, roughly, to 1 - momentum", above=0.0, high=10.0
    )
    largest_step: float = option(
        1.0, "longest move of all parameters together", above=0.0, high=1e6
    )
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)
    solver: Literal["auto", "primal", "dual", "qr", "randomised"] = option(
        "auto", "how a step is found, as under gauss_newton"
    )


@dataclass(frozen=True)
class QuasiNewton:
    """Broyden's class with a dense inverse Hessian in float64 and a strong-Wolfe line search."""

    name: Literal["quasi_newton"] = option("quasi_newton", "self-scaled Broyden or BFGS, dense")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    update: Literal["bfgs", "ss_bfgs", "ss_broyden", "ss_broyden1"] = option(
        "ss_broyden",
        "how the inverse Hessian is learnt; ss: self-scaled; ss_broyden1: towards the symmetric "
        "rank-one update",
    )
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)


@dataclass(frozen=True)
class Lbfgs:
    """Limited-memory BFGS with a strong-Wolfe line search."""

    name: Literal["lbfgs"] = option("lbfgs", "L-BFGS")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)


@dataclass(frozen=True)
class Adam:
    """Adam, mostly as a warm-up."""

    name: Literal["adam"] = option("adam", "Adam")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    learning_rate: float = option(1e-3, "step size", above=0.0, high=1.0)
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)


@dataclass(frozen=True)
class Soap:
    """Adam in the eigenbasis of Shampoo's preconditioner, for large networks."""

    name: Literal["soap"] = option("soap", "SOAP")
    steps: int | None = option(
        None, "largest number of steps; null for as many as the budget allows", low=1, high=10**9
    )
    learning_rate: float = option(1e-3, "step size", above=0.0, high=1.0)
    refresh: int = option(
        2, "optimiser steps between updates of the eigenbasis", low=1, high=1_000_000
    )
    tolerance: float = option(1e-24, TOLERANCE, low=0.0, high=1.0)


Optimizer: TypeAlias = GaussNewton | Spring | QuasiNewton | Lbfgs | Soap | Adam


@dataclass(frozen=True)
class Fixed:
    """Weights of the loss terms that stay as given."""

    name: Literal["fixed"] = option("fixed", "constant weights")
    values: Mapping[str, float] = option(
        dict,
        "weight by name or kind of condition, or of the 'residual'; 1 where not given",
        above=0.0,
        high=1e12,
    )


@dataclass(frozen=True)
class GradientNorm:
    """Weights that balance the gradients of the terms (Wang, Teng and Perdikaris, SISC 2021)."""

    name: Literal["gradient_norm"] = option("gradient_norm", "weights that balance the gradients")
    momentum: float = option(
        0.9, "share of the old weight that is kept at each update", low=0.0, high=0.9999
    )
    every: int = option(100, "optimiser steps between updates", low=1, high=1_000_000)


@dataclass(frozen=True)
class Ntk:
    """Weights that balance the tangent kernels of the terms (Wang, Yu and Perdikaris, JCP 2022)."""

    name: Literal["ntk"] = option("ntk", "weights that balance the tangent kernels of the terms")
    momentum: float = option(
        0.9, "share of the old weight that is kept at each update", low=0.0, high=0.9999
    )
    every: int = option(100, "optimiser steps between updates", low=1, high=1_000_000)


@dataclass(frozen=True)
class ResidualAttention:
    """A multiplier for every point (Anagnostopoulos et al., CMAME 2024)."""

    name: Literal["residual_attention"] = option(
        "residual_attention", "points whose residual stays large count more"
    )
    decay: float = option(
        0.999, "share of a multiplier that is kept at each update", low=0.0, high=0.999999
    )
    rate: float = option(0.01, "what the largest residual adds", above=0.0, high=1e3)
    every: int = option(
        1,
        "optimiser steps between updates; an optimiser that remembers gradients needs many",
        low=1,
        high=1_000_000,
    )


Weighting: TypeAlias = Fixed | GradientNorm | Ntk | ResidualAttention


@dataclass(frozen=True)
class CausalWeights:
    """Temporal weights w_i = exp(-epsilon * sum of the losses of all earlier slabs).

    Losses are taken in units of the untrained network's, so that epsilon means the same for every
    equation. The paper has no `floor` and ends a window once the last epsilon has settled.

    Source: Wang, Sankaran and Perdikaris, "Respecting causality is all you need", 2022.
    """

    epsilons: tuple[float, ...] = option(
        (1e-2, 1e-1, 1.0, 1e1, 1e2), "tolerances, from mild to strict", above=0.0, high=1e12
    )  # fmt: skip
    delta: float = option(
        0.99, "go on to the next epsilon once all weights exceed this", above=0.0, high=0.999999
    )
    slabs: int = option(32, "time slabs in a window", low=2, high=4096)
    refresh: int = option(
        10, "optimiser steps for which the weights are frozen", low=1, high=1_000_000
    )
    floor: float = option(
        1e-4,
        "least weight: what counts for nothing would be free to blow up; 0 as published",
        low=0.0,
        high=1.0,
    )
    stop: bool = option(
        False, "end a window once all weights exceed delta at the last epsilon, as published"
    )

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in zip(self.epsilons, self.epsilons[1:], strict=False))
        if not self.epsilons or not increasing:
            raise ConfigurationError(
                "",
                path=("epsilons",),
                found=list(self.epsilons),
                advice="write increasing numbers, such as [0.01, 1, 100]",
            )


class Stage(Protocol):
    """One optimiser of a training that goes through several."""

    @property
    def name(self) -> str:
        """Of the optimiser."""
        ...

    @property
    def steps(self) -> int | None:
        """Largest number of steps; None for as many as the budget allows."""
        ...


@dataclass(frozen=True)
class BackendOptions:
    """What a backend is told; a case chooses one of its subclasses by `name`."""

    name: str = option("", "the backend")

    @property
    def stages(self) -> Sequence[Stage]:
        """The optimisers in the order they are used."""
        raise NotImplementedError

    @property
    def planned_steps(self) -> int | None:
        """Optimiser steps after which the training ends at the latest; None for no limit."""
        steps = [stage.steps for stage in self.stages]
        return None if None in steps else sum(number for number in steps if number is not None)

    @property
    def weights(self) -> Mapping[str, float]:
        """Constant weights of the loss terms, by name or kind; 1 where not given."""
        return {}


@dataclass(frozen=True)
class SolverOptions(BackendOptions):
    """What the backends that train by collocation are told."""

    name: str = option("", "the backend")
    network: Network = option(Network, "the field that is trained")
    hard: bool | tuple[str, ...] = option(
        True,
        "conditions built into the field: true (all that can be) or names and kinds",
    )
    symmetry: Literal["auto", "none"] | Mapping[str, Literal["even", "odd"]] = option(
        "auto", "reflections built into the field; auto uses those of the problem"
    )
    propagator: Literal["auto"] | bool = option(
        "auto",
        "carry hard initial data on by the exact linear part (periodic, 1-D); auto: if not linear",
    )
    points: Points = option(Points, "collocation points, of each window where there are several")
    optimizer: tuple[Optimizer, ...] = option(
        (GaussNewton(),), "the optimisers, one after the other"
    )
    weighting: Weighting = option(Fixed, "weights of the loss terms")
    windows: int = option(
        # Each window evaluates those before it for its initial state, one inside the other.
        1,
        "time windows of equal length, solved one after the other",
        low=1,
        high=100,
    )
    warm_start: bool = option(True, "begin each window with the network of the one before")
    overhang: float = option(
        0.0,
        "how far collocation goes past the end of a window, as a share of it",
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        if not self.optimizer:
            raise ConfigurationError(
                "", path=("optimizer",), found=[], advice="write gauss_newton, quasi_newton or adam"
            )
        for position, stage in enumerate(self.optimizer[:-1]):
            if stage.steps is None:
                raise ConfigurationError(
                    f"'{stage.name}' has no number of steps, so the next stage would never begin",
                    path=("optimizer", position),
                    advice=f"write {{name: {stage.name}, steps: 1000}}",
                )

    @property
    def stages(self) -> Sequence[Stage]:
        """See `BackendOptions.stages`; each time window goes through all of them."""
        return self.optimizer

    @property
    def planned_steps(self) -> int | None:
        """See `BackendOptions.planned_steps`."""
        steps = super().planned_steps
        return None if steps is None else self.windows * steps

    @property
    def weights(self) -> Mapping[str, float]:
        """See `BackendOptions.weights`."""
        return self.weighting.values if isinstance(self.weighting, Fixed) else {}


@dataclass(frozen=True)
class PinnOptions(SolverOptions):
    """Physics-informed network, on the whole domain at once or in time windows."""

    name: Literal["pinn"] = option("pinn", "the backend")


@dataclass(frozen=True)
class CausalOptions(SolverOptions):
    """Physics-informed network in time windows with causal weights.

    The causal weighting is covered by a patent of a university; see the README before using it
    commercially.
    """

    name: Literal["causal"] = option("causal", "the backend")
    causal: CausalWeights = option(CausalWeights, "temporal weights inside a window")


ON_TOP = Network(width=16, depth=1)


@dataclass(frozen=True)
class GaussiansOptions(SolverOptions):
    """Physics-informed Gaussians: the field is made of Gaussians that move to where it changes."""

    name: Literal["gaussians"] = option("gaussians", "the backend")
    gaussians: GaussianFeatures = option(GaussianFeatures, "the Gaussians")
    network: Network = option(ON_TOP, "what is on top of the features, if anything")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.kind != "mlp":
            raise ConfigurationError(
                "on top of Gaussian features is a plain network",
                path=("network", "kind"),
                found=self.network.kind,
                advice="write mlp",
            )
        if self.network.fourier:
            raise ConfigurationError(
                "Gaussian features take the place of Fourier features",
                path=("network", "fourier"),
                found=self.network.fourier,
                advice="write 'fourier: 0'",
            )
        chosen = self.gaussians
        if self.network != ON_TOP and not chosen.network:
            raise ConfigurationError(
                "there is no network on top of the Gaussians",
                path=("network",),
                advice="write 'network: true' under 'gaussians', or leave this out",
            )
        for position, stage in enumerate(self.optimizer):
            projecting = isinstance(stage, GaussNewton) and stage.variable_projection
            if projecting and not (chosen.moving or chosen.network or chosen.separable):
                raise ConfigurationError(
                    "the weights are all that is trained, and Gauss-Newton solves for them itself",
                    path=("optimizer", position, "variable_projection"),
                    advice="write 'variable_projection: false'",
                )


@dataclass(frozen=True)
class Paths:
    """The network of the displacements of characteristics."""

    width: int = option(20, "neurons in each hidden layer", low=1, high=4096)
    depth: int = option(2, "hidden layers", low=1, high=64)


@dataclass(frozen=True)
class LagrangianOptions(SolverOptions):
    """Networks along characteristics: one for the state, one for where each label has gone."""

    name: Literal["lagrangian"] = option("lagrangian", "the backend")
    paths: Paths = option(Paths, "the network of the displacements")
    shift: bool = option(True, "split the mean velocity off in periodic coordinates")
    guard: float = option(
        0.01,
        "least J = det dx/dX, where paths all but cross: below it J is pushed up, and a window "
        "that ends below it is refused",
        above=0.0,
        high=0.9,
    )
    renew: float | None = option(
        0.03,
        "where J falls below this (or 0.25 in free flight, before training) a window ends, and "
        "labels are given out anew for another one; null for the windows as given",
        above=0.0,
        high=0.95,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.renew is not None and self.renew <= self.guard:
            raise ConfigurationError(
                "labels would be given out anew only once they are refused",
                path=("renew",),
                found=self.renew,
                advice=f"write a number above guard = {self.guard:g}, or null",
            )
        if not isinstance(self.symmetry, str):
            raise ConfigurationError(
                "displacements are odd whatever the fields are, so one word is not enough",
                path=("symmetry",),
                advice="write 'symmetry: auto' or 'symmetry: none'",
            )
