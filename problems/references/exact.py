"""Solutions given as formulas, checked against the problem they claim to solve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..equation import parse
from ..evaluation import NUMPY, evaluate
from .system import ReferenceUnavailable, partial

__all__ = ["ERROR_BAR", "Exact"]

Array = NDArray[np.float64]

# A formula of a few dozen operations: a few units of rounding.
ERROR_BAR = 8 * float(np.finfo(float).eps)

ROUNDING = 1e-11
"""Residuals of a formula, relative to its largest term, up to which rounding explains them."""
_SAMPLES = 64


class Exact:
    """A formula per field.

    Args:
        problem: the problem solved.
        trees: formula by field, in coordinates and parameters.

    Raises:
        ReferenceUnavailable: a field without formula, or formulas that do not satisfy the equations
            or conditions.
    """

    def __init__(self, problem: Any, trees: Mapping[str, sympy.Expr]) -> None:
        missing = [f for f in problem.fields if f not in trees]
        if missing:
            raise ReferenceUnavailable(
                f"the exact solution lacks the field {missing[0]}; give a formula for every field "
                f"({', '.join(problem.fields)})"
            )
        self.coordinates: tuple[str, ...] = problem.coordinates
        self.trees = [problem.substituted(trees[f]) for f in problem.fields]
        # How far the formulas are from the equations, as with constants that were rounded.
        self.residual = 0.0
        self._check(problem)

    @classmethod
    def of(cls, problem: Any, formulas: Mapping[str, Any]) -> Exact:
        """The solution from texts, see `Exact`."""
        return cls(problem, {name: parse(f, problem.namespace) for name, f in formulas.items()})

    def __call__(self, points: Array) -> Array:
        """Values (n, fields) at points (n, coordinates)."""
        values = {name: points[:, k] for k, name in enumerate(self.coordinates)}
        return np.stack(
            [np.broadcast_to(evaluate(t, values, NUMPY), len(points)) for t in self.trees], axis=1
        )

    def _check(self, problem: Any) -> None:
        """Put the formulas into equations and conditions at random points."""
        generator = np.random.default_rng(5)
        low, high = np.array(problem.bounds, dtype=float).T
        inside = low + (high - low) * generator.uniform(0.01, 0.99, (_SAMPLES, len(low)))
        for equation in problem.equations:
            if equation.tree is not None:
                self._vanishes(problem, equation.tree, inside, f"the equation '{equation.text}'")
        for condition in problem.conditions:
            for face in condition.faces[:1]:
                points = inside.copy()
                points[:, problem.coordinates.index(face.coordinate)] = face.value
                for equation in condition.equations:
                    if equation.tree is not None:
                        self._vanishes(
                            problem, equation.tree, points, f"the condition '{condition.name}'"
                        )
            if condition.kind == "periodic":
                self._closes(problem, inside, condition)

    def _closes(self, problem: Any, inside: Array, condition: Any) -> None:
        """Both ends of a periodic coordinate agree, in all derivatives below the order."""
        name = condition.faces[0].coordinate
        column = self.coordinates.index(name)
        ends = []
        for face in condition.faces:
            points = inside.copy()
            points[:, column] = face.value
            ends.append({c: points[:, k] for k, c in enumerate(self.coordinates)})
        for field, formula in zip(problem.fields, self.trees, strict=True):
            for order in range(max(e.order(name, field) for e in problem.equations)):
                with np.errstate(all="ignore"):
                    low, high = (
                        np.broadcast_to(evaluate(formula, end, NUMPY), len(inside)) for end in ends
                    )
                    gap = np.abs(high - low)
                finite = np.isfinite(gap)
                scale = float(np.abs(np.where(finite, low, 0.0)).max())
                worst = float(np.where(finite, gap, 0.0).max())
                if worst > 1e-6 * max(scale, 1.0):
                    jet = f"{field}_{name * order}" if order else field
                    raise ReferenceUnavailable(
                        f"the exact solution given does not satisfy the condition "
                        f"'{condition.name}': {jet} differs by {worst:.2g} between the two ends; "
                        "correct the formula or set 'reference: auto'"
                    )
                formula = partial(formula, sympy.Symbol(name, real=True))

    def _vanishes(self, problem: Any, tree: sympy.Expr, points: Array, what: str) -> None:
        values: dict[str, Array] = {name: points[:, k] for k, name in enumerate(self.coordinates)}
        tree = problem.substituted(tree)
        with np.errstate(all="ignore"):
            for symbol, (field, index) in problem.namespace.jets(tree).items():
                formula = self.trees[problem.fields.index(field)]
                for name, order in zip(self.coordinates, index, strict=True):
                    for _ in range(order):
                        formula = partial(formula, sympy.Symbol(name, real=True))
                values[symbol.name] = np.broadcast_to(evaluate(formula, values, NUMPY), len(points))
            residual = np.broadcast_to(evaluate(tree, values, NUMPY), len(points))
            parts = [
                np.broadcast_to(evaluate(part, values, NUMPY), len(points))
                for part in sympy.Add.make_args(tree)
            ]
        # At a corner of the formula (|x|, where) derivatives may be undefined: judged where they
        # are finite.
        finite = np.isfinite(residual)
        scale = max(float(np.abs(np.where(finite, part, 0.0)).max()) for part in parts)
        worst = float(np.abs(np.where(finite, residual, 0.0)).max())
        if not finite.any():
            raise ReferenceUnavailable(
                f"{what} is not a number where the exact solution given is put in; correct one of "
                "them or set 'reference: auto'"
            )
        if worst > ROUNDING * scale + 1e-12:
            self.residual = max(self.residual, worst / scale)
        if worst > 1e-6 * max(scale, 1e-300) + 1e-12:
            raise ReferenceUnavailable(
                f"the exact solution given does not satisfy {what} (largest residual {worst:.2g}, "
                f"beside terms of {scale:.2g}); correct the formula or set 'reference: auto'"
            )
