"""Equations: derivative sets, values, LaTeX, and Python residuals."""

import math
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch

from residua.errors import ConfigurationError
from residua.problems.equation import Equation, Namespace, evaluate, parse, to_text

NS = Namespace(("x", "y", "t"), ("u", "v"), ("nu",), time="t")


def test_derivative_sets_hold_what_appears_and_nothing_else() -> None:
    equation = Equation("u_t + u*u_x = nu*lap(u) + x*v_tx", NS)
    assert equation.derivatives == {
        "u": frozenset({(0, 0, 0), (0, 0, 1), (1, 0, 0), (2, 0, 0), (0, 2, 0)}),
        "v": frozenset({(1, 0, 1)}),
    }
    assert (equation.order("x"), equation.order("y"), equation.order("t")) == (2, 2, 1)
    assert equation.order("t", "v") == 1 and equation.order("y", "v") == 0


def test_what_cancels_is_not_needed() -> None:
    assert Equation("u_xx + u = u_xx", NS).derivatives == {"u": frozenset({(0, 0, 0)})}


def test_latex_has_both_sides() -> None:
    assert Equation("u_t = nu*u_xx", NS).latex == r"u_{t} = \nu u_{xx}"


TREES = [
    "u_t + u*u_x - nu*u_xx",
    "sin(pi*x)*exp(-nu*t)/(1 + x^2)",
    "u^3 - u + sqrt(1 + u_x^2)",
    "where(x < 0.1, u, -u)*abs(v) + sign(u_x)",
    "max(u, v, 0.2) - min(u, v) + sech(x) + erf(t)",
    "2^x + x^0.3 + (1 + x)^(-1.5) + 1/(x*t)",
    "where(0 < x < 0.5, 1, 2)",
    "atan(u)/asin(0.3) + log(2 + u) - u^(-2)",
    "e^(x + t) - exp(u)",
]


@pytest.mark.parametrize("text", TREES)
def test_value_agrees_with_sympy(text: str) -> None:
    tree = parse(text, NS)
    random = np.random.default_rng(3)
    for _ in range(5):
        at = {s.name: float(random.uniform(0.05, 0.95)) for s in tree.free_symbols}
        exact = tree.subs({sympy.Symbol(k, real=True): v for k, v in at.items()}).evalf(30)
        assert evaluate(tree, at) == pytest.approx(float(exact), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("text", TREES)
def test_arrays_and_tensors_give_what_scalars_give(text: str) -> None:
    tree = parse(text, NS)
    random = np.random.default_rng(4)
    arrays = {s.name: random.uniform(0.05, 0.95, 7) for s in tree.free_symbols}
    table = {n: getattr(torch, n) for n in ("sin", "cos", "exp", "log", "sqrt", "abs", "sign")}
    table |= {"erf": torch.erf, "atan": torch.atan, "sech": lambda a: 1 / torch.cosh(a)}
    table |= {
        "where": torch.where,
        "max": lambda a, b: torch.maximum(torch.as_tensor(a), torch.as_tensor(b)),
        "min": lambda a, b: torch.minimum(torch.as_tensor(a), torch.as_tensor(b)),
    }
    together = evaluate(tree, arrays)
    tensors = evaluate(tree, {k: torch.as_tensor(v) for k, v in arrays.items()}, table)
    for i in range(7):
        alone = evaluate(tree, {k: float(v[i]) for k, v in arrays.items()})
        assert together[i] == pytest.approx(alone, rel=1e-13)
        assert float(tensors[i]) == pytest.approx(alone, rel=1e-13)


def test_single_precision_stays_single() -> None:
    # Exact fractions become Python floats, which do not promote an array.
    value = evaluate(parse("u/3 + pi*u^2", NS), {"u": np.ones(3, dtype=np.float32)})
    assert value.dtype == np.float32


def test_common_parts_are_computed_once() -> None:
    calls = []
    table = {"sin": lambda a: calls.append(1) or np.sin(a)}
    evaluate(parse("sin(x)^2 + u*sin(x) + exp(0)*sin(x)", NS), {"x": np.ones(2), "u": 1.0}, table)
    assert len(calls) == 1


def test_foreign_nodes_are_refused() -> None:
    with pytest.raises(TypeError, match="gamma"):
        evaluate(sympy.gamma(sympy.Symbol("x", real=True)), {"x": 1.0})
    with pytest.raises(KeyError):
        evaluate(parse("u + x", NS), {"u": 1.0})


@pytest.mark.parametrize("text", TREES)
def test_text_round_trip(text: str) -> None:
    tree = parse(text, NS)
    assert parse(to_text(tree), NS) == tree


def test_python_residual_becomes_a_tree() -> None:
    equation = Equation.from_callable(
        lambda v: v.u_t + v.u * v.u_x - v.nu * v.u_xx + 0.5 * v.sin(v.x), NS
    )
    expected = Equation("u_t + u*u_x - nu*u_xx + 0.5*sin(x) = 0", NS)
    assert equation.derivatives == expected.derivatives
    at = {"u": 1.0, "u_t": 2.0, "u_x": 3.0, "u_xx": 4.0, "nu": 5.0, "x": 6.0}
    assert equation.residual(at) == pytest.approx(expected.residual(at), rel=1e-14)


def test_python_residual_on_tensors_only() -> None:
    def residual(v):  # noqa: ANN001, ANN202
        return v.u_tx - torch.where(v.u > 0, v.u_xx, v.v)

    equation = Equation.from_callable(residual, NS)
    assert equation.tree is None
    assert equation.derivatives == {
        "u": frozenset({(0, 0, 0), (1, 0, 1), (2, 0, 0)}),
        "v": frozenset({(0, 0, 0)}),
    }
    at = {"u": torch.ones(2), "u_xt": 2 * torch.ones(2), "u_xx": torch.ones(2), "v": torch.ones(2)}
    assert torch.equal(equation.residual(at), torch.ones(2))


def test_python_where_is_traced() -> None:
    equation = Equation.from_callable(lambda v: v.where(v.x < 0, v.u, v.u_x), NS)
    assert equation.tree == parse("where(x < 0, u, u_x)", NS)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda v: v.u_tz, "derivatives of u"),
        (lambda v: v.w, "undeclared name 'w'"),
        (lambda v: v.u_xxxxxxxxx, "order 9"),
        (lambda v: math.sin("x"), "fails on tensors"),
    ],
)
def test_python_residuals_that_fail_say_why(function: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Equation.from_callable(function, NS)  # type: ignore[arg-type]


def test_problems_do_not_import_torch() -> None:
    code = (
        "import sys; from residua.problems import registry; "
        "[registry.get(n).parities() for n in registry.names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
