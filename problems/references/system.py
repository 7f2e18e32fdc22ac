"""A problem as the classical solvers read it: one tree per field, conditions sorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from scipy.optimize import linear_sum_assignment

from ...errors import ResiduaError
from ..conditions import Face
from ..namespace import Namespace

__all__ = ["BoundaryRow", "Jet", "ReferenceUnavailable", "System", "partial"]


class ReferenceUnavailable(ResiduaError):
    """No classical reference can be built; the message says why and what to do instead."""


def partial(tree: sympy.Expr, symbol: sympy.Symbol) -> sympy.Expr:
    """Partial derivative by a symbol, with steps written in the language of equations."""
    derivative: Any = tree.diff(symbol)
    if derivative.has(sympy.Heaviside, sympy.DiracDelta):
        derivative = derivative.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
        derivative = derivative.replace(sympy.Heaviside, lambda a, *_: (1 + sympy.sign(a)) / 2)
    return derivative


@dataclass(frozen=True)
class Jet:
    """A derivative: of which field, how often by time, how often by each space coordinate."""

    field: int
    time: int
    space: tuple[int, ...]


@dataclass(frozen=True)
class BoundaryRow:
    """A condition tree on one face, and the field whose equation gives way to it there."""

    field: int
    face: Face
    tree: sympy.Expr


class System:
    """What the solvers need of a problem, parameters put in as numbers.

    Attributes:
        space: space coordinates in declared order; `bounds` by coordinate.
        time: the time coordinate or None; `span` its bounds.
        orders: order in time by field.
        equations: residual trees; equation i governs field i (gives its highest derivative).
        boundary: conditions on faces of space.
        initial: by field, the trees of its value and time derivatives at the start, in the
            coordinates only.
        periodic: periodic space coordinates.

    Raises:
        ReferenceUnavailable: the problem is not one that any of the solvers here can take.
    """

    def __init__(self, problem: Any) -> None:
        self.problem = problem
        self.namespace: Namespace = problem.namespace
        self.coordinates: tuple[str, ...] = problem.coordinates
        self.time: str | None = problem.time
        self.space: tuple[str, ...] = tuple(c for c in self.coordinates if c != self.time)
        self.bounds = {
            c: (float(low), float(high))
            for c, (low, high) in zip(problem.coordinates, problem.bounds, strict=True)
        }
        self.span = self.bounds[self.time] if self.time is not None else (0.0, 0.0)
        self.fields: tuple[str, ...] = problem.fields
        self.periodic = frozenset(problem.periodic)
        if len(self.space) > 2:
            raise ReferenceUnavailable(
                "the automatic reference covers one and two space coordinates and this problem "
                f"has {len(self.space)}; "
                "give an exact solution under 'reference: {exact: ...}' or set 'reference: none'"
            )
        if self.time in self.periodic:
            raise ReferenceUnavailable(
                "the automatic reference marches in time and cannot close a period in time; name "
                "the periodic "
                "coordinate as a space coordinate or set 'reference: none'"
            )
        trees = [self._tree(e) for e in problem.equations]
        if len(trees) != len(self.fields):
            raise ReferenceUnavailable(
                "the automatic reference needs as many equations as fields, and there are "
                f"{len(trees)} equations for "
                f"{len(self.fields)} fields; give an exact solution or set 'reference: none'"
            )
        self.orders = tuple(self._order(f, trees) for f in range(len(self.fields)))
        self.equations = self._matched(trees)
        self.boundary: list[BoundaryRow] = []
        self.initial: list[list[sympy.Expr]] = [[] for _ in self.fields]
        self._sort_conditions()

    @property
    def linear(self) -> bool:
        """Whether no product or function of fields occurs in equations and conditions."""
        trees = [*self.equations, *(row.tree for row in self.boundary)]
        return not any(
            partial(tree, symbol).free_symbols & set(jets)
            for tree in trees
            for jets in [self.jets(tree)]
            for symbol in jets
        )

    # -- jets --------------------------------------------------------------------------------------
    # -----------

    def jets(self, tree: sympy.Expr) -> dict[sympy.Symbol, Jet]:
        """The derivatives in a tree."""
        return {symbol: self._jet(*place) for symbol, place in self.namespace.jets(tree).items()}

    def _jet(self, field: str, index: Sequence[int]) -> Jet:
        order = dict(zip(self.coordinates, index, strict=True))
        time = order[self.time] if self.time is not None else 0
        return Jet(self.fields.index(field), time, tuple(order[c] for c in self.space))

    def _tree(self, equation: Any) -> sympy.Expr:
        if equation.tree is None:
            raise ReferenceUnavailable(
                "the equation is a Python function that could not be followed symbolically, and "
                "the classical "
                "reference is built from the equation's tree; write the equation as text or give "
                "an exact solution"
            )
        return self.problem.substituted(equation.tree)

    def _order(self, field: int, trees: Sequence[sympy.Expr]) -> int:
        return max(
            (j.time for tree in trees for j in self.jets(tree).values() if j.field == field),
            default=0,
        )

    def _matched(self, trees: Sequence[sympy.Expr]) -> tuple[sympy.Expr, ...]:
        """Sort the equations so that equation i holds the highest derivative of field i."""
        cost = np.full((len(trees), len(trees)), 1e6)
        for row, tree in enumerate(trees):
            for jet in self.jets(tree).values():
                top = jet.time == self.orders[jet.field]
                rank = 1000.0 * (top and jet.time > 0) + 10.0 * sum(jet.space) * top + 1.0
                cost[row, jet.field] = min(cost[row, jet.field], -rank)
        rows, columns = linear_sum_assignment(cost)
        if cost[rows, columns].max() > 0:
            raise ReferenceUnavailable(
                "the equations cannot be paired with the fields one to one, each holding its own "
                "field; "
                "check that every field has an equation, or give an exact solution"
            )
        return tuple(trees[row] for _, row in sorted(zip(columns, rows, strict=True)))

    # -- conditions
    # -------------------------------------------------------------------------------------------

    def _sort_conditions(self) -> None:
        given: dict[tuple[int, int], sympy.Expr] = {}
        for condition in self.problem.conditions:
            if condition.kind == "periodic":
                continue
            face = condition.faces[0]
            if face.coordinate == self.time:
                if face.side != -1:
                    raise ReferenceUnavailable(
                        f"condition '{condition.name}' fixes the end of time, and the automatic "
                        "reference marches "
                        "forward; give all conditions in time at its start"
                    )
                self._take_initial(condition, given)
            else:
                self._take_boundary(condition, face)
        for field, order in enumerate(self.orders):
            for k in range(order):
                if (field, k) not in given:
                    name = self.fields[field] + (f"_{str(self.time) * k}" if k else "")
                    raise ReferenceUnavailable(
                        f"the initial value of {name} is not given in the form '{name}: ...', "
                        "which the automatic "
                        "reference needs; write it so or give an exact solution"
                    )
                self.initial[field].append(given[field, k])

    def _take_initial(self, condition: Any, given: dict[tuple[int, int], sympy.Expr]) -> None:
        for target in condition.targets:
            jet = self._jet(target.field, target.index)
            if any(jet.space):
                raise ReferenceUnavailable(
                    f"condition '{condition.name}' fixes a space derivative at the start; give the "
                    "field itself"
                )
            tree = self.problem.substituted(target.tree)
            for symbol, place in self.jets(tree).items():
                # A value such as u_t = -c*u_x: the derivative of the initial data already read.
                known = given.get((place.field, place.time))
                if known is None:
                    continue
                for coordinate, order in zip(self.space, place.space, strict=True):
                    for _ in range(order):
                        known = partial(known, sympy.Symbol(coordinate, real=True))
                tree = tree.subs(symbol, known)
            if self.jets(tree):
                raise ReferenceUnavailable(
                    f"condition '{condition.name}' refers to fields that are not known at the "
                    "start; "
                    "write the initial value as a function of the coordinates"
                )
            given[jet.field, jet.time] = tree

    def _take_boundary(self, condition: Any, face: Face) -> None:
        targets = [t.field for t in condition.targets]  # they belong to the first equations
        for number, equation in enumerate(condition.equations):
            tree = self._tree(equation)
            jets = self.jets(tree)
            if not jets:
                raise ReferenceUnavailable(f"condition '{condition.name}' holds no field")
            if number < len(targets):
                field = self.fields.index(targets[number])
            else:
                field = min(
                    (jet.field for jet in jets.values()),
                    key=lambda f: (
                        sum(row.field == f and row.face == face for row in self.boundary),
                        -max(sum(j.space) + j.time for j in jets.values() if j.field == f),
                    ),
                )
            if any(j.time > self.orders[j.field] for j in jets.values()):
                raise ReferenceUnavailable(
                    f"condition '{condition.name}' holds a higher time derivative than the "
                    "equations; "
                    "lower it or give an exact solution"
                )
            self.boundary.append(BoundaryRow(field, face, tree))
