"""Events: where a function of time and state passes through zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...errors import ConfigurationError

__all__ = ["Event"]


@dataclass(frozen=True)
class Event:
    """A root of ``condition(t, y)`` along the solution.

    Args:
        condition: t (batch,), y (batch, d) gives (batch,), continuous in time.
        direction: 1 where it rises through zero in the direction of integration, -1 where it falls,
            0 for both.
        terminal: whether the sample ends there.
        looks: at how many points of a step its sign is looked at. Two roots between two of them
            are not seen.

    Raises:
        ConfigurationError: an unknown direction, or no look.
    """

    condition: Callable[[Tensor, Tensor], Tensor]
    direction: int = 0
    terminal: bool = True
    looks: int = 1

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise ConfigurationError(
                "Unknown direction of an event.", found=self.direction, advice="write -1, 0 or 1"
            )
        if self.looks < 1:
            raise ConfigurationError(
                "An event is looked for once a step at least.", found=self.looks
            )
