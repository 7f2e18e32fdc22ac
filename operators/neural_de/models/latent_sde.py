"""Latent stochastic differential equations, fitted by variational inference over paths.

Li, Wong, Chen and Duvenaud, "Scalable gradients for stochastic differential equations", AISTATS
2020 (arXiv 2001.01328), section 5. A prior ``dz = h(t, z) dt + g(t, z) dW`` and a posterior
``dz = f(t, z, context) dt + g(t, z) dW`` share the diffusion, so that by Girsanov's theorem their
divergence is the mean of ``1/2 int |(f - h) / g|^2 dt``. What is fitted is a bound on the
likelihood of the data. The posterior is matched or integrated; see `latent_paths`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..stochastic.brownian import Plain
from ..stochastic.integrate import integrate_sde
from ..stochastic.steppers import SRIW1, EulerMaruyama, StochasticStepper
from ..terms import SDE
from .generative import Generative, Perceptron, normal
from .latent_paths import Anchors, Knots, Steered, matched_divergence

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["ByComponent", "LatentSDE"]

_BATCH = 8192
"""Paths that are generated at once."""


class ByComponent(nn.Module):
    """A positive diagonal diffusion: component i is a small network of z_i and t alone.

    Args:
        components: of the state.
        width: hidden units of a component.
        first: value before training.
    """

    def __init__(self, components: int, width: int, first: float) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(2, components, width))
        self.shift = nn.Parameter(torch.randn(components, width))
        self.outer = nn.Parameter(torch.zeros(components, width))
        self.base = nn.Parameter(torch.full((components,), math.log(math.expm1(first))))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Values (batch, components) at t (batch, 1) and z (batch, components)."""
        hidden = torch.addcmul(self.shift, z[:, :, None], self.inner[0])
        hidden = torch.tanh(torch.addcmul(hidden, t[:, :, None], self.inner[1]))
        return F.softplus(self.base + (hidden * self.outer).sum(-1)) + 1e-4


