"""Every setting that a case can choose, on problems with known solutions: it has to solve them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from residua.config import make_case
from residua.engine.fit import Record, fit
from residua.progress import QuietReporter
from residua.solvers import BACKENDS

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
RING = {
    "coordinates": {"x": [0, 1], "t": [0, 0.5]},
    "fields": ["u"],
    "equations": ["u_t + u_x = 0.01*u_xx"],
    "conditions": [{"where": "t = 0", "u": "sin(2*pi*x)"}, {"periodic": "x"}],
    "reference": "none",
}
# The left half of the rod, closed by the symmetry of the whole.
HALF = {
    **HEAT,
    "coordinates": {"x": [0, 0.5], "t": [0, 0.2]},
    "conditions": [*HEAT["conditions"][:2], {"where": "x = 0.5", "u_x": 0}],
}


def heat(p):
    return np.exp(-(np.pi**2) * p[:, 1]) * np.sin(np.pi * p[:, 0])


def ring(p):
    decay = np.exp(-0.01 * (2 * np.pi) ** 2 * p[:, 1])
    return decay * np.sin(2 * np.pi * (p[:, 0] - p[:, 1]))


EXACT = {id(HEAT): heat, id(RING): ring, id(HALF): heat}


class Trained:
    """A trained case: relative L2 error before and after, and the trainer."""

    def __init__(self, folder, problem, solver, steps=30, exact=None, dtype="float64"):
        base = {
            "name": "pinn",
            "network": {"width": 10, "depth": 2},
            "points": {"interior": 300, "resample_every": 0},
        }
        solver = {**base, **solver}
        solver["network"] = {**base["network"], **solver["network"]}
        solver["points"] = {**base["points"], **solver["points"]}
        run = {"budget": "none", "steps": steps, "seed": 3, "dtype": dtype}
        self.case = make_case(problem, solver, run)
        self.trainer = BACKENDS[self.case.solver.name].load()(self.case, torch.device("cpu"))
        self.exact = exact or EXACT[id(problem)]
        rng = np.random.default_rng(5)
        self.points = np.stack([rng.uniform(*b, 400) for b in self.case.problem.bounds], 1)
        self.before = self._error()
        self.drawn = self.interior()
        self.folder = folder
        self.record = Record()
        settings = {"reporter": QuietReporter(), "folder": folder, "steps": steps}
        self.status = fit(self.trainer, self.record, **settings)
        self.error = self._error()

    def __call__(self, points):
        inputs = torch.as_tensor(np.array(points)).to(self.trainer.dtype)
        with torch.no_grad():
            return self.trainer.field(inputs)[:, 0].double().numpy()

    def _error(self):
        truth = self.exact(self.points)
        return np.linalg.norm(self(self.points) - truth) / np.linalg.norm(truth)

    def interior(self):
        return self.trainer.batch["interior"].points.double().numpy().copy()


@pytest.fixture
def train(tmp_path):
    return lambda *arguments, **more: Trained(tmp_path, *arguments, **more)


def gn(steps):
    return {"optimizer": {"name": "gauss_newton", "steps": steps}}


WINDOWS = {"name": "causal", "windows": 2, **gn(25)}
PATHS = [
    ("sobol", HEAT, {"points": {"sampler": "sobol"}}, 1e-3),
    ("latin hypercube", HEAT, {"points": {"sampler": "latin_hypercube"}}, 1e-3),
    ("uniform", HEAT, {"points": {"sampler": "uniform"}}, 1e-3),
    ("grid", HEAT, {"points": {"sampler": "grid"}}, 1e-3),
    ("rad", HEAT, {"points": {"adaptive": "rad", "resample_every": 4}}, 1e-3),
    ("r3", HEAT, {"points": {"adaptive": "r3", "resample_every": 12}}, 1e-3),
    ("fresh points", HEAT, {"points": {"resample_every": 4}}, 1e-3),
    ("nothing hard", HEAT, {"hard": False}, 5e-2),
    ("initial hard", HEAT, {"hard": ["initial"]}, 5e-2),
    ("no symmetry", HEAT, {"symmetry": "none"}, 1e-3),
    ("windows", HEAT, WINDOWS, 1e-3),
    ("soft windows", HEAT, {**WINDOWS, "hard": False}, 5e-2),
    ("overhang", HEAT, {**WINDOWS, "overhang": 0.1}, 1e-3),
    ("cold windows", HEAT, {**WINDOWS, "warm_start": False}, 1e-3),
    ("propagator", RING, {"propagator": True}, 1e-4),
    ("periodic hard", RING, {"propagator": False, "network": {"harmonics": 1}}, 5e-2),
    ("periodic soft", RING, {"propagator": False, "hard": ["initial"]}, 1e-1),
    ("all soft", RING, {"hard": False}, 5e-2),
    ("flux", HALF, {}, 5e-2),
    ("flux soft", HALF, {"hard": False}, 5e-2),
    ("gated", HEAT, {"network": {"kind": "modified_mlp"}}, 1e-3),
    ("factorised", HEAT, {"network": {"factorised": True}}, 1e-3),
    ("both", HEAT, {"network": {"kind": "modified_mlp", "factorised": True}}, 1e-3),
    ("fourier", HEAT, {"network": {"fourier": 6, "fourier_scale": 1.0}}, 1e-3),
    ("sin", HEAT, {"network": {"activation": "sin"}}, 1e-3),
    ("silu", HEAT, {"network": {"activation": "silu"}}, 1e-3),
    ("gelu", HEAT, {"network": {"activation": "gelu"}}, 1e-3),
    ("primal", HEAT, {"optimizer": {"name": "gauss_newton", "solver": "primal"}}, 1e-3),
    ("dual", HEAT, {"optimizer": {"name": "gauss_newton", "solver": "dual"}}, 1e-3),
    ("weights", HEAT, {"hard": False, "weighting": {"values": {"boundary": 100}}}, 5e-2),
    ("balanced", HEAT, {"hard": False, "weighting": {"name": "gradient_norm", "every": 5}}, 5e-2),
]
IDS = [path[0].replace(" ", "-") for path in PATHS]


@pytest.mark.parametrize(("name", "problem", "solver", "bound"), PATHS, ids=IDS)
def test_every_path_solves_its_problem(train, name, problem, solver, bound):
    run = train(problem, solver, 50 if "windows" in solver else 30)
    assert run.error < bound < 0.1 * run.before
    drawn, low, high = run.interior(), *np.transpose(run.trainer.current.bounds)
    assert (drawn[:, 0] >= low[0]).all() and (drawn <= high * 1.1).all()
    if "windows" not in solver:
        moved = (drawn[:, None] != run.drawn[None]).any(2).all(1)
        assert moved.any() == ("resample_every" in solver.get("points", {}))
        assert not moved.all() or solver["points"].get("adaptive") != "r3", "r3 retains points"


def test_another_equation_is_not_solved(train):
    """The wrong twin: a diffusivity that is off by a tenth misses every bound above."""
    wrong = {**HEAT, "equations": ["u_t = 1.1*u_xx"]}
    run = train(wrong, {}, exact=heat)
    assert run.error > max(bound for *_, bound in PATHS if bound < 1e-1)


def test_single_precision_stays_single(train):
    run = train(HEAT, {}, dtype="float32")
    assert 1e-7 < run.error < 1e-3 < 0.1 * run.before
    tensors = [*run.trainer.field.parameters(), *(b.points for b in run.trainer.batch.values())]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"] > 0


def test_a_soft_period_closes_about_and_a_hard_one_exactly(train):
    gaps = {}
    for hard in (True, ["initial"], ["periodic"]):
        run = train(RING, {"propagator": False, "hard": hard, "network": {"harmonics": 1}})
        t = np.linspace(0, 0.5, 50)
        left, right = (run(np.stack([np.full(50, x), t], 1)) for x in (0.0, 1.0))
        gaps[str(hard)] = np.abs(left - right).max()
        assert ("periodic x" in run.trainer.batch) == (hard == ["initial"])
    assert gaps["True"] < 1e-13 and gaps["['periodic']"] < 1e-13
    assert 1e-8 < gaps["['initial']"] < 0.1


def test_gradient_norms_move_the_weights(train):
    balanced = {"hard": False, "weighting": {"name": "gradient_norm", "every": 5}}
    weights = train(HEAT, balanced).trainer.weighting.weights
    assert len(weights) == 4 and all(w > 0 for w in weights.values())
    assert max(weights.values()) > 2 * min(weights.values())
    plain = train(HEAT, {"hard": False}).trainer.weighting.weights
    assert set(plain.values()) == {1.0}


def test_first_order_stages_follow_each_other(train):
    adam = {"name": "adam", "steps": 60, "learning_rate": 0.01}
    alone = train(HEAT, {"optimizer": adam}, steps=200)
    both = train(HEAT, {"optimizer": [adam, {"name": "lbfgs", "steps": 60}]}, steps=200)
    assert (alone.record.step, both.record.step) == (60, 120)
    assert alone.error < 0.3 * alone.before
    assert both.error < 0.3 * alone.error and both.error < 2e-2
    assert {entry["stage"].split(",")[0] for entry in both.record.history} == {"adam", "lbfgs"}
    # Without the warm-up, the same number of steps of Adam gets less far.
    longer = train(HEAT, {"optimizer": {**adam, "steps": 120}}, steps=200)
    assert both.error < longer.error


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("hard", [True, False])
def test_single_precision_goes_through_windows(train, windows, hard):
    solver = {"name": "pinn", "windows": windows, "hard": hard, **gn(20)}
    assert train(HEAT, solver, 20 * windows, dtype="float32").error < 0.1


@pytest.mark.parametrize("name", ["pinn", "causal"])
def test_a_stage_ends_when_the_loss_no_longer_halves(train, name):
    """Also under causal weights; without patience, the wrong twin, it goes on for longer."""
    solver = {
        "name": name,
        "points": {"interior": 120, "resample_every": 20},
        "network": {"width": 4, "depth": 1},
    }

    def steps(patience):
        optimizer = {"name": "gauss_newton", "tolerance": 0, "patience": patience}
        return train(HEAT, {**solver, "optimizer": optimizer}, 400).record.step

    assert steps(5) < 100 < steps(None)


def test_softening_after_a_divergence_outlasts_fresh_points(train):
    trainer = train(HEAT, gn(20), 20).trainer
    trainer.optimizer.soften()
    trainer.optimizer.renew()
    assert trainer.optimizer.damping.value >= 1
    trainer.optimizer.renew()  # the twin: later draws do lower it
    assert trainer.optimizer.damping.value <= 1e-3


def test_a_window_does_not_hold_the_weights_of_the_earlier_ones(train):
    """Or files grow with the square of the number of windows."""
    run = train(HEAT, {**WINDOWS, "windows": 4, **gn(3)}, 12)
    sizes = [len(field.state_dict()) for field in run.trainer.finished]
    assert len(sizes) == 3
    assert len(set(sizes)) == 1
