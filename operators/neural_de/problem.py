"""What is to be integrated, in one value that adjoints and compiled paths are handed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigurationError
from .controllers import PID, Constant
from .events import Event
from .implicit import DiagonallyImplicit
from .steppers import Stepper
from .terms import SDE, Term, parameters_of

__all__ = ["Problem", "check_start", "direction"]


@dataclass
class Problem:
    """The arguments of `integrate`, checked.

    Attributes:
        term: right-hand side.
        start: shape (batch, d).
        times: shape (n,), float64, monotonic; the first is the start.
        stepper: rule of a step.
        controller: length of a step.
        events: roots to look for.
        dense: whether the state at any time is wanted.
        max_steps: attempts of a sample before it is given up.
        since: shape (batch,), float64: where a sample begins later than the first time. Its states
            before are NaN.
        compiled: what the compiled path has found for it.
        sign: direction of time, 1 or -1.

    Raises:
        ConfigurationError: the arguments do not fit together.
    """

    term: Term
    start: Tensor
    times: Tensor
    stepper: Stepper
    controller: Constant | PID
    events: Sequence[Event] = ()
    dense: bool = False
    max_steps: int = 4096 * 4
    since: Tensor | None = None
    compiled: Any = None
    sign: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        check_start(self.start)
        if not isinstance(self.term, Term):
            raise ConfigurationError(
                "What is integrated is a term.", found=self.term, advice="write ODE(field)"
            )
        if isinstance(self.term, SDE):
            raise ConfigurationError(
                "A stochastic equation needs noise.", advice="call integrate_sde"
            )
        self.times = torch.as_tensor(self.times).detach().to(self.start.device, torch.float64)
        self.sign = direction(self.times)
        if isinstance(self.controller, PID) and self.stepper.error_order is None:
            raise ConfigurationError(
                f"{self.stepper!r} does not estimate its error.",
                advice="choose controller=Constant(step) or another stepper",
            )
        if isinstance(self.controller, PID) and isinstance(self.stepper, DiagonallyImplicit):
            self.stepper = self.stepper.within(self.controller.rtol, self.controller.atol)
        if self.max_steps < 1:
            raise ConfigurationError("At least one step is needed.", found=self.max_steps)
        if self.since is not None and self.since.shape != (len(self.start),):
            raise ConfigurationError(
                "since holds one time a sample.", found=tuple(self.since.shape)
            )

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.start)

    @property
    def adaptive(self) -> bool:
        """Whether the error decides about the steps."""
        return isinstance(self.controller, PID)

    @property
    def differentiable(self) -> bool:
        """Whether anything asks for a gradient: the start, the parameters of the fields, `since`.

        A plain function may hold tensors which cannot be seen from outside, so that it is called
        once to find out.
        """
        if not torch.is_grad_enabled():
            return False
        if self.start.requires_grad or (self.since is not None and self.since.requires_grad):
            return True
        if parameters_of(self.term):
            return True
        time = self.times[:1].to(self.start.dtype).expand(self.batch)
        return self.term(time, self.start).requires_grad

    def first_times(self) -> Tensor:
        """Where each sample begins, shape (batch,), float64, a constant of the graph."""
        if self.since is None:
            return self.times[0].expand(self.batch)
        return self.since.detach().double()

    def stops(self) -> tuple[list[float], list[bool]]:
        """Times at which a step ends, in the order of integration, and whether the field jumps.

        The last is the end. Only those strictly inside the interval are kept.
        """
        first, last = float(self.times[0]), float(self.times[-1])
        low, high = min(first, last), max(first, last)
        jumps = {float(t) for t in self.controller.jump_times}
        inside = {float(t) for t in self.controller.step_times} | jumps
        kept = sorted((t for t in inside if low < t < high), reverse=self.sign < 0)
        return [*kept, last], [t in jumps for t in kept] + [False]


def check_start(start: Any) -> None:
    """Refuse what is no batch of states."""
    if not isinstance(start, Tensor) or start.dim() != 2 or not start.is_floating_point():
        raise ConfigurationError(
            "The start is a tensor of real numbers, one sample a row.",
            found=tuple(start.shape) if isinstance(start, Tensor) else start,
            advice="give a tensor of shape (batch, d)",
        )


def direction(times: Tensor) -> float:
    """Whether times (n,) rise, 1, or fall, -1; anything else is refused."""
    if times.dim() != 1 or len(times) < 2:
        raise ConfigurationError(
            "Two times at least are needed: the start and the end.",
            found=tuple(times.shape),
            advice="give times of shape (n,), n >= 2",
        )
    gaps = times.diff()
    if not math.isfinite(float(times.sum())) or not (bool((gaps > 0).all() | (gaps < 0).all())):
        raise ConfigurationError(
            "The times do not rise, or fall, strictly.",
            found=[round(t, 6) for t in times.tolist()[:6]],
            advice="sort them and drop repeated ones",
        )
    return 1.0 if float(gaps[0]) > 0 else -1.0
