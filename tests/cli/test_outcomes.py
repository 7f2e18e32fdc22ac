"""How runs end: diverged, inaccurate, in a folder that is not theirs; each has its exit code."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch

import residua
from residua.cli import main
from residua.engine.checkpoint import load_latest

# Solutions of u' = -sqrt(u) end at zero, at t = 2. Going on, the network leaves the domain of the
# square root, and the residual is not a number any more.
ENDING = """
problem:
  coordinates: {t: [0, 3]}
  fields: [u]
  equations: ["u_t = -sqrt(u)"]
  conditions: [{where: t = 0, u: 1}]
  reference: none
solver:
  name: pinn
  network: {width: 10, depth: 2}
  points: {interior: 100}
  optimizer: {name: adam, learning_rate: 0.01}
run: {budget: none, steps: 2000, seed: 1, deterministic: true, threads: 1}
"""
DECAY = """
problem:
  coordinates: {t: [0, 1]}
  fields: [u]
  equations: ["u_t = -u"]
  conditions: [{where: t = 0, u: 1}]
  reference: {exact: {u: exp(-t)}}
solver: {name: pinn, network: {width: 8, depth: 1}, points: {interior: 30}}
run: {budget: none, steps: 30, accuracy: 1e-4}
"""


@pytest.fixture
def solve(tmp_path, monkeypatch, capsys):
    """Solve a text; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(text, *arguments):
        (tmp_path / "case.yaml").write_text(text)
        code = main(["solve", "case.yaml", *arguments])
        return code, *capsys.readouterr()

    return call


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_diverged_run_exits_4_with_its_last_good_state(solve, tmp_path):
    code, out, err = solve(ENDING, "--out", "run")
    assert code == 4
    assert err.startswith("residua: the training diverged at step ") and err.count("\n") == 1
    assert "smaller learning rate" in err and "Traceback" not in err + out
    assert out.count("back to step") == 3
    run = tmp_path / "run"
    state, info = load_latest(run / "checkpoints")
    assert f"last good state, of step {info.step}, is saved in run/checkpoints" in err
    assert "diverged" in summary(run)["status"] and summary(run)["steps"] == info.step > 0
    solution = residua.load(run)
    values, by_name = solution(np.linspace(0, 3, 50)[:, None], derivatives=("u_t",))
    assert np.isfinite(values).all() and np.isfinite(by_name["u_t"]).all()
    # It is good: the residual is a number everywhere, which it was not one step further on.
    points = state["trainer"]["points"]["interior"].numpy()
    values, by_name = solution(points, derivatives=("u_t",))
    with np.errstate(invalid="raise"):
        assert np.isfinite(by_name["u_t"] + np.sqrt(values[:, 0])).all()


def test_where_the_solution_lives_nothing_diverges(solve):
    """The twin: before the end of the solution the same settings train well."""
    change = ("--set", "problem.coordinates.t=[0, 1]", "--set", "run.steps=500")
    code, out, err = solve(ENDING, *change, "--quiet")
    assert (code, out, err) == (0, "", "")


def test_a_residual_that_never_was_a_number_says_where_to_look(solve, tmp_path):
    text = ENDING.replace("-sqrt(u)", "log(u - 2)")
    code, _, err = solve(text, "--out", "run", "--set", "run.dtype=float32")
    assert code == 4 and "at step 1:" in err and "singularity" in err
    assert summary(tmp_path / "run")["loss"] is None


def test_settings_of_torch_are_put_back_however_a_run_ends(solve):
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    torch.set_num_threads(2)
    try:
        for text, code in ((ENDING, 4), (DECAY, 0)):
            assert solve(text, "--quiet", "--set", "run.threads=1")[0] == code
            assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, 1)
            assert torch.get_default_dtype() is torch.float32
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


def test_a_missed_accuracy_exits_1_after_everything_is_written(solve, tmp_path):
    code, out, err = solve(DECAY, "--out", "good")
    assert (code, err) == (0, "")
    assert "relative L2 error of u" in out and "classical" in out
    code, out, err = solve(DECAY, "--out", "bad", "--quiet", "--set", "run.steps=1")
    assert (code, out) == (1, "")
    assert err.startswith("residua: the accuracy asked for, 1.0e-04, was missed: relative L2 error")
    assert err.count("\n") == 1
    good, bad = summary(tmp_path / "good"), summary(tmp_path / "bad")
    assert good["relative_l2"]["u"] < 1e-4 < bad["relative_l2"]["u"]
    for key in ("problem", "solver", "status", "seed", "seconds", "peak_memory_mib"):
        assert bad[key] is not None
    assert set(bad["classical"]) == {"method", "seconds_to_same_error", "curve"}
    curve = np.array(good["classical"]["curve"])
    assert curve.shape[1] == 2 and (np.diff(curve, axis=0) * [1, -1] > 0).all()
    assert residua.load(tmp_path / "bad")([[0.5]]).shape == (1, 1)
    none = ("--out", "none", "--set", "problem.reference=none")
    code, _, err = solve(DECAY, *none)
    assert code == 1 and "cannot be told" in err


def test_a_folder_of_something_else_is_left_alone(solve, tmp_path):
    thesis = tmp_path / "thesis"
    (thesis / "checkpoints").mkdir(parents=True)
    files = [thesis / "figure.png", thesis / "summary.json", thesis / "checkpoints" / "step-1.pt"]
    for path in files:
        path.write_text("precious")
    for option in ((), ("--overwrite",), ("--resume",)):
        code, out, err = solve(DECAY, "--out", "thesis", *option)
        assert (code, out) == (2, "") and "is no run folder" in err
    assert [path.read_text() for path in files] == ["precious"] * 3


