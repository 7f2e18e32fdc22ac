"""From a problem to a reference: every way in, every refusal, and the price list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from residua.config import make_case
from residua.errors import ConfigurationError
from residua.problems import Problem, registry
from residua.problems.references import Reference, ReferenceUnavailable, build
from residua.problems.references.automatic import Automatic, applicable
from residua.problems.references.methods import (
    FourierETDRK4,
    RadauCollocation,
)
from residua.problems.references.reference import pareto, seconds_to
from residua.problems.references.system import System

sys.path.insert(0, str(Path(__file__).parent))
try:
    from exact_cases import (
        KNOWN,
        RING,
        TORUS,
        WALLS,
        burgers,
        distance,
        posed,
        scattered,
        start,
        walls,
    )
finally:
    sys.path.pop(0)

HEAT = posed("u_t = u_xx", [start(u="sin(pi*x)"), WALLS], x=[0, 1], t=[0, 0.2])


# -- methods agree with each other and with independent codes --------------------------------------

FEED = ["u_t = 1e-2*lap(u) - u*v^2 + 0.04*(1 - u)", "v_t = 5e-3*lap(v) + u*v^2 - 0.1*v"]
PULSE = "exp(-3*sin(pi*x/2)^2)"

# name: problem, and a coefficient of its first equation and a wrong value of it
TWO_METHODS: dict[str, tuple[Problem, str, str]] = {
    "BBM": (
        posed(
            "u_t + u_x + u*u_x - u_xxt = 0", [start(u="0.5*exp(-x^2) + 0.2*cos(pi*x/8)"), RING],
            x=[-8, 8], t=[0, 2],
        ),
        "u*u_x", "1.01*u*u_x",
    ),
    "Gray-Scott, ring": (
        posed(
            FEED, [start(u=f"1 - 0.5*{PULSE}", v=f"0.25*{PULSE}"), RING],
            fields="uv", x=[-1, 1], t=[0, 5],
        ),
        "u*v^2", "1.01*u*v^2",
    ),
    "Gray-Scott, walls": (
        posed(
            FEED,
            [start(u="1 - 0.2*(1 + cos(pi*x))", v="0.1*(1 + cos(pi*x))"), walls(u_n=0, v_n=0)],
            fields="uv", x=[0, 1], t=[0, 5],
        ),
        "0.04", "0.0404",
    ),
    "first-order system": (
        posed(
            ["u_t = v_x", "v_t = u_x"], [start(u="sin(pi*x)", v=0), WALLS], fields="uv",
            x=[0, 1], t=[0, 1],
        ),
        "v_x", "1.01*v_x",
    ),
    "hinged beam": (
        posed(
            "u_tt + 0.1*u_xxxx = 0", [start(u="sin(pi*x)", u_t=0), walls(u=0, u_xx=0)],
            x=[0, 1], t=[0, 1],
        ),
        "0.1", "0.101",
    ),
    "forced in time": (
        posed(
            "u_t + u*u_x = 0.2*u_xx + sin(3*t)*cos(x)", [start(u="cos(x)"), RING],
            x=[0, "2*pi"], t=[0, 1],
        ),
        "sin(3*t)", "sin(3.03*t)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO_METHODS)
def test_fourier_and_collocation_agree(name: str, rng: np.random.Generator) -> None:
    """Two discretisations and two integrators that share no formula."""
    case, right, wrong = TWO_METHODS[name]
    method = RadauCollocation(System(case))
    # Fourth derivatives lose digits on many Chebyshev nodes.
    nodes = 16 if name == "hinged beam" else 49
    second = method.solve(method.space.index(nodes), 4, np.inf)
    points = scattered(case, rng)
    first = build(case, target=1e-6)
    linear = name in ("first-order system", "hinged beam")
    assert first.method.startswith("Fourier, exact in time" if linear else "Fourier ETDRK4")
    close = np.array([first.error_bar[f] for f in case.fields]) + 1e-6
    assert np.all(distance(first, second, points) < close)
    equations = [e.replace(right, wrong) for e in case.to_mapping()["equations"][:1]]
    equations += case.to_mapping()["equations"][1:]
    twin = build(Problem.from_mapping({**case.to_mapping(), "equations": equations}), target=1e-6)
    assert np.any(distance(twin, second, points) > 10 * close)


def test_gray_scott_in_two_dimensions(rng: np.random.Generator) -> None:
    bump = "exp(-2*(sin(pi*x)^2 + sin(pi*y)^2))"
    case = posed(
        FEED, [start(u=f"1 - 0.5*{bump}", v=f"0.25*{bump}"), TORUS],
        fields="uv", x=[0, 1], y=[0, 1], t=[0, 1],
    )  # fmt: skip
    reference = build(case, target=1e-7)
    assert max(reference.error_bar.values()) <= 1e-7
    points = scattered(case, rng)
    # The data are symmetric under exchange of x and y.
    swapped = points[:, [1, 0, 2]]
    assert np.all(distance(reference, lambda p: reference(swapped), points) < 1e-7)
    finer = FourierETDRK4(System(case)).solve(6, 8, np.inf)
    assert np.all(distance(reference, finer, points) < 1e-7)
    later = points + [0.0, 0.0, 1e-3]
    assert np.all(distance(reference, lambda p: finer(later), points) > 1e-6)


def test_a_mirrored_box_and_the_collocated_box_are_one(rng: np.random.Generator) -> None:
    """Heat between a held and an insulated pair of walls, the walls in either coordinate."""
    case = KNOWN["heat on a square"]
    points = scattered(case.problem, rng)
    for method, i, j in ((FourierETDRK4, 4, 7), (RadauCollocation, 2, 3)):
        solution = method(System(case.problem)).solve(i, j, np.inf)
        assert distance(solution, case.exact, points) < 1e-7
        turned = points[:, [1, 0, 2]]
        assert distance(lambda p, s=solution, q=turned: s(q), case.exact, points) > 0.1


def test_names_tell_the_method() -> None:
    for name, method in (
        ("one coordinate periodic, one between walls",
         "Chebyshev and Fourier collocation + Radau IIA(13)"),
        ("clamped plate", "Newton-Chebyshev"),
        ("rotation, ordinary equations", "Radau IIA(13)"),
        ("wave, mirrored Fourier", "Fourier, exact in time, mirrored at the walls"),
        ("advection on a torus", "Fourier, exact in time"),
        ("Schroedinger, two coupled fields", "Fourier ETDRK4"),
    ):  # fmt: skip
        assert applicable(System(KNOWN[name].problem))[0][0].name == method


# -- systems of ordinary equations ----------------------------------------------------------------


def test_lorenz_against_an_independent_integrator() -> None:
    case = posed(
        ["x_t = 10*(y - x)", "y_t = x*(28 - z) - y", "z_t = x*y - 8/3*z"],
        [start(x=1, y=1, z=1)], fields="xyz", t=[0, 10],
    )  # fmt: skip
    reference = build(case)
    assert max(reference.error_bar.values()) < 1e-8

    def lorenz(_: float, v: np.ndarray, rho: float = 28.0) -> list[float]:
        return [10 * (v[1] - v[0]), v[0] * (rho - v[2]) - v[1], v[0] * v[1] - 8 / 3 * v[2]]

    t = np.linspace(0, 10, 400)
    options: dict[str, Any] = {"t_eval": t, "rtol": 1e-13, "atol": 1e-13, "method": "DOP853"}
    independent = solve_ivp(lorenz, (0, 10), [1.0, 1.0, 1.0], **options)
    assert np.all(distance(reference, lambda _: independent.y.T, t[:, None]) < 1e-8)
    wrong = solve_ivp(lambda s, v: lorenz(s, v, 28.001), (0, 10), [1.0, 1.0, 1.0], **options)
    assert np.all(distance(reference, lambda _: wrong.y.T, t[:, None]) > 1e-5)


def test_lotka_volterra_invariant() -> None:
    """d u - c log u + b v - a log v is constant along u_t = a u - b u v, v_t = d u v - c v."""
    case = posed(
        ["u_t = 1.5*u - u*v", "v_t = 0.75*u*v - 2*v"], [start(u=3, v=1)], fields="uv", t=[0, 12]
    )
    u, v = build(case)(np.linspace(0, 12, 2000)[:, None]).T
    invariant = 0.75 * u - 2 * np.log(u) + v - 1.5 * np.log(v)
    assert np.ptp(invariant) < 1e-8 * np.abs(invariant).max()
    assert np.ptp(invariant + 1e-3 * u) > 1e-4 * np.abs(invariant).max()


def test_stiff_ordinary_equation() -> None:
    reference = build(posed("u_t = -1e4*(u - cos(t))", [start(u=2)], t=[0, 3]))
    # cos t + sin(t)/k to the order 1/k^2, long after the first instant.
    expected = np.cos(3.0) + 1e-4 * np.sin(3.0)
    assert reference(np.array([[3.0]]))[0, 0] == pytest.approx(expected, rel=2e-8)
    assert reference(np.array([[0.0]]))[0, 0] == pytest.approx(2.0)


# -- exact ----------------------------------------------------------------------------------------


def test_an_exact_solution_is_checked_against_the_problem() -> None:
    def claimed(formula: str) -> Problem:
        return posed("u_t = u_xx", [start(u="sin(pi*x)"), WALLS], x=[0, 1], t=[0, 1],
                     reference={"exact": {"u": formula}})  # fmt: skip

    reference = build(claimed("exp(-pi^2*t)*sin(pi*x)"))
    assert reference.error_bar["u"] == pytest.approx(8 * np.finfo(float).eps)
    assert reference(np.array([[0.5, 0.0]]))[0, 0] == pytest.approx(1.0)
    for formula, what in (
        ("exp(-pi^2*t)*sin(pi*x) + 1e-3*x*t", "the equation"),
        ("exp(-pi^2*t)*sin(pi*x)*1.001", "the condition '.*largest residual 0.001"),
        ("exp(-pi^2*t)*cos(pi*x)", "the condition '"),
    ):
        with pytest.raises(ReferenceUnavailable, match=what):
            build(claimed(formula))


# -- refusals -------------------------------------------------------------------------------------


def branching(v: Any) -> Any:
    """A residual that only tensors can follow."""
    return v.u_t - torch.where(v.u > 0, v.u_xx, v.u)


SPACE: dict[str, Any] = {"x": [0, 1], "t": [0, 1]}

# name: problem, settings, what is said
REFUSED: dict[str, tuple[Problem, dict[str, Any], str]] = {
    "three coordinates": (
        posed("lap(u) = 1", [WALLS], x=[0, 1], y=[0, 1], z=[0, 1]), {},
        "covers one and two space coordinates and this problem has 3; give an exact",
    ),
    "branches": (
        posed("u_t^2 = u_xx + 2", [start(u="x*(1 - x)"), WALLS], **SPACE), {},
        r"not linear in its highest time derivative \(u_t\).*solve it for that derivative",
    ),
    "a function": (
        posed(branching, [start(u="sin(pi*x)"), WALLS], **SPACE), {},
        "Python function that could not be followed.*write the equation as text",
    ),
    "more equations than fields": (
        posed(
            ["u_t = u_xx", "v = u_x", "v_x = u_t"], [start(u="sin(pi*x)"), WALLS], fields="uv",
            **SPACE,
        ), {},
        "3 equations for 2 fields",
    ),
    "no solution": (
        posed("u_xx = 1", [walls(u_x=0)], x=[0, 1]), {}, "no solution.*sources do not balance",
    ),
    "no solution on a ring": (
        posed("lap(u) = 1 + sin(2*pi*x)", [{"periodic": ["x", "y"]}], x=[0, 1], y=[0, 1]), {},
        "no solution.*sources do not balance",
    ),
    "a mode on a ring": (
        posed("lap(u) = sin(2*pi*x)", [{"periodic": ["x", "y"]}], x=[0, 1], y=[0, 1]), {},
        "up to a constant.*fix the value",
    ),
    "up to a constant": (
        posed("u_xx = cos(pi*x)", [walls(u_x=0)], x=[0, 1]), {}, "up to a constant.*fix the value",
    ),
    "no derivative to march": (
        posed("u_xxt = u_xx", [start(u="sin(pi*x)"), RING], x=[-1, 1], t=[0, 1]), {"seconds": 0.5},
        "highest time derivatives cannot be solved for in every mode",
    ),
    # u grows like 1/(1/u_0 - t) at least: infinite before 1/9.
    "blow-up": (
        posed("u_t = u_xx + u^2", [start(u="10 + cos(pi*x)"), RING], x=[-1, 1], t=[0, 1]),
        {"seconds": 1}, r"grew beyond bounds at 0\.[01]\d+;.*shorten the interval",
    ),
    "shock": (
        posed("u_t + u*u_x = 0", [start(u="-sin(pi*x)"), RING], x=[-1, 1], t=[0, 1]), {},
        "does not converge: Fourier.* still changes by .*viscosity",
    ),
    "too coarse": (
        burgers(0.01, reference="auto"), {"resolution": 8}, "raise or remove 'resolution'",
    ),
    "too fine": (
        posed("lap(u) = 1", [WALLS], x=[0, 1], y=[0, 1]), {"resolution": 512}, "512.*at most 385",
    ),
    "no finite value": (
        posed("u_xx = 1/u", [WALLS], x=[0, 1]), {}, "no finite value at u = 0",
    ),
    "declined": (
        posed("u_xx = 1", [WALLS], x=[0, 1], reference="none"), {}, "set 'reference: auto'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why_and_what_to_do(name: str) -> None:
    case, settings, why = REFUSED[name]
    with pytest.raises(ReferenceUnavailable, match=why) as caught:
        build(case, **settings)
    message = str(caught.value)
    assert "; " in message
    assert message.count("'reference: none'") <= 1 and message.count("give an exact") <= 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "atuo"}, "did you mean 'auto'"),
        ({"method": "auto", "sceonds": 3}, "did you mean 'seconds'"),
        ({"method": "cole_hopf", "seconds": 3}, "no setting 'seconds'; it belongs to: auto"),
        ({"target": "tiny"}, "write a number"),
        ({"target": 0}, "write a number"),
        ({"resolution": 3}, "write a whole number from 8"),
        ({"seconds": True}, "write a number"),
    ],
)
def test_settings_are_checked(settings: dict, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        build(HEAT, **settings)


# -- the reference as a function ------------------------------------------------------------------


def test_declared_order_of_coordinates_is_kept(rng: np.random.Generator) -> None:
    conditions = [start(u="cos(x)"), walls(u="exp(-t)*cos(x)")]
    first = build(posed("u_t = u_xx", conditions, x=[0, 1], t=[0, 0.5]))
    second = build(posed("u_t = u_xx", conditions, t=[0, 0.5], x=[0, 1]))
    points = rng.random((50, 2)) * [1, 0.5]
    np.testing.assert_allclose(first(points), second(points[:, ::-1]), atol=1e-9)
    exact = np.exp(-points[:, 1]) * np.cos(points[:, 0])
    np.testing.assert_allclose(first(points)[:, 0], exact, atol=1e-9)
    assert np.abs(second(points)[:, 0] - exact).max() > 1e-2


def test_corners_and_shapes() -> None:
    reference = build(HEAT)
    corners = np.array([[0, 0], [1, 0], [0, 0.2], [1, 0.2], [0.5, 0.2]])
    values = reference(corners)
    assert values.shape == (5, 1)
    np.testing.assert_allclose(values[:4], 0, atol=1e-12)
    assert values[4, 0] == pytest.approx(np.exp(-0.2 * np.pi**2), rel=1e-9)
    with pytest.raises(ValueError, match="shape"):
        reference(np.zeros(3))


def test_resolution_can_be_fixed() -> None:
    case = burgers(0.05, reference="auto")
    coarse, fine = build(case, resolution=32), build(case, resolution=96)
    assert "32 nodes" in coarse.description
    assert fine.error_bar["u"] < 1e-2 * coarse.error_bar["u"]


# -- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"method": "auto", "target": 1e-8}])
def test_cost_curve(settings: dict[str, Any]) -> None:
    """Error against seconds, ever less error for ever more seconds, down to a formula's own."""
    reference = build(burgers(0.1), **settings)
    rows = reference.costs()
    seconds, errors = np.array(rows).T
    assert len(rows) >= 3 and np.all(np.diff(seconds) > 0) and np.all(np.diff(errors) < 0)
    assert errors[-1] <= 1e-7
    assert reference.costs() is rows is reference.cost_curve
    middle = reference.seconds_to(float(np.sqrt(errors[0] * errors[-1])))
    assert middle is not None and seconds[0] <= middle <= seconds[-1]
    assert reference.seconds_to(1e-17) is None
    assert "ETDRK4" in reference.classical


