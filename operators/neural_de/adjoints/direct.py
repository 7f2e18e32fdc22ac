"""Gradients through the steps as they were taken: discretise, then optimise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..crossings import with_gradients
from ..dense import DenseOutput
from ..loop import Record, trace
from ..plan import Plan, Points, lockstep, replay
from ..problem import Problem
from ..solution import Outcome, Solution, Statistics
from ..steppers import Step

__all__ = ["Direct", "Tally", "begun", "finished", "known", "lockstep_record"]


@dataclass(frozen=True)
class Direct:
    """Automatic differentiation of the accepted steps; memory grows with their number.

    Adaptive steps are found without a graph and repeated with one; without gradients they are not
    repeated.
    """

    def solve(self, problem: Problem) -> Solution:
        """Integrate."""
        beforehand = known(problem)
        if beforehand is not None:
            solution = _solve_lockstep(problem, *beforehand)
            if solution is not None:
                return solution
        again = problem.differentiable or problem.dense
        record = trace(problem, evaluate=not again)
        if not again:
            return finished(problem, record, record.values)
        start = begun(problem, record)
        collected = _Collected() if problem.dense else None
        _, _, values = replay(problem, record.plan, record.points, start, visit=collected)
        dense = None if collected is None else collected.output(record.plan)
        return finished(problem, record, values, dense)


def begun(problem: Problem, record: Record) -> Tensor:
    """States from which accepted steps are repeated, shape (batch, d), differentiable.

    A start that moves in time is a start that moves along the field: dy/dsince = -f. A sample that
    has failed at its start, where the field may have no derivative, starts where a sound one does.
    """
    start = problem.start
    since = problem.since
    if since is not None and since.requires_grad:
        with torch.no_grad():
            slope = problem.term(since.to(start.dtype), start)
            slope = torch.nan_to_num(slope, 0.0, 0.0, 0.0)
        start = start - slope * (since - since.detach()).to(start.dtype)[:, None]
    lost = (record.outcome == Outcome.NOT_FINITE) & (record.statistics.accepted == 0)
    if bool(lost.any()) and not bool(lost.all()):
        sound = problem.start[~lost][0].detach()
        start = torch.where(lost[:, None], sound, start)
    return start


def finished(
    problem: Problem,
    record: Record,
    values: list[tuple[Tensor, Tensor]],
    dense: DenseOutput | None = None,
) -> Solution:
    """The solution, from slots and states at the points of a record."""
    batch, columns = problem.batch, len(problem.times)
    gathered = record.points.gather(values, problem.start)
    states = gathered[: batch * columns].view(batch, columns, -1)
    states = _with_start(problem, states)
    solution = Solution(problem.times, states, record.outcome, record.statistics, dense)
    if record.watch is not None:
        with_gradients(problem, record, gathered[batch * columns :], solution)
    return solution


def _with_start(problem: Problem, states: Tensor) -> Tensor:
    """The start, in the column of the time at which each sample begins, if it is one of them."""
    if problem.since is None:
        return torch.cat((problem.start[:, None], states[:, 1:]), dim=1)
    here = problem.times == problem.since.detach()[:, None]
    return torch.where(here[..., None], problem.start[:, None], states)


class _Collected:
    """Polynomials of all steps of a replay."""

    def __init__(self) -> None:
        self.coefficients: list[Tensor] = []

    def __call__(self, step: Step) -> None:
        self.coefficients.append(step.interpolant.coefficients())

    def output(self, plan: Plan) -> DenseOutput | None:
        """Dense output; None if no step was taken."""
        if not self.coefficients:
            return None
        return DenseOutput(plan.starts, plan.steps, torch.stack(self.coefficients))


def known(problem: Problem) -> tuple[Plan, Points] | None:
    """Steps known beforehand; None if they have to be found, or are too many."""
    if problem.adaptive or problem.events or problem.since is not None:
        return None
    plan, points = lockstep(problem)
    return None if len(plan) > problem.max_steps else (plan, points)


class Tally:
    """What is seen of steps that were known beforehand, taken without a look on the way."""

    def __init__(self) -> None:
        self.calls = 1
        self._solved: list[Tensor] = []

    def __call__(self, step: Step) -> None:
        """Count a step."""
        self.calls += step.evaluations
        if step.solved is not None:
            self._solved.append(step.solved)

    def sound(self, y: Tensor) -> bool:
        """Whether all samples came to their end y (batch, d).

        If not, the loop, which looks, finds out where, and keeps it from the gradient of others.
        """
        sound = torch.isfinite(y.detach().sum())
        if self._solved:
            sound = sound & torch.stack(self._solved).all()
        return bool(sound)


def _solve_lockstep(problem: Problem, plan: Plan, points: Points) -> Solution | None:
    """Steps known beforehand; None if a sample failed."""
    tally = Tally()
    collected = _Collected() if problem.dense else None

    def visit(step: Step) -> None:
        tally(step)
        if collected is not None:
            collected(step)

    y, _, values = replay(problem, plan, points, problem.start, visit=visit)
    if not tally.sound(y):
        return None
    return finished(
        problem,
        lockstep_record(problem, plan, points, tally.calls),
        values,
        collected and collected.output(plan),
    )


def lockstep_record(problem: Problem, plan: Plan, points: Points, calls: int) -> Record:
    """The record of steps known beforehand, all of which were taken."""
    zeros = torch.zeros(problem.batch, dtype=torch.int64, device=problem.start.device)
    taken = zeros + len(plan)
    statistics = Statistics(taken, taken.clone(), zeros.clone(), zeros + calls)
    ends = problem.times[-1].expand(problem.batch)
    return Record(plan, points, [], zeros, statistics, ends)
