"""Manufactured problems: the chosen function solves them, and a different one does not."""

import numpy as np
import pytest
import sympy

from residua.errors import ConfigurationError
from residua.problems import Problem, manufactured, registry
from residua.problems.equation import evaluate, parse

CHOICES = {
    "burgers": {"u": "exp(-t)*sin(2*x) + x^2"},
    "allen_cahn": {"u": "cos(pi*x)*(1 + t^2)"},
    "kuramoto_sivashinsky": {"u": "sin(pi*x + t)"},
    "wave": {"u": "exp(x - t)*c"},
    "poisson_2d": {"u": "log(2 + x)*cosh(y)"},
    "lorenz": {"x": "sin(t)", "y": "t^2", "z": "exp(-t)"},
}


def largest_residual(problem: Problem, solution: dict[str, str]) -> float:
    """Evaluate all residuals on plain derivatives of the closed form."""
    random = np.random.default_rng(1)
    worst = 0.0
    named = [(e, None) for e in problem.equations]
    named += [(e, c.faces[0]) for c in problem.conditions for e in c.equations]
    for equation, face in named:
        at = dict(problem.values)
        for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True):
            at[name] = random.uniform(low, high, 20)
        if face is not None:
            at[face.coordinate] = np.full(20, face.value)
        for symbol, (field, index) in problem.namespace.jets(equation.tree).items():
            tree = parse(solution[field], problem.namespace)
            for coordinate, order in zip(problem.coordinates, index, strict=True):
                tree = tree.diff(sympy.Symbol(coordinate, real=True), order) if order else tree
            at[symbol.name] = evaluate(tree, at)
        worst = max(worst, float(np.max(np.abs(equation.residual(at)))))
    return worst


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_chosen_function_becomes_exact(name: str) -> None:
    original, chosen = registry.get(name), CHOICES[name]
    problem = manufactured(original, chosen)
    assert largest_residual(problem, chosen) < 1e-10
    assert largest_residual(original, chosen) > 1e-2, "it was no solution before"
    wrong = {
        f: f"{t} + 0.001*exp(t)" if "t" in problem.coordinates else f"{t} + 0.001*exp(x)"
        for f, t in chosen.items()
    }
    assert largest_residual(problem, wrong) > 1e-5
    assert problem.reference_spec["method"] == "exact"


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_written_to_a_file_it_is_the_same_problem(name: str) -> None:
    problem = manufactured(registry.get(name), CHOICES[name])
    again = Problem.from_mapping(problem.to_mapping(), name=name)
    assert largest_residual(again, CHOICES[name]) < 1e-9
    assert [e.derivatives for e in again.equations] == [e.derivatives for e in problem.equations]


def test_robin_conditions_get_a_source() -> None:
    mapping = registry.get("heat").to_mapping()
    mapping["conditions"][1] = {"where": "x = 0", "equation": "u_n + 2*u^2 = 0"}
    mapping["reference"] = "auto"
    problem = manufactured(Problem.from_mapping(mapping), {"u": "exp(x - t)"})
    assert largest_residual(problem, {"u": "exp(x - t)"}) < 1e-12


@pytest.mark.parametrize(
    ("name", "solution", "words"),
    [
        ("allen_cahn", {"u": "x^2"}, "not periodic in x"),
        ("allen_cahn", {"u": "x"}, "not periodic in x"),
        ("burgers", {}, "does not match the fields"),
        ("burgers", {"u": "1", "v": "1"}, "does not match the fields"),
        ("burgers", {"u": "u_x"}, "depends on a field"),
        ("burgers", {"u": "w"}, "undeclared name"),
    ],
)
def test_unfit_functions_are_refused(name: str, solution: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        manufactured(registry.get(name), solution)
