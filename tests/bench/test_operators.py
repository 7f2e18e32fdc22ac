"""The ladder of operators: what it may say, and what its verdicts mean."""

from __future__ import annotations

import pytest

from residua import yaml_source
from residua.bench.operators import LADDER, load, verdicts
from residua.cli import main
from residua.errors import ConfigurationError


def runs(error: float, parameters: int, ratio: float) -> dict:
    run = {
        "relative_l2": {"mean": error}, "trained_parameters": parameters,
        "resolutions": {"double": {"ratio_to_test_grid": ratio}},
    }  # fmt: skip
    return {"runs": [run]}


def test_the_ladder_of_the_suite_is_sound():
    ladder = load(LADDER)
    assert {goal.name for goal in ladder.goals} >= {"darcy_mgno", "darcy_fno", "burgers_mgno"}
    assert ladder.contests[0].parameters < 0.34 and ladder.transfers[0].must == 1.5


def test_verdicts_tell_missed_from_reached_and_count_parameters():
    ladder = load(LADDER)
    rows = {name: runs(8e-3, 100, 1.3) for name in ("darcy_mgno", "darcy_mgno_90")}
    rows["darcy_fno"] = runs(2e-2, 400, 1.0)
    found = {entry["what"]: entry for entry in verdicts(ladder, rows)}
    assert found["darcy_mgno_90"]["verdict"] == "reached"
    assert found["darcy: error over error"]["verdict"] == "aim reached"
    assert found["darcy_64_to_128"]["verdict"] == "reached"
    rows["darcy_fno"] = runs(2e-2, 200, 1.0)
    rows["darcy_mgno_90"] = {"runs": [{"error": "diverged"}]}
    found = {entry["what"]: entry for entry in verdicts(ladder, rows)}
    assert found["darcy: error over error"]["verdict"].startswith("too large")
    assert found["darcy_mgno_90"]["verdict"] == found["darcy_64_to_128"]["verdict"] == "missed"


BAD = [
    ("data: {}\ncases: [{name: a, data: none}]", "there are no such data"),
    ("daa: {}", "did you mean 'data'?"),
    (
        "data: {d: {family: darcy}}\ncases: [{name: a, data: d, network: unnet}]",
        "did you mean 'unet'?",
    ),
    ("contests: [{name: a, ours: b, rival: c}]", "no case has this name"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_mistake_in_a_ladder_has_its_line(tmp_path, text, says):
    path = tmp_path / "ladder.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert says in str(caught.value) and "ladder.yaml:" in str(caught.value)


SMALL = {
    "title": "small",
    "data": {
        "line": {
            "family": "burgers", "resolution": 16, "samples": 14,
            "splits": {"train": [0, 8], "validation": [8, 11], "test": [11, 14]},
        }
    },
    "cases": [
        {
            "name": "small", "data": "line", "map": "pairs", "must": 1e-9,
            "network": {"name": "mgno", "width": 2, "depth": 1, "smoothings": [1]},
            "training": {"epochs": 1},
        }
    ],
}  # fmt: skip


@pytest.mark.slow
def test_the_command_makes_trains_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml_source.dump(SMALL))
    arguments = ["bench", "operators", "--ladder", "small.yaml", "--out", "r.json", "--threads=1"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "small seed 0: relative L2" in out and "missed" in out
    assert main(["bench", "compare", "r.json", "r.json"]) == 0
    assert main([*arguments, "--only", "smal"]) == 2
    assert "did you mean 'small'?" in capsys.readouterr().err
