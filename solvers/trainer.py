"""What a run asks of the trainer of any backend, beside what the training loop asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from ..config import Case
from ..engine.fit import Trainer
from ..engine.networks.field import Field

__all__ = ["Present", "SolverTrainer"]


class Present(NamedTuple):
    """The part of the domain that is trained now.

    Attributes:
        window: its number, from 0.
        bounds: (low, high) by coordinate.
        field: the unknown on it.
    """

    window: int
    bounds: Sequence[tuple[float, float]]
    field: Field


class SolverTrainer(Trainer, Protocol):
    """Trainer of one case; the class behind `Backend.load`, made as ``(case, device)``.

    Attributes:
        device: where it trains.
        dtype: of points and weights.
        windows: time windows in all; 1 where there are none.
        notes: what a person should know, as sentences.
    """

    device: torch.device
    dtype: torch.dtype
    windows: int
    notes: list[str]

    @property
    def field(self) -> Field:
        """The solution as far as it goes."""
        ...

    @property
    def architecture(self) -> dict[str, Any]:
        """What `rebuild` needs, beside the case, to make a field for the same weights."""
        ...

    @property
    def present(self) -> Present:
        """The part that is trained now."""
        ...

    @property
    def reached(self) -> int:
        """Time windows that were begun."""
        ...

    @property
    def parameter_count(self) -> int:
        """Trained parameters."""
        ...

    @property
    def residual_count(self) -> int:
        """Residuals whose squares are summed."""
        ...

    def residuals(self) -> list[dict[str, float]]:
        """Root mean square of the residual by window: `training` on its points, `fresh` on others.

        Fresh points tell what fixed ones may hide: a fit that is bad between them.
        """
        ...

    def report(self) -> Mapping[str, Any]:
        """Further entries of summary.json; they go before what the run would write."""
        ...

    def close(self) -> None:
        """Let go of everything that outlives the object; a second call does nothing."""
        ...

    @staticmethod
    def rebuild(case: Case, architecture: Mapping[str, Any]) -> Field:
        """The field of a finished run, with weights still to be loaded."""
        ...
