"""Refinement with an error bar: what a coarser space or time changes is not known.

Let S be the solution at some level, S_x the one on the next coarser grid and S_t the one with
longer steps. The bar is

    3 (|S - S_x| + |S - S_t|) / |S|

in L2 over a dense set between the nodes, by field. Grids differ by a factor of 4/3 or 3/2 and steps
by 3/2 (order 13) or 2 (order 4), so the bar covers the error as soon as the error falls at least
in proportion to the spacing; for a spectrally converged solution it is far above it.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning

from .comparison import CommonSet
from .methods import Method
from .radau import Diverged, OutOfTime
from .solution import GridSolution, Slices
from .system import System

__all__ = ["Refinement"]

Array = NDArray[np.float64]

_SAFETY = 3.0
# Interpolation and products of a few hundred terms round at this size.
_ROUNDING = 1e-14

# Indices into the ladders of space and time, and 1 for the companion with longer steps.
Level = tuple[int, int, int]


@dataclass
class _Run:
    solution: GridSolution | None  # forgotten when another level is better
    slices: Slices | None
    values: Array
    seconds: float


class Refinement:
    """One method climbing its two ladders.

    Args:
        system: the problem.
        method: the method.
        target: bar to reach.

    Attributes:
        level: indices of the level with the smallest bar so far, or None.
        bars: its bar by field, shape (fields,).
        failure: why the last level that failed did so.
    """

    def __init__(self, system: System, method: Method, target: float) -> None:
        self.system, self.method, self.target = system, method, target
        self.common = CommonSet.of(system)
        self.level: tuple[int, int] | None = None
        self.bars = np.full(len(system.fields), np.inf)
        self.failure = ""
        self.runs: dict[Level, _Run] = {}
        self._failed: set[Level] = set()
        self._deadline = np.inf

    @property
    def solution(self) -> GridSolution:
        """The solution at `level`."""
        assert self.level is not None
        solution = self.runs[(*self.level, 0)].solution
        assert solution is not None
        return solution

    @property
    def values(self) -> Array:
        """The solution on the common set, (times, fields, ...)."""
        assert self.level is not None
        return self.runs[(*self.level, 0)].values

    def climb(self, deadline: float, start: tuple[int, int] | None = None) -> tuple[int, int]:
        """Refine until the target, the end of both ladders, or the deadline.

        Args:
            deadline: value of time.perf_counter().
            start: level to begin at, instead of the method's own.

        Returns:
            The level it stopped at, finished or not.
        """
        self._deadline = deadline
        i, j = start or self.method.start
        i, j = max(i, min(1, len(self.method.space) - 1)), max(j, min(1, len(self.method.time) - 1))
        stalled = 0
        while True:
            try:
                bars, by_space, by_time = self._bar(i, j)
            except OutOfTime:
                return i, j
            stalled += 1
            if bars is not None and bars.max() < 0.9 * self.bars.max():
                stalled = 0 if bars.max() < 0.7 * self.bars.max() else stalled
                self.level, self.bars = (i, j), bars
            self._forget()
            # Before anything is resolved, refinement need not pay at once; near rounding it pays no
            # more.
            patience = 6 if self.level is None else 4 if self.bars.max() > 1e-6 else 2
            if self.bars.max() <= self.target or stalled >= patience:
                return i, j
            new = self._next(i, j, by_space, by_time)
            new = None if new is None else self._affordable((i, j), new)
            if new is None:
                return i, j
            i, j = new

    def _forget(self) -> None:
        """Drop all solutions but the best: each holds megabytes."""
        for level, run in self.runs.items():
            if self.level is None or level != (*self.level, 0):
                run.solution = None

    def fill(self, deadline: float) -> None:
        """Run cheaper levels on the way to the best, for the cost curve."""
        self._deadline = deadline
        if self.level is None or not any(self.level):
            return
        steps = max(self.level)
        for k in range(steps):
            try:
                self.run((round(self.level[0] * k / steps), round(self.level[1] * k / steps), 0))
            except OutOfTime:
                return
            self._forget()

    def run(self, level: Level) -> _Run | None:
        """The solution at a level, or None where the method fails there."""
        if level in self._failed:
            return None
        if level not in self.runs:
            i, j, longer = level
            began = time.perf_counter()
            try:
                # Overflow and singular matrices are answered by shorter steps, not by warnings.
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", LinAlgWarning)
                    if longer:
                        slices = self.runs[i, j, 0].slices
                        solution = self.method.coarser(i, j, slices, self._deadline)
                    else:
                        solution = self.method.solve(i, j, self._deadline)
            except Diverged as error:
                self._failed.add(level)
                self.failure = str(error)
                return None
            seconds = time.perf_counter() - began
            values = solution.on_grid(self.common.times, self.common.axes)
            keep = solution if level[2] == 0 else None
            self.runs[level] = _Run(keep, solution.slices, values, seconds)
        return self.runs[level]

    # -- one level
    # --------------------------------------------------------------------------------------------

    def _bar(self, i: int, j: int) -> tuple[Array | None, float, float]:
        """Bars by field, and the worst changes by space and by time; infinite if a run failed."""
        fine = self.run((i, j, 0))
        if fine is None:
            return None, np.inf, np.inf
        by_space = by_time = np.zeros(len(self.system.fields))
        if i > 0:
            by_space = self._change(self.run((i - 1, j, 0)), fine)
        if j > 0:
            by_time = self._change(self.run((i, j, 1)), fine)
        bars = _SAFETY * (by_space + by_time) + _ROUNDING
        return (
            (bars if np.all(np.isfinite(bars)) else None),
            float(by_space.max()),
            float(by_time.max()),
        )

    def _change(self, coarse: _Run | None, fine: _Run) -> Array:
        change = np.full(len(self.system.fields), np.inf)
        if coarse is not None:
            change = self.common.relative_l2(coarse.values, fine.values)
        return np.where(np.isfinite(change), change, np.inf)

    def _next(self, i: int, j: int, by_space: float, by_time: float) -> tuple[int, int] | None:
        """Refine what dominates the bar."""
        most = min(max(by_space, by_time), 1e300)
        di = dj = 0
        if by_space > 0.1 * most:
            di = 2 if 0.02 < by_space < np.inf else 1
        if by_time > 0.1 * most:
            dj = 1
            if 0 < by_time < 1:
                wanted = max(self.target / 10, 0.01 * by_space)
                dj = int(
                    np.clip(np.ceil(np.log(by_time / wanted) / np.log(self.method.gain)), 1, 3)
                )
        last = len(self.method.space) - 1, len(self.method.time) - 1
        new = min(i + di, last[0]), min(j + dj, last[1])
        return None if new == (i, j) else new

    def _affordable(self, old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int] | None:
        """The furthest level towards `new` whose runs should end in time."""
        latest = self.runs.get((*old, 0))
        seconds = latest.seconds if latest is not None else 0.01
        while new != old:
            if time.perf_counter() + 2.5 * seconds * self.method.growth(old, new) < self._deadline:
                return new
            di, dj = new[0] - old[0], new[1] - old[1]
            new = (new[0] - (di >= dj), new[1] - (dj > di))
        return None
