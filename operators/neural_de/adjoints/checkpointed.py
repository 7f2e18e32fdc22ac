"""Gradients of the steps as they were taken, in the memory of few of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....errors import ConfigurationError
from ..loop import trace
from ..plan import replay
from ..problem import Problem
from ..solution import Solution
from .direct import Direct, begun, finished

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
        record = trace(problem, evaluate=False)
        plan = record.plan
        count = self.segments or max(1, math.isqrt(len(plan)))
        size = max(1, -(-len(plan) // count))
        y, cache, values = begun(problem, record), None, []
        for first in range(0, len(plan), size):
            y, cache, found = self._segment(problem, record, y, cache, first, size)
            values += found
        return finished(problem, record, values)

    def _segment(
        self, problem: Problem, record: Any, y: Tensor, cache: Tensor | None, first: int, size: int
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
        slots: list[Tensor] = []
        last = min(first + size, len(record.plan))

        def steps(y: Tensor, cache: Tensor | None) -> tuple[Any, ...]:
            y, cache, values = replay(problem, record.plan, record.points, y, cache, first, last)
            slots[:] = [slot for slot, _ in values]
            return y, cache, *(states for _, states in values)

        found: Any = checkpoint(steps, y, cache, use_reentrant=False, preserve_rng_state=False)
        return found[0], found[1], list(zip(slots, found[2:], strict=True))
