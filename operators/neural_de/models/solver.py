"""How the equations of models are solved, in words and numbers, and paths at times of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ....errors import ConfigurationError
from ....typed import nearest
from ..adjoints import Backsolve, Checkpointed, Direct, Interpolated, McCallumFoster, Reversible
from ..controllers import PID, Constant
from ..explicit import RK4, Bosh3, Dopri5, Dopri8, Euler, ExplicitRungeKutta, Heun, Midpoint, Tsit5
from ..integrate import integrate
from ..solution import Solution
from ..terms import ODE

__all__ = ["Solver", "follow"]

Method: TypeAlias = Literal[
    "euler", "midpoint", "heun", "rk4", "bosh3", "tsit5", "dopri5", "dopri8"
]
Gradients: TypeAlias = Literal["direct", "checkpointed", "backsolve", "interpolated", "reversible"]

METHODS: Mapping[str, Callable[[], ExplicitRungeKutta]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
    "bosh3": Bosh3,
    "tsit5": Tsit5,
    "dopri5": Dopri5,
    "dopri8": Dopri8,
}
GRADIENTS: Mapping[str, Callable[[], Any]] = {
    "direct": Direct,
    "checkpointed": Checkpointed,
    "backsolve": Backsolve,
    "interpolated": Interpolated,
    "reversible": Reversible,
}
COLUMNS = 1 << 21
"""Numbers of a solution up to which all samples are solved at the times of all."""


@dataclass(frozen=True)
class Solver:
    """How an equation is solved.

    Attributes:
        method: rule of a step.
        step: length of constant steps, in the model's unit of time; None for steps by the error.
        rtol: relative tolerance of steps by the error.
        atol: absolute tolerance, in units of the state.
        gradients: how gradients are had: "reversible" makes the method reversible.
        path: "auto" makes compiled code for small systems, which takes seconds once and is kept;
            "eager" does without.

    Raises:
        ConfigurationError: an unknown word; a step that is not positive; Euler's method, which has
            no estimate of its error, without a step.
    """

    method: Method = "tsit5"
    step: float | None = None
    rtol: float = 1e-4
    atol: float = 1e-5
    gradients: Gradients = "direct"
    path: Literal["auto", "eager", "fused"] = "auto"

    def __post_init__(self) -> None:
        for word, known in ((self.method, METHODS), (self.gradients, GRADIENTS)):
            if word not in known:
                raise ConfigurationError(
                    "Solvers know no such word.", found=word, advice=nearest(word, known)
                )
        if self.step is None and self.method == "euler":
            raise ConfigurationError(
                "Euler's method has no estimate of its error.", advice="give a step"
            )
        self._controller()

    def _controller(self) -> Constant | PID:
        return PID(self.rtol, self.atol) if self.step is None else Constant(self.step)

    def solve(self, field: nn.Module, start: Tensor, times: Tensor, **options: Any) -> Solution:
        """Integrate ``dy/dt = field(t, y)``.

        Args:
            field: a module; compiled code is made once for each.
            start: shape (batch, d).
            times: shape (n,), monotonic.
            options: of `integrate`.
        """
        stepper: Any = METHODS[self.method]()
        if self.gradients == "reversible":
            stepper = McCallumFoster(stepper)
        return integrate(
            ODE(field), start, times, stepper=stepper, controller=self._controller(),
            adjoint=GRADIENTS[self.gradients](), path=self.path, **options,
        )  # fmt: skip


class _Shifted(nn.Module):
    """A field with the time of every sample counted from a time of its own, (batch,)."""

    def __init__(self, field: nn.Module, since: Tensor) -> None:
        super().__init__()
        self.field, self.since = field, since

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t + self.since, y)


def follow(
    solver: Solver, field: nn.Module, start: Tensor, times: Tensor, *, timed: bool = False
) -> Tensor:
    """States of samples at times of their own.

    Samples with the same steps between times, which is most of them, are solved as one; others at
    the times of all, or, where these are too many, with dense output.

    Args:
        solver: how.
        field: right-hand side.
        start: shape (batch, d), states at the first time of each sample.
        times: shape (batch, n), float64, in units in which spans are of order one; not falling.
            Where a sample has ended, its last time repeats.
        timed: whether the field depends on time.

    Returns:
        shape (batch, n, d).
    """
    since = times[:, 0]
    # Differences of times that are the same differ by rounding.
    passed = ((times - since[:, None]) * 1e10).round() / 1e10
    if timed and bool((since != 0).any()):
        field = _Shifted(field, since.to(start.dtype))
    every, place = torch.unique(passed, return_inverse=True)
    if len(every) < 2:
        return start[:, None].expand(-1, times.shape[1], -1)
    if len(every) == times.shape[1] and bool((place == place[:1]).all()):
        return solver.solve(field, start, every).states
    if len(every) * start.numel() <= COLUMNS:
        states = solver.solve(field, start, every).states
        return states.gather(1, place[..., None].expand(-1, -1, start.shape[1]))
    dense = solver.solve(field, start, every[[0, -1]], dense=True).dense
    assert dense is not None
    return dense(passed)
