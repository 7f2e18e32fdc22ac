"""Cases: defaults, recommendations, overrides, and resolved files that load again."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residua import yaml_source
from residua.config import Case, load_case, make_case
from residua.errors import ConfigurationError
from residua.overrides import merged
from residua.problems import registry
from residua.solvers.options import (
    Adam,
    CausalOptions,
    GaussNewton,
    Lbfgs,
    PinnOptions,
    QuasiNewton,
    Soap,
)
from residua.typed import seconds

CASE = """\
problem:
  coordinates: {x: [-1, 1], t: [0, 1]}
  fields: [u]
  parameters: {nu: {value: 0.01/pi, range: [1e-4, 1]}}
  equations: ["u_t + u*u_x = nu*u_xx"]
  conditions:
    - {where: t = 0, u: -sin(pi*x)}
    - {where: x = -1, u: 0}
    - {where: x = 1, u: 0}
solver: {name: causal, windows: 8, optimizer: gauss_newton}
run: {seed: 0, dtype: float64, device: auto, budget: 5 min}
"""


def load_text(text, folder, overrides=()):
    path = folder / "case.yaml"
    path.write_text(text, encoding="utf-8")
    return load_case(path, overrides)


def test_the_case_of_the_readme(tmp_path):
    case = load_text(CASE, tmp_path)
    assert case.solver == CausalOptions(windows=8, optimizer=(GaussNewton(),))
    assert case.run.budget == 300.0
    assert case.name == "case" and case.problem.fields == ("u",)
    assert str(case.folder) == f"runs/case-{case.digest()[:8]}"


@pytest.mark.parametrize("name", registry.names())
def test_a_resolved_case_loads_again_to_an_equal_case(name, tmp_path):
    case = load_case(name)
    assert load_text(case.text(inline=True), tmp_path) == case
    for path, text in case.files().items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    again = load_text(case.text(), tmp_path)
    assert again == case
    assert again.text() == case.text()
    assert again.digest() == case.digest()


def test_every_default_is_spelled_out(tmp_path):
    resolved = load_text(CASE, tmp_path).resolved()
    assert set(resolved["solver"]) == {field.name for field in dataclasses.fields(CausalOptions)}
    assert resolved["solver"]["network"]["width"] == 20
    assert resolved["run"]["checkpoint_every"] == 60.0


def test_the_digest_sees_every_change_and_nothing_else(tmp_path):
    case = load_text(CASE, tmp_path)
    commented = load_text("# a comment\n" + CASE.replace("windows: 8", "windows: 8.0"), tmp_path)
    assert commented.digest() == case.digest()
    for change in (
        "run.seed=1",
        "solver.windows=4",
        "problem.parameters.nu=0.02",
        "solver.points.interior=1999",
    ):
        assert load_text(CASE, tmp_path, [change]).digest() != case.digest()


def test_overrides_are_applied_in_order_and_by_the_rules_of_yaml(tmp_path):
    case = load_text(CASE, tmp_path, ["solver.windows=2", "solver.windows=1e1", "run.out=null"])
    assert case.solver.windows == 10 and case.run.out is None


def test_an_override_reaches_short_forms_and_lists(tmp_path):
    assert load_text(CASE, tmp_path, ["solver.optimizer.steps=7"]).solver.optimizer == (
        GaussNewton(steps=7),
    )
    assert load_text(CASE, tmp_path, ["solver.optimizer=adam"]).solver.optimizer == (Adam(),)
    two = load_text(
        CASE,
        tmp_path,
        ["solver.optimizer=[{name: adam, steps: 5}, lbfgs]", "solver.optimizer.1.steps=9"],
    )
    assert two.solver.optimizer == (Adam(steps=5), Lbfgs(steps=9))
    second = load_text(
        CASE,
        tmp_path,
        ["solver.optimizer=[{name: soap, steps: 5}, quasi_newton]"]
        + ["solver.optimizer.0.refresh=1", "solver.optimizer.1.update=bfgs"],
    )
    assert second.solver.optimizer == (Soap(steps=5, refresh=1), QuasiNewton(update="bfgs"))
    assert {**second.resolved()["solver"]["optimizer"][1], "steps": 7} == {
        "name": "quasi_newton",
        "steps": 7,
        "update": "bfgs",
        "tolerance": 1e-24,
    }
    moved = load_text(CASE, tmp_path, ["problem.conditions.0.u=cos(pi*x)"])
    assert moved.resolved()["problem"]["conditions"][0]["u"] == "cos(pi*x)"


def test_a_parameter_keeps_its_range_under_an_override(tmp_path):
    parameter = load_text(CASE, tmp_path, ["problem.parameters.nu=0.02"]).problem.parameters["nu"]
    assert (parameter.value, parameter.low, parameter.high) == (0.02, 1e-4, 1.0)
    with pytest.raises(ConfigurationError, match=r"--set problem.parameters.nu=2"):
        load_text(CASE, tmp_path, ["problem.parameters.nu=2"])
    assert load_case("burgers", ["problem.parameters.nu=0.02"]).problem.values["nu"] == 0.02


def recommending(**recommended):
    problem = dataclasses.replace(registry.get("burgers"), recommended=recommended)
    return problem


def test_recommended_settings_lie_beneath_what_is_asked_for():
    problem = recommending(
        solver={"name": "causal", "windows": 6, "network": {"width": 30}}, run={"seed": 3}
    )
    assert make_case(problem).solver.windows == 6
    asked = make_case(problem, {"network": {"depth": 2}})
    assert (asked.solver.windows, asked.solver.network.width, asked.solver.network.depth) == (
        6,
        30,
        2,
    )
    assert make_case(problem, "causal").solver.windows == 6
    assert make_case(problem, run={"budget": 5}).run.seed == 3
    # Advice about one backend says nothing about another.
    assert make_case(problem, "pinn").solver == PinnOptions()


def test_the_default_backend_follows_the_problem():
    assert isinstance(make_case("heat").solver, CausalOptions | PinnOptions)
    assert make_case("poisson_2d").solver.name == "pinn"
    with pytest.raises(ConfigurationError, match="no time coordinate"):
        make_case("poisson_2d", "causal")


@pytest.mark.parametrize(
    ("under", "over", "result"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"name": "x", "k": 1}, {"k": 2}, {"name": "x", "k": 2}),
        ({"name": "x", "k": 1}, {"name": "y"}, {"name": "y"}),
        ({"name": "x", "k": 1}, "x", {"name": "x", "k": 1}),
        ("x", {"k": 1}, {"name": "x", "k": 1}),
        (["x"], {"k": 1}, [{"name": "x", "k": 1}]),
        (["x", "y"], {"1": {"k": 1}}, ["x", {"name": "y", "k": 1}]),
        ([1, 2], [3], [3]),
        ({"a": 1}, None, None),
        (None, {"a": 1}, {"a": 1}),
    ],
)
def test_merging(under, over, result):
    before = copy.deepcopy((under, over))
    assert merged(under, over) == result
    assert (under, over) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [("90 s", 90), ("5 min", 300), ("1.5h", 5400), ("200 ms", 0.2), ("7", 7), ("2 days", 172800)],
)
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value, rel=1e-15)


def test_a_case_from_python_values():
    definition = yaml_source.load(CASE).data["problem"]
    case = make_case(definition, {"name": "pinn", "optimizer": ["lbfgs"]}, {"seed": 4})
    assert case.solver.optimizer == (Lbfgs(),) and case.run.seed == 4
    assert make_case(registry.get("burgers")) == load_case("burgers")
    with pytest.raises(ConfigurationError, match="solver.network.widht") as caught:
        make_case("heat", {"network": {"widht": 3}})
    assert caught.value.path == ("solver", "network", "widht") and caught.value.file is None


def test_a_python_residual_is_written_as_the_text_it_traced_to(tmp_path):
    problem = yaml_source.load(CASE).data["problem"]
    case = make_case({**problem, "equations": [lambda v: v.u_t + v.u * v.u_x - v.nu * v.u_xx]})
    again = load_text(case.text(), tmp_path)
    assert again.digest() == case.digest()
    assert again.problem.equations[0].tree == case.problem.equations[0].tree
    other = make_case({**problem, "equations": [lambda v: v.u_t - v.nu * v.u_xx]})
    assert other.digest() != case.digest()


# -- mutation: whatever is done to a valid case, the answer is a case or a ConfigurationError --

VALID = yaml_source.load(CASE).data
VALID["solver"] = load_case("burgers").resolved()["solver"]
VALID["run"] = load_case("burgers").resolved()["run"]


def places(node, path=()):
    yield path
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, child in items:
        yield from places(child, (*path, key))


PLACES = [path for path in places(VALID) if path]
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            -1,
            0,
            1,
            2.5,
            1e300,
            10**29,
            float("nan"),
            float("inf"),
            "",
            "x",
            "u",
            "u_x",
            "causal",
            [],
            {},
        ]
    ),
    st.sampled_from(
        [
            [1],
            ["x"],
            [[]],
            {"name": 3},
            {"name": "adam"},
            {"where": "t = 0"},
            "1/0",
            "9**9**9",
            "t = 0",
            "none",
            "a" * 200,
        ]
    ),
    st.integers(-(10**6), 10**6),
    st.text(st.sampled_from("uxt_+-*/^()=., 0123pie"), max_size=12),
)


def descend(node, path):
    """The mapping or list at `path`, or None where earlier mutations have removed it."""
    for key in path:
        inside = (
            key in node
            if isinstance(node, dict)
            else isinstance(node, list) and key in range(len(node))
        )
        if not inside:
            return None
        node = node[key]
    return node if isinstance(node, dict | list) else None


@st.composite
def mutants(draw):
    data = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        holder = descend(data, path[:-1]) if isinstance(data, dict) else None
        if holder is None or (isinstance(holder, dict) and path[-1] not in holder):
            continue
        if isinstance(holder, list) and not (isinstance(path[-1], int) and path[-1] < len(holder)):
            continue
        kind = draw(st.sampled_from(["delete", "replace", "rename", "swap", "append"]))
        if kind == "delete":
            del holder[path[-1]]
        elif kind == "replace":
            holder[path[-1]] = draw(ODD)
        elif kind == "rename" and isinstance(holder, dict):
            holder[f"{path[-1]}{draw(st.sampled_from('sx_1'))}"] = holder.pop(path[-1])
        elif kind == "swap":
            other = descend(VALID, draw(st.sampled_from(PLACES))[:-1])
            holder[path[-1]] = copy.deepcopy(other)
        elif isinstance(holder, list):
            holder.append(draw(ODD))
    return data


@settings(max_examples=200, deadline=None)
@given(mutants())
def test_a_mutated_case_is_a_case_or_a_clear_refusal(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutant.yaml"
    path.write_text(yaml_source.dump(data), encoding="utf-8")
    try:
        case = load_case(path)
    except ConfigurationError as error:
        text = str(error)
        assert str(path) in text and "\n" not in text
        assert error.advice or error.message
        return
    assert isinstance(case, Case)
    path.write_text(case.text(), encoding="utf-8")
    assert load_case(path) == case
