"""Data from any time-dependent problem of the library: random initial values or parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError, DivergedError
from ...problems import Problem, registry
from ...problems.equation import parse_constant
from ...problems.references.system import ReferenceUnavailable
from ...typed import build, option
from .evolution import SAFETY, disturbed, march
from .layout import Description, Field, Sample
from .random_fields import Axis, RandomField, draw

__all__ = ["LibraryProblem", "Settings"]

Array = NDArray[np.float64]

RANDOM = "random"
_DRAWS = 10
# A range of two powers of ten or more is drawn from on a logarithmic scale.
_WIDE = 100.0
_FAINT = 18.0  # exp(-18): relative size of the first wave that is left out


@dataclass(frozen=True)
class Settings:
    """What is random, besides parameters, and what is stored."""

    initial: bool = option(True, "random initial values")
    replace: bool | None = option(
        None,
        "they take the place of the problem's own instead of being added; by default where all "
        "coordinates are periodic",
    )
    amplitude: float = option(1.0, "root mean square of the random initial values", above=0)
    length: float = option(
        0.1, "their correlation length, as a part of the domain", low=0.01, high=1
    )
    end: float | None = option(None, "last instant; the problem's own", above=0)
    instants: int = option(
        11, "stored instants, the first and the last included", low=2, high=10000
    )
    target: float = option(1e-4, "error bar to reach", low=1e-11, high=0.03)


@dataclass(frozen=True)
class LibraryProblem:
    """A problem, its random initial values and its random parameters.

    Attributes:
        problem: with fixed parameters put in and the end of time changed.
        settings: of initial values and storage.
        ranges: (low, high) of random parameters.
    """

    problem: Problem
    settings: Settings
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any]) -> LibraryProblem:
        """Read settings: those of `Settings`, and parameters of the problem.

        A parameter is a number, [low, high], or "random" for the range the problem declares.

        Raises:
            ConfigurationError: an unknown setting, or a problem that has no data of this kind.
        """
        problem = registry.get(name)
        own = {f.name for f in dataclasses.fields(Settings)}
        settings = build(
            Settings, {k: v for k, v in given.items() if k in own or k not in problem.parameters}
        )
        if problem.time is None or len(problem.coordinates) < 2:
            raise ConfigurationError(
                f"'{name}' has no {'time' if problem.time is None else 'space'} coordinate",
                advice="choose a time-dependent problem on an interval or a square",
            )
        ranges, fixed = {}, {}
        for key, value in given.items():
            if key in problem.parameters and key not in own:
                found = _range(problem, key, value)
                (ranges if isinstance(found, tuple) else fixed)[key] = found
        problem = problem.with_parameters(**fixed)
        if settings.end is not None:
            place = problem.coordinates.index(problem.time)
            bounds = list(problem.bounds)
            bounds[place] = (bounds[place][0], bounds[place][0] + settings.end)
            problem = dataclasses.replace(problem, bounds=tuple(bounds))
        if not settings.initial and not ranges:
            raise ConfigurationError(
                "nothing is random", advice="write initial=true, or a parameter such as nu=[0.1, 1]"
            )
        made = cls(problem, settings, ranges)
        if settings.initial:
            for field in problem.fields:
                made.axes(field)
        return made

    @property
    def _space(self) -> list[str]:
        return [c for c in self.problem.coordinates if c != self.problem.time]

    @property
    def _times(self) -> Array:
        assert self.problem.time is not None
        low, high = self.problem.bounds[self.problem.coordinates.index(self.problem.time)]
        return np.linspace(low, high, self.settings.instants)

    @property
    def waves(self) -> int:
        """Waves per coordinate of the random initial values."""
        return math.ceil(math.sqrt(_FAINT) / (math.pi * self.settings.length))

    def _replaces(self) -> bool:
        if self.settings.replace is not None:
            return self.settings.replace
        return set(self._space) == set(self.problem.periodic)

    def grid(self, resolution: int) -> dict[str, Array]:
        """Nodes by coordinate: without the end of a period, with both ends of other intervals."""
        found = {}
        for name, (low, high) in zip(self.problem.coordinates, self.problem.bounds, strict=True):
            if name != self.problem.time:
                closed = name not in self.problem.periodic
                found[name] = np.linspace(low, high, resolution, endpoint=closed)
        return found

    def axes(self, field: str) -> list[Axis]:
        """Eigenfunctions that satisfy the conditions of a field on the walls, without their data.

        Raises:
            ConfigurationError: the two walls of a coordinate differ, or hold neither the value nor
                the slope.
        """
        found = []
        for name, (low, high) in zip(self.problem.coordinates, self.problem.bounds, strict=True):
            if name == self.problem.time:
                continue
            if name in self.problem.periodic:
                found.append(Axis("periodic", low, high, 2 * self.waves + 1))
                continue
            kinds = self._walls(field, name)
            if len(kinds) != 1 or kinds & {"other"}:
                raise ConfigurationError(
                    f"no random initial value is known that fits the conditions of {field} on the "
                    f"walls of {name}",
                    path=("initial",),
                    advice="write initial=false and a random parameter",
                )
            kind = "dirichlet" if kinds == {"dirichlet"} else "neumann"
            found.append(Axis(kind, low, high, 2 * self.waves + 1))
        return found

    def _walls(self, field: str, coordinate: str) -> set[str]:
        place = self.problem.coordinates.index(coordinate)
        kinds = []
        for condition in self.problem.conditions:
            face = condition.faces[0]
            if condition.kind != "boundary" or face.coordinate != coordinate:
                continue
            targets = [t for t in condition.targets if t.field == field]
            for target in targets:
                order = target.index[place]
                plain = sum(target.index) == order
                known = {0: "dirichlet", 1: "neumann"} if plain else {}
                kinds.append(known.get(order, "other"))
            if len(condition.equations) > len(condition.targets):
                kinds.append("other")
        if not kinds:
            return {"neumann"}
        # Each wall must say the same; two conditions on one wall are beyond a series of sines.
        return set(kinds) if len(kinds) == 2 else {"other"}

    def describe(self, name: str, resolution: int) -> Description:
        """See `families.Family`."""
        problem = self.problem
        parts = []
        if self.settings.initial:
            s = self.settings
            how = "in place of" if self._replaces() else "added to"
            parts.append(
                f"initial values of {', '.join(problem.fields)}: {how} the problem's own, Gaussian "
                f"fields of root mean square {s.amplitude:g} and covariance in proportion to "
                f"exp(-(r/{s.length:g})^2), r in units of the domain, in {2 * self.waves + 1} "
                "functions per coordinate that satisfy the conditions on the walls, mean zero"
            )
        for key, (low, high) in self.ranges.items():
            scale = "logarithm uniform" if _logarithmic(low, high) else "uniform"
            parts.append(f"{key} {scale} in [{low:g}, {high:g}]")
        boundary = {}
        for c in self._space:
            walls = {k for f in problem.fields for k in self._walls(f, c)}
            kind = walls.pop() if len(walls) == 1 else "wall"
            boundary[c] = "periodic" if c in problem.periodic else kind
        return Description(
            family=name,
            equation="; ".join(e.text for e in problem.equations)
            + "; "
            + "; ".join(c.name for c in problem.conditions),
            law="; ".join(parts),
            error_bar="relative L2 over stored nodes and instants, the worst field: "
            f"{SAFETY:g} times the change from the next coarser grid and longer steps; at most "
            f"{self.settings.target:g}",
            grid=self.grid(resolution),
            boundary={k: v if v != "other" else "wall" for k, v in boundary.items()},
            fields=tuple(Field(f, "state") for f in problem.fields),
            times=self._times,
            constants={k: v for k, v in problem.values.items() if k not in self.ranges},
            scalars=(*self.ranges, "error_bar", "draws"),
        )

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """See `families.Family`; what cannot be solved is drawn again, up to ten times."""
        axes = list(self.grid(resolution).values())
        reason = ""
        for number in range(_DRAWS):
            values = {k: _drawn(generator, *ends) for k, ends in self.ranges.items()}
            problem = self.problem.with_parameters(**values)
            waves = 0
            if self.settings.initial:
                fields = {f: self._field(generator, f) for f in problem.fields}
                problem = disturbed(problem, fields, keep=not self._replaces())
                waves = self.waves
            try:
                found, bars, _ = march(
                    problem, self._times, axes, self.settings.target, waves=waves
                )
            except ReferenceUnavailable as error:
                reason = str(error)
                continue
            scalars = {**values, "error_bar": float(bars.max()), "draws": number + 1.0}
            fields = {f: found[:, place] for place, f in enumerate(problem.fields)}
            return Sample(fields, scalars)
        raise DivergedError(
            f"no classical solution to {self.settings.target:g} in {_DRAWS} draws, the last time "
            f"because {reason}; narrow the ranges, lower 'amplitude' or raise 'target'"
        )

    def _field(self, generator: np.random.Generator, field: str) -> RandomField:
        axes = self.axes(field)
        lengths = {axis.high - axis.low for axis in axes}
        size = max(lengths)

        def shape(eigenvalue: Array) -> Array:
            # exp(-(r/l)^2) has the spectrum exp(-(k l)^2/4), and the deviation is its root.
            return np.exp(-eigenvalue * (size * self.settings.length) ** 2 / 8)

        made = draw(generator, axes, shape, name=f"random_{field}")
        total = 0.0
        for axis in axes:
            total = np.add.outer(total, axis.waves**2)
        variances = shape(np.asarray(total)) ** 2
        if all(axis.kind != "dirichlet" for axis in axes):
            variances[(0,) * len(axes)] = 0.0
        scale = self.settings.amplitude / math.sqrt(float(variances.sum()))
        return RandomField(made.name, made.axes, scale * made.coefficients)


def _range(problem: Problem, key: str, value: Any) -> float | tuple[float, float]:
    parameter = problem.parameters[key]
    if value == RANDOM:
        if parameter.low is None or parameter.high is None:
            raise ConfigurationError(
                "the problem declares no range", path=(key,), advice=f"write {key}=[low, high]"
            )
        return parameter.low, parameter.high
    if isinstance(value, list):
        ends = tuple(parse_constant(v) for v in value)
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ConfigurationError(
                "", path=(key,), found=value, advice="write [low, high] with low < high"
            )
        for end in ends:
            problem.with_parameters(**{key: end})
        return ends[0], ends[1]
    return parse_constant(value)


def _logarithmic(low: float, high: float) -> bool:
    return low > 0 and high / low >= _WIDE


def _drawn(generator: np.random.Generator, low: float, high: float) -> float:
    if _logarithmic(low, high):
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))
    return float(generator.uniform(low, high))
