"""Reflections that a problem does not notice, and with it its solution.

If x -> 2 m - x with u -> s u (s = +1 or -1) maps equations, initial data and boundary conditions
onto themselves, and the solution is unique, then u(2 m - x) = s u(x) for all time. A network that
has this parity built in cannot leave the symmetric subspace, where a Kuramoto-Sivashinsky solution
is some thousand times less sensitive to early errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import sympy

from .evaluation import evaluate

if TYPE_CHECKING:
    from .equation import Equation
    from .problem import Problem

__all__ = ["parities"]

MAX_FIELDS = 6
# Two trees that agree at this many random points of the jet space are the same function.
POINTS = 16
AGREEMENT = 1e-9

Signs = Mapping[str, int]


def parities(problem: Problem) -> dict[str, dict[str, int]]:
    """Reflections about the middle of a space coordinate that leave the problem invariant.

    Args:
        problem: any problem; equations without a tree and nonlinear steady equations (whose
            solutions may break the symmetry of the problem) have none.

    Returns:
        For each space coordinate that has one: +1 (even) or -1 (odd) for every field.
    """
    residuals = [*problem.equations, *(e for c in problem.conditions for e in c.equations)]
    if len(problem.fields) > MAX_FIELDS or any(e.tree is None for e in residuals):
        return {}
    if problem.time is None and not all(_linear(problem, tree) for tree in _trees(residuals)):
        return {}
    found: dict[str, dict[str, int]] = {}
    for name in problem.namespace.space:
        for choice in itertools.product((1, -1), repeat=len(problem.fields)):
            signs: dict[str, int] = dict(zip(problem.fields, choice, strict=True))
            if _invariant(problem, name, signs):
                found[name] = signs
                break
    return found


def _trees(equations: Iterable[Equation]) -> list[sympy.Expr]:
    return [e.tree for e in equations if e.tree is not None]


def _linear(problem: Problem, tree: sympy.Expr) -> bool:
    jets = set(problem.namespace.jets(tree))
    return all(not (tree.diff(symbol).free_symbols & jets) for symbol in jets)


def _invariant(problem: Problem, name: str, signs: Signs) -> bool:
    probe = _Probe(problem, name, signs)
    if not all(probe.kept(tree) for tree in _trees(problem.equations)):
        return False
    low: list[sympy.Expr] = []
    high: list[sympy.Expr] = []
    for condition in problem.conditions:
        face, trees = condition.faces[0], _trees(condition.equations)
        if face.coordinate == name:
            (low if face.side < 0 else high).extend(trees)
        # The reflection maps this face to itself: u = g needs g to have the parity of u.
        elif not all(probe.kept(tree, {face.coordinate: face.value}) for tree in trees):
            return False
    return len(low) == len(high) and all(
        any(probe.mirrors(tree, other) for other in high) for tree in low
    )


class _Probe:
    """Values at random points of the jet space, and their mirror images."""

    def __init__(self, problem: Problem, name: str, signs: Signs) -> None:
        namespace = problem.namespace
        axis = problem.coordinates.index(name)
        self.ends = problem.bounds[axis]
        self.name = name
        # Seeded by a constant: the answer must not change from run to run.
        random = np.random.default_rng(20240229)
        residuals = [*problem.equations, *(e for c in problem.conditions for e in c.equations)]
        jets = {
            symbol.name: place
            for tree in _trees(residuals)
            for symbol, place in namespace.jets(tree).items()
        }
        self.here: dict[str, object] = dict(problem.values)
        for coordinate, (low, high) in zip(problem.coordinates, problem.bounds, strict=True):
            self.here[coordinate] = random.uniform(low, high, POINTS)
        self.mirror = dict(self.here)
        self.mirror[name] = sum(self.ends) - np.asarray(self.here[name])
        for jet in sorted(jets):
            field, index = jets[jet]
            # Every second value is positive, so that roots and logarithms of a field are seen.
            values = random.uniform(0.1, 2.0, POINTS)
            values[::2] *= random.choice([-1, 1], POINTS // 2)
            self.here[jet] = values
            self.mirror[jet] = signs[field] * (-1) ** index[axis] * values

    def kept(self, tree: sympy.Expr, at: Mapping[str, float] | None = None) -> bool:
        """Whether the mirrored residual is the residual, up to sign."""
        here, mirror = self._pair(tree, tree, at or {}, at or {})
        return _same(here, mirror) or _same(here, -mirror)

    def mirrors(self, low: sympy.Expr, high: sympy.Expr) -> bool:
        """Whether the residual on the low end is, mirrored, the one on the high end, up to sign."""
        start, end = self.ends
        here, mirror = self._pair(low, high, {self.name: start}, {self.name: end})
        return _same(here, mirror) or _same(here, -mirror)

    def _pair(
        self,
        first: sympy.Expr,
        second: sympy.Expr,
        at: Mapping[str, float],
        there: Mapping[str, float],
    ) -> Sequence[np.ndarray]:
        with np.errstate(all="ignore"):
            pair = (
                evaluate(first, {**self.here, **at}),
                evaluate(second, {**self.mirror, **there}),
            )
        return [np.broadcast_to(np.asarray(v, dtype=float), (POINTS,)) for v in pair]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    known = np.isfinite(a) & np.isfinite(b)
    scale = np.maximum(np.abs(a[known]), np.abs(b[known])) + 1e-12
    # Too few points where both exist prove nothing.
    return bool(
        known.sum() >= POINTS // 4
        and np.all(np.abs(a[known] - b[known]) <= AGREEMENT * np.maximum(scale, 1.0))
    )
