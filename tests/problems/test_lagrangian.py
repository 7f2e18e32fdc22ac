"""Equations along characteristics: an identity that holds for any map, and what has no such form.

For any fields w(X, t), x = X + V t + d(X, t) and u(x, t) = w(X(x, t), t), by the chain rule,

    residual of w in labels = residual of u at the position + (residual of d) . grad u,

whether or not anything is solved. The maps here can be inverted by hand.
"""

import numpy as np
import pytest
import sympy

from residua.errors import ConfigurationError
from residua.problems import Problem, registry
from residua.problems.characteristics import read_carried
from residua.problems.crossing import breakdown
from residua.problems.equation import evaluate
from residua.problems.lagrangian import guard_equation, lagrangian
from residua.solvers import BACKENDS

x, y, t = sympy.symbols("x y t", real=True)


def problem(equations, *, conditions=None, fields=("u",), plane=False, end=1.0, **parameters):
    coordinates = {"x": [0, "2*pi"], **({"y": [0, "2*pi"]} if plane else {}), "t": [0, end]}
    if conditions is None:
        start = dict.fromkeys(fields, "sin(x) + 2")
        conditions = [{"where": "t = 0", **start}, {"periodic": "x"}]
        conditions += [{"periodic": "y"}] if plane else []
    return Problem.from_mapping(
        {
            "coordinates": coordinates,
            "fields": list(fields),
            "parameters": parameters,
            "equations": [equations] if isinstance(equations, str) else equations,
            "conditions": conditions,
        }
    )


def values_of(problem, solution, at):
    """Numbers for every jet of the equations, from closed forms."""
    found = dict(problem.values) | at
    names = problem.namespace
    for equation in problem.equations:
        for symbol, (field, index) in names.jets(equation.tree).items():
            tree = solution[field]
            for coordinate, order in zip(names.coordinates, index, strict=True):
                tree = tree.diff(sympy.Symbol(coordinate, real=True), order) if order else tree
            found[symbol.name] = evaluate(tree, at)
    return found


def residuals(problem, solution, at):
    values = values_of(problem, solution, at)
    return [np.asarray(e.residual(values)) for e in problem.equations]


LINE = ({"x": x / (1 + t / 2) ** 2}, {"x": x * (1 + t / 2) ** 2})
PLANE = (
    {"x": x - t * sympy.sin(y / (1 + t / 2)), "y": y / (1 + t / 2)},
    {"x": x + t * sympy.sin(y), "y": y * (1 + t / 2)},
)
EQUATIONS = {
    "burgers": ("u_t + u*u_x = nu*u_xx", False),
    "speed of place and time": ("u_t + sin(x + t)*u_x = nu*u_xx + cos(2*x)*u", False),
    "conservative diffusion": ("u_t + c*u_x = d((1 + u^2)*u_x, x)", False),
    "scaled": ("2*u_t + 4*u^2*u_x - 3*nu*u_xx + u^3 = cos(t)", False),
    "plane": ("u_t + sin(y)*u_x + cos(x)*u*u_y = nu*lap(u)", True),
    "plane, anisotropic": ("u_t - c*u_x + u_y = nu*(u_xx + 2*u_xy + u*u_yy) + sin(x + 2*y)", True),
}


def chain_rule_defect(original, form, plane):
    """Largest defect of the identity at random points."""
    back, forth = PLANE if plane else LINE
    space = ("x", "y") if plane else ("x",)
    label = {"x": x, "y": y}
    state = sympy.exp(-t) * sympy.sin(2 * x + (y if plane else 0)) + sympy.Rational(3, 2)
    solution = {"u": state - form.means[0]}
    for name, mean, d in zip(space, form.drift, form.displacements, strict=True):
        solution[d] = forth[name] - label[name] - mean * t
    random = np.random.default_rng(3)
    at = {name: random.uniform(0.2, 2.0, 20) for name in (*space, "t")}
    inner = residuals(form.problem, solution, at)
    there = {name: evaluate(forth[name], at) for name in space} | {"t": at["t"]}
    u = state.xreplace({label[name]: back[name] for name in space})
    outer = residuals(original, {"u": u}, there)[0]
    expected = outer / (2 if "2*u_t" in original.equations[0].text else 1)
    for number, name in enumerate(space, start=1):
        expected = expected + inner[number] * evaluate(u.diff(label[name]), there)
    return float(np.max(np.abs(inner[0] - expected)))


