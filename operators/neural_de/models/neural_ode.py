"""Neural ordinary differential equations fitted to series.

``dy/dt = f(t, y)`` with f a network (Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary
differential equations", NeurIPS 2018, arXiv 1806.07366). With components beside those observed,
which start from zero, solutions may cross in the space that is seen (Dupont, Doucet and Teh,
"Augmented neural ODEs", NeurIPS 2019, arXiv 1904.01681).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ConfigurationError, DataError
from .generative import Units
from .networks import Activation, VectorField
from .solver import Solver, follow

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["NeuralODE"]


class NeuralODE(Units):
    """The model: it predicts a series from its first values.

    Long series have losses with many minima, so that it is fitted to windows, each from a state
    that was observed, or at first to the beginning of the series alone.

    Args:
        channels: of the series.
        extra: components that are not observed and start from zero.
        width: of the hidden layers.
        depth: hidden layers.
        activation: "softplus", "tanh" or "silu".
        bounded: whether the slope is bounded by a learnt scale.
        timed: whether the field depends on time.
        window: points of a window after its first; None for whole series.
        first_calls: calls of `loss` that see the beginning of whole series alone.
        first_part: how much of their points.
        solver: how the equation is solved, in time of which the span of the data is one.

    Raises:
        ConfigurationError: a window without points, a part that is none, or both of them.
    """

    calls: Tensor

    def __init__(
        self,
        channels: int,
        extra: int = 0,
        width: int = 64,
        depth: int = 2,
        activation: Activation = "tanh",
        bounded: bool = False,
        timed: bool = False,
        window: int | None = None,
        first_calls: int = 0,
        first_part: float = 0.1,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(channels)
        if window is not None and (window < 1 or first_calls):
            raise ConfigurationError(
                "Windows have points, and no beginnings of their own.", found=(window, first_calls),
                advice="give window=10, or first_calls with window=None",
            )  # fmt: skip
        if not 0 < first_part <= 1:
            raise ConfigurationError(
                "The part of a series to begin with lies above 0.", found=first_part,
                advice="write 0.1",
            )  # fmt: skip
        self.extra, self.timed, self.window = extra, timed, window
        self.first_calls, self.first_part = first_calls, first_part
        self.field = VectorField(channels + extra, width, depth, activation, bounded, timed)
        self.solver = solver or Solver()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def standardise(self, series: Series) -> Any:
        """Take units of values, time and slopes from the data; before training."""
        super().standardise(series)
        values, times, known = self._prepared(series)
        both = known[:, 1:] & known[:, :-1]
        gaps = torch.where(both, times.diff(dim=1)[..., None], 1.0)
        slopes = torch.where(both, values.diff(dim=1) / gaps.to(values.dtype), 0.0)
        speed = (slopes.square().sum((0, 1)) / both.sum((0, 1)).clamp(min=1)).sqrt()
        speed = torch.where(speed > 0, speed, 1.0)
        self.field.speed.copy_(torch.cat((speed, speed.mean().expand(self.extra))))
        return self

    def forward(self, start: Tensor, times: Tensor) -> Tensor:
        """Values (batch, n, channels) at times (batch, n) from the first (batch, channels).

        All are in the model's units.
        """
        state = F.pad(start, (0, self.extra))
        states = follow(self.solver, self.field, state, times, timed=self.timed)
        return states[..., : start.shape[1]]

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Mean square error in units of the data, of one window of each series or of all of it."""
        values, times, known = self._prepared(batch)
        if self.window is not None:
            values, times, known = self._windows(batch, values, times, known, generator)
        elif self.training:
            self.calls += 1
            if int(self.calls) <= self.first_calls:
                count = max(2, round(self.first_part * times.shape[1]))
                values, times, known = values[:, :count], times[:, :count], known[:, :count]
        _check_complete(known[:, 0])
        apart = torch.where(known, self(values[:, 0], times) - values, 0.0)[:, 1:]
        return apart.square().sum() / known[:, 1:].sum().clamp(min=1)

    def _prepared(self, series: Series) -> tuple[Tensor, Tensor, Tensor]:
        """Values, zero where there are none, times that stand still behind the end, and a mask."""
        known = series.known
        return torch.where(known, self.standardised(series), 0.0), self.filled(series), known

    def _windows(
        self,
        batch: Series,
        values: Tensor,
        times: Tensor,
        known: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One window of each sample, from a point at which every channel is known."""
        assert self.window is not None
        reach = min(self.window, times.shape[1] - 1)
        places = torch.arange(times.shape[1], device=times.device)
        usable = known.all(2) & (places < (batch.lengths - reach).clamp(min=1)[:, None])
        _check_complete(usable.any(1)[:, None])
        draw = torch.rand(usable.shape, generator=generator, device=usable.device)
        first = torch.where(usable, draw, -1.0).argmax(1)[:, None]
        index = first + torch.arange(reach + 1, device=times.device)
        wide = index[..., None].expand(-1, -1, values.shape[2])
        return values.gather(1, wide), times.gather(1, index), known.gather(1, wide)

    @torch.no_grad()
    def predict(self, series: Series) -> Tensor:
        """Values (batch, n, channels) at the times of the series, from the first of each."""
        values, times, known = self._prepared(series)
        _check_complete(known[:, 0])
        return self(values[:, 0], times) * self.scale + self.shift

    def evaluate(self, series: Series) -> dict[str, float]:
        """Figures on a test set.

        Returns:
            ``relative_l2``, the error of all that follows the first values.
        """
        known = series.known
        known[:, 0] = False
        found, true = self.predict(series)[known].double(), series.values[known].double()
        return {"relative_l2": float((found - true).norm() / true.norm())}


def _check_complete(known: Tensor) -> None:
    """Refuse samples (batch, channels) that cannot be begun from.

    Raises:
        DataError: a channel is missing; names the sample.
    """
    if not bool(known.all()):
        sample = int((~known.all(1)).nonzero()[0])
        raise DataError(
            f"sample {sample} has no point with all channels to begin from; give the first values, "
            "or use a latent ODE, which does without"
        )
