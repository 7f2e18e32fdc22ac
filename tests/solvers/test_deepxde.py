"""DeepXDE as a backend: the translation, the process, the loop around it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import residua
from residua.cli import main
from residua.config import load_case, make_case
from residua.engine.fit import Record, Status, fit
from residua.errors import ConfigurationError, DivergedError, ResourceError
from residua.problems import registry
from residua.problems.problem import Problem
from residua.progress import QuietReporter
from residua.solvers import BACKENDS
from residua.solvers.deepxde.options import DeepxdeOptions
from residua.solvers.deepxde.trainer import Deepxde

CPU = torch.device("cpu")
CHECKS = Path(__file__).with_name("deepxde_checks.py")
PATIENCE = 180.0
SMALL = {
    "name": "deepxde",
    "network": {"width": 16, "depth": 2},
    "points": {"interior": 48},
    "optimizer": [{"name": "adam", "steps": 300}, {"name": "lbfgs", "steps": 300}],
}


# The translation, without training
# ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """Every comparison of deepxde_checks.py, from one process that imports DeepXDE once."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, str(CHECKS)],
        env={**os.environ, "DDE_BACKEND": "pytorch", "CUDA_VISIBLE_DEVICES": ""},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_every_library_problem_has_the_residual_of_the_engine(checks):
    found = checks["problems"]
    assert set(registry.names()) < set(found)
    for name, result in found.items():
        assert result["dtype"] == "torch.float64"
        assert result["values"] < 1e-13, name
        assert result["residual"] < 1e-12, name
        # The wrong twin: two coordinates that change places are noticed.
        assert result["twin"] is None or result["twin"] > 1e-3, name


def test_every_condition_has_the_residual_of_the_engine(checks):
    for name, result in checks["problems"].items():
        assert len(result["conditions"]) == len(result["kinds"]) > 0
        assert max(result["conditions"]) < 1e-12, name


def test_soft_conditions_vanish_on_the_exact_solution_only(checks):
    known = {name: found for name, found in checks["problems"].items() if "exact" in found}
    assert len(known) > 10
    for name, result in known.items():
        assert max(result["exact"]) < 1e-12, name
        assert result["exact residual"] < 1e-12 * 1e3, name
        assert min(result["wrong"]) > 1e-2, name


def test_conditions_are_written_as_users_of_deepxde_write_them(checks):
    kinds = {name: result["kinds"] for name, result in checks["problems"].items()}
    assert kinds["burgers"] == ["IC", "DirichletBC", "DirichletBC"]
    assert kinds["rod, time first"] == ["IC", "NeumannBC", "RobinBC"]
    assert kinds["wave"] == ["IC", "OperatorBC", "DirichletBC", "DirichletBC"]
    assert kinds["kdv"] == ["IC", "PeriodicBC", "PeriodicBC", "_SmoothPeriodicBC"]
    assert kinds["lorenz"] == ["IC"] * 3
    # In the plane DeepXDE's normals of the corners are those of neither face.
    assert kinds["membrane"].count("OperatorBC") == 4


def test_fresh_points_meet_targets_that_are_not_stale(checks):
    assert checks["resampling"]["moved"] > 0.1
    assert checks["resampling"]["stale"] < 1e-12


# Runs
# ----------------------------------------------------------------------------------------


