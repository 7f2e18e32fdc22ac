"""Steps that can be taken back exactly, and gradients in memory that does not grow.

McCallum and Foster, "Efficient, accurate and stable gradients for neural ODEs" (arXiv 2410.11648):
any explicit step, ``y + Psi_h(t, y)``, becomes reversible by a second state z, ::

    y' = c y + (1 - c) z + Psi_h(t, z)
    z' = z - Psi_(-h)(t + h, y')

for it can be solved for z and then y. The coupling c, a little less than one, keeps y and z
together. What rounding adds on the way back grows like ``c ** -steps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..dense import Hermite
from ..explicit import ExplicitRungeKutta
from ..loop import Record, trace
from ..plan import Plan, Points, Selection, lockstep
from ..problem import Problem
from ..solution import Outcome, Solution
from ..steppers import Step
from ..terms import parameters_of
from .direct import Direct, Tally, finished, known, lockstep_record

__all__ = ["McCallumFoster", "Reversible"]


class McCallumFoster:
    """An explicit step made reversible; twice its evaluations, its order.

    The cache is the second state.

    Args:
        base: the step.
        coupling: c above, in (0, 1].

    Raises:
        ConfigurationError: the base is not explicit, or the coupling not in (0, 1].
    """

    def __init__(self, base: ExplicitRungeKutta, coupling: float = 0.999) -> None:
        if not isinstance(base, ExplicitRungeKutta):
            raise ConfigurationError("The base is an explicit step.", found=base)
        if not 0 < coupling <= 1:
            raise ConfigurationError(
                "The coupling lies above 0, and not above 1.", found=coupling, advice="write 0.999"
            )
        self.base, self.coupling = base, coupling
        self.order, self.error_order = base.order, base.error_order
        self.dense_order = min(base.order, 3)
        self.evaluations = 2 * (base.evaluations + 1)

    def __repr__(self) -> str:
        return f"McCallumFoster({self.base!r}, {self.coupling})"

    def begin(self, term: Any, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """The second state, which begins where the first does."""
        return y

    def step(self, term: Any, t: Tensor, h: Tensor, y: Tensor, cache: Tensor | None) -> Step:
        """One step from t by h, both (batch,) float64, of y (batch, d)."""
        z = y if cache is None else cache
        ahead, error, slope = self._increment(term, t, h, z)
        resting = (h == 0)[:, None]
        new = torch.where(resting, y, self.coupling * y + (1 - self.coupling) * z + ahead)
        back, _, end = self._increment(term, t + h, -h, new)
        length = h.to(y.dtype)[:, None]
        interpolant = Hermite(y, new, length, slope, end)
        return Step(new, error, z - back, interpolant, None, self.evaluations)

    def reverse(
        self, term: Any, t: Tensor, h: Tensor, y: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both states before the step from t by h that led to y and z, each (batch, d)."""
        back, _, _ = self._increment(term, t + h, -h, y)
        z = z + back
        ahead, _, _ = self._increment(term, t, h, z)
        before = (y - (1 - self.coupling) * z - ahead) / self.coupling
        return torch.where((h == 0)[:, None], y, before), z

    def _increment(
        self, term: Any, t: Tensor, h: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Psi_h(t, y), the error estimate and the slope at the beginning."""
        slope = self.base.begin(term, t, h, y)
        step = self.base.step(term, t, h, y, slope)
        return step.state - y, step.error, slope


@dataclass(frozen=True)
class Reversible:
    """The gradient of the steps as they were taken, by taking them back.

    Needs `McCallumFoster` steps. Nothing is kept but the end and, where steps go by the error,
    the time and length of each.

    Args:
        parameters: tensors that have gradients and are held by fields that are no modules.
    """

    parameters: Sequence[Tensor] = ()

    def solve(self, problem: Problem) -> Solution:
        """Integrate.

        Raises:
            ConfigurationError: the stepper is not reversible; events or dense output.
        """
        if not isinstance(problem.stepper, McCallumFoster):
            raise ConfigurationError(
                "These steps cannot be taken back.", found=problem.stepper,
                advice="write stepper=McCallumFoster(Tsit5())",
            )  # fmt: skip
        if problem.events or problem.dense or problem.since is not None:
            raise ConfigurationError(
                "Reversible is not for events, dense output or starts at different times.",
                advice="choose Direct()",
            )
        if not problem.differentiable:
            return Direct().solve(problem)
        leaves = [*parameters_of(problem.term), *self.parameters]
        beforehand = known(problem)
        if beforehand is not None:
            run = _Run(problem, leaves, count=len(beforehand[0]))
            gathered = _Backwards.apply(run, problem.start, *leaves)
            assert run.end is not None
            if Tally().sound(run.end[0]):
                calls = 1 + problem.stepper.evaluations * run.count
                return _solution(problem, lockstep_record(problem, *beforehand, calls), gathered)
        record = trace(problem, evaluate=False)
        run = _Run(problem, leaves, len(record.plan), record)
        return _solution(problem, record, _Backwards.apply(run, problem.start, *leaves))


def _solution(problem: Problem, record: Record, gathered: Tensor) -> Solution:
    slots = torch.arange(len(gathered), device=gathered.device)
    kept = ~gathered.isnan().all(1)
    return finished(problem, record, [(slots[kept], gathered[kept])])


@dataclass
class _Run:
    """What the way back needs.

    Attributes:
        problem: that of the way there.
        leaves: parameters.
        count: of the steps.
        record: the steps; None where they are known beforehand, and so are not kept.
        end: both states after the last.
    """

    problem: Problem
    leaves: list[Tensor]
    count: int
    record: Record | None = None
    end: tuple[Tensor, Tensor] | None = None

    def _steps(self) -> tuple[Plan, Points]:
        if self.record is None:
            return lockstep(self.problem)
        return self.record.plan, self.record.points

    def forward(self, start: Tensor) -> Tensor:
        """States in all slots, (slots, d), NaN where there are none."""
        problem, (plan, points) = self.problem, self._steps()
        y = z = start
        values: list[tuple[Tensor, Tensor]] = []
        for number in range(len(plan)):
            step = problem.stepper.step(problem.term, plan.starts[number], plan.steps[number], y, z)
            values += [(s.slots, s.states(step)) for s in points.at.get(number, ())]
            assert step.cache is not None
            y, z = step.state, step.cache
        self.end = y, z
        return points.gather(values, start)

    def backward(self, given: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Derivatives by start and leaves, of the slots weighted by `given`."""
        problem, (plan, points) = self.problem, self._steps()
        assert self.end is not None and isinstance(problem.stepper, McCallumFoster)
        y, z = self.end
        by_y, by_z = torch.zeros_like(y), torch.zeros_like(z)
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        totals: list[Any] = [None] * len(wanted)
        for number in range(len(plan) - 1, -1, -1):
            t, h = plan.starts[number], plan.steps[number]
            with torch.no_grad():
                y, z = problem.stepper.reverse(problem.term, t, h, y, z)
            with torch.enable_grad():
                y_, z_ = y.detach().requires_grad_(), z.detach().requires_grad_()
                step = problem.stepper.step(problem.term, t, h, y_, z_)
                chosen: Sequence[Selection] = points.at.get(number, ())
                outputs = [step.state, step.cache, *(s.states(step) for s in chosen)]
            weights = [by_y, by_z, *(given[s.slots] for s in chosen)]
            by_y, by_z, *found = torch.autograd.grad(
                outputs, [y_, z_, *wanted], weights, allow_unused=True
            )
            totals = [_sum(a, b) for a, b in zip(totals, found, strict=True)]
        by_start = by_y + by_z
        if self.record is not None:
            failed = self.record.outcome == Outcome.NOT_FINITE
            by_start = torch.where(failed[:, None], 0.0, by_start)
        parts = iter(totals)
        return by_start, [next(parts) if leaf.requires_grad else None for leaf in self.leaves]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


class _Backwards(torch.autograd.Function):
    """States in all slots as a function of start and leaves."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, *leaves: Tensor) -> Tensor:  # type: ignore[override]
        ctx.run = run
        return run.forward(start.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:  # type: ignore[override]
        by_start, by_leaves = ctx.run.backward(torch.nan_to_num(given, 0.0))
        return None, by_start, *by_leaves
