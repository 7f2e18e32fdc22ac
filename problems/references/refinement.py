"""Refinement with an error bar: what a coarser space or time changes is not known.

Let S be the solution at some level, S_x the one on the next coarser grid and S_t the one with
longer steps. The bar is

    3 (|S - S_x| + |S - S_t| + b) / |S|

in L2 over a dense set between the nodes, by field. Grids differ by a factor of 4/3 or 3/2 and steps
by 3/2 (order 13) or 2 (order 4), so the bar covers the error as soon as the error falls at least
in proportion to the spacing; for a spectrally converged solution it is far above it.

Two solutions can also agree by chance, or because neither sees the data, or because both are
interpolated in the same way. Therefore |S - S_x| is believed only as far as the changes before it
lead to expect or the spectrum of the highest derivative has decayed, a later level that disagrees
raises the bar of an earlier one, and b is what the two grids miss of the known functions
(`KnownData`) and what interpolation between stored instants adds.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning

from .comparison import CommonSet
from .known import KnownData
from .methods import Method
from .radau import Diverged, OutOfTime
from .solution import GridSolution, Slices
from .system import System

__all__ = ["Refinement"]

Array = NDArray[np.float64]

_SAFETY = 3.0
# Interpolation and products of a few hundred terms round at this size.
_ROUNDING = 1e-14
# Known functions of which a grid misses more than this are not resolved at all.
_BLIND = 1e-2
# And those of which it misses this have jumps or corners.
_ROUGH = 3e-3
_CONTRADICTED = 2.0
# Runs shorter than this are timed three times.
_QUICK = 0.2
# A first change below this is not believed without another.
_LUCKY = 1e-3

# Indices into the ladders of space and time, and 1 for the companion with longer steps.
Level = tuple[int, int, int]


@dataclass
class _Run:
    solution: GridSolution | None  # forgotten when another level is better
    slices: Slices | None
    values: Array
    seconds: float
    # What rounding and interpolation between stored instants add, relative, by field.
    between: Array
    # How much of its derivatives is in the highest modes, by field.
    unresolved: Array


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
        unseen: the known function that the last level does not resolve, if any.
    """

    def __init__(self, system: System, method: Method, target: float) -> None:
        self.system, self.method, self.target = system, method, target
        self.common = CommonSet.of(system)
        self.level: tuple[int, int] | None = None
        self.bars = np.full(len(system.fields), np.inf)
        self.failure = ""
        self.runs: dict[Level, _Run] = {}
        self.unseen = ""
        self.known = KnownData(system, method.parity)
        self._changes: dict[int, Array] = {}
        self._time_changes: dict[int, Array] = {}
        jets = [jet for tree in system.equations for jet in system.jets(tree).values()]
        self._orders = [
            max((jet.space[axis] for jet in jets), default=0) for axis in range(len(system.space))
        ]
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
        i = self._seeing(i)
        stalled = 0
        while True:
            try:
                bars, by_space, by_time = self._bar(i, j)
            except OutOfTime:
                return i, j
            stalled += 1
            self._contradicted(i, j)
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

    def _seeing(self, i: int) -> int:
        """The first rung in space, from i on, whose grids see all that is known."""
        last = len(self.method.space) - 1
        while i < last and self._unseen_in_space(i)[0] > _BLIND:
            i += 1
        return i

    def _unseen_in_space(self, i: int) -> tuple[float, str]:
        if not self.system.space:
            return 0.0, ""
        coarse = self.method.bases(i - 1) if i > 0 else None
        return self.known.unseen_in_space(self.method.bases(i), coarse)

    def _contradicted(self, i: int, j: int) -> None:
        """Raise the best bar where a level that is finer in every way disagrees.

        The error is at most the distance and the finer level's own error, taken to be no larger.
        """
        if self.level is None or (i, j) == self.level or (i, j, 0) not in self.runs:
            return
        if i >= self.level[0] and j >= self.level[1]:
            apart = self._change(self.runs[i, j, 0], self.values)
            self.bars = np.maximum(self.bars, _CONTRADICTED * apart)

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

    def time_again(self, deadline: float) -> None:
        """The best of three times of every run that is quick: the first pays for caches."""
        for (i, j, longer), run in self.runs.items():
            for _ in range(2):
                if longer or run.seconds > _QUICK or time.perf_counter() > deadline:
                    break
                began = time.perf_counter()
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", LinAlgWarning)
                    self.method.solve(i, j, np.inf)
                run.seconds = min(run.seconds, time.perf_counter() - began)

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
            between, unresolved = np.zeros((2, len(self.system.fields)))
            if level[2] == 0:
                unresolved = solution.unresolved(self._orders)
                between = solution.between(self.common.times)
            self.runs[level] = _Run(keep, solution.slices, values, seconds, between, unresolved)
        return self.runs[level]

    # -- one level
    # --------------------------------------------------------------------------------------------

    def _bar(self, i: int, j: int) -> tuple[Array | None, float, float]:
        """Bars by field, and the worst changes by space and by time; infinite if a run failed."""
        fine = self.run((i, j, 0))
        if fine is None:
            return None, np.inf, np.inf
        by_space = by_time = np.zeros(len(self.system.fields))
        longer = None
        space = self._unseen_in_space(i)
        if i > 0:
            by_space = self._by_space(i, j, fine)
        if j > 0:
            longer = self.run((i, j, 1))
            by_time = self._change(longer, fine.values)
        time = self._unseen_in_time(j, fine, longer)
        if j > 1 and (not self.system.space or self.known.roughness_in_time > _ROUGH):
            by_time = self._by_rough_time(i, j, fine, by_time)
        self.unseen = max(space, time)[1] if max(space, time)[0] > _BLIND else ""
        by_space, by_time = by_space + space[0], by_time + fine.between + time[0]
        bars = _SAFETY * (by_space + by_time) + _ROUNDING
        return (
            (bars if np.all(np.isfinite(bars)) else None),
            float(by_space.max()),
            # Rounding is in the bar; longer steps or shorter ones do not change it.
            float(by_time.max()) if len(self.method.time) > 1 else 0.0,
        )

    def _by_rough_time(self, i: int, j: int, fine: _Run, change: Array) -> Array:
        """The change by time where sources may jump: also from steps adapted to another tolerance.

        They end elsewhere beside a jump, of a source or of a function of the state; for ordinary
        equations they cost next to nothing. Where a source is known to jump, the error is as
        erratic as the distance of the jump from the end of a step: it is taken to fall no faster
        than steps or tolerances do.
        """
        change = np.maximum(change, self._change(self.run((i, j - 1, 0)), fine.values))
        if self.known.roughness_in_time <= _ROUGH:
            return change
        self._time_changes[j] = change
        rungs = self.method.time
        falls = {k: rungs[k] / rungs[j] for k in self._time_changes if k <= j}
        return 2.0 * np.max(
            [self._time_changes[k] * min(f, 1 / f) for k, f in falls.items()], axis=0
        )

    def _by_space(self, i: int, j: int, fine: _Run) -> Array:
        """The change from the coarser grid, or what the changes before it lead to expect."""
        coarse = self.run((i - 1, j, 0))
        change = self._change(coarse, fine.values)
        self._changes[i] = change
        if (
            i > 1
            and coarse is not None
            and not any(k < i for k in self._changes)
            and change.max() < _LUCKY
        ):
            # The first level has no history.
            before = self.run((i - 2, j, 0))
            if before is not None:
                self._changes[i - 1] = self._change(before, coarse.values)
        earlier = sorted((k for k in self._changes if k < i), reverse=True)[:3]
        if not earlier:
            return change
        levels = [self.method.space[k] / self.method.space[i] for k in earlier]
        expected = expected_change(
            np.array([self._changes[k] for k in earlier]),
            np.array(levels),
            regular=self.known.roughness <= _ROUGH,
        )
        return np.maximum(change, np.minimum(expected, fine.unresolved))

    def _unseen_in_time(self, j: int, fine: _Run, longer: _Run | None) -> tuple[float, str]:
        instants = self.method.instants(j, fine.slices)
        if instants is None or self.system.time is None:
            return 0.0, ""
        coarse = None if longer is None else self.method.instants(j - 1, longer.slices)
        return self.known.unseen_in_time(instants, coarse)

    def _change(self, other: _Run | None, values: Array) -> Array:
        change = np.full(len(self.system.fields), np.inf)
        if other is not None:
            change = self.common.relative_l2(other.values, values)
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


