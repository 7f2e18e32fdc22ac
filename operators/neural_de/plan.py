"""Steps that are known: how every sample gets from its start to its end, and their repetition.

An adaptive loop finds the steps without a graph; then they are repeated with one. So rejected steps
cost no memory, a trial step that is not finite cannot spoil a gradient, and every way to
differentiate, all of whose step sizes are constants, shares the one repetition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .problem import Problem
from .steppers import Step, Stepper

__all__ = ["Plan", "Points", "Selection", "lockstep", "replay"]


class Stepped(Protocol):
    """What is needed to repeat steps; a `Problem` has it."""

    term: Any
    stepper: Stepper


@dataclass
class Plan:
    """The accepted steps of all samples, side by side.

    Attributes:
        starts: shape (steps, batch), float64, time at which each begins.
        steps: shape (steps, batch), float64, length, negative backward in time; zero once a sample
            has ended.
        refresh: by step, the samples (batch,) whose cache is begun anew there; None for none.
    """

    starts: Tensor
    steps: Tensor
    refresh: list[Tensor | None]

    def __len__(self) -> int:
        return len(self.refresh)


@dataclass
class Selection:
    """Points inside one step at which states are wanted, m of them.

    Attributes:
        slots: shape (m,), int64, where the states go.
        rows: shape (m,), int64, samples; None for every one, once.
        theta: shape (m,), float64, fractions of the step; None for its end.
    """

    slots: Tensor
    rows: Tensor | None = None
    theta: Tensor | None = None

    def states(self, step: Step) -> Tensor:
        """States at the points, shape (m, d); at the end of the step exactly its state."""
        if self.theta is None:
            return step.state if self.rows is None else step.state[self.rows]
        if self.rows is None:
            return step.interpolant(self.theta)
        inside = step.interpolant.rows(self.rows)(self.theta)
        return torch.where((self.theta >= 1)[:, None], step.state[self.rows], inside)


@dataclass
class Points:
    """All points at which states are wanted.

    Attributes:
        count: number of slots.
        at: selections by number of the step.
    """

    count: int
    at: dict[int, list[Selection]] = field(default_factory=dict)

    def add(self, step: int, selection: Selection) -> None:
        """Want states inside a step."""
        self.at.setdefault(step, []).append(selection)

    def add_mixed(self, which: Tensor, slots: Tensor, rows: Tensor, theta: Tensor) -> None:
        """Want states inside different steps: `which` (m,) holds their numbers."""
        if len(which) == 0:
            return
        order = torch.argsort(which)
        numbers, sizes = torch.unique_consecutive(which[order], return_counts=True)
        pieces = zip(
            numbers.tolist(),
            slots[order].split(sizes.tolist()),
            rows[order].split(sizes.tolist()),
            theta[order].split(sizes.tolist()),
            strict=True,
        )
        for number, slot, row, fraction in pieces:
            self.add(number, Selection(slot, row, fraction))

    def gather(self, values: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
        """States in their slots, shape (count, d), NaN where there are none.

        Args:
            values: slots (m,) and states (m, d).
            like: a state, for dtype, device and d.
        """
        empty = like.new_full((self.count, like.shape[1]), math.nan)
        if not values:
            return empty
        slots, states = zip(*values, strict=True)
        return empty.index_copy(0, torch.cat(slots), torch.cat(states))


def replay(
    problem: Stepped,
    plan: Plan,
    points: Points,
    y: Tensor,
    cache: Tensor | None = None,
    first: int = 0,
    last: int | None = None,
    visit: Callable[[Step], None] | None = None,
) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
    """Repeat the steps first, ..., last - 1 of a plan; with a graph where gradients are enabled.

    Args:
        problem: term and stepper.
        plan: the steps.
        points: where states are wanted.
        y: shape (batch, d), state at the beginning of step `first`.
        cache: of the stepper there; begun anew where first is 0.
        first: number of the first step.
        last: number after the last step; None for all.
        visit: called with every step.

    Returns:
        state and cache at the end, and slots and states of the points passed.
    """
    term, stepper = problem.term, problem.stepper
    last = len(plan) if last is None else last
    values: list[tuple[Tensor, Tensor]] = []
    starts, steps = plan.starts[first:last].unbind(0), plan.steps[first:last].unbind(0)
    if first == 0 and last > 0:
        cache = stepper.begin(term, starts[0], steps[0], y)
    for number, t, h in zip(range(first, last), starts, steps, strict=True):
        again = plan.refresh[number]
        if again is not None:
            cache = renewed(again, stepper.begin(term, t, h, y), cache)
        step = stepper.step(term, t, h, y, cache)
        for selection in points.at.get(number, ()):
            values.append((selection.slots, selection.states(step)))
        if visit is not None:
            visit(step)
        y, cache = step.state, step.cache
    return y, cache, values


def renewed(rows: Tensor, new: Tensor | None, old: Tensor | None) -> Tensor | None:
    """`new` in the rows (batch,), bool, and `old` elsewhere; caches of shape (batch, ...)."""
    if new is None or old is None:
        return new
    return torch.where(rows.reshape(-1, *(1 for _ in new.shape[1:])), new, old)


def lockstep(problem: Problem) -> tuple[Plan, Points]:
    """Steps of constant length, the same for all samples, known beforehand.

    Between two stops as many steps are taken as are needed; the last is shortened to end there.
    """
    length = float(problem.controller.step)  # pyright: ignore[reportAttributeAccessIssue]
    stops, jumps = problem.stops()
    t, refreshed = float(problem.times[0]), False
    starts: list[float] = []
    steps: list[float] = []
    fresh: list[bool] = []
    for stop, jump in zip(stops, jumps, strict=True):
        end = beside(stop, -problem.sign, problem.start.dtype) if jump else stop
        whole = max(1, math.ceil(abs(end - t) / length * (1 - 1e-12) - 1e-9))
        edges = [t + problem.sign * length * i for i in range(whole)] + [end]
        starts += edges[:-1]
        steps += [b - a for a, b in zip(edges, edges[1:], strict=False)]
        fresh += [refreshed] + [False] * (whole - 1)
        t, refreshed = (beside(stop, problem.sign, problem.start.dtype) if jump else stop), jump
    device, batch = problem.start.device, problem.batch
    every = torch.ones(batch, dtype=torch.bool, device=device)
    grid = torch.tensor([starts, steps], dtype=torch.float64, device=device)
    grid = grid[..., None].expand(2, len(steps), batch)
    plan = Plan(grid[0], grid[1], [every if again else None for again in fresh])
    return plan, _lockstep_points(problem, starts, steps)


def _lockstep_points(problem: Problem, starts: list[float], steps: list[float]) -> Points:
    """Where in the steps the times lie; a time within rounding of an end is taken to be there."""
    device, batch = problem.start.device, problem.batch
    times = problem.times.tolist()
    points = Points(batch * len(times))
    first_slots = torch.arange(batch, device=device) * len(times)
    number, ends = 0, [t + h for t, h in zip(starts, steps, strict=True)]
    for column, time in enumerate(times[1:], start=1):
        slack = 1e-9 * abs(steps[number])
        while number < len(steps) - 1 and problem.sign * (time - ends[number]) > slack:
            number += 1
            slack = 1e-9 * abs(steps[number])
        theta = (time - starts[number]) / steps[number]
        if abs(theta - 1) < 1e-9 or column == len(times) - 1:
            points.add(number, Selection(first_slots + column))
        else:
            inside = torch.full((batch,), max(theta, 0.0), dtype=torch.float64, device=device)
            points.add(number, Selection(first_slots + column, None, inside))
    return points


def beside(time: float, sign: float, dtype: torch.dtype) -> float:
    """The next number of a dtype after a time in a direction: the other side of a jump."""
    value = torch.tensor(time, dtype=torch.float64).to(dtype)
    return float(torch.nextafter(value, torch.tensor(sign * math.inf, dtype=dtype)))
