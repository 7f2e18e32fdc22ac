"""Functions given by data, on tensors: the same tables as on arrays, see `problems.given`.

Arithmetic is in float64 whatever the precision of the network: a series of hundreds of modes has no
digits to spare. Values can be differentiated by their argument.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..problems.given import Given, Series, Spline
from ..problems.given.series import BLOCK

__all__ = ["given"]

_POINTS = 1 << 14  # evaluated at once


def given(function: Given, order: int, argument: Tensor) -> Tensor:
    """Values of a derivative of a function given by data.

    Args:
        function: the function.
        order: of the derivative.
        argument: of any shape and precision.

    Returns:
        A tensor of the same shape, precision and device; not a number outside the samples.
    """
    points = argument.double().reshape(-1).contiguous()
    if isinstance(function, Series):
        table = _table(function, order, points.device)
        parts = [_series(function, table, part) for part in points.split(_POINTS)]
        values = torch.cat(parts)
    elif isinstance(function, Spline):
        values = _spline(function, order, points)
    else:
        raise TypeError(f"no rule evaluates a {type(function).__name__} on tensors")
    return values.reshape(argument.shape).to(argument.dtype)


def _series(function: Series, table: Tensor, points: Tensor) -> Tensor:
    """Horner's rule in the BLOCK-th power of exp(i angle), see `Series`."""
    turns = (points - function.low) / (function.high - function.low)
    angle = 2 * torch.pi * (turns - torch.floor(turns))
    powers = torch.arange(BLOCK, dtype=torch.float64, device=points.device)
    parts = (torch.exp(1j * (angle[:, None] * powers)) @ table.T).unbind(1)
    step = torch.exp(1j * (BLOCK * angle))
    total = parts[-1]
    for part in parts[-2::-1]:
        total = total * step + part
    return total.real


def _spline(function: Spline, order: int, points: Tensor) -> Tensor:
    if order > function.smoothness:
        return torch.full_like(points, torch.nan)
    if not function.straight:
        low, high = function.reach
        outside = (points < low) | (points > high)
        return torch.where(outside, torch.nan, _inside(function, order, points))
    nearest = points.clamp(*function.ends)
    values = _inside(function, order, nearest)
    if order > 1:
        return torch.where(points == nearest, values, 0.0)
    return values if order else values + (points - nearest) * _inside(function, 1, nearest)


def _inside(function: Spline, order: int, points: Tensor) -> Tensor:
    table = _table(function, order, points.device)
    breaks = _breaks(function, points.device)
    cell = (torch.searchsorted(breaks, points.detach(), right=True) - 1).clamp(min=0)
    place = points - breaks[cell]
    total = table[-1, cell]
    for row in table[:-1].flip(0):
        total = total * place + row[cell]
    return total


@lru_cache(maxsize=64)
def _table(function: Series | Spline, order: int, device: torch.device) -> Tensor:
    return torch.tensor(function.table(order), device=device)


@lru_cache(maxsize=64)
def _breaks(function: Spline, device: torch.device) -> Tensor:
    return torch.tensor(function.breaks, device=device)
