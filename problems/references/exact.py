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

ROUNDING = 1e-13
"""Residuals of a formula, relative to its largest term, up to which rounding explains them."""
# What a shift of the points by a few units of rounding changes is rounding, times this.
_NOISE = 8.0
_SHIFT = 2e-15
# Residuals beyond this, relative to the largest term, are a mistake and not a rounded constant.
_WRONG = 1e-6
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
        # How far the formulas are from the equations, as with constants that were rounded. The
        # equations may amplify it: it is not the error.
        self.residual = 0.0
        self._extent = np.ptp(np.array(problem.bounds, dtype=float), axis=1)
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
        places = [inside]
        for face in condition.faces:
            points = inside.copy()
            points[:, column] = face.value
            places += [points, points + _SHIFT * self._extent]
        named = [{c: p[:, k] for k, c in enumerate(self.coordinates)} for p in places]
        for field, formula in zip(problem.fields, self.trees, strict=True):
            for order in range(max(e.order(name, field) for e in problem.equations)):
                with np.errstate(all="ignore"):
                    between, low, moved, high, high_moved = (
                        np.broadcast_to(evaluate(formula, place, NUMPY), len(inside))
                        for place in named
                    )
                scale = max(_largest(between), _largest(low))
                worst = _largest(high - low)
                noise = _largest(moved - low) + _largest(high_moved - high)
                rounding = _NOISE * noise + ROUNDING * scale
                if worst > rounding:
                    self.residual = max(self.residual, worst / scale)
                if worst > _WRONG * scale + rounding:
                    jet = f"{field}_{name * order}" if order else field
                    raise ReferenceUnavailable(
                        f"the exact solution given does not satisfy the condition "
                        f"'{condition.name}': {jet} differs by {worst:.2g} between the two ends; "
                        "correct the formula or set 'reference: auto'"
                    )
                formula = partial(formula, sympy.Symbol(name, real=True))

    def _vanishes(self, problem: Any, tree: sympy.Expr, points: Array, what: str) -> None:
        tree = problem.substituted(tree)
        residual, parts = self._put_in(problem, tree, points)
        # At a corner of the formula (|x|, where) derivatives may be undefined: judged where they
        # are finite.
        if not np.isfinite(residual).any():
            raise ReferenceUnavailable(
                f"{what} is not a number where the exact solution given is put in; correct one of "
                "them or set 'reference: auto'"
            )
        scale, worst = max(_largest(part) for part in parts), _largest(residual)
        moved, _ = self._put_in(problem, tree, points + _SHIFT * self._extent)
        rounding = _NOISE * _largest(moved - residual) + ROUNDING * scale
        if worst > rounding:
            self.residual = max(self.residual, worst / scale)
        if worst > _WRONG * scale + rounding:
            raise ReferenceUnavailable(
                f"the exact solution given does not satisfy {what} (largest residual {worst:.2g}, "
                f"beside terms of {scale:.2g}); correct the formula or set 'reference: auto'"
            )

    def _put_in(self, problem: Any, tree: sympy.Expr, points: Array) -> tuple[Array, list[Array]]:
        """Values of a tree and of its terms where the formulas stand for the fields."""
        values: dict[str, Array] = {name: points[:, k] for k, name in enumerate(self.coordinates)}
        with np.errstate(all="ignore"):
            for symbol, (field, index) in problem.namespace.jets(tree).items():
                formula = self.trees[problem.fields.index(field)]
                for name, order in zip(self.coordinates, index, strict=True):
                    for _ in range(order):
                        formula = partial(formula, sympy.Symbol(name, real=True))
                values[symbol.name] = np.broadcast_to(evaluate(formula, values, NUMPY), len(points))
            return np.broadcast_to(evaluate(tree, values, NUMPY), len(points)), [
                np.broadcast_to(evaluate(part, values, NUMPY), len(points))
                for part in sympy.Add.make_args(tree)
            ]


def _largest(values: Array) -> float:
    """Largest magnitude among the finite values."""
    return float(np.abs(np.where(np.isfinite(values), values, 0.0)).max())
