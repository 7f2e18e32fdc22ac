"""What `residua bench engine` times: equations, network shapes, precisions.

All coordinates run over [-1, 1], so that no contender has to scale its input.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..typed import nearest

__all__ = ["EQUATIONS", "Row", "draw", "problem_of", "rows", "select"]


@dataclass(frozen=True)
class TimedEquation:
    """An equation as a person would write it in a case file.

    Attributes:
        coordinates: their names.
        text: the equation; `workers.equations` holds it once more for the other libraries.
        order: of its highest derivative.
    """

    coordinates: tuple[str, ...]
    text: str
    order: int


def _laplacian(dimension: int) -> TimedEquation:
    names = tuple(f"x{i}" for i in range(1, dimension + 1))
    return TimedEquation(names, "lap(u) = -1", 2)


EQUATIONS = {
    "burgers": TimedEquation(("x", "t"), "u_t + u*u_x = 0.01*u_xx", 2),
    "laplacian-2": _laplacian(2),
    "laplacian-3": _laplacian(3),
    "laplacian-10": _laplacian(10),
    "kdv": TimedEquation(("x", "t"), "u_t + u*u_x + 0.01*u_xxx = 0", 3),
    "kuramoto-sivashinsky": TimedEquation(("x", "t"), "u_t + u*u_x + u_xx + 0.01*u_xxxx = 0", 4),
    "biharmonic": TimedEquation(("x1", "x2"), "lap(lap(u)) = 1", 4),
}
WIDTHS = (20, 64, 128, 256)
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Row:
    """One line of the table: the same network, weights and points for every contender.

    Attributes:
        kind: ``step`` for loss and gradient, ``gauss-newton`` for the Jacobian and the iteration.
        equation: a name in `EQUATIONS`.
        width: units of a hidden layer.
        dtype: precision.
        points: number of points.
        depth: hidden layers.
    """

    kind: str
    equation: str
    width: int
    dtype: str
    points: int = 8192
    depth: int = 4

    @property
    def name(self) -> str:
        """Such as ``burgers 64 float32``."""
        prefix = "" if self.kind == "step" else f"{self.kind} "
        return f"{prefix}{self.equation} {self.width} {self.dtype}"

    @property
    def order(self) -> int:
        """Order of the equation."""
        return EQUATIONS[self.equation].order

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(EQUATIONS[self.equation].coordinates)

    def plain(self) -> dict[str, Any]:
        """As values of JSON."""
        return {**vars(self), "order": self.order, "dimension": self.dimension}


def rows(*, quick: bool = False) -> list[Row]:
    """All rows of the table; `quick` leaves out large networks and most of float64."""
    found = [
        Row("step", equation, width, dtype)
        for dtype in DTYPES
        for width in WIDTHS
        for equation in EQUATIONS
        if not quick or width == 64 and (dtype == "float32" or equation == "burgers")
    ]
    # 2051 parameters.
    return [*found, Row("gauss-newton", "burgers", 25, "float64", points=4000)]


def select(table: list[Row], pattern: str | None) -> list[Row]:
    """The rows whose name holds `pattern`, in which * and ? stand for any text and letter.

    Raises:
        ConfigurationError: no row does.
    """
    if pattern is None:
        return table
    found = [row for row in table if fnmatch.fnmatchcase(row.name, f"*{pattern}*")]
    if not found:
        words = dict.fromkeys(word for row in table for word in row.name.split())
        raise ConfigurationError(
            "no row has such a name", found=pattern, advice=nearest(pattern, words)
        )
    return found


def problem_of(equation: str) -> dict[str, Any]:
    """The equation as the `problem:` section of a case; its conditions are never evaluated."""
    timed = EQUATIONS[equation]
    conditions: list[dict[str, Any]] = [{"periodic": c} for c in timed.coordinates if c != "t"]
    if "t" in timed.coordinates:
        conditions.append({"where": "t = -1", "u": 0})
    return {
        "coordinates": {name: [-1, 1] for name in timed.coordinates},
        "fields": ["u"],
        "equations": [timed.text],
        "conditions": conditions,
        "reference": "none",
    }


def draw(row: Row, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights and points: ``weight0``, ``bias0``, ... of shape (outputs, inputs), and ``points``.

    Biases are not zero, for a tanh network without them is odd and half of its terms vanish.
    """
    rng = np.random.default_rng(seed)
    sizes = [row.dimension, *[row.width] * row.depth, 1]
    arrays = {"points": rng.uniform(-1, 1, (row.points, row.dimension))}
    for number, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = np.sqrt(2 / (inputs + outputs))
        arrays[f"weight{number}"] = scale * rng.standard_normal((outputs, inputs))
        arrays[f"bias{number}"] = rng.uniform(-1, 1, outputs) / np.sqrt(inputs)
    return {name: array.astype(row.dtype) for name, array in arrays.items()}