def test_a_small_problem_by_the_command(tmp_path, capsys):
    # Deterministic: a report by the clock may cost L-BFGS an iteration (docs/architecture.md).
    run = {"budget": "none", "accuracy": 1e-2, "deterministic": True}
    case = {"problem": "poisson_1d", "solver": SMALL, "run": run}
    (tmp_path / "case.yaml").write_text(json.dumps(case))
    before = torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state()
    arguments = ["solve", str(tmp_path / "case.yaml"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0, capsys.readouterr().err
    after = torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    assert "deepxde" not in sys.modules, "this process must never import it"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["relative_l2"]["u"] < 1e-2
    assert summary["steps"] == 600 and summary["trained_parameters"] == 2 * 16 + 17 * 16 + 17
    assert summary["deepxde"]["version"] and summary["deepxde"]["float"] == "float64"
    assert summary["deepxde"]["conditions"][0].startswith("DirichletBC: u = 0 at x = 0")
    assert summary["residual"][0]["fresh"] < 10 * summary["residual"][0]["training"]
    solution = residua.load(tmp_path / "run")
    points = np.linspace(0, 1, 50)[:, None]
    values, derived = solution(points, derivatives=("u_x",))
    x = points[:, 0]
    assert np.abs(values[:, 0] - np.sin(np.pi * x) - 0.1 * np.sin(4 * np.pi * x)).max() < 1e-2
    slope = np.pi * np.cos(np.pi * x) + 0.4 * np.pi * np.cos(4 * np.pi * x)
    assert np.abs(derived["u_x"] - slope).max() < 0.2
    assert (tmp_path / "run" / "figure.png").stat().st_size > 0


class Training:
    """A trainer, its record, and the loop around them."""

    def __init__(self, folder, problem, solver, **run):
        self.case = make_case(problem, solver, {"budget": "none", **run})
        self.trainer = BACKENDS["deepxde"].load()(self.case, CPU)
        self.record = Record()
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def fit(self, **settings):
        reporter = QuietReporter()
        return fit(self.trainer, self.record, reporter=reporter, folder=self.folder, **settings)

    def weights(self):
        return torch.cat([p.flatten().clone() for p in self.trainer.field.parameters()])


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    """In another process, in the middle of Adam with fresh points and in the middle of L-BFGS."""
    solver = {
        **SMALL,
        "points": {"interior": 60, "sampler": "pseudo", "resample_every": 70},
        "optimizer": [{"name": "adam", "steps": 250}, {"name": "lbfgs", "steps": 150}],
    }
    whole = Training(tmp_path / "whole", "heat", solver, deterministic=True)
    other = Training(tmp_path / "other", "heat", solver, deterministic=True)
    try:
        states = {}
        while not whole.record.finished:
            before = whole.record.step
            whole.fit(steps=before + 1)  # one report of the worker
            states[whole.record.step] = whole.trainer.state_dict()
        assert whole.record.step == 400
        assert [*states] == [100, 200, 250, 350, 400]
        for cut in (100, 350):
            other.trainer.load_state_dict(states[cut])
            other.record = Record(step=cut)
            assert other.fit() is Status.FINISHED
            assert other.record.step == 400
            assert torch.equal(other.weights(), whole.weights()), cut
        # The wrong twin: without the memory of the optimiser the weights are others.
        states[100]["worker"]["optimizer"] = None
        other.trainer.load_state_dict(states[100])
        other.record = Record(step=100)
        other.fit()
        assert not torch.equal(other.weights(), whole.weights())
    finally:
        whole.trainer.close()
        other.trainer.close()


def test_a_divergence_is_told_and_so_is_the_end_of_the_process(tmp_path):
    problem = {
        "coordinates": {"x": [0, 1]},
        "fields": ["u"],
        "equations": ["u_x = exp(exp(u + 20))"],
        "conditions": [{"where": "x = 0", "u": 1}],
        "reference": "none",
    }
    training = Training(tmp_path / "run", problem, {**SMALL, "optimizer": "adam"})
    trainer = training.trainer
    folder, pid = trainer.worker.folder, trainer.worker.process.pid
    try:
        with pytest.raises(DivergedError, match="not finite; 3 rollbacks"):
            training.fit()
        assert training.record.step == 0 and training.record.rollbacks == 3
        assert bool(torch.isfinite(training.weights()).all())
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ResourceError, match=r"ended by signal SIGKILL; .*memory"):
            trainer.step(math.inf)
        assert not folder.exists()
    finally:
        trainer.close()


def test_the_budget_ends_it_and_the_precision_is_kept(tmp_path):
    solver = {**SMALL, "optimizer": "lbfgs", "points": {"interior": 500}}
    training = Training(tmp_path / "run", "burgers", solver, dtype="float32")
    # Long enough for a first step on a busy machine; all steps together are far from it.
    assert training.fit(budget=5.0) is Status.BUDGET
    assert training.record.step > 0
    assert training.weights().dtype == torch.float32
    assert training.trainer.settings["float"] == "float32"
    assert any("float32" in note for note in training.trainer.notes)
    # A trainer that is forgotten, not closed, ends its process too.
    process = training.trainer.worker.process
    assert process.poll() is None
    del training
    assert process.poll() == 0


# Interruption
# ----------------------------------------------------------------------------------------


def children(pid):
    """Processes that this one has started, by number."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_process_is_left_behind(tmp_path):
    """Stopped by Ctrl-C, which a terminal sends to all processes, and killed outright."""
    case = {
        "problem": "heat",
        "solver": {**SMALL, "optimizer": {"name": "adam", "steps": 10**8}},
        "run": {"budget": "none"},
    }
    (tmp_path / "case.yaml").write_text(json.dumps(case))
    command = [sys.executable, "-m", "residua", "solve", "case.yaml", "--out", "run", "--quiet"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    log = tmp_path / "run" / "metrics.jsonl"

    started = []

    def start(*more):
        started.append(
            subprocess.Popen(
                [*command, *more],
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    try:
        process = start()
        wait_for(log.exists)
        (worker,) = children(process.pid)
        assert alive(worker)
        os.killpg(process.pid, signal.SIGINT)
        err = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 130 and "--resume" in err, err
        wait_for(lambda: not alive(worker))
        assert not list((tmp_path / "tmp").glob("residua-deepxde-*"))
        entries = log.read_text().count("\n")

        process = start("--resume")
        wait_for(lambda: log.read_text().count("\n") > entries)
        (worker,) = children(process.pid)
        assert alive(worker)
        process.kill()
        process.communicate()
        wait_for(lambda: not alive(worker))
        wait_for(lambda: not list((tmp_path / "tmp").glob("residua-deepxde-*")))
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


# What is refused
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"windows": 4}, "'deepxde' has no setting 'windows'; it belongs to: pinn, causal"),
        ({"network": {"activation": "relu"}}, "'tanh' or 'sin' or 'silu'"),
        ({"points": {"resample_every": 10}}, "sampler: pseudo"),
        ({"points": {"boundary": 1}}, "from 2"),
        ({"optimizer": {"name": "adam", "steps": None}}, "write a whole number"),
        ({"optimizer": "gauss_newton"}, "adam, lbfgs"),
        ({"optimizer": []}, "write adam, lbfgs"),
        ({"weighting": {"values": {"x = 7": 2}}}, "no term of the loss has this name"),
    ],
)
def test_a_bad_option_is_refused(change, says):
    with pytest.raises(ConfigurationError) as caught:
        make_case("burgers", {"name": "deepxde", **change})
    assert says in str(caught.value) and str(caught.value).startswith("solver.")


def test_defaults_are_those_of_the_documented_example(tmp_path):
    solver = make_case("burgers", "deepxde").solver
    assert solver == DeepxdeOptions()
    assert (solver.network.width, solver.network.depth) == (20, 3)
    assert [(s.name, s.steps) for s in solver.stages] == [("adam", 15000), ("lbfgs", 15000)]
    assert solver.planned_steps == 30000
    text = make_case("burgers", "deepxde").text()
    (tmp_path / "case.yaml").write_text(text)
    assert load_case(tmp_path / "case.yaml").solver == solver


def test_every_library_problem_is_accepted_and_what_is_no_text_is_not():
    accepts = BACKENDS["deepxde"].accepts
    assert all(accepts(registry.get(name)) is None for name in registry.names())

    def opaque(v):
        return v.u_t - v.u_xx * torch.nn.functional.softplus(v.u)

    heat = registry.get("heat").to_mapping()
    problem = Problem.from_mapping({**heat, "equations": [opaque], "reference": "none"})
    assert "Python function" in accepts(problem)
    with pytest.raises(ConfigurationError, match="does not accept this problem"):
        make_case(problem, "deepxde")


def test_deepxde_that_is_not_there_is_asked_for(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "deepxde" else find(name)
    )
    with pytest.raises(ConfigurationError, match="pip install deepxde"):
        Deepxde(make_case("heat", SMALL), CPU)


def test_a_condition_without_points_is_refused_by_the_worker():
    """Of two points on a square, two faces at least get none."""
    solver = {**SMALL, "points": {"interior": 50, "boundary": 2}}
    trainer = Deepxde(make_case("poisson_2d", solver), CPU)
    with pytest.raises(ConfigurationError, match=r"solver\.points\.boundary: DeepXDE drew no"):
        trainer.step(1.0)
    assert trainer.worker.process.poll() is not None


def test_a_case_the_worker_cannot_read_is_told_with_its_last_words():
    from residua.solvers.deepxde.process import Worker

    with pytest.raises(ResourceError, match=r"exit code 1: .*ConfigurationError.*burger"):
        Worker("problem: burger\n", {"device": "cpu", "threads": 1, "deterministic": False})
