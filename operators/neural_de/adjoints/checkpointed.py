"""Gradients of the steps as they were taken, in the memory of few of them."""

from __future__ import annotations

import math
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
    number of steps, memory grows with that root, for one more integration (Chen, Xu, Zhang and
    Guestrin, arXiv 1604.06174).

    Args:
        segments: how many; None for the root of the number of steps.
    """

    segments: int | None = None

    def solve(self, problem: Problem) -> Solution:
        """Integrate.

        Raises:
            ConfigurationError: dense output is wanted, which keeps every step, or no segment.
        """
        if problem.dense:
            raise ConfigurationError(
                "Dense output keeps every step.", advice="leave dense out, or choose Direct()"
            )
        if self.segments is not None and self.segments < 1:
            raise ConfigurationError("One segment at least is needed.", found=self.segments)
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
        count = self.segments or max(1, math.isqrt(len(plan)))
        size = max(1, -(-len(plan) // count))
        cache: Tensor | None = None
        values: list[tuple[Tensor, Tensor]] = []
        slots: list[Tensor] = []
        for first in range(0, len(plan), size):
            # Steps are counted on the way there, not again on the way back.
            visits = [tally]

            def steps(
                y: Tensor,
                cache: Tensor | None,
                first: int = first,
                visits: list[Tally | None] = visits,
            ) -> tuple[Any, ...]:
                last = min(first + size, len(plan))
                visit = visits.pop() if visits else None
                y, cache, found = replay(problem, plan, points, y, cache, first, last, visit)
                slots[:] = [slot for slot, _ in found]
                return y, cache, *(states for _, states in found)

            found: Any = checkpoint(steps, y, cache, use_reentrant=False, preserve_rng_state=False)
            y, cache = found[:2]
            values += zip(slots, found[2:], strict=True)
        return y, values
