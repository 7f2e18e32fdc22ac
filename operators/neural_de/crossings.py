"""Roots of events inside the steps, and their gradients.

A root is looked for where the condition changes its sign between the ends of a step (or between a
few points of it), on the interpolant of the step, by Chandrupatla's method: inverse quadratic
interpolation where it is safe, bisection elsewhere. The gradient is that of the implicit function
theorem: with c(t, y(t)) = 0,

    dt = -dc / (c_t + c_y . f),

where dc is the change of c at fixed t, and dy = f dt comes on top of the change of y at fixed t.

Sources: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a
nonlinear function without using derivatives", Adv. Eng. Software 28 (1997); Chen, Amos and Nickel,
"Learning neural event functions for ordinary differential equations", ICLR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .events import Event
from .plan import Points
from .problem import Problem
from .solution import Crossings, Outcome, Solution

if TYPE_CHECKING:
    from .loop import LoopState, Record

__all__ = ["Watch", "root", "with_gradients"]

EARLY = 2.0**-10
"""Fraction of the first step at which a condition that begins at zero shows its sign."""


@dataclass
class _Roots:
    """Roots of one event, an entry a step in which there were some; each of shape (k,)."""

    rows: list[Tensor] = field(default_factory=list)
    which: list[Tensor] = field(default_factory=list)
    theta: list[Tensor] = field(default_factory=list)
    times: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def add(
        self, rows: Tensor, which: Tensor, theta: Tensor, times: Tensor, states: Tensor
    ) -> None:
        """Write roots of one step down; arguments of shape (batch, ...), rows bool."""
        self.rows.append(rows.nonzero()[:, 0])
        self.which.append(which[rows])
        self.theta.append(theta[rows])
        self.times.append(times[rows])
        self.states.append(states[rows])

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)


class Watch:
    """Looks at every accepted step for roots of the events.

    Attributes:
        event: shape (batch,), int64, the terminal event of each sample, -1 for none.
        terminal: roots of all terminal events.
        passing: by event, roots of those that are not terminal.
    """

    def __init__(self, problem: Problem, time: Tensor, state: Tensor) -> None:
        self.problem = problem
        self.events = tuple(problem.events)
        self.dtype = state.dtype
        self.values = [self._value(event, time, state) for event in self.events]
        self.event = torch.full_like(time, -1, dtype=torch.int64)
        self.terminal = _Roots()
        self.passing = [_Roots() for _ in self.events]
        self.starting = True

    @property
    def slots(self) -> int:
        """Slots for the states at roots: one a sample, then one for each that is passed."""
        return len(self.event) + sum(len(roots) for roots in self.passing)

    def look(self, state: LoopState, before: Tensor, done: Tensor) -> None:
        """Look for roots in the last attempt; end the samples whose event is terminal.

        Args:
            state: of the loop after the attempt; changed in place.
            before: shape (batch,), times at which the attempt began.
            done: shape (batch,), accepted steps before it.
        """
        brackets = [self._bracket(i, state, before, done) for i in range(len(self.events))]
        if self.starting:
            self.starting = bool((state.running & (state.accepted == 0)).any())
        if not bool(torch.stack([found for found, _, _ in brackets]).any()):
            return
        inf = math.inf
        thetas = torch.stack(
            [
                torch.where(found, self._root(event, state, before, low, high), inf)
                for event, (found, low, high) in zip(self.events, brackets, strict=True)
            ]
        )
        ending = torch.tensor([e.terminal for e in self.events], device=thetas.device)
        first, index = torch.where(ending[:, None], thetas, inf).min(0)
        for roots, event, theta in zip(self.passing, self.events, thetas, strict=True):
            rows = (theta <= first) & (theta <= 1)
            if not event.terminal and bool(rows.any()):
                theta = torch.where(rows, theta, 0.0)
                inside = state.attempt.interpolant(theta)  # pyright: ignore[reportOptionalMemberAccess]
                roots.add(rows, done, theta, before + theta * state.taken, inside)
        rows = first <= 1
        if bool(rows.any()):
            self._end(state, rows, first, before, done, index)

    def add_points(self, points: Points) -> list[tuple[Tensor, Tensor]]:
        """Want the states at the roots: in the slots after those of the times.

        Returns:
            these slots and the states as they were found, without a graph.
        """
        offset = points.count - self.slots
        values: list[tuple[Tensor, Tensor]] = []
        for roots, base in self._numbered():
            if len(roots) == 0:
                continue
            rows, which, theta = (torch.cat(x) for x in (roots.rows, roots.which, roots.theta))
            slots = rows if base is None else base + torch.arange(len(rows), device=rows.device)
            points.add_mixed(which, offset + slots, rows, theta)
            values.append((offset + slots, torch.cat(roots.states)))
        return values

    def times(self, otherwise: Tensor) -> Tensor:
        """Times (batch,) of the terminal events, `otherwise` where there is none."""
        if len(self.terminal) == 0:
            return otherwise
        rows, times = torch.cat(self.terminal.rows), torch.cat(self.terminal.times)
        return otherwise.clone().index_copy(0, rows, times)

    def _numbered(self) -> list[tuple[_Roots, int | None]]:
        """Roots with their first slot; None where the slot is the sample."""
        numbered: list[tuple[_Roots, int | None]] = [(self.terminal, None)]
        base = len(self.event)
        for roots in self.passing:
            numbered.append((roots, base))
            base += len(roots)
        return numbered

    def _value(self, event: Event, time: Tensor, state: Tensor) -> Tensor:
        return event.condition(time.to(self.dtype), state)

    def _inside(self, event: Event, state: LoopState, before: Tensor, theta: Tensor) -> Tensor:
        """The condition (batch,) at fractions theta (batch,) of the last attempt."""
        assert state.attempt is not None
        inside = state.attempt.interpolant(theta)
        return self._value(event, before + theta * state.taken, inside)

    def _bracket(
        self, number: int, state: LoopState, before: Tensor, done: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Whether there is a root (batch,), and between which fractions of the step."""
        event, value = self.events[number], self.values[number]
        low = torch.zeros_like(before)
        if self.starting:
            early = self._inside(event, state, before, torch.full_like(low, EARLY))
            nothing = value.abs() <= 4 * torch.finfo(value.dtype).eps ** 0.5 * early.abs()
            here = (done == 0) & nothing
            value, low = torch.where(here, early, value), torch.where(here, EARLY, low)
        found = torch.zeros_like(state.kept)
        high = torch.ones_like(low)
        for look in range(1, event.looks + 1):
            theta = torch.full_like(low, look / event.looks)
            if look == event.looks:
                after = self._value(event, before + state.taken, state.attempt.state)  # pyright: ignore[reportOptionalMemberAccess]
            else:
                after = self._inside(event, state, before, theta)
            rises, falls = (value < 0) & (after >= 0), (value > 0) & (after <= 0)
            through = rises if event.direction > 0 else falls
            if event.direction == 0:
                through = rises | falls
            through = through & state.kept & (theta > low)
            high = torch.where(through & ~found, theta, high)
            low = torch.where(found | through, low, torch.maximum(theta, low))
            found = found | through
            value = after
        self.values[number] = torch.where(state.kept, value, self.values[number])
        return found, torch.where(found, low, 0.0), high

    def _root(
        self, event: Event, state: LoopState, before: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        return root(lambda theta: self._inside(event, state, before, theta), low, high, self.dtype)

    def _end(
        self,
        state: LoopState,
        rows: Tensor,
        theta: Tensor,
        before: Tensor,
        done: Tensor,
        index: Tensor,
    ) -> None:
        """End the samples `rows` (batch,), bool, at fractions theta of the last attempt."""
        assert state.attempt is not None
        theta = torch.where(rows, theta, 0.0)
        times = before + theta * state.taken
        inside = state.attempt.interpolant(theta)
        self.terminal.add(rows, done, theta, times, inside)
        self.event = torch.where(rows, index, self.event)
        state.time = torch.where(rows, times, state.time)
        state.state = torch.where(rows[:, None], inside, state.state)
        state.outcome = torch.where(rows, int(Outcome.EVENT), state.outcome)
        state.running = state.running & ~rows


def root(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, dtype: torch.dtype
) -> Tensor:
    """Roots of a function between low and high (batch,), where it has different signs there.

    Args:
        function: (batch,) to (batch,), each entry of its own.
        low: shape (batch,).
        high: shape (batch,).
        dtype: in which the function is evaluated: says how close roots can be told apart.
    """
    eps = torch.finfo(dtype).eps
    a, b = high, low
    fa, fb = function(a).double(), function(b).double()
    best = torch.where(fa.abs() < fb.abs(), a, b)
    t = torch.full_like(a, 0.5)
    done = (fa == 0) | (fb == 0) | (fa.sign() == fb.sign())
    for _ in range(100):
        if bool(done.all()):
            break
        x = a + t * (b - a)
        fx = function(x).double()
        same = fx.sign() == fa.sign()
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        nearest = torch.where(fa.abs() < fb.abs(), a, b)
        best = torch.where(done, best, nearest)
        limit = (2 * eps * nearest.abs() + 0.1 * eps) / (b - a).abs()
        done = done | (limit > 0.5) | (fa == 0) | (fb == 0) | ~limit.isfinite()
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        curved = fa / (fb - fa) * fc / (fb - fc)
        curved = curved + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = torch.where(safe & curved.isfinite(), curved, 0.5)
        t = torch.minimum(torch.maximum(t, limit), 1 - limit)
    return best


def with_gradients(problem: Problem, record: Record, states: Tensor, solution: Solution) -> None:
    """Complete a solution with its events.

    Args:
        problem: with the events.
        record: with what the watch found.
        states: shape (slots, d), states in the slots of the watch, differentiable at fixed times.
        solution: changed in place.
    """
    watch = record.watch
    assert watch is not None
    batch = problem.batch
    happened = watch.event >= 0
    last = torch.where(happened[:, None], states[:batch], solution.states[:, -1])
    times = watch.times(record.ends)
    for number, event in enumerate(problem.events):
        rows = watch.event == number
        if event.terminal and bool(rows.any()):
            times, last = _moved(problem, event, rows, times, last)
    solution.event, solution.event_times, solution.event_states = watch.event, times, last
    crossings: list[Crossings] = []
    for event, (roots, base) in zip(problem.events, watch._numbered()[1:], strict=True):
        assert base is not None
        crossings.append(_crossings(problem, event, roots, states[base : base + len(roots)]))
    solution.crossings = tuple(crossings)


def _crossings(problem: Problem, event: Event, roots: _Roots, states: Tensor) -> Crossings:
    """Roots of an event that is passed, differentiable, in the order of samples in every step."""
    if len(roots) == 0:
        nowhere = torch.zeros(0, dtype=torch.int64, device=states.device)
        return Crossings(nowhere, problem.times.new_zeros(0), states)
    rows, times = torch.cat(roots.rows), torch.cat(roots.times)
    if not states.requires_grad:
        return Crossings(rows, times, states)
    new_times, new_states = torch.empty_like(times), torch.empty_like(states)
    places = torch.arange(len(rows), device=rows.device)
    # A field may hold data of each sample, so that it is called for the whole batch, once for the
    # first root of every sample, once for the second, and so on.
    order = torch.zeros_like(rows)
    seen: dict[int, int] = {}
    for place, row in enumerate(rows.tolist()):
        order[place] = seen.get(row, 0)
        seen[row] = seen.get(row, 0) + 1
    for turn in range(max(seen.values())):
        these = places[order == turn]
        mask = torch.zeros(problem.batch, dtype=torch.bool, device=rows.device)
        mask[rows[these]] = True
        t = problem.times[:1].expand(problem.batch).index_copy(0, rows[these], times[these])
        y = problem.start.detach().index_copy(0, rows[these], states[these])
        t, y = _moved(problem, event, mask, t, y)
        new_times = new_times.index_copy(0, these, t[rows[these]])
        new_states = new_states.index_copy(0, these, y[rows[these]])
    return Crossings(rows, new_times, new_states)


def _moved(
    problem: Problem, event: Event, rows: Tensor, times: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Times (batch,) and states (batch, d) of roots with the gradient of the time.

    Args:
        problem: with the term.
        event: with the condition.
        rows: shape (batch,), bool, to which samples this applies.
        times: shape (batch,).
        states: shape (batch, d), differentiable at fixed times.
    """
    if not torch.is_grad_enabled():
        return times, states
    safe = torch.where(rows[:, None], states, problem.start.detach())
    fixed = times.detach().to(safe.dtype)
    value = event.condition(fixed, safe)
    if not value.requires_grad:
        return times, states
    with torch.no_grad():
        slope = problem.term(fixed, safe.detach())
    total = _total(event, fixed, safe.detach(), slope)
    # A solution that only touches zero has no derivative of its time.
    usable = rows & (total != 0)
    move = -(value - value.detach()) / torch.where(usable, total, 1.0)
    move = torch.where(usable, move, 0.0)
    return times + move, torch.where(rows[:, None], safe + slope * move[:, None], states)


def _total(event: Event, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """The derivative of the condition along the solution, shape (batch,)."""
    with torch.enable_grad():
        t, y = t.clone().requires_grad_(), y.clone().requires_grad_()
        value = event.condition(t, y).sum()
        by_t, by_y = torch.autograd.grad(value, (t, y), allow_unused=True)
    total = torch.zeros_like(t)
    if by_t is not None:
        total = total + by_t
    if by_y is not None:
        total = total + (by_y * slope).sum(1)
    return total.detach()
