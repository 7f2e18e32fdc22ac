"""`residua bench trajectories`: rows measure time and error, and say which peers are missing."""

from __future__ import annotations

import json

import pytest

from residua.bench import trajectory_speed
from residua.cli import main


def test_a_row_measures_errors_and_leaves_absent_peers_out(monkeypatch, tmp_path, capsys):
    def absent(name, notes):
        notes.append(f"{name} is not installed")

    monkeypatch.setattr(trajectory_speed, "_peer", absent)
    monkeypatch.setattr(trajectory_speed, "REPETITIONS", 2)
    out = tmp_path / "found.json"
    command = ["bench", "trajectories", "--only", "euler_maruyama", "--threads", "1"]
    assert main([*command, "--out", str(out)]) == 0
    row = json.loads(out.read_text())["rows"]["euler_maruyama"]
    assert set(row["contenders"]) == {"residua", "residua seeded", "loop by hand"}
    assert set(row["ratios"]) == {"residua seeded", "loop by hand"}
    # The mean of 4096 paths: chance makes 0.5 per cent of it, a wrong drift would make 40.
    assert all(found["error"] < 0.03 for found in row["contenders"].values())
    said = capsys.readouterr().out
    assert "torchsde is not installed" in said and "ratio to" in said


def test_an_unknown_row_is_refused(capsys):
    assert main(["bench", "trajectories", "--only", "robertsen"]) == 2
    assert "robertson" in capsys.readouterr().err


def test_contenders_that_are_no_better_have_ratios_of_one():
    row = {"contenders": {"residua": {"seconds": [1.0], "steps": 10},
                          "peer": {"seconds": [1.0, 1.0], "steps": 5}}}  # fmt: skip
    found = trajectory_speed._compared(row, per_step=True)["ratios"]["peer"]
    assert found["minimum"] == 1.0 and found["per_step"] == pytest.approx(0.5)
