"""One attempt of all samples: each with its own time and step, kept or rejected on its own.

A sample whose attempt is rejected stays where it is, one that has ended or failed takes steps of
length zero. Nothing is raised for numbers that go wrong, and nothing is asked of the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .controllers import PID, TINY, Constant
from .plan import beside, renewed
from .problem import Problem
from .solution import Outcome
from .steppers import Step, Stepper

__all__ = ["LoopState", "advance", "begin"]

EPS = 2.0**-52


@dataclass
class LoopState:
    """Where all samples are. Shapes are (batch,) and times float64 unless said otherwise.

    Attributes:
        time: now.
        step: length proposed next, signed; zero for samples that rest.
        state: shape (batch, d).
        cache: of the stepper.
        errors: shape (batch, 3), logarithms of the last accepted errors, newest first.
        cap: by how much the step may grow.
        running: bool.
        outcome: int64.
        stop: int64, which stop comes next.
        stops: shape (m,), times at which steps end, as seen from before.
        beyond: shape (m,), the same as seen from after: they differ where the field jumps.
        accepted: int64, how many steps.
        evaluations: int64, calls of the field outside of steps.
        floor: no shorter step is repeated.
        sign: direction of time.
        jumping: whether the field jumps at any stop.
        kept: bool, the last attempt was accepted.
        taken: length of the last attempt; zero for samples that rest.
        attempt: what the last attempt gave.
    """

    time: Tensor
    step: Tensor
    state: Tensor
    cache: Tensor | None
    errors: Tensor
    cap: Tensor
    running: Tensor
    outcome: Tensor
    stop: Tensor
    stops: Tensor
    beyond: Tensor
    accepted: Tensor
    evaluations: Tensor
    floor: Tensor
    sign: float
    jumping: bool
    kept: Tensor
    taken: Tensor
    attempt: Step | None = None


def begin(problem: Problem) -> LoopState:
    """Where all samples are before the first attempt."""
    y, time, sign = problem.start.detach(), problem.first_times(), problem.sign
    double = {"dtype": torch.float64, "device": y.device}
    stops, jumps = problem.stops()
    before = [beside(s, -sign, y.dtype) if j else s for s, j in zip(stops, jumps, strict=True)]
    after = [beside(s, sign, y.dtype) if j else s for s, j in zip(stops, jumps, strict=True)]
    stop_times, beyond = torch.tensor(before, **double), torch.tensor(after, **double)
    stop = torch.searchsorted(sign * stop_times, (sign * time).contiguous(), right=True)
    running = stop < len(stops)
    time = torch.where(running, time, stop_times[-1])
    step, used = _first(problem, time, y)
    cache = problem.stepper.begin(problem.term, time, sign * step, y)
    sound = torch.isfinite(step) & torch.isfinite(y).all(1)
    zeros = torch.zeros_like(stop)
    step = torch.where(running & sound, step, 0.0)
    smallest = getattr(problem.controller, "smallest", 0.0) * (1 + 1e-9)
    return LoopState(
        time=time,
        step=sign * step,
        state=y,
        cache=cache,
        errors=torch.zeros(problem.batch, 3, **double),
        cap=torch.full_like(time, getattr(problem.controller, "grow", 1.0)),
        running=running & sound,
        outcome=torch.where(running & ~sound, int(Outcome.NOT_FINITE), zeros),
        stop=stop.clamp(max=len(stops) - 1),
        stops=stop_times,
        beyond=beyond,
        accepted=zeros,
        evaluations=zeros + (used + (cache is not None)),
        floor=(1e-16 * step).clamp(min=smallest),
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
        state: where all samples are; changed in place, its tensors are not.

    Returns:
        the same object; `kept`, `taken` and `attempt` tell what was done.
    """
    single = len(state.stops) == 1
    remaining = (state.stops if single else state.stops[state.stop]) - state.time
    # A step that would leave less than a hundredth of itself is stretched to the stop.
    reach = state.step * (1.01 if isinstance(controller, PID) else 1 + 1e-9)
    hit = remaining <= reach if state.sign > 0 else remaining >= reach
    length = torch.where(hit, remaining, state.step)
    attempt = stepper.step(term, state.time, length, state.state, state.cache)
    if isinstance(controller, PID):
        assert attempt.error is not None
        size = controller.size(attempt.error, state.state, attempt.state)
    else:
        size = torch.zeros_like(length)
    size = _spoiled(size, attempt)
    kept = (size <= 1) & state.running
    if attempt.solved is not None:
        kept = kept & attempt.solved
    failed = state.running > kept
    proposed = state.step
    if isinstance(controller, PID):
        failed = failed & (
            length.abs() <= torch.maximum(state.time.abs() * (10 * EPS), state.floor)
        )
        proposed = _proposed(stepper, controller, state, attempt, size, kept, length)
        if not single:
            proposed = _uncut(state, proposed, kept & hit)
    _update(state, attempt, kept, hit, length)
    finished = kept & hit if single else kept & hit & (state.stop == len(state.stops) - 1)
    state.outcome = torch.where(failed, _reason(attempt, size), state.outcome)
    state.running = state.running > (finished | failed)
    state.step = proposed * state.running
    if not single:
        state.stop = state.stop + (kept & hit & ~finished)
    state.kept, state.taken, state.attempt = kept, length, attempt
    return state