def expected_change(changes: Array, nodes: Array, *, regular: bool = True) -> Array:
    """How small a change from one grid to the next is to be believed at most.

    Where a solution is not smooth, or its equation jumps between nodes, changes are now and then
    small by chance. Let d' be the last change and r < 1 the factor by which it fell. Spectral
    convergence falls faster and faster, by r^1.4 next for factors of 4/3 in the nodes: 20 r^2 d' is
    believed. Where one of the last two factors was above 0.1, as with an algebraic order, twice the
    larger of them times d' is. A history that rises or failed, or data with jumps, allow no more
    than a fall in proportion to the spacing.

    Args:
        changes: by field, latest first, shape (1 to 3, fields).
        nodes: nodes of each level relative to those of the level in question.
        regular: whether the data have no jumps.
    """
    finite = np.where(np.isfinite(changes), changes, 0.0)
    envelope = (finite * nodes[:, None]).max(axis=0)
    if not regular:
        return envelope
    if len(changes) == 1:
        return finite[0]
    with np.errstate(all="ignore"):
        ratios = np.nan_to_num(finite[:-1] / finite[1:], nan=1.0, posinf=1.0).clip(0.0, 1.0)
    # As if every step had been as long as the one in question.
    ratios **= (np.log(1 / nodes[0]) / np.log(nodes[:-1] / nodes[1:]))[:, None]
    slowest = ratios.max(axis=0)
    smooth = finite[0] * np.where(slowest > 0.1, 2 * slowest, 20 * ratios[0] ** 2)
    rising = np.any(finite[:-1] > finite[1:], axis=0) | ~np.all(np.isfinite(changes), axis=0)
    return np.where(rising & (finite[0] > _ROUNDING), np.maximum(envelope, smooth), smooth)
