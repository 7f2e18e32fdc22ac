"""Steady problems: branches, resonances, layers, and rectangles solved coordinate by coordinate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_bvp
from scipy.optimize import brentq

from residua.problems import Problem
from residua.problems.references import ReferenceUnavailable, build
from residua.problems.references.automatic import applicable
from residua.problems.references.methods import NewtonCollocation
from residua.problems.references.system import System

sys.path.insert(0, str(Path(__file__).parent))
try:
    from exact_cases import RING, WALLS, Function, distance, posed, scattered
finally:
    sys.path.pop(0)


# -- steady nonlinear problems --------------------------------------------------------------------


def test_bratu() -> None:
    """u'' + e^u = 0: u = 2 log(cosh c / cosh(c (1 - 2 x))) with cosh c = sqrt(8) c."""
    reference = build(posed("u_xx + exp(u) = 0", [WALLS], x=[0, 1]))
    x = np.linspace(0, 1, 50)

    def branch(low: float, high: float) -> np.ndarray:
        c: Any = brentq(lambda v: np.cosh(v) - np.sqrt(8) * v, low, high)
        return 2 * np.log(np.cosh(c) / np.cosh(c * (1 - 2 * x)))

    np.testing.assert_allclose(reference(x[:, None])[:, 0], branch(0.1, 1.0), atol=1e-11)
    # The other solution is another one.
    assert np.abs(reference(x[:, None])[:, 0] - branch(1.0, 5.0)).max() > 1


def test_where_the_solutions_end_newton_stops() -> None:
    """u'' = u^2 + F sin(pi x) has no solution beyond a load F; the path to it is F itself.

    Continuation multiplies the load by s, so that for every load too large it stops at the same F.
    """

    def pulled(load: float) -> Problem:
        return posed(f"u_xx = u^2 + {load}*sin(pi*x)", [WALLS], x=[0, 1])

    ends = []
    for load in (35.0, 60.0):
        with pytest.raises(ReferenceUnavailable, match="there may be none, or several") as caught:
            build(pulled(load), resolution=24)
        ends.append(load * float(str(caught.value).split("stopped at ")[1].split()[0]))
    assert ends[0] == pytest.approx(ends[1], rel=0.01)
    load = 0.97 * ends[0]
    reference = build(pulled(load))
    x = np.linspace(0, 1, 41)
    independent = solve_bvp(
        lambda s, y: np.stack([y[1], y[0] ** 2 + load * np.sin(np.pi * s)]),
        lambda a, b: np.array([a[0], b[0]]),
        x, np.stack([-3 * np.sin(np.pi * x), 0 * x]), tol=1e-10, max_nodes=20000,
    )  # fmt: skip
    assert independent.success
    np.testing.assert_allclose(reference(x[:, None])[:, 0], independent.sol(x)[0], atol=1e-8)


def test_newton_through_an_interior_layer() -> None:
    """A layer of width 0.14 against the first integral: 0.01 u_x^2 - u^2/2 + u^4/4 is constant."""
    case = posed(
        "0.02*u_xx + u - u^3 = 0", [{"where": "x = 0", "u": -1}, {"where": "x = 1", "u": 1}],
        x=[0, 1],
    )  # fmt: skip
    reference = build(case)
    h, x = 1e-3, np.linspace(0.1, 0.9, 33)
    stencil = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * h)
    around = reference((x[:, None] + h * np.arange(-3, 4)).reshape(-1, 1)).reshape(33, 7)
    u, slope = around[:, 3], around @ stencil
    energy = 0.01 * slope**2 + u**2 / 2 - u**4 / 4
    assert np.ptp(energy) < 1e-9
    assert np.ptp(0.0101 * slope**2 + u**2 / 2 - u**4 / 4) > 1e-3
    np.testing.assert_allclose(u, -u[::-1], atol=1e-9)


def test_a_nonlinear_steady_problem_says_that_there_may_be_others() -> None:
    """u = 0 solves 0.01 u'' + u - u^3 = 0, and so do seven others."""
    note = build(posed("u_xx + exp(u) = 0", [WALLS], x=[0, 1])).note
    assert note.startswith("the steady equation is not linear") and "from u = 0" in note
    trivial = build(posed("0.01*u_xx + u - u^3 = 0", [WALLS], x=[0, 1])).note
    assert trivial.startswith("warning: the reference is u = 0")
    assert build(posed("u_xx = exp(x)", [WALLS], x=[0, 1])).note == ""
    assert build(posed("u_xx = u_x*x", [WALLS], x=[0, 1])).note == ""


@pytest.mark.parametrize("away", ["1e-3", "1e-5", "1e-6", "1e-9"])
def test_near_a_resonance_the_bar_grows_with_the_condition(
    away: str, rng: np.random.Generator
) -> None:
    """u'' + (pi^2 + d) u = f for sin(pi x) + sin(2 pi x): rounding is amplified by 1/d."""
    case = posed(
        f"u_xx + (pi^2 + {away})*u = {away}*sin(pi*x) + ({away} - 3*pi^2)*sin(2*pi*x)", [WALLS],
        x=[0, 1],
    )  # fmt: skip
    reference, points = build(case), rng.random((2000, 1))
    error = distance(reference, lambda p: np.sin(np.pi * p) + np.sin(2 * np.pi * p), points)[0]
    assert error <= reference.error_bar["u"] < 1e-12 / float(away) + 1e-9


def test_closer_to_a_resonance_it_is_called_ill_conditioned() -> None:
    with pytest.raises(ReferenceUnavailable, match="ill-conditioned"):
        build(posed("u_xx + (pi^2 + 1e-10)*u = sin(2*pi*x)", [WALLS], x=[0, 1]))


# -- rectangles without the large matrix ----------------------------------------------------------

RECTANGLES: dict[str, tuple[Problem, Function]] = {
    "all kinds of conditions": (
        posed(
            "u_xx + 2*u_yy + u_x + 3*u = 7*exp(x + y)",
            [
                {"where": "x = 0", "u": "exp(y)"},
                {"where": "x = 1", "equation": "u_x + 2*u = 3*exp(1 + y)"},
                {"where": "y = 0", "u_y": "exp(x)"},
                {"where": "y = 1", "u": "exp(x + 1)"},
            ],
            x=[0, 1], y=[0, 1],
        ),
        lambda p: np.exp(p[:, :1] + p[:, 1:]),
    ),
    "one coordinate periodic": (
        posed(
            "lap(u) - u = -4*pi^2*sin(2*pi*x)*exp(y)",
            [RING, {"where": "y = 0", "u": "sin(2*pi*x)"},
             {"where": "y = 1", "u": "e*sin(2*pi*x)"}],
            x=[0, 1], y=[0, 1],
        ),
        lambda p: np.sin(2 * np.pi * p[:, :1]) * np.exp(p[:, 1:]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECTANGLES)
def test_rectangles_are_solved_coordinate_by_coordinate(
    name: str, rng: np.random.Generator
) -> None:
    case, exact = RECTANGLES[name]
    method = NewtonCollocation(System(case))
    assert method.name.endswith("Sylvester")
    points = scattered(case, rng)
    i = method.space.index(17)
    assert distance(method.solve(i, 0, np.inf), exact, points) < 1e-9
    method.tensor = None  # the large matrix, and the corners it decides otherwise
    assert distance(method.solve(i, 0, np.inf), exact, points) < 1e-9
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(build(case)(corners), exact(corners), atol=1e-9)


def test_other_steady_problems_keep_the_large_matrix() -> None:
    for equation in ("u_xx + u_yy + u_xy = 1", "lap(u) + x*u = 1", "lap(u) = u^2 + 1"):
        case = posed(equation, [WALLS], x=[0, 1], y=[0, 1])
        assert applicable(System(case))[0][0].name == "Newton-Chebyshev"
