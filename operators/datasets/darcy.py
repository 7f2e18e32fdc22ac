"""Darcy flow on the unit square: -div(a grad u) = f, u = 0 on the boundary; a map from a to u.

Five-point finite differences with the arithmetic mean of neighbouring coefficients on each face, as
in the generator of Li et al., "Fourier neural operator for parametric PDEs", ICLR 2021; second
order where a is smooth, first order where it jumps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from ...errors import ConfigurationError
from ...typed import option
from .layout import Description, Field, Sample
from .random_fields import Axis, draw, matern

__all__ = ["Darcy", "Elliptic", "Multiscale", "Rough", "coarse_floor", "solve"]

Array = NDArray[np.float64]

_AIM = 210
"""Cells per side of the grid that is solved on, where the person gives none: more than stored."""


def solve(coefficient: Array, source: Array | float = 1.0) -> Array:
    """The finite-difference solution on the grid of the coefficient.

    Args:
        coefficient: a > 0 at all nodes of the unit square, boundary included, shape (s, s).
        source: f at those nodes, or one number.

    Returns:
        u at the same nodes, shape (s, s).
    """
    s = len(coefficient)
    h = 1.0 / (s - 1)
    across = 0.5 * (coefficient[1:, 1:-1] + coefficient[:-1, 1:-1])  # faces between rows
    along = 0.5 * (coefficient[1:-1, 1:] + coefficient[1:-1, :-1])
    centre = across[1:] + across[:-1] + along[:, 1:] + along[:, :-1]
    right = -along[:, 1:].copy()
    right[:, -1] = 0.0  # the next node in memory is the first of another row
    n = (s - 2) ** 2
    diagonals: Any = [-(s - 2), -1, 0, 1, s - 2]
    matrix = scipy.sparse.diags(
        [
            -across[1:-1].ravel(), right.ravel()[:-1], centre.ravel(),
            right.ravel()[:-1], -across[1:-1].ravel(),
        ],
        diagonals,
        shape=(n, n),
        format="csc",
    )  # fmt: skip
    load = np.broadcast_to(np.asarray(source, dtype=float), (s, s))[1:-1, 1:-1].ravel() * h**2
    factor = scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    result = np.zeros((s, s))
    result[1:-1, 1:-1] = factor.solve(load).reshape(s - 2, s - 2)
    return result


def coarse_floor(
    coefficient: Array, solution: Array, stride: int = 1, source: float = 1.0
) -> Array:
    """What a classical solver makes of the coefficient that an operator is given.

    The solution of the equations on the stride-th nodes of the coefficient, against the stored one
    there: an operator worth its training is below. With stride 1 it is the error that solving on
    the stored grid makes where the data come from a finer one.

    Args:
        coefficient: shape (samples, s, s).
        solution: shape (samples, s, s).
        stride: between nodes that are used; (s - 1) must be a multiple of it.
        source: f.

    Returns:
        Relative L2 distance over the coarse nodes, by sample.

    Raises:
        ConfigurationError: the stride does not fit.
    """
    s = coefficient.shape[-1]
    if stride < 1 or (s - 1) % stride:
        fit = [k for k in range(1, (s - 1) // 2 + 1) if (s - 1) % k == 0]
        raise ConfigurationError(
            f"stride: {s} nodes are {s - 1} steps, which {stride} does not divide",
            advice=f"write one of {', '.join(map(str, fit))}",
        )
    errors = []
    for a, u in zip(coefficient, solution, strict=True):
        true = np.asarray(u, dtype=float)[::stride, ::stride]
        found = solve(np.asarray(a, dtype=float)[::stride, ::stride], source)
        errors.append(np.linalg.norm(found - true) / np.linalg.norm(true))
    return np.array(errors)


@dataclass(frozen=True)
class Elliptic(ABC):
    """A coefficient drawn as a function, and the equation solved on a grid finer than is stored."""

    grid: int | None = option(
        None, "nodes per side of the grid that is solved on: k*(resolution - 1) + 1", low=9
    )
    source: float = option(1.0, "f, a constant")

    @abstractmethod
    def coefficient(self, generator: np.random.Generator, most: int) -> Callable[[Array], Array]:
        """Draw a coefficient: a function from nodes (n,) to values on their tensor grid (n, n).

        Args:
            generator: of random numbers.
            most: nodes per side of the finest grid it will be asked for.
        """

    @abstractmethod
    def law(self) -> str:
        """What is random, in words."""

    def _cells(self, resolution: int) -> int:
        """Cells of the grid that is solved on in one of the stored grid."""
        if self.grid is None:
            return max(2, math.ceil(_AIM / (resolution - 1)))
        cells, rest = divmod(self.grid - 1, resolution - 1)
        if rest or cells < 1:
            near = max(1, round((self.grid - 1) / (resolution - 1))) * (resolution - 1) + 1
            raise ConfigurationError(
                f"{self.grid} nodes do not contain {resolution} equally spaced ones",
                path=("grid",),
                advice=f"write {near}",
            )
        if cells == 1 and resolution % 2 == 0:
            raise ConfigurationError(
                "the error bar needs a coarser grid, which this one does not contain",
                path=("grid",),
                advice=f"write {2 * resolution - 1}",
            )
        return cells

    def describe(self, name: str, resolution: int) -> Description:
        """See `families.Family`."""
        nodes = np.linspace(0.0, 1.0, resolution)
        fine, coarse = (k * (resolution - 1) + 1 for k in self._pair(resolution))
        return Description(
            family=name,
            equation="-div(a*grad(u)) = f on the unit square, u = 0 on its boundary",
            law=self.law(),
            error_bar="relative L2 over stored nodes: twice the error to which the change of u "
            f"from a grid of {coarse:g} nodes per side to the {fine:g} it was solved on amounts if "
            "errors are in proportion to the spacing",
            grid={"x": nodes, "y": nodes},
            boundary={"x": "dirichlet", "y": "dirichlet"},
            fields=(Field("a", "input"), Field("u", "output")),
            constants={"f": self.source},
        )

    def _pair(self, resolution: int) -> tuple[float, float]:
        cells = self._cells(resolution)
        return cells, cells // 2 if cells > 1 else 0.5

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """See `families.Family`."""
        cells = self._cells(resolution)
        fine = np.linspace(0.0, 1.0, cells * (resolution - 1) + 1)
        coefficient = self.coefficient(generator, len(fine))
        a = coefficient(fine)
        u = solve(a, self.source)
        part = max(1, cells // 2)
        if cells > 1:
            nodes = np.linspace(0.0, 1.0, part * (resolution - 1) + 1)
            coarse, shared = solve(coefficient(nodes), self.source), u[::cells, ::cells]
            coarse = coarse[::part, ::part]
        else:  # solved on the stored grid itself
            coarse, shared = solve(a[::2, ::2], self.source), u[::2, ::2]
        apart = np.linalg.norm(coarse - shared) / np.linalg.norm(shared)
        # e(h) = C h: the error is the change times h / (H - h).
        ratio = cells / part if cells > 1 else 2.0
        bar = 2.0 * float(apart) / (ratio - 1)
        return Sample({"a": a[::cells, ::cells], "u": u[::cells, ::cells]}, {"error_bar": bar})


@dataclass(frozen=True)
class Darcy(Elliptic):
    """Two materials: a Gaussian field cut at zero."""

    alpha: float = option(2.0, "smoothness of the field", above=1)
    tau: float = option(3.0, "inverse length of the field", low=0)
    high: float = option(12.0, "a where the field is not negative", above=0)
    low: float = option(3.0, "a elsewhere", above=0)

    def law(self) -> str:
        """See `Elliptic.law`."""
        return (
            f"a = {self.high:g} where g >= 0 and {self.low:g} elsewhere; g of "
            f"N(0, {self.tau ** (2 * self.alpha - 2):g}*(-Laplacian + {self.tau**2:g})^-"
            f"{self.alpha:g}), Neumann conditions, mean zero, as many modes per axis as the grid "
            "that is solved on has nodes"
        )

    def coefficient(self, generator: np.random.Generator, most: int) -> Callable[[Array], Array]:
        """See `Elliptic.coefficient`."""
        axis = Axis("neumann", 0.0, 1.0, most)
        field = draw(
            generator, [axis, axis], matern(self.tau ** (self.alpha - 1), self.tau, self.alpha)
        )
        return lambda nodes: np.where(field.on_grid([nodes, nodes]) >= 0, self.high, self.low)


@dataclass(frozen=True)
class Rough(Darcy):
    """The same with more contrast and shorter pieces: alpha 2, tau^2 = 20, values 12 and 2."""

    tau: float = option(math.sqrt(20.0), "inverse length of the field", low=0)
    low: float = option(2.0, "a where the field is negative", above=0)


@dataclass(frozen=True)
class Multiscale(Elliptic):
    """Trigonometric factors of six scales, each wave number random within its octave.

    The law is that of the multiscale benchmark of Liu, Xu and Zhang (arXiv 2210.10890) as other
    works state it; it has not been compared with their files.
    """

    scales: int = option(6, "number of factors", low=1, high=10)

    def law(self) -> str:
        """See `Elliptic.law`."""
        return (
            f"a = product over k = 1..{self.scales} of (1 + cos(w_k*pi*(x + y))/2)*(1 + "
            "sin(w_k*pi*(y - 3*x))/2), w_k uniform in [2^(k-1), 1.5*2^(k-1)]"
        )

    def coefficient(self, generator: np.random.Generator, most: int) -> Callable[[Array], Array]:
        """See `Elliptic.coefficient`."""
        octave = 2.0 ** np.arange(self.scales)
        waves = np.pi * octave * generator.uniform(1.0, 1.5, self.scales)

        def values(nodes: Array) -> Array:
            x, y = nodes[:, None], nodes[None, :]
            a = np.ones((len(nodes), len(nodes)))
            for w in waves:
                a *= (1 + 0.5 * np.cos(w * (x + y))) * (1 + 0.5 * np.sin(w * (y - 3 * x)))
            return a

        return values