@pytest.mark.parametrize("name", sorted(EQUATIONS))
@pytest.mark.parametrize("shift", [True, False])
def test_the_chain_rule_holds_for_any_map(name, shift):
    text, plane = EQUATIONS[name]
    parameters = {k: v for k, v in {"nu": 0.3, "c": 1.7}.items() if k in text.replace("cos", "")}
    original = problem(text, plane=plane, **parameters)
    form = lagrangian(original, shift=shift)
    assert chain_rule_defect(original, form, plane) < 1e-10


def test_without_the_jacobian_it_is_another_equation():
    original = problem("u_t + u*u_x = nu*u_xx", nu=0.3)
    form = lagrangian(original)
    wrong = problem("u_t + u*u_x = nu*u_xx", nu=0.3)
    names = form.problem.namespace
    label_laplacian = names.jet("u", (0, 1)) - sympy.Symbol("nu", real=True) * names.jet(
        "u", (2, 0)
    )
    equation = form.problem.equations[0]
    object.__setattr__(equation, "tree", label_laplacian)
    equation.__dict__.pop("derivatives", None)
    assert chain_rule_defect(wrong, form, False) > 1e-2


def test_a_mean_speed_of_any_size_is_split_off():
    for mean in (0, 50, -1000):
        start = [{"where": "t = 0", "u": f"sin(x) + {mean}"}, {"periodic": "x"}]
        form = lagrangian(problem("u_t + u*u_x = nu*u_xx", conditions=start, nu=0.01))
        assert form.drift[0] == pytest.approx(mean, abs=1e-9)
        # What moves the labels is the state less its mean, whatever the mean is.
        motion = form.problem.equations[1].tree
        at = {"dx_t": 0.25, "u": 0.5, "x": 1.0, "t": 0.3, "dx": 0.1}
        assert evaluate(motion, at) == pytest.approx(0.25 - 0.5, abs=1e-9)
    walls = lagrangian(registry.get("burgers"))
    assert walls.drift == (0.0,)
    assert {c.name for c in walls.problem.conditions} >= {"labels on x = -1", "labels on x = 1"}


def test_a_system_with_one_velocity_is_carried_as_one():
    both = ["u_t + u*u_x = nu*u_xx - v", "v_t + u*v_x = nu*v_xx + u"]
    form = lagrangian(problem(both, fields=("u", "v"), nu=0.1))
    assert form.problem.fields == ("u", "v", "dx")
    assert len(form.problem.equations) == 3


def test_a_name_that_is_taken_is_not_taken_again():
    form = lagrangian(problem("u_t + dx*u_x = 0", dx=2.0))
    assert form.displacements == ("ddx",)


REFUSED = {
    "u_t = nu*u_xx": "nothing is carried",
    "u_t + u_x^2 = nu*u_xx": "not linear in the gradient",
    "u_t + u_x = u_xxx": "neither convection, diffusion nor reaction",
    "u_tt = u_xx": "one time derivative, of first order",
    "u_t + u_x = u_x*u_xx": "no diffusion f2",
    "u*u_t + u_x = 0": "depends on a field",
    "u_x + u = 0": "one time derivative, of first order",
}


@pytest.mark.parametrize("text", sorted(REFUSED))
def test_what_has_no_such_form_is_told_so(text):
    start = {"where": "t = 0", "u": "sin(x)", **({"u_t": 0} if "u_tt" in text else {})}
    conditions = [start, {"periodic": "x"}]
    if "_t" not in text:
        conditions = [{"periodic": "x"}]
    parameters = {"nu": 0.1} if "nu" in text else {}
    found = problem(text, conditions=conditions, **parameters)
    with pytest.raises(ConfigurationError, match="has no Lagrangian form: .*" + REFUSED[text]):
        lagrangian(found)
    assert REFUSED[text] in BACKENDS["lagrangian"].accepts(found)


def test_fields_of_two_velocities_and_walls_that_are_crossed_are_refused():
    two = problem(["u_t + u_x = v", "v_t - v_x = u"], fields=("u", "v"))
    with pytest.raises(ConfigurationError, match="the fields need one velocity"):
        lagrangian(two)


