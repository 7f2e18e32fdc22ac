"""The automatic reference: which methods to try, for how long, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .fourier import NotApplicable
from .methods import FourierETDRK4, FourierExact, Method, candidates
from .reference import pareto
from .refinement import Refinement
from .system import ReferenceUnavailable, System

__all__ = ["Automatic", "applicable"]

Array = NDArray[np.float64]

# A bar above this means that refinement does not converge.
_USELESS = 0.03
# The first method's share of the time while a second could still take over.
_SHARE = 0.25


class Automatic:
    """The automatic reference of a problem, refined until its bar is below a target.

    Fourth order in time is cheap at 1e-6 and dear at 1e-10. Where Fourier with ETDRK4 has resolved
    space with few nodes but not reached the target, collocation with a method of order 13 takes
    over at that resolution.

    Args:
        system: the problem.
        target: bar to reach.
        seconds: wall time to spend.
        resolution: fixed number of nodes per coordinate, instead of refinement in space.

    Attributes:
        best: the refinement with the smallest bar; `level`, `bars`, `solution`, `method` are its.

    Raises:
        ReferenceUnavailable: no method applies, or none converges.
    """

    def __init__(
        self,
        system: System,
        *,
        target: float = 1e-9,
        seconds: float = 20.0,
        resolution: int | None = None,
    ) -> None:
        self.system, self.target = system, target
        self._deadline = time.perf_counter() + seconds
        methods, reasons = applicable(system)
        if not methods:
            raise ReferenceUnavailable(f"no automatic reference: {reasons[-1]}")
        if resolution is not None:
            methods = _held(methods, resolution)
        self.refinements: list[Refinement] = []
        self._climb(methods, seconds)
        self.best = min(self.refinements, key=lambda r: r.bars.max())
        self.method, self.bars = self.best.method, self.best.bars
        failure = next(
            (r.failure for r in self.refinements if r.failure), "it takes longer than allowed"
        )
        if self.best.level is None:
            cause = (
                "there may be none, or several, so change the parameters"
                if system.time is None
                else "it may not exist over the whole interval (blow-up, shock), so shorten the "
                "interval, add viscosity"
            )
            raise ReferenceUnavailable(
                f"the automatic reference found no solution: {failure}; {cause}, or set "
                "'reference: none'"
            )
        self.level, self.solution = self.best.level, self.best.solution
        if not self.bars.max() <= _USELESS:
            if self.best.unseen:
                raise ReferenceUnavailable(
                    f"no automatic reference: {self.best.unseen} has features that "
                    f"{self.method.name} with {self.method.describe(*self.level)} does not see; "
                    "widen them, divide the domain where they lie, give more 'seconds', or set "
                    "'reference: none'"
                )
            cause = (
                "the solution probably has a shock or a jump, blows up, or is chaotic over this "
                "interval, so add viscosity, smooth the data, shorten the interval"
                if resolution is None
                else "raise or remove 'resolution'"
            )
            raise ReferenceUnavailable(
                f"the automatic reference does not converge: {self.method.name} with "
                f"{self.method.describe(*self.level)} still changes by {self.bars.max() / 3:.1e} "
                f"in relative L2; {cause}, or set 'reference: none'"
            )

    def _climb(self, methods: Sequence[Method], seconds: float) -> None:
        first = Refinement(self.system, methods[0], self.target)
        self.refinements.append(first)
        if len(methods) == 1:
            first.climb(self._deadline)
            return
        second = methods[1]
        i, j = first.climb(self._deadline - (1 - _SHARE) * seconds)
        nodes = first.method.space[i]
        shock = first.level is not None and nodes >= 256 and first.bars.max() > _USELESS
        if first.bars.max() <= self.target or shock:
            return
        start = next((k for k, n in enumerate(second.space) if n > nodes), None)
        if first.level is not None and (start is None or nodes > second.dense_limit):
            first.climb(self._deadline, (i, j))
            return
        other = Refinement(self.system, second, self.target)
        self.refinements.append(other)
        level = None
        if first.level is not None and start is not None:
            level = start, second.start[1] + 2
        other.climb(self._deadline, level)

    def costs(
        self, exact: Array | None = None, *, seconds: float = 15.0
    ) -> list[tuple[float, float]]:
        """Seconds and relative L2 error (worst field) of cheaper levels, coarse to fine.

        The seconds are upper limits: another classical code may well be quicker.

        Args:
            exact: values on the common set; the best solution where None, and then no error is
                reported below its bar.
            seconds: wall time for runs that refinement did not make already.
        """
        deadline = time.perf_counter() + seconds
        target = self.best.values if exact is None else exact
        floor = float(self.bars.max()) if exact is None else 1e-16
        rows = []
        for refinement in self.refinements:
            refinement.fill(deadline)
            refinement.time_again(deadline)
            for run in refinement.runs.values():
                error = float(refinement.common.relative_l2(run.values, target).max())
                if np.isfinite(error):
                    rows.append((run.seconds, max(error, floor)))
        return pareto(rows)

    @property
    def names(self) -> str:
        """Names of the methods that ran."""
        return ", ".join(r.method.name for r in self.refinements)


def _held(methods: Sequence[Method], resolution: int) -> list[Method]:
    """The methods that can take a fixed number of nodes, held to it and one coarser grid."""
    held = [method for method in methods if resolution <= method.largest]
    if not held:
        raise ReferenceUnavailable(
            f"{resolution} nodes per coordinate are too many for {methods[-1].name} on this "
            f"problem; lower 'resolution' to at most {methods[-1].largest}, or remove it"
        )
    for method in held:
        if method.space != (0,):
            # Two coarser grids: two may agree by chance.
            coarser = max(4, 2 * round(resolution / 3.6)), max(6, 2 * round(resolution / 2.8))
            method.space = (*coarser, resolution)
            method.start = (2, method.start[1])
    return held


def applicable(system: System) -> tuple[list[Method], list[str]]:
    """The methods that fit the problem, best first, and why others do not."""
    methods: list[Method] = []
    reasons: list[str] = []
    for kind in candidates(system):
        try:
            methods.append(kind(system))
        except (NotApplicable, ReferenceUnavailable) as error:
            reasons.append(str(error))
    if methods and isinstance(methods[0], FourierExact):
        # Nothing is gained by steps where none are needed.
        methods = [m for m in methods if type(m) is not FourierETDRK4]
    return methods, reasons
