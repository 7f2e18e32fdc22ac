"""A function of one variable that is known by numbers instead of a formula."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GIVEN", "Array", "Given"]

Array = NDArray[np.float64]

GIVEN = "given function"
"""Its key in a table of functions (see `evaluation.evaluate`); no name in an equation can be it.

The entry is called with the function, the order of the derivative, and the argument.
"""


class Given(ABC):
    """A function given by data; equal to another of the same name, kind and numbers.

    Attributes:
        name: what equations call it.
        smoothness: order up to which its derivatives are continuous.
        description: one line.
    """

    name: str
    smoothness: int
    description: str

    @abstractmethod
    def __call__(self, x: Any, order: int = 0) -> Array:
        """Values of a derivative.

        Args:
            x: an array of any shape, or a number.
            order: of the derivative.

        Returns:
            An array of the shape of `x`; not a number outside `bounds` and beyond `smoothness`.
        """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float] | None:
        """Where it is defined; None for everywhere."""

    @property
    @abstractmethod
    def extent(self) -> tuple[float, float]:
        """One period, or the first and the last sample."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, Array]:
        """The numbers that define it, as columns of equal length by name."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What stands beside the columns in a file, such as the period."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The key under which its columns stand in a file: series or samples."""

    def says(self) -> tuple[str, str]:
        """What it is in words, and its description."""
        rows = len(next(iter(self.columns.values())))
        low, high = self.extent
        what = f"{rows} modes, period" if self.kind == "series" else f"{rows} samples over"
        return f"{what} [{low:g}, {high:g}]", self.description

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the columns, little-endian doubles one after the other, in hexadecimal."""
        content = hashlib.sha256()
        for name, column in self.columns.items():
            content.update(f"{name} {len(column)}\n".encode())
            content.update(np.ascontiguousarray(column, dtype="<f8").tobytes())
        return content.hexdigest()

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        return self.name, self.kind, self.digest, repr(dict(self.settings))

    @property
    def identity(self) -> str:
        """A text that two functions share only if they are equal."""
        return " ".join(map(str, self._identity))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.digest[:8]})"
