"""The README is run: its YAML is solved to its own accuracy gate, its Python executed."""

import re
from pathlib import Path

import numpy as np

from residua.cli import main

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL).group(1)


def test_the_case_reaches_the_accuracy_it_asks_for(tmp_path):
    path = tmp_path / "case.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    assert main(["solve", str(path), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    stricter = ["--set", "run.accuracy=1e-14", "--set", "run.steps=2"]
    missed = ["solve", str(path), "--out", str(tmp_path / "other"), "--quiet", *stricter]
    assert main(missed) == 1


def test_the_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block("python"), "README.md", "exec"), names)
    assert names["errors"]["u"] < 1e-3
    assert np.shape(names["values"]) == (2, 1)
    assert set(names["derivatives"]) == {"u_x", "u_xx"}
