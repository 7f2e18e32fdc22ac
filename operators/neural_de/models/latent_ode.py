"""Latent ordinary differential equations, fitted by variational inference over their starts.

An encoder reads a series backward in time and gives the law of the latent state at its first time;
from there the path is deterministic, ``dz/dt = f(z)``, and is observed with Gaussian noise. What is
fitted is a bound on the likelihood (Chen, Rubanova, Bettencourt and Duvenaud, NeurIPS 2018, section
5). The encoder's state follows an equation of its own between observations (Rubanova, Chen and
Duvenaud, "Latent ordinary differential equations for irregularly-sampled time series", NeurIPS
2019, arXiv 1907.03907), or is told the gaps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ....errors import ConfigurationError
from .generative import Generative, Perceptron, normal
from .networks import VectorField
from .solver import Solver, follow

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["Encoder", "LatentODE"]


class Encoder(nn.Module):
    """A recurrent network backward over values, marks and times, to a vector at the first time.

    Args:
        channels: of the series.
        hidden: components of its state.
        between: "ode", the state follows an equation between observations; "gaps", it is handed
            the length of the gap.
    """

    def __init__(self, channels: int, hidden: int, between: Literal["ode", "gaps"]) -> None:
        super().__init__()
        if between not in ("ode", "gaps"):
            raise ConfigurationError(
                "Encoders know no such word.", found=between, advice='write "ode" or "gaps"'
            )
        self.hidden, self.between = hidden, between
        inputs = 2 * channels + (between == "gaps")
        self.cell = nn.GRUCell(inputs, hidden)
        if between == "ode":
            self.drift = VectorField(hidden, hidden, 1, bounded=True)

    def forward(self, values: Tensor, seen: Tensor, times: Tensor) -> Tensor:
        """Vectors (batch, hidden).

        Args:
            values: shape (batch, n, channels), zero where there are none.
            seen: shape (batch, n, channels), bool.
            times: shape (batch, n); behind the end of a sample the last repeats.
        """
        h = values.new_zeros(len(values), self.hidden)
        inputs = torch.cat((values, seen.to(values.dtype)), dim=2).unbind(1)
        some = seen.any(2)[..., None].unbind(1)
        gaps = torch.cat((times.diff(dim=1), torch.zeros_like(times[:, :1])), dim=1)
        waited = h[:, :1]
        for x, here, gap in zip(
            reversed(inputs),
            reversed(some),
            reversed(gaps.to(values.dtype)[..., None].unbind(1)),
            strict=True,
        ):
            if self.between == "ode":
                h = self._moved(h, -gap)
            else:
                waited = waited + gap
                x = torch.cat((x, waited * times.shape[1]), dim=1)
            # Where nothing is observed there is nothing to take in.
            h = torch.where(here, self.cell(x, h), h)
            waited = torch.where(here, 0.0, waited)
        return h

    def _moved(self, h: Tensor, gap: Tensor) -> Tensor:
        """The state after one step of the midpoint rule over a gap (batch, 1)."""
        t = h[:, 0]
        middle = torch.addcmul(h, gap, self.drift(t, h), value=0.5)
        return torch.addcmul(h, gap, self.drift(t, middle))


class LatentODE(Generative):
    """A latent equation with observations by a network and Gaussian noise.

    Args:
        channels: of the series.
        latent: components of the latent state.
        hidden: of the encoder.
        width: of the hidden layers of field and observation.
        depth: hidden layers of the field.
        between: of the encoder, see `Encoder`.
        anneal: calls of `loss` over which the weight of the divergence rises from 0.1 to 1.
        noise: standard deviation of the observations, in units of the data's.
        learn_noise: whether it is fitted.
        solver: how the equation is solved, in time of which the span of the data is one.
    """

    calls: Tensor

    def __init__(
        self,
        channels: int,
        latent: int = 4,
        hidden: int = 32,
        width: int = 32,
        depth: int = 1,
        between: Literal["ode", "gaps"] = "ode",
        anneal: int = 100,
        noise: float = 0.1,
        learn_noise: bool = True,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(channels)
        self.latent, self.anneal = latent, anneal
        self.encoder = Encoder(channels, hidden, between)
        self.start = nn.Linear(hidden, 2 * latent)
        self.field = VectorField(latent, width, depth, bounded=True)
        self.decoder = Perceptron(latent, channels, width, scale=1.0)
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(noise)), learn_noise)
        self.solver = solver or Solver()
        # The span is a few turns of what is to be learnt, and slopes are in units of the span.
        self.field.speed.fill_(10.0)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Minus the bound on the log-likelihood, per observation, with the divergence annealed."""
        if self.training:
            self.calls += 1
        weight = min(1.0, 0.1 + 0.9 * float(self.calls) / max(self.anneal, 1))
        likelihood, divergence, count = self._bound(batch, generator)
        return (weight * divergence - likelihood) / count

    def _bound(self, batch: Series, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihood and divergence, summed over the batch, and how many values there are."""
        seen, times = batch.known, self.filled(batch)
        values = torch.where(seen, self.standardised(batch), 0.0)
        mean, log_std = self._law(values, seen, times)
        z = mean + log_std.exp() * normal(tuple(mean.shape), mean, generator)
        found = self.decoder(follow(self.solver, self.field, z, times))
        residual = (values - found) * (-self.log_noise).exp()
        terms = -0.5 * residual**2 - self.log_noise - 0.5 * math.log(2 * math.pi)
        likelihood = torch.where(seen, terms, 0.0).sum()
        divergence = 0.5 * ((2 * log_std).exp() + mean**2 - 1 - 2 * log_std).sum()
        return likelihood, divergence, seen.sum().clamp(min=1)

    def _law(self, values: Tensor, seen: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of the latent start, each (batch, latent)."""
        return self.start(self.encoder(values, seen, times)).chunk(2, dim=1)

    @torch.no_grad()
    def predict(self, series: Series, part: float = 1.0) -> Tensor:
        """Values (batch, n, channels) at the times of series, of the mean of the latent start.

        Args:
            series: of which.
            part: how much of the points of each, from the first, is looked at.
        """
        seen, times = series.known, self.filled(series)
        values = torch.where(seen, self.standardised(series), 0.0)
        seen = seen & ~self._behind(series, part)[..., None]
        values = torch.where(seen, values, 0.0)
        mean, _ = self._law(values, seen, times)
        found = self.decoder(follow(self.solver, self.field, mean, times))
        return found * self.scale + self.shift

    @torch.no_grad()
    def sample(self, times: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Paths of the prior with the noise of observations, (count, n, channels), at times (n,).

        The first of the times is that at which the series began.
        """
        z = normal((count, self.latent), self.shift, generator)
        unit = (times.double() - float(self.clock[0])) / float(self.clock[1])
        found = self.decoder(follow(self.solver, self.field, z, unit.expand(count, -1)))
        found = found + self.log_noise.exp() * normal(tuple(found.shape), found, generator)
        return found * self.scale + self.shift

    @torch.no_grad()
    def evaluate(self, series: Series, part: float = 0.5, seed: int = 0) -> dict[str, float]:
        """Figures on a test set.

        Args:
            series: test set.
            part: how much of each is looked at where the rest is predicted.
            seed: of the draw in the bound.

        Returns:
            ``relative_l2`` of all values, all being looked at; ``extrapolation`` of those behind
            the part that is looked at; ``bound`` on the log-likelihood per value, in units of the
            standardised data.
        """
        generator = torch.Generator(self.shift.device).manual_seed(seed)
        likelihood, divergence, count = self._bound(series, generator)
        behind = series.known & self._behind(series, part)[..., None]
        return {
            "relative_l2": _relative(self.predict(series), series.values, series.known),
            "extrapolation": _relative(self.predict(series, part), series.values, behind),
            "bound": float((likelihood - divergence) / count),
        }

    def _behind(self, series: Series, part: float) -> Tensor:
        """Which places (batch, n) lie behind a part of the points of each sample."""
        places = torch.arange(series.times.shape[1], device=series.times.device)
        return places >= (part * series.lengths).ceil()[:, None]


def _relative(found: Tensor, true: Tensor, where: Tensor) -> float:
    apart = (found.double() - true.double())[where]
    return float(apart.norm() / true.double()[where].norm())
