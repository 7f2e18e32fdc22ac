"""Sparse regression of slopes on products of the components of the state.

Sequentially thresholded least squares (Brunton, Proctor and Kutz, "Discovering governing equations
from data by sparse identification of nonlinear dynamical systems", PNAS 113, 2016): fit, drop what
is small, fit the rest again. Terms are measured by what they contribute, not by their coefficient,
so that units do not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....errors import ConfigurationError

__all__ = ["Polynomial", "candidates", "monomials"]

Array = NDArray[np.float64]


def monomials(dimension: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of all products of up to `degree` components, by degree."""
    found = []
    for total in range(degree + 1):
        for chosen in itertools.combinations_with_replacement(range(dimension), total):
            found.append(tuple(chosen.count(k) for k in range(dimension)))
    return tuple(found)


@dataclass(frozen=True)
class Polynomial:
    """A field whose components are sums of products.

    Attributes:
        terms: exponents of each product, shape (terms, d).
        rows: component of the field that each belongs to.
        coefficients: of each.
    """

    terms: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    coefficients: tuple[float, ...]

    def features(self, y: Tensor) -> Tensor:
        """The products at states (batch, d): shape (batch, terms)."""
        columns = []
        for exponents in self.terms:
            column = torch.ones_like(y[:, 0])
            for k, power in enumerate(exponents):
                for _ in range(power):
                    column = column * y[:, k]
            columns.append(column)
        return torch.stack(columns, dim=1)

    def __call__(self, y: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """The field at states (batch, d).

        Args:
            y: states.
            coefficients: shape (terms,) or (batch, terms), instead of its own.
        """
        if not self.terms:
            return torch.zeros_like(y)
        weights = y.new_tensor(self.coefficients) if coefficients is None else coefficients
        parts = self.features(y) * weights
        columns = [
            torch.zeros_like(y[:, 0]) for _ in range(y.shape[1])
        ]  # a component without terms stays zero
        for k, row in enumerate(self.rows):
            columns[row] = columns[row] + parts[:, k]
        return torch.stack(columns, dim=1)

    def describe(self, names: Sequence[str], digits: int = 4) -> list[str]:
        """Each component as a formula of the names."""
        found = [[] for _ in names]
        for exponents, row, weight in zip(self.terms, self.rows, self.coefficients, strict=True):
            factors = [n if e == 1 else f"{n}^{e}" for n, e in zip(names, exponents, strict=True)
                       if e]  # fmt: skip
            found[row].append(" ".join([f"{weight:.{digits}g}", *factors]))
        return [" + ".join(parts) or "0" for parts in found]


def candidates(states: Array, slopes: Array, degree: int = 2) -> list[Polynomial]:
    """Ever sparser polynomials that fit slopes, the densest first.

    In every round the term that contributes least, over all components, is dropped and the others
    are fitted again, until one is left.

    Args:
        states: shape (points, d).
        slopes: shape (points, d).
        degree: of the products.

    Raises:
        ConfigurationError: fewer points than products.
    """
    points, dimension = states.shape
    terms = monomials(dimension, degree)
    if points < len(terms):
        raise ConfigurationError(
            f"{points} points do not tell {len(terms)} products apart", path=("degree",),
            found=degree, advice="lower the degree, or give more points",
        )  # fmt: skip
    features = np.stack([np.prod(states ** np.array(e), axis=1) for e in terms], axis=1)
    sizes = np.sqrt((features**2).mean(0))
    scales = np.sqrt((slopes**2).mean(0)) + 1e-300
    active = [list(range(len(terms))) for _ in range(dimension)]
    found = []
    while any(active):
        fits = [_fit(features[:, kept], slopes[:, row]) for row, kept in enumerate(active)]
        found.append(_polynomial(terms, active, fits))
        shares = [
            (abs(weight) * sizes[k] / scales[row], row, k)
            for row, (kept, fit) in enumerate(zip(active, fits, strict=True))
            for k, weight in zip(kept, fit, strict=True)
        ]
        _, row, k = min(shares)
        active[row].remove(k)
    return found


def _fit(features: Array, slopes: Array) -> Array:
    if not features.shape[1]:
        return np.zeros(0)
    return np.asarray(np.linalg.lstsq(features, slopes, rcond=None)[0], np.float64)


def _polynomial(
    terms: Sequence[tuple[int, ...]], active: Sequence[Sequence[int]], fits: Sequence[Array]
) -> Polynomial:
    chosen = [
        (terms[k], row, float(weight))
        for row, (kept, fit) in enumerate(zip(active, fits, strict=True))
        for k, weight in zip(kept, fit, strict=True)
    ]
    return Polynomial(*(tuple(column) for column in zip(*chosen, strict=True)))
