"""Problems from mappings: what is read, what is refused, and the way back."""

import copy
import math
from typing import Any

import pytest
import sympy

from residua.errors import ConfigurationError
from residua.problems import Problem
from residua.problems.conditions import Face

BURGERS: dict[str, Any] = {
    "coordinates": {"x": [-1, 1], "t": [0, 1]},
    "fields": ["u"],
    "parameters": {"nu": {"value": "0.01/pi", "range": [1e-4, 1], "description": "viscosity"}},
    "equations": ["u_t + u*u_x = nu*u_xx"],
    "conditions": [
        {"where": "t = 0", "u": "-sin(pi*x)"},
        {"where": "x = -1", "u": 0},
        {"where": "x = 1", "u": 0},
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BURGERS), **changes}


def conditions(*entries: Any) -> dict[str, Any]:
    return changed(conditions=list(entries))


def with_condition(entry: Any) -> dict[str, Any]:
    return changed(conditions=[*BURGERS["conditions"], entry])


def test_reads_what_a_person_writes() -> None:
    problem = Problem.from_mapping(BURGERS, name="burgers")
    assert problem.name == "burgers" and problem.time == "t"
    assert problem.coordinates == ("x", "t") and problem.bounds == ((-1.0, 1.0), (0.0, 1.0))
    assert problem.values == {"nu": 0.01 / math.pi}
    assert problem.time_order == {"u": 1} and problem.periodic == frozenset()
    assert [(c.name, c.kind) for c in problem.conditions] == [
        ("initial", "initial"),
        ("x = -1", "boundary"),
        ("x = 1", "boundary"),
    ]
    assert problem.conditions[0].faces == (Face("t", 0.0, -1),)
    assert problem.conditions[2].faces == (Face("x", 1.0, 1),)
    assert problem.reference_spec == {"method": "auto"}


def test_edges_may_be_expressions() -> None:
    mapping = conditions(
        {"where": "t = 0", "u": "sin(x)"}, {"where": "x = 2*pi", "u": 0}, {"where": "x=0", "u": 0}
    )
    mapping["coordinates"] = {"x": [0, "2*pi"], "t": [0, 1]}
    problem = Problem.from_mapping(mapping)
    assert problem.conditions[1].faces[0].value == problem.bounds[0][1] == 2 * math.pi


def test_regions_of_several_faces_are_taken_apart() -> None:
    mapping = {
        "coordinates": {"x": [0, 1], "y": [0, 2]},
        "fields": ["u"],
        "equations": ["lap(u) = 1"],
        "conditions": [{"where": "boundary", "u": "x + y", "name": "wall"}],
    }
    problem = Problem.from_mapping(mapping)
    assert [str(c.faces[0]) for c in problem.conditions] == ["x = 0", "x = 1", "y = 0", "y = 2"]
    assert problem.conditions[0].name == "wall (x = 0)"
    mapping["conditions"] = [
        {"periodic": "x"},
        {"where": "boundary", "u": 0},
    ]
    problem = Problem.from_mapping(mapping)
    assert [c.name for c in problem.conditions] == ["y = 0", "y = 2", "periodic x"]
    assert problem.conditions[2].faces == (Face("x", 0.0, -1), Face("x", 1.0, 1))


def test_outward_normal_derivative_has_the_sign_of_the_side() -> None:
    mapping = conditions(
        {"where": "t = 0", "u": 0},
        {"where": ["x = -1", "x = 1"], "u_n": "3 + t"},
    )
    problem = Problem.from_mapping(mapping)
    low, high = problem.conditions[1:]
    t = sympy.Symbol("t", real=True)
    assert low.targets[0].index == high.targets[0].index == (1, 0)
    assert sympy.expand(low.targets[0].tree + 3 + t) == 0
    assert sympy.expand(high.targets[0].tree - 3 - t) == 0


def test_robin_conditions_are_equations_on_the_face() -> None:
    mapping = conditions(
        {"where": "t = 0", "u": 0},
        {"where": "x = -1", "equation": "u_n + 2*u = nu"},
        {"where": "x = 1", "u_x": "-2*u"},
    )
    problem = Problem.from_mapping(mapping)
    ns = problem.namespace
    u, u_x, nu = ns.symbol("u"), ns.symbol("u_x"), ns.symbol("nu")
    low, high = problem.conditions[1:]
    assert low.equations[0].tree == -u_x + 2 * u - nu and low.targets == ()
    assert high.equations[0].tree == u_x + 2 * u and high.targets == ()
    assert Problem.from_mapping(problem.to_mapping()) == problem


