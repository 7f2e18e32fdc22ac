"""Gradients of the steps as they were taken, in the memory of few of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....errors import ConfigurationError
from ..loop import trace
from ..plan import Plan, Points, replay
from ..problem import Problem
from ..solution import Solution
from .direct import Direct, Tally, begun, finished, known, lockstep_record

__all__ = ["Checkpointed"]


@dataclass(frozen=True)
class Checkpointed:
    """The gradient of `Direct`, with states kept between segments of steps alone.

    On the way back the steps of a segment are repeated. With as many segments as the root of the
    number of steps, memory grows with that root, for one more integration; with segments of
    segments, on L levels, with the root of order L + 1, for L more (Chen, Xu, Zhang and Guestrin,
    arXiv 1604.06174). Two segments on as many levels as n has binary digits are bisection, with
    memory like log n.

    Args:
        segments: of a level; None for the root of the number of steps.
        levels: how often segments are divided.
    """

    segments: int | None = None
    levels: int = 1

    def solve(self, problem: Problem) -> Solution:
        """Integrate.

        Raises:
            ConfigurationError: dense output is wanted, which keeps every step; no segment or level.
        """
        if problem.dense:
            raise ConfigurationError(
                "Dense output keeps every step.", advice="leave dense out, or choose Direct()"
            )
        if self.segments is not None and self.segments < 1:
            raise ConfigurationError("One segment at least is needed.", found=self.segments)
        if self.levels < 1:
            raise ConfigurationError("One level at least is needed.", found=self.levels)
        if not problem.differentiable:
            return Direct().solve(problem)
        beforehand = known(problem)
        if beforehand is not None:
            tally = Tally()
            y, values = self._replayed(problem, *beforehand, problem.start, tally)
            if tally.sound(y):
                record = lockstep_record(problem, *beforehand, tally.calls)
                return finished(problem, record, values)
        record = trace(problem, evaluate=False)
        start = begun(problem, record)
        _, values = self._replayed(problem, record.plan, record.points, start)
        return finished(problem, record, values)

    def _replayed(
        self, problem: Problem, plan: Plan, points: Points, y: Tensor, tally: Tally | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The end (batch, d), and slots and states of the points."""
        root = max(1, int(len(plan) ** (1 / (self.levels + 1)) + 1e-9))
        run = _Repeated(problem, plan, points, self.segments or root, tally)
        y, _, *states = run.steps(0, len(plan), self.levels, y, None)
        slots = [s.slots for number in sorted(points.at) for s in points.at[number]]
        return y, list(zip(slots, states, strict=True))


@dataclass
class _Repeated:
    """Steps in segments of segments, each of which is repeated on the way back."""

    problem: Problem
    plan: Plan
    points: Points
    count: int
    tally: Tally | None
    done: int = 0

    def steps(
        self, first: int, last: int, levels: int, y: Tensor, cache: Tensor | None
    ) -> tuple[Any, ...]:
        """State and cache after the steps first, ..., last - 1, and states of their points."""
        if levels == 0:
            # Steps are counted on the way there, not again on the way back.
            visit = self.tally if first >= self.done else None
            self.done = max(self.done, last)
            y, cache, found = replay(
                self.problem, self.plan, self.points, y, cache, first, last, visit
            )
            return y, cache, *(states for _, states in found)
        values: list[Tensor] = []
        size = max(1, -(-(last - first) // self.count))
        for begin in range(first, last, size):
            end = min(begin + size, last)
            found: Any = checkpoint(
                self.steps, begin, end, levels - 1, y, cache,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            y, cache = found[:2]
            values += found[2:]
        return y, cache, *values