class LatentSDE(Generative):
    """A latent stochastic differential equation with an affine observation and Gaussian noise.

    Args:
        channels: of the series.
        latent: components of the latent state.
        context: size of what the encoder hands to the posterior.
        width: of the hidden layers.
        posterior: "matched" needs no integration for its bound; "steered" is integrated.
        substeps: steps between two knots of a steered posterior.
        anneal: calls of `loss` over which the weight of the divergence rises from 0.1 to 1.
        noise: standard deviation of the observations, in units of the data's.
        learn_noise: whether it is fitted. The bound has a second optimum, in which all is noise of
            the observations, so that it is not by default.
        diffusion: first value of the diffusion, in units of the data's over the square root of the
            span of time.
    """

    calls: Tensor

    def __init__(
        self,
        channels: int,
        latent: int = 2,
        context: int = 16,
        width: int = 32,
        posterior: Literal["matched", "steered"] = "matched",
        substeps: int = 4,
        anneal: int = 200,
        noise: float = 0.03,
        learn_noise: bool = False,
        diffusion: float = 1.0,
    ) -> None:
        super().__init__(channels)
        self.latent, self.posterior = latent, posterior
        self.substeps, self.anneal = substeps, anneal
        self.encoder = nn.GRU(2 * channels + 1, 2 * context, batch_first=True)
        self.summary = nn.Linear(2 * context, context)
        known = context + 2 * channels
        self.anchors = nn.Linear(known, 2 * latent)
        if posterior == "matched":
            self.arcs = nn.Linear(2 * known + 1, 2 * latent)
        else:
            self.pull = nn.Parameter(torch.full((substeps, latent), 3.0))
            self.steer = Perceptron(latent + 1 + context, latent, width)
        self.prior = Perceptron(latent + 1, latent, width)
        self.diffusion = ByComponent(latent, 8, diffusion)
        self.decoder = nn.Linear(latent, channels)
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(noise)), learn_noise)
        self.start_mean = nn.Parameter(torch.zeros(latent))
        self.start_log_std = nn.Parameter(torch.zeros(latent))
        self._observe_at_first(noise)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def _observe_at_first(self, noise: float) -> None:
        """Before training the first latent components are the values observed."""
        channels, latent = self.decoder.out_features, self.latent
        self.decoder.weight.copy_(torch.eye(channels, latent))
        self.decoder.bias.zero_()
        self.anchors.weight.mul_(0.1)
        size = self.summary.out_features
        self.anchors.weight[:latent, size : size + channels] = torch.eye(latent, channels)
        self.anchors.bias.zero_()
        self.anchors.bias[latent:] = math.log(noise)

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Minus the bound on the log-likelihood, per observation, with the divergence annealed."""
        if self.training:
            self.calls += 1
        weight = min(1.0, 0.1 + 0.9 * float(self.calls) / max(self.anneal, 1))
        likelihood, divergence, count = self._bound(batch, generator)
        return (weight * divergence - likelihood) / count

    def _bound(self, batch: Series, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihood and divergence, summed over the batch, and how many values there are."""
        seen = batch.known
        values = torch.where(seen, self.standardised(batch), 0.0)
        times = self.filled(batch).to(self.shift.dtype)
        context = self._encode(values, seen, times)
        known = torch.cat((context, values, seen.to(values.dtype)), dim=2)
        mean, log_std = self.anchors(known).chunk(2, dim=2)
        noise = normal(mean.shape, mean, generator)
        if self.posterior == "matched":
            z = mean + log_std.exp() * noise
            bend, spread = self._arcs(known, times)
            anchors = Anchors(mean, log_std.exp(), bend, spread)
            divergence = matched_divergence(anchors, times, self._drift, self.diffusion, generator)
        else:
            path = Steered(
                self._drift,
                self.diffusion,
                times,
                self.substeps,
                self.steer,
                context,
                mean,
                self.pull.sigmoid(),
            )
            start = F.pad(mean[:, 0] + log_std[:, 0].exp() * noise[:, 0], (0, 1))
            states = self._integrate(path, start, times.shape[1], generator, EulerMaruyama())
            z, divergence = states[..., :-1], states[:, -1, -1].sum()
        residual = (values - self.decoder(z)) * (-self.log_noise).exp()
        terms = -0.5 * residual**2 - self.log_noise - 0.5 * math.log(2 * math.pi)
        likelihood = torch.where(seen, terms, 0.0).sum()
        divergence = divergence + self._start_divergence(mean[:, 0], log_std[:, 0])
        return likelihood, divergence, seen.sum().clamp(min=1)

    def _arcs(self, known: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Bends and spreads of the marginals between knots, as for a Brownian bridge at first."""
        root = times.diff(dim=1)[..., None].clamp(min=1e-9).sqrt()
        sides = torch.cat((known[:, :-1], known[:, 1:], root), dim=2)
        bend, log_spread = self.arcs(sides).chunk(2, dim=2)
        typical = F.softplus(self.diffusion.base) * root
        return bend * root, typical * log_spread.clamp(-5, 5).exp()

    def _start_divergence(self, mean: Tensor, log_std: Tensor) -> Tensor:
        ratio = 2 * (log_std - self.start_log_std)
        distance = (mean - self.start_mean) ** 2 * (-2 * self.start_log_std).exp()
        return 0.5 * (ratio.exp() + distance - 1 - ratio).sum()

    def _drift(self, t: Tensor, z: Tensor) -> Tensor:
        return self.prior(torch.cat((z, t), dim=1))

    def _encode(self, values: Tensor, seen: Tensor, times: Tensor) -> Tensor:
        """What lies at and behind each knot, (batch, n, context)."""
        gaps = F.pad(times.diff(dim=1), (0, 1)).to(values.dtype)[..., None]
        inputs = torch.cat((values, seen.to(values.dtype), gaps * times.shape[1]), dim=2)
        return self.summary(self.encoder(inputs.flip(1))[0].flip(1))

    def _integrate(
        self,
        path: Knots,
        start: Tensor,
        count: int,
        generator: torch.Generator,
        stepper: StochasticStepper,
    ) -> Tensor:
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        solution = integrate_sde(
            SDE(path.drift, path.diffusion),
            start,
            torch.arange(count, dtype=torch.float64),
            step=1 / path.substeps,
            noise=Plain(int(seed.item())),
            stepper=stepper,
        )
        return solution.states

    @torch.no_grad()
    def sample(
        self,
        times: Tensor,
        count: int,
        generator: torch.Generator,
        noisy: bool = True,
        substeps: int = 2,
    ) -> Tensor:
        """Paths of the prior.

        Args:
            times: shape (n,).
            count: how many.
            generator: of random numbers.
            noisy: whether the noise of the observations is added.
            substeps: steps of strong order 3/2 between two times.

        Returns:
            shape (count, n, channels).
        """
        like = self.start_mean
        unit = self.units(times).expand(count, -1)
        found = []
        for rows in unit.split(_BATCH):
            z = normal((len(rows), self.latent), like, generator)
            z = self.start_mean + self.start_log_std.exp() * z
            path = Knots(self._drift, self.diffusion, rows, substeps)
            values = self.decoder(self._integrate(path, z, len(times), generator, SRIW1()))
            if noisy:
                values = values + self.log_noise.exp() * normal(values.shape, like, generator)
            found.append(values * self.scale + self.shift)
        return torch.cat(found)

    @torch.no_grad()
    def evaluate(
        self,
        series: Series,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
        count: int = 20000,
        seed: int = 0,
    ) -> dict[str, float]:
        """Figures on a test set.

        Args:
            series: test set; generated paths are compared at the times of its first sample.
            mean: shape (n, channels), true mean at those times; None takes that of the series.
            variance: the same of the variance.
            count: generated paths.
            seed: of the generated paths.

        Returns:
            ``marginal_mean_error`` and ``marginal_variance_error`` (see
            `stochastic.moments.marginal_errors`), ``bound`` on the log-likelihood per value, in
            units of the standardised data.
        """
        generator = torch.Generator(self.start_mean.device).manual_seed(seed)
        figures = self.marginals(series, mean, variance, count, generator)
        likelihood, divergence, values = self._bound(series, generator)
        return {**figures, "bound": float((likelihood - divergence) / values)}
