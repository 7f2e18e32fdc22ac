"""Models of series from a case file to a run folder and back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import residua
from residua.cli import main
from residua.errors import DataError
from residua.operators.neural_de.registry import MODELS, build_model
from residua.operators.neural_de.trajectories.case import make_case
from residua.operators.neural_de.trajectories.readers import read
from residua.operators.neural_de.trajectories.systems import generate

SHOWN = Path(__file__).parents[2] / "data" / "trajectories"
CASE = """
kind: trajectory
trajectories: {system: decaying_oscillators, samples: 30, points: 21, span: [0, 2], test: 0.2}
model: {name: neural_ode, width: 8, window: 4}
training: {steps: 40, batch: 8, learning_rate: 0.01}
run: {dtype: float64}
"""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(case: str, *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "prey.yaml").write_text(case, encoding="utf-8")
        code = main(["train", "prey.yaml", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_a_case_becomes_a_folder_and_a_model(train, tmp_path):
    change = ("--set", "training.steps=400")
    code, out, err = train(CASE, "--out", "run", *change)
    assert (code, err) == (0, "") and "relative l2" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["test"]["relative_l2"] < 0.1 and summary["steps"] == 400
    for name in ("model.h5", "predictions.npz", "figure.png", "config.resolved.yaml"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    model = residua.load_trajectory_model(tmp_path / "run")
    test = generate("decaying_oscillators", 30, points=21, span=(0.0, 2.0))[24:]
    found = model.predict(test.times.numpy(), test.values[:, 0].numpy())
    true = test.values.numpy()[:, 1:]
    apart = np.linalg.norm(found[:, 1:] - true) / np.linalg.norm(true)
    assert apart == pytest.approx(summary["test"]["relative_l2"], rel=1e-6)
    # Wrong twin: a model that was not trained.
    code, _, _ = train(CASE, "--out", "short", "--quiet", "--set", "training.steps=1")
    worse = json.loads((tmp_path / "short" / "summary.json").read_text("utf-8"))
    assert worse["test"]["relative_l2"] > 3 * apart


def test_a_resumed_run_is_the_whole_run(train, tmp_path):
    assert train(CASE, "--out", "whole", "--quiet")[0] == 0
    assert train(CASE, "--out", "parts", "--quiet", "--set", "run.steps=17")[0] == 0
    code, out, _ = train(CASE, "--out", "parts", "--resume")
    assert code == 0 and "resumed at step 17" in out
    one, other = (residua.load_trajectory_model(tmp_path / n).model for n in ("whole", "parts"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    code, _, err = train(CASE, "--out", "parts", "--resume", "--set", "model.width=9")
    assert code == 3 and "model.width" in err


def test_from_python_and_through_a_printed_configuration(train, tmp_path):
    code, printed, _ = train(CASE, "--print-config")
    assert code == 0
    model = residua.train(
        {"trajectories": {"system": "decaying_oscillators", "samples": 30, "points": 21,
                          "span": [0, 2]},
         "model": {"name": "neural_ode", "width": 8, "window": 4},
         "training": {"steps": 40, "batch": 8, "learning_rate": 0.01},
         "run": {"dtype": "float64", "name": "prey"}},
        out=tmp_path / "python", quiet=True,
    )  # fmt: skip
    assert train(printed, "--out", "again", "--quiet")[0] == 0
    again = residua.load_trajectory_model(tmp_path / "again")
    assert again.case == model.case
    for a, b in zip(again.model.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missed_accuracy_exits_1_and_a_plan_writes_nothing(train, tmp_path):
    code, _, err = train(CASE, "--out", "run", "--quiet", "--set", "run.accuracy=1e-9")
    assert code == 1 and "missed" in err and (tmp_path / "run" / "model.h5").exists()
    code, out, _ = train(CASE, "--out", "other", "--dry-run")
    assert code == 0 and "24 to train on, 6 to test" in out
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_is_read_back(train, tmp_path, name):
    system = {
        "neural_ode": "decaying_oscillators", "deep_equilibrium": "decaying_oscillators",
        "latent_sde": "ornstein_uhlenbeck", "sde_gan": "ornstein_uhlenbeck",
        "latent_ode": "decaying_oscillators", "flow": "two_moons",
    }.get(name, "chirality")  # fmt: skip
    case = f"""
