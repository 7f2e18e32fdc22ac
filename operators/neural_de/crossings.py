"""Roots of events inside the steps, and their gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["Watch", "with_gradients"]


class Watch:
    """Events: being written."""

    slots = 0

    def __init__(self, problem: Any, time: Tensor, state: Tensor) -> None:
        raise NotImplementedError

    def look(self, state: Any, before: Tensor, done: Tensor) -> None:
        """Look for roots in the last attempt."""

    def add_points(self, points: Any) -> None:
        """Want the states at the roots."""


def with_gradients(problem: Any, record: Any, states: Tensor, solution: Any) -> None:
    """Complete a solution with its events."""
