"""Which conditions a field can meet by construction, and the field that does.

Periodicity goes into the embedding, reflections into the embedding or a `Reflection`, initial and
Dirichlet data
into the ansatz ``u = A + B N``. A is built by transfinite interpolation (Gordon & Hall, Numer.
Math. 21, 1973): start
from the initial data, then correct one space coordinate after the other so that each face carries
its value; B is
the product of the distances. The result is checked at random points of every face: a condition
that fails
(incompatible corners, say) is imposed softly instead, and said so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sympy
import torch

from ..problems.conditions import Condition, Face
from ..problems.equation import NUMPY, evaluate
from ..problems.problem import Problem
from .networks.ansatz import Ansatz, Handover, Reflection, SymbolicField
from .networks.embedding import Embedding
from .networks.field import Field
from .networks.mlp import Mlp
from .networks.propagator import Growth, Propagated
from .taylor import MultiIndex

MODES_FIRST = 4096
MODES_LATER = 1024
MOST_GROWTH = 5.0
"""Largest exponent by which a propagated mode may grow within a window."""


@dataclass(frozen=True)
class Architecture:
    """What a network looks like (the `network` section of a case)."""

    width: int
    depth: int
    activation: str
    gated: bool
    factorised: bool
    harmonics: int
    fourier: int
    fourier_scale: float


@dataclass
class Constrained:
    """A field, what it meets by construction, and where it must be sampled.

    Attributes:
        field: the trainable field.
        met: names of the conditions met exactly, the symmetry included.
        bounds: the box to sample: half of it where a reflection is built in.
        handed_over: whether the state at the start of the window is built in.
        notes: sentences about choices a reader would want to know.
    """

    field: Field
    met: frozenset[str]
    bounds: tuple[tuple[float, float], ...]
    handed_over: bool
    notes: list[str] = dataclasses.field(default_factory=list)


def constrain(
    problem: Problem,
    architecture: Architecture,
    *,
    hard: bool | Sequence[str] = True,
    parities: Mapping[str, Mapping[str, int]],
    propagator: bool | str = "auto",
    span: tuple[float, float] | None = None,
    previous: Field | None = None,
    generator: torch.Generator,
    restore: bool = False,
) -> Constrained:
    """Build the field of a problem on a time window.

    Args:
        problem: what is to be solved.
        architecture: the network.
        hard: conditions to build in, by name or kind; True for all.
        parities: reflections to build in: coordinate to field to +1 or -1.
        propagator: carry initial data by the exact linear part; "auto": where the equation is
            nonlinear.
        span: the time window; None for the whole of time or steady problems.
        previous: the field of the window before.
        generator: source of the initial weights.
        restore: the weights will be loaded, so nothing need be computed from ``previous``.
    """
    names = problem.coordinates
    time_axis = names.index(problem.time) if problem.time else None
    bounds = [(float(low), float(high)) for low, high in problem.bounds]
    if span is not None and time_axis is not None:
        bounds[time_axis] = span
    chosen = [c for c in problem.conditions if _chosen(c, hard)]
    met = {c.name for c in chosen if c.kind == "periodic"}
    periodic = [c.faces[0].coordinate for c in chosen if c.kind == "periodic"]
    notes: list[str] = []

    embedding = Embedding(
        bounds,
        periodic={names.index(name): architecture.harmonics for name in periodic},
        cosine_only=[names.index(name) for name in periodic if name in parities],
        fourier=architecture.fourier,
        fourier_scale=architecture.fourier_scale,
        generator=generator,
    )
    network: Field = Mlp(
        embedding,
        len(problem.fields),
        width=architecture.width,
        depth=architecture.depth,
        activation=architecture.activation,
        factorised=architecture.factorised,
        gated=architecture.gated,
        generator=generator,
    )
    sampled = list(bounds)
    envelopes: list[sympy.Expr] = [sympy.Integer(1) for _ in problem.fields]
    for name, by_field in parities.items():
        axis = names.index(name)
        low, high = bounds[axis]
        middle = (low + high) / 2
        sampled[axis] = (middle, high)
        signs = [by_field[f] for f in problem.fields]
        if name in periodic:
            wave = 2 * sympy.pi / sympy.Float(high - low)
            x = sympy.Symbol(name, real=True)
            odd = sympy.sin(wave * (x - sympy.Float(middle)))
            envelopes = [
                e * odd if sign < 0 else e for e, sign in zip(envelopes, signs, strict=True)
            ]
        else:
            network = Reflection(network, axis, middle, signs)

    builder = _Builder(problem, bounds, time_axis, chosen)
    backgrounds: list[Field] = []
    handed_over = False
    wants_initial = (
        previous is not None and hard is not False or any(c.kind == "initial" for c in chosen)
    )
    growth = None
    if wants_initial and time_axis is not None:
        growth = _growth(problem, periodic, bounds, propagator)
    if growth is not None:
        assert time_axis is not None
        start = bounds[time_axis][0]
        state = previous
        if previous is None:
            state = SymbolicField(names, builder.initial_state())
        axis = names.index(periodic[0])
        backgrounds.append(
            Propagated(
                None if restore else state,
                growth,
                axis=axis,
                bounds=bounds[axis],
                time_axis=time_axis,
                time=start,
                modes=MODES_FIRST if previous is None else MODES_LATER,
            )
        )
        envelopes = [e * builder.elapsed() for e in envelopes]
        met |= {c.name for c in chosen if c.kind == "initial"}
        handed_over = True
        notes.append("the initial state is carried on by the exact linear part of the equation")
    else:
        trees, factors, done, complaints = builder.build(previous is not None, wants_initial)
        notes += complaints
        met |= done
        envelopes = [e * f for e, f in zip(envelopes, factors, strict=True)]
        if any(tree != 0 for tree in trees):
            backgrounds.append(SymbolicField(names, trees))
        if previous is not None and wants_initial:
            assert time_axis is not None
            orders = [problem.time_order[f] for f in problem.fields]
            backgrounds.append(Handover(previous, time_axis, bounds[time_axis][0], orders))
            handed_over = True
    envelope = None
    if any(e != 1 for e in envelopes):
        envelope = SymbolicField(names, envelopes)
    if backgrounds or envelope is not None:
        network = Ansatz(network, backgrounds, envelope)
    return Constrained(network, frozenset(met), tuple(sampled), handed_over, notes)


def _chosen(condition: Condition, hard: bool | Sequence[str]) -> bool:
    if isinstance(hard, bool):
        return hard
    return condition.name in hard or condition.kind in hard


class _Builder:
    """Backgrounds and envelopes from prescribed values."""

    def __init__(
        self,
        problem: Problem,
        bounds: Sequence[tuple[float, float]],
        time_axis: int | None,
        conditions: Sequence[Condition],
    ) -> None:
        self.problem = problem
        self.bounds = bounds
        self.time_axis = time_axis
        self.symbols = [sympy.Symbol(name, real=True) for name in problem.coordinates]
        self.dirichlet: list[tuple[Condition, Face, str, sympy.Expr]] = []
        self.initial: dict[str, dict[int, sympy.Expr]] = {f: {} for f in problem.fields}
        self.initial_names = {c.name for c in conditions if c.kind == "initial"}
        for condition in conditions:
            for target in condition.targets:
                tree = problem.substituted(target.tree)
                if condition.kind == "initial":
                    assert time_axis is not None
                    if sum(target.index) == target.index[time_axis]:
                        self.initial[target.field][target.index[time_axis]] = tree
                elif condition.kind == "boundary" and sum(target.index) == 0:
                    self.dirichlet.append((condition, condition.faces[0], target.field, tree))

    @property
    def time(self) -> sympy.Symbol:
        """The time symbol."""
        assert self.time_axis is not None
        return self.symbols[self.time_axis]

    def elapsed(self) -> sympy.Expr:
        """Time since the start of the window in units of its length."""
        assert self.time_axis is not None
        low, high = self.bounds[self.time_axis]
        return (self.time - sympy.Float(low)) / sympy.Float(high - low)

    def initial_state(self) -> list[sympy.Expr]:
        """The prescribed values at the start, field by field."""
        return [self.initial[f].get(0, sympy.Integer(0)) for f in self.problem.fields]

    def build(
        self, later: bool, wants_initial: bool
    ) -> tuple[list[sympy.Expr], list[sympy.Expr], set[str], list[str]]:
        """Background and envelope trees, names of conditions met, and complaints.

        Args:
            later: a window after the first: the state is handed over by another background.
            wants_initial: build in the state at the start.
        """
        trees, factors = [], []
        notes: list[str] = []
        failed: set[str] = set()
        for name in self.problem.fields:
            with_initial = wants_initial and self.time_axis is not None
            tree, factor = self._one(name, later, with_initial)
            if with_initial and not later and not self._starts_right(name, tree):
                failed |= self.initial_names
                notes.append(
                    f"initial and boundary values of {name} disagree where they meet; "
                    "the initial ones are imposed softly"
                )
                tree, factor = self._one(name, later, False)
            trees.append(tree)
            factors.append(factor)
        met = {c.name for c, _, _, _ in self.dirichlet if self._all_dirichlet(c)}
        met |= set() if failed or not wants_initial else self.initial_names
        return trees, factors, met, notes

    def _all_dirichlet(self, condition: Condition) -> bool:
        return len(condition.targets) == len(condition.equations) and all(
            sum(t.index) == 0 for t in condition.targets
        )

    def _one(self, name: str, later: bool, with_initial: bool) -> tuple[sympy.Expr, sympy.Expr]:
        background: sympy.Expr = sympy.Integer(0)
        envelope: sympy.Expr = sympy.Integer(1)
        order = self.problem.time_order.get(name, 0) if with_initial else 0
        start = sympy.Float(0 if self.time_axis is None else self.bounds[self.time_axis][0])
        if order:
            envelope = self.elapsed() ** order
            if not later:
                for m, tree in self.initial[name].items():
                    background += tree * (self.time - start) ** m / sympy.factorial(m)
        faces: dict[str, list[tuple[Face, sympy.Expr]]] = {}
        for _, face, field_name, tree in self.dirichlet:
            if field_name == name:
                faces.setdefault(face.coordinate, []).append((face, tree))
        for coordinate, pairs in faces.items():
            axis = self.problem.coordinates.index(coordinate)
            x = self.symbols[axis]
            low, high = (sympy.Float(v) for v in self.bounds[axis])
            correction: sympy.Expr = sympy.Integer(0)
            for face, tree in pairs:
                wanted = tree
                if later and order:  # the state handed over already holds the values at the start
                    for m in range(order):
                        past = sympy.diff(tree, self.time, m).subs(self.time, start)
                        wanted -= past * (self.time - start) ** m / sympy.factorial(m)
                blend: sympy.Expr = sympy.Integer(1)
                if len(pairs) == 2:
                    blend = (x - low) / (high - low) if face.side > 0 else (high - x) / (high - low)
                correction += blend * (wanted - background.subs(x, sympy.Float(face.value)))
                distance = (high - x) if face.side > 0 else (x - low)
                envelope *= distance * (2 if len(pairs) == 2 else 1) / (high - low)
            background += correction
        return background, envelope

    def _starts_right(self, name: str, background: sympy.Expr) -> bool:
        """Whether the background carries the initial data at random points of the first slice."""
        assert self.time_axis is not None
        rng = np.random.default_rng(0)
        points = np.stack([rng.uniform(lo, hi, 64) for lo, hi in self.bounds], axis=1)
        points[:, self.time_axis] = self.bounds[self.time_axis][0]
        values = {str(s): points[:, i] for i, s in enumerate(self.symbols)}
        for m, tree in self.initial[name].items():
            found = evaluate(sympy.diff(background, self.time, m), values, NUMPY)
            wanted = evaluate(tree, values, NUMPY)
            if np.max(np.abs(found - wanted)) > 1e-9 * (1 + np.max(np.abs(wanted))):
                return False
        return True


def _growth(
    problem: Problem,
    periodic: Sequence[str],
    bounds: Sequence[tuple[float, float]],
    propagator: bool | str,
) -> list[Growth] | None:
    """Growth rates of the linear derivative terms, or None where the propagator does not apply."""
    namespace = problem.namespace
    if propagator is False or problem.time is None or list(periodic) != list(namespace.space):
        return None
    if len(namespace.space) != 1 or len(problem.equations) != len(problem.fields):
        return None
    axis = problem.coordinates.index(periodic[0])
    time_axis = problem.coordinates.index(problem.time)
    span = bounds[time_axis][1] - bounds[time_axis][0]
    rates: list[Growth] = []
    nonlinear = False
    unit: MultiIndex = tuple(int(i == time_axis) for i in range(len(problem.coordinates)))
    for name, equation in zip(problem.fields, problem.equations, strict=True):
        if equation.tree is None or problem.time_order[name] != 1:
            return None
        tree = sympy.expand(problem.substituted(equation.tree))
        jets = namespace.jets(tree)
        slope = sympy.diff(tree, namespace.jet(name, unit))
        timelike = [s for s, (_, index) in jets.items() if index[time_axis]]
        if not slope.is_number or slope == 0 or timelike != [namespace.jet(name, unit)]:
            return None
        terms: dict[int, complex] = {}
        rest = tree - slope * namespace.jet(name, unit)
        for symbol, (field_name, index) in jets.items():
            coefficient = sympy.diff(tree, symbol)
            order = index[axis]
            constant = coefficient.subs({s: 0 for s in jets})
            if field_name == name and order and not index[time_axis] and constant.is_number:
                terms[order] = -complex(constant / slope)
                rest -= constant * symbol
        nonlinear = nonlinear or bool(namespace.jets(sympy.expand(rest)))

        def rate(k: np.ndarray, terms: dict[int, complex] = terms) -> np.ndarray:
            return sum((c * (1j * k) ** n for n, c in terms.items()), np.zeros(len(k), complex))

        lowest = 2 * np.pi / (bounds[axis][1] - bounds[axis][0])
        if not terms or np.max(np.real(rate(lowest * np.arange(MODES_FIRST)))) * span > MOST_GROWTH:
            return None
        rates.append(rate)
    return rates if nonlinear or propagator is True else None
