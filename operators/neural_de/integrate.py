"""Integration of ordinary differential equations: the entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ...errors import ConfigurationError
from .adjoints.direct import Direct
from .controllers import PID, Constant
from .events import Event
from .explicit import Tsit5
from .problem import Problem
from .solution import Solution
from .steppers import Stepper
from .terms import Term

__all__ = ["integrate"]


def integrate(
    term: Term,
    start: Tensor,
    times: Tensor | Sequence[float],
    *,
    stepper: Stepper | None = None,
    controller: Constant | PID | None = None,
    adjoint: Any = None,
    events: Sequence[Event] = (),
    dense: bool = False,
    max_steps: int = 4096 * 4,
    path: Literal["auto", "eager", "fused"] = "auto",
    since: Tensor | None = None,
) -> Solution:
    """Integrate a differential equation for a batch of starts.

    The states are differentiable with respect to the start and whatever the field depends on; step
    sizes are constants of the graph. Numbers that go wrong are not raised but told in
    `Solution.outcome`, sample by sample.

    Args:
        term: right-hand side.
        start: shape (batch, d), states at the first time.
        times: shape (n,), monotonic, in the unit of the field's t; the first is the start. Where
            they fall, integration is backward in time.
        stepper: rule of a step; Tsit5 unless given.
        controller: length of a step; PID() unless given.
        adjoint: how gradients are had; Direct() unless given, which differentiates the steps.
        events: roots of functions of time and state to find.
        dense: whether to return the state at any time.
        max_steps: attempts of a sample before it is given up.
        path: "fused" integrates small systems in compiled code, "eager" calls torch for every
            operation, "auto" takes the first where it can.
        since: shape (batch,), where a sample begins later than the first time; its states before
            are NaN. Differentiable.

    Raises:
        ConfigurationError: the arguments do not fit together, or "fused" was asked for and cannot
            be had.
    """
    problem = Problem(
        term,
        start,
        times,  # pyright: ignore[reportArgumentType]
        stepper or Tsit5(),
        controller or PID(),
        tuple(events),
        dense,
        max_steps,
        since,
    )
    if path not in ("auto", "eager", "fused"):
        raise ConfigurationError(
            "Unknown path.", found=path, advice='write "auto", "eager" or "fused"'
        )
    adjoint = adjoint or Direct()
    note = "asked for"
    if path != "eager":
        solution, note = _fused(problem, adjoint)
        if solution is not None:
            solution.path, solution.note = "fused", note
            return solution
        if path == "fused":
            raise ConfigurationError(
                f"This cannot be integrated in compiled code: {note}.", advice='write path="eager"'
            )
    solution = adjoint.solve(problem)
    solution.path, solution.note = "eager", note
    return solution


def _fused(problem: Problem, adjoint: Any) -> tuple[Solution | None, str]:
    """The solution in compiled code, or why there is none."""
    if not isinstance(adjoint, Direct):
        return None, f"{type(adjoint).__name__} runs eagerly"
    try:
        from .fused import available, solve_fused  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return None, "compiled code is not part of this build"
    reason = available(problem)
    if reason is not None:
        return None, reason
    return solve_fused(problem), "compiled"