CROSSED = {
    "u_t + u_x = 0.1*u_xx": ({"x = 0": "sin(t)", "x = 2*pi": "0"}, "with diffusion the condition"),
    "u_t + u_x = 0": ({"x = 2*pi": "0"}, "enter at x = 0, where the value of u is not prescribed"),
    "u_t - u_x = 0": ({"x = 0": "sin(t)"}, "leave at x = 0, where nothing"),
    "u_t + (1 + 0*x)*u_x = 0": ({"x = 0": "1 + t"}, "begins with 0 at x = 0 and comes in with 1"),
    "u_t + (1 - 3*t)*u_x = 0": ({"x = 0": "sin(t)"}, "do not enter at x = 0 at all times"),
    "u_t + (x - 1)*u_x = 0": ({"x = 2*pi": "0"}, "where nothing can be prescribed"),
    "u_t + (6 - x)*u_x = 0": ({"x = 0": "sin(t)"}, "enter at x = 6.28319, where the value of u"),
    "u_t + cos(4*t)*u_x = 0": ({"x = 0": "sin(t)"}, "at first, and enter later|at all times"),
}


@pytest.mark.parametrize("text", sorted(CROSSED))
def test_ends_of_which_too_little_is_known_are_refused(text):
    ends, reason = CROSSED[text]
    conditions = [{"where": "t = 0", "u": "sin(x)"}]
    conditions += [{"where": where, "u": value} for where, value in ends.items()]
    with pytest.raises(ConfigurationError, match=reason):
        lagrangian(problem(text, conditions=conditions))


WALLED = {
    "u_t + x*(1 - x)*u_x = -u": ("1", "exp(-t)", "1"),
    "u_t + x*(1 - x)*u_x = -u*(1 + x)": ("1 + x", "exp(-t)", "1"),
    "u_t + x*(1 - x)*u*u_x = 0": ("2 + x", "2", "2 + t"),
}


@pytest.mark.parametrize("text", sorted(WALLED))
def test_values_on_a_wall_without_diffusion_must_be_those_that_its_own_path_has(text):
    """No path brings them into the domain: they would be left out without a word."""
    start, right, wrong = WALLED[text]

    def form(end, source=""):
        conditions = [{"where": "t = 0", "u": start}, {"where": "x = 0", "u": end}]
        if source:
            conditions.append({"where": "x = 1", "u": "0"})
        return lagrangian(
            Problem.from_mapping(
                {
                    "coordinates": {"x": [0, 1], "t": [0, 1]},
                    "fields": ["u"],
                    "equations": [text + source],
                    "conditions": conditions,
                }
            )
        )

    assert [c.kind for c in form(right).problem.conditions] == ["initial", "initial"]
    for end in (wrong, f"{right} + t^2"):
        with pytest.raises(ConfigurationError, match="nothing is carried to or from x = 0, and"):
            form(end)
    assert form(wrong, " + 0.1*u_xx").problem.conditions, "diffusion takes it into the domain"


def test_a_plane_that_is_crossed_is_refused():
    conditions = [
        {"where": "t = 0", "u": "sin(x)"}, {"where": "x = 0", "u": "sin(t)"}, {"periodic": "y"}
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="in two space coordinates x must be periodic"):
        lagrangian(problem("u_t + u_x = 0", plane=True, conditions=conditions))


@pytest.mark.parametrize("text", ["u_t + x*u_x = 0", "u_t + u_x = x", "u_t + u_x = nu*x*u_xx"])
def test_what_is_not_periodic_with_its_coordinate_is_refused(text):
    """Labels go on beyond the box, where the formula has other values."""
    with pytest.raises(ConfigurationError, match="x is periodic and '.*' is not"):
        lagrangian(problem(text, **({"nu": 0.1} if "nu" in text else {})))


