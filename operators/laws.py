"""Which equation the samples of a case obey, and with which numbers. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigurationError
from .coarse import source_of
from .options import PhysicsOptions
from .samples import Part

__all__ = ["Law", "law_of"]

Equation = Literal["darcy", "burgers"]


@dataclass(frozen=True)
class Law:
    """An equation with its numbers, on a grid.

    Attributes:
        equation: its name.
        constant: f of Darcy's law, nu of Burgers' equation.
        spacing: between nodes.
        step: between instants; None of a steady equation.
    """

    equation: Equation
    constant: float
    spacing: float
    step: float | None = None


def law_of(options: PhysicsOptions, part: Part) -> Law:
    """The equation of a case.

    Raises:
        ConfigurationError: it is not known, or the data are no solutions of it on this grid.
    """
    equation = options.equation
    if equation == "auto":
        equation = _told(part)
    if equation == "darcy":
        _check(part, 2, steps=False, boundary="dirichlet", equation=equation)
        if not np.allclose(part.data.spacing, part.data.spacing[0], rtol=1e-6):
            raise _unfit(equation, "the spacing is not the same along both coordinates")
        known = source_of(part)
        return Law("darcy", _constant(options, known, "f"), part.data.spacing[0])
    _check(part, 1, steps=True, boundary="periodic", equation=equation)
    assert part.data.times is not None
    known = part.data.constants.get("nu")
    step = float(part.data.times[1] - part.data.times[0])
    return Law("burgers", _constant(options, known, "nu"), part.data.spacing[0], step)


def _told(part: Part) -> Equation:
    """The equation that the file names."""
    name = part.data.attributes.get("dataset_name")
    if name == "burgers":
        return "burgers"
    if source_of(part) is not None:
        return "darcy"
    raise ConfigurationError(
        f"{part.data.path} does not say which equation it is of", path=("physics", "equation"),
        advice="write equation: darcy or burgers, or leave 'physics' out",
    )  # fmt: skip


def _check(part: Part, dimension: int, *, steps: bool, boundary: str, equation: str) -> None:
    if part.steps != steps:
        why = "it needs a step in time: write data.map: steps, with a file of several instants"
        raise _unfit(equation, why if steps else "it has no steps in time: write data.map: pairs")
    if len(part.size) != dimension or part.boundary != boundary:
        raise _unfit(equation, f"it is meant in {dimension} coordinates, {boundary}")
    if len(part.outputs) != 1 or len(set(part.inputs)) != 1:
        raise _unfit(equation, "it relates one field to one field")


def _unfit(equation: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        why, path=("physics", "equation"), found=equation,
        advice="give such data, or leave 'physics' out",
    )  # fmt: skip


def _constant(options: PhysicsOptions, known: float | None, name: str) -> float:
    """As the case says it, else as the file does."""
    value = known if options.constant is None else options.constant
    if value is None:
        raise ConfigurationError(
            f"the file does not say {name}", path=("physics", "constant"),
            advice=f"write the {name} of the equation",
        )  # fmt: skip
    return float(value)
