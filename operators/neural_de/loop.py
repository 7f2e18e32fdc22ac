"""The adaptive loop: every sample has its own time and step, and ends in its own way.

All samples make an attempt together. A sample whose attempt is rejected stays where it is, one that
has ended or failed takes steps of length zero. Nothing is raised for numbers that go wrong. The
loop runs without a graph; see `plan` for how its steps are differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .controllers import PID, TINY, Constant
from .crossings import Watch
from .implicit import DiagonallyImplicit
from .plan import Plan, Points, Selection, beside, renewed
from .problem import Problem
from .solution import Outcome, Statistics
from .steppers import Step, Stepper

__all__ = ["LoopState", "Record", "advance", "begin", "trace"]

EPS = 2.0**-52


@dataclass
class LoopState:
    """Where all samples are. Shapes are (batch,) and times float64 unless said otherwise.

    Attributes:
        time: now.
        step: length proposed next, signed.
        state: shape (batch, d).
        cache: of the stepper.
        errors: shape (batch, 3), logarithms of the last accepted errors, newest first.
        held: bool, the last attempt was rejected.
        running: bool.
        outcome: int64.
        stop: int64, which stop comes next.
        stops: shape (m,), times at which steps end, as seen from before.
        beyond: shape (m,), the same as seen from after: they differ where the field jumps.
        steps, accepted, evaluations: int64, counts.
        floor: no shorter step is tried.
        sign: direction of time.
        kept: bool, the last attempt was accepted.
        taken: length of the last attempt; zero for samples that rest.
        attempt: what the last attempt gave.
    """

    time: Tensor
    step: Tensor
    state: Tensor
    cache: Tensor | None
    errors: Tensor
    held: Tensor
    running: Tensor
    outcome: Tensor
    stop: Tensor
    stops: Tensor
    beyond: Tensor
    steps: Tensor
    accepted: Tensor
    evaluations: Tensor
    floor: Tensor
    sign: float
    jumping: bool
    kept: Tensor
    taken: Tensor
    attempt: Step | None = None


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


def begin(problem: Problem) -> LoopState:
    """The state of the loop before the first attempt."""
    y, time = problem.start.detach(), problem.first_times()
    batch, device, sign = problem.batch, y.device, problem.sign
    zeros = torch.zeros(batch, dtype=torch.int64, device=device)
    stops, jumps = problem.stops()
    before = [beside(s, -sign, y.dtype) if j else s for s, j in zip(stops, jumps, strict=True)]
    after = [beside(s, sign, y.dtype) if j else s for s, j in zip(stops, jumps, strict=True)]
    double = {"dtype": torch.float64, "device": device}
    stop_times, beyond = torch.tensor(before, **double), torch.tensor(after, **double)
    stop = torch.searchsorted(sign * stop_times, (sign * time).contiguous(), right=True)
    running = stop < len(stops)
    step, used = _first(problem, time, y)
    cache = problem.stepper.begin(problem.term, time, sign * step, y)
    sound = torch.isfinite(step) & torch.isfinite(y).all(1)
    outcome = torch.where(running & ~sound, int(Outcome.NOT_FINITE), zeros)
    step = torch.where(sound, step, 0.0)
    return LoopState(
        time=time.clone(),
        step=sign * step,
        state=y,
        cache=cache,
        errors=torch.zeros(batch, 3, **double),
        held=torch.zeros_like(running),
        running=running & sound,
        outcome=outcome,
        stop=stop.clamp(max=len(stops) - 1),
        stops=stop_times,
        beyond=beyond,
        steps=zeros.clone(),
        accepted=zeros.clone(),
        evaluations=zeros + (used + (cache is not None)),
        floor=1e-16 * step,
        sign=sign,
        jumping=any(jumps),
        kept=torch.zeros_like(running),
        taken=torch.zeros_like(step),
    )


def _first(problem: Problem, time: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Length of the first step (batch,) and the evaluations it cost."""
    controller = problem.controller
    first = controller.step if isinstance(controller, Constant) else controller.first
    if first is not None:
        return torch.full_like(time, first), 0
    assert isinstance(controller, PID) and problem.stepper.error_order is not None
    order = problem.stepper.error_order
    step = controller.first_step(problem.term, time, y, order, problem.sign)
    return step.clamp(max=controller.largest, min=controller.smallest), 2


def advance(term: Any, stepper: Stepper, controller: Constant | PID, state: LoopState) -> LoopState:
    """One attempt of every running sample.

    Args:
        term: right-hand side.
        stepper: rule of a step.
        controller: decides whether it is kept and how long the next is.
        state: where all samples are; changed in place.

    Returns:
        the same object; `kept`, `taken` and `attempt` tell what was done.
    """
    target = state.stops[state.stop]
    remaining = target - state.time
    # A step that would leave less than a hundredth of itself is stretched to the stop.
    hit = remaining.abs() <= (1.01 if isinstance(controller, PID) else 1 + 1e-9) * state.step.abs()
    length = torch.where(hit, remaining, state.step) * state.running
    attempt = stepper.step(term, state.time, length, state.state, state.cache)
    if isinstance(controller, PID):
        _judge(stepper, controller, state, attempt, length, hit)
    else:
        good = _finite(attempt, torch.zeros_like(length)) == 0
        state.kept = good & state.running & _solved(attempt)
        _fail(state, attempt, state.running & ~state.kept, good)
    kept = state.kept
    state.steps += state.running
    state.accepted += kept
    state.evaluations += state.running * attempt.evaluations
    arrived = kept & hit
    state.time = torch.where(
        kept, torch.where(hit, state.beyond[state.stop], state.time + length), state.time
    )
    state.state = torch.where(kept[:, None], attempt.state, state.state)
    if attempt.cache is not None:
        old = state.cache if attempt.retry is None else attempt.retry
        state.cache = renewed(kept, attempt.cache, old)
    finished = arrived & (state.stop == len(state.stops) - 1)
    state.running = state.running & ~finished & (state.outcome == 0)
    state.stop = torch.where(arrived & ~finished, state.stop + 1, state.stop)
    state.taken, state.attempt = length, attempt
    return state


