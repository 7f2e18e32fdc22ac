"""Interpolating splines of degree five."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .function import Array, Given

__all__ = ["DEGREE", "SLACK", "Spline"]

DEGREE = 5
SLACK = 1e-9
"""How far outside its samples, in units of their extent, a spline is still evaluated: rounding."""


class Spline(Given):
    """The not-a-knot interpolating spline of degree five.

    Values and derivatives to order four are continuous, so that equations of order four can hold
    it. With samples h apart the derivative of order m of a smooth function is met to h^(6 - m)
    (de Boor, A Practical Guide to Splines, 2001, chapter XII).

    Args:
        name: what equations call it.
        x: strictly increasing points, shape (n,), n >= 6.
        values: shape (n,).
        description: one line.
        straight: whether it goes on as straight lines beyond its samples, where its second
            derivative jumps to zero; else it has no value there.
    """

    smoothness = DEGREE - 1

    def __init__(
        self,
        name: str,
        x: ArrayLike,
        values: ArrayLike,
        description: str = "",
        *,
        straight: bool = False,
    ) -> None:
        from scipy.interpolate import PPoly, make_interp_spline

        self.name, self.description, self.straight = name, description, straight
        self.x, self.values = np.asarray(x, dtype=float), np.asarray(values, dtype=float)
        whole = PPoly.from_spline(make_interp_spline(self.x, self.values, k=DEGREE))
        cells = np.flatnonzero(np.diff(whole.x) > 0)  # the ends are knots of multiplicity six
        self.breaks: Array = whole.x[cells]
        # [k, cell]: of (x - break)^k.
        self.polynomials: Array = np.ascontiguousarray(np.asarray(whole.c)[::-1, cells])

    def __call__(self, x: Any, order: int = 0) -> Array:
        """See `Given.__call__`."""
        points = np.asarray(x, dtype=float)
        if order > self.smoothness:
            return np.full(points.shape, np.nan)
        if self.straight:
            return self._with_lines(points, order)
        low, high = self.reach
        return np.where((points >= low) & (points <= high), self._inside(points, order), np.nan)

    def _with_lines(self, points: Array, order: int) -> Array:
        nearest = np.clip(points, *self.ends)
        if order > 1:
            return np.where(points == nearest, self._inside(nearest, order), 0.0)
        values, beyond = self._inside(nearest, order), points - nearest
        return values if order else values + beyond * self._inside(nearest, 1)

    def _inside(self, points: Array, order: int) -> Array:
        cell = np.clip(np.searchsorted(self.breaks, points, side="right") - 1, 0, None)
        table = self.table(order)
        place = points - self.breaks[cell]
        total = table[-1, cell]
        for row in table[-2::-1]:
            total = total * place + row[cell]
        return total

    def table(self, order: int) -> Array:
        """Coefficients of a derivative, shape (6 - order, cells), of (x - break)^k in row k."""
        table = self.polynomials
        for _ in range(order):
            table = table[1:] * np.arange(1, len(table))[:, None]
        return table

    @property
    def reach(self) -> tuple[float, float]:
        """`ends`, widened by rounding."""
        low, high = self.ends
        slack = SLACK * (high - low)
        return low - slack, high + slack

    @property
    def ends(self) -> tuple[float, float]:
        """First and last sample."""
        return float(self.x[0]), float(self.x[-1])

    @property
    def bounds(self) -> tuple[float, float] | None:
        """See `Given.bounds`."""
        return None if self.straight else self.ends

    @property
    def kind(self) -> str:
        """See `Given.kind`."""
        return "samples"

    @property
    def columns(self) -> Mapping[str, Array]:
        """See `Given.columns`."""
        return {"x": self.x, "value": self.values}

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Given.settings`."""
        return {"beyond": "straight"} if self.straight else {}

    @property
    def extent(self) -> tuple[float, float]:
        """See `Given.extent`."""
        return self.ends
