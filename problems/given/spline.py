"""Interpolating splines of degree five, in one argument or on a grid of several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .function import Array, Given, Ranges

__all__ = ["DEGREE", "SLACK", "Axis", "Spline"]

DEGREE = 5
SLACK = 1e-9
"""How far outside its samples, in units of their extent, a spline is still evaluated: rounding."""
# Points evaluated at once: three arguments take 216 products for each.
_POINTS = 1 << 14


class Axis:
    """The B-splines of degree five along one argument.

    Args:
        x: strictly increasing points of the samples, shape (n,), n >= 6.

    Attributes:
        breaks: where cells begin, shape (cells,).
        polynomials: of the six B-splines that are not zero in a cell, shape (6 powers, cells, 6);
            the first of cell c has number c.
    """

    def __init__(self, x: ArrayLike) -> None:
        self.x = np.asarray(x, dtype=float)
        half = (DEGREE + 1) // 2
        # Not-a-knot: the first and the last inner samples are no knots.
        inner, ends = self.x[half:-half], (self.x[:1], self.x[-1:])
        self.knots = np.concatenate(
            [np.repeat(ends[0], DEGREE + 1), inner, np.repeat(ends[1], DEGREE + 1)]
        )
        self.breaks: Array = np.concatenate([ends[0], inner])
        self.polynomials: Array = self._polynomials()

    def _polynomials(self) -> Array:
        """The recursion of de Boor and Cox on coefficients of powers of x - break."""
        cells = len(self.breaks)
        found = np.zeros((DEGREE + 1, cells, DEGREE + 1))
        found[0, :, DEGREE] = 1.0  # [power, cell, position]: the only one of degree zero comes last
        for p in range(1, DEGREE + 1):
            lower, found = found, np.zeros_like(found)
            for position in range(DEGREE - p, DEGREE + 1):
                i = np.arange(cells) + position
                if position > DEGREE - p:
                    found[..., position] += self._ramp(lower[..., position], i, i + p)
                if position < DEGREE:
                    found[..., position] += self._ramp(lower[..., position + 1], i + p + 1, i + 1)
        return found

    def _ramp(self, part: Array, zero: NDArray[np.intp], one: NDArray[np.intp]) -> Array:
        """Polynomials (6 powers, cells) times the line that is 0 at one knot and 1 at another."""
        width = self.knots[one] - self.knots[zero]
        found = (self.breaks - self.knots[zero]) / width * part
        found[1:] += part[:-1] / width
        return found

    def table(self, order: int) -> Array:
        """Polynomials of a derivative, shape (6 - order, cells, 6)."""
        table = self.polynomials
        for _ in range(order):
            table = table[1:] * np.arange(1, len(table))[:, None, None]
        return table

    def weights(self, points: Array, order: int) -> tuple[NDArray[np.intp], Array]:
        """Numbers of the first B-splines at points (n,), and the values of six, shape (n, 6)."""
        cell = np.clip(np.searchsorted(self.breaks, points, side="right") - 1, 0, None)
        place, table = (points - self.breaks[cell])[:, None], self.table(order)
        total = table[-1, cell]
        for row in table[-2::-1]:
            total = total * place + row[cell]
        return cell, total

    @property
    def ends(self) -> tuple[float, float]:
        """First and last sample."""
        return float(self.x[0]), float(self.x[-1])

    @property
    def reach(self) -> tuple[float, float]:
        """`ends`, widened by rounding."""
        low, high = self.ends
        slack = SLACK * (high - low)
        return low - slack, high + slack


class Spline(Given):
    """The not-a-knot interpolating spline of degree five, a tensor product in several arguments.

    Values and derivatives to order four in each argument are continuous, so that equations of order
    four can hold it. With samples h apart the derivative of order m of a smooth function is met to
    h^(6 - m) (de Boor, A Practical Guide to Splines, 2001, chapters XII and XVII).

    Args:
        name: what equations call it.
        axes: for each argument strictly increasing points, six or more.
        values: at the points of the grid, one axis for each argument.
        description: one line.
        straight: whether it goes on as straight lines beyond its samples, where its second
            derivative jumps to zero; else it has no value there. For one argument only.
    """

    smoothness = DEGREE - 1

    def __init__(
        self,
        name: str,
        axes: Sequence[ArrayLike],
        values: ArrayLike,
        description: str = "",
        *,
        straight: bool = False,
    ) -> None:
        from scipy.interpolate import make_interp_spline

        self.name, self.description, self.straight = name, description, straight
        self.axes = tuple(Axis(x) for x in axes)
        self.arity = len(self.axes)
        self.values = np.asarray(values, dtype=float)
        found: Array = self.values
        for number, axis in enumerate(self.axes):
            along = make_interp_spline(axis.x, found, k=DEGREE, t=axis.knots, axis=number)
            found = np.moveaxis(np.asarray(along.c), 0, number) if number else np.asarray(along.c)
        self.coefficients: Array = np.ascontiguousarray(found)

    def at(self, arguments: Sequence[Any], orders: Sequence[int]) -> Array:
        """See `Given.at`."""
        arrays = np.broadcast_arrays(*(np.asarray(a, dtype=float) for a in arguments))
        columns = [array.ravel() for array in arrays]
        values = np.full(len(columns[0]), np.nan)
        if max(orders) <= self.smoothness:
            for start in range(0, len(values), _POINTS):
                part = slice(start, start + _POINTS)
                values[part] = self._some([column[part] for column in columns], orders)
        return values.reshape(arrays[0].shape)

    def _some(self, columns: Sequence[Array], orders: Sequence[int]) -> Array:
        if self.straight:
            return self._with_lines(columns[0], orders[0])
        values = self._inside(columns, orders)
        for axis, column in zip(self.axes, columns, strict=True):
            low, high = axis.reach
            values = np.where((column >= low) & (column <= high), values, np.nan)
        return values

    def _with_lines(self, points: Array, order: int) -> Array:
        nearest = np.clip(points, *self.axes[0].ends)
        values = self._inside([nearest], [order])
        if order > 1:
            return np.where(points == nearest, values, 0.0)
        return values if order else values + (points - nearest) * self._inside([nearest], [1])

    def _inside(self, columns: Sequence[Array], orders: Sequence[int]) -> Array:
        found = [a.weights(c, m) for a, c, m in zip(self.axes, columns, orders, strict=True)]
        total = np.zeros(len(columns[0]))
        for steps in itertools.product(range(DEGREE + 1), repeat=self.arity):
            place = tuple(cell + k for (cell, _), k in zip(found, steps, strict=True))
            product = self.coefficients[place]
            for (_, weights), k in zip(found, steps, strict=True):
                product = product * weights[:, k]
            total += product
        return total

    @property
    def extents(self) -> Ranges:
        """See `Given.extents`."""
        return tuple(axis.ends for axis in self.axes)

    @property
    def bounds(self) -> Ranges | None:
        """See `Given.bounds`."""
        return None if self.straight else self.extents

    @property
    def kind(self) -> str:
        """See `Given.kind`."""
        return "samples"

    @property
    def columns(self) -> Mapping[str, Array]:
        """See `Given.columns`: a row for each point of the grid, the last argument fastest."""
        grid = np.meshgrid(*(axis.x for axis in self.axes), indexing="ij")
        names = ["x"] if self.arity == 1 else [f"x{i + 1}" for i in range(self.arity)]
        points = {name: column.ravel() for name, column in zip(names, grid, strict=True)}
        return {**points, "value": self.values.ravel()}

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Given.settings`."""
        return {"beyond": "straight"} if self.straight else {}