def _judge(
    stepper: Stepper,
    controller: PID,
    state: LoopState,
    attempt: Step,
    length: Tensor,
    hit: Tensor,
) -> None:
    """Keep or reject an attempt by its error, and propose the next step."""
    assert attempt.error is not None and stepper.error_order is not None
    size = _finite(attempt, controller.size(attempt.error, state.state, attempt.state))
    good = torch.isfinite(size)
    solved = _solved(attempt)
    kept = (size <= 1) & solved & state.running
    logs = torch.where(good, size, 1 / TINY).clamp(TINY, 1 / TINY).log()
    errors = torch.cat((logs[:, None], state.errors[:, :2]), dim=1)
    gains = controller.gains(stepper.error_order, size.device)
    factor = controller.safety * (errors @ gains).exp()
    factor = factor.clamp(controller.shrink, controller.grow)
    factor = torch.where(kept, torch.where(state.held, factor.clamp(max=1.0), factor), factor)
    factor = torch.where(kept, factor, factor.clamp(max=controller.safety))
    factor = torch.where(solved & good, factor, controller.shrink)
    proposed = (length * factor).abs()
    # A step that was cut short to end at a stop says little against the length it was to have.
    proposed = torch.where(kept & hit, torch.maximum(proposed, state.step.abs()), proposed)
    smallest = torch.maximum(state.floor, 10 * EPS * state.time.abs())
    smallest = smallest.clamp(min=controller.smallest)
    hopeless = state.running & ~kept & (length.abs() <= smallest * (1 + 1e-9))
    proposed = torch.maximum(proposed, smallest).clamp(max=controller.largest)
    state.step = torch.where(state.running, state.sign * proposed, state.step)
    state.errors = torch.where(kept[:, None], errors, state.errors)
    state.held = state.running & ~kept
    state.kept = kept
    _fail(state, attempt, hopeless, good)


def _finite(attempt: Step, size: Tensor) -> Tensor:
    """The size (batch,), NaN where the new state or its cache is not finite."""
    total = attempt.state.sum(1)
    if attempt.cache is not None and attempt.cache.is_floating_point():
        total = total + attempt.cache.flatten(1).sum(1)
    return size + 0.0 * total


def _solved(attempt: Step) -> Tensor:
    if attempt.solved is not None:
        return attempt.solved
    return torch.ones(len(attempt.state), dtype=torch.bool, device=attempt.state.device)


def _fail(state: LoopState, attempt: Step, failed: Tensor, finite: Tensor) -> None:
    """Give up samples, with the reason of their last attempt."""
    reason = torch.where(finite, int(Outcome.STEP_TOO_SMALL), int(Outcome.NOT_FINITE))
    reason = torch.where(_solved(attempt), reason, int(Outcome.NEWTON_FAILED))
    state.outcome = torch.where(failed, reason, state.outcome)


@dataclass
class _Tape:
    """What a trace writes down, an entry an attempt."""

    starts: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
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
    fresh = torch.zeros_like(state.running)
    for _ in range(problem.max_steps):
        if not bool(state.running.any()):
            break
        before, done = state.time, state.accepted.clone()
        stop = state.stop
        advance(problem.term, problem.stepper, problem.controller, state)
        assert state.attempt is not None
        tape.starts.append(before)
        tape.steps.append(state.taken)
        tape.kept.append(state.kept)
        tape.fresh.append(fresh)
        if watch is not None:
            watch.look(state, before, done)
        reached = torch.searchsorted(ordered, problem.sign * state.time, right=True)
        new = torch.where(state.kept, reached - passed, 0)
        if bool(new.any()):
            _save(problem, state, tape, before, done, passed, new, evaluate)
        passed = passed + new
        if state.jumping:
            crossed = state.kept & (state.stop != stop)
            fresh = _refresh(problem, state, crossed & (state.beyond != state.stops)[stop])
    state.outcome = torch.where(state.running, int(Outcome.STEP_LIMIT), state.outcome)
    return _record(problem, state, tape, watch)


def _refresh(problem: Problem, state: LoopState, rows: Tensor) -> Tensor:
    """Begin the cache anew in the rows (batch,), bool, that have passed a jump."""
    if bool(rows.any()):
        new = problem.stepper.begin(problem.term, state.time, state.step, state.state)
        state.cache = renewed(rows, new, state.cache)
        state.evaluations += rows
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
    statistics = Statistics(
        state.steps, state.accepted, state.steps - state.accepted, state.evaluations
    )
    if isinstance(problem.stepper, DiagonallyImplicit) and state.cache is not None:
        work = problem.stepper.work(state.cache, problem.start.shape[1])
        statistics.jacobians, statistics.factorisations = work
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
