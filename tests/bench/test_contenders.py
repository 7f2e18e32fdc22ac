"""Contenders compute the same thing; a wrong one is found out."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from residua.bench import speed
from residua.bench.cases import EQUATIONS, Row, draw, problem_of, rows, select
from residua.bench.contenders import KINDS, Failed, Workers
from residua.bench.workers import equations, torch_worker
from residua.errors import ConfigurationError


def tiny(kind="step", equation="burgers", dtype="float64"):
    return Row(kind, equation, 6, dtype, points=80, depth=3)


def contender(name, row, tmp_path):
    np.savez(tmp_path / "data.npz", **draw(row))
    request = {
        **row.plain(),
        "contender": name,
        "problem": problem_of(row.equation),
        "data": str(tmp_path / "data.npz"),
        "device": "cpu",
        "threads": 1,
    }
    made = torch_worker.make(request)
    made.warm()
    made.step()
    return made


@pytest.mark.parametrize("equation", EQUATIONS)
def test_engine_and_nested_differentiation_agree(equation, tmp_path):
    row = tiny(equation=equation)
    ours = contender("residua", row, tmp_path).result()
    theirs = contender("nested", row, tmp_path).result()
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
    assert np.linalg.norm(ours[1] - theirs[1]) <= 1e-11 * np.linalg.norm(theirs[1])


def test_an_equation_with_another_coefficient_disagrees(tmp_path, monkeypatch):
    wrong = {"burgers": lambda u: u.d(1) + u.value() * u.d(0) - 0.0101 * u.d(0, 0)}
    monkeypatch.setattr(torch_worker, "RESIDUALS", wrong)
    found = {n: contender(n, tiny(), tmp_path).result() for n in ("residua", "nested")}
    entries = {name: {"loss": loss} for name, (loss, _) in found.items()}
    vectors = {name: vector for name, (_, vector) in found.items()}
    assert speed.disagreements(entries, vectors, *speed.TOLERANCES["float64"])


def test_every_equation_is_written_twice():
    assert set(equations.RESIDUALS) == set(EQUATIONS)


def test_the_table_has_every_case():
    table = rows()
    steps = [row for row in table if row.kind == "step"]
    assert {row.width for row in steps} == {20, 64, 128, 256}
    assert {(row.points, row.depth) for row in steps} == {(8192, 4)}
    assert len(steps) == 7 * 4 * 2 and len(table) == len(steps) + 1
    orders = {row.equation: row.order for row in steps}
    assert orders["kdv"] == 3 and orders["biharmonic"] == orders["kuramoto-sivashinsky"] == 4
    last = table[-1]
    weights = draw(last)
    assert sum(a.size for name, a in weights.items() if name != "points") == 2051
    assert len(rows(quick=True)) < 10


def test_rows_are_chosen_by_name():
    assert [row.name for row in select(rows(), "burgers 64 float32")] == ["burgers 64 float32"]
    assert {row.equation for row in select(rows(), "kdv*float64")} == {"kdv"}
    with pytest.raises(ConfigurationError, match="biharmonic"):
        select(rows(), "biharmonik")


@pytest.fixture
def workers():
    with Workers("cpu", 1) as made:
        yield made
    assert not made.folder.exists()


def test_a_row_is_opened_compared_and_timed_in_other_processes(workers, monkeypatch):
    monkeypatch.setitem(KINDS, "step", ("residua", "nested", "floor"))
    row = tiny()
    found = speed.measure_row(row, workers, 3)
    assert found["error"] is None
    assert set(found["ratios"]) == {"nested", "floor"}
    assert found["contenders"]["residua"]["gradient_difference"] < 1e-11
    for entry in found["contenders"].values():
        assert len(entry["times"]) == 3 and entry["minimum"] > 0
        assert entry["memory"] is None or entry["memory"] >= 0
    assert "torch" in workers.about
    iteration = speed.measure_row(tiny("gauss-newton"), workers, 3)
    assert iteration["error"] is None
    theirs = {"torch.func jacobian", "torch.func iteration"}
    assert set(iteration["ratios"]) == {*theirs, "residua reuse"}
    for name, entry in iteration["contenders"].items():
        assert name == "residua reuse" or entry["gradient_difference"] < 1e-8


def test_processes_that_are_not_forked_serve_row_after_row(monkeypatch):
    """As on a GPU, where all contenders of a row are opened at once."""
    monkeypatch.setitem(KINDS, "step", ("residua", "nested"))
    with Workers("cpu", 1, fork=False) as workers:
        for equation in ("burgers", "kdv"):
            found = speed.measure_row(tiny(equation=equation), workers, 3)
            assert found["error"] is None and set(found["ratios"]) == {"nested"}


def test_who_does_not_answer_in_time_is_ended_and_begins_again(monkeypatch):
    monkeypatch.setitem(KINDS, "step", ("nested",))
    with Workers("cpu", 1, fork=False) as workers:
        workers.start(["nested"])
        assert speed.measure_row(tiny(), workers, 1)["error"] is None
        channel = workers.open("nested")
        row = {**tiny().plain(), "data": str(workers.folder / "data.npz"), "device": "cpu"}
        results = str(workers.folder / "nested.npy")
        channel.send("open", contender="nested", threads=1, results=results, **row)
        channel.answer()
        channel.deadline = 0.0
        channel.send("time", steps=10**9, warm=0.0)
        with pytest.raises(Failed, match="no answer"):
            channel.answer()
        channel.close()
        assert channel.worker.process.poll() is not None
        found = speed.measure_row(tiny(equation="kdv"), workers, 1)["contenders"]
        assert "times" in found["nested"]


def test_a_process_that_failed_is_not_asked_again(monkeypatch):
    """An illegal access on a GPU spoils all that its process does afterwards."""
    monkeypatch.setitem(KINDS, "step", ("nested",))
    with Workers("cpu", 1, fork=False) as workers:
        channel = workers.open("nested")
        channel.send("open", contender="no such", device="cpu", threads=1)
        with pytest.raises(Failed, match="KeyError"):
            channel.answer()
        channel.close()
        assert channel.worker.process.poll() is not None
        assert speed.measure_row(tiny(), workers, 1)["error"] is None


class Launching:
    """A processor that is asked what a GPU is asked."""

    torch = torch.device("cpu")
    launches = True

    def __init__(self):
        self.asked = []

    def clear(self):
        self.asked.append("clear")

    def finish(self):
        self.asked.append("finish")

    def watch(self):
        self.asked.append("watch")

    def peak(self):
        return 7


class Rerun:
    recordings = 0

    def record(self, function):
        self.recordings += 1
        return function


@pytest.mark.parametrize("name", ["residua", "floor"])
def test_on_a_gpu_what_is_timed_is_recorded_before_and_waited_for(name, tmp_path):
    np.savez(tmp_path / "data.npz", **draw(tiny()))
    request = {
        **tiny().plain(),
        "contender": name,
        "problem": problem_of("burgers"),
        "data": str(tmp_path / "data.npz"),
        "device": "cuda",
        "threads": 1,
    }
    device, recorder = Launching(), Rerun()
    made = torch_worker.CONTENDERS[name](request, device, recorder)
    assert device.asked == ["clear"]
    made.warm()
    assert device.asked[1] == "watch" and set(device.asked[2:]) <= {"finish"}
    for _ in range(3):
        before = len(device.asked)
        made.step()
        assert device.asked[before:] == ["finish"]
    assert recorder.recordings == 1 and "replayed" in made.how() and made.device_peak() == 7
    if name == "residua":
        assert made.engine.replayed._recordings
        ours, theirs = made.result(), contender("nested", tiny(), tmp_path).result()
        assert np.linalg.norm(ours[1] - theirs[1]) <= 1e-11 * np.linalg.norm(theirs[1])


def test_more_memory_is_measured_as_more(workers, monkeypatch):
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("the system does not tell peak memory")
    monkeypatch.setitem(KINDS, "step", ("nested",))
    small, large = (
        speed.measure_row(Row("step", "laplacian-2", 32, "float64", points=n), workers, 3)
        for n in (500, 8000)
    )
    ratio = large["contenders"]["nested"]["memory"] / small["contenders"]["nested"]["memory"]
    assert 8 < ratio < 32


def test_deepxde_agrees(workers, monkeypatch):
    monkeypatch.setitem(KINDS, "step", ("residua", "nested", "deepxde"))
    found = speed.measure_row(tiny(equation="biharmonic"), workers, 3)
    assert found["error"] is None, found
    assert found["contenders"]["deepxde"]["gradient_difference"] < 1e-11
    assert found["ratios"]["deepxde"]["minimum"] > 0


def test_what_a_worker_says_of_a_failure_is_kept(workers, monkeypatch):
    monkeypatch.setitem(KINDS, "step", ("nested", "torch.func jacobian", "no such"))
    found = speed.measure_row(tiny(equation="kdv"), workers, 3)["contenders"]
    assert "Burgers" in found["torch.func jacobian"]["skipped"]
    assert "KeyError" in found["no such"]["failed"]
    assert "times" in found["nested"]


def test_jax_agrees(workers, monkeypatch):
    pytest.importorskip("jax")
    jax = [name for name in KINDS["step"] if name.startswith("jax")]
    monkeypatch.setitem(KINDS, "step", ("residua", "nested", *jax))
    for equation in EQUATIONS:
        found = speed.measure_row(tiny(equation=equation), workers, 3)
        assert found["error"] is None, found
