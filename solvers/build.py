"""From a case to its fields: which windows there are, and the field of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..config import Case
from ..engine.constraints import Architecture, Branch, Constrained, constrain
from ..engine.networks.ansatz import Windows
from ..engine.networks.field import Field
from ..engine.networks.gaussians import GaussianSettings
from ..errors import DataError
from ..problems.characteristics import initial_spread
from ..problems.problem import Problem
from . import BACKENDS
from .options import GaussianFeatures, GaussiansOptions, LagrangianOptions, SolverOptions

NEAR_REST = 0.1
"""First size of what changes along a path, in units of the state's range and of the domain over
2 pi: random displacements of full size let paths cross, which divides by J = 0."""


def collocation_options(case: Case) -> SolverOptions:
    """The settings of a case whose backend trains by collocation."""
    assert isinstance(case.solver, SolverOptions), f"{case.solver.name} does not"
    return case.solver


def architecture(problem: Problem, options: SolverOptions) -> Architecture:
    """The engine's description of the network a case asks for."""
    network = options.network
    gaussians = options.gaussians if isinstance(options, GaussiansOptions) else None
    informed = options.windows > 1 if network.background == "auto" else network.background
    return Architecture(
        width=network.width,
        depth=network.depth if gaussians is None or gaussians.network else 0,
        activation=network.activation,
        gated=network.kind == "modified_mlp",
        factorised=network.factorised,
        harmonics=network.harmonics,
        fourier=network.fourier,
        fourier_scale=network.fourier_scale,
        background=informed and network.kind != "spectral",
        spectral=network.kind == "spectral",
        degree=network.degree,
        branches=_branches(problem, options),
        gaussians=None if gaussians is None else _gaussians(gaussians, problem),
    )


def _branches(problem: Problem, options: SolverOptions) -> tuple[Branch, ...]:
    """Networks of their own for states and displacements of a problem in labels."""
    if not isinstance(options, LagrangianOptions):
        return ()
    space, network, paths = problem.namespace.space, options.network, options.paths
    spread = initial_spread(problem)
    states = tuple(NEAR_REST * spread[name] for name in problem.fields[: -len(space)])
    ends = (problem.bounds[problem.coordinates.index(name)] for name in space)
    lengths = tuple(NEAR_REST * ((high - low) / math.tau) for low, high in ends)
    return (
        Branch(len(states), network.width, network.depth, states),
        Branch(len(space), paths.width, paths.depth, lengths),
    )


def _gaussians(chosen: GaussianFeatures, problem: Problem) -> GaussianSettings:
    return GaussianSettings(
        count=chosen.count,
        channels=chosen.features,
        full=chosen.covariance == "full",
        own=chosen.sets == "own",
        overlap=chosen.overlap,
        radius=chosen.radius,
        separable=chosen.separable,
        moving=chosen.moving,
        floor=chosen.floor,
        density=tuple(chosen.density.get(name, 1.0) for name in problem.coordinates),
    )


def window_edges(problem: Problem, options: SolverOptions) -> list[float] | None:
    """Edges of the time windows, or None where there is no time."""
    if problem.time is None:
        return None
    count = options.windows
    low, high = problem.bounds[problem.coordinates.index(problem.time)]
    return [low + (high - low) * i / count for i in range(count)] + [float(high)]


def parities(problem: Problem, options: SolverOptions) -> dict[str, dict[str, int]]:
    """Reflections to build in."""
    if options.symmetry == "none":
        return {}
    found = problem.parities()
    if options.symmetry == "auto":
        return {name: dict(by_field) for name, by_field in found.items()}
    assert isinstance(options.symmetry, Mapping)
    signs = {"even": 1, "odd": -1}
    return {
        name: dict.fromkeys(problem.fields, signs[word]) for name, word in options.symmetry.items()
    }


def window_field(
    case: Case,
    window: int,
    previous: Field | None,
    *,
    span: tuple[float, float] | None = None,
    restore: bool = False,
    added: Sequence[Field] = (),
) -> Constrained:
    """The field of one time window, freshly initialised from the seed of the run.

    Args:
        case: what is solved and how.
        window: its number.
        previous: the state it starts from.
        span: its begin and end; None for windows of equal length.
        restore: weights will be loaded.
        added: see `constrain`.
    """
    options = collocation_options(case)
    edges = window_edges(case.problem, options)
    if span is None and edges is not None:
        span = (edges[window], edges[window + 1])
    generator = torch.Generator().manual_seed((case.run.seed * 1_000_003 + window) % 2**63)
    built = constrain(
        case.problem,
        architecture(case.problem, options),
        hard=options.hard,
        parities=parities(case.problem, options),
        propagator=options.propagator,
        span=span,
        previous=previous,
        added=added,
        generator=generator,
        restore=restore,
    )
    built.field.to(torch.float32 if case.run.dtype == "float32" else torch.float64)
    return built


def join(case: Case, fields: list[Field], edges: Sequence[float] | None = None) -> Field:
    """The fields of the windows solved so far, as one; windows of equal length without `edges`."""
    if edges is None:
        edges = window_edges(case.problem, collocation_options(case))
    if edges is None or len(fields) == 1:
        return fields[0]
    assert case.problem.time is not None
    axis = case.problem.coordinates.index(case.problem.time)
    return Windows(fields, edges[: len(fields) + 1], axis)


def build_field(case: Case, architecture: Mapping[str, Any]) -> Field:
    """The field of a finished run of any backend, with weights still to be loaded.

    Raises:
        DataError: the architecture does not fit the case.
    """
    return BACKENDS[case.solver.name].load().rebuild(case, architecture)


def next_field(case: Case, fields: Sequence[Field], *, restore: bool = False) -> Constrained:
    """The field of the window after some finished ones; see `window_field`."""
    return window_field(case, len(fields), fields[-1] if fields else None, restore=restore)


def rebuild_windows(case: Case, architecture: Mapping[str, Any]) -> Field:
    """The fields of all time windows of a finished run, as one, with weights still to be loaded.

    Args:
        case: its configuration.
        architecture: as stored with the weights: ``{"windows": number of windows solved}``.

    Raises:
        DataError: the number of windows does not fit the case.
    """
    fields: list[Field] = []
    for _ in range(windows_solved(case, architecture)):
        fields.append(next_field(case, fields, restore=True).field)
    return join(case, fields)


def windows_solved(case: Case, architecture: Mapping[str, Any]) -> int:
    """How many windows a finished run has; arguments as in `rebuild_windows`.

    Raises:
        DataError: it does not fit the case.
    """
    count = architecture.get("windows")
    most = collocation_options(case).windows
    if not isinstance(count, int) or not 1 <= count <= most:
        raise DataError(f"windows: found {count!r}; the case has {most}")
    return count
