"""Parities: found where the mathematics has them, and only there."""

import copy
from typing import Any

import numpy as np
import pytest

from residua.problems import Problem, registry

KNOWN = {
    "allen_cahn": {"x": {"u": 1}},
    "burgers": {"x": {"u": -1}},
    "heat": {"x": {"u": 1}},
    "helmholtz_2d": {"x": {"u": -1}, "y": {"u": -1}},
    "kuramoto_sivashinsky": {"x": {"u": -1}},
    "poisson_2d": {"x": {"u": 1}, "y": {"u": 1}},
    "sine_gordon": {"x": {"u": 1}},
    "reaction_diffusion": {"x": {"u": 1}},
    # u_xxx changes sign where u_t does not.
    "kdv": {},
    # The initial value is neither even nor odd about pi.
    "kuramoto_sivashinsky_chaotic": {},
    "advection": {},
    # The two modes have opposite parity about 1/2.
    "wave": {},
    "lorenz": {},
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_parity_of_the_library(name: str) -> None:
    assert registry.get(name).parities() == KNOWN[name]


BURGERS: dict[str, Any] = registry.get("burgers").to_mapping()
START, LEFT, RIGHT = BURGERS["conditions"]


def variant(**changes: Any) -> Problem:
    return Problem.from_mapping({**copy.deepcopy(BURGERS), "reference": "auto", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": [{**START, "u": "-sin(pi*x) + 1e-6*cos(pi*x)"}, LEFT, RIGHT]},
        {"conditions": [START, LEFT, {**RIGHT, "u": 0.001}]},
        {"conditions": [START, LEFT, {"where": "x = 1", "u_x": 0}]},
        {"equations": ["u_t + u*u_x = nu*u_xx + 1e-6"]},
        {"equations": ["u_t + u*u_x = nu*(1 + 0.1*x)*u_xx"]},
        {"equations": ["u_t + u^2*u_x = nu*u_xx"]},
        {
            "coordinates": {"x": [-1, 1.5], "t": [0, 1]},
            "conditions": [START, LEFT, {"where": "x = 1.5", "u": 0}],
        },
    ],
)
def test_each_broken_ingredient_breaks_the_parity(changes: dict[str, Any]) -> None:
    assert variant().parities() == {"x": {"u": -1}}
    assert variant(**changes).parities() == {}


def test_boundary_conditions_are_compared_across() -> None:
    robin = [
        START,
        {"where": "x = -1", "equation": "u_n + 2*u = 0"},
        {"where": "x = 1", "equation": "u_n + 2*u = 0"},
    ]
    assert variant(conditions=robin).parities() == {"x": {"u": -1}}
    robin[2] = {"where": "x = 1", "equation": "u_x - 2*u = 0"}
    assert variant(conditions=robin).parities() == {}
    assert variant(conditions=[START, {**LEFT, "u": "-t"}, {**RIGHT, "u": "t"}]).parities() == {
        "x": {"u": -1}
    }
    assert variant(conditions=[START, {**LEFT, "u": "t"}, {**RIGHT, "u": "t"}]).parities() == {}


def test_fields_have_parities_of_their_own() -> None:
    mapping = {
        "coordinates": {"x": [0, 1], "t": [0, 1]},
        "fields": ["p", "v"],
        "equations": ["p_t + v_x = 0", "v_t + p_x = 0"],
        "conditions": [
            {"where": "t = 0", "p": "cos(2*pi*x)", "v": 0},
            {"where": "boundary", "v": 0},
        ],
    }
    assert Problem.from_mapping(mapping).parities() == {"x": {"p": 1, "v": -1}}


def test_a_nonlinear_steady_problem_may_break_its_symmetry() -> None:
    mapping = {
        "coordinates": {"x": [-1, 1]},
        "fields": ["u"],
        "equations": ["u_xx + 10*u - u^3 = 0"],
        "conditions": [{"where": "boundary", "u": 0}],
    }
    assert Problem.from_mapping(mapping).parities() == {}
    mapping["equations"] = ["u_xx - u = 1"]
    assert Problem.from_mapping(mapping).parities() == {"x": {"u": 1}}


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    registry.get("burgers").parities()
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
