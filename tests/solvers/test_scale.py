"""What a run does must not depend on the units of the unknown, nor on who rebalances the terms."""

import pytest
import torch

from residua.config import make_case
from residua.solvers import BACKENDS

NETWORK = {"width": 8, "depth": 2}


def heat(size, wall=0):
    return {
        "coordinates": {"x": [0, 1], "t": [0, 0.2]},
        "fields": ["u"],
        "equations": ["u_t = u_xx"],
        "conditions": [
            {"where": "t = 0", "u": f"{size}*sin(pi*x) + {size}*{wall}"},
            {"where": "x = 0", "u": 0},
            {"where": "x = 1", "u": 0},
        ],
    }


def trainer(problem, name="pinn", **settings):
    solver = {"name": name, "network": NETWORK, "points": {"interior": 150}, **settings}
    case = make_case(problem, solver, {"budget": "none", "steps": 100})
    return BACKENDS[name].load()(case, torch.device("cpu"))


@pytest.mark.parametrize("size", [1e-8, 1e6])
def test_the_error_does_not_depend_on_the_units_of_the_field(size):
    errors = []
    for amplitude in (1.0, size):
        member = trainer(heat(amplitude))
        for _ in range(60):
            done = member.step(float("inf")).done
            assert not done, "a small solution was taken for a small loss"
        points = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)).double()
        points[:, 1] *= 0.2
        wanted = torch.exp(-(torch.pi**2) * points[:, 1]) * torch.sin(torch.pi * points[:, 0])
        found = member.field(points)[:, 0].detach() / amplitude
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert max(errors) < 1e-4
    assert max(errors) < 100 * min(errors)


@pytest.mark.parametrize("size", [1.0, 1e-10])
def test_data_that_disagree_are_noticed_in_any_units(size):
    agree, disagree = trainer(heat(size)), trainer(heat(size, wall=0.3))
    assert not any("disagree" in note for note in agree.notes)
    assert any("disagree" in note for note in disagree.notes)


def test_balancing_the_terms_leaves_the_causal_weights_in_place():
    member = trainer(
        heat(1.0),
        "causal",
        hard=False,
        points={"interior": 64, "adaptive": "none", "resample_every": 0},
        optimizer={"name": "adam", "steps": 50},
        weighting={"name": "gradient_norm", "every": 3},
        causal={"slabs": 8, "refresh": 100, "epsilons": [10.0], "floor": 0.0},
    )
    for _ in range(5):
        member.step(float("inf"))
        weights = member.batch["interior"].weights
        slabs = member.causal.slab_weights
        assert slabs.max() / slabs.min() > 2
        assert weights.max() / weights.min() > 2