trajectories: {{system: {system}, samples: 20, points: {1 if name == "flow" else 12}}}
model: {name}
training: {{steps: 3, batch: 8}}
"""
    code, out, err = train(case, "--out", "run")
    assert (code, err) == (0, ""), err
    read_back = residua.load_trajectory_model(tmp_path / "run")
    assert read_back.case.model.name == name
    if name in ("latent_sde", "sde_gan"):
        assert read_back.sample([0.0, 1.0, 2.0], 4).shape == (4, 3, 1)
        assert (read_back.sample([0.0, 1.0], 4) == read_back.sample([0.0, 1.0], 4)).all()


@pytest.mark.parametrize("path", sorted(SHOWN.glob("*.yaml")), ids=lambda path: path.stem)
def test_cases_that_are_shown_train(path, tmp_path, capsys):
    few = ("--set", "trajectories.samples=24", "--set", "training.steps=2", "--quiet")
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *few]) == 0
    assert capsys.readouterr().err == ""


BAD = [
    ("trajectories.system=lorentz", 2, ["trajectories", "no such system", "lorenz"]),
    ("trajectories.parameters={a: 1}", 2, ["no such parameter"]),
    ("trajectories.span=[2, 0]", 2, ["trajectories.span", "two times"]),
    ("trajectories.file=x.csv", 2, ["either a system or a file"]),
    ("model=neural_odd", 2, ["model", "neural_ode"]),
    ("model.breadth=3", 2, ["model", "breadth", "width"]),
    ("model=neural_cde", 2, ["model", "no labels"]),
    ("training.steps=0", 2, ["training.steps"]),
    ("kind=problem", 2, ["kind"]),
    ("network=mgno", 2, ["unknown key 'network'"]),
]


@pytest.mark.parametrize(("change", "code", "says"), BAD, ids=[c for c, _, _ in BAD])
def test_a_mistake_gets_one_line(train, tmp_path, change, code, says):
    found, out, err = train(CASE, "--out", "run", "--set", change)
    assert (found, out) == (code, ""), err
    assert err.count("\n") == 1 and all(text in err for text in says), err
    assert not (tmp_path / "run").exists()


GOOD = "sample,time,x,y,label\na,0,1,2,0\na,1,,3,0\nb,0,5,nan,1\nb,0.5,6,7,1\nb,2,8,9,1\n"


def test_csv_with_gaps_and_lengths(tmp_path):
    (tmp_path / "s.csv").write_text(GOOD, encoding="utf-8")
    found = read(tmp_path / "s.csv")
    assert found.lengths.tolist() == [2, 3] and found.labels.tolist() == [0, 1]
    assert found.known.tolist()[0] == [[True, True], [False, True], [False, False]]
    assert found.times[1].tolist() == [0, 0.5, 2] and found.values[1, 2].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("t,x\n0,1\n", "line 1"),
        ("time\n0\n", "no channel"),
        ("time,x\n", "no other"),
        ("time,x\n0,1\n1\n", "line 3: 1 fields"),
        ("time,x\n0,one\n", "line 2, x: 'one'"),
        ("time,x\n0,inf\n", "line 2, x"),
        ("time,x\n,1\n", "line 2: the time is missing"),
        ("time,x\n1,1\n0,2\n", "sort the times"),
        ("time,x,label\n0,1,a\n", "line 2, label"),
        ("time,x,label\n0,1,1\n1,1,2\n", "line 3: label 2"),
    ],
)
def test_csv_that_is_wrong(tmp_path, text, says):
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path / "s.csv")
    assert "s.csv" in str(caught.value)


def test_arrays_in_npz_and_hdf5(tmp_path):
    series = generate("chirality", 4, points=6, missing=0.3)
    arrays = {"times": series.times.numpy(), "values": series.values.numpy(),
              "labels": series.labels.numpy()}  # fmt: skip
    np.savez(tmp_path / "s.npz", **arrays)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    for name in ("s.npz", "s.h5"):
        found = read(tmp_path / name)
        assert torch.equal(found.times, series.times) and torch.equal(found.labels, series.labels)
        assert torch.equal(found.known, series.known)
    np.savez(tmp_path / "o.npz", times=np.arange(3.0), values=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="NPZ"):
        read(tmp_path / "o.npz")
    np.savez(tmp_path / "v.npz", values=np.zeros((2, 3)))
    with pytest.raises(DataError, match="no array 'times'"):
        read(tmp_path / "v.npz")
    with pytest.raises(DataError, match="ends in"):
        (tmp_path / "s.txt").write_text("x")
        read(tmp_path / "s.txt")


def test_a_file_of_series_is_trained_on(train, tmp_path):
    series = generate("decaying_oscillators", 10, points=11, span=(0.0, 1.0))
    np.savez(tmp_path / "s.npz", times=series.times[0].numpy(), values=series.values.numpy())
    case = "trajectories: {file: s.npz}\ntraining: {steps: 3}\n"
    code, _, err = train(case, "--out", "run", "--quiet")
    assert (code, err) == (0, "")
    code, _, err = train(case.replace("s.npz", "t.npz"), "--out", "other")
    assert code == 3 and "t.npz: there is no such file" in err


def test_seeds_give_the_weights_and_leave_torch_alone():
    options = make_case({"trajectories": {"system": "lorenz"}}).model
    before = torch.random.get_rng_state()
    one, same, other = (build_model(options, 3, None, torch.float32, s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
