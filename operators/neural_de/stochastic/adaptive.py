"""Steps whose length is chosen by their error, every sample for itself.

A step is compared with two of half the length along the same Brownian path, which a `BrownianTree`
knows at all times: nothing about the path is forgotten when a step is rejected (Gaines and Lyons,
"Variable step size control in the numerical solution of stochastic differential equations", SIAM J.
Appl. Math. 57 (1997)). They also show that schemes below strong order 1 can converge to something
else when steps depend on the path, so that those are refused. The difference measures a single step
along the path; it bounds the error at the end as little as tolerances of ordinary equations do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..controllers import PID, TINY
from ..solution import Outcome, Solution, Statistics
from .brownian import Counted
from .interval import BrownianTree
from .levy import Draw, joined
from .problem import Source, StochasticProblem
from .steppers import Memory

__all__ = ["solve"]


@dataclass
class _Taken:
    """An attempt: from t (batch,) by h (batch,), along two halves of the path; who kept it."""

    t: Tensor
    h: Tensor
    halves: tuple[Draw, Draw]
    kept: Tensor
    reached: Tensor


def solve(problem: StochasticProblem, controller: PID, source: Source, max_steps: int) -> Solution:
    """Integrate with adaptive steps.

    Raises:
        ConfigurationError: the stepper's order is too low, or the noise is of a kind that samples
            at different times cannot share.
    """
    order = problem.stepper.orders[problem.sde.noise]
    if order < 1 or problem.area:
        raise ConfigurationError(
            f"With {problem.sde.noise} noise, {problem.stepper!r} has strong order {order}; steps "
            "that depend on the path can then lead to another solution.",
            advice="choose a stepper of order 1, such as Milstein(), or fixed steps",
        )
    tree = _tree(problem, source)
    with torch.no_grad():
        taken, outcome, statistics = _trace(problem, controller, tree, order, max_steps)
    states = _replay(problem, taken)
    bad = outcome[:, None] != Outcome.SUCCESS
    if bool(bad.any()):
        missing = ~_reached(problem, taken)
        states = torch.where((missing & bad)[..., None], torch.nan, states)
    return Solution(problem.times, states, outcome, statistics)


def _tree(problem: StochasticProblem, source: Source) -> BrownianTree:
    if isinstance(source, BrownianTree):
        return source
    if source is None:
        source = int(torch.randint(2**62, (1,)).item())
    if isinstance(source, Counted):
        source = source.seed
    if not isinstance(source, int):
        raise ConfigurationError(
            "With adaptive steps samples are at times of their own.",
            found=source,
            advice="give a seed or a BrownianTree as noise",
        )
    y = problem.start
    low, high = sorted((float(problem.times[0]), float(problem.times[-1])))
    return BrownianTree(low, high, len(y), problem.channels, source, dtype=y.dtype, device=y.device)


def _trace(
    problem: StochasticProblem, controller: PID, tree: BrownianTree, order: float, max_steps: int
) -> tuple[list[_Taken], Tensor, Statistics]:
    """All attempts that some sample kept, without a graph."""
    y, times = problem.start, problem.times.to(problem.start.device)
    batch, sign = len(y), 1.0 if times[-1] > times[0] else -1.0
    span = float((times[-1] - times[0]).abs())
    t = times[0].expand(batch).clone()
    h = torch.full_like(t, min(controller.first or 0.01 * span, controller.largest, span))
    target = torch.ones(batch, dtype=torch.int64, device=y.device)
    outcome = torch.zeros_like(target)
    running = torch.ones_like(target, dtype=torch.bool)
    floor = max(controller.smallest, 4 * tree.resolution)
    # The local error falls with a power half above the order at the end.
    gains = controller.gains(1, y.device) / (order + 0.5)
    errors = torch.zeros(batch, 3, dtype=torch.float64, device=y.device)
    memory = problem.stepper.begin(problem.sde, t.to(y.dtype), y)
    path = tree.value(t)
    steps, accepted = torch.zeros_like(target), torch.zeros_like(target)
    taken: list[_Taken] = []
    while bool(running.any()):
        rest = (times[target] - t).abs()
        # Not so that a sliver is left before a time asked for.
        length = torch.where(h > 0.99 * rest, rest, torch.minimum(h, 0.5 * rest))
        length = torch.where(running, length, 0.0)
        signed = sign * length
        middle, ahead = tree.value(t + 0.5 * signed), tree.value(t + signed)
        halves = (
            _cast(tree.between(path, middle, t, t + 0.5 * signed), y),
            _cast(tree.between(middle, ahead, t + 0.5 * signed, t + signed), y),
        )
        full, _ = _steps(problem, t, signed, y, (joined(*halves),), memory)
        fine, after = _steps(problem, t, signed, y, halves, memory)
        size = controller.size(fine - full, y, fine)
        finite = torch.isfinite(size) & torch.isfinite(fine).all(1)
        size = torch.where(finite, size, torch.inf)
        kept = running & (size <= 1)
        steps += running
        accepted += kept
        log = size.clamp(TINY, 1e300).log()
        history = torch.cat((log[:, None], errors[:, :2]), dim=1)
        factor = controller.safety * (history * gains).sum(1).exp()
        factor = factor.clamp(controller.shrink, controller.grow)
        factor = torch.where(kept, factor, factor.clamp(max=controller.safety))
        errors = torch.where(kept[:, None], history, errors)
        landed = kept & (length >= rest)
        # A step that was cut to end at a time says little against the longer one proposed.
        grown = torch.where(landed, torch.maximum(h, length * factor), length * factor)
        h = torch.where(running, grown.clamp(max=controller.largest), h)
        small = running & ~kept & (h < floor)
        outcome = torch.where(
            small, torch.where(finite, Outcome.STEP_TOO_SMALL, Outcome.NOT_FINITE), outcome
        )
        late = running & ~small & (steps >= max_steps)
        reached = torch.where(landed, target, 0)
        target = torch.where(landed & (target < len(times) - 1), target + 1, target)
        done = landed & (reached == len(times) - 1)
        outcome = torch.where(late & ~done, int(Outcome.STEP_LIMIT), outcome)
        running = running & ~small & ~late & ~done
        if bool(kept.any()):
            taken.append(_Taken(t, signed, halves, kept, reached))
        t = torch.where(landed, times[reached], torch.where(kept, t + signed, t))
        y, memory = torch.where(kept[:, None], fine, y), _rows(kept, after, memory)
        path = _row(kept, ahead[0], path[0]), _row(kept, ahead[1], path[1])
    calls = steps * 3 * problem.stepper.evaluations
    return taken, outcome, Statistics(steps, accepted, steps - accepted, calls)


def _replay(problem: StochasticProblem, taken: list[_Taken]) -> Tensor:
    """The steps that were kept, once more, with a graph; states (batch, n, d)."""
    y = problem.start
    batch, columns = len(y), len(problem.times)
    memory = problem.stepper.begin(
        problem.sde, problem.times[:1].to(y.device, y.dtype).expand(batch), y
    )
    states = [y] * columns
    for attempt in taken:
        ahead, after = _steps(problem, attempt.t, attempt.h, y, attempt.halves, memory)
        y = torch.where(attempt.kept[:, None], ahead, y)
        memory = _rows(attempt.kept, after, memory)
        for column in attempt.reached.unique().tolist():
            if column > 0:
                here = (attempt.reached == column)[:, None]
                states[column] = torch.where(here, y, states[column])
    return torch.stack(states, dim=1)


def _reached(problem: StochasticProblem, taken: list[_Taken]) -> Tensor:
    """Which times each sample came to, shape (batch, n), bool."""
    last = torch.zeros(len(problem.start), dtype=torch.int64, device=problem.start.device)
    for attempt in taken:
        last = torch.maximum(last, attempt.reached)
    return torch.arange(len(problem.times), device=last.device) <= last[:, None]


def _steps(
    problem: StochasticProblem,
    t: Tensor,
    h: Tensor,
    y: Tensor,
    draws: tuple[Draw, ...],
    memory: Memory,
) -> tuple[Tensor, Memory]:
    """As many equal steps as there are draws; samples that rest take a dummy one of length 1."""
    length = torch.where(h == 0, 1.0, h / len(draws))
    for i, draw in enumerate(draws):
        time = (t + i * length).to(y.dtype)
        y, memory = problem.stepper.step(
            problem.sde, time, length.to(y.dtype)[:, None], y, draw, memory
        )
    return y, memory


def _cast(draw: Draw, like: Tensor) -> Draw:
    assert draw.h is not None
    return Draw(draw.w.to(like.dtype), draw.h.to(like.dtype))


def _rows(kept: Tensor, new: Memory, old: Memory) -> Memory:
    """Rows of the new tensors where kept, else of the old ones."""
    return tuple(_row(kept, a, b) for a, b in zip(new, old, strict=True))


def _row(kept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(kept.view(-1, *[1] * (new.dim() - 1)), new, old)