MAPPINGS = [
    BURGERS,
    conditions(
        {"where": "t = 0", "u": "x^2*cos(pi*x)", "name": "start"},
        {"periodic": "x", "name": "ring"},
    ),
    {
        "title": "Acoustics",
        "description": "two fields",
        "coordinates": {"x": [0, "2*pi"], "t": [0, 0.1]},
        "fields": ["p", "v"],
        "parameters": {"c": 0.3},
        "equations": ["p_t + v_x = 0", "v_t + c^2*p_x = 0"],
        "conditions": [
            {"where": "t = 0", "p": "exp(-x^2)/(2*(x + 1))", "v": 0},
            {"where": "boundary", "v": "1/3"},
        ],
        "reference": {"method": "auto", "resolution": 64},
    },
    {
        "coordinates": {"t": [0, 2]},
        "fields": ["u"],
        "equations": ["u_tt + u = 0"],
        "conditions": [{"where": "t = 0", "u": 1, "u_t": 0}],
        "reference": {"exact": {"u": "cos(t)"}},
    },
]


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_mapping_round_trip_is_the_identity(mapping: dict[str, Any]) -> None:
    problem = Problem.from_mapping(mapping)
    written = problem.to_mapping()
    again = Problem.from_mapping(written)
    assert again == problem and again.to_mapping() == written
    # Wrong twin: the comparison is not blind to the data.
    written["coordinates"]["t"][1] *= 2
    assert Problem.from_mapping(written) != problem


