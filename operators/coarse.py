"""A coarse classical solution as a further input, which the operator corrects (solver in the loop).

The operator learns ``u = u_H + N(a, u_H)``, where u_H is the solution of the equations on a coarse
grid, interpolated: Um, Brand, Fei, Holl and Thuerey, "Solver-in-the-loop", NeurIPS 2020, for a
steady problem. Known for Darcy flow, whose coefficient alone tells the equations.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from ..errors import ConfigurationError, DataError
from .datasets import darcy
from .datasets.families import FAMILIES
from .samples import Part, Samples

__all__ = ["check_coarse", "coarse_solutions", "source_of"]


def source_of(part: Part) -> float | None:
    """The right-hand side of Darcy flow that the file is of; None where it is of something else."""
    kind = FAMILIES.get(str(part.data.attributes.get("dataset_name")))
    if kind is None or not issubclass(kind, darcy.Elliptic) or part.steps:
        return None
    if len(part.inputs) != 1 or len(part.outputs) != 1:
        return None
    return float(part.data.constants.get("f", 1.0))


def check_coarse(coarse: int | None, samples: Samples) -> None:
    """Refuse a coarse solution where none is known, or where it is what is to be predicted.

    Raises:
        ConfigurationError: with what to write.
    """
    if coarse is None:
        return
    path, part = ("data", "coarse"), samples.train
    if source_of(part) is None:
        raise ConfigurationError(
            "a coarse solution is known for data of Darcy flow made by residua data generate",
            path=path, found=coarse, advice="write coarse: null",
        )  # fmt: skip
    if coarse > part.size[0]:
        raise ConfigurationError(
            f"the coefficient is known on {part.size[0]} nodes", path=path, found=coarse,
            advice=f"write a number up to {part.size[0]}",
        )  # fmt: skip
    if coarse == part.size[0] == _solved_on(part):
        raise ConfigurationError(
            f"the solutions of {part.data.path} were computed on these {coarse} nodes: the coarse "
            "solution is the answer",
            path=path, found=coarse, advice=f"write a number below {coarse}",
        )  # fmt: skip
    if source_of(samples.test) != source_of(part):
        raise ConfigurationError(
            f"{samples.test.data.path} is not of the equations of {part.data.path}", path=path,
            found=coarse, advice="write coarse: null, or test on data of the same right-hand side",
        )  # fmt: skip


def _solved_on(part: Part) -> int | None:
    """Nodes per side of the grid on which the stored solutions were computed, where it was set."""
    try:
        found = json.loads(part.data.attributes.get("settings", "{}")).get("grid")
    except (ValueError, TypeError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def coarse_solutions(coefficients: NDArray[Any], nodes: int, source: float) -> NDArray[np.float64]:
    """Solutions on fewer nodes, interpolated by cubic splines to those of the coefficients.

    Args:
        coefficients: shape (samples, 1, n, n).
        nodes: per side of the coarse grid; at most n are used. The coefficient is taken at the
            nearest of its nodes.
        source: right-hand side.

    Returns:
        Shape (samples, 1, n, n).

    Raises:
        DataError: a coefficient is not positive, so that the equations have no solution.
    """
    n = coefficients.shape[-1]
    nodes = min(nodes, n)
    if not (coefficients > 0).all():
        raise DataError("inputs: a coefficient is not positive; a coarse solution needs it to be")
    places = np.round(np.linspace(0, n - 1, nodes)).astype(int)
    fine, coarse = np.linspace(0.0, 1.0, n), np.linspace(0.0, 1.0, nodes)
    found = np.empty(coefficients.shape)
    for number, a in enumerate(coefficients[:, 0].astype(float)):
        u = darcy.solve(a[np.ix_(places, places)], source)
        found[number, 0] = u if nodes == n else RectBivariateSpline(coarse, coarse, u)(fine, fine)
    return found
