"""What an integration returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from .dense import DenseOutput

__all__ = ["Outcome", "Solution", "Statistics"]


class Outcome(IntEnum):
    """How the integration of one sample ended; `sentence` says it in words."""

    SUCCESS = 0
    STEP_LIMIT = 1
    STEP_TOO_SMALL = 2
    NOT_FINITE = 3
    NEWTON_FAILED = 4
    EVENT = 5

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        return _SENTENCES[self]

    @property
    def failed(self) -> bool:
        """Whether the sample was given up."""
        return self not in (Outcome.SUCCESS, Outcome.EVENT)


_SENTENCES = {
    Outcome.SUCCESS: "The last time was reached.",
    Outcome.STEP_LIMIT: "The largest number of steps was reached before the last time.",
    Outcome.STEP_TOO_SMALL: "The tolerance asks for a step smaller than is allowed or than the "
    "time can resolve.",
    Outcome.NOT_FINITE: "The field or the state is not finite, however small the step.",
    Outcome.NEWTON_FAILED: "The equations of an implicit stage could not be solved, however small "
    "the step.",
    Outcome.EVENT: "A terminal event ended the integration.",
}


@dataclass
class Statistics:
    """Counts by sample, each of shape (batch,), int64.

    Attributes:
        steps: attempts.
        accepted: attempts that were kept.
        rejected: attempts that were repeated with a smaller step.
        evaluations: calls of the field at this sample, while it was under way.
        jacobians: of the implicit field, or None where the stepper is explicit.
        factorisations: of the matrix of Newton's iteration, or None.
    """

    steps: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor
    jacobians: Tensor | None = None
    factorisations: Tensor | None = None


@dataclass
class Solution:
    """States at the times asked for.

    Attributes:
        times: shape (n,).
        states: shape (batch, n, d). After a failure or a terminal event NaN.
        outcome: shape (batch,), int64, values of `Outcome`.
        statistics: counts by sample.
        dense: the state at any time, where it was asked for.
        event_times: shape (batch,), time of the terminal event; the last time reached where none
            came. None without events.
        event: shape (batch,), int64, index of the terminal event, -1 where none came.
        event_states: shape (batch, d), state at `event_times`.
        crossings: by event that does not end the integration, all its roots.
        path: "eager" or "fused", which code integrated.
        note: why it was that one.
    """

    times: Tensor
    states: Tensor
    outcome: Tensor
    statistics: Statistics
    dense: DenseOutput | None = None
    event_times: Tensor | None = None
    event: Tensor | None = None
    event_states: Tensor | None = None
    crossings: tuple[Crossings, ...] = ()
    path: str = "eager"
    note: str = ""

    @property
    def final(self) -> Tensor:
        """States at the last time, shape (batch, d)."""
        return self.states[:, -1]

    @property
    def successful(self) -> Tensor:
        """Which samples ended well, shape (batch,), bool."""
        return (self.outcome == Outcome.SUCCESS) | (self.outcome == Outcome.EVENT)

    def describe(self) -> str:
        """How many samples ended in which way, in words."""
        values, counts = torch.unique(self.outcome, return_counts=True)
        return " ".join(
            f"{count} of {len(self.outcome)}: {Outcome(value).sentence}"
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        )


@dataclass
class Crossings:
    """Roots of an event that does not end the integration, k of them.

    Attributes:
        samples: shape (k,), int64, which row each belongs to.
        times: shape (k,).
        states: shape (k, d).
    """

    samples: Tensor
    times: Tensor
    states: Tensor
