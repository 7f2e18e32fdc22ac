"""Burgers' equation and advection on a ring from random initial values: maps from u(0) to u(t)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigurationError
from ...problems import Problem
from ...problems.equation import parse_constant
from ...typed import option
from .evolution import SAFETY, disturbed, march
from .layout import Description, Field, Sample
from .random_fields import Axis, draw, matern

__all__ = ["Advection", "Burgers"]

_WAVES = 256


@dataclass(frozen=True)
class _OnRing(ABC):
    end: float = option(1.0, "last instant", above=0)
    instants: int = option(2, "stored instants, the first and the last included", low=2, high=10000)
    scale: float = option(25.0, "the law's deviation is scale*(-u'' + tau^2)^(-alpha/2)", above=0)
    tau: float = option(5.0, "inverse length of the initial value", low=0)
    alpha: float = option(2.0, "smoothness of the initial value", above=0.5)
    waves: int | None = option(
        None, "waves of the initial value: half the nodes less one, at most 256", low=1, high=1500
    )
    target: float = option(1e-5, "error bar to reach", low=1e-11, high=0.03)

    @property
    @abstractmethod
    def _equation(self) -> str: ...

    @property
    @abstractmethod
    def _constants(self) -> dict[str, float]: ...

    def _modes(self, resolution: int) -> int:
        return self.waves or max(1, min(_WAVES, (resolution - 1) // 2))

    def describe(self, name: str, resolution: int) -> Description:
        """See `families.Family`."""
        return Description(
            family=name,
            equation=f"{self._equation}, periodic in x over [0, 1]",
            law=f"u at t = 0 of N(0, {self.scale**2:g}*(-d^2/dx^2 + {self.tau**2:g})^-"
            f"{self.alpha:g}), mean zero, up to {self._modes(resolution)} waves",
            error_bar=f"relative L2 over stored nodes and instants: {SAFETY:g} times the change "
            f"from the next coarser grid and steps twice as long; at most {self.target:g}",
            grid={"x": np.arange(resolution) / resolution},
            boundary={"x": "periodic"},
            fields=(Field("u", "state"),),
            times=np.linspace(0.0, self.end, self.instants),
            constants=self._constants,
        )

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """See `families.Family`."""
        waves = self._modes(resolution)
        law = matern(self.scale, self.tau, self.alpha)
        field = draw(generator, [Axis("periodic", 0.0, 1.0, 2 * waves + 1)], law, name="u0")
        problem = Problem.from_mapping(
            {
                "coordinates": {"x": [0, 1], "t": [0, self.end]},
                "fields": ["u"],
                "parameters": self._constants,
                "equations": [self._equation],
                "conditions": [{"where": "t = 0", "u": 0}, {"periodic": "x"}],
            }
        )
        times, nodes = np.linspace(0.0, self.end, self.instants), np.arange(resolution) / resolution
        values, bars, _ = march(
            disturbed(problem, {"u": field}, keep=False), times, [nodes], self.target, waves=waves
        )
        return Sample({"u": values[:, 0]}, {"error_bar": float(bars.max())})


@dataclass(frozen=True)
class Burgers(_OnRing):
    """The benchmark of Li et al. (ICLR 2021): N(0, 625 (-d^2/dx^2 + 25)^-2), u(0) to u(1)."""

    nu: float | str = option(0.1, "viscosity, such as 0.1 or 0.01/pi")

    def __post_init__(self) -> None:
        if not parse_constant(self.nu) > 0:
            raise ConfigurationError(
                "", path=("nu",), found=self.nu, advice="write a viscosity > 0"
            )

    @property
    def _equation(self) -> str:
        return "u_t + u*u_x = nu*u_xx"

    @property
    def _constants(self) -> dict[str, float]:
        return {"nu": parse_constant(self.nu)}


@dataclass(frozen=True)
class Advection(_OnRing):
    """The same initial values carried along unchanged."""

    beta: float | str = option(1.0, "velocity")

    def __post_init__(self) -> None:
        parse_constant(self.beta)

    @property
    def _equation(self) -> str:
        return "u_t + beta*u_x = 0"

    @property
    def _constants(self) -> dict[str, float]:
        return {"beta": parse_constant(self.beta)}
