"""The least-squares optimisers as stages of a case: chosen, wired, resumed, refused."""

from __future__ import annotations

import math

import pytest
import torch

from residua.config import make_case
from residua.engine.optimizers.gauss_newton import GaussNewton
from residua.engine.optimizers.spring import Spring
from residua.engine.optimizers.variable_projection import VariableProjection
from residua.errors import ConfigurationError, ResourceError
from residua.solvers.pinn import Pinn

SMALL = {"network": {"width": 8, "depth": 2}, "points": {"interior": 100}}


def trainer(name, optimizer, **more):
    solver = {"name": "pinn", **SMALL, "optimizer": [optimizer], **more}
    return Pinn(make_case(name, solver, {"budget": 10}), torch.device("cpu"))


def test_options_reach_the_optimiser():
    chosen = {"name": "gauss_newton", "solver": "qr", "line_search": "grid", "acceleration": False}
    optimizer = trainer("poisson_2d", chosen).optimizer
    assert isinstance(optimizer, GaussNewton)
    assert (optimizer.form, optimizer.line_search, optimizer.acceleration) == ("qr", "grid", False)
    spring = trainer("poisson_2d", {"name": "spring", "momentum": 0.5, "largest_step": 3}).optimizer
    assert isinstance(spring, Spring)
    assert (spring.momentum, spring.largest_step) == (0.5, 3.0)


@pytest.mark.parametrize("name, exact", [("poisson_2d", True), ("burgers", False)])
def test_the_readout_is_found_and_the_loss_falls(name, exact):
    member = trainer(name, {"name": "gauss_newton", "variable_projection": True})
    optimizer = member.optimizer
    assert isinstance(optimizer, VariableProjection)
    assert int(optimizer.is_linear.sum()) == 9 and optimizer.exact == exact
    before = float(member.engine.row_vector(member.batch).square().sum())
    losses = [member.step(math.inf).loss for _ in range(4)]
    assert losses[-1] < (1e-3 if exact else 0.5) * before


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "spring"}, {"name": "gauss_newton", "variable_projection": True}],
    ids=["spring", "variable projection"],
)
def test_a_resumed_run_is_the_same_run(optimizer):
    whole = trainer("poisson_2d", optimizer, points={"interior": 60, "resample_every": 3})
    for _ in range(4):
        whole.step(math.inf)
    again = trainer("poisson_2d", optimizer, points={"interior": 60, "resample_every": 3})
    again.load_state_dict(whole.state_dict())
    for _ in range(4):
        whole.step(math.inf)
        again.step(math.inf)
    for one, other in zip(whole.field.parameters(), again.field.parameters(), strict=True):
        assert torch.equal(one, other)


def test_spring_draws_fresh_points_in_every_step():
    points = {"interior": 50, "resample_every": "auto"}
    member = trainer("poisson_2d", {"name": "spring"}, points=points)
    member.step(math.inf)
    first = member.batch["interior"].points.clone()
    member.step(math.inf)
    assert not torch.equal(first, member.batch["interior"].points)


def test_a_jacobian_too_large_is_refused_before_it_is_computed():
    with pytest.raises(ResourceError, match=r"GiB.*lbfgs"):
        trainer(
            "poisson_2d",
            "spring",
            network={"width": 1500, "depth": 2},
            points={"interior": 1000},
        )


def test_a_grid_and_variable_projection_exclude_each_other():
    with pytest.raises(ConfigurationError, match="line_search"):
        trainer(
            "poisson_2d",
            {"name": "gauss_newton", "variable_projection": True, "line_search": "grid"},
        )
