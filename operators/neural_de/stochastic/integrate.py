"""Integration of stochastic differential equations: the entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..adjoints.direct import Direct
from ..controllers import PID
from ..problem import check_start, direction
from ..solution import Outcome, Solution, Statistics
from ..terms import SDE
from . import adaptive, reversible
from .problem import Grid, Source, StochasticProblem, noise_over
from .reversible import ReversibleAdjoint
from .steppers import EulerMaruyama, StochasticStepper

__all__ = ["integrate_sde"]


def integrate_sde(
    sde: SDE,
    start: Tensor,
    times: Tensor | Sequence[float],
    *,
    step: float | None = None,
    noise: Source = None,
    stepper: StochasticStepper | None = None,
    adjoint: Direct | ReversibleAdjoint | None = None,
    controller: PID | None = None,
    convert: bool = False,
    max_steps: int = 4096 * 4,
) -> Solution:
    """Integrate a stochastic differential equation for a batch of starts.

    The states are differentiable with respect to the start and whatever the fields depend on; the
    Brownian path is a constant.

    Args:
        sde: the equation, with its noise and calculus.
        start: shape (batch, d), states at the first time.
        times: shape (n,), strictly rising (or falling, in the sense of Stratonovich); the first is
            the start.
        step: length of a step; between two times as many equal steps as are needed.
        noise: a seed, which gives the same path for a sample whatever its batch, device and
            direction; `Counted(seed, parts)` for paths that grids of different steps share;
            a `BrownianInterval` or `BrownianTree`; None for a new path by torch's own generator.
        stepper: rule of a step; EulerMaruyama() unless given.
        adjoint: Direct() differentiates the steps; ReversibleAdjoint() runs those of
            ReversibleHeun() backwards in constant memory.
        controller: PID(...) chooses the steps of every sample by comparison with steps of half the
            length, instead of `step`.
        convert: whether the drift is corrected by autograd where the stepper is for the other
            calculus.
        max_steps: attempts of a sample with adaptive steps.

    Raises:
        ConfigurationError: the arguments do not fit together: the calculus, the kind of noise, the
            adjoint, or shapes of fields.
    """
    check_start(start)
    grid_times = torch.as_tensor(times).detach().to(start.device, torch.float64)
    direction(grid_times)
    problem = StochasticProblem(sde, start, grid_times, stepper or EulerMaruyama(), convert)
    adjoint = adjoint or Direct()
    _check(step, controller, adjoint)
    if controller is not None:
        return adaptive.solve(problem, controller, noise, max_steps)
    assert step is not None
    grid = Grid.over(grid_times, step)
    path = noise_over(problem, grid, noise)
    states: list[Tensor] = []
    where, note = "eager", "steps are taken back eagerly"
    if isinstance(adjoint, ReversibleAdjoint):
        states = reversible.solve(problem, grid, path)
    else:
        from ..fused.stochastic import march

        found = march(problem, grid, path)
        if isinstance(found, str):
            note = found
            reversible.run(problem, grid, path, lambda _, y: states.append(y))
        else:
            states, where, note = found, "fused", "compiled"
    solution = _finished(problem, grid, torch.stack((start, *states), dim=1))
    solution.path, solution.note = where, note
    return solution


def _check(step: float | None, controller: PID | None, adjoint: Any) -> None:
    if (step is None) == (controller is None):
        raise ConfigurationError(
            "Either the step or a controller is given.",
            found={"step": step, "controller": controller},
            advice="write step=0.01, or controller=PID(rtol=1e-3, atol=1e-4)",
        )
    if step is not None and not 0 < step < float("inf"):
        raise ConfigurationError("A step has a positive length.", found=step, advice="change step")
    if not isinstance(adjoint, (Direct, ReversibleAdjoint)):
        raise ConfigurationError(
            f"{type(adjoint).__name__} is not for stochastic equations.",
            advice="choose Direct() or ReversibleAdjoint()",
        )
    if isinstance(adjoint, ReversibleAdjoint) and controller is not None:
        raise ConfigurationError(
            "Adaptive steps are not reversed.", advice="give a step, or choose Direct()"
        )


def _finished(problem: StochasticProblem, grid: Grid, states: Tensor) -> Solution:
    zeros = torch.zeros(len(states), dtype=torch.int64, device=states.device)
    outcome, steps = zeros, zeros + len(grid)
    if not bool(torch.isfinite(states.detach().sum())):
        finite = torch.isfinite(states.detach()).all(2).long().cumprod(1).bool()
        states = torch.where(finite[..., None], states, torch.nan)
        outcome = torch.where(finite[:, -1], outcome, int(Outcome.NOT_FINITE))
    calls = steps * problem.stepper.evaluations
    statistics = Statistics(steps, steps.clone(), zeros.clone(), calls)
    return Solution(problem.times, states, outcome, statistics, note="fixed steps")
