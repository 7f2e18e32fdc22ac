"""A function that is known by numbers instead of a formula."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GIVEN", "Array", "Given", "Ranges"]

Array = NDArray[np.float64]
Ranges = tuple[tuple[float, float], ...]

GIVEN = "given function"
"""Its key in a table of functions (see `evaluation.evaluate`); no name in an equation can be it.

The entry is called with the function, the orders of the derivative, and the arguments.
"""


class Given(ABC):
    """A function given by data; equal to another of the same name, kind and numbers.

    Attributes:
        name: what equations call it.
        arity: number of its arguments.
        smoothness: order up to which its derivatives by each argument are continuous.
        description: one line.
    """

    name: str
    arity: int
    smoothness: int
    description: str

    @abstractmethod
    def at(self, arguments: Sequence[Any], orders: Sequence[int]) -> Array:
        """Values of a partial derivative.

        Args:
            arguments: arrays that broadcast, or numbers.
            orders: of the derivative, by argument.

        Returns:
            An array of their shape; not a number outside `bounds` and beyond `smoothness`.
        """

    def __call__(self, *arguments: Any) -> Array:
        """Values of the function itself."""
        return self.at(arguments, (0,) * self.arity)

    @property
    @abstractmethod
    def bounds(self) -> Ranges | None:
        """Where it is defined, by argument; None for everywhere."""

    @property
    @abstractmethod
    def extents(self) -> Ranges:
        """One period, or the first and the last sample, by argument."""

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
        what = f"{rows} modes, period" if self.kind == "series" else f"{rows} samples over"
        ranges = " x ".join(f"[{low:g}, {high:g}]" for low, high in self.extents)
        return f"{what} {ranges}", self.description

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
