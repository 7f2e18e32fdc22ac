"""The log-ODE method: one step over a window of many observations, by their log-signature.

Over a window with increment x and Levy area A, the equation ``dz = f(z) dX`` with vector fields
f_1, ..., f_c is replaced by the autonomous one, for s from 0 to 1, ::

    dz/ds = sum_i f_i(z) x_i + sum_(i<j) [f_i, f_j](z) A_ij,    [f, g] = Dg f - Df g,

(Morrill, Salvi, Kidger, Foster and Lyons, "Neural rough differential equations for long time
series", arXiv 2009.08295). There a network stands for f and its brackets alike; here also the true
brackets of f can be taken (Walker, McLeod, Qin, Cheng, Li and Lyons, "Log neural controlled
differential equations: the Lie brackets make a difference", arXiv 2402.18512).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..explicit import ExplicitRungeKutta, Heun
from .equation import Field, Product, check, driven, march
from .logsignature import area_matrix, windows
from .paths import Path

__all__ = ["bracketed", "solve_log_ode"]


def solve_log_ode(
    field: Field,
    path: Path,
    start: Tensor,
    *,
    window: int,
    depth: int = 2,
    brackets: bool = False,
    stepper: ExplicitRungeKutta | None = None,
    substeps: int = 1,
    every: bool = False,
) -> Tensor:
    """Integrate a controlled equation over windows of the straight lines through a path's knots.

    Args:
        field: from t (batch,) and z (batch, h) to (batch, h, m), where m is the number of channels
            with `brackets` and else that of components of the log-signature. If it has a method
            ``linearised(t, z)``, that gives the derivatives (see `bracketed`).
        path: X.
        start: shape (batch, h).
        window: intervals in a window; the last window may have fewer.
        depth: of the log-signatures, 1 or 2.
        brackets: whether the brackets of the field are computed from it.
        stepper: Heun unless given.
        substeps: steps in a window.
        every: whether the states at the ends of all windows are returned, and not the last alone.

    Returns:
        shape (batch, h), or (batch, windows + 1, h).

    Raises:
        ConfigurationError: shapes do not fit, or a number is out of its range.
    """
    check(start, path, substeps)
    stepper = stepper or Heun()
    logs = windows(path.knot_values, window, depth).to(start)
    true = brackets and depth == 2
    if true:
        c = path.channels
        matrix = area_matrix(logs[..., c:], c).flatten(2)
        logs = torch.cat((logs[..., :c], matrix), dim=2)
    pieces = torch.stack((torch.zeros_like(logs), logs), dim=2)
    count = path.knots.shape[1]
    edges = torch.arange(0, count - 1 + window, window, device=start.device).clamp(max=count - 1)
    whole = Path(path.knots[:, edges], pieces)
    if not true:
        return driven(field, whole, start, stepper, substeps, every)
    times, slopes = whole.stages(stepper.tableau.nodes[:-1], substeps)
    kept, product = substeps if every else None, bracketed(field, path.channels)
    return march(product, times.to(start), slopes, start, stepper, kept)


def bracketed(field: Field, channels: int) -> Product:
    """The right-hand side of the log-ODE with the true brackets of a field.

    With the matrix of areas, antisymmetric, all brackets are one directional derivative a channel::

        sum_(i<j) A_ij [f_i, f_j] = sum_j Df_j v_j,    v_j = sum_i A_ij f_i.

    Args:
        field: from t (batch,) and z (batch, h) to (batch, h, channels). If it has a method
            ``linearised(t, z)``, that returns its value and a function from directions v, of shape
            (batch, channels, h), to ``sum_j Df_j v_j``, (batch, h); else these are found by
            forward differentiation.
        channels: of the path.

    Returns:
        a function of t (batch,), z (batch, h) and a slope (batch, channels + channels^2) that
        holds increments and the matrix of areas.
    """
    linearised: Any = getattr(field, "linearised", None) or _forward(field)

    def product(t: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        matrix, push = linearised(t, z)
        area = slope[:, channels:].unflatten(1, (channels, channels))
        directions = torch.bmm(matrix, area).transpose(1, 2)
        along = torch.bmm(matrix, slope[:, :channels, None]).squeeze(2)
        return along + push(directions)

    return product


def _forward(field: Field) -> Callable[[Tensor, Tensor], tuple[Tensor, Any]]:
    """`linearised` of any field, by forward differentiation."""

    def linearised(t: Tensor, z: Tensor) -> tuple[Tensor, Any]:
        def push(directions: Tensor) -> Tensor:
            channels = directions.shape[1]
            times = t.repeat_interleave(channels)
            states = z.repeat_interleave(channels, dim=0)
            change = torch.func.jvp(
                lambda y: field(times, y), (states,), (directions.flatten(0, 1),)
            )[1]
            return change.unflatten(0, (-1, channels)).diagonal(dim1=1, dim2=3).sum(-1)

        return field(t, z), push

    return linearised
