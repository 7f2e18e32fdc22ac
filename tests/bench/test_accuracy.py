"""Ladders, their runs, medians of seeds, races."""

from __future__ import annotations

import json
import math

import pytest

from residua.bench import accuracy
from residua.bench.ladder import LADDERS, Race, chosen, find, load
from residua.bench.report import race_table
from residua.cli import main
from residua.errors import ConfigurationError
from residua.problems import registry

GOOD = """\
title: small
cases:
  - name: quick
    problem: heat
    solver: {name: pinn, network: {width: 6, depth: 1}, points: {interior: 60}}
    run: {budget: none, steps: 30}
    must: 1
    aim: 1e-12
  - name: slow
    problem: heat
    solver: {name: pinn, network: {width: 4, depth: 1}, points: {interior: 60}, optimizer: adam}
    run: {budget: none, steps: 3}
    seeds: [4]
races:
  - {name: heat, ours: quick, peer: slow, must: 1e-3, aim: 1e9}
"""
BAD = [
    ("unknown key", "    must: 1\n", "    most: 1\n", 7, "must"),
    ("key of a case file", "network: {width: 6", "network: {widht: 6", 5, "'width'"),
    ("unknown problem", "quick\n    problem: heat", "quick\n    problem: haet", 4, "'heat'"),
    ("no error", "must: 1\n", "must: soon\n", 7, "a number"),
    ("negative error", "aim: 1e-12", "aim: -1", 8, "above 0"),
    ("seeds", "[4]", "[-4]", 13, "a whole number"),
    ("unknown section", "races:", "racers:", 14, "'races'"),
    ("nobody's race", "peer: slow", "peer: slaw", 15, "'slow'"),
    ("twice the same name", "name: slow", "name: quick", 9, "two cases"),
    ("no problem", "slow\n    problem: heat\n", "slow\n", 9, "problem is missing"),
    ("no file", "slow\n    problem: heat\n", "slow\n    file: none.yaml\n", None, "none.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_a_bad_ladder_is_refused_with_file_and_line(old, new, line, says, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    assert GOOD.count(old) == 1
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    assert main(["bench", "accuracy", "--ladder", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert says in captured.err
    if line is not None:
        assert f"{path}:{line}: " in captured.err


def test_the_ladders_of_the_suite_are_good():
    ladder = load(find("accuracy"))
    asked = {rung.name: (rung.goal.must, rung.goal.aim) for rung in ladder.rungs if rung.goal.must}
    assert len(asked) == 9 and asked["burgers"] == (1e-5, 1e-7)
    assert {race.must for race in ladder.races} == {20}
    peers = [rung for rung in ladder.rungs if rung.name in {race.peer for race in ladder.races}]
    assert {rung.case.solver.name for rung in peers} == {"deepxde"}
    for race in ladder.races:
        ours, peer = (next(r for r in ladder.rungs if r.name == n) for n in (race.ours, race.peer))
        assert ours.case.problem == peer.case.problem
    names = {rung.name for rung in load(find("library")).rungs}
    assert set(registry.names()) <= names
    with pytest.raises(ConfigurationError, match="accuracy"):
        find("acuracy")
    assert find("accuracy").parent == LADDERS


def test_cases_are_chosen_by_name():
    ladder = load(find("accuracy"))
    assert [r.name for r in chosen(ladder, ["*_deepxde"]).rungs] == [r.peer for r in ladder.races]
    with pytest.raises(ConfigurationError, match="'poisson'"):
        chosen(ladder, ["poison"])


def test_runs_are_kept_and_shown(tmp_path, capsys):
    path, out = tmp_path / "mine.yaml", tmp_path / "results.json"
    path.write_text(GOOD, encoding="utf-8")
    command = ["bench", "accuracy", "--ladder", str(path), "--out", str(out)]
    assert main([*command, "--seeds", "7"]) == 0
    table = capsys.readouterr().out
    found = json.loads(out.read_text("utf-8"))
    quick, slow = found["rows"]["quick"], found["rows"]["slow"]
    assert [run["seed"] for run in quick["runs"]] == [7]
    assert [run["seed"] for run in slow["runs"]] == [4]
    assert quick["met"] == "must" and slow["met"] is None
    assert quick["median"] < 0.1 * slow["median"]
    assert quick["runs"][0]["curves"]["kept"] and "versions" in quick["runs"][0]
    assert found["races"]["heat"]["met"] == "the peer found nothing"  # in three steps
    for words in ("quick", "must met", "times sooner"):
        assert words in table
    assert main([*command, "--table"]) == 0
    assert capsys.readouterr().out == table
    assert main(["bench", "compare", str(out), str(out)]) == 0


def test_a_failed_run_stays_in_the_table(tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "mine.yaml", tmp_path / "results.json"
    path.write_text(GOOD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise MemoryError", encoding="utf-8")
    command = ["bench", "accuracy", "--ladder", str(path), "--out", str(out), "--only", "quick"]
    assert main([*command, "--seeds", "0"]) == 0
    captured = capsys.readouterr()
    assert "out of memory" in captured.out and "FAILED" in captured.err
    row = json.loads(out.read_text("utf-8"))["rows"]["quick"]
    assert row["met"] == "no" and row["median"] is None and row["failed"] == 1
    assert row["runs"][0]["exit_code"] == 5


def test_a_run_without_reference_stays_in_the_table_too(tmp_path, capsys):
    path, out = tmp_path / "mine.yaml", tmp_path / "results.json"
    problem = """
      coordinates: {x: [0, 1]}
      fields: [u]
      equations: ["u_xx = 1"]
      conditions: [{where: boundary, u: 0}]
      reference: none
"""
    path.write_text(GOOD.replace(" heat\n", problem, 1), encoding="utf-8")
    command = ["bench", "accuracy", "--ladder", str(path), "--out", str(out), "--only", "quick"]
    assert main([*command, "--seeds", "0"]) == 0
    assert "no reference" in capsys.readouterr().out
    row = json.loads(out.read_text("utf-8"))["rows"]["quick"]
    assert row["met"] == "no" and row["failed"] == 1 and row["runs"][0]["exit_code"] == 0


def run(error, *, seconds=10.0, windows=1, kept=(), reached=(), **more):
    return {
        "seed": 0, "relative_l2": {"u": error}, "reference_error_bar": {"u": 1e-9},
        "seconds": seconds, "windows": windows,
        "curves": {"kept": list(kept), "reached": list(reached)}, **more,
    }  # fmt: skip


def row(*runs, must=1e-3, aim=1e-5):
    return {"must": must, "aim": aim, "runs": list(runs)}


def test_the_median_seed_counts_and_failures_are_the_worst():
    found = accuracy.standing(row(run(1e-6), run(1e-4), run(1e-9, failure="diverged")))
    assert found["median"] == 1e-4 and found["met"] == "must"
    assert math.isinf(found["worst"]) and found["failed"] == 1
    assert accuracy.standing(row(run(1e-6), run(1e-6), run(1.0)))["met"] == "aim"
    assert accuracy.standing(row(run(1e-6), run(1.0)))["met"] == "no"
    assert accuracy.standing(row(run(None)))["failed"] == 1
    assert accuracy.standing(row(run(2e-9)))["reference_limited"]


def test_the_worst_field_counts():
    both = run(0.0) | {"relative_l2": {"u": 1e-6, "v": 1e-2}}
    assert accuracy.standing(row(both))["median"] == 1e-2


def test_staircases_tell_first_and_last_time():
    log = [(1.0, 1.0), (2.0, 0.1), (3.0, 0.5), (4.0, 0.2), (5.0, 0.05)]
    stairs = accuracy.staircases(log)
    assert stairs["reached"] == [[1.0, 1.0], [2.0, 0.1], [5.0, 0.05]]
    assert stairs["kept"] == [[1.0, 1.0], [2.0, 0.5], [4.0, 0.2], [5.0, 0.05]]
    slow = [(float(i), 1 - 1e-4 * i) for i in range(400)]
    thin = accuracy.staircases(slow)["kept"]
    assert len(thin) == 2 and thin[-1] == [399.0, pytest.approx(1 - 0.0399)]
    assert accuracy.staircases([]) == {"reached": [], "kept": []}


def test_a_race_is_to_the_best_error_of_the_peer():
    peer = row(run(0.3, reached=[[5.0, 1.0], [100.0, 0.01]]))
    ours = row(run(1e-6, kept=[[1.0, 1.0], [4.0, 0.02], [5.0, 0.001]]))
    found = accuracy.race(Race("r", "a", "b", must=20, aim=100), ours, peer)
    assert (found["peer_error"], found["our_seconds"], found["sooner"]) == (0.01, 5.0, 20.0)
    assert found["met"] == "must"
    never = row(run(0.1, kept=[[1.0, 0.1]]))
    found = accuracy.race(Race("r", "a", "b", must=20, aim=100), never, peer)
    assert found["sooner"] == 0 and found["met"] == "no"
    # A peer whose error stays near that of the function zero sets no mark to be at.
    lost = row(run(0.99, seconds=1920.0, reached=[[1.5, 0.98]]))
    found = accuracy.race(Race("r", "a", "b", must=20, aim=100), ours, lost)
    assert (found["sooner"], found["peer_seconds"]) == (None, 1920.0)
    assert found["met"] == "the peer found nothing"
    assert "the peer found nothing" in race_table({"r": found})


def test_in_time_windows_the_end_of_the_run_counts():
    curve = [[1.0, 1e-6]]  # the error of the first window
    assert accuracy.seconds_to(run(1e-3, windows=4, kept=curve), 1e-2) == 10.0
    assert math.isinf(accuracy.seconds_to(run(1e-3, windows=4, kept=curve), 1e-4))
    assert accuracy.seconds_to(run(1e-3, windows=1, kept=curve), 1e-4) == 1.0
