"""Every family of the library: it reads, it says what it should, and its exact solution is one."""

from collections.abc import Mapping

import numpy as np
import pytest
import sympy

from residua.problems import Problem, registry
from residua.problems.equation import Equation, evaluate, parse

FAMILIES = registry.names()
EXACT = [n for n in FAMILIES if registry.get(n).reference_spec["method"] == "exact"]
TOLERANCE = 1e-10


def random_points(problem: Problem, count: int = 64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    ends = zip(problem.coordinates, problem.bounds, strict=True)
    return {name: random.uniform(low, high, count) for name, (low, high) in ends}


def jets_of(
    problem: Problem, solution: Mapping[str, sympy.Expr], names: set[str], at: Mapping
) -> dict[str, np.ndarray]:
    """The oracle: values of derivatives by plain differentiation of the closed form."""
    values = {}
    for name in names:
        field, index = problem.namespace.derivative(name)  # type: ignore[misc]
        tree = solution[field]
        for coordinate, order in zip(problem.coordinates, index, strict=True):
            tree = tree.diff(sympy.Symbol(coordinate, real=True), order) if order else tree
        values[name] = np.broadcast_to(evaluate(tree, at), (64,))
    return values


def defect(problem: Problem, solution: Mapping[str, sympy.Expr]) -> tuple[float, float]:
    """Largest relative residual of the equations, and of the conditions."""
    inside = random_points(problem)
    equations = max(residual(problem, solution, e, inside) for e in problem.equations)
    conditions = 0.0
    for condition in problem.conditions:
        if condition.kind == "periodic":
            conditions = max(conditions, jump(problem, solution, condition.faces[0].coordinate))
        for equation in condition.equations:
            face = condition.faces[0]
            at = {**inside, face.coordinate: np.full(64, face.value)}
            conditions = max(conditions, residual(problem, solution, equation, at))
    return equations, conditions


def residual(
    problem: Problem, solution: Mapping[str, sympy.Expr], equation: Equation, points: Mapping
) -> float:
    at = {**problem.values, **points}
    names = {s.name for s in problem.namespace.jets(equation.tree)}
    jets = jets_of(problem, solution, names, at)
    # Residuals are sums of terms that cancel: the largest derivative sets the scale.
    scale = 1 + max(float(np.max(np.abs(v))) for v in jets.values())
    return float(np.max(np.abs(equation.residual({**at, **jets})))) / scale


def jump(problem: Problem, solution: Mapping[str, sympy.Expr], name: str) -> float:
    """Difference between the two ends of a periodic coordinate, in value and first derivative."""
    low, high = problem.bounds[problem.coordinates.index(name)]
    worst = 0.0
    for tree in solution.values():
        for derivative in (tree, tree.diff(sympy.Symbol(name, real=True))):
            at = {**problem.values, **random_points(problem)}
            ends = [evaluate(derivative, {**at, name: np.full(64, end)}) for end in (low, high)]
            scale = 1 + np.max(np.abs(ends[0]))
            worst = max(worst, float(np.max(np.abs(ends[0] - ends[1])) / scale))
    return worst


def exact_solution(problem: Problem) -> dict[str, sympy.Expr]:
    return {f: parse(t, problem.namespace) for f, t in problem.reference_spec["exact"].items()}


@pytest.mark.parametrize("name", EXACT)
def test_exact_solution_solves_equations_and_conditions(name: str) -> None:
    problem = registry.get(name)
    solution = exact_solution(problem)
    equations, conditions = defect(problem, solution)
    assert equations < TOLERANCE and conditions < TOLERANCE
    # Wrong twin: off by a thousandth, it solves neither.
    slopes = dict(zip(problem.coordinates, (0.31, 0.47), strict=False))
    bump = 1e-3 * sympy.exp(sum(k * sympy.Symbol(c, real=True) for c, k in slopes.items()))
    wrong = {field: tree + bump for field, tree in solution.items()}
    equations, conditions = defect(problem, wrong)
    assert equations > 1e3 * TOLERANCE and conditions > 1e3 * TOLERANCE


@pytest.mark.parametrize("name", [n for n in EXACT if registry.get(n).parameters])
def test_exact_solution_holds_for_other_parameters(name: str) -> None:
    problem = registry.get(name)
    changed = {
        k: p.value * 1.3 + 0.05
        for k, p in problem.parameters.items()
        if p.holds(p.value * 1.3 + 0.05)
    }
    other = problem.with_parameters(**changed)
    assert other.values != problem.values
    assert max(defect(other, exact_solution(other))) < TOLERANCE


# What the literature states, written down a second time (notes on the equations, section 1.3).
DEFINITIONS = {
    "advection": ("u_t + 30*u_x = 0", "sin(x)"),
    "allen_cahn": ("u_t - 1e-4*u_xx + 5*u^3 - 5*u = 0", "x^2*cos(pi*x)"),
    "allen_cahn_512": ("u_t - 1e-4*u_xx + 5*u^3 - 5*u = 0", None),
    "burgers": ("u_t + u*u_x = 0.01/pi*u_xx", "-sin(pi*x)"),
    "fisher_kpp": ("u_t = u_xx + u - u^2", "1/(1 + exp(x/sqrt(6)))^2"),
    "flow_mixing": (
        "u_t + tanh(sqrt(x^2 + y^2))/(0.385*sqrt(x^2 + y^2)*cosh(sqrt(x^2 + y^2))^2)"
        "*(x*u_y - y*u_x) = 0",
        "-tanh(y/2)",
    ),
    "heat": ("u_t = 0.1*u_xx", "sin(pi*x)"),
    "helmholtz_2d": (
        "u_xx + u_yy + u = (1 - 17*pi^2)*sin(pi*x)*sin(4*pi*y)",
        None,
    ),
    "kdv": ("u_t + u*u_x + 0.022^2*u_xxx = 0", "cos(pi*x)"),
    "klein_gordon": (
        "u_tt - u_xx + u^3 = -25*pi^2*x*cos(5*pi*t) + 6*t*x^3 - 6*x*t^3"
        " + (x*cos(5*pi*t) + x^3*t^3)^3",
        "x",
    ),
    "klein_gordon_2d": (
        "u_tt - u_xx - u_yy + u^2 = -4*(x + y)*cos(2*t) - 4*x*y*sin(2*t)"
        " + ((x + y)*cos(2*t) + x*y*sin(2*t))^2",
        "x + y",
    ),
    "kuramoto_sivashinsky": ("u_t + 5*u*u_x + 0.5*u_xx + 0.005*u_xxxx = 0", "-sin(pi*x)"),
    "kuramoto_sivashinsky_chaotic": (
        "u_t + 100/16*u*u_x + 100/16^2*u_xx + 100/16^4*u_xxxx = 0",
        "cos(x)*(1 + sin(x))",
    ),
    "lid_driven_cavity": (
        "psi_y*d(lap(psi), x) - psi_x*d(lap(psi), y) = 0.01*lap(lap(psi))",
        None,
    ),
    "nonlinear_diffusion_2d": (
        "u_t = 0.05*(u*u_xx + u_x^2 + u*u_yy + u_y^2)",
        "exp(-10*(x - 0.3)^2 - 10*(y - 0.2)^2)/4 + 2*exp(-15*(x + 0.5)^2 - 15*(y + 0.1)^2)/5"
        " + 3*exp(-20*x^2 - 20*(y + 0.5)^2)/10",
    ),
    "poisson_1d": ("-u_xx = pi^2*sin(pi*x) + 1.6*pi^2*sin(4*pi*x)", None),
    "poisson_2d": ("-u_xx - u_yy = 2*pi^2*sin(pi*x)*sin(pi*y)", None),
    "reaction": ("u_t = 5*u - 5*u^2", "exp(-8*(x - pi)^2/pi^2)"),
    "reaction_diffusion": ("u_t = 3*u_xx + 5*u - 5*u^2", "exp(-8*(x - pi)^2/pi^2)"),
    "sine_gordon": ("u_tt = u_xx - sin(u)", "0"),
    "wave": ("u_tt = 4*u_xx", "sin(pi*x) + 0.5*sin(4*pi*x)"),
    "lorenz": ("x_t = 10*(y - x)", "1"),
    "lotka_volterra": ("u_t = 1.5*u - u*v", "1"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_definition_is_the_one_of_the_literature(name: str) -> None:
    problem = registry.get(name)
    text, start = DEFINITIONS[name]
    at = {**problem.values, **random_points(problem)}
    random = np.random.default_rng(6)
    jets = problem.namespace.jets(problem.equations[0].tree)
    at |= {s.name: random.normal(size=64) for s in jets}
    here = problem.equations[0].residual(at)
    there = Equation(text, problem.namespace).residual(at)
    # Same zero set: proportional with a constant factor.
    factor = there[0] / here[0]
    close = {"rtol": 1e-11, "atol": 1e-9}
    assert np.allclose(there, factor * here, **close)
    assert not np.allclose(there, factor * here + 1e-6, **close), "the comparison can fail"
    if start is not None:
        target = next(t for c in problem.conditions for t in c.targets if not any(t.index))
        tree = problem.substituted(target.tree)
        value = evaluate(tree, at)
        assert np.allclose(value, evaluate(parse(start, problem.namespace), at), atol=1e-14)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_read_back_and_say_what_they_are(name: str) -> None:
    problem = registry.get(name)
    assert problem.name == name and problem.title and problem.description
    assert all(p.description and p.low is not None for p in problem.parameters.values())
    assert Problem.from_mapping(problem.to_mapping(), name=name) == problem


def test_the_band_limited_allen_cahn_is_what_512_points_see() -> None:
    problem = registry.get("allen_cahn_512")
    tree = problem.conditions[0].targets[0].tree
    x = -1 + 2 * np.arange(512) / 512
    here = evaluate(tree, {"x": x})
    assert np.abs(here - x**2 * np.cos(np.pi * x)).max() < 1e-14
    between = np.linspace(0.5, 1, 999)
    apart = np.abs(evaluate(tree, {"x": between}) - between**2 * np.cos(np.pi * between)).max()
    assert 1e-4 < apart < 1e-2, "the kink at the end of the period is none of its modes"
    spectrum = np.abs(np.fft.rfft(evaluate(tree, {"x": -1 + 2 * np.arange(2048) / 2048}))) / 2048
    assert spectrum[257:].max() < 1e-16 and spectrum[250] > 1e-7
    assert problem.parities() == {"x": {"u": 1}}


def test_lorenz_is_complete() -> None:
    problem = registry.get("lorenz")
    at = {"x": 1.0, "y": 2.0, "z": 3.0, "x_t": 0.0, "y_t": 0.0, "z_t": 0.0, **problem.values}
    rates = [-e.residual(at) for e in problem.equations]
    assert rates == pytest.approx([10 * (2 - 1), 1 * (28 - 3) - 2, 1 * 2 - 8 / 3 * 3])
    assert problem.coordinates == ("t",) and problem.bounds == ((0.0, 2.0),)
