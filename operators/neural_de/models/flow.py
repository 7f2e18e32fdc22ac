"""Continuous normalising flows: densities by a differential equation.

A flow ``dz/dt = f(t, z)`` carries points x at t = 0 to normal ones at t = 1, so that ::

    log p(x) = log N(z(1)) + integral of div f(t, z(t)) over t

(Chen, Rubanova, Bettencourt and Duvenaud, NeurIPS 2018, theorem 1). The divergence is exact, or the
estimate ``e^T J e`` with one noise e for a whole solve, whose mean it is (Hutchinson; Grathwohl,
Chen, Bettencourt, Sutskever and Duvenaud, "FFJORD", ICLR 2019, arXiv 1810.01367). Backward in time
normal points become those of the density.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import ConfigurationError, DataError
from .generative import Generative, normal
from .networks import GatedField
from .solver import Solver

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["ContinuousFlow", "Density"]


class Density(nn.Module):
    """The field of a flow with its divergence as component d, and what noise it needs behind it.

    Noise is a part of the state that does not move, so that one field does for every batch and
    compiled code for every solve.

    Args:
        field: f, with `GatedField.along`.
        components: d.
        noises: how many the divergence is estimated with; 0 for the exact one.
    """

    basis: Tensor

    def __init__(self, field: GatedField, components: int, noises: int = 0) -> None:
        super().__init__()
        self.field, self.components, self.noises = field, components, noises
        self.register_buffer("basis", torch.eye(components), persistent=False)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Slopes (batch, d + 1 + noises d) at t (batch,) and y of that shape."""
        d = self.components
        z, noise = y[:, :d], y[:, d + 1 :]
        if self.noises:
            directions = noise.reshape(len(y), self.noises, d)
        else:
            directions = self.basis.expand(len(y), -1, -1)
        slope, moved = self.field.along(t, z, directions)
        divergence = (moved * directions).sum((1, 2))[:, None] / (self.noises or 1)
        return torch.cat((slope, divergence, torch.zeros_like(noise)), dim=1)


class ContinuousFlow(Generative):
    """A density of points, given as series of one instant.

    Args:
        channels: components of a point.
        width: of the hidden layers.
        depth: hidden layers.
        trace: of the Jacobian in the loss: "exact", or "hutchinson", whose cost does not grow with
            the channels. Figures take the exact one.
        noises: of an estimate.
        solver: how the equation is solved; the flow takes one unit of time.

    Raises:
        ConfigurationError: an unknown trace, or no noise.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        depth: int = 2,
        trace: Literal["exact", "hutchinson"] = "exact",
        noises: int = 1,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(channels)
        if trace not in ("exact", "hutchinson"):
            raise ConfigurationError(
                "There is no such trace.", found=trace, advice='write "exact" or "hutchinson"'
            )
        if noises < 1:
            raise ConfigurationError("An estimate takes one noise at least.", found=noises)
        field = GatedField(channels, width, depth)
        self.density = Density(field, channels)
        # In a tuple, and so no submodule: its weights would be written twice.
        self.estimated = (Density(field, channels, noises),) if trace == "hutchinson" else ()
        self.solver = solver or Solver("rk4", step=1 / 8)

    @property
    def field(self) -> GatedField:
        """The field of the flow."""
        return self.density.field

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Minus the mean log-likelihood of the points, in units of the data."""
        points = self._inside(batch)
        if not self.estimated:
            return -self._log_density(points, self.density).mean()
        (field,) = self.estimated
        shape = (len(points), field.noises * points.shape[1])
        # Signs have the least variance of all noises with independent components.
        signs = torch.randint(2, shape, generator=generator, device=generator.device)
        noise = (2 * signs - 1).to(points)
        return -self._log_density(points, field, noise=noise).mean()

    def log_likelihood(self, points: Tensor, solver: Solver | None = None) -> Tensor:
        """Log-density (batch,) of points (batch, channels), exact trace; differentiable.

        Args:
            points: in the unit of the data.
            solver: how the equation is solved, where it is not to be the model's own way.
        """
        inside = (points.to(self.shift) - self.shift) / self.scale
        return self._log_density(inside, self.density, solver=solver) - self.scale.log().sum()

    def _log_density(
        self,
        points: Tensor,
        field: Density,
        *,
        noise: Tensor | None = None,
        solver: Solver | None = None,
    ) -> Tensor:
        """Log-density (batch,) of points (batch, d) in the model's units."""
        start = F.pad(points, (0, 1))
        if noise is not None:
            start = torch.cat((start, noise), dim=1)
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        end = (solver or self.solver).solve(field, start, times).final
        d = points.shape[1]
        z, gained = end[:, :d], end[:, d]
        base = -0.5 * (z.square().sum(1) + d * math.log(2 * math.pi))
        return base + gained

    @torch.no_grad()
    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of the density, shape (count, channels), in the unit of the data."""
        z = normal((count, len(self.shift)), self.shift, generator)
        times = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return self.solver.solve(self.field, z, times).final * self.scale + self.shift

    def sample(self, times: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Points as series (count, n, channels), the same at all times (n,)."""
        return self.points(count, generator)[:, None].expand(-1, len(times), -1)

    @torch.no_grad()
    def predict(self, series: Series) -> Tensor:
        """Log-density (batch,) of the points of series, in the unit of the data."""
        return self.log_likelihood(self._inside(series) * self.scale + self.shift)

    def evaluate(self, series: Series) -> dict[str, float]:
        """Figures on a test set.

        Returns:
            ``log_likelihood``, the mean of a point, in nats and the unit of the data.
        """
        return {"log_likelihood": float(self.predict(series).double().mean())}

    def _inside(self, series: Series) -> Tensor:
        """First values (batch, channels) in the model's units.

        Raises:
            DataError: one is missing.
        """
        if not bool(series.known[:, 0].all()):
            sample = int((~series.known[:, 0].all(1)).nonzero()[0])
            raise DataError(f"point {sample} is incomplete; a density needs all of its components")
        return self.standardised(series)[:, 0]
