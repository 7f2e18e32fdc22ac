"""A neural stochastic equation as the generator of series, fitted by comparing laws of paths.

Kidger, Foster, Li, Oberhauser and Lyons, "Neural SDEs as infinite-dimensional GANs" (arXiv
2102.03657): ``X_0 = zeta(V)``, ``dX = mu(t, X) dt + sigma(t, X) o dW`` in the sense of
Stratonovich, ``Y = affine(X)``. In place of their trained critic stands a fixed one, the energy
distance (Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013))
``2 E|Y - Z| - E|Y - Y'| - E|Z - Z'|``, which is zero only between equal laws: it is taken between
whole paths and between pairs of values at two times, estimated without bias. There is no game
between two networks then, and nothing to be kept Lipschitz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ....errors import DataError
from ..stochastic.brownian import Plain
from ..stochastic.integrate import integrate_sde
from ..stochastic.reversible import ReversibleAdjoint
from ..stochastic.steppers import ReversibleHeun
from ..terms import SDE
from .generative import Generative, Perceptron, normal

if TYPE_CHECKING:
    from ..adjoints import Direct
    from ..trajectories.series import Series

__all__ = ["SDEGAN", "energy_distance"]

_BATCH = 8192
"""Paths that are generated at once."""


class SDEGAN(Generative):
    """A generator of series that all have the same times.

    Args:
        channels: of the series.
        hidden: components of the state of the equation.
        noises: Brownian motions.
        initial: components of the noise of the start.
        width: of the hidden layers.
        substeps: steps between two times of the series.
        windows: pairs of times compared in a call of `loss`.
        diffusion: first size of the diffusion, in units of the data's over the root of its span.
        adjoint: how gradients of the paths are had; None is Direct(), ReversibleAdjoint() saves
            memory for longer series.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 3,
        noises: int = 2,
        initial: int = 2,
        width: int = 32,
        substeps: int = 1,
        windows: int = 16,
        diffusion: float = 1.0,
        adjoint: Direct | ReversibleAdjoint | None = None,
    ) -> None:
        super().__init__(channels)
        self.hidden, self.noises, self.initial = hidden, noises, initial
        self.substeps, self.windows, self.adjoint = substeps, windows, adjoint
        self.begin = Perceptron(initial, hidden, width, scale=1.0)
        self.drift = _Drift(hidden, width)
        self.diffusion = _Diffusion(hidden, noises, width, diffusion)
        self.readout = nn.Linear(hidden, channels)

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Energy distance between the batch and as many generated paths.

        Raises:
            DataError: the series are not complete and at common times.
        """
        times = self._times(batch)
        real = self.standardised(batch)
        fake = self._paths(times, len(real), generator)
        # Each time in the unit of the spread of the data there, so that all count alike.
        unit = real.std(dim=0).clamp(min=1e-3)
        centre = real.mean(dim=0)
        real, fake = (real - centre) / unit, (fake - centre) / unit
        whole = energy_distance(fake.flatten(1)[None], real.flatten(1)[None]).sum()
        count = real.shape[1]
        first = torch.randint(count, (self.windows,), generator=generator, device=real.device)
        second = torch.randint(count, (self.windows,), generator=generator, device=real.device)
        # Half of the pairs are neighbours, in which the noise shows most.
        near = (first + 1).clamp(max=count - 1)
        half = torch.arange(self.windows, device=real.device) < self.windows // 2
        second = torch.where(half, near, second)
        # The law of the start decides about all that follows: it is looked at in every call.
        first[-1], second[-1] = 0, count - 1
        pairs = [
            torch.cat((paths[:, first], paths[:, second] - paths[:, first]), dim=2).transpose(0, 1)
            for paths in (fake, real)
        ]
        return energy_distance(*pairs).mean() + whole / count**0.5

    def _times(self, batch: Series) -> Tensor:
        """Times that all series share, (n,), in units of the span."""
        times = batch.times
        common = bool((batch.lengths == times.shape[1]).all() and (times == times[:1]).all())
        if not common or bool(batch.values.isnan().any()):
            raise DataError(
                "The generator is compared with complete series at common times; fill gaps, or fit "
                "a latent equation (LatentSDE), which needs neither."
            )
        return self.units(times[0])

    def _paths(self, times: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Standardised paths (count, n, channels) at times (n,) in units of the span."""
        start = self.begin(normal((count, self.initial), self.shift, generator))
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        # One step length for the largest gap; smaller gaps take one step each.
        gap = float(times.diff().max())
        solution = integrate_sde(
            SDE(self.drift, self.diffusion, "general", "stratonovich", self.noises),
            start,
            times,
            step=gap / self.substeps * (1 + 1e-5),
            noise=Plain(int(seed.item())),
            stepper=ReversibleHeun(),
            adjoint=self.adjoint,
        )
        return self.readout(solution.states)

    @torch.no_grad()
    def sample(self, times: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Generated paths at times (n,): shape (count, n, channels)."""
        unit = self.units(times)
        found = []
        for begin in range(0, count, _BATCH):
            paths = self._paths(unit, min(_BATCH, count - begin), generator)
            found.append(paths * self.scale + self.shift)
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
            series: test set.
            mean: shape (n, channels), true mean at its times; None takes that of the series.
            variance: the same of the variance.
            count: generated paths.
            seed: of the generated paths.

        Returns:
            ``marginal_mean_error`` and ``marginal_variance_error`` (see
            `stochastic.moments.marginal_errors`), ``energy_distance`` between paths, over the mean
            distance of two test paths.
        """
        generator = torch.Generator(self.shift.device).manual_seed(seed)
        figures = self.marginals(series, mean, variance, count, generator)
        real = series.values[:2000].to(self.shift).flatten(1)
        fake = self.sample(series.times[0], len(real), generator).flatten(1)
        distance = energy_distance(fake[None], real[None]) / torch.pdist(real).mean()
        return {**figures, "energy_distance": float(distance)}


class _Drift(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.body = Perceptron(hidden + 1, hidden, width)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.body(torch.cat((x, t[:, None]), dim=1))


class _Diffusion(nn.Module):
    def __init__(self, hidden: int, noises: int, width: int, first: float) -> None:
        super().__init__()
        self.body = Perceptron(hidden + 1, hidden * noises, width)
        self.shape = (hidden, noises)
        with torch.no_grad():
            self.body.last.bias.copy_(first * torch.eye(hidden, noises).flatten())

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.body(torch.cat((x, t[:, None]), dim=1)).unflatten(1, self.shape)


def energy_distance(first: Tensor, second: Tensor) -> Tensor:
    """Energy distance between two samples, estimated without bias (it may be negative).

    Args:
        first: shape (sets, m, d).
        second: shape (sets, k, d).

    Returns:
        shape (sets,).
    """
    m, k = first.shape[1], second.shape[1]
    between = _distances(first, second).mean((1, 2))
    within = _distances(first, first).sum((1, 2)) / (m * (m - 1))
    other = _distances(second, second).sum((1, 2)) / (k * (k - 1))
    return 2 * between - within - other


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # The root has no derivative at zero, where a point meets itself.
    square = (first**2).sum(2)[:, :, None] + (second**2).sum(2)[:, None]
    square = torch.baddbmm(square, first, second.transpose(1, 2), alpha=-2)
    return square.clamp(min=1e-12).sqrt()
