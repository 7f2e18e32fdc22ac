"""What a reference is to the rest of the suite: a function with an error bar and a price list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reference", "pareto", "seconds_to"]

Array = NDArray[np.float64]


@dataclass
class Reference:
    """A solution to compare with.

    Args:
        method: how it was computed, such as "exact" or "Fourier ETDRK4".
        error_bar: bound on the relative L2 error by field.
        description: resolution and how the bar was found, in words.
        evaluate: values (n, fields) at points (n, coordinates).
        price: runs the classical solver at increasing resolution; rows (seconds, relative L2
            error). May fail with an empty list.
        classical: name of that solver where it is not `method`.
        note: what a person should know before trusting it; empty if there is nothing.
    """

    method: str
    error_bar: dict[str, float]
    description: str
    evaluate: Callable[[Array], Array]
    price: Callable[[], list[tuple[float, float]]]
    classical: str = ""
    note: str = ""
    _curve: list[tuple[float, float]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.classical = self.classical or self.method

    def __call__(self, points: Array) -> Array:
        """Values at points.

        Args:
            points: shape (n, coordinates), columns in declared order, anywhere in the domain.

        Returns:
            Shape (n, fields).
        """
        points = np.asarray(points, dtype=float)
        if points.ndim != 2:
            raise ValueError(f"points must have shape (n, coordinates), got {points.shape}")
        return self.evaluate(points)

    def costs(self) -> list[tuple[float, float]]:
        """Rows (wall seconds, relative L2 error of the worst field), measured on the first call."""
        if self._curve is None:
            self._curve = self.price()
        return self._curve

    @property
    def cost_curve(self) -> list[tuple[float, float]]:
        """The same as `costs()`."""
        return self.costs()

    def seconds_to(self, error: float) -> float | None:
        """Seconds the classical solver needs for a relative L2 error; None if never reached.

        Between measured rows the time is interpolated on logarithmic axes.
        """
        return seconds_to(self.costs(), error)

    def summary(self) -> Mapping[str, object]:
        """Plain values for a report."""
        return {
            "method": self.method,
            "error_bar": dict(self.error_bar),
            "description": self.description,
            "note": self.note,
        }


def seconds_to(rows: list[tuple[float, float]], error: float) -> float | None:
    """Least seconds to an error on a curve of decreasing error."""
    before: tuple[float, float] | None = None
    for row in rows:
        if row[1] <= error:
            if before is None:
                return row[0]
            part = (np.log(before[1]) - np.log(error)) / (np.log(before[1]) - np.log(row[1]))
            return float(np.exp((1 - part) * np.log(before[0]) + part * np.log(row[0])))
        before = row
    return None


def pareto(rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Rows (seconds, error) that no cheaper row beats, by increasing seconds."""
    kept: list[tuple[float, float]] = []
    for seconds, error in sorted(rows):
        if not kept or error < kept[-1][1]:
            kept.append((seconds, error))
    return kept
