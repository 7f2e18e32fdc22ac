"""Any time-dependent problem on a box, from random initial data or at random parameters.

Each sample is a problem like any other, solved by the classical methods of `problems.references`:
on two levels at first, then on finer ones until the change between two levels is small enough.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning

from ...errors import ConfigurationError
from ...problems import Problem
from ...problems.conditions import mapping_of, read_conditions
from ...problems.equation import Namespace
from ...problems.references.automatic import applicable
from ...problems.references.methods import FourierETDRK4, Method
from ...problems.references.radau import Diverged
from ...problems.references.system import ReferenceUnavailable, System
from .random_fields import RandomField

__all__ = ["disturbed", "march"]

Array = NDArray[np.float64]

SAFETY = 3.0
"""The bar is this many times the change from the coarser level."""
_RISES = 12
_FAILURES = 5
"""Levels in a row without a solution after which there is none to be expected."""


def disturbed(problem: Problem, fields: Mapping[str, RandomField], *, keep: bool) -> Problem:
    """The problem with random initial values.

    Args:
        problem: with initial values given as such.
        fields: by name of the unknown function.
        keep: whether they are added to the initial values the problem has, or take their place.

    Raises:
        ConfigurationError: an unknown function has no initial value.
    """
    functions = (*problem.functions, *fields.values())
    namespace = Namespace(
        problem.coordinates, problem.fields, tuple(problem.parameters), problem.time, functions
    )
    space = ", ".join(c for c in problem.coordinates if c != problem.time)
    items = []
    left = dict(fields)
    for condition in problem.conditions:
        item = mapping_of(condition, problem.namespace)
        if condition.kind == "initial":
            for name in [n for n in left if n in item]:
                value = f"{left.pop(name).name}({space})"
                item[name] = f"({item[name]}) + {value}" if keep else value
        items.append(item)
    if left:
        raise ConfigurationError(f"'{problem.name}' gives no initial value of {', '.join(left)}")
    bounds = dict(zip(problem.coordinates, problem.bounds, strict=True))
    return dataclasses.replace(
        problem,
        functions=functions,
        conditions=read_conditions(items, namespace, bounds),
        reference_spec={"method": "auto"},
    )


def march(
    problem: Problem, times: Array, axes: Sequence[Array], target: float, *, waves: int = 0
) -> tuple[Array, Array, str]:
    """Solve a problem.

    Which levels are tried depends on the problem alone, never on a clock: the same problem gives
    the same bits again.

    Args:
        problem: dependent on time.
        times: instants, shape (t,).
        axes: nodes by space coordinate.
        target: error bar to reach.
        waves: highest number of waves of the initial values along a coordinate, which grids are to
            resolve from the start.

    Returns:
        Values (t, fields, n_1, ...), the error bar by field (relative L2 over the instants and
        nodes), and the name of the method.

    Raises:
        ReferenceUnavailable: no method applies, or none reaches the target.
    """
    system = System(problem)
    methods, reasons = applicable(system)
    if not methods:
        raise ReferenceUnavailable(reasons[-1])
    failures = []
    for method in methods:
        bars = np.full(len(problem.fields), np.inf)
        before: Array | None = None
        level, failed, solved = first_level(method, waves), 0, False
        for _ in range(_RISES):
            found = values_at(method, level, times, axes)
            solved = solved or found is not None
            failed = failed + 1 if found is None else 0
            if failed == _FAILURES:
                break
            if found is not None and before is not None:
                bars = SAFETY * _change(before, found)
                if bars.max() <= target:
                    return found, bars, method.name
            before = found
            finer = next_level(method, level)
            if finer is None:
                break
            level = finer
        if not solved:
            raise ReferenceUnavailable(
                f"{method.name} finds no solution: it may not exist over the whole interval"
            )
        failures.append(f"{method.name} reaches {bars.max():.1e}")
    raise ReferenceUnavailable(f"{'; '.join(failures)}, and {target:.1e} is asked for")


def first_level(method: Method, waves: int) -> tuple[int, int]:
    """The coarser of the first two levels."""
    i, j = (max(0, k - 1) for k in method.start)
    last = len(method.space) - 2
    while i < last and method.space[i] < 2 * waves + 2:
        i += 1
    if isinstance(method, FourierETDRK4):
        # A wave takes more steps to pass the finer its grid is.
        while j < len(method.time) - 2 and method.time[j] < method.space[i] / 8:
            j += 1
    return i, j


def next_level(method: Method, level: tuple[int, int]) -> tuple[int, int] | None:
    """The level finer in space and in time; None at the end of either ladder.

    A change that one of them alone makes would say nothing of the other.
    """
    finer = []
    for k, ladder in zip(level, (method.space, method.time), strict=True):
        if len(ladder) > 1 and k + 1 == len(ladder):
            return None
        finer.append(min(k + 1, len(ladder) - 1))
    return None if tuple(finer) == level else (finer[0], finer[1])


def values_at(
    method: Method, level: tuple[int, int], times: Array, axes: Sequence[Array]
) -> Array | None:
    """Values at a level, shape (t, fields, n_1, ...), or None where the method fails there."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        try:
            found = method.solve(*level, np.inf).on_grid(times, list(axes))
        except Diverged:
            return None
    return found if np.isfinite(found).all() else None


def _change(coarse: Array, fine: Array) -> Array:
    """Relative L2 change by field; of a field that is zero, relative to the largest."""
    lines = [np.moveaxis(v, 1, 0).reshape(v.shape[1], -1) for v in (fine - coarse, fine)]
    apart, size = (np.sqrt((line**2).sum(axis=1)) for line in lines)
    largest = float(size.max()) or 1.0
    return apart / np.where(size > 1e-13 * largest, size, largest)
