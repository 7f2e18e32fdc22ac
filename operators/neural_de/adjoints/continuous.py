"""Gradients from the adjoint equation: optimise, then discretise.

The adjoint a = dL/dy follows ``da/dt = -(df/dy)^T a`` backward in time and jumps by the gradient at
every time that was asked for; the gradient by a parameter is the integral of ``a^T df/dp``
(Pontryagin; Chen, Rubanova, Bettencourt and Duvenaud, NeurIPS 2018). That integral is taken by the
weights of the method over the steps of the adjoint, for all samples at once, so parameters never
are part of a state: they do not slow the steps down either (the seminorm of Kidger, Chen and
Lyons, ICML 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..controllers import PID
from ..dense import DenseOutput
from ..explicit import ExplicitRungeKutta
from ..loop import trace
from ..plan import Plan, Points, lockstep, replay
from ..problem import Problem
from ..solution import Outcome, Solution
from ..terms import ODE, parameters_of
from .direct import Direct

__all__ = ["Backsolve", "Interpolated"]


@dataclass(frozen=True)
class Backsolve:
    """State and adjoint are integrated backward together; nothing is kept but the times asked for.

    The state comes back only as exactly as the tolerances say, and not at all where the forward
    problem is strongly dissipative.

    Args:
        rtol: of the way back; None for that of the way there.
        atol: of the way back; None for that of the way there.
        parameters: tensors that have gradients and are held by fields that are no modules.
    """

    rtol: float | None = None
    atol: float | None = None
    parameters: Sequence[Tensor] = ()

    def solve(self, problem: Problem) -> Solution:
        """Integrate.

        Raises:
            ConfigurationError: events, dense output or a stepper that is not explicit.
        """
        return _solve(problem, self, keep=False)


@dataclass(frozen=True)
class Interpolated:
    """The dense output of the way there is kept; the adjoint alone is integrated backward.

    Stable where `Backsolve` is not; memory grows with the number of steps, not of stages.

    Args:
        rtol: of the way back; None for that of the way there.
        atol: of the way back; None for that of the way there.
        parameters: tensors that have gradients and are held by fields that are no modules.
    """

    rtol: float | None = None
    atol: float | None = None
    parameters: Sequence[Tensor] = ()

    def solve(self, problem: Problem) -> Solution:
        """Integrate.

        Raises:
            ConfigurationError: events, dense output or a stepper that is not explicit.
        """
        return _solve(problem, self, keep=True)


def _solve(problem: Problem, settings: Backsolve | Interpolated, *, keep: bool) -> Solution:
    refused = {
        "events": bool(problem.events),
        "dense output": problem.dense,
        "starts at different times": problem.since is not None,
        "a stepper that is not explicit": not isinstance(problem.stepper, ExplicitRungeKutta),
    }
    for what, is_so in refused.items():
        if is_so:
            raise ConfigurationError(
                f"{type(settings).__name__} is not for {what}.", advice="choose Direct()"
            )
    if not problem.differentiable:
        return Direct().solve(problem)
    with torch.no_grad():
        problem.dense = keep
        found = Direct().solve(problem)
        problem.dense = False
    leaves = [*parameters_of(problem.term), *settings.parameters]
    run = _Run(problem, found.states, found.outcome, found.dense, settings, leaves)
    # The solution is not part of the run: it would hold the graph that holds the run.
    found.states = _Adjoint.apply(run, problem.start, *leaves)
    found.dense = None
    return found


@dataclass
class _Run:
    """What the way back needs.

    Attributes:
        problem: that of the way there.
        states: shape (batch, n, d), without a graph.
        outcome: shape (batch,), int64.
        lookup: states at any time (batch, k); None to integrate them backward.
        settings: tolerances.
        leaves: parameters.
    """

    problem: Problem
    states: Tensor
    outcome: Tensor
    lookup: DenseOutput | None
    settings: Backsolve | Interpolated
    leaves: list[Tensor]

    def backward(self, given: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Derivatives by the start and the leaves, of states (batch, n, d) weighted by `given`."""
        states = self.states
        times = self.problem.times
        given = torch.where((self.outcome == Outcome.SUCCESS)[:, None, None], given, 0.0)
        adjoint = given[:, -1].clone()
        totals: list[Tensor | None] = [None] * len(self.leaves)
        for i in range(len(times) - 1, 0, -1):
            interval = torch.stack((times[i], times[i - 1]))
            adjoint = self._interval(interval, states[:, i], adjoint, totals) + given[:, i - 1]
        return adjoint, totals

    def _interval(
        self, times: Tensor, state: Tensor, adjoint: Tensor, totals: list[Tensor | None]
    ) -> Tensor:
        """The adjoint at the end of an interval; the integrals over it are added to `totals`."""
        d = state.shape[1]
        lookup = self.lookup
        if lookup is None:
            start = torch.cat((state, adjoint), dim=1)
            field = _coupled(self.problem.term, d)

            def parts(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
                return z[:, :d], z[:, d:]
        else:
            start = adjoint
            field = _alone(self.problem.term, lookup)

            def parts(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
                return _looked_up(lookup, t, z), z

        problem = Problem(
            ODE(field), start, times, self.problem.stepper, self._controller(),
            max_steps=self.problem.max_steps,
        )  # fmt: skip
        with torch.no_grad():
            plan, points = _steps(problem)
            seen: list[tuple[Tensor, Tensor]] = []
            problem.term = ODE(lambda t, z: seen.append((t, z)) or field(t, z))  # type: ignore[func-returns-value]
            z, place = start, 0
            weights = self.problem.stepper.tableau.weights  # type: ignore[attr-defined]

            def add(step: Any) -> None:
                nonlocal place
                # The first stage was evaluated at the end of the step before.
                count = len(weights)
                self._integrate(seen[-count:], plan.steps[place], weights, parts, totals)
                del seen[:-1]
                place += 1

            z, _, _ = replay(problem, plan, points, z, visit=add)
        return z[:, -d:]

    def _controller(self) -> Any:
        control = self.problem.controller
        if not isinstance(control, PID):
            return control
        return PID(
            control.rtol if self.settings.rtol is None else self.settings.rtol,
            control.atol if self.settings.atol is None else self.settings.atol,
            control.p, control.i, control.d, control.safety, control.shrink, control.grow,
            control.smallest, control.largest,
        )  # fmt: skip

    def _integrate(
        self,
        seen: Sequence[tuple[Tensor, Tensor]],
        steps: Tensor,
        weights: Sequence[float],
        parts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        totals: list[Tensor | None],
    ) -> None:
        """Add the integral of a^T df/dp over one step, negative in time."""
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        if not wanted:
            return
        length = -steps.to(seen[0][1].dtype)[:, None]
        for (t, z), weight in zip(seen, weights, strict=True):
            if weight == 0:
                continue
            y, a = parts(t, z)
            with torch.enable_grad():
                value = self.problem.term(t, y.detach())
            if not value.requires_grad:
                return
            found = iter(torch.autograd.grad(value, wanted, weight * length * a, allow_unused=True))
            for k, leaf in enumerate(self.leaves):
                new = next(found) if leaf.requires_grad else None
                if new is not None:
                    total = totals[k]
                    totals[k] = new if total is None else total + new


def _steps(problem: Problem) -> tuple[Plan, Points]:
    if not problem.adaptive:
        return lockstep(problem)
    record = trace(problem, evaluate=False)
    return record.plan, record.points


def _pulled(term: Any, t: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The field, and a^T df/dy."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        value = term(t, y)
        if not value.requires_grad:
            return value, torch.zeros_like(y)
        (pulled,) = torch.autograd.grad(value, y, a, allow_unused=True)
    return value.detach(), torch.zeros_like(y) if pulled is None else pulled


def _coupled(term: Any, d: int) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, z: Tensor) -> Tensor:
        value, pulled = _pulled(term, t, z[:, :d], z[:, d:])
        return torch.cat((value, -pulled), dim=1)

    return field


def _looked_up(lookup: DenseOutput, t: Tensor, like: Tensor) -> Tensor:
    """States (batch, d) at t (batch,)."""
    return lookup(t[:, None].double())[:, 0].to(like.dtype)


def _alone(term: Any, lookup: DenseOutput) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, a: Tensor) -> Tensor:
        _, pulled = _pulled(term, t, _looked_up(lookup, t, a), a)
        return -pulled

    return field


class _Adjoint(torch.autograd.Function):
    """States at the times as a function of start and leaves."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, *leaves: Tensor) -> Tensor:  # type: ignore[override]
        ctx.run = run
        return run.states.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:  # type: ignore[override]
        by_start, by_leaves = ctx.run.backward(given)
        return None, by_start, *by_leaves
