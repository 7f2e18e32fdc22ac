"""Problem to problem.

`manufactured` makes any chosen function the exact solution: where F(u) = 0 is the equation and v
the chosen function, F(u) = F(v) has the solution v (Roache, Code verification by the method of
manufactured solutions, 2002).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import sympy

from ..errors import ConfigurationError
from .conditions import Condition, Target
from .equation import Equation, Namespace, evaluate, parse, to_text

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["inserted", "manufactured"]


def inserted(
    tree: sympy.Expr, solution: Mapping[str, sympy.Expr], namespace: Namespace
) -> sympy.Expr:
    """The tree with functions in place of the fields and their derivatives.

    Args:
        tree: a residual.
        solution: for each field a tree of coordinates and parameters.
        namespace: the names of the residual.
    """
    replaced = {}
    for symbol, (field, index) in namespace.jets(tree).items():
        value = solution[field]
        for coordinate, order in zip(namespace.coordinates, index, strict=True):
            for _ in range(order):
                value = namespace.total_derivative(value, coordinate)
        replaced[symbol] = value
    return cast(sympy.Expr, tree.xreplace(replaced))


def manufactured(problem: Problem, solution: Mapping[str, str | float | sympy.Expr]) -> Problem:
    """The problem with sources and conditions that make `solution` exact.

    Args:
        problem: a problem whose equations have trees.
        solution: for each field a text or tree of coordinates and parameters.

    Returns:
        A problem with the same operators, and `solution` as its exact reference.

    Raises:
        ConfigurationError: a field is missing or unknown, an equation is a Python function without
            a tree, or the solution is not periodic where the problem is.
    """
    namespace = problem.namespace
    trees = _solution(problem, solution)
    equations = []
    for number, equation in enumerate(problem.equations):
        if equation.tree is None:
            raise ConfigurationError(
                "a Python residual without a tree has no manufactured source",
                path=("equations", number),
                advice="write it as text",
            )
        source = inserted(equation.tree, trees, namespace)
        text = f"{to_text(equation.tree)} = {to_text(source)}"
        equations.append(Equation(text, namespace, equation.tree - source))
    for name in sorted(problem.periodic):
        _check_periodic(problem, trees, name)
    return dataclasses.replace(
        problem,
        equations=tuple(equations),
        conditions=tuple(_condition(c, trees, namespace) for c in problem.conditions),
        reference_spec={"method": "exact", "exact": {f: to_text(trees[f]) for f in problem.fields}},
    )


def _solution(
    problem: Problem, solution: Mapping[str, str | float | sympy.Expr]
) -> dict[str, sympy.Expr]:
    for name in {*solution, *problem.fields}:
        if name not in problem.fields or name not in solution:
            advice = f"give one expression for each of: {', '.join(problem.fields)}"
            raise ConfigurationError(
                f"the solution does not match the fields at '{name}'", advice=advice
            )
    trees = {}
    for name in problem.fields:
        value = solution[name]
        tree = value if isinstance(value, sympy.Expr) else parse(value, problem.namespace)
        if problem.namespace.jets(tree):
            advice = "write it with coordinates and parameters"
            raise ConfigurationError(
                f"the solution of '{name}' depends on a field", found=str(value), advice=advice
            )
        trees[name] = tree
    return trees


def _condition(
    condition: Condition, solution: Mapping[str, sympy.Expr], namespace: Namespace
) -> Condition:
    targets, equations = [], []
    for target in condition.targets:
        jet = namespace.jet(target.field, target.index)
        value = inserted(jet, solution, namespace)
        # On the face its coordinate is a number: u at t = 0 is a function of x alone.
        for face in condition.faces:
            at = {namespace.symbol(face.coordinate): sympy.Float(face.value)}
            value = cast(sympy.Expr, value.xreplace(at))
        targets.append(Target(target.field, target.index, value))
        equations.append(Equation(f"{jet.name} = {to_text(value)}", namespace, jet - value))
    for equation in condition.equations[len(targets) :]:
        assert equation.tree is not None
        source = inserted(equation.tree, solution, namespace)
        text = f"{to_text(equation.tree)} = {to_text(source)}"
        equations.append(Equation(text, namespace, equation.tree - source))
    return dataclasses.replace(condition, equations=tuple(equations), targets=tuple(targets))


def _check_periodic(problem: Problem, solution: Mapping[str, sympy.Expr], name: str) -> None:
    """Compare the ends, for every derivative up to the highest that an equation uses."""
    axis = problem.coordinates.index(name)
    highest = max(e.order(name) for e in problem.equations)
    random = np.random.default_rng(7)
    values: dict[str, object] = dict(problem.values)
    values |= {
        c: random.uniform(*b, 16) for c, b in zip(problem.coordinates, problem.bounds, strict=True)
    }
    low, high = problem.bounds[axis]
    for field, tree in solution.items():
        for order in range(highest + 1):
            ends = [np.asarray(evaluate(tree, {**values, name: end})) for end in (low, high)]
            scale = 1 + np.max(np.abs(ends[0]))
            if not np.max(np.abs(ends[0] - ends[1])) <= 1e-9 * scale:
                which = f"its derivative of order {order}" if order else "its value"
                raise ConfigurationError(
                    f"the solution of '{field}' is not periodic in {name}: {which} jumps",
                    found=to_text(solution[field]),
                    advice=f"choose one with period {high - low:g}",
                )
            tree = problem.namespace.total_derivative(tree, name)
