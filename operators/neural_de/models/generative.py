"""What models of series have in common: units of the data, and figures of generated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..stochastic.moments import marginal_errors, moments

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["Generative", "Perceptron", "Units", "normal"]


class Perceptron(nn.Module):
    """Layers of SiLU beside a linear map: ``linear(x) + layers(x)``.

    The linear map takes what a field mostly is, such as a return to the mean, exactly.

    Args:
        inputs: components of x.
        outputs: components of the value.
        width: of the hidden layers.
        depth: hidden layers.
        scale: of the first weights of the last layer and of the linear map.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, depth: int = 1, scale: float = 0.1
    ) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(width + inputs, outputs)
        with torch.no_grad():
            self.last.weight.mul_(scale)
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Values (..., outputs) at x (..., inputs)."""
        return self.last(torch.cat((self.layers(x), x), dim=-1))


class Units(nn.Module):
    """A model that works in the units of the data it is fitted to.

    Args:
        channels: of the series.
    """

    shift: Tensor
    scale: Tensor
    clock: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("clock", torch.tensor([0.0, 1.0]))

    @torch.no_grad()
    def standardise(self, series: Series) -> Any:
        """Take origin and unit of values and time from the data; before training."""
        values = torch.where(series.known, series.values, torch.nan).flatten(0, 1)
        mean, variance = moments(values)
        self.shift.copy_(mean)
        self.scale.copy_(variance.sqrt().clamp(min=1e-6))
        times = series.times[series.inside]
        self.clock.copy_(torch.stack((times.min(), times.max() - times.min())))
        return self

    def standardised(self, series: Series) -> Tensor:
        """Values (batch, n, channels) in units of the data, in the model's dtype."""
        return (series.values.to(self.shift) - self.shift) / self.scale

    def units(self, times: Tensor) -> Tensor:
        """Times in units of the span of the data, in the model's dtype."""
        # The subtraction is made in the dtype of the times, which may be the finer one.
        clock = self.clock.to(times)
        return ((times - clock[0]) / clock[1]).to(self.shift.dtype)

    def filled(self, series: Series) -> Tensor:
        """Times (batch, n), float64, in units of the span; behind the end of a sample the last."""
        index = torch.arange(series.times.shape[1], device=series.times.device)
        index = torch.minimum(index, series.lengths[:, None] - 1)
        clock = self.clock.to(series.times)
        return (series.times.gather(1, index) - clock[0]) / clock[1]


class Generative(Units):
    """A model that generates paths, in the units of the data it is fitted to."""

    def sample(self, times: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Paths at times (n,): shape (count, n, channels)."""
        raise NotImplementedError

    @torch.no_grad()
    def marginals(
        self,
        series: Series,
        mean: Tensor | None,
        variance: Tensor | None,
        count: int,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Errors of the marginal mean and variance at the times of the first sample of a set.

        Args:
            series: test set.
            mean: shape (n, channels), true mean; None takes that of the set.
            variance: the same of the variance.
            count: generated paths.
            generator: of random numbers.
        """
        samples = self.sample(series.times[0, : int(series.lengths[0])], count, generator)
        data_mean, data_variance = moments(series.values[:, : samples.shape[1]])
        return marginal_errors(
            samples,
            data_mean if mean is None else mean,
            data_variance if variance is None else variance,
        )


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the dtype and on the device of a tensor."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