def _spoiled(size: Tensor, attempt: Step) -> Tensor:
    """The size (batch,), NaN where the new state or its cache is not finite."""
    size = torch.add(size, attempt.state.sum(1), alpha=0)
    if attempt.cache is not None and attempt.cache.is_floating_point():
        size = torch.add(size, attempt.cache.flatten(1).sum(1), alpha=0)
    return size


def _proposed(
    stepper: Stepper,
    controller: PID,
    state: LoopState,
    attempt: Step,
    size: Tensor,
    kept: Tensor,
    length: Tensor,
) -> Tensor:
    """The length to try next, (batch,), signed."""
    assert stepper.error_order is not None
    if controller.p == controller.d == 0:
        factor = size.clamp(min=TINY).pow(-controller.i / stepper.error_order)
    else:
        logs = size.clamp(TINY, 1 / TINY).log()
        errors = torch.cat((logs[:, None], state.errors[:, :2]), dim=1)
        factor = (errors @ controller.gains(stepper.error_order, size.device)).exp()
        factor = torch.where(kept, factor, factor.clamp(max=1.0))
        state.errors = torch.where(kept[:, None], errors, state.errors)
    factor = (factor * controller.safety).clamp(controller.shrink, controller.grow)
    factor = torch.minimum(factor.nan_to_num(controller.shrink), state.cap)
    if attempt.solved is not None:
        factor = torch.where(attempt.solved, factor, controller.shrink)
    state.cap = torch.where(kept, controller.grow, 1.0)
    proposed = length * factor
    if controller.smallest > 0:
        proposed = state.sign * proposed.abs().clamp(min=controller.smallest)
    if controller.largest < float("inf"):
        proposed = proposed.clamp(-controller.largest, controller.largest)
    return proposed


def _uncut(state: LoopState, proposed: Tensor, arrived: Tensor) -> Tensor:
    """A step cut short to end at a stop says little against the length it was to have."""
    if state.sign > 0:
        longer = torch.maximum(proposed, state.step)
    else:
        longer = torch.minimum(proposed, state.step)
    return torch.where(arrived, longer, proposed)


def _update(state: LoopState, attempt: Step, kept: Tensor, hit: Tensor, length: Tensor) -> None:
    """Move the samples whose attempt was kept."""
    target = state.beyond if len(state.stops) == 1 else state.beyond[state.stop]
    moved = torch.where(hit, target, state.time + length)
    state.time = torch.where(kept, moved, state.time)
    state.state = torch.where(kept[:, None], attempt.state, state.state)
    if attempt.cache is not None:
        old = state.cache if attempt.retry is None else attempt.retry
        state.cache = renewed(kept, attempt.cache, old)
    state.accepted = state.accepted + kept


def _reason(attempt: Step, size: Tensor) -> Tensor:
    """Why a sample is given up, by its last attempt: (batch,), values of Outcome."""
    finite = size < float("inf")
    reason = torch.where(finite, int(Outcome.STEP_TOO_SMALL), int(Outcome.NOT_FINITE))
    if attempt.solved is not None:
        reason = torch.where(attempt.solved, reason, int(Outcome.NEWTON_FAILED))
    return reason
