"""Paths of a latent stochastic equation between the knots of series: prior, posteriors, divergence.

Two posteriors with the diffusion of the prior:

* `matched_divergence` has Gaussian marginals, given at the knots and bent like those of a Brownian
  bridge between them. The drift that has these marginals follows from the Fokker-Planck equation,
  so that the divergence is a mean over times and states, without any integration (Bartosh, Vetrov
  and Naesseth, "SDE matching: scalable and simulation-free training of latent stochastic
  differential equations", arXiv 2502.02472).
* `Steered` is integrated along with the divergence as one more component of the state, without
  noise (Li, Wong, Chen and Duvenaud, arXiv 2001.01328, section 5). Its drift is
  ``h + kappa (target - z) / (time left to the next knot) + g u`` with target and u by networks of
  the context: the first is the pull of a Brownian bridge (Delyon and Hu, Stochastic Process. Appl.
  116 (2006)), which a network alone would have to learn as a pole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..stochastic.calculus import with_slope

__all__ = ["Anchors", "Knots", "Steered", "matched_divergence"]

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Anchors:
    """Gaussian marginals of a posterior.

    Attributes:
        mean: shape (batch, n, latent), at the knots.
        std: shape (batch, n, latent), at the knots.
        bend: shape (batch, n - 1, latent), how far the mean leaves the chord: by ``u (1 - u) bend``
            in the fraction u of an interval.
        spread: shape (batch, n - 1, latent): ``u (1 - u) spread^2`` is added to the variance.
    """

    mean: Tensor
    std: Tensor
    bend: Tensor
    spread: Tensor


def matched_divergence(
    anchors: Anchors, times: Tensor, drift: Field, diffusion: Field, generator: torch.Generator
) -> Tensor:
    """The mean of ``1/2 int |(f - h) / g|^2 dt``, estimated without bias at two times an interval.

    The velocity that carries the marginals N(m, s^2) is ``v = m' + (s' / s) (z - m)``; with noise
    the drift is ``f = v - g^2 (z - m) / (2 s^2) + g dg/dz``.

    Args:
        anchors: marginals.
        times: shape (batch, n), of the knots.
        drift: of the prior, h(t, z) with t (rows, 1) and z (rows, latent).
        diffusion: g of both; component i depends on z_i only.
        generator: of random numbers.

    Returns:
        a number, summed over the batch.
    """
    gaps = times.diff(dim=1)[..., None].to(anchors.mean.dtype)
    v = torch.rand(gaps.shape, generator=generator, dtype=gaps.dtype, device=gaps.device)
    # Denser at the ends of an interval, where a bridge is pulled most.
    u = torch.stack((0.5 - 0.5 * (math.pi * v / 2).cos(), 0.5 + 0.5 * (math.pi * v / 2).cos()))
    weight = 0.5 * math.pi * (math.pi * v / 2).sin() * 0.5
    w = 1 - u
    mean, std = anchors.mean, anchors.std
    middle = w * mean[:, :-1] + u * mean[:, 1:] + u * w * anchors.bend
    slope = mean[:, 1:] - mean[:, :-1] + (w - u) * anchors.bend
    before, after, between = std[:, :-1] ** 2, std[:, 1:] ** 2, anchors.spread**2
    variance = w * w * before + u * u * after + u * w * between
    rise = 2 * (u * after - w * before) + (w - u) * between
    deviation = variance.sqrt() * torch.randn(
        variance.shape, generator=generator, dtype=variance.dtype, device=variance.device
    )
    z = (middle + deviation).flatten(0, 2)
    time = (times[:, :-1, None] + u * gaps).flatten(0, 2)
    g, along = with_slope(diffusion, time, z)
    standing = gaps <= 0
    velocity = (slope + 0.5 * rise / variance * deviation) / torch.where(standing, 1.0, gaps)
    pull = 0.5 * (deviation / variance).flatten(0, 2)
    push = (velocity.flatten(0, 2) - g * g * pull + along - drift(time, z)) / g
    rate = (push * push).sum(1).view(2, *gaps.shape[:2], 1).sum(0)
    return 0.5 * (rate * weight * torch.where(standing, 0.0, gaps)).sum()


class Knots:
    """A latent equation with time counted in knots: samples with times of their own go together.

    The drift is multiplied by the speed of time, the diffusion by its root. In the fraction u of
    the way between two knots the fraction ``1 - (1 - u)^power`` of their gap has passed; in every
    substep time has the speed that takes it to the substep's end.

    Args:
        drift: h(t, z), t of shape (batch, 1).
        diffusion: g(t, z).
        times: shape (batch, n).
        substeps: between two knots.
        power: 1 for even substeps, more for shorter ones towards a knot.
    """

    def __init__(
        self, drift: Field, diffusion: Field, times: Tensor, substeps: int, power: float = 1.0
    ) -> None:
        self._drift, self._diffusion = drift, diffusion
        self.substeps = substeps
        self._starts = times[..., None].unbind(1)
        self._gaps = times.diff(dim=1)[..., None].unbind(1)
        passed = [1 - (1 - j / substeps) ** power for j in range(substeps + 1)]
        self._passed = passed
        self._speeds = [(b - a) * substeps for a, b in zip(passed, passed[1:], strict=False)]

    def place(self, t: Tensor) -> tuple[int, int, Tensor, Tensor]:
        """Knot and substep all samples are in, their times and speeds (batch, 1)."""
        where = float(t[0])
        knot = min(int(where + 1e-3), len(self._gaps) - 1)
        substep = min(int((where - knot) * self.substeps + 1e-3), self.substeps - 1)
        # A stage of a step may lie inside a substep.
        inside = where - knot - substep / self.substeps
        gap, speed = self._gaps[knot], self._speeds[substep]
        passed = self._passed[substep] + speed * inside
        return knot, substep, torch.add(self._starts[knot], gap, alpha=passed), gap * speed

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Of the state, by knots."""
        _, _, time, speed = self.place(t)
        return self._drift(time, y) * speed

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Of the state, by the root of knots."""
        _, _, time, speed = self.place(t)
        return self._diffusion(time, y) * speed.sqrt()


class Steered(Knots):
    """A posterior that is integrated, with the divergence as last component of the state.

    Args:
        drift: of the prior.
        diffusion: of both.
        times: shape (batch, n).
        substeps: between two knots; they get shorter towards the next.
        steer: u(z, t, context) from their concatenation.
        context: shape (batch, n, size).
        target: shape (batch, n, latent), where each knot is aimed at.
        pull: shape (substeps, latent), kappa.
    """

    def __init__(
        self,
        drift: Field,
        diffusion: Field,
        times: Tensor,
        substeps: int,
        steer: Callable[[Tensor], Tensor],
        context: Tensor,
        target: Tensor,
        pull: Tensor,
    ) -> None:
        super().__init__(drift, diffusion, times, substeps, power=2.0)
        self._steer = steer
        self._contexts, self._targets = context.unbind(1), target.unbind(1)
        self._pulls = pull.unbind(0)
        self._noise: tuple[Tensor, Tensor] | None = None

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Of the latent state and of the divergence."""
        knot, substep, time, speed = self.place(t)
        z = y[:, :-1]
        g = self._diffusion(time, z)
        # Where time stands still, behind the end of a sample, there is nothing to be pulled to.
        left = (self._gaps[knot] * (1 - self._passed[substep])).clamp(min=1e-9)
        bridge = (self._targets[knot + 1] - z) * self._pulls[substep] / left
        push = self._steer(torch.cat((z, time, self._contexts[knot + 1]), dim=1)) + bridge / g
        self._noise = y, F.pad(g * speed.sqrt(), (0, 1))
        rate = 0.5 * (push * push).sum(1, keepdim=True)
        return torch.cat((torch.addcmul(self._drift(time, z), g, push), rate), dim=1) * speed

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Of the latent state; zero for the divergence."""
        if self._noise is None or self._noise[0] is not y:
            self.drift(t, y)
        assert self._noise is not None
        return self._noise[1]