def test_overwriting_replaces_the_run_and_nothing_else(solve, tmp_path):
    assert solve(DECAY, "--out", "run", "--quiet")[0] == 0
    run = tmp_path / "run"
    (run / "notes.txt").write_text("mine")
    (run / "checkpoints" / "notes.txt").write_text("mine")
    assert solve(DECAY, "--out", "run", "--quiet")[0] == 2
    assert "every" in summary(run)["status"] or "budget" in summary(run)["status"]
    assert solve(DECAY, "--out", "run", "--quiet", "--overwrite", "--set", "run.steps=2")[0] == 1
    assert summary(run)["steps"] == 2
    names = [path.name for path in (run / "checkpoints").glob("*.pt")]
    assert len(names) == 1 and names[0].startswith("step-000000002-")
    assert (run / "notes.txt").read_text() == (run / "checkpoints" / "notes.txt").read_text()


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(solve, tmp_path):
    more = ("--out", "run", "--quiet", "--set")
    assert solve(DECAY, *more, "run.steps=2")[0] == 1
    assert solve(DECAY, *more, "run.steps=30", "--resume")[0] == 0
    run = tmp_path / "run"
    assert summary(run)["steps"] > 2 and summary(run)["relative_l2"]["u"] < 1e-4
    assert residua.load(run).case.run.steps == 30


ERUPTING = DECAY.replace("u_t = -u", "u_t = log(u - 2 + 20*t)").replace(
    "{exact: {u: exp(-t)}}", "none"
)


def test_a_first_draw_of_points_without_numbers_is_a_divergence(solve, tmp_path):
    """Points that follow the residual are drawn before the first step."""
    text = ERUPTING.replace("accuracy: 1e-4", "seed: 1")
    code, _, err = solve(text, "--out", "run")
    assert code == 4 and "at step 1:" in err and "singularity" in err
    assert "(the equation 'u_t = log(u - 2 + 20*t)' is not a number at t = 0." in err
    assert load_latest(tmp_path / "run" / "checkpoints")[1].step == 0
    assert np.isfinite(residua.load(tmp_path / "run")([[0.5]])).all()


@pytest.mark.parametrize("folder", ["/proc/residua", "file/inside", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_refused(folder, solve, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = solve(DECAY, "--out", folder, "--quiet")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "--out DIR" in err and "internal error" not in err


def test_a_folder_that_may_not_be_written_is_refused(solve, monkeypatch):
    def denied(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "run/figure.png")

    monkeypatch.setattr("residua.solvers.figures.draw", denied)
    code, _, err = solve(DECAY, "--out", "run", "--quiet")
    assert code == 2 and "run/figure.png: Permission denied" in err


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("solver.network={width: 4096, depth: 4}", "Jacobian of 30 residuals by 50"),
        ("solver.network={width: 4096, depth: 64}", "a network of 1057"),
        (
            "solver={name: pinn, points: {interior: 10000000}}",
            "Jacobian of 10000000 residuals by 9",
        ),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_computed(change, says, dry, solve, tmp_path):
    code, out, err = solve(DECAY, "--out", "run", "--set", change, *dry)
    assert (code, out) == (5, "") and says in err and "GiB may be used; use" in err
    assert not (tmp_path / "run").exists()


def test_no_folder_is_made_where_the_trainer_cannot_be(solve, tmp_path, monkeypatch):
    monkeypatch.setattr("residua.engine.optimizers.least_squares.free_memory", lambda: 1e3)
    code, _, err = solve(DECAY, "--out", "run", "--device", "cpu")
    assert code == 5 and "Jacobian" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_gpu_that_is_not_there_is_refused_by_line(dry, solve, monkeypatch):
    monkeypatch.setattr("residua.execution.options.gpu_present", lambda: False)
    text = DECAY.replace("{budget: none", "{device: cuda, budget: none")
    code, out, err = solve(text, *dry)
    assert (code, out) == (2, "")
    assert "case.yaml:9: run.device: found 'cuda'; there is no CUDA device" in err
    assert "--set run.device=cuda: run.device" in solve(DECAY, "--device", "cuda", *dry)[2]


def test_nothing_to_resume_is_3_in_a_dry_run_too(solve):
    for dry in ((), ("--dry-run",)):
        code, out, err = solve(DECAY, "--out", "run", "--resume", *dry)
        assert (code, out) == (3, "") and "nothing to resume" in err


def test_a_zero_solution_has_an_absolute_error(solve, tmp_path):
    text = DECAY.replace("u: 1}", "u: 0}").replace("exp(-t)", "0")
    code, out, _ = solve(text, "--out", "run", "--set", "run.accuracy=null")
    assert code == 0 and "absolute error of u (root mean square, for the reference is 0)" in out
    assert "relative L2" not in out
    assert summary(tmp_path / "run")["relative_l2_is_absolute"] == ["u"]


def test_what_is_written_and_not_used_is_said(solve):
    text = DECAY.replace("fields: [u]", "fields: [u]\n  parameters: {nu: 1, mu: 2}")
    text = text.replace("u_t = -u", "u_t = -nu*u")
    for dry in (("--dry-run",), ()):
        code, out, _ = solve(text, "--out", "run", *dry)
        assert code == 0 and "the parameter 'mu' is used nowhere" in out and "'nu'" not in out