def test_seconds_are_interpolated_on_logarithmic_axes() -> None:
    rows = pareto([(4.0, 1e-6), (1.0, 1e-2), (2.0, 1e-1), (5.0, 1e-5)])
    assert rows == [(1.0, 1e-2), (4.0, 1e-6)]
    assert seconds_to(rows, 1e-4) == pytest.approx(2.0)
    assert seconds_to(rows, 0.5) == 1.0
    assert seconds_to(rows, 1e-7) is None


def test_reported_errors_are_true_errors() -> None:
    """Of a level measured against the best one: within its bar of those against the solution."""
    exact = KNOWN["Burgers, mirrored Fourier"].exact
    found = Automatic(System(burgers(0.03, reference="auto")), target=1e-6)
    truth = found.best.common.sample(exact, found.system)
    found.costs()
    floor = float(found.bars.max())
    for refinement in found.refinements:
        for run in refinement.runs.values():
            true = float(refinement.common.relative_l2(run.values, truth).max())
            told = float(refinement.common.relative_l2(run.values, found.best.values).max())
            assert abs(max(told, floor) - true) <= 1.01 * floor
    # Against the formula nothing hides the best level's own error.
    assert min(error for _, error in found.costs(truth)) < floor


def test_seconds_are_the_best_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(HEAT)
    found = Automatic(system)
    for run in found.best.runs.values():
        run.seconds = 0.1
    found.best.time_again(np.inf)
    assert all(run.seconds < 0.1 for key, run in found.best.runs.items() if not key[2])
    # One that takes long is not repeated.
    monkeypatch.setattr(found.method, "solve", None)
    for run in found.best.runs.values():
        run.seconds = 1.0
    found.best.time_again(np.inf)


