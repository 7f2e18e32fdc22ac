"""Controlled differential equations ``dz = f(z) dX`` and their solution from knot to knot.

Since the solution depends on the path and not on its speed, an integrator may take one step from
each knot to the next although every sample has knots of its own. What those steps see of the path
is then computed at once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import ConfigurationError
from ..explicit import ExplicitRungeKutta, Midpoint
from ..terms import ODE
from .paths import Path

__all__ = ["Controlled", "applied", "controlled", "driven", "march", "solve_controlled"]

Field = Callable[[Tensor, Tensor], Tensor]
"""From t (batch,) and z (batch, h) to a matrix (batch, h, channels)."""

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From t (batch,), z (batch, h) and a slope (batch, channels) to dz (batch, h)."""


class Controlled(nn.Module):
    """The slope ``f(t, z) X'(t)`` of a controlled equation, (batch, h).

    Args:
        field: f, (batch, h, channels).
        path: X.
    """

    def __init__(self, field: Field, path: Path) -> None:
        super().__init__()
        self.field: Any = field
        self.path = path

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The slope at times t (batch,) and states z (batch, h)."""
        return applied(self.field)(t, z, self.path.slope(t).to(z.dtype))


def controlled(field: Field, path: Path) -> ODE:
    """The equation ``dz/dt = field(t, z) path.slope(t)`` for `integrate`.

    The slope of a `Linear` path jumps at its knots; name them as `jump_times` if they are those of
    all samples, or use `path.by_knots()`, or `solve_controlled`.

    Args:
        field: from t (batch,) and z (batch, h) to (batch, h, channels).
        path: with as many samples and channels.
    """
    return ODE(Controlled(field, path))


def applied(field: Field) -> Product:
    """``field(t, z) slope`` as a function of t, z and slope.

    Raises:
        ConfigurationError: in the call, if the field's matrix does not fit.
    """

    def product(t: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        matrix = field(t, z)
        if matrix.shape != (*z.shape, slope.shape[1]):
            raise ConfigurationError(
                "The field of a controlled equation does not fit its path.",
                found=tuple(matrix.shape),
                advice=f"return shape {(*z.shape, slope.shape[1])}: (batch, state, channels)",
            )
        return torch.bmm(matrix, slope[:, :, None]).squeeze(2)

    return product


def march(
    product: Product,
    times: Tensor,
    slopes: Tensor,
    start: Tensor,
    stepper: ExplicitRungeKutta,
    every: int | None = None,
) -> Tensor:
    """Known steps of all samples at once.

    Args:
        product: the right-hand side.
        times: shape (stages, steps, batch).
        slopes: shape (stages, steps, batch, channels), times the length of the step.
        start: shape (batch, h).
        stepper: an explicit method.
        every: keep the states after so many steps; None keeps the last alone.

    Returns:
        shape (batch, h), or (batch, 1 + steps / every, h).
    """
    moments = [row.unbind(0) for row in times.unbind(0)]
    inputs = [row.unbind(0) for row in slopes.unbind(0)]
    matrix = stepper.tableau.matrix
    y, kept = start, [start]
    for number in range(times.shape[1]):
        changes: list[Tensor] = []
        state = y
        for stage, row in enumerate(matrix):
            changes.append(product(moments[stage][number], state, inputs[stage][number]))
            state = y
            for change, weight in zip(changes, row, strict=True):
                if weight != 0:
                    state = torch.add(state, change, alpha=weight)
        y = state
        if every is not None and (number + 1) % every == 0:
            kept.append(y)
    return y if every is None else torch.stack(kept, dim=1)


def solve_controlled(
    field: Field,
    path: Path,
    start: Tensor,
    *,
    stepper: ExplicitRungeKutta | None = None,
    substeps: int = 1,
    every: bool = False,
) -> Tensor:
    """Integrate ``dz = field(t, z) dX`` over all knots, by steps from each to the next.

    Args:
        field: from t (batch,) and z (batch, h) to (batch, h, channels). If it has a method
            ``march(slopes, start, stepper, every)``, that takes the steps (see `march`).
        path: X; its samples may have knots of their own.
        start: shape (batch, h).
        stepper: Midpoint unless given. Its order in the length of the steps holds for all paths
            here, as the steps end where slopes jump.
        substeps: steps in each interval.
        every: whether the states at all knots are returned, and not the last alone.

    Returns:
        shape (batch, h), or (batch, knots, h).

    Raises:
        ConfigurationError: shapes do not fit, or substeps is below one.
    """
    check(start, path, substeps)
    return driven(field, path, start, stepper or Midpoint(), substeps, every)


def driven(
    field: Field,
    path: Path,
    start: Tensor,
    stepper: ExplicitRungeKutta,
    substeps: int,
    every: bool,
) -> Tensor:
    """Steps along a path whose columns the field's fit, in the field's own way if it has one."""
    times, slopes = path.stages(stepper.tableau.nodes[:-1], substeps)
    kept = substeps if every else None
    own: Any = getattr(field, "march", None)
    if own is not None:
        return own(slopes.to(start), start, stepper, kept)
    return march(applied(field), times.to(start), slopes.to(start), start, stepper, kept)


def check(start: Tensor, path: Path, substeps: int) -> None:
    """Check what a solution begins with.

    Raises:
        ConfigurationError: it does not fit.
    """
    batch = len(path.knots)
    if start.dim() != 2 or len(start) != batch:
        raise ConfigurationError(
            "The start of a controlled equation does not fit its path.",
            found=tuple(start.shape),
            advice=f"give shape ({batch}, state)",
        )
    if substeps < 1:
        raise ConfigurationError(
            "An interval has one step or more.", found=substeps, advice="write a positive number"
        )
