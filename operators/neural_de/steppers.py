"""What a stepper is: a rule for one step of every sample, each with its own time and step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .dense import Interpolant

__all__ = ["Step", "Stepper"]


@dataclass
class Step:
    """What one step gives.

    Attributes:
        state: shape (batch, d), at the end of the step.
        error: shape (batch, d), estimate of the error of this step, or None.
        cache: shape (batch, ...), what the next step takes over, or None.
        interpolant: the state inside the step.
        solved: shape (batch,), bool, whether the equations of an implicit step were solved; None
            means yes.
        evaluations: calls of the field.
        retry: shape (batch, ...), what a repetition with another step takes over where this step is
            rejected; None means the cache that this step was given.
    """

    state: Tensor
    error: Tensor | None
    cache: Tensor | None
    interpolant: Interpolant
    solved: Tensor | None = None
    evaluations: int = 0
    retry: Tensor | None = None


@runtime_checkable
class Stepper(Protocol):
    """One step of a method."""

    @property
    def order(self) -> int:
        """Of the error at the end of a fixed time, in the step."""
        ...

    @property
    def error_order(self) -> int | None:
        """The error estimate falls like step ** error_order; None without one."""
        ...

    @property
    def dense_order(self) -> int:
        """Degree of the solutions that the interpolant follows exactly."""
        ...

    @property
    def evaluations(self) -> int:
        """Calls of the field in a step."""
        ...

    def begin(self, term: Any, t: Tensor, h: Tensor, y: Tensor) -> Tensor | None:
        """The cache of a first step: from t (batch,) by h (batch,), both float64; y (batch, d)."""
        ...

    def step(self, term: Any, t: Tensor, h: Tensor, y: Tensor, cache: Tensor | None) -> Step:
        """One step from t by h; h may be negative, and 0 for a sample that rests."""
        ...
