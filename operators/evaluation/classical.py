"""What a classical solver does with what the operator is given: its error and its time.

For Darcy flow the equations are solved on the operator's own nodes, and on fewer of them with the
result interpolated back: the floor below which an operator is worth its training. Where the file
comes from a generator that takes a target for its error, that is timed at the operator's error.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from ...errors import ResiduaError
from ..datasets import darcy
from ..datasets.families import FAMILIES, family
from ..datasets.generation import Request, one_sample
from ..datasets.library import LibraryProblem
from ..samples import Part
from .resolutions import request_of

__all__ = ["Classical", "Solve", "classical"]

TRIES = 5
"""Samples that are solved for a time."""
TARGETS = 1e-11, 0.03
FINER = 2, 4


@dataclass(frozen=True)
class Solve:
    """One way to solve.

    Attributes:
        what: in words.
        seconds: per sample.
        error: relative L2, mean over a few test samples.
    """

    what: str
    seconds: float
    error: float


@dataclass(frozen=True)
class Classical:
    """What is known of the classical solver.

    Attributes:
        method: its name; None where none applies.
        solves: from cheap to dear.
        seconds: per sample for the operator's error; None where that is not known or not reached.
        floor: error of solving on the operator's own nodes; None where there is no such thing.
        bar: median error bar of the truths; None where the file has none.
        note: what the numbers mean.
    """

    method: str | None
    solves: tuple[Solve, ...]
    seconds: float | None
    floor: float | None
    bar: float | None
    note: str


def classical(part: Part, error: float) -> Classical:
    """Time the classical solver behind a file.

    Args:
        part: the test.
        error: mean relative L2 error of the operator.
    """
    bars = part.data.scalars.get("error_bar")
    bar = None if bars is None or not len(bars) else float(np.median(bars))
    request = request_of(part)
    kind = None if request is None else FAMILIES.get(request.family)
    if request is not None and kind is not None and issubclass(kind, darcy.Elliptic):
        return _elliptic(part, request, error, bar)
    if request is not None and _has_target(request):
        return _to_target(part, request, error, bar)
    return Classical(None, (), None, None, bar, "no classical solver of the suite is known for it")


def _has_target(request: Request) -> bool:
    kind = FAMILIES.get(request.family)
    return kind is None or "target" in {f.name for f in fields(kind)}


def _elliptic(part: Part, request: Request, error: float, bar: float | None) -> Classical:
    some = part.data.select(slice(TRIES))
    a, true = (fields[:][:, 0].astype(float) for fields in (some.inputs, some.outputs))
    maker: Any = family(request.family, request.settings)
    cells = a.shape[-1] - 1
    solves = [
        _solved(a, true, stride, maker.source)
        for stride in (8, 7, 6, 5, 4, 3, 2, 1)
        if cells % stride == 0 and cells // stride >= 4
    ]
    floor = solves[-1].error
    most = maker._cells(request.resolution) * (request.resolution - 1) + 1
    for factor in FINER:
        if factor * cells + 1 < most:
            solves.append(_finer(part, request, maker, true, factor, most))
    enough = [solve.seconds for solve in solves if solve.error <= error]
    return Classical(
        "five-point finite differences, sparse direct solver",
        tuple(solves),
        min(enough, default=None),
        floor,
        bar,
        f"errors against the file's solutions, which were computed with {most} nodes per side",
    )


def _solved(a: NDArray[np.float64], true: NDArray[np.float64], stride: int, source: float) -> Solve:
    """Solve on every stride-th node and interpolate back by cubic splines."""
    seconds, errors = [], []
    nodes = np.linspace(0.0, 1.0, a.shape[-1])
    for coefficient, truth in zip(a, true, strict=True):
        began = time.perf_counter()
        found = darcy.solve(coefficient[::stride, ::stride], source)
        if stride > 1:
            coarse = nodes[::stride]
            found = RectBivariateSpline(coarse, coarse, found)(nodes, nodes)
        seconds.append(time.perf_counter() - began)
        errors.append(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    size = (a.shape[-1] - 1) // stride + 1
    what = f"{size}^2 nodes" + (", interpolated" if stride > 1 else ", those of the operator")
    return Solve(what, statistics.median(seconds), float(np.mean(errors)))


def _finer(
    part: Part, request: Request, maker: Any, true: NDArray[np.float64], factor: int, most: int
) -> Solve:
    """Solve on more nodes than the operator has, where the coefficient is known between them."""
    size = factor * (true.shape[-1] - 1) + 1
    seconds, errors = [], []
    for row, truth in zip(part.data.rows[:TRIES].tolist(), true, strict=True):
        seeds = np.random.SeedSequence(request.seed, spawn_key=(row,))
        coefficient = maker.coefficient(np.random.default_rng(seeds), most)
        a = coefficient(np.linspace(0.0, 1.0, size))
        began = time.perf_counter()
        found = darcy.solve(a, maker.source)[::factor, ::factor]
        seconds.append(time.perf_counter() - began)
        errors.append(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    what = f"{size}^2 nodes, the coefficient known on all"
    return Solve(what, statistics.median(seconds), float(np.mean(errors)))


def _to_target(part: Part, request: Request, error: float, bar: float | None) -> Classical:
    target = min(max(error, TARGETS[0]), TARGETS[1]) if math.isfinite(error) else TARGETS[1]
    settings = {**request.settings, "target": target}
    asked = Request(request.family, request.resolution, request.seed, settings, request.dtype)
    try:
        maker = family(asked.family, settings)
        seconds = []
        for row in part.data.rows[:TRIES].tolist():
            began = time.perf_counter()
            one_sample(asked, row, maker)
            seconds.append(time.perf_counter() - began)
    except ResiduaError as problem:
        return Classical(None, (), None, None, bar, f"the generator refused: {problem}")
    spent = statistics.median(seconds)
    method = "solver of the library" if isinstance(maker, LibraryProblem) else "spectral solver"
    return Classical(
        method,
        (Solve(f"to an error bar of {target:.1e}", spent, target),),
        spent,
        None,
        bar,
        "the time includes the comparison of two grids that gives the bar: an upper bound",
    )
