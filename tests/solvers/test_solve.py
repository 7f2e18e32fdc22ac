"""A case to a run folder: accuracy, files, resume, divergence, gates."""

import json

import numpy as np
import pytest
import torch

import residua
from residua.config import make_case
from residua.engine.fit import Record, fit, restore
from residua.errors import DivergedError
from residua.progress import QuietReporter
from residua.solvers.causal import Causal
from residua.solvers.pinn import Pinn
from residua.solvers.run import solve_case

HEAT = {
    "coordinates": {"x": [0, 1], "t": [0, 0.2]},
    "fields": ["u"],
    "equations": ["u_t = u_xx"],
    "conditions": [
        {"where": "t = 0", "u": "sin(pi*x)"},
        {"where": "x = 0", "u": 0},
        {"where": "x = 1", "u": 0},
    ],
}
QUICK = {
    "name": "causal",
    "windows": 2,
    "network": {"width": 8, "depth": 2},
    "points": {"interior": 150, "adaptive": "rad", "resample_every": 7},
    "optimizer": {"name": "gauss_newton", "steps": 20},
}


def test_an_equation_never_seen_before_is_solved_and_measured(tmp_path):
    run = {"budget": "none", "steps": 40, "accuracy": 1e-3}
    outcome = solve_case(
        make_case(HEAT, QUICK, run), out=tmp_path, resume=False, reporter=QuietReporter()
    )
    assert outcome.exit_code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["relative_l2"]["u"] < 1e-4
    assert 0 < summary["reference_error_bar"]["u"] < 1e-8
    assert summary["classical"]["seconds_to_same_error"] > 0
    for name in ("solution.h5", "solution.vtkhdf", "figure.png", "metrics.jsonl"):
        assert (tmp_path / name).stat().st_size > 0
    solution = residua.load(tmp_path)
    points = np.array([[0.3, 0.05], [0.5, 0.15]])
    values, by_name = solution(points, derivatives=("u_xx", "u_t"))
    exact = np.sin(np.pi * points[:, 0]) * np.exp(-(np.pi**2) * points[:, 1])
    assert np.abs(values[:, 0] - exact).max() < 1e-4
    assert np.abs(by_name["u_t"] - by_name["u_xx"]).max() < 1e-2
    missed = solve_case(
        make_case(HEAT, QUICK, {"budget": "none", "steps": 1, "accuracy": 1e-12}),
        out=tmp_path / "missed",
        resume=False,
        reporter=QuietReporter(),
    )
    assert missed.exit_code == 1


@pytest.mark.parametrize("optimizer", ["gauss_newton", "quasi_newton", "lbfgs", "soap", "adam"])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, optimizer):
    solver = {**QUICK, "optimizer": {"name": optimizer, "steps": 12}}
    case = make_case(HEAT, solver, {"budget": "none", "steps": 24, "deterministic": True})

    def train(member, record, steps, folder):
        folder.mkdir(exist_ok=True)
        return fit(member, record, reporter=QuietReporter(), folder=folder, steps=steps)

    whole = Causal(case, torch.device("cpu"))
    train(whole, Record(), 24, tmp_path / "whole")
    for cut in (5, 13):
        first = Causal(case, torch.device("cpu"))
        train(first, Record(), cut, tmp_path / f"cut{cut}")
        second = Causal(case, torch.device("cpu"))
        record = restore(second, tmp_path / f"cut{cut}")
        assert record.step == cut
        train(second, record, 24, tmp_path / f"cut{cut}")
        for name, tensor in whole.field.state_dict().items():
            assert torch.equal(tensor, second.field.state_dict()[name]), name


def test_a_loss_that_is_not_finite_rolls_back_and_then_gives_up(tmp_path):
    solver = {key: value for key, value in QUICK.items() if key != "windows"} | {"name": "pinn"}
    case = make_case(HEAT, solver, {"budget": "none", "steps": 30})
    member = Pinn(case, torch.device("cpu"))
    honest = member.step
    calls = {"n": 0}

    def failing(seconds_left):
        calls["n"] += 1
        if calls["n"] > 3:
            raise DivergedError("the loss is not finite")
        return honest(seconds_left)

    member.step = failing
    with pytest.raises(DivergedError, match="rollbacks"):
        fit(member, Record(), reporter=QuietReporter(), folder=tmp_path, steps=30)
    assert calls["n"] == 7
    assert list((tmp_path / "checkpoints").glob("step-*.pt"))
    for tensor in member.field.state_dict().values():
        assert bool(torch.isfinite(tensor).all())