def test_parameters_stay_in_their_range() -> None:
    problem = Problem.from_mapping(BURGERS)
    assert problem.with_parameters(nu="0.02").values["nu"] == 0.02
    assert problem.values["nu"] != 0.02, "the original is left as it was"
    for values, words in (
        ({"nu": 2}, "outside the range"),
        ({"nuu": 0.1}, "did you mean 'nu'"),
        ({"nu": math.nan}, "finite"),
        ({"nu": "x"}, "undeclared name 'x'"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            problem.with_parameters(**values)


def test_substitution_puts_numbers_for_parameters() -> None:
    problem = Problem.from_mapping(BURGERS).with_parameters(nu=1)
    ns = problem.namespace
    tree = problem.substituted(problem.equations[0].tree)
    assert tree == ns.symbol("u_t") + ns.symbol("u") * ns.symbol("u_x") - ns.symbol("u_xx")


def test_settings_for_solver_and_run_are_kept_apart() -> None:
    problem = Problem.from_mapping(changed(solver={"name": "causal"}, run={"seed": 1}))
    assert problem.recommended == {"solver": {"name": "causal"}, "run": {"seed": 1}}
    assert "solver" not in problem.to_mapping()
    assert problem == Problem.from_mapping(BURGERS)


def test_python_residuals_in_a_mapping() -> None:
    problem = Problem.from_mapping(
        changed(equations=[lambda v: v.u_t + v.u * v.u_x - v.nu * v.u_xx])
    )
    assert problem.equations[0].tree == Problem.from_mapping(BURGERS).equations[0].tree
    with pytest.raises(ConfigurationError, match="cannot be written"):
        problem.to_mapping()


INITIAL = BURGERS["conditions"][0]
ENDS = BURGERS["conditions"][1:]
KDV = "u_t + u*u_x + u_xxx = 0"

# mapping, path, words of the message
BAD = [
    ([], (), "write a mapping"),
    ({}, ("coordinates",), "'coordinates' is missing"),
    (changed(equations=None), ("equations",), "'equations' is missing"),
    (changed(equation=["u_t = u"]), ("equation",), "did you mean 'equations'"),
    (changed(colour="red"), ("colour",), "write one of: title"),
    (changed(title=3), ("title",), "write a text"),
    (changed(coordinates=[]), ("coordinates",), "write {x"),
    (changed(coordinates={"x": [-1], "t": [0, 1]}), ("coordinates", "x"), "two numbers"),
    (changed(coordinates={"x": 3, "t": [0, 1]}), ("coordinates", "x"), "two numbers"),
    (changed(coordinates={"x": [1, -1], "t": [0, 1]}), ("coordinates", "x"), "runs backwards"),
    (changed(coordinates={"x": [1, 1], "t": [0, 1]}), ("coordinates", "x"), "is empty"),
    (changed(coordinates={"x": [-1, math.inf], "t": [0, 1]}), ("coordinates", "x", 1), "finite"),
    (changed(coordinates={"x": ["a", 1], "t": [0, 1]}), ("coordinates", "x", 0), "undeclared"),
    (changed(coordinates={"x": [True, 2], "t": [0, 1]}), ("coordinates", "x", 0), "not a number"),
    (
        changed(coordinates={"x": [-1, 1], "xx": [0, 1], "t": [0, 1]}),
        ("coordinates",),
        "read in two ways",
    ),
    (changed(fields="u"), ("fields",), "a list such as [u]"),
    (changed(fields=[]), ("fields",), "a list such as [u]"),
    (changed(fields=["u", "v"]), ("equations",), "no equation holds the field 'v'"),
    (changed(fields=["u", "v"], equations=["u_t = v"]), ("equations",), "1 equation for 2 fields"),
    (changed(parameters=[1]), ("parameters",), "write a mapping"),
    (changed(parameters={"nu": None}), ("parameters", "nu"), "no value"),
    (changed(parameters={"nu": math.nan}), ("parameters", "nu"), "finite"),
    (changed(parameters={"nu": "1/0"}), ("parameters", "nu"), "division by zero"),
    (changed(parameters={"nu": {"valu": 1}}), ("parameters", "nu", "valu"), "'value'"),
    (changed(parameters={"nu": {"range": [0, 1]}}), ("parameters", "nu"), "no value"),
    (
        changed(parameters={"nu": {"value": 2, "range": [0, 1]}}),
        ("parameters", "nu"),
        "outside the range",
    ),
    (
        changed(parameters={"nu": {"value": 2, "range": [3, 1]}}),
        ("parameters", "nu", "range"),
        "runs backwards",
    ),
    (changed(equations="u_t = u"), ("equations",), "write a list"),
    (changed(equations=[3]), ("equations", 0), "must be text"),
    (changed(equations=["u_t = uxx"]), ("equations", 0), "did you mean 'u_xx'"),
    (changed(equations=["u_t = u_xx", "x = 0"]), ("equations", 1), "holds no field"),
    (
        changed(equations=["u_t = u_xx/nu"], parameters={"nu": 0}),
        ("equations", 0),
        "infinite or not real",
    ),
    (changed(conditions="u = 0"), ("conditions",), "write a list"),
    (with_condition("u = 0"), ("conditions", 3), "write a mapping"),
    (with_condition({"u": 0}), ("conditions", 3), "needs a place"),
    (with_condition({"where": "x = 1"}), ("conditions", 3), "says nothing"),
    (with_condition({"where": "x = 2", "u_x": 0}), ("conditions", 3, "where"), "x = -1 or x = 1"),
    (with_condition({"where": "z = 1", "u_x": 0}), ("conditions", 3, "where"), "not a coordinate"),
    (with_condition({"where": "bondary", "u": 0}), ("conditions", 3, "where"), "'boundary'"),
    (with_condition({"where": 1, "u": 0}), ("conditions", 3, "where"), "write one of"),
    (with_condition({"where": [], "u": 0}), ("conditions", 3, "where"), "at least one place"),
    (
        with_condition({"where": ["x = 1", "x = a"], "u": 0}),
        ("conditions", 3, "where", 1),
        "undeclared name 'a'",
    ),
    (
        with_condition({"where": ["x = 1", "x = 1"], "u_x": 0}),
        ("conditions", 3, "where"),
        "named twice",
    ),
    (with_condition({"where": "t = 1", "u": 0}), ("conditions", 3, "where"), "end of time"),
    (with_condition({"where": "x = 1", "u": 0}), ("conditions", 3), "also in conditions[2]"),
    (with_condition({"where": "x = 1", "w": 0}), ("conditions", 3, "w"), "unknown key 'w'"),
    (with_condition({"where": "x = 1", "ux": 0}), ("conditions", 3, "ux"), "'u_x'"),
    (with_condition({"where": "x = 1", "u_x": "q"}), ("conditions", 3, "u_x"), "undeclared"),
    (with_condition({"where": "x = 1", "u_x": True}), ("conditions", 3, "u_x"), "a number"),
    (
        with_condition({"where": "x = 1", "equation": "x = 1"}),
        ("conditions", 3, "equation"),
        "holds no field",
    ),
    (
        with_condition({"where": "x = 1", "equation": 3}),
        ("conditions", 3, "equation"),
        "write an equation",
    ),
    (with_condition({"where": "x = 1", "u_x": 0, "name": 3}), ("conditions", 3, "name"), "text"),
    (
        changed(
            conditions=[
                INITIAL,
                {**ENDS[0], "name": "wall"},
                {**ENDS[1], "name": "wall"},
            ]
        ),
        ("conditions", 2, "name"),
        "two conditions",
    ),
    (conditions(*ENDS), ("conditions",), "needs 1 initial value (u), found 0"),
    (with_condition({"where": "t = 0", "u_t": 0}), ("conditions",), "too many initial values"),
    (with_condition({"where": "t = 0", "u": 0}), ("conditions", 3), "u at t = 0"),
    (
        with_condition({"where": "t = 0", "u_x": 0}),
        ("conditions", 3, "u_x"),
        "follows from the initial value",
    ),
    (
        with_condition({"where": "t = 0", "equation": "u = 0"}),
        ("conditions", 3, "equation"),
        "gives values",
    ),
    (
        conditions({"where": "t = 0", "u": "u_x"}, *ENDS),
        ("conditions", 0, "u"),
        "cannot depend on a field",
    ),
    (
        changed(equations=["u_tt = u_xx"]),
        ("conditions",),
        "needs 2 initial values (u, u_t), found 1",
    ),
    (conditions(INITIAL), ("conditions",), "prescribed at x = -1"),
    (conditions(INITIAL, ENDS[0]), ("conditions",), "prescribed at x = 1"),
    (
        changed(equations=["u_t + u_x = 0"], conditions=[INITIAL]),
        ("conditions",),
        "at either end of x",
    ),
    (changed(equations=[KDV]), ("conditions",), "order 3 in x needs 3 boundary conditions"),
    (with_condition({"periodic": "x"}), ("conditions", 1, "where"), "x is periodic"),
    (with_condition({"periodic": "t"}), ("conditions", 3, "periodic"), "time cannot be periodic"),
    (with_condition({"periodic": "z"}), ("conditions", 3, "periodic"), "no such coordinate"),
    (with_condition({"periodic": ["x", "x"]}), ("conditions", 3, "periodic"), "periodic twice"),
    (with_condition({"periodic": []}), ("conditions", 3, "periodic"), "write a space coordinate"),
    (with_condition({"periodic": "x", "u": 0}), ("conditions", 3, "u"), "beside periodic"),
    (
        conditions(INITIAL, {"periodic": "x"}, {"where": "boundary", "u": 0}),
        ("conditions", 2, "where"),
        "no boundary",
    ),
    (changed(reference=3), ("reference",), "write auto, none"),
    (changed(reference={"exakt": {}}), ("reference",), "write auto, none"),
    (changed(reference={"method": 3}), ("reference", "method"), "name of a method"),
    (changed(reference={"exact": "0"}), ("reference", "exact"), "write a mapping"),
    (changed(reference={"exact": {}}), ("reference", "exact"), "'u' is missing"),
    (changed(reference={"exact": {"u": 0, "v": 0}}), ("reference", "exact", "v"), "not a field"),
    (
        changed(reference={"exact": {"u": "u_x"}}),
        ("reference", "exact", "u"),
        "cannot depend on a field",
    ),
]


@pytest.mark.parametrize(("mapping", "path", "words"), BAD, ids=range(len(BAD)))
def test_refusals_name_the_place(mapping: Any, path: tuple, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Problem.from_mapping(mapping)
    assert words in str(caught.value), str(caught.value)
    assert caught.value.path == path, str(caught.value)
    assert caught.value.advice, "every refusal says what to write instead"


@pytest.mark.parametrize(
    "mapping",
    [
        # Order one: one end is enough.
        changed(equations=["u_t + u_x = 0"], conditions=[INITIAL, ENDS[0]]),
        # Three conditions for order three.
        changed(
            equations=[KDV], conditions=[INITIAL, ENDS[0], {"where": "x = 1", "u": 0, "u_x": 0}]
        ),
        # Order in time counts mixed derivatives once (Benjamin-Bona-Mahony).
        changed(equations=["u_t + u_x + u*u_x - u_xxt = 0"]),
        # A field without a time derivative needs no initial value.
        changed(
            fields=["u", "v"],
            equations=["u_t = v_xx", "v = u^3 - u - nu*u_xx"],
            conditions=[INITIAL, {"periodic": "x"}],
        ),
    ],
)
def test_sound_problems_pass(mapping: dict[str, Any]) -> None:
    Problem.from_mapping(mapping)
