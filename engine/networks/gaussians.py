"""Gaussians that move: a feature embedding with trained means and shapes.

``F_c(x) = sum_i w_ci exp(-|A_i (x - mu_i)|^2 / 2)``, c = 1..channels, then a small network of the
features, or none (Kang, Oh, Hong and Park, "PIG: Physics-informed Gaussians as adaptive parametric
mesh representations", ICLR 2025, arXiv 2412.05994, eqs. 5-7). Standard deviations are kept as
logarithms, so that none can become zero or negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.autograd import Function

from ..gaussian_taylor import WAVE, Bells, channel_parts
from ..taylor import JetAlgebra
from .field import Claim, Context
from .placement import ROUNDS, spread, tessellated
from .tiles import Some, tiles

START = 0.1
"""Standard deviation of the initial weights."""
WIDEST = 4.0
"""Largest standard deviation, where a coordinate has length 2: beyond, none is felt any more, and
an optimiser would let it go to infinity."""
LEAST_APART = 0.1
"""Least distance of neighbours that a first width follows, in units of the median one."""
EVEN = 1.0
"""Weight that is even, in units of the mean of that which is not."""


@dataclass(frozen=True)
class GaussianSettings:
    """How many Gaussians of what shape (the `gaussians` section of a case).

    Attributes:
        count: Gaussians of a set.
        channels: features.
        full: full covariance matrices instead of diagonal ones.
        own: a set for every feature instead of one for all.
        overlap: initial standard deviation in units of the mean spacing.
        radius: standard deviations beyond which a Gaussian is taken as zero.
        floor: least standard deviation in units of the mean spacing: what is narrower hides
            between collocation points.
        density: of means along each axis, relative to each other; empty for equal.
        separable: Gaussians of one coordinate each, and products of their sums.
        moving: means and shapes are trained, not the weights alone.
    """

    count: int
    channels: int
    full: bool = False
    own: bool = False
    overlap: float = 1.5
    radius: float = 8.5
    floor: float = 0.1
    density: tuple[float, ...] = ()
    separable: bool = False
    moving: bool = True


class Sensitivity(NamedTuple):
    """Derivatives of point-wise scalars by the parameters of the Gaussians of a tile.

    Attributes:
        points: positions of the points.
        active: positions of the Gaussians.
        weights: shape (p, channels, n); (p, 1, n) where every feature has its own set.
        means: shape (p, n, d); None for Gaussians that do not move.
        log_widths: shape (p, n, d), or None.
        shears: shape (p, n, d (d - 1) / 2), or None.
    """

    points: Some
    active: Some
    weights: Tensor
    means: Tensor | None = None
    log_widths: Tensor | None = None
    shears: Tensor | None = None


class GaussianFeatures(nn.Module):
    """Sums of Gaussians as features of a point.

    Coordinates are scaled to [-1, 1]; means and widths are in these units.

    Args:
        bounds: (low, high) of every coordinate: the unit of the scaling.
        settings: number and shape.
        periodic: periodic axes.
        placed: box in which means begin, as `bounds`; None for all of it.
        generator: source of means and weights.
        start: standard deviation of the first weights.
    """

    def __init__(
        self,
        bounds: Sequence[tuple[float, float]],
        settings: GaussianSettings,
        *,
        periodic: Sequence[int] = (),
        placed: Sequence[tuple[float, float]] | None = None,
        generator: torch.Generator,
        start: float = START,
    ) -> None:
        super().__init__()
        self.centre: Tensor
        self.stretch: Tensor
        low, high = torch.tensor(bounds, dtype=torch.float64).T
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.register_buffer("stretch", 2 / (high - low), persistent=False)
        self.settings = settings
        self.channels = settings.channels
        self.periodic = tuple(periodic)
        dimension = len(bounds)
        inner = torch.tensor(bounds if placed is None else placed, dtype=torch.float64)
        inner = ((inner.T - self.centre) * self.stretch).T
        sets = settings.channels if settings.own else 1
        density = torch.tensor(settings.density or (1.0,) * dimension, dtype=torch.float64)
        density = density / density.log().mean().exp()
        # In these units of length, spacings are alike along all axes.
        self.metric = density / (inner[:, 1] - inner[:, 0])
        drawn = [spread(inner, density, settings.count, generator) for _ in range(sets)]
        self.means = nn.Parameter(torch.cat(drawn))
        spacing = settings.count ** (-1 / dimension) / self.metric
        self.floor: Tensor
        self.register_buffer("floor", settings.floor * spacing, persistent=False)
        widths = torch.log(settings.overlap * spacing).expand(len(self.means), dimension)
        self.log_widths = nn.Parameter(widths.clone())
        self.shears: nn.Parameter | None = None
        if settings.full:
            pairs = dimension * (dimension - 1) // 2
            self.shears = nn.Parameter(torch.zeros(len(self.means), pairs, dtype=torch.float64))
        shape = (settings.channels, settings.count)
        self.weights = nn.Parameter(
            start * torch.randn(shape, generator=generator, dtype=torch.float64)
        )
        for parameter in (self.means, self.log_widths, self.shears):
            if parameter is not None:
                parameter.requires_grad_(settings.moving)

    def widths(self) -> Tensor:
        """Standard deviations along the axes of A, shape (n, d)."""
        square = torch.exp(2 * self.log_widths) + self.floor.to(self.log_widths).square()
        return torch.rsqrt(1 / square + 1 / WIDEST**2)

    def _elasticity(self) -> Tensor:
        """Derivative of the logarithms of `widths` by the parameters, shape (n, d)."""
        floor = self.floor.to(self.log_widths).square()
        above = 1 / (1 + floor * torch.exp(-2 * self.log_widths))
        square = torch.exp(2 * self.log_widths) + floor
        return above / (1 + square / WIDEST**2)

    def gaussians(self, points: Tensor) -> Tensor:
        """Values of all Gaussians, truncated nowhere, shape (points, n)."""
        scaled = (points - self.centre.to(points)) * self.stretch.to(points)
        bells = Bells(scaled, self.means, 1 / self.widths(), self.shears, self.periodic)
        return bells.coefficient((0,) * points.shape[1])

    def settle(self, points: Tensor, weight: np.ndarray) -> None:
        """Spread means as a weight says, and make widths what their distances are.

        Args:
            points: even over the domain, several for each Gaussian, shape (m, d).
            weight: of each, such as the size of the residual, shape (m,).
        """
        scaled = ((points - self.centre.to(points)) * self.stretch.to(points)).cpu().double()
        sample = (scaled * self.metric).numpy()
        # No part of the domain goes without.
        weight = EVEN + weight / max(float(weight.mean()), 1e-300)
        for _ in range(ROUNDS):
            # No point is to be the beginning of two means, which would then never part.
            weight = np.minimum(weight, weight.sum() / len(self.means))
        steps = (np.arange(len(self.means)) + 0.5) / len(self.means)
        chosen = np.searchsorted(np.cumsum(weight) / weight.sum(), steps)
        centres = tessellated(sample, sample[chosen], weight)
        with torch.no_grad():
            self.means.copy_(torch.from_numpy(centres) / self.metric)
        around = min(2 * sample.shape[1], len(centres) - 1)
        if not around:
            return  # a single Gaussian has no neighbours to take a width from
        apart = KDTree(centres).query(centres, around + 1)[0][:, 1:].mean(1)
        apart = np.maximum(apart, LEAST_APART * np.median(apart))
        with torch.no_grad():
            spacing = torch.from_numpy(apart)[:, None] / self.metric
            self.log_widths.copy_(torch.log(self.settings.overlap * spacing))

    def place(self, which: Tensor, points: Tensor, others: Tensor, shrink: float) -> None:
        """Put some Gaussians elsewhere, with axes along the coordinates.

        Args:
            which: positions of the Gaussians, shape (k,).
            points: their new means, shape (k, d).
            others: positions of those whose widths they are given, from the nearest each.
            shrink: factor of these widths.
        """
        with torch.no_grad():
            means = (points - self.centre.to(points)) * self.stretch.to(points)
            nearest = others[torch.cdist(means, self.means[others]).argmin(1)]
            self.means[which] = means
            self.log_widths[which] = self.log_widths[nearest] + math.log(shrink)
            if self.shears is not None:
                self.shears[which] = 0

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context) -> Tensor:
        """Feature bundle, shape (channels of the algebra, points, features)."""
        if context.tape is not None:
            with torch.no_grad():
                outputs = self.evaluate(points, algebra)
            record = GaussianRecord(self, points.detach(), algebra, outputs.requires_grad_())
            context.tape.append(record)
            return record.outputs
        if points.requires_grad or not torch.is_grad_enabled():
            return self.evaluate(points, algebra)
        return _Features.apply(self, points, algebra, *self.parameters())  # type: ignore[return-value]

    def evaluate(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        """`jet` by operations that torch can differentiate, as often as wanted."""
        parts = channel_parts(algebra, self.stretch.tolist())
        found, order = [], []
        for where, active, bells in self._tiles(points):
            mixing = self._mixing(active)
            found.append(
                torch.stack(
                    [
                        sum(factor * bells.coefficient(index) for index, factor in channel)
                        @ mixing.T
                        for channel in parts
                    ]
                )
            )
            order.append(where)
        if not found:
            return points.new_zeros((algebra.channels, 0, self.settings.channels))
        joined = torch.cat(found, 1)
        if isinstance(order[0], slice):
            return joined
        return joined[:, torch.argsort(torch.cat(order))]

    def sensitivities(
        self, points: Tensor, algebra: JetAlgebra, adjoint: Tensor
    ) -> Iterator[Sensitivity]:
        """Derivatives of one scalar a point by the parameters, tile by tile.

        Args:
            points: shape (p, d).
            algebra: of the bundle.
            adjoint: derivative of each point's scalar by the feature bundle, its shape.
        """
        parts = channel_parts(algebra, self.stretch.tolist())
        elasticity = self._elasticity()
        for where, active, bells in self._tiles(points):
            mixing = self._mixing(active)
            inner: dict[tuple[int, ...], Tensor] = {}
            weights: Tensor | float = 0.0
            for channel, members in zip(parts, adjoint[:, where], strict=True):
                spread = members @ mixing
                total: Tensor | float = 0.0
                for index, factor in channel:
                    share = factor * spread
                    inner[index] = inner[index] + share if index in inner else share
                    total = total + factor * bells.coefficient(index)
                owned = (
                    members[:, None, self._owners(active)]
                    if self.settings.own
                    else members[:, :, None]
                )
                weights = weights + owned * cast(Tensor, total)[:, None]
            if not self.settings.moving:
                yield Sensitivity(where, active, cast(Tensor, weights))
                continue
            means, widths, shears = bells.pull(inner)
            widths = widths * elasticity[active]
            yield Sensitivity(where, active, cast(Tensor, weights), means, widths, shears)

    def shapes(self, part: Sensitivity) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Trained parameters beside the weights, and a tile's derivatives by them."""
        for parameter, values in (
            (self.means, part.means),
            (self.log_widths, part.log_widths),
            (self.shears, part.shears),
        ):
            if parameter is not None and values is not None:
                yield parameter, values

    def _tiles(self, points: Tensor) -> Iterator[tuple[Some, Some, Bells]]:
        scaled = (points - self.centre.to(points)) * self.stretch.to(points)
        rates = 1 / self.widths()
        with torch.no_grad():
            reach = self._reach()
        for where, active in tiles(scaled, self.means.detach(), reach, self.periodic):
            shears = None if self.shears is None else self.shears[active]
            yield (
                where,
                active,
                Bells(scaled[where], self.means[active], rates[active], shears, self.periodic),
            )

    def _reach(self) -> Tensor:
        """Half extents of the boxes around the truncated Gaussians, shape (n, d)."""
        radius = self.settings.radius
        widths = self.widths()
        if self.shears is not None:
            # With A = D (I + U), the variance along an axis is the squared row of (I + U)^-1 D^-1.
            n, d = widths.shape
            unit = torch.eye(d).to(widths).expand(n, d, d).clone()
            rows, columns = torch.tril_indices(d, d, -1)
            unit[:, rows, columns] = self.shears
            inverse = torch.linalg.inv(unit) * widths[:, None, :]
            return radius * torch.linalg.vector_norm(inverse, dim=2)
        reach = radius * widths
        for axis in self.periodic:
            half = (reach[:, axis] * WAVE / 2).clamp(max=1)
            reach[:, axis] = torch.where(half < 1, 2 / WAVE * torch.asin(half), torch.inf)
        return reach

    def _mixing(self, active: Some) -> Tensor:
        """Weights of some Gaussians in every feature, shape (channels, n)."""
        if not self.settings.own:
            return self.weights[:, active]
        owners = self._owners(active)
        mixing = self.weights.new_zeros(self.settings.channels, len(owners))
        values = self.weights.flatten()[active]
        return mixing.index_put((owners, torch.arange(len(owners), device=owners.device)), values)

    def _owners(self, active: Some) -> Tensor:
        """The feature each Gaussian belongs to."""
        channels = torch.arange(self.settings.channels, device=self.means.device)
        return channels.repeat_interleave(self.settings.count)[active]


