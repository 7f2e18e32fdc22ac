"""Hybrid (universal) differential equation: what is known of the field, and a network for the rest.

``dy/dt = known(t, y) + N(y)``; a penalty on N lets what is known explain first (Rackauckas et al.,
"Universal differential equations for scientific machine learning", arXiv 2001.04385). It is trained
on short windows of the series, each from a state that was observed, so that no long solution has
to be right before anything is learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ....errors import DataError
from ..controllers import Constant
from ..explicit import RK4
from ..integrate import integrate
from ..terms import ODE

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["Hybrid"]


class Hybrid(nn.Module):
    """The model; series with the same, equally spaced times.

    Args:
        known: of t (batch,) and y (batch, d), what is known of dy/dt; None for nothing.
        components: d.
        width: of the network's two hidden layers.
        window: points of a window after its first.
        substeps: steps of RK4 between two points.
        penalty: weight of the mean square of the network on the data.
        generator: of the weights.
    """

    def __init__(
        self,
        known: Callable[[Tensor, Tensor], Tensor] | None,
        components: int,
        *,
        width: int = 32,
        window: int = 5,
        substeps: int = 2,
        penalty: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.known, self.window, self.substeps = known, window, substeps
        self.penalty = penalty
        self.network = nn.Sequential(
            nn.Linear(components, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, components),
        )  # fmt: skip
        self.size: Tensor
        self.register_buffer("size", torch.ones(components))
        with torch.no_grad():
            for p in self.network.parameters():
                bound = p.shape[-1] ** -0.5 if p.ndim > 1 else 0.1
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
            self.network[-1].weight *= 0.1  # type: ignore[operator]

    def standardise(self, series: Series) -> None:
        """Take the scale of each component from data."""
        self.size.copy_(series.values[series.inside].nan_to_num().std(0).clamp(min=1e-12))

    def unknown(self, y: Tensor) -> Tensor:
        """What the network says of dy/dt at y (batch, d)."""
        return self.network(y / self.size) * self.size

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The whole field."""
        found = self.unknown(y)
        return found if self.known is None else found + self.known(t, y)

    def loss(self, batch: Series, generator: torch.Generator | None = None) -> Tensor:
        """Mean square error over all windows of the batch, in parts of the scale.

        Raises:
            DataError: the times are not the same and equally spaced.
        """
        times = _common(batch)
        values = batch.values.to(self.size)
        reach = min(self.window, values.shape[1] - 1)
        starts = values[:, :-reach].flatten(0, 1)
        windows = values.unfold(1, reach + 1, 1).flatten(0, 1).transpose(1, 2)
        usable = ~starts.isnan().any(1)
        span = times[: reach + 1] - times[0]
        states = integrate(
            ODE(self), starts[usable], span, stepper=RK4(),
            controller=Constant(float(times[1] - times[0]) / self.substeps),
        ).states  # fmt: skip
        apart = ((states - windows[usable]) / self.size)[:, 1:]
        known = ~apart.isnan()
        error = apart.nan_to_num().square().sum() / known.sum().clamp(min=1)
        size = (self.unknown(starts[usable]) / self.size).square().mean()
        return error + self.penalty * size

    @torch.no_grad()
    def predict(self, series: Series) -> Tensor:
        """States at the times of the series from their first values, shape (batch, n, d)."""
        times = _common(series)
        step = float(times[1] - times[0]) / self.substeps
        return integrate(
            ODE(self), series.values[:, 0].to(self.size), times, stepper=RK4(),
            controller=Constant(step),
        ).states  # fmt: skip

    def evaluate(self, series: Series) -> dict[str, float]:
        """Relative L2 error of the states from the first values on."""
        found = self.predict(series).double()
        known = series.known
        apart = (found - series.values)[known].norm() / series.values[known].norm()
        return {"relative_l2": float(apart)}


def _common(series: Series) -> Tensor:
    """The times (n,) of all samples.

    Raises:
        DataError: they differ, or are not equally spaced.
    """
    times = series.times[0]
    steps = times.diff()
    even = bool((steps - steps[0]).abs().max() < 1e-6 * steps[0].abs())
    if not (series.shared and even):
        raise DataError("this model needs series with the same, equally spaced times")
    return times
