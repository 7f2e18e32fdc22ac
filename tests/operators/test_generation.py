"""Making a data set: the same bytes however often it was interrupted and whoever computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.cli import main
from residua.errors import ConfigurationError, DataError, DivergedError
from residua.operators import datasets
from residua.operators.datasets import generation
from residua.operators.datasets.generation import Request, generate, one_sample

REQUEST = Request("advection", 16, 7, {"waves": 5})
SAMPLES = 7


@pytest.fixture
def here(monkeypatch):
    """Work in this process: fresh ones take seconds to begin, and two tests below have them."""

    def work(request, parts, missing, workers, samples, report):
        for number in missing:
            generation._make(request, str(parts), number)

    monkeypatch.setattr(generation, "_work", work)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> Path:
    """A data set made by two processes."""
    path = tmp_path_factory.mktemp("two") / "data.h5"
    return generate(REQUEST, SAMPLES, path, workers=2)


def test_workers_change_nothing(by_two, tmp_path, here):
    path = generate(REQUEST, SAMPLES, tmp_path / "data.h5")
    assert path.read_bytes() == by_two.read_bytes()
    assert not by_two.with_name("data.h5.parts").exists()


@settings(max_examples=8, deadline=None)
@given(done=st.lists(st.integers(0, SAMPLES - 1), unique=True), torn=st.booleans())
def test_an_interruption_changes_nothing(done, torn, by_two, tmp_path_factory):
    """Whatever was done, in whatever order, and a file that was being written."""
    path = tmp_path_factory.mktemp("part") / "data.h5"
    parts = path.with_name("data.h5.parts")
    generation._claim(parts, REQUEST)
    for number in done:
        generation._make(REQUEST, str(parts), number)
    if torn:
        half = ".0000001.npz.00000000-1-0123456789ab.tmp"
        (parts / half).write_bytes(b"half of a sample")
    original = generation._work

    def work(request, parts, missing, *_):
        assert not set(missing) & set(done)
        for number in missing:
            generation._make(request, str(parts), number)

    generation._work = work
    try:
        generate(REQUEST, SAMPLES, path)
    finally:
        generation._work = original
    assert path.read_bytes() == by_two.read_bytes()


def test_stopped_and_run_again(by_two, tmp_path):
    """A process killed in the middle of it, and the same command once more."""
    path = tmp_path / "data.h5"
    code = (
        "import os, sys\n"
        "from residua.operators.datasets import generation as g\n"
        "class Stop:\n"
        "    def start(self, *a, **k): pass\n"
        "    def message(self, text): pass\n"
        "    def finish(self, text=''): pass\n"
        "    def update(self, done, *a, **k):\n"
        "        if done == 2: os._exit(9)\n"
        "if __name__ == '__main__':\n"
        "    r = g.Request('advection', 16, 7, {'waves': 5})\n"
        f"    g.generate(r, {SAMPLES}, sys.argv[1], reporter=Stop())\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script), str(path)], timeout=60, check=False)
    assert done.returncode == 9 and not path.exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data.h5.parts").glob("*.npz")}
    assert len(kept) >= 2
    generate(REQUEST, SAMPLES, path)
    assert path.read_bytes() == by_two.read_bytes()


def test_a_sample_depends_on_the_seed_and_its_number_alone():
    five = one_sample(REQUEST, 5).fields["u"]
    assert np.array_equal(five, one_sample(REQUEST, 5).fields["u"])
    assert not np.allclose(five, one_sample(REQUEST, 4).fields["u"])
    other = Request("advection", 16, 8, {"waves": 5})
    assert not np.allclose(five, one_sample(other, 5).fields["u"])
    # At another resolution it is the same function.
    fine = one_sample(Request("advection", 32, 7, {"waves": 5}), 5).fields["u"]
    assert np.allclose(five, fine[:, ::2], atol=1e-12)


def test_what_is_stored(by_two):
    data = datasets.open(by_two)
    assert len(data) == SAMPLES and data.attributes["seed"] == 7
    assert data.attributes["dataset_name"] == "advection"
    assert {"residua_version", "settings", "law", "error_bar"} <= set(data.attributes)
    expected = np.stack([one_sample(REQUEST, n).fields["u"] for n in range(SAMPLES)])
    assert np.array_equal(data.states[:][:, :, 0], expected.astype(np.float32))
    assert data.split("train").rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_more_samples_of_the_same(by_two, tmp_path, here):
    data = datasets.open(generate(REQUEST, SAMPLES + 3, tmp_path / "more.h5"))
    assert np.array_equal(data.inputs[:SAMPLES], datasets.open(by_two).inputs[:])


def test_what_is_there_is_not_replaced_unasked(tmp_path, here):
    path = generate(REQUEST, 3, tmp_path / "data.h5")
    before = path.stat().st_mtime_ns
    generate(REQUEST, 3, path)  # complete: nothing to do
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ConfigurationError, match="exists; choose another --out"):
        generate(REQUEST, 4, path)
    assert len(datasets.open(generate(REQUEST, 4, path, overwrite=True))) == 4


def test_parts_of_another_request(tmp_path, here):
    path = tmp_path / "data.h5"
    parts = path.with_name("data.h5.parts")
    generation._claim(parts, Request("advection", 16, 9))  # which came to nothing
    generation._claim(parts, REQUEST)
    generation._make(REQUEST, str(parts), 0)
    with pytest.raises(ConfigurationError, match="samples of another request"):
        generate(Request("advection", 16, 8), 3, path)


def test_a_sample_without_a_solution_is_named(tmp_path):
    settings = {"amplitude": 100.0, "end": 0.5}
    request = Request("reaction_diffusion", 16, 0, settings)
    with pytest.raises(DivergedError, match="sample 4: no classical solution .* in 10 draws"):
        generation._make(request, str(tmp_path), 4)


def test_a_damaged_part(tmp_path, here):
    path = tmp_path / "data.h5"
    parts = path.with_name("data.h5.parts")
    generation._claim(parts, REQUEST)
    generation._make(REQUEST, str(parts), 1)
    part = generation._part(parts, 1)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match="remove it and run the same command again"):
        generate(REQUEST, 3, path)
    part.unlink()
    generate(REQUEST, 3, path)


def test_the_command(tmp_path, monkeypatch, capsys, here):
    monkeypatch.chdir(tmp_path)
    words = ["data", "generate", "advection", "--samples", "5", "--resolution", "16"]
    more = ["--set", "waves=5", "--set", "beta=1/2", "--split", "train=0:3", "test=3:5"]
    assert main([*words, *more, "--dry-run"]) == 0
    assert "5 samples of u (2, 16) into advection_16.h5" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main([*words, *more]) == 0
    assert "5 samples in advection_16.h5" in capsys.readouterr().out
    assert main(["data", "info", "advection_16.h5"]) == 0
    text = capsys.readouterr().out
    for part in ("parameter beta: 0.5", "split test: 3:5", "all finite", "no input is in two"):
        assert part in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["generate", "burgesr", "--samples", "2", "--resolution", "16"], 2, "'burgers'"),
        (["generate", "darcy", "--samples", "2", "--resolution", "16", "--set", "grid=40"], 2,
         "residua: grid: 40 nodes do not contain 16"),
        (["generate", "darcy", "--samples", "0", "--resolution", "16"], 2, "--samples"),
        (["generate", "darcy", "--samples", "2", "--resolution", "3"], 2, "too few or too many"),
        (["generate", "darcy", "--samples", "2", "--resolution", "9", "--out", "x.mat"], 2, ".h5"),
        (["generate", "darcy", "--samples", "2", "--resolution", "9", "--split", "train=0:3"], 2,
         "there are 0:2"),
        (["generate", "darcy", "--samples", "2", "--resolution", "9", "--worker", "2"], 2,
         "did you mean '--workers'"),
        (["info", "absent.h5"], 3, "absent.h5: there is no such file"),
        (["info", "text.h5"], 3, "is of an unknown kind"),
        ([], 2, "residua data --help"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    assert main(["data", *words]) == code
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1
    assert not list(tmp_path.glob("*.parts"))


def test_nan_in_a_file_is_an_error_of_data(tmp_path, capsys, here):
    import h5py

    path = generate(REQUEST, 3, tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        file["t0_fields/u"][2, 1, 4] = np.nan
    assert main(["data", "info", str(path)]) == 3
    out, err = capsys.readouterr()
    assert "advection" in out and "'t0_fields/u' holds NaN in sample 2, at [1, 4]" in err
