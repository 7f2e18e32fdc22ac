"""What is a regression between two files, and what is noise."""

from __future__ import annotations

import copy
import json

import pytest

from residua.bench import compare
from residua.cli import main

ENGINE = {
    "benchmark": "engine",
    "machine": {"processor": "one", "cores": 2},
    "device": "cpu",
    "threads": 2,
    "rows": [
        {
            "name": "burgers 64 float32",
            "error": None,
            "contenders": {"residua": {"memory": 100 * 2**20}, "nested": {"memory": 400 * 2**20}},
            "ratios": {"nested": {"minimum": 0.60, "median": 0.62, "memory": 0.25}},
        }
    ],
}
ACCURACY = {
    "benchmark": "accuracy",
    "rows": {
        "heat": {
            "median": 1e-6, "failed": 0, "runs": [{}, {}, {}], "reference_error_bar": 1e-12,
        }
    },
    "races": {},
}  # fmt: skip


def engine(**changes):
    made = copy.deepcopy(ENGINE)
    made["rows"][0]["ratios"]["nested"].update(changes)
    return made


def accuracy(**changes):
    made = copy.deepcopy(ACCURACY)
    made["rows"]["heat"].update(changes)
    return made


def regressions(old, new):
    return [change.what for change in compare.changes(old, new)[0] if change.regression]


def test_the_same_is_no_regression():
    assert regressions(ENGINE, ENGINE) == regressions(ACCURACY, ACCURACY) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"minimum": 0.68, "median": 0.70}, []),  # 13 % each
        ({"minimum": 0.90, "median": 0.63}, []),  # one disturbed repetition
        ({"minimum": 0.61, "median": 0.99}, []),
        ({"minimum": 0.70, "median": 0.73}, ["time / nested"]),
        ({"minimum": 0.30, "median": 0.30}, []),
    ],
)
def test_a_slower_engine_is_a_regression_and_noise_is_not(changes, expected):
    assert regressions(ENGINE, engine(**changes)) == expected


def test_memory():
    new = engine(memory=0.5)
    assert regressions(ENGINE, new) == []  # theirs shrank
    new["rows"][0]["contenders"]["residua"]["memory"] *= 2
    assert regressions(ENGINE, new) == ["memory / nested"]


def test_a_row_that_fails_is_a_regression():
    new = engine()
    new["rows"][0] |= {"error": "gradient differs", "ratios": {}}
    assert regressions(ENGINE, new) == ["row in error"]
    assert regressions(new, ENGINE) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"median": 2.9e-6}, []),
        ({"median": 3.1e-6}, ["relative L2"]),
        ({"median": 1e-9}, []),
        ({"median": None, "failed": 2}, ["relative L2", "failed runs"]),
        ({"failed": 1}, ["failed runs"]),
    ],
)
def test_a_larger_error_is_a_regression_and_noise_is_not(changes, expected):
    assert regressions(ACCURACY, accuracy(**changes)) == expected


def test_errors_below_what_the_reference_knows_are_noise():
    limited = accuracy(median=1e-9, reference_error_bar=1e-8)
    assert regressions(limited, accuracy(median=2e-8, reference_error_bar=1e-8)) == []
    assert regressions(limited, accuracy(median=4e-8, reference_error_bar=1e-8)) != []


def test_what_cannot_be_compared_is_said():
    new = engine()
    new["machine"] = {"processor": "another", "cores": 64}
    new["rows"][0]["name"] = "kdv 64 float32"
    found, notes = compare.changes(ENGINE, new)
    assert found == []
    assert [note.split()[0] for note in notes] == ["machine", "only", "only"]


def operators(*errors):
    runs = [{"error": "diverged"} if e is None else {"relative_l2": {"mean": e}} for e in errors]
    return {"benchmark": "operators", "rows": {"darcy_mgno": {"runs": runs}}}


def test_operators_are_compared_by_their_median_errors():
    assert regressions(operators(1e-2, 2e-2, 3e-2), operators(5e-2, 1e-3, None)) == []
    assert regressions(operators(1e-2), operators(4e-2)) == ["relative L2"]
    assert regressions(operators(1e-2), operators(None)) == ["relative L2"]


def test_steps_of_mgno_are_compared_by_their_ratios():
    def file(ratio, error=None):
        row = {"nodes": 64, "width": 24, "batch": 8, "boundary": "periodic", "error": error}
        return {"benchmark": "mgno", "rows": [{**row, "ratio": {"minimum": ratio}}]}

    assert regressions(file(0.5), file(0.55)) == []
    assert regressions(file(0.5), file(0.6)) == ["time / plain"]
    assert regressions(file(0.5), file(0.5, "the two do not agree")) == ["time / plain"]


def test_integrators_are_compared_by_ratio_and_error():
    def file(ratio, error):
        ours = {"seconds": [1.0], "error": error}
        ratios = {"torchdiffeq": {"minimum": ratio, "median": ratio}}
        row = {"contenders": {"residua": ours}, "ratios": ratios}
        return {"benchmark": "trajectories", "rows": {"spiral": row}}

    assert regressions(file(0.1, 1e-5), file(0.11, 2e-5)) == []
    assert regressions(file(0.1, 1e-5), file(0.2, 1e-4)) == ["time / torchdiffeq", "error"]


@pytest.fixture
def files(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    return write


def test_the_exit_code_tells(files, capsys):
    old, worse = files("old.json", ENGINE), files("new.json", engine(minimum=0.9, median=0.9))
    assert main(["bench", "compare", old, old]) == 0
    assert main(["bench", "compare", old, worse]) == 1
    assert "REGRESSION" in capsys.readouterr().out
    assert main(["bench", "compare", worse, old]) == 0


@pytest.mark.parametrize("bad", ["{", '"text"', "{}", '{"benchmark": "other"}'])
def test_other_files_are_refused(bad, files, tmp_path, capsys):
    good = files("old.json", ENGINE)
    (tmp_path / "bad.json").write_text(bad, encoding="utf-8")
    assert main(["bench", "compare", good, str(tmp_path / "bad.json")]) == 3
    assert main(["bench", "compare", good, str(tmp_path / "missing.json")]) == 3
    assert main(["bench", "compare", good, files("acc.json", ACCURACY)]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 3