def test_paths_that_come_in_begin_at_the_end_when_they_do():
    """The chain rule by hand, for u = f(x - t^2) on [0, 2 pi] entering with speed 2 t at t >= 1."""
    conditions = [
        {"where": "t = 1", "u": "sin(x - 1)"},
        {"where": "x = 0", "u": "sin(-t^2)"},
    ]
    found = Problem.from_mapping(
        {
            "coordinates": {"x": [0, 3], "t": [1, 2]},
            "fields": ["u"],
            "equations": ["u_t + 2*t*u_x = x"],
            "conditions": conditions,
        }
    )
    form = lagrangian(found, shift=False)
    assert form.problem.bounds == ((-2.0, 3.0), (1.0, 2.0))
    assert [c.kind for c in form.problem.conditions] == ["initial", "initial"]
    state, rest = form.problem.conditions[0].targets[0].tree, form.problem.equations
    at = {"x": np.array([-1.0, -0.5, 2.0]), "t": np.array([1.3, 1.5, 1.5])}
    # Labels -1 and -0.5 come in at 1.5 and 1.25; the state there is prescribed.
    first = evaluate(state, at)
    assert first == pytest.approx([np.sin(-(1.5**2)), np.sin(-(1.25**2)), np.sin(1.0)])
    at |= {"dx": np.array([0.7, 0.2, 0.1]), "dx_t": 0.0, "u_t": 0.0, "dx_x": 0.25}
    assert rest[0].residual(at) == pytest.approx([-0.7, -0.2, -2.1]), "the source is at x"
    assert rest[1].residual(at) == pytest.approx([-2 * 1.8, -2 * 1.75, -3.0]), "and at t"
    at["dx_t"] = 4.0
    # dx/dX at a fixed time: d_X - d_t tau', tau' = -1/2.
    assert evaluate(form.jacobian, at) == pytest.approx([2.25, 2.25, 1.25])


@pytest.mark.parametrize(
    ("equation", "start", "when"),
    [
        ("u_t + u*u_x = 0", "sin(x) + 5", 1.0),
        ("u_t + u*u_x = 0", "0.8 + 0.5*exp(-((x - 3)/0.1)^2)", 0.2331644),
        # J = 1 - (1 - exp(-r t))/r at the steepest label
        ("u_t + u*u_x = -0.5*u", "sin(x)", float(2 * np.log(2))),
        ("u_t + u*u_x = -2*u", "sin(x)", None),
        ("u_t + u^2*u_x = 0", "sin(x)", 1.0),
        ("u_t + 3*u_x = 0", "sin(x)", None),
        ("u_t + sin(x)*u_x = 0", "cos(x)", None),
    ],
)
def test_when_characteristics_cross_is_known_beforehand(equation, start, when):
    found = problem(
        equation, conditions=[{"where": "t = 0", "u": start}, {"periodic": "x"}], end=2.0
    )
    crossing = breakdown(found, read_carried(found))
    reason = BACKENDS["lagrangian"].accepts(found)
    if when is None:
        assert crossing is None and reason is None
    else:
        assert crossing == pytest.approx(when, rel=2e-3)
        assert "cross at t = " in reason
        before = problem(
            equation, conditions=[{"where": "t = 0", "u": start}, {"periodic": "x"}], end=0.9 * when
        )
        assert BACKENDS["lagrangian"].accepts(before) is None


@pytest.mark.parametrize(
    ("coming", "when"),
    [
        ("1 + 4*t", 0.25),  # x = (1 + 4 tau)(t - tau): the first that came in crosses first
        ("1 + 4*t^2", float(np.sqrt(3) / 2)),  # ... the one of tau = 12^(-1/2), at tau + 1/sqrt(3)
        ("1 + t/10", None),  # has left before
        ("exp(-t)", None),
    ],
)
@pytest.mark.parametrize("side", [-1, 1])
def test_that_paths_which_come_in_later_cross_is_known_beforehand(side, coming, when):
    found = Problem.from_mapping(
        {
            "coordinates": {"x": [0, 1], "t": [0, 2]},
            "fields": ["u"],
            "equations": [f"u_t - {side}*u*u_x = 0"],
            "conditions": [
                {"where": "t = 0", "u": "1"},
                {"where": "x = 0" if side < 0 else "x = 1", "u": coming},
            ],
        }
    )
    crossing = breakdown(found, read_carried(found))
    assert crossing == (when if when is None else pytest.approx(when, rel=2e-3))


def test_the_guard_is_silent_until_paths_come_close():
    form = lagrangian(problem("u_t + u*u_x = nu*u_xx", nu=0.1))
    guard = guard_equation(form, 0.05)
    assert float(guard.residual({"dx_x": -0.94})) == 0
    assert float(guard.residual({"dx_x": -0.975})) == pytest.approx(0.5)
