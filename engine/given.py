"""Functions given by data, on tensors: the same tables as on arrays, see `problems.given`.

Arithmetic is in float64 whatever the precision of the network: a series of hundreds of modes has no
digits to spare. Values can be differentiated by their arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..problems.given import Given, Series, Spline
from ..problems.given.series import BLOCK
from ..problems.given.spline import DEGREE

__all__ = ["given"]

_POINTS = 1 << 14  # evaluated at once


def given(function: Given, orders: Sequence[int], *arguments: Tensor | float) -> Tensor:
    """Values of a partial derivative of a function given by data.

    Args:
        function: the function.
        orders: of the derivative, by argument.
        arguments: tensors that broadcast, or numbers; at least one is a tensor.

    Returns:
        A tensor of their shape and of the precision and device of the first; not a number outside
        the samples.
    """
    like = next(a for a in arguments if isinstance(a, Tensor))
    tensors = [torch.as_tensor(a, dtype=torch.float64, device=like.device) for a in arguments]
    tensors = torch.broadcast_tensors(*tensors)
    columns = [tensor.reshape(-1).contiguous() for tensor in tensors]
    rule = _series if isinstance(function, Series) else _spline
    if not isinstance(function, Series | Spline):
        raise TypeError(f"no rule evaluates a {type(function).__name__} on tensors")
    parts = zip(*(column.split(_POINTS) for column in columns), strict=True)
    values = torch.cat([rule(function, tuple(orders), part) for part in parts])  # type: ignore[arg-type]
    return values.reshape(tensors[0].shape).to(like.dtype)


def _series(function: Series, orders: tuple[int, ...], columns: Sequence[Tensor]) -> Tensor:
    """Horner's rule in the BLOCK-th power of exp(i angle), see `Series`."""
    (points,) = columns
    table = _coefficients(function, orders[0], points.device)
    turns = (points - function.low) / (function.high - function.low)
    angle = 2 * torch.pi * (turns - torch.floor(turns))
    powers = torch.arange(BLOCK, dtype=torch.float64, device=points.device)
    parts = (torch.exp(1j * (angle[:, None] * powers)) @ table.T).unbind(1)
    step = torch.exp(1j * (BLOCK * angle))
    total = parts[-1]
    for part in parts[-2::-1]:
        total = total * step + part
    return total.real


def _spline(function: Spline, orders: tuple[int, ...], columns: Sequence[Tensor]) -> Tensor:
    if max(orders) > function.smoothness:
        return torch.full_like(columns[0], torch.nan)
    if function.straight:
        return _with_lines(function, orders[0], columns[0])
    values = _inside(function, orders, columns)
    for axis, column in zip(function.axes, columns, strict=True):
        low, high = axis.reach
        values = torch.where((column < low) | (column > high), torch.nan, values)
    return values


def _with_lines(function: Spline, order: int, points: Tensor) -> Tensor:
    nearest = points.clamp(*function.axes[0].ends)
    values = _inside(function, (order,), [nearest])
    if order > 1:
        return torch.where(points == nearest, values, 0.0)
    return values if order else values + (points - nearest) * _inside(function, (1,), [nearest])


def _inside(function: Spline, orders: Sequence[int], columns: Sequence[Tensor]) -> Tensor:
    found = [
        _weights(function, number, order, column)
        for number, (order, column) in enumerate(zip(orders, columns, strict=True))
    ]
    coefficients = _coefficients(function, 0, columns[0].device)
    total = torch.zeros_like(columns[0])
    for steps in itertools.product(range(DEGREE + 1), repeat=function.arity):
        product = coefficients[tuple(cell + k for (cell, _), k in zip(found, steps, strict=True))]
        for (_, weights), k in zip(found, steps, strict=True):
            product = product * weights[:, k]
        total = total + product
    return total


def _weights(function: Spline, number: int, order: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """See `Axis.weights`."""
    breaks, table = _axis(function, number, order, points.device)
    cell = (torch.searchsorted(breaks, points.detach(), right=True) - 1).clamp(min=0)
    place = (points - breaks[cell])[:, None]
    total = table[-1, cell]
    for row in table[:-1].flip(0):
        total = total * place + row[cell]
    return cell, total


@lru_cache(maxsize=64)
def _coefficients(function: Series | Spline, order: int, device: torch.device) -> Tensor:
    table = function.table(order) if isinstance(function, Series) else function.coefficients
    return torch.tensor(table, device=device)


@lru_cache(maxsize=64)
def _axis(function: Spline, number: int, order: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = function.axes[number]
    return torch.tensor(axis.breaks, device=device), torch.tensor(axis.table(order), device=device)
