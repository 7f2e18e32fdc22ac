"""Functions given by data: values and derivatives against closed forms, and what expressions do."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.errors import ConfigurationError
from residua.problems import Problem
from residua.problems.equation import Equation, evaluate, parse, to_text
from residua.problems.given import GivenCall, Series, Spline

EPS = np.finfo(float).eps


def derivative(function, x, order=0):
    """Of a function of one argument."""
    return function.at([x], [order])


def problem_with(functions, equation="u_t = u_xx", start="u0(x)", bounds=(-1, 1)) -> Problem:
    return Problem.from_mapping(
        {
            "coordinates": {"x": list(bounds), "t": [0, 1]},
            "fields": ["u"],
            "functions": functions,
            "equations": [equation],
            "conditions": [{"where": "t = 0", "u": start}, {"periodic": "x"}],
        }
    )


def closed_form(cosines, sines, period, x, order):
    """The oracle: one term after the other, differentiated by hand."""
    low, high = period
    total = np.zeros_like(x)
    for k, (a, b) in enumerate(zip(cosines, sines, strict=True)):
        wave = 2 * math.pi * k / (high - low)
        turn = wave * (x - low) + order * math.pi / 2
        total += wave**order * (a * np.cos(turn) + b * np.sin(turn)) if k or not order else 0.0
    return total


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("modes", [1, 2, 31, 32, 33, 64, 150])
def test_series_is_its_terms(modes, order, rng):
    cosines, sines = rng.normal(size=(2, modes)) / (1 + np.arange(modes)) ** 2
    period, x = (-0.7, 1.9), rng.uniform(-3, 4, 200)
    found = derivative(Series("f", cosines - 1j * sines, period), x, order)
    wanted = closed_form(cosines, sines, period, x, order)
    size = np.abs(closed_form(np.abs(cosines), np.abs(sines), period, x, order)).max() + 1
    wave = 2 * math.pi * modes / (period[1] - period[0])
    largest = np.sum((np.abs(cosines) + np.abs(sines)) * wave**order)
    assert np.abs(found - wanted).max() <= 2e3 * EPS * (size + largest)
    # Wrong twin: the sign of the sines.
    if modes > 1:
        wrong = derivative(Series("f", cosines + 1j * sines, period), x, order)
        assert np.abs(wrong - wanted).max() > 1e-2


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 90), order=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_interpolation_gives_band_limited_functions_back(n, order, seed):
    random = np.random.default_rng(seed)
    modes = (n - 1) // 2 + 1  # below the highest that n samples hold
    cosines, sines = random.normal(size=(2, modes))
    sines[0] = 0.0
    period = (-1.0, 2.5)
    nodes = period[0] + 3.5 * np.arange(n) / n
    found = Series.of_samples("f", closed_form(cosines, sines, period, nodes, 0), period)
    x = random.uniform(*period, 50)
    wanted = closed_form(cosines, sines, period, x, order)
    largest = (2 * math.pi * modes / 3.5) ** order * np.abs([cosines, sines]).sum()
    assert np.abs(derivative(found, x, order) - wanted).max() <= 500 * EPS * largest


def test_one_mode_more_than_the_samples_hold_is_aliased():
    n = 16
    nodes = np.arange(n) / n
    high = Series.of_samples("f", np.cos(2 * np.pi * 9 * nodes), (0, 1))
    low = Series("f", np.eye(1, 8, 7)[0], (0, 1))  # 9 is seen as 16 - 9
    x = np.linspace(0, 1, 101)
    assert np.allclose(high(x), low(x), atol=1e-13)
    assert not np.allclose(high(x), np.cos(2 * np.pi * 9 * x), atol=0.1)


def test_the_highest_mode_of_an_even_number_of_samples_is_a_cosine():
    found = Series.of_samples("f", [1.0, -1.0, 1.0, -1.0], (0, 1))
    assert found(0.25) == pytest.approx(-1) and found(0.125) == pytest.approx(0, abs=1e-15)


def test_rounding_of_samples_is_not_raised_by_derivatives():
    x = -1 + 2 * np.arange(512) / 512
    found = Series.of_samples("f", np.sin(np.pi * x), (-1, 1))
    points = np.linspace(-1, 1, 999)
    assert np.abs(derivative(found, points, 4) - np.pi**4 * np.sin(np.pi * points)).max() < 1e-11


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("order", range(5))
def test_spline_converges_at_its_order(order, uneven):
    """Order 6 - m for the derivative of order m."""
    points = np.linspace(0, 2, 4001)
    x = sympy.Symbol("x")
    exact = sympy.lambdify(x, sympy.diff(sympy.exp(sympy.sin(3 * x)), x, order))(points)
    errors = []
    for n in (65, 129, 257):
        s = np.linspace(0, 2, n)
        s = s + (0.2 * np.sin(np.pi * s) if uneven else 0.0)
        spline = Spline("f", [s], np.exp(np.sin(3 * s)))
        errors.append(np.abs(derivative(spline, points, order) - exact).max())
    rate = math.log2(errors[1] / errors[2])
    assert 6 - order - 0.3 < rate < 6 - order + 0.6
    assert errors[2] < errors[1] < errors[0]


def test_spline_passes_through_its_samples_and_is_smooth_to_order_four(rng):
    x = np.sort(rng.uniform(0, 1, 40))
    values = rng.normal(size=40)
    spline = Spline("f", [x], values)
    assert np.abs(spline(x) - values).max() < 1e-10 * np.abs(values).max()
    inner = spline.axes[0].breaks[1:]
    for order in range(5):
        scale = np.abs(derivative(spline, np.linspace(x[0], x[-1], 2000), order)).max()
        below = derivative(spline, np.nextafter(inner, -1), order)
        jump = np.abs(derivative(spline, inner, order) - below).max()
        assert jump <= 1e-9 * scale
    # Wrong twin: the fifth derivative does jump, and is not given.
    middles = (inner[1:] + inner[:-1]) / 2
    slopes = np.diff(derivative(spline, inner, 4)) / np.diff(inner)
    assert np.abs(np.diff(slopes)).max() > 1e-3 * np.abs(slopes).max()
    assert np.isnan(derivative(spline, middles, 5)).all()


def test_polynomials_of_degree_five_are_met_to_rounding():
    x = np.array([0, 0.3, 0.5, 1.1, 1.2, 1.9, 2.0])
    spline = Spline("f", [x], x**5 - 2 * x**3 + 1)
    points = np.linspace(0, 2, 101)
    assert np.abs(derivative(spline, points, 4) - 120 * points).max() < 1e-9


def test_nothing_is_said_outside_the_samples():
    spline = Spline("f", [np.linspace(0, 1, 9)], np.arange(9.0))
    assert np.isnan(spline([-1e-3, 1 + 1e-3])).all()
    assert np.isfinite(spline([-1e-12, 1 + 1e-12])).all(), "rounding of an end is no step outside"


def test_straight_lines_go_on_from_the_ends():
    x = np.linspace(0, 1, 9)
    spline = Spline("f", [x], np.exp(x), straight=True)
    beyond = np.array([-2.0, 1.5])
    ends, slopes = spline([0.0, 1.0]), derivative(spline, [0.0, 1.0], 1)
    assert np.allclose(spline(beyond), ends + slopes * [-2.0, 0.5], rtol=1e-14)
    assert np.allclose(derivative(spline, beyond, 1), slopes)
    assert not derivative(spline, beyond, 2).any()
    inside = np.linspace(0, 1, 50)
    for order in range(5):
        plain = derivative(Spline("f", [x], np.exp(x)), inside, order)
        assert np.array_equal(derivative(spline, inside, order), plain)
    assert spline != Spline("f", [x], np.exp(x))


# In expressions
# ----------------------------------------------------------------------------------------


X_NODES, T_NODES = np.linspace(-1, 1, 21), np.linspace(0, 1, 17) ** 1.2


def grid(function):
    """Rows (x, t, value) in a random order."""
    x, t = (column.ravel() for column in np.meshgrid(X_NODES, T_NODES))
    rows = np.stack([x, t, function(x, t)], axis=1)
    return np.random.default_rng(0).permutation(rows)


def smooth(name="u0"):
    return Series(name, [0.5, 0.3 - 0.2j, 0.1j], (-1, 1))


def test_expressions_differentiate_by_the_chain_rule(rng):
    problem = problem_with({"u0": {"series": [[0, 0.5], [1, 0.3], [2, -0.1]], "period": [-1, 1]}})
    names = problem.namespace
    tree = parse("d(x*u0(x^2 + t), x, t)", names)
    x, t = rng.uniform(-1, 1, (2, 50))
    f = problem.functions[0]
    s = x**2 + t
    wanted = derivative(f, s, 1) + 2 * x**2 * derivative(f, s, 2)
    assert np.allclose(evaluate(tree, {"x": x, "t": t}), wanted, atol=1e-13)
    assert not np.allclose(evaluate(tree, {"x": x, "t": t}), derivative(f, s, 1), atol=1e-3), (
        "the twin"
    )
    assert parse("u0(x, 2)", names) == parse("d(u0(x), x, x)", names)
    assert float(parse("u0(1/4)", names)) == pytest.approx(float(f(0.25)))


def test_fields_as_arguments_are_differentiated_too():
    names = problem_with({"u0": {"series": [[1, 1.0]], "period": [-1, 1]}}).namespace
    assert parse("d(u0(u), x)", names) == parse("u0(u, 1)*u_x", names)


@pytest.mark.parametrize(
    "text", ["u0(x)", "2*u0(x - t, 3)^2/x", "sin(u0(2*x))", "where(x < 0, u0(x), 1)", "u0(u0(x))"]
)
def test_text_reads_back(text):
    names = problem_with({"u0": {"series": [[1, 1.0]], "period": [-1, 1]}}).namespace
    tree = parse(text, names)
    assert tree.has(GivenCall)
    assert parse(to_text(tree), names) == tree


def test_equal_numbers_make_equal_functions_and_no_others():
    assert smooth() == smooth() and hash(smooth()) == hash(smooth())
    assert smooth() != smooth("v0")
    assert smooth() != Series("u0", [0.5, 0.3 - 0.2j, 0.1000001j], (-1, 1))
    assert smooth() != Series("u0", [0.5, 0.3 - 0.2j, 0.1j], (-1, 1.5))
    x = sympy.Symbol("x", real=True)
    assert GivenCall.of(smooth(), [x]) == GivenCall.of(smooth(), [x])
    assert GivenCall.of(smooth(), [x]) != GivenCall.of(smooth("v0"), [x])


def test_a_problem_reads_back_from_its_plain_values(rng):
    functions = {
        "u0": {"samples": rng.normal(size=12), "period": [-1, 1], "description": "a wave"},
        "q": {"samples": np.stack([np.linspace(-1, 1, 7), rng.normal(size=7)], 1)},
    }
    problem = problem_with(functions, "u_t = (2 + q(x))*u_xx")
    again = Problem.from_mapping(problem.to_mapping(), name=problem.name)
    assert again == problem and again.functions == problem.functions
    assert again.functions[0].description == "a wave"
    other = problem.to_mapping()
    other["functions"]["q"]["samples"][3][1] += 1e-12
    assert Problem.from_mapping(other, name=problem.name) != problem


def test_python_residuals_call_them():
    functions = {"q": {"series": [[0, 1.0], [1, 0.5]], "period": [-1, 1]}}
    names = problem_with(functions, "u_t = q(x)*u_xx", "0").namespace
    equation = Equation.from_callable(lambda v: v.u_t - v.q(v.x) * v.u_xx, names)
    assert equation.tree == Equation("u_t = q(x)*u_xx", names).tree


def test_an_unused_function_is_noted():
    from residua.problems.notes import problem_notes

    problem = problem_with({"u0": {"series": [[1, 1.0]], "period": [-1, 1]}}, start="sin(pi*x)")
    assert problem.unused == ("u0",)
    assert "the function 'u0' is used nowhere" in problem_notes(problem)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("u0", "'u0' is a function"),
        ("u0(x, t)", "orders of a derivative"),
        ("u0(x, 9)", "a derivative of order 9 of u0"),
        ("u0(x, -1)", "orders of a derivative"),
        ("g(x)", "write g(x, y), or g(x, y, 2, 0)"),
        ("g(x, t, 1)", "has 3 arguments"),
        ("g(0, 3)", "sampled from -1 to 1 and from 0 to 1 and asked for at 0, 3"),
        ("u0(x, 1, 1)", "has 3 arguments"),
        ("sx(x)", "unknown function 'sx'"),
        ("s(x, 5)", "at most 4"),
        ("d(s(x), x, x, x, x, x)", "at most 4"),
        ("s(3)", "sampled from -1 to 1"),
    ],
)
def test_misuse_in_an_expression_is_refused(text, says):
    line = np.stack([np.linspace(-1, 1, 9), np.arange(9.0)], 1)
    functions = {"u0": {"series": [[1, 1.0]], "period": [-1, 1]}, "s": {"samples": line}}
    functions["g"] = {"samples": grid(lambda x, t: x * t)}
    names = problem_with(functions).namespace
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        parse(text, names)


@pytest.mark.parametrize(
    ("equation", "start", "says"),
    [
        ("u_t = s(2*x)*u_xx", "0", "s is sampled from -1 to 1, and s(2*x) asks for"),
        ("u_t = u_xx", "s(x + 0.1)", "asks for 1.1 at x = 1"),
        ("u_t = s(u)*u_xx", "0", "the values of a field in s(u) may leave that range"),
        ("u_t = u_xx + g(x, 2*t)", "0", "g is sampled from -1 to 1 and from 0 to 1"),
        ("u_t = u_xx + g(x, t)", "g(x, 1/2)", None),
        ("u_t = s(t)*u_xx", "s(x)", None),
        ("u_t = d((2 + k(u))*u_x, x)", "k(3*x)", None),
        ("u_t = u_xx", "s(t + x - 1e-13)", None),
    ],
)
def test_samples_must_cover_what_is_asked(equation, start, says):
    line = np.stack([np.linspace(-1, 1, 9), np.ones(9)], 1)
    functions = {"s": {"samples": line}, "k": {"samples": line, "beyond": "straight"}}
    functions["g"] = {"samples": grid(lambda x, t: x * t)}
    if says is None:
        problem = problem_with(functions, equation, start)
        assert Problem.from_mapping(problem.to_mapping(), name=problem.name) == problem
        return
    with pytest.raises(ConfigurationError) as caught:
        problem_with(functions, equation, start)
    assert says in str(caught.value)
    assert caught.value.path[0] in ("equations", "conditions")


# Several arguments
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (0, 2), (2, 1), (2, 2)])
def test_a_grid_converges_at_the_order_of_its_worse_derivative(orders, rng):
    x, t = sympy.symbols("x t")
    formula = sympy.exp(sympy.sin(2 * x) * t) + sympy.cos(3 * t)
    exact = sympy.diff(formula, (x, orders[0]), (t, orders[1]))
    points = rng.uniform([0, 0], [1, 2], (2000, 2)).T
    wanted = sympy.lambdify((x, t), exact)(*points)
    errors = []
    for n in (33, 65, 129):
        axes = np.linspace(0, 1, n), np.linspace(0, 2, n)
        values = sympy.lambdify((x, t), formula)(*np.meshgrid(*axes, indexing="ij"))
        errors.append(np.abs(Spline("f", axes, values).at(points, orders) - wanted).max())
    rate = math.log2(errors[1] / errors[2])
    assert 6 - max(orders) - 0.5 < rate < 6 - max(orders) + 0.9


def test_three_arguments_and_exact_polynomials(rng):
    axes = [np.sort(rng.uniform(0, 1, n)) for n in (6, 8, 7)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    spline = Spline("f", axes, x**5 * y**3 - z**4 * y)
    low, high = np.array(spline.extents).T
    a, b, c = rng.uniform(low, high, (50, 3)).T
    assert np.abs(spline(a, b, c) - (a**5 * b**3 - c**4 * b)).max() < 1e-9
    assert np.abs(spline.at([a, b, c], [0, 1, 2]) + 12 * c**2).max() < 1e-5
    assert np.isnan(spline(a, b, high[2] + 0.1)).all()


def test_grids_read_back_in_any_order_of_rows():
    problem = problem_with(
        {"g": {"samples": grid(lambda x, t: np.exp(x * t))}}, "u_t = g(x, t)*u_xx", "0"
    )
    function = problem.functions[0]
    assert isinstance(function, Spline) and function.arity == 2
    assert Problem.from_mapping(problem.to_mapping(), name=problem.name) == problem
    x, t = np.random.default_rng(1).uniform([-1, 0], [1, 1], (50, 2)).T
    assert np.abs(function(x, t) - np.exp(x * t)).max() < 1e-7
    assert np.abs(function(t, x) - np.exp(x * t)).max() > 0.1 or np.isnan(function(t, x)).any()
    tree = parse("d(g(x, t)*t, x, t)", problem.namespace)
    wanted = np.exp(x * t) * (2 * t + x * t**2)
    assert np.abs(evaluate(tree, {"x": x, "t": t}) - wanted).max() < 1e-4
    assert parse(to_text(tree), problem.namespace) == tree
    assert parse("g(x, t, 1, 0)", problem.namespace) == parse("d(g(x, t), x)", problem.namespace)
