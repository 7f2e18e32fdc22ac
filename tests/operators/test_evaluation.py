"""`residua evaluate`: definitions of errors, bands that cover, grids solved anew, the command."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from residua.cli import main
from residua.operators.datasets.darcy import coarse_floor
from residua.operators.evaluation.classical import classical
from residua.operators.evaluation.conformal import bands, needed, threshold
from residua.operators.evaluation.evaluate import evaluate
from residua.operators.evaluation.metrics import pdebench, relative_l2, statistics
from residua.operators.evaluation.resolutions import other_grids
from residua.operators.evaluation.spectra import spectrum
from residua.operators.operator import load
from residua.operators.options import DataOptions
from residua.operators.samples import open_part, open_samples


def wave(n: int, k: int, size: float) -> np.ndarray:
    """``size * sin(2 pi k x)`` as (1 sample, 1 time, 1 channel, n)."""
    return size * np.sin(2 * np.pi * k * np.arange(n) / n)[None, None, None]


def test_pdebench_metrics_of_a_wave_and_a_constant():
    n, true = 32, 2.0 + np.zeros((1, 1, 1, 32))
    found = pdebench(true + wave(n, 3, 0.1) + 0.01, true)
    assert found["rmse"] == pytest.approx(np.sqrt(0.1**2 / 2 + 0.01**2))
    assert found["nrmse"] == pytest.approx(found["rmse"] / 2)
    assert found["max_error"] == pytest.approx(0.11)
    assert found["conserved_rmse"] == pytest.approx(0.01)
    # A coefficient of a sine is half its size; the mean is that of modes 0 to 3.
    assert found["fourier_rmse_low"] == pytest.approx((0.1 / 2 + 0.01) / 4)
    assert found["fourier_rmse_mid"] == pytest.approx(0, abs=1e-12)
    moved = pdebench(true + wave(n, 5, 0.1), true)
    assert moved["fourier_rmse_mid"] == pytest.approx(0.1 / 2 / 8)
    assert moved["fourier_rmse_low"] == pytest.approx(0, abs=1e-12)
    edge = true.copy()
    edge[..., 0] += 0.3
    assert pdebench(edge, true)["boundary_rmse"] == pytest.approx(0.3 / np.sqrt(2))


def test_pdebench_metrics_in_the_plane():
    n = 16
    x = np.arange(n) / n
    error = 0.2 * np.cos(2 * np.pi * (3 * x[:, None] + 4 * x[None]))
    true = np.ones((2, 1, 1, n, n))
    found = pdebench(true + error, true)
    assert found["rmse"] == pytest.approx(0.2 / np.sqrt(2))
    # |k| = 5 lies in the middle band, of which this grid has the modes 4 to 7.
    assert found["fourier_rmse_mid"] == pytest.approx(0.2 / 2 / 4)
    assert found["fourier_rmse_low"] == pytest.approx(0, abs=1e-12)
    other = np.roll(error, 0, 0)[::-1]  # 3 becomes -3, which the positive quadrant does not hold
    assert pdebench(true + other, true)["fourier_rmse_mid"] == pytest.approx(0, abs=1e-12)
    side = true.copy()
    side[..., 0, :] += 1.0
    assert pdebench(side, true)["boundary_rmse"] == pytest.approx(np.sqrt((n + 2) / (4 * n)))


def test_relative_errors_and_their_quantiles():
    true = np.arange(1.0, 13).reshape(4, 1, 1, 3)
    scale = np.array([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1, 1)
    errors = relative_l2(true * (1 + scale), true)
    assert np.allclose(errors, scale.ravel())
    found = statistics(errors)
    assert found["mean"] == pytest.approx(0.25) and found["median"] == pytest.approx(0.25)
    assert found["max"] == pytest.approx(0.4) and found["q25"] == pytest.approx(0.175)
    true[3] = np.inf
    found = statistics(relative_l2(true, np.ones_like(true)))
    assert found["max"] == found["mean"] == np.inf and np.isfinite(found["median"])


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
def test_a_spectrum_adds_up_and_knows_the_length_of_a_wave(periodic, rng):
    fields = rng.standard_normal((3, 2, 18, 24))
    total = (fields**2).sum(1).mean()
    assert spectrum(fields, periodic).sum() == pytest.approx(total)
    x = (np.arange(64) + 0.5) / 64
    line = np.cos(2 * np.pi * 4 * x)[None, None, :, None] * np.ones(24)
    found = spectrum(line, (periodic[0], True))
    assert found[4] == pytest.approx(0.5) and found.sum() == pytest.approx(0.5)


def test_thresholds_cover_what_they_promise(rng):
    """Over draws of 19 scores and one more; the plain quantile, the twin, promises too much."""
    scores = rng.exponential(size=(6000, 20))
    kept = np.mean([s[-1] <= threshold(s[:-1], 0.9) for s in scores])
    plain = np.mean([s[-1] <= np.quantile(s[:-1], 0.9) for s in scores])
    assert 0.885 < kept < 0.915
    assert plain < 0.885
    assert threshold(np.arange(5.0), 0.9) == np.inf
    assert threshold(np.arange(9.0), 0.9) == 8
    assert needed(19, 0.95) == 19 and needed(18, 0.95) > 18


def test_bands_hold_whole_fields(rng):
    width = np.linspace(0.1, 1, 40)[None, None]
    true = rng.standard_normal((400, 1, 1, 40))
    found = true + width * rng.standard_normal(true.shape)
    rows = bands(width, (found[:100], true[:100]), (found[100:], true[100:]))
    for row in rows:
        assert abs(row["coverage_of_band"] - row["level"]) < 0.09
        assert abs(row["coverage_of_bound"] - row["level"]) < 0.09
    # Wrong twin: calibrated on errors half as large, the band does not hold what it says.
    small = (true[:100] + 0.5 * (found - true)[:100], true[:100])
    assert bands(width, small, (found[100:], true[100:]))[1]["coverage_of_band"] < 0.1


@pytest.fixture(scope="module")
def burgers(tmp_path_factory, make_data):
    path = tmp_path_factory.mktemp("burgers") / "burgers.h5"
    splits = {"train": (0, 6), "validation": (6, 8), "test": (8, 11)}
    return make_data(path, "burgers", 24, splits, target=1e-3)


@pytest.fixture(scope="module")
def darcy(tmp_path_factory, make_data):
    path = tmp_path_factory.mktemp("darcy") / "darcy.h5"
    return make_data(path, "darcy", 17, {"train": (0, 6), "test": (6, 9)}, grid=65)


def test_an_exact_operator_has_bands_of_no_width():
    true = np.ones((20, 1, 1, 4))
    rows = bands(np.zeros((1, 1, 4)), (true, true), (true, true))
    assert rows[0]["band_half_width"] == 0 and rows[0]["coverage_of_band"] == 1


def test_other_grids_are_the_same_samples(burgers):
    options = DataOptions(file=str(burgers), map="pairs")
    part = open_samples(options).test
    grids = {grid.label: grid for grid in other_grids(part, part, 2)}
    half, double = grids["half"], grids["double"]
    assert half.source == "nodes of the file" and half.size == 12
    assert np.array_equal(half.truths, part.data.outputs[:2][..., ::2])
    assert double.source == "solved anew" and double.size == 48
    assert relative_l2(double.truths[..., ::2], part.data.outputs[:2]).max() < 5e-3
    assert np.allclose(double.inputs[..., ::2], part.data.inputs[:2], atol=1e-4)
    assert grids["odd"].size % 2 == 1 and grids["odd"].inputs.shape == (2, 1, grids["odd"].size)
    # Wrong twin: a file whose seed is not what it says is not solved anew.
    lying = dict(part.data.attributes)
    lying["request"] = lying["request"].replace('"seed": 3', '"seed": 4')
    object.__setattr__(part.data, "attributes", lying)
    again = {grid.label: grid for grid in other_grids(part, part, 2)}
    assert again["double"].inputs is None and "does not repeat" in again["double"].source
    assert again["half"].inputs is not None


def test_the_classical_line_of_darcy(darcy):
    part = open_part(DataOptions(file=str(darcy)), darcy)
    found = classical(part, 1.0)
    a, u = part.data.inputs[:5][:, 0], part.data.outputs[:5][:, 0]
    assert found.floor == pytest.approx(coarse_floor(a, u).mean(), rel=1e-6)
    errors = [solve.error for solve in found.solves]
    assert errors == sorted(errors, reverse=True) and len(errors) == 4
    assert found.seconds is not None and found.bar is not None
    assert classical(part, 1e-9).seconds is None


def test_the_classical_line_of_a_solver_with_a_target(burgers):
    found = classical(open_part(DataOptions(file=str(burgers)), burgers), 1e-2)
    assert found.method == "spectral solver" and found.solves[0].error == 1e-2


CASE = """
data: {{file: {file}, map: {map}}}
network: {{name: mgno, width: 4, depth: 1, smoothings: [1, 1]}}
training: {{epochs: 2, batch: 4}}
"""


@pytest.mark.parametrize("kind", ["pairs", "steps"])
def test_one_command_measures_everything(
    burgers, darcy, make_data, tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_text(CASE.format(file=burgers, map=kind))
    assert main(["train", "case.yaml", "--out", "run", "--quiet"]) == 0
    code = main(["evaluate", "run", "--metrics", "pdebench", "--samples", "2"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    for words in ("relative L2", "half", "double", "odd", "bands", "classical", "PDEBench"):
        assert words in out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["relative_l2"]["mean"] == pytest.approx(summary["test_relative_l2"]["mean"])
    assert (found["rollout"] is None) == (kind == "pairs")
    assert found["cost"]["parameters"] == summary["trained_parameters"]
    assert (tmp_path / "run" / "evaluation.png").stat().st_size > 10_000
    if kind == "steps":
        # An operator whose rollout leaves what numbers can hold is measured too.
        with h5py.File("run/operator.h5", "r+") as file:
            for name in ("mean", "deviation"):
                file[f"network/outputs.{name}"][...] = 3.4e38
        assert main(["evaluate", "run", "--samples", "1"]) == 0
        out, err = capsys.readouterr()
        assert "inf" in out and err == ""
        found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        assert (
            found["relative_l2"]["mean"] is None
            and "relative_l2.mean is infinite" in found["notes"]
        )
        return
    for name, seed, boundary in (("same", 3, None), ("other", 4, None), ("walls", 4, "neumann")):
        path, rows = tmp_path / f"{name}.h5", {"all": (0, 2)}
        make_data(path, "burgers", 20, rows, seed=seed, target=1e-2)
        if boundary:
            with h5py.File(path, "r+") as file:
                file["boundary_conditions/x_boundary"].attrs["condition"] = boundary
    for path, samples in ((burgers, 3), (Path("other.h5"), 2)):
        assert evaluate(load("run"), file=path, count=1).numbers["samples"] == samples
    for arguments, code, says in (
        (["run", "--data", "same.h5"], 3, "same random numbers as that of"),
        (["run", "--data", "walls.h5"], 2, "it is neumann, not periodic"),
        (["run", "--data", str(darcy)], 2, "give data of u to u in 1 coordinate"),
        (["run", "--data", "none.h5"], 3, "there is no such file"),
        (["other"], 3, "there is no such folder"),
        (["run", "--samples", "0"], 2, "whole number from 1"),
        (["run", "--metrics", "all"], 2, "pdebench"),
    ):
        assert main(["evaluate", *arguments]) == code
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1