def test_poisson_costs_what_a_fast_solver_costs() -> None:
    """One Sylvester equation: a dense factorisation of all unknowns took 50 times longer."""
    seconds = build(KNOWN["Poisson"].problem).seconds_to(1e-9)
    assert seconds is not None and seconds < 0.01


@pytest.mark.parametrize("name", ["heat", "poisson_1d", "fisher_kpp", "klein_gordon", "lorenz"])
def test_library_references_exist(name: str) -> None:
    reference = build(registry.get(name))
    assert isinstance(reference, Reference)
    assert all(0 < bar < 1e-8 for bar in reference.error_bar.values())
    assert set(reference.summary()["error_bar"]) == set(registry.get(name).fields)  # type: ignore[call-overload]


def test_a_formula_with_rounded_constants_is_not_called_exact():
    """Its relative residual is the bar; the true constant, the twin, has the bar of rounding."""
    bars = {}
    for rate in ("pi^2", "9.86961"):
        formula = f"exp(-{rate}*t)*sin(pi*x)"
        problem = {
            "coordinates": {"x": [0, 1], "t": [0, 0.5]},
            "fields": ["u"],
            "equations": ["u_t = u_xx"],
            "conditions": [
                {"where": "t = 0", "u": "sin(pi*x)"},
                {"where": "x = 0", "u": 0},
                {"where": "x = 1", "u": 0},
            ],
            "reference": {"exact": {"u": formula}},
        }
        bars[rate] = make_case(problem, "pinn").problem.reference().error_bar["u"]
    error = 0.5 * abs(9.86961 - np.pi**2)
    assert bars["pi^2"] < 1e-14
    assert 0.1 * error < bars["9.86961"] < 10 * error
