"""The equations of `bench.cases` once more, as residuals of an unknown that can be differentiated.

Written by hand, so that agreement with the engine is no tautology. Axis 0 is the first coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["RESIDUALS", "Unknown"]


class Unknown(Protocol):
    """A field at points, in the arrays of one library."""

    def value(self) -> Any:
        """Its value."""
        ...

    def d(self, *axes: int) -> Any:
        """Its derivative along each of the axes in turn."""
        ...

    def laplacian(self) -> Any:
        """Sum of the second derivatives along all axes."""
        ...

    def bilaplacian(self) -> Any:
        """Laplacian of the Laplacian."""
        ...


RESIDUALS: dict[str, Callable[[Any], Any]] = {
    "burgers": lambda u: u.d(1) + u.value() * u.d(0) - 0.01 * u.d(0, 0),
    "laplacian-2": lambda u: u.laplacian() + 1,
    "laplacian-3": lambda u: u.laplacian() + 1,
    "laplacian-10": lambda u: u.laplacian() + 1,
    "kdv": lambda u: u.d(1) + u.value() * u.d(0) + 0.01 * u.d(0, 0, 0),
    "kuramoto-sivashinsky": lambda u: (
        u.d(1) + u.value() * u.d(0) + u.d(0, 0) + 0.01 * u.d(0, 0, 0, 0)
    ),
    "biharmonic": lambda u: u.bilaplacian() - 1,
}
