"""Steps whose length is chosen by their error, every sample for itself.

A step is compared with two of half the length along the same Brownian path, which a `BrownianTree`
knows at all times: nothing about the path is forgotten when a step is rejected (Gaines and Lyons,
"Variable step size control in the numerical solution of stochastic differential equations", SIAM J.
Appl. Math. 57 (1997)). They also show that schemes below strong order 1 can converge to something
else when steps depend on the path, so that those are refused. The difference measures a single step
along the path; it bounds the error at the end as little as tolerances of ordinary equations do.
"""

from __future__ import annotations

import math
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
    loop = _Loop(problem, controller, tree, order, max_steps)
    taken: list[_Taken] = []
    while bool(loop.running.any()):
        attempt = loop.advance()
        if bool(attempt.kept.any()):
            taken.append(attempt)
    steps, accepted = loop.steps, loop.accepted
    calls = steps * 3 * problem.stepper.evaluations
    return taken, loop.outcome, Statistics(steps, accepted, steps - accepted, calls)


class _Loop:
    """Where all samples are; tensors are (batch,) and times float64 unless said otherwise.

    Attributes:
        t: now.
        h: length proposed next, positive.
        y: shape (batch, d).
        memory: of the stepper.
        path: value of the Brownian tree now.
        target: number of the time asked for that comes next.
        errors: shape (batch, 3), logarithms of the last accepted errors, newest first.
        running: which samples are under way.
        outcome: how they ended.
        steps: attempts.
        accepted: attempts that were kept.
    """

    def __init__(
        self,
        problem: StochasticProblem,
        controller: PID,
        tree: BrownianTree,
        order: float,
        max_steps: int,
    ) -> None:
        self._problem, self._controller, self._tree = problem, controller, tree
        self._max_steps = max_steps
        self.y = problem.start
        self._times = problem.times.to(self.y.device)
        first, last = float(self._times[0]), float(self._times[-1])
        self._sign, span = math.copysign(1.0, last - first), abs(last - first)
        self._floor = max(controller.smallest, 4 * tree.resolution)
        # The local error falls with a power half above the order at the end.
        self._gains = controller.gains(1, self.y.device) / (order + 0.5)
        batch = len(self.y)
        self.t = self._times[0].expand(batch).clone()
        length = min(controller.first or 0.01 * span, controller.largest, span)
        self.h = torch.full_like(self.t, length)
        self.target = torch.ones(batch, dtype=torch.int64, device=self.y.device)
        self.outcome = torch.zeros_like(self.target)
        self.steps, self.accepted = self.outcome.clone(), self.outcome.clone()
        self.running = torch.ones_like(self.target, dtype=torch.bool)
        self.errors = torch.zeros(batch, 3, dtype=torch.float64, device=self.y.device)
        self.memory = problem.stepper.begin(problem.sde, self.t.to(self.y.dtype), self.y)
        self.path = tree.value(self.t)

    def advance(self) -> _Taken:
        """One attempt of every sample that is under way."""
        t, rest = self.t, (self._times[self.target] - self.t).abs()
        # Not so that a sliver is left before a time asked for.
        length = torch.where(self.h > 0.99 * rest, rest, torch.minimum(self.h, 0.5 * rest))
        length = torch.where(self.running, length, 0.0)
        signed = self._sign * length
        centre, end = t + 0.5 * signed, t + signed
        middle, ahead = self._tree.value(centre), self._tree.value(end)
        halves = (
            _cast(self._tree.between(self.path, middle, t, centre), self.y),
            _cast(self._tree.between(middle, ahead, centre, end), self.y),
        )
        full, _ = _steps(self._problem, t, signed, self.y, (joined(*halves),), self.memory)
        fine, memory = _steps(self._problem, t, signed, self.y, halves, self.memory)
        kept, landed = self._judge(fine - full, fine, length, rest)
        reached = torch.where(landed, self.target, 0)
        self._end(landed, reached)
        self.t = torch.where(landed, self._times[reached], torch.where(kept, end, t))
        self.y = torch.where(kept[:, None], fine, self.y)
        self.memory = _rows(kept, memory, self.memory)
        self.path = _row(kept, ahead[0], self.path[0]), _row(kept, ahead[1], self.path[1])
        return _Taken(t, signed, halves, kept, reached)

    def _judge(
        self, error: Tensor, fine: Tensor, length: Tensor, rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which attempts are kept and which of them came to a time; the next lengths."""
        control = self._controller
        size = control.size(error, self.y, fine)
        finite = torch.isfinite(size) & torch.isfinite(fine).all(1)
        size = torch.where(finite, size, torch.inf)
        kept = self.running & (size <= 1)
        self.steps += self.running
        self.accepted += kept
        log = size.clamp(TINY, 1e300).log()
        history = torch.cat((log[:, None], self.errors[:, :2]), dim=1)
        factor = control.safety * (history * self._gains).sum(1).exp()
        factor = factor.clamp(control.shrink, control.grow)
        factor = torch.where(kept, factor, factor.clamp(max=control.safety))
        self.errors = torch.where(kept[:, None], history, self.errors)
        landed = kept & (length >= rest)
        # A step that was cut to end at a time says little against the longer one proposed.
        grown = torch.where(landed, torch.maximum(self.h, length * factor), length * factor)
        self.h = torch.where(self.running, grown.clamp(max=control.largest), self.h)
        small = self.running & ~kept & (self.h < self._floor)
        why = torch.where(finite, int(Outcome.STEP_TOO_SMALL), int(Outcome.NOT_FINITE))
        self.outcome = torch.where(small, why, self.outcome)
        self.running = self.running & ~small
        return kept, landed

    def _end(self, landed: Tensor, reached: Tensor) -> None:
        """Which samples are done, and which have made too many attempts."""
        last = len(self._times) - 1
        done = landed & (reached == last)
        late = self.running & ~done & (self.steps >= self._max_steps)
        self.outcome = torch.where(late, int(Outcome.STEP_LIMIT), self.outcome)
        self.running = self.running & ~late & ~done
        self.target = torch.where(landed & ~done, self.target + 1, self.target)


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
