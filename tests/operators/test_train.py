"""`residua train`: from a case file to a run folder, to a function; every refusal on the way."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import residua
from residua.cli import main
from residua.errors import ConfigurationError, DataError
from residua.operators import datasets
from residua.operators.case import load_case

NODES = 16
CASE = """
data:
  file: a_inputs.npy
  outputs_file: a_outputs.npy
  axes: [sample x]
  splits: {train: [0, 48], validation: [48, 56], test: [56, 64]}
  boundary: periodic
network: {name: mgno, width: 6, depth: 1, smoothings: [1, 1]}
training: {epochs: 4, batch: 16, learning_rate: 0.05}
run: {deterministic: true, threads: 1, dtype: float64}
"""
STEPS = """
data: {file: states.h5, splits: {train: [0, 20], test: [20, 24]}, history: 2, boundary: periodic}
network: {name: unet, width: 8, levels: 2}
training: {epochs: 2, batch: 20, learning_rate: 0.01, unrolled: 2}
"""


HYBRID = """
data: {file: darcy.h5, coarse: 9}
network: {name: mgno, width: 8, depth: 2, smoothings: [1, 1, 2]}
training: {epochs: 30, batch: 8, learning_rate: 0.01}
"""


def fields(samples: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return 300 + 40 * rng.standard_normal((samples, NODES))


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Train a text; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    data = fields(64)
    np.save("a_inputs.npy", data)
    np.save("a_outputs.npy", 1e-3 * (data + np.roll(data, 1, 1) + np.roll(data, -1, 1)) / 3)
    with h5py.File("states.h5", "w") as file:
        first = data[:24] - 300
        file["tensor"] = np.stack([0.9**k * np.roll(first, k, 1) for k in range(6)], 1)
        file["x-coordinate"] = np.arange(NODES) / NODES
        file["t-coordinate"] = np.arange(6.0)

    def call(text: str, *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "case.yaml").write_text(text)
        code = main(["train", "case.yaml", *arguments])
        return code, *capsys.readouterr()

    return call


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_case_becomes_a_function(train, tmp_path):
    code, out, err = train(CASE, "--out", "run", "--set", "training.epochs=20")
    assert (code, err) == (0, "")
    assert "48 samples to train on, 8 to test" in out and "relative L2 error of" in out
    found = summary(tmp_path / "run")
    operator = residua.load_operator(tmp_path / "run")
    data = fields(64)[56:]
    true = 1e-3 * (data + np.roll(data, 1, 1) + np.roll(data, -1, 1)) / 3
    values = operator(data[:, None])
    errors = np.linalg.norm(values[:, 0] - true, axis=1) / np.linalg.norm(true, axis=1)
    assert errors.mean() == pytest.approx(found["test_relative_l2"]["mean"], rel=1e-9)
    # Wrong twin: the mean of all fields, whose error is the spread of their averages.
    spread = np.linalg.norm(true - 0.3, axis=1) / np.linalg.norm(true, axis=1)
    assert errors.mean() < 0.1 * spread.mean()
    assert operator(data[0, None]).shape == (1, NODES)
    assert operator(np.full((2, 1, 31), 300.0)).shape == (2, 1, 31)
    assert operator.history[-1]["step"] == found["steps"] == 60
    for wrong in (data, data[:, None, None], np.zeros((0, 1, NODES)), data[:, None, :1]):
        with pytest.raises(ConfigurationError, match="inputs: found shape"):
            operator(wrong)
    with pytest.raises(DataError, match="not finite"):
        operator(np.full((1, 1, NODES), np.nan))
    with pytest.raises(ConfigurationError, match="no step in time"):
        operator.rollout(data[:, None], 2)


def test_a_step_in_time_is_rolled_out(train, tmp_path):
    code, out, err = train(STEPS, "--out", "run")
    assert (code, err) == (0, "") and "6 instants" in out and "nothing is watched" in out
    operator = residua.load_operator(tmp_path / "run")
    first = fields(64)[20:24, None] - 300
    states = np.concatenate([first, 0.9 * np.roll(first, 1, 2)], 1)
    found = operator.rollout(states, 4)
    assert found.shape == (4, 4, 1, NODES)
    with pytest.raises(ConfigurationError, match="steps: found 0"):
        operator.rollout(states, 0)
    again = operator(np.concatenate([states[:, 1:], found[:, 0]], 1))
    assert np.allclose(again, found[:, 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["fno", "unet", "deeponet", "{name: deeponet, pod: true}"])
def test_every_network_is_kept_and_loaded(train, tmp_path, network):
    change = ("--set", f"network={network}", "--set", "training.epochs=1", "--quiet")
    if network == "fno":
        change += ("--set", "network.modes=4")
    assert train(CASE, "--out", "run", *change) == (0, "", "")
    operator = residua.load_operator(tmp_path / "run")
    data = fields(64)[56:, None]
    true = 1e-3 * (data + np.roll(data, 1, 2) + np.roll(data, -1, 2)) / 3
    errors = np.linalg.norm(operator(data) - true, axis=2) / np.linalg.norm(true, axis=2)
    expected = summary(tmp_path / "run")["test_relative_l2"]["mean"]
    assert errors.mean() == pytest.approx(expected, rel=1e-9)


def test_a_resumed_run_is_the_whole_run(train, tmp_path):
    assert train(CASE, "--out", "whole", "--quiet") == (0, "", "")
    assert train(CASE, "--out", "parts", "--quiet", "--set", "run.steps=7") == (0, "", "")
    code, out, _ = train(CASE, "--out", "parts", "--resume")
    assert code == 0 and "resumed at step 7" in out
    one, other = (residua.load_operator(tmp_path / name) for name in ("whole", "parts"))
    data = fields(4)[:, None]
    assert np.array_equal(one(data), other(data))
    code, _, err = train(CASE, "--out", "parts", "--resume", "--set", "network.width=7")
    assert code == 3 and "network.width is 6 there and 7 here" in err
    code, _, err = train(CASE, "--out", "parts")
    assert code == 2 and "already holds a finished run" in err
    assert train(CASE, "--out", "parts", "--overwrite", "--quiet") == (0, "", "")


def test_a_refused_resumption_leaves_the_run_as_it_was(train, tmp_path):
    """A file of data that changed is refused, and another accuracy does not unseat the operator."""
    assert train(CASE, "--out", "run", "--quiet") == (0, "", "")
    change = ("--resume", "--set", "run.accuracy=0.5")
    np.save("a_outputs.npy", 1.01 * np.load("a_outputs.npy"))
    code, _, err = train(CASE, "--out", "run", *change)
    assert code == 3 and "not those the run began with" in err
    assert residua.load_operator(tmp_path / "run").status


def test_a_budget_ends_the_training_with_its_rate_low(train, tmp_path):
    change = ("--set", "training.epochs=null", "--set", "run.budget=0.3", "--quiet")
    assert train(CASE, "--out", "run", *change) == (0, "", "")
    found = summary(tmp_path / "run")
    assert "budget" in found["status"] and 0.3 <= found["seconds"] < 20


def test_a_missed_accuracy_exits_1_after_everything_is_written(train, tmp_path):
    code, _, err = train(CASE, "--out", "run", "--quiet", "--set", "run.accuracy=1e-9")
    assert code == 1 and "accuracy asked for, 1.0e-09, was missed" in err
    assert residua.load_operator(tmp_path / "run")(fields(1)[:, None]).shape == (1, 1, NODES)


def test_a_printed_configuration_is_a_case_and_a_plan_writes_nothing(train, tmp_path):
    code, out, _ = train(CASE, "--print-config")
    (tmp_path / "again.yaml").write_text(out)
    assert code == 0
    assert load_case(tmp_path / "again.yaml").digest() == load_case(tmp_path / "case.yaml").digest()
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = train(CASE, "--dry-run")
    assert code == 0 and "48 to train on, 8 to watch, 8 to test" in out
    assert sorted(tmp_path.rglob("*")) == before


BAD = [
    ("data.fil=x", 2, ["data.fil", "unknown key", "did you mean 'file'?"]),
    ("network.modes=4", 2, ["network.modes", "it belongs to: fno"]),
    ("network=mgn", 2, ["unknown name", "did you mean 'mgno'?"]),
    ("training.loss=l2", 2, ["training.loss", "relative_l2"]),
    ("run.budget=soon", 2, ["run.budget", "5 min"]),
    ("data.file=none.npy", 3, ["none.npy", "there is no such file"]),
    ("data.file=case.yaml", 3, ["case.yaml", "is of an unknown kind", "known are"]),
    ("data.axes=[x sample]", 2, ["a_inputs.npy holds 16 samples", "data.axes"]),
    ("data.axes=[sample x, x sample]", 3, ["has 16 samples where", "has 64", "axes"]),
    ("data.test=tset", 2, ["no split 'tset'", "did you mean 'test'?"]),
    ("data.splits.test=[40, 64]", 2, ["share sample 40"]),
    ("data.splits.test=[56, 65]", 2, ["data.splits.test", "write an end up to 64"]),
    ("data.splits.test=[56, 56]", 2, ["not a range"]),
    ("data.splits=null", 2, ["data.train", "has no split 'train'", "splits: {train:"]),
    ("data.resolution=9", 2, ["data.resolution", "write one of"]),
    ("data.boundary=auto", 2, ["data.boundary", "dirichlet"]),
    ("data.map=steps", 2, ["data.map", "write map: pairs"]),
    ("data.history=2", 2, ["data.history", "map: steps"]),
    ("data.coarse=8", 2, ["data.coarse", "Darcy flow", "coarse: null"]),
    ("data.samples=49", 2, ["data.samples", "up to 48"]),
    ("data.inputs=[v]", 2, ["data.inputs[0]", "no such field"]),
    ("network={name: fno, modes: 9}", 2, ["network", "at least 18 nodes"]),
    ("network={name: unet, levels: 6}", 2, ["network", "at least 33 nodes"]),
    ("training.epochs=null", 2, ["training.epochs", "budget"]),
    ("training.symmetries=[square]", 2, ["training.symmetries[0]", "needs a square", "remove it"]),
    ("training.symmetries=[turns]", 2, ["training.symmetries[0]", "square"]),
    ("training.mixed_precision=true", 2, ["training.mixed_precision", "float32"]),
    ("problem=burgers", 2, ["residua solve"]),
]


@pytest.mark.parametrize(("change", "code", "says"), BAD, ids=[c for c, _, _ in BAD])
def test_a_mistake_gets_one_line(train, tmp_path, change, code, says):
    found, out, err = train(CASE, "--out", "run", "--set", change)
    assert (found, out) == (code, ""), err
    assert err.startswith("residua: ") and err.count("\n") == 1 and "Traceback" not in err
    for words in says:
        assert words in err
    assert not (tmp_path / "run").exists()


def test_the_line_of_the_file_is_named(train):
    code, _, err = train(CASE.replace("width: 6", "width: 0"))
    assert code == 2 and err.startswith("residua: case.yaml:8: network.width: found 0")
    code, _, err = train(CASE.replace("test: [56, 64]", "test: [56, 65]"))
    assert code == 2 and err.startswith("residua: case.yaml:6: data.splits.test")


def test_data_that_are_not_numbers_are_named(train, tmp_path):
    data = np.load("a_inputs.npy")
    data[50, 3] = np.nan
    np.save("a_inputs.npy", data)
    code, _, err = train(CASE, "--out", "run")
    assert code == 3 and "holds NaN in sample 50" in err
    data[50, 3], data[60] = 300, data[0]
    np.save("a_inputs.npy", data)
    code, _, err = train(CASE, "--out", "run")
    assert code == 3 and "same input" in err


def test_an_operator_is_no_solution_and_its_file_is_checked(train, tmp_path):
    assert train(CASE, "--out", "run", "--quiet", "--set", "training.epochs=1") == (0, "", "")
    with pytest.raises(DataError, match="not a case this program can read.*residua train"):
        residua.load("run")
    with pytest.raises(DataError, match="no such folder"):
        residua.load_operator("other")
    text = (tmp_path / "run" / "config.resolved.yaml").read_text()
    (tmp_path / "run" / "config.resolved.yaml").write_text(text.replace("width: 6", "width: 7"))
    with pytest.raises(DataError, match="was not made by"):
        residua.load_operator("run")
    (tmp_path / "run" / "config.resolved.yaml").write_text(text)
    stored = tmp_path / "run" / "operator.h5"
    stored.write_bytes(stored.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"operator\.h5"):
        residua.load_operator("run")


def test_solve_and_train_send_each_other_their_cases(train, capsys):
    train(CASE, "--dry-run")
    assert main(["solve", "case.yaml"]) == 2
    assert "residua train" in capsys.readouterr().err


def test_a_test_that_the_operator_cannot_take_is_refused_before_the_training(train, make_data):
    make_data(Path("one.h5"), "burgers", 24, {"all": (0, 3)}, target=1e-2)
    make_data(Path("same.h5"), "burgers", 12, {"all": (0, 2)}, target=1e-2)
    make_data(Path("other.h5"), "burgers", 12, {"all": (0, 2)}, target=1e-2, seed=4)
    case = "data: {file: one.h5, test_file: %s, map: pairs, splits: {train: [0, 3]}}\n"
    code, _, err = train(case % "same.h5", "--out", "run")
    assert code == 3 and "sample 0" in err and "with another --seed" in err
    code, _, err = train(case % "other.h5" + "network: {name: fno, modes: 8}", "--out", "run")
    assert code == 2 and "a grid of (12,) nodes is too small" in err
    text = case % "other.h5" + "network: {name: mgno, width: 2, depth: 1, smoothings: [1]}\n"
    seed = "run.seed=9223372036854775807"  # the largest
    change = ("--quiet", "--set", "training.epochs=2", "--set", seed)
    assert train(text, "--out", "run", *change) == (0, "", "")
    with pytest.raises(ConfigurationError, match="no step in time"):
        residua.load_operator("run").rollout(np.zeros((1, 1, 24)), 0)


def test_a_coarse_solution_that_is_the_answer_is_refused(train, make_data):
    """Where the file was solved on the nodes that it stores, and all of them are used."""
    make_data(Path("darcy.h5"), "darcy", 9, {"train": (0, 2), "test": (2, 3)}, grid=9)
    code, _, err = train(HYBRID, "--dry-run")
    assert code == 2 and "data.coarse" in err and "is the answer" in err
    code, _, err = train(HYBRID.replace("coarse: 9", "coarse: 5"), "--dry-run")
    assert (code, err) == (0, "")
    code, _, err = train(HYBRID.replace("coarse: 9", "coarse: 4"), "--dry-run")
    assert code == 2 and "data.coarse" in err


@pytest.mark.slow
def test_an_operator_corrects_a_coarse_solution(train, tmp_path, make_data):
    """The correction is better than what it corrects, and needs nothing but the coefficient."""
    splits = {"train": (0, 40), "validation": (40, 44), "test": (44, 52)}
    make_data(tmp_path / "darcy.h5", "darcy", 17, splits, seed=0, grid=33)
    code, out, err = train(HYBRID, "--out", "run")
    assert (code, err) == (0, "") and "the solution on 9 nodes per side alone" in out
    found = summary(tmp_path / "run")
    alone, error = found["coarse_alone_relative_l2"], found["test_relative_l2"]["mean"]
    assert error < 0.9 * alone
    test = datasets.open(tmp_path / "darcy.h5").split("test")
    operator = residua.load_operator(tmp_path / "run")
    values, true = operator(test.inputs[:])[:, 0], test.outputs[:][:, 0]
    errors = np.linalg.norm(values - true, axis=(1, 2)) / np.linalg.norm(true, axis=(1, 2))
    assert errors.mean() == pytest.approx(error, rel=1e-6)
    # What is corrected is the solution on every second node, and its interpolation.
    floor = datasets.coarse_floor(test.inputs[:][:, 0], true, 2).mean()
    assert 0.5 * alone < floor < 2 * alone
    with pytest.raises(DataError, match="not positive"):
        operator(-test.inputs[:1])
    code, _, err = train(HYBRID.replace("coarse: 9", "coarse: 18"))
    assert code == 2 and "data.coarse" in err and "up to 17" in err
