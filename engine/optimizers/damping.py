"""The Levenberg-Marquardt damping: how much the next step trusts the linear model."""

from __future__ import annotations

import math
from typing import Any

from ...errors import ConfigurationError

RESTART = 1e-3
"""Damping after a step that was given up."""


class Damping:
    """Damping by the gain ratio, the loss reduction over the one that the linear model predicted.

    After Nielsen, "Damping parameter in Marquardt's method" (IMM-REP-1999-05), but it falls by at
    most 4 a step instead of 3, rises more slowly after a rejection, and any decrease is accepted.

    Args:
        first: initial value.

    Attributes:
        value: the damping of the next trial, relative to a normal matrix of unit diagonal.
    """

    def __init__(self, first: float) -> None:
        if not 0 < first < math.inf:
            raise ConfigurationError(
                "damping: out of range", found=first, advice="write a positive number, such as 1e-3"
            )
        self.first = first
        self.value = first
        self.softened = False
        self.raised = 2.0

    def begin(self) -> None:
        """A new step: its first rejection doubles the damping."""
        self.raised = 2.0

    def accept(self, gain: float, least: float) -> None:
        """After a step with this gain ratio; never below what rounding allows."""
        gain = min(max(gain, 0.0), 2.0)  # at a minimum rounding makes anything of it
        self.value *= min(max(1 / 4, 1 - (2 * gain - 1) ** 3), 2.0)
        self.value = max(self.value, least)

    def reject(self) -> None:
        """After a trial that did not lower the loss."""
        self.value *= self.raised
        self.raised *= 1.5

    def restart(self) -> None:
        """After a step whose every trial failed."""
        self.value = RESTART

    def soften(self) -> None:
        """After a divergence: damp strongly."""
        self.value = max(1.0, self.value)
        self.softened = True

    def renew(self) -> None:
        """The residuals are of new points: no more damping than at first, unless just softened."""
        if not self.softened:
            self.value = min(self.value, self.first)
        self.softened = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"damping": self.value, "softened": self.softened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.value = float(state["damping"])
        self.softened = bool(state["softened"])
