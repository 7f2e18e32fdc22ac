"""The general optimisers inside a case: points, weights, memory, and what a run says of them."""

from __future__ import annotations

import pytest
import torch

from residua.config import make_case
from residua.engine.optimizers.first_order import Adam
from residua.engine.optimizers.quasi_newton import DenseInverse, LimitedInverse, QuasiNewton
from residua.engine.optimizers.soap import Soap
from residua.errors import ResourceError
from residua.solvers import stages
from residua.solvers.causal import Causal
from residua.solvers.options import Points
from residua.solvers.pinn import Pinn

HEAT = {
    "coordinates": {"x": [0, 1], "t": [0, 0.2]},
    "fields": ["u"],
    "equations": ["u_t = u_xx"],
    "conditions": [
        {"where": "t = 0", "u": "sin(pi*x)"},
        {"where": "x = 0", "u": 0},
        {"where": "x = 1", "u": 0},
    ],
    "reference": "none",
}
SMALL = {"network": {"width": 8, "depth": 2}, "points": {"interior": 100}}
CPU = torch.device("cpu")


def trainer(optimizer, solver=None, backend=Pinn):
    settings = {"name": backend.__name__.lower(), **SMALL, **(solver or {}), "optimizer": optimizer}
    return backend(make_case(HEAT, settings), CPU)


@pytest.mark.parametrize(
    ("name", "kind", "inverse"),
    [
        ("quasi_newton", QuasiNewton, DenseInverse),
        ("lbfgs", QuasiNewton, LimitedInverse),
        ("soap", Soap, None),
        ("adam", Adam, None),
    ],
)
def test_a_name_chooses_the_optimiser(name, kind, inverse):
    member = trainer(name).optimizer
    assert type(member) is kind
    if isinstance(member, QuasiNewton):
        assert type(member.inverse) is inverse


@pytest.mark.parametrize("update", ["bfgs", "ss_bfgs", "ss_broyden", "ss_broyden1"])
def test_the_update_reaches_the_inverse_and_solves(update):
    member = trainer({"name": "quasi_newton", "update": update})
    assert member.optimizer.inverse.kind == update
    losses = [member.step(float("inf")).loss for _ in range(80)]
    assert losses[-1] < 1e-3 * losses[0]


def test_points_stay_as_long_as_the_literature_says():
    points = Points()
    assert [points.interval(n) for n in ("gauss_newton", "quasi_newton", "soap", "adam")] == [
        20,
        500,
        10,
        100,
    ]
    assert points.interval("lbfgs") == 0
    assert [points.rule(n) for n in ("quasi_newton", "soap", "lbfgs")] == ["rad", "none", "none"]
    assert Points(resample_every=0).rule("quasi_newton") == "none"


def test_fresh_points_leave_h_and_drop_the_gradient():
    """Right after fresh points the first value is that of the new ones, and H is the old one."""
    member = trainer("quasi_newton", {"points": {"interior": 100, "resample_every": 30}})
    optimizer = member.optimizer
    for _ in range(30):
        member.step(float("inf"))
    learnt, stale = optimizer.inverse.matrix.clone(), optimizer.known
    member._refresh()
    assert torch.equal(optimizer.inverse.matrix, learnt) and not optimizer.inverse.fresh
    assert stale is not None and optimizer.known is None
    value = float(member.engine.loss(member.batch)[0].detach())
    assert value != stale[0]
    assert optimizer.step() < value


@pytest.mark.parametrize(
    ("backend", "solver"),
    [
        (Causal, {"causal": {"refresh": 4, "slabs": 5}, "windows": 1}),
        (Pinn, {"weighting": {"name": "gradient_norm", "every": 4}, "hard": False}),
    ],
)
def test_new_weights_are_a_new_objective_too(backend, solver):
    """What is remembered of the loss has to be what the loss is, at every step."""
    points = {"interior": 100, "resample_every": 0, "boundary": 10, "initial": 10}
    member = trainer("quasi_newton", {**solver, "points": points}, backend)
    for _ in range(12):
        member.step(float("inf"))
        known = member.optimizer.known
        assert known is not None
        loss = float(member.engine.loss(member.batch)[0].detach())
        assert known[0] == pytest.approx(loss, rel=1e-12)


def test_an_inverse_too_large_is_refused_with_its_size(monkeypatch):
    with pytest.raises(ResourceError, match=r"\(22\d+ x 22\d+ in float64\) needs 3.\d GiB"):
        trainer("quasi_newton", {"network": {"width": 147, "depth": 2}})
    monkeypatch.setattr(stages, "LARGEST_INVERSE", 50)
    with pytest.raises(ResourceError, match="use a smaller network, or optimizer: soap or lbfgs"):
        trainer("quasi_newton")
    for name in ("lbfgs", "soap"):
        trainer(name)


def test_a_lost_inverse_is_in_the_notes_once():
    member = trainer("quasi_newton")
    for _ in range(2):
        member.step(float("inf"))
        member.optimizer.inverse.matrix.neg_()
        member.step(float("inf"))
    said = [note for note in member.notes if "identity again" in note]
    assert len(said) == 1 and said[0].startswith("the training found no lower loss")
