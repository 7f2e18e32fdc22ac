"""Weights that are measured while training: tangent kernels and attention, on a small problem."""

import pytest
import torch

from residua.config import make_case
from residua.engine.residuals import PointSet
from residua.engine.weighting import NtkTrace, ResidualAttention
from residua.errors import DivergedError
from residua.solvers import BACKENDS


def trainer(weighting, optimizer="adam", **settings):
    solver = {
        "name": "pinn",
        "hard": False,
        "network": {"width": 6, "depth": 1},
        "points": {"interior": 40, "boundary": 5, "adaptive": "none", "resample_every": 0},
        "optimizer": {"name": optimizer, "steps": 400}
        | ({"learning_rate": 0.03} if optimizer == "adam" else {}),
        "weighting": weighting,
        **settings,
    }
    case = make_case("poisson_1d", solver, {"budget": "none"})
    return BACKENDS["pinn"].load()(case, torch.device("cpu"))


def test_the_size_of_a_term_is_the_mean_diagonal_of_its_kernel():
    member = trainer({"name": "ntk", "every": 5})
    found = member._kernel_diagonals()
    for name, members in member.batch.items():
        values = member.engine.residuals({name: members})[name].flatten()
        rows = [torch.autograd.grad(v, member.engine.parameters, retain_graph=True) for v in values]
        squares = [sum(float(g.square().sum()) for g in row) for row in rows]
        assert found[name] == pytest.approx(sum(squares) / len(squares), rel=1e-10)
        # Wrong twin: the gradient of the sum, in which residuals cancel.
        total = torch.autograd.grad(values.sum(), member.engine.parameters)
        twin = sum(float(g.square().sum()) for g in total) / len(values)
        assert len(values) == 1 or abs(twin / found[name] - 1) > 0.05


def test_the_kernels_of_the_weighted_terms_approach_one_another():
    balance = NtkTrace(["equation", "wall"], decay=0.0)
    balance.update({"equation": 400.0, "wall": 4.0})
    assert balance.weights["equation"] * 400 == pytest.approx(balance.weights["wall"] * 4)
    with pytest.raises(DivergedError, match="tangent kernel"):
        balance.update({"equation": float("nan"), "wall": 1.0})


def test_attention_goes_where_the_residual_stays():
    attention = ResidualAttention(["interior"], decay=0.9, rate=0.5)
    residual = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    for _ in range(300):
        multipliers = attention.update("interior", residual)
    # The fixed point of the recursion is eta / (1 - gamma) |r| / max |r|.
    assert multipliers.tolist() == pytest.approx([5.0, 2.5, 0.0], abs=1e-9)
    attention.renew("interior", 5)
    assert attention.multipliers["interior"].tolist() == pytest.approx([2.5] * 5)
    restored = ResidualAttention(["interior"], decay=0.9, rate=0.5)
    restored.load_state_dict(attention.state_dict())
    again = torch.linspace(0, 1, 5).double()[:, None]
    assert torch.equal(restored.update("interior", again), attention.update("interior", again))


@pytest.mark.parametrize("optimizer", ["adam", "gauss_newton", "quasi_newton"])
@pytest.mark.parametrize("name", ["ntk", "residual_attention"])
def test_every_optimiser_trains_under_them(name, optimizer):
    member = trainer({"name": name, "every": 10}, optimizer)
    first = member._training_residual()
    for _ in range(300 if optimizer == "adam" else 50):
        member.step(float("inf"))
    assert member._training_residual() < 0.5 * first
    weights = member.batch["interior"].weights
    spread = float(weights.max() / weights.min())
    assert spread > 1.01 if name == "residual_attention" else spread == pytest.approx(1)


def test_the_loss_under_attention_is_the_mean_of_the_multiplied_squares():
    member = trainer({"name": "residual_attention", "every": 1, "rate": 0.5, "decay": 0.5})
    for _ in range(4):
        member.step(float("inf"))
    members = member.batch["interior"]
    multipliers = member.weighting.multipliers["interior"]
    alone = PointSet(members.points, torch.ones_like(members.weights))
    r = member.engine.residuals({"interior": alone})["interior"].detach()
    wanted = float((multipliers[:, None] * r).square().mean())
    shares = member.engine.loss({"interior": members})[1]
    assert float(shares["interior"].detach()) == pytest.approx(wanted, rel=1e-12)


def test_fresh_points_count_as_the_old_ones_did_until_they_have_multipliers_of_their_own():
    weighting = {"name": "residual_attention", "every": 7, "rate": 0.5, "decay": 0.5}
    points = {"interior": 40, "boundary": 5, "adaptive": "none", "resample_every": 5}
    member = trainer(weighting, points=points)
    for step in range(1, 23):
        member.step(float("inf"))
        members = member.batch["interior"]
        sizes = member.weighting.multipliers.get("interior")
        if sizes is not None:
            wanted = sizes.to(members.weights).square() / len(members.points)
            assert torch.allclose(members.weights, wanted), f"step {step}"
    assert sizes is not None and not torch.allclose(sizes, torch.ones_like(sizes), atol=0.1)
