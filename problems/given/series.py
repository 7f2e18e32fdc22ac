"""Trigonometric series, from coefficients or from equispaced samples of one period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .function import Array, Given, Ranges

__all__ = ["BLOCK", "Series"]

Complex = NDArray[np.complex128]

BLOCK = 32
"""Powers of exp(i angle) that are formed one by one; the rest is Horner's rule in the BLOCK-th."""
# Points evaluated at once: their powers take 8 MiB.
_POINTS = 1 << 14
# Results kept, by order of the derivative.
_KEPT = 8


class Series(Given):
    """f(x) = sum_k a_k cos(k angle) + b_k sin(k angle), angle = 2 pi (x - low) / (high - low).

    Args:
        name: what equations call it.
        coefficients: a_k - i b_k for k = 0, 1, ..., complex, shape (modes,).
        period: (low, high); angles count from low.
        description: one line.
    """

    arity = 1
    smoothness = 8  # no limit of the function, but the highest order that equations may hold

    def __init__(
        self,
        name: str,
        coefficients: ArrayLike,
        period: tuple[float, float],
        description: str = "",
    ) -> None:
        self.name, self.description = name, description
        self.coefficients: Complex = np.atleast_1d(np.asarray(coefficients, dtype=complex))
        self.low, self.high = map(float, period)
        self._tables: dict[int, Complex] = {}
        self._recent: dict[int, tuple[Array, Array]] = {}

    @classmethod
    def of_samples(
        cls, name: str, values: ArrayLike, period: tuple[float, float], description: str = ""
    ) -> Series:
        """The trigonometric interpolant of least oscillation.

        Args:
            name: what equations call it.
            values: f at low + j (high - low) / n for j = 0, ..., n - 1; the end of the period is
                its beginning and does not come twice.
            period: (low, high).
            description: one line.

        Returns:
            A series with modes up to n/2, for even n a cosine alone in the last (Trefethen,
            Spectral Methods in MATLAB, 2000, chapter 3). Coefficients below machine epsilon times
            the largest sample are rounding, which high derivatives would raise, and left out.
        """
        samples = np.asarray(values, dtype=float)
        found = np.fft.rfft(samples) / len(samples)
        found[1 : (len(samples) + 1) // 2] *= 2
        small = np.finfo(float).eps * np.abs(samples).max(initial=0.0)
        real, imaginary = (np.where(np.abs(p) < small, 0.0, p) for p in (found.real, found.imag))
        kept = np.flatnonzero(np.hypot(real, imaginary))
        modes = kept[-1] + 1 if len(kept) else 1
        return cls(name, (real + 1j * imaginary)[:modes], period, description)

    def at(self, arguments: Sequence[Any], orders: Sequence[int]) -> Array:
        """See `Given.at`."""
        points, order = np.asarray(arguments[0], dtype=float), orders[0]
        if points.ndim == 0:
            return self._values(points.reshape(1), order).reshape(())
        # A solver asks at the nodes of its grid in every step, and any code would keep the answer.
        known = self._recent.get(order)
        if known is None or not np.array_equal(known[0], points):
            if len(self._recent) >= _KEPT:
                self._recent.clear()
            values = self._values(points.ravel(), order).reshape(points.shape)
            values.flags.writeable = False
            self._recent[order] = known = points.copy(), values
        return known[1]

    def _values(self, points: Array, order: int) -> Array:
        table = self.table(order)
        powers = np.arange(BLOCK)
        values = np.empty(len(points))
        for start in range(0, len(points), _POINTS):
            turns = (points[start : start + _POINTS] - self.low) / (self.high - self.low)
            angle = 2 * np.pi * (turns - np.floor(turns))
            parts = np.exp(1j * angle[:, None] * powers) @ table.T
            step = np.exp(1j * BLOCK * angle)
            total = parts[:, -1]
            for part in parts.T[-2::-1]:
                total = total * step + part
            values[start : start + _POINTS] = total.real
        return values

    def table(self, order: int) -> Complex:
        """Coefficients of exp(i k angle) of a derivative, k = BLOCK * row + column."""
        if order not in self._tables:
            rows = -(-len(self.coefficients) // BLOCK)
            wave = 2j * np.pi / (self.high - self.low) * np.arange(len(self.coefficients))
            padded = np.zeros(rows * BLOCK, dtype=complex)
            padded[: len(self.coefficients)] = self.coefficients * wave**order
            self._tables[order] = padded.reshape(rows, BLOCK)
        return self._tables[order]

    @property
    def extents(self) -> Ranges:
        """See `Given.extents`."""
        return ((self.low, self.high),)

    @property
    def bounds(self) -> None:
        """See `Given.bounds`."""
        return None

    @property
    def kind(self) -> str:
        """See `Given.kind`."""
        return "series"

    @property
    def columns(self) -> Mapping[str, Array]:
        """See `Given.columns`: modes that are not zero."""
        k = np.flatnonzero(self.coefficients)
        k = k if len(k) else np.zeros(1, dtype=int)
        chosen = self.coefficients[k]
        # + 0.0: no -0.0, which a text would show.
        return {"k": k.astype(float), "cosine": chosen.real + 0.0, "sine": 0.0 - chosen.imag}

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Given.settings`."""
        return {"period": [self.low, self.high]}
