"""Refinement with an error bar: space and time are coarsened apart, and what changes is what is not known.

Let S be the solution at some level, S_x the one on the next coarser grid and S_t the one with longer steps. The bar is

    3 (|S - S_x| + |S - S_t|) / |S|

in L2 over a dense set between the nodes, by field. Grids differ by a factor of 4/3 or 3/2 and steps by 3/2 (order 13)
or 2 (order 4), so the bar covers the error as soon as the error falls at least like the square root of the spacing;
for a spectrally converged solution it is far above it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .etdrk4 import NotApplicable
from .methods import Method, candidates, common_axes
from .radau import Diverged, OutOfTime
from .solution import GridSolution
from .system import ReferenceUnavailable, System

__all__ = ["Automatic", "relative_l2"]

Array = NDArray[np.float64]

_SAFETY = 3.0
# Interpolation and products of a few hundred terms round at this size.
_ROUNDING = 1e-14
# A bar above this means that refinement does not converge.
_USELESS = 0.03

# Indices into the ladders of space and time, and 1 for the companion with longer steps.
Level = tuple[int, int, int]


@dataclass
class _Run:
    solution: GridSolution
    values: Array
    seconds: float


def relative_l2(values: Array, exact: Array) -> Array:
    """Relative L2 distance by field; the distance itself where the field vanishes.

    Args:
        values: shape (times, fields, ...), like `exact`.
    """
    axes = (0, *range(2, exact.ndim))
    distance = np.sqrt(np.mean((values - exact) ** 2, axis=axes))
    size = np.sqrt(np.mean(exact**2, axis=axes))
    largest = size.max() if size.max() > 0 else 1.0
    # A field that is zero up to rounding of the others has no relative error.
    return distance / np.where(size > 1e-13 * largest, size, largest)


class Automatic:
    """The automatic reference of a problem, refined until its bar is below a target.

    Args:
        system: the problem.
        target: bar to reach.
        seconds: wall time to spend.
        resolution: fixed number of nodes per coordinate, instead of refinement in space.

    Attributes:
        method: the method that succeeded.
        solution: the finest solution; `bars` its error bar by field, shape (fields,).

    Raises:
        ReferenceUnavailable: no method applies, or none converges.
    """

    def __init__(
        self, system: System, *, target: float = 1e-9, seconds: float = 20.0, resolution: int | None = None
    ) -> None:
        self.system, self.target = system, target
        self.times, self.axes = common_axes(system)
        self._runs: dict[Level, _Run] = {}
        self._failed: dict[Level, str] = {}
        self._deadline = time.perf_counter() + seconds
        reasons: list[str] = []
        for kind in candidates(system):
            try:
                self.method: Method = kind(system)
            except NotApplicable as error:
                reasons.append(str(error))
                continue
            if resolution is not None:
                self._pin(resolution)
            self._runs.clear()
            self._failed.clear()
            found = self._refine()
            if found is not None:
                self.level, self.bars = found
                self.solution = self._runs[(*self.level, 0)].solution
                self.values = self._runs[(*self.level, 0)].values
                break
            reasons.append(next(reversed(self._failed.values()), "it did not converge"))
        else:
            raise ReferenceUnavailable(
                f"the automatic reference found no solution: {reasons[-1]}; the solution may not exist over the whole "
                "interval (blow-up, shock), so shorten it, add viscosity, or set 'reference: none'"
            )
        if not self.bars.max() <= _USELESS:
            raise ReferenceUnavailable(
                f"the automatic reference does not converge: {self.method.name} with "
                f"{self.method.describe(*self.level)} still changes by {self.bars.max():.1e} in relative L2; the "
                "solution is probably a shock, chaotic over this interval or discontinuous in its data, so add "
                "viscosity, shorten the interval, smooth the data, or set 'reference: none'"
            )

    def _pin(self, resolution: int) -> None:
        below = max(4, int(round(resolution / 1.4 / 2)) * 2)
        self.method.space = (below, resolution)
        self.method.start = (1, self.method.start[1])

    # -- runs -------------------------------------------------------------------------------------------------

    def _run(self, level: Level) -> _Run | None:
        """The solution at a level (with longer steps where its last entry is 1), or None where the method fails."""
        if level in self._failed:
            return None
        if level not in self._runs:
            i, j, longer = level
            began = time.perf_counter()
            try:
                if longer:
                    fine = self._runs[i, j, 0].solution
                    solution = self.method.coarser(i, j, fine, self._deadline)
                else:
                    solution = self.method.solve(i, j, self._deadline)
            except Diverged as error:
                self._failed[level] = str(error)
                return None
            if solution is None:
                return None
            seconds = time.perf_counter() - began
            self._runs[level] = _Run(solution, solution.on_grid(self.times, self.axes), seconds)
        return self._runs[level]

    def _refine(self) -> tuple[tuple[int, int], Array] | None:
        """Climb both ladders; the level with the smallest bar, or None where every level failed."""
        method = self.method
        i, j = method.start
        i, j = max(i, min(1, len(method.space) - 1)), max(j, min(1, len(method.time) - 1))
        best: tuple[tuple[int, int], Array] | None = None
        stalled = 0
        while True:
            try:
                bars, by_space, by_time = self._bar(i, j)
            except OutOfTime:
                return best
            if bars is not None and (best is None or bars.max() < 0.9 * best[1].max()):
                stalled = 0 if best is None or bars.max() < 0.7 * best[1].max() else stalled + 1
                best = (i, j), bars
            elif bars is not None:
                stalled += 1
            # Before anything is resolved, refinement need not pay at once.
            if best is not None and best[1].max() > 1e-3:
                stalled = 0
            if best is not None and (best[1].max() <= self.target or stalled > 3):
                return best
            new = self._next(i, j, by_space, by_time)
            if new is None:
                return best
            new = self._affordable((i, j), new)
            if new is None:
                return best
            i, j = new

    def _affordable(self, old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int] | None:
        """The furthest level towards `new` whose runs should end in time."""
        latest = self._runs.get((*old, 0))
        seconds = latest.seconds if latest is not None else 0.01
        while new != old:
            if time.perf_counter() + 2.5 * seconds * self.method.growth(old, new) < self._deadline:
                return new
            di, dj = new[0] - old[0], new[1] - old[1]
            new = (new[0] - (di >= dj), new[1] - (dj > di))
        return None

    def _bar(self, i: int, j: int) -> tuple[Array | None, float, float]:
        """Bars by field at a level, and the worst changes by space and by time; infinite where a run failed."""
        fine = self._run((i, j, 0))
        if fine is None:
            return None, np.inf, np.inf
        zero = np.zeros(len(self.system.fields))
        by_space, by_time = zero, zero
        if i > 0:
            by_space = self._change(self._run((i - 1, j, 0)), fine)
        if j > 0:
            by_time = self._change(self._run((i, j, 1)), fine)
        bars = _SAFETY * (by_space + by_time) + _ROUNDING
        return (bars if np.all(np.isfinite(bars)) else None), float(by_space.max()), float(by_time.max())

    def _change(self, coarse: _Run | None, fine: _Run) -> Array:
        change = np.full(len(self.system.fields), np.inf)
        if coarse is not None:
            change = relative_l2(coarse.values, fine.values)
        return np.where(np.isfinite(change), change, np.inf)

    def _next(self, i: int, j: int, by_space: float, by_time: float) -> tuple[int, int] | None:
        """Refine what dominates the bar."""
        most = max(by_space, by_time)
        di = dj = 0
        if by_space > 0.1 * most:
            di = 2 if 0.02 < by_space < np.inf else 1
        if by_time > 0.1 * most:
            dj = 1
            if 0 < by_time < 1:
                # One rung gains a factor of 16 (steps doubled, fourth order) or 30 (tolerances).
                wanted = max(self.target / 10, 0.01 * by_space)
                gain = 16.0 if self.method.time[-1] > 1 else 30.0
                dj = int(np.clip(np.ceil(np.log(by_time / wanted) / np.log(gain)), 1, 3))
        new = min(i + di, len(self.method.space) - 1), min(j + dj, len(self.method.time) - 1)
        if new == (i, j):
            # The dominating ladder has ended: what is left of the other may still help.
            new = min(i + 1, len(self.method.space) - 1), min(j + 1, len(self.method.time) - 1)
        return None if new == (i, j) else new

    # -- cost -------------------------------------------------------------------------------------------------

    def costs(self, exact: Array | None = None, *, seconds: float = 15.0) -> list[tuple[float, float]]:
        """Seconds and relative L2 error (worst field) of cheaper levels, coarse to fine.

        Args:
            exact: values on the common set; the finest solution where None, and then no error is reported below
                its bar.
            seconds: wall time for runs that refinement did not make already.
        """
        self._deadline = time.perf_counter() + seconds
        top = self.level
        steps = max(top)
        levels = {(round(top[0] * k / steps), round(top[1] * k / steps)) for k in range(steps + 1)} if steps else {top}
        for level in sorted(levels):
            try:
                self._run((*level, 0))
            except OutOfTime:
                break
        target = self.values if exact is None else exact
        floor = float(self.bars.max()) if exact is None else 0.0
        rows = []
        for run in self._runs.values():
            error = float(relative_l2(run.values, target).max())
            if np.isfinite(error):
                rows.append((run.seconds, max(error, floor, 1e-16)))
        return pareto(rows)


def pareto(rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Rows that no cheaper row beats, by increasing seconds and decreasing error."""
    kept: list[tuple[float, float]] = []
    for seconds, error in sorted(rows):
        if not kept or error < kept[-1][1]:
            kept.append((seconds, error))
    return kept