class _Features(Function):
    @staticmethod
    def forward(
        ctx: Any, owner: GaussianFeatures, points: Tensor, algebra: JetAlgebra, *parameters: Tensor
    ) -> Tensor:
        ctx.owner, ctx.algebra = owner, algebra
        ctx.save_for_backward(points, *parameters)
        return owner.evaluate(points, algebra)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (adjoint,) = grad_outputs
        points, *parameters = ctx.saved_tensors
        owner = ctx.owner
        if torch.is_grad_enabled():
            again = owner.evaluate(points, ctx.algebra)
            return (
                None,
                None,
                None,
                *torch.autograd.grad(again, parameters, adjoint, create_graph=True),
            )
        found = {id(p): torch.zeros_like(p) for p in owner.parameters()}
        for part in owner.sensitivities(points, ctx.algebra, adjoint):
            for parameter, values in owner.shapes(part):
                found[id(parameter)][part.active] += values.sum(0)
            weights = found[id(owner.weights)]
            if owner.settings.own:
                weights.view(-1)[part.active] += part.weights.sum((0, 1))
            else:
                weights[:, part.active] += part.weights.sum(0)
        return None, None, None, *(found[id(p)] for p in owner.parameters())


@dataclass
class GaussianRecord:
    """One use of Gaussian features; see `residua.engine.networks.field.Record`."""

    features: GaussianFeatures
    points: Tensor
    algebra: JetAlgebra
    outputs: Tensor

    def parameters(self) -> Iterable[nn.Parameter]:
        """See `Record`."""
        return [p for p in self.features.parameters() if p.requires_grad]

    def rows(
        self, adjoint: Tensor, points: int, claim: Claim | None = None
    ) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """See `Record`; nothing is claimed."""
        owner = self.features
        found = {p: adjoint.new_zeros(points, *p.shape) for p in self.parameters()}
        # Copy by copy: no tile then holds the same point twice.
        for start in range(0, len(self.points), points):
            copy = slice(start, start + points)
            with torch.no_grad():
                for part in owner.sensitivities(self.points[copy], self.algebra, adjoint[:, copy]):
                    for parameter, values in owner.shapes(part):
                        _add(found[parameter], part, values)
                    weights = found.get(owner.weights)
                    if weights is None:
                        continue
                    if owner.settings.own:
                        _add(weights.flatten(1), part, part.weights[:, 0])
                    else:
                        _add(weights.transpose(1, 2), part, part.weights.transpose(1, 2))
        return [(parameter, rows.flatten(1)) for parameter, rows in found.items()]


def _add(target: Tensor, part: Sensitivity, values: Tensor) -> None:
    """Add a tile's block to rows, shapes (points, Gaussians, ...)."""
    where, active = part.points, part.active
    if isinstance(where, Tensor) and isinstance(active, Tensor):
        where = where[:, None]
    target[where, active] += values
