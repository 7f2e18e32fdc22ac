"""The adaptive loop: every sample has its own time and step, and ends in its own way.

All samples make an attempt together. A sample whose attempt is rejected stays where it is, one that
has ended or failed takes steps of length zero. Nothing is raised for numbers that go wrong. The
loop runs without a graph; see `plan` for how its steps are differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attempt import LoopState, advance, begin
from .crossings import Watch
from .plan import Plan, Points, Selection, renewed
from .problem import Problem
from .solution import Outcome, Statistics

__all__ = ["LoopState", "Record", "advance", "begin", "trace"]


@dataclass
class Record:
    """What a trace found.

    Attributes:
        plan: the accepted steps.
        points: where in them the states wanted lie: slot ``row * n + column`` for the times, then
            one slot a sample for its terminal event, then one for each crossing.
        values: slots and states, if they were evaluated on the way.
        outcome: shape (batch,), int64.
        statistics: counts by sample.
        ends: shape (batch,), float64, time at which each sample ended.
        watch: the events found, or None.
    """

    plan: Plan
    points: Points
    values: list[tuple[Tensor, Tensor]]
    outcome: Tensor
    statistics: Statistics
    ends: Tensor
    watch: Watch | None = None


@dataclass
class _Tape:
    """What a trace writes down, an entry an attempt."""

    starts: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    fresh: list[Tensor] = field(default_factory=list)
    which: list[Tensor] = field(default_factory=list)
    slots: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    theta: list[Tensor] = field(default_factory=list)
    values: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@torch.no_grad()
def trace(problem: Problem, evaluate: bool = True) -> Record:
    """Integrate without a graph and write the accepted steps down.

    Args:
        problem: what to integrate.
        evaluate: whether to evaluate the states at the times on the way.
    """
    state, tape = begin(problem), _Tape()
    watch = Watch(problem, state.time, state.state) if problem.events else None
    ordered = (problem.sign * problem.times).contiguous()
    # Times before a sample begins are passed over; the time at which it begins is its start.
    passed = torch.searchsorted(ordered, problem.sign * state.time, right=True)
    fresh, going = torch.zeros_like(state.running), bool(state.running.any())
    for _ in range(problem.max_steps):
        if not going:
            break
        before, done, stop = state.time, state.accepted, state.stop
        tape.running.append(state.running)
        advance(problem.term, problem.stepper, problem.controller, state)
        assert state.attempt is not None
        tape.starts.append(before)
        tape.steps.append(state.taken)
        tape.kept.append(state.kept)
        tape.evaluations.append(state.attempt.evaluations)
        if watch is not None:
            watch.look(state, before, done)
        new = _passed(problem, state, ordered, passed)
        going, saving = torch.stack((state.running.any(), new.any())).tolist()
        if saving:
            _save(problem, state, tape, before, done, passed, new, evaluate)
            passed = passed + new
        if state.jumping:
            tape.fresh.append(fresh)
            crossed = state.kept & (state.stop != stop)
            fresh = _refresh(problem, state, crossed & (state.beyond != state.stops)[stop])
    state.outcome = torch.where(state.running, int(Outcome.STEP_LIMIT), state.outcome)
    return _record(problem, state, tape, watch)


def _passed(problem: Problem, state: LoopState, ordered: Tensor, passed: Tensor) -> Tensor:
    """How many of the times the last attempt has passed, (batch,)."""
    if len(ordered) == 2:
        return state.kept & (state.time == problem.times[-1])
    reached = torch.searchsorted(ordered, problem.sign * state.time, right=True)
    return (reached - passed) * state.kept


def _refresh(problem: Problem, state: LoopState, rows: Tensor) -> Tensor:
    """Begin the cache anew in the rows (batch,), bool, that have passed a jump."""
    if bool(rows.any()):
        new = problem.stepper.begin(problem.term, state.time, state.step, state.state)
        state.cache = renewed(rows, new, state.cache)
        state.evaluations = state.evaluations + rows
    return rows


def _save(
    problem: Problem,
    state: LoopState,
    tape: _Tape,
    before: Tensor,
    done: Tensor,
    passed: Tensor,
    new: Tensor,
    evaluate: bool,
) -> None:
    """Write down the times that the last attempt has passed: `new` (batch,) of each sample."""
    new = new.long()
    rows = torch.repeat_interleave(new)
    offset = torch.arange(len(rows), device=rows.device) - (new.cumsum(0) - new)[rows]
    columns = passed[rows] + offset
    theta = (problem.times[columns] - before[rows]) / state.taken[rows]
    selection = Selection(rows * len(problem.times) + columns, rows, theta.clamp(max=1.0))
    tape.which.append(done[rows])
    tape.slots.append(selection.slots)
    tape.rows.append(rows)
    tape.theta.append(selection.theta)  # pyright: ignore[reportArgumentType]
    if evaluate:
        assert state.attempt is not None
        tape.values.append((selection.slots, selection.states(state.attempt)))


def _record(problem: Problem, state: LoopState, tape: _Tape, watch: Watch | None) -> Record:
    """Lay the accepted steps of all samples side by side."""
    count = int(state.accepted.max()) if tape.kept else 0
    statistics = _statistics(problem, state, tape)
    slots = problem.batch * len(problem.times) + (watch.slots if watch is not None else 0)
    points = Points(slots)
    if count == 0:
        empty = state.time.new_zeros((0, problem.batch))
        plan = Plan(empty, empty, [])
        return Record(plan, points, [], state.outcome, statistics, state.time, watch)
    kept = torch.stack(tape.kept)
    # A stable sort moves the accepted steps of each sample to the front, in their order.
    order = torch.argsort((~kept).to(torch.int8), dim=0, stable=True)[:count]
    real = torch.arange(count, device=kept.device)[:, None] < state.accepted
    starts = torch.stack(tape.starts).gather(0, order)
    steps = torch.stack(tape.steps).gather(0, order) * real
    starts = torch.where(real, starts, state.time)
    refresh: list[Tensor | None] = [None] * count
    if state.jumping:
        # The cache is renewed at the first attempt after a jump, which may have been rejected.
        fresh = _carried(torch.stack(tape.fresh), kept).gather(0, order) & real
        some = fresh.any(1).tolist()
        refresh = [row if any_ else None for row, any_ in zip(fresh, some, strict=True)]
    if tape.which:
        points.add_mixed(*(torch.cat(x) for x in (tape.which, tape.slots, tape.rows, tape.theta)))
    if watch is not None:
        tape.values += watch.add_points(points)
    plan = Plan(starts, steps, refresh)
    return Record(plan, points, tape.values, state.outcome, statistics, state.time, watch)


def _carried(fresh: Tensor, kept: Tensor) -> Tensor:
    """Marks (attempts, batch) moved from rejected attempts to the accepted one that follows."""
    fresh = fresh.clone()
    for i in range(len(fresh) - 1):
        fresh[i + 1] |= fresh[i] & ~kept[i]
    return fresh


def _statistics(problem: Problem, state: LoopState, tape: _Tape) -> Statistics:
    """Counts by sample. A sample that rests is not charged."""
    steps, evaluations = torch.zeros_like(state.accepted), state.evaluations
    if tape.running:
        running = torch.stack(tape.running)
        steps = running.sum(0)
        calls = torch.tensor(tape.evaluations, device=steps.device)
        evaluations = evaluations + (running * calls[:, None]).sum(0)
    statistics = Statistics(steps, state.accepted, steps - state.accepted, evaluations)
    work = getattr(problem.stepper, "work", None)
    if work is not None and state.cache is not None:
        statistics.jacobians, statistics.factorisations = work(state.cache, problem.start.shape[1])
    return statistics
