"""Names, jets, and the total derivative against SymPy's own functions of several variables."""

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.errors import ConfigurationError
from residua.problems.equation import Namespace, parse

NS = Namespace(("x", "t"), ("u", "v"), ("nu",), time="t")


def as_functions(tree: sympy.Expr, namespace: Namespace) -> sympy.Expr:
    """The oracle: fields as sympy.Function of the coordinates, derivatives as sympy.Derivative."""
    coordinates = [sympy.Symbol(c, real=True) for c in namespace.coordinates]
    values = {}
    for symbol, (field, index) in namespace.jets(tree).items():
        value = sympy.Function(field)(*coordinates)
        for coordinate, order in zip(coordinates, index, strict=True):
            value = value.diff(coordinate, order) if order else value
        values[symbol] = value
    return tree.xreplace(values)


TEXTS = [
    "u*u_x",
    "nu*u_xx + x*t*u",
    "sin(u*v)*exp(x*u_t)",
    "u^3/(1 + v_x^2)",
    "sqrt(1 + u_x^2 + v_t^2)",
    "x^2*cos(pi*x)",
    "tanh(u_xt) - u_tt*v",
]


@pytest.mark.parametrize("coordinate", ["x", "t"])
@pytest.mark.parametrize("text", TEXTS)
def test_total_derivative_equals_differentiation_of_functions(text: str, coordinate: str) -> None:
    tree = parse(text, NS)
    by = sympy.Symbol(coordinate, real=True)
    derived = as_functions(NS.total_derivative(tree, coordinate), NS)
    expected = as_functions(tree, NS).diff(by)
    assert sympy.expand(derived - expected) == 0
    # Wrong twin: the partial derivative alone forgets that fields depend on the coordinate.
    if NS.jets(tree):
        assert sympy.expand(as_functions(tree.diff(by), NS) - expected) != 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.sampled_from(TEXTS))
def test_total_derivatives_commute(text: str) -> None:
    tree = parse(text, NS)
    one = NS.total_derivative(NS.total_derivative(tree, "x"), "t")
    two = NS.total_derivative(NS.total_derivative(tree, "t"), "x")
    assert sympy.expand(one - two) == 0


def test_spelling_of_mixed_derivatives_is_canonical() -> None:
    assert NS.symbol("u_tx") == NS.symbol("u_xt") == NS.jet("u", (1, 1))
    assert NS.jet("u", (1, 1)).name == "u_xt"
    assert NS.derivative("u_txx") == ("u", (2, 1))
    assert NS.derivative("u_z") is None and NS.derivative("w_x") is None
    assert NS.symbol("u_x") != NS.symbol("v_x")


def test_long_coordinate_names() -> None:
    ns = Namespace(("r", "theta", "t"), ("u",), time="t")
    assert ns.derivative("u_ttheta") == ("u", (0, 1, 1))
    assert ns.derivative("u_thetat") == ("u", (0, 1, 1))
    assert ns.derivative("u_theta") == ("u", (0, 1, 0))
    assert ns.derivative("u_th") is None
    ns = Namespace(("x1", "x2"), ("u",))
    assert ns.derivative("u_x1x2x1") == ("u", (2, 1))


def test_fields_with_underscores() -> None:
    ns = Namespace(("x",), ("u", "u_1"), ())
    assert ns.derivative("u_1_x") == ("u_1", (1,))
    assert ns.derivative("u_x") == ("u", (1,))


@pytest.mark.parametrize(
    "coordinates",
    [("x", "xx"), ("x", "t", "xt"), ("a", "ab", "ba"), ("x", "xy", "y"), ("a", "b", "abb")],
)
def test_ambiguous_coordinates_are_refused(coordinates: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="read in two ways"):
        Namespace(coordinates, ("u",))


@pytest.mark.parametrize("coordinates", [("t", "theta"), ("x", "x1"), ("ab", "b"), ("x", "y", "z")])
def test_decodable_coordinates_are_not(coordinates: tuple[str, ...]) -> None:
    Namespace(coordinates, ("u",))


@pytest.mark.parametrize(
    ("arguments", "path", "words"),
    [
        ((("x",), ("u", "u")), ("fields", 1), "declared twice"),
        ((("x",), ("x",)), ("fields", 0), "declared twice"),
        ((("x",), ("u",), ("u",)), ("parameters", "u"), "declared twice"),
        ((("x",), ("u", "u_x")), ("fields", 1), "derivative of u"),
        ((("x",), ("u",), ("u_n",)), ("parameters", "u_n"), "derivative of u"),
        ((("n",), ("u",)), ("coordinates", "n"), "outward normal"),
        ((("x",), ("sin",)), ("fields", 0), "taken"),
        ((("x",), ("u",), ("pi",)), ("parameters", "pi"), "taken"),
        ((("x",), ("u",), ("lambda",)), ("parameters", "lambda"), "reserved word"),
        ((("x",), ("u",), ("\u03bd",)), ("parameters", "\u03bd"), "usable name"),
        ((("x",), ("__u",)), ("fields", 0), "usable name"),
        ((("x",), ("u v",)), ("fields", 0), "usable name"),
        ((("x",), (3,)), ("fields",), "must be text"),
    ],
)
def test_unusable_names(arguments: tuple, path: tuple, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        Namespace(*arguments)
    assert caught.value.path == path and caught.value.advice
