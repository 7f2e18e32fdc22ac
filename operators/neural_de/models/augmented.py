"""Points to classes or numbers by the flow of an equation with components of its own.

The flow of ``dy/dt = f(t, y)`` does not let points pass each other, so that neither a function that
falls from one point of the line to the next nor a ring around a disc can be read off linearly where
the points themselves flow. Beside ``extra`` components that start from zero they can (Dupont,
Doucet and Teh, "Augmented neural ODEs", NeurIPS 2019, arXiv 1904.01681).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import ConfigurationError, DataError
from .labelled import Labelled
from .networks import Activation, VectorField
from .solver import Solver

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["AugmentedODE"]


class AugmentedODE(Labelled):
    """The label of the first values of a series.

    Args:
        channels: of the series.
        classes: number of classes; None for a number.
        extra: components that start from zero; 0 for a plain neural ODE.
        width: of the hidden layers.
        depth: hidden layers.
        activation: "softplus", "tanh" or "silu".
        timed: whether the field depends on time.
        solver: how the equation is solved; the flow takes one unit of time.

    Raises:
        ConfigurationError: fewer than no components, or one class.
    """

    def __init__(
        self,
        channels: int,
        classes: int | None = None,
        extra: int = 1,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "tanh",
        timed: bool = True,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(channels, classes)
        if extra < 0:
            raise ConfigurationError("Components cannot be taken away.", found=extra)
        self.extra = extra
        self.field = VectorField(channels + extra, width, depth, activation, timed=timed)
        self.last = nn.Linear(channels + extra, classes or 1)
        self.solver = solver or Solver()

    def forward(self, series: Series) -> Tensor:
        """Logits (batch, classes), or numbers (batch, 1) in units of the labels' deviation."""
        return self.last(self._flow(series)[0])

    def _flow(self, series: Series) -> tuple[Tensor, Tensor]:
        """Where points end, and how often the field was evaluated for each."""
        known = series.known[:, 0]
        if not bool(known.all()):
            sample = int((~known.all(1)).nonzero()[0])
            raise DataError(f"sample {sample} is incomplete; its flow needs all of its components")
        start = F.pad(self.standardised(series)[:, 0], (0, self.extra))
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        solution = self.solver.solve(self.field, start, times)
        return solution.final, solution.statistics.evaluations

    @torch.no_grad()
    def evaluate(self, series: Series) -> dict[str, float]:
        """Figures on a test set.

        Returns:
            those of `Labelled`, and ``evaluations`` of the field at a sample, on average.
        """
        _, evaluations = self._flow(series)
        return {**super().evaluate(series), "evaluations": float(evaluations.double().mean())}
