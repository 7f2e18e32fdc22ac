"""Gaussian random fields on a box by their Karhunen-Loeve expansion.

    f(x) = mean + sum_m xi_m s(lambda_m) phi_m(x),    xi_m independent standard normal,

with phi_m products of the orthonormal eigenfunctions of the Laplacian along each axis and lambda_m
the eigenvalue of -Laplacian. The covariance is that of N(mean, s(-Laplacian)^2), truncated.

The numbers xi are drawn shell by shell, low modes first: a field with more modes begins with the
same numbers, so sample i of a fine data set is sample i of a coarse one and finer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...problems.given import Given

__all__ = ["Axis", "RandomField", "draw", "matern"]

Array = NDArray[np.float64]
Kind = Literal["periodic", "neumann", "dirichlet"]


@dataclass(frozen=True)
class Axis:
    """Eigenfunctions of the second derivative along one coordinate.

    Attributes:
        kind: periodic (1, cosine, sine, cosine of twice the frequency, ...), neumann (1, cosines)
            or dirichlet (sines).
        low: where the coordinate begins.
        high: where it ends.
        modes: how many there are.
    """

    kind: Kind
    low: float
    high: float
    modes: int

    @property
    def waves(self) -> Array:
        """Angular frequency of each, shape (modes,)."""
        number = np.arange(float(self.modes))
        if self.kind == "periodic":
            return 2 * np.pi / (self.high - self.low) * ((number + 1) // 2)
        return np.pi / (self.high - self.low) * (number + (self.kind == "dirichlet"))

    def matrix(self, points: Array, order: int = 0) -> Array:
        """Derivatives of the eigenfunctions, of mean square one, at points (n,): (n, modes)."""
        waves = self.waves
        number = np.arange(self.modes)
        sine = number % 2 == 0 if self.kind == "periodic" else self.kind == "dirichlet"
        # A derivative is a shift by a quarter turn: cos' = -sin = cos(. + pi/2).
        shift = np.pi / 2 * (order - np.where(sine & (waves > 0), 1, 0))
        values = np.cos(np.multiply.outer(points - self.low, waves) + shift) * waves**order
        return values * np.where(waves > 0, np.sqrt(2.0), 1.0)


class RandomField(Given):
    """One draw: a function with all its derivatives, usable by name in every expression.

    Args:
        name: what equations call it.
        axes: one per coordinate.
        coefficients: of the products of eigenfunctions, shape (modes of axis 1, ...).
        description: the law it was drawn from.
    """

    smoothness = 8

    def __init__(
        self, name: str, axes: Sequence[Axis], coefficients: Array, description: str = ""
    ) -> None:
        self.name, self.axes, self.coefficients = name, tuple(axes), coefficients
        self.arity, self.description = len(axes), description

    def on_grid(self, points: Sequence[Array], orders: Sequence[int] | None = None) -> Array:
        """Values on the tensor grid of points (n_1,), (n_2,), ...: shape (n_1, n_2, ...)."""
        values = self.coefficients
        for axis, x, order in zip(self.axes, points, orders or (0,) * self.arity, strict=True):
            # The first index goes, the new one comes last: after all axes they are in order again.
            values = np.tensordot(values, axis.matrix(x, order), axes=(0, 1))
        return values

    def at(self, arguments: Sequence[Any], orders: Sequence[int]) -> Array:
        """See `Given.at`."""
        found = [np.asarray(a, dtype=float) for a in arguments]
        shape = np.broadcast_shapes(*(a.shape for a in found))
        varies = [[n for n in range(a.ndim) if a.shape[n] > 1] for a in found]
        tensor = all(
            a.ndim == len(shape) and v in ([], [place])
            for place, (a, v) in enumerate(zip(found, varies, strict=True))
        )
        if tensor and len(shape) == self.arity:
            return np.broadcast_to(self.on_grid([a.ravel() for a in found], orders), shape)
        points = [np.broadcast_to(a, shape).ravel() for a in found]
        values = np.empty(points[0].size)
        block = max(1, 4_000_000 // max(self.coefficients.size, 1))
        for start in range(0, len(values), block):
            rows = slice(start, start + block)
            matrices = [
                axis.matrix(x[rows], order)
                for axis, x, order in zip(self.axes, points, orders, strict=True)
            ]
            part = np.tensordot(matrices[0], self.coefficients, axes=(1, 0))
            for matrix in matrices[1:]:
                part = np.einsum("nm...,nm->n...", part, matrix)
            values[rows] = part
        return values.reshape(shape)

    @property
    def kind(self) -> str:
        """See `Given.kind`."""
        return "modes"

    @property
    def bounds(self) -> None:
        """See `Given.bounds`."""
        return None

    @property
    def extents(self) -> tuple[tuple[float, float], ...]:
        """See `Given.extents`."""
        return tuple((axis.low, axis.high) for axis in self.axes)

    @property
    def columns(self) -> Mapping[str, Array]:
        """See `Given.columns`."""
        return {"coefficients": self.coefficients.ravel()}

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Given.settings`."""
        return {"axes": repr(self.axes), "shape": self.coefficients.shape}


def matern(scale: float, tau: float, alpha: float) -> Callable[[Array], Array]:
    """The deviation s of N(0, scale^2 (-Laplacian + tau^2)^(-alpha)), by eigenvalue."""
    return lambda eigenvalue: scale * (eigenvalue + tau**2) ** (-alpha / 2)


def draw(
    generator: np.random.Generator,
    axes: Sequence[Axis],
    deviation: Callable[[Array], Array],
    *,
    mean: float | None = 0.0,
    name: str = "f",
    description: str = "",
) -> RandomField:
    """Draw a field.

    Args:
        generator: source of normal numbers.
        axes: eigenfunctions by coordinate, of one number of modes; one or two.
        deviation: standard deviation of a coefficient as a function of the eigenvalue of
            -Laplacian.
        mean: of the field over the box; None lets it be random like every other mode.
        name: of the function.
        description: of the law.
    """
    modes = axes[0].modes
    shape = (modes,) * len(axes)
    normal = np.empty(shape)
    # Shell m holds the products whose larger index is m.
    number = np.indices(shape).reshape(len(axes), -1)
    order = np.lexsort((*number[::-1], number.max(axis=0)))
    normal.ravel()[order] = generator.standard_normal(normal.size)
    eigenvalue = np.zeros(shape)
    for place, axis in enumerate(axes):
        along = [-1 if n == place else 1 for n in range(len(axes))]
        eigenvalue = eigenvalue + (axis.waves**2).reshape(along)
    coefficients = normal * deviation(eigenvalue)
    constant = all(axis.kind != "dirichlet" for axis in axes)
    if mean is not None and constant:
        coefficients[(0,) * len(axes)] = mean
    return RandomField(name, axes, coefficients, description)
