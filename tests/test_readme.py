"""The README is run: cases are solved, fragments read, commands tried, Python executed.

What the first case prints must have the form that is written there; numbers and the name of the
classical solver may differ.
"""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from residua import yaml_source
from residua.cli import main
from residua.operators.case import make_case
from residua.operators.neural_de.trajectories.case import load_case as load_trajectories
from residua.problems import Problem
from residua.problems.equation import parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
YAML = [body for kind, body in BLOCKS if kind == "yaml"]
CASES = [body for body in YAML if body.startswith("problem:")]
FUNCTIONS = [body for body in YAML if body.startswith("functions:")]
OPERATORS = [body for body in YAML if "network:" in body and "data:" in body]
SERIES = [body for body in YAML if "trajectories:" in body]
FRAGMENTS = [body for body in YAML if body not in [*CASES, *FUNCTIONS, *OPERATORS, *SERIES]]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]
PLAIN = "\n".join(body for kind, body in BLOCKS if not kind)
COMMANDS = [line for line in PLAIN.splitlines() if line.startswith("residua ")]
TARGETS = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
OUTPUT = next(body for kind, body in BLOCKS if "computing the reference" in body)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_text(CASES[0], encoding="utf-8")
    return tmp_path


def test_every_block_is_of_a_kind_that_is_run():
    assert len(CASES) == len(FUNCTIONS) == 1 and FRAGMENTS and PYTHON and len(COMMANDS) >= 6
    run = {*YAML, *PYTHON, OUTPUT}
    for _, body in BLOCKS:
        lines = [line for line in body.splitlines() if line.strip()]
        known = all(re.match(r"(residua|make) |\s{20,}", line) for line in lines)
        assert body in run or known, body


def forms(text):
    """Lines with numbers and the name of the classical solver left out."""
    text = re.sub(r"(?m)^(reference: ).*(, u to)", r"\1METHOD\2", text)
    text = re.sub(r"(?m)^(classical ).*(: needs)", r"\1METHOD\2", text)
    return [re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "#", line) for line in text.splitlines()]


def test_the_first_case_reaches_its_accuracy_and_prints_what_is_shown(folder, capsys):
    assert main(["solve", "case.yaml"]) == 0
    printed = iter(forms(capsys.readouterr().out))
    for line in forms(OUTPUT):
        assert line in printed, f"{line!r} is not printed, or not in this order"
    table = re.findall(r"^\| (`.*`) \| .* \|$", TEXT.partition("leaves a folder")[2], re.MULTILINE)
    names = [name for row in table[:6] for name in re.findall(r"`([^`]*)`", row)]
    (run,) = (folder / "runs").iterdir()
    assert "summary.json" in names
    for name in names:
        assert (run / name).exists(), name
    stricter = ["--set", "run.accuracy=1e-14", "--set", "run.steps=2"]
    assert main(["solve", "case.yaml", "--out", "other", "--quiet", *stricter]) == 1


def test_the_form_of_the_output_is_looked_at():
    """The wrong twin: another word in a line is another form."""
    assert forms("case by causal, 113 parameters") == forms("case by causal, 97 parameters")
    assert forms("case by causal, 113 parameters") != forms("case by pinn, 113 parameters")


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_line_of_a_fragment_is_read(fragment):
    written = yaml_source.load(fragment).data
    assert set(written) == {"conditions", "reference"} and len(written["conditions"]) >= 6
    start, walls = {"where": "t = 0", "u": 0, "u_t": 0}, {"where": "boundary", "u": 0}
    for item in written["conditions"]:
        given, first = [start, walls], "t = 0" in str(item)
        if first:
            given = [item, walls]
        elif "periodic" in item:
            rest = {"where": ["y = 0", "y = 1"], "u": 0}
            given = [start, rest, item]
        elif "boundary" not in str(item):
            named = item["where"] if isinstance(item["where"], list) else [item["where"]]
            others = {"x = 0", "x = 1", "y = 0", "y = 1"} - set(named)
            given = [start, {"where": sorted(others), "u": 0}, item]
        problem = {
            "coordinates": {"x": [0, 1], "y": [0, 1], "t": [0, 1]},
            "fields": ["u"],
            "equations": ["u_tt = lap(u)"],
            "conditions": given,
        }
        assert Problem.from_mapping(problem).conditions
    heat = {
        "coordinates": {"x": [0, "pi"], "t": [0, 1]},
        "fields": ["u"],
        "equations": ["u_t = u_xx"],
        "conditions": [{"where": "t = 0", "u": "sin(x)"}, {"where": "boundary", "u": 0}],
        "reference": written["reference"],
    }
    assert Problem.from_mapping(heat).reference().method == "exact"


def test_functions_are_read_and_used_as_shown(folder):
    x = np.linspace(0, 1, 9)
    Path("modes.csv").write_text("k,cosine,sine\n1,0,1\n")
    Path("law.csv").write_text("\n".join(f"{v},{v * v}" for v in x))
    Path("profile.csv").write_text("x,value\n" + "\n".join(f"{v},{1 + v}" for v in x))
    grid = [f"{a},{b},{a + b}" for a in x for b in x]
    Path("grid.csv").write_text("x,t,f\n" + "\n".join(grid))
    np.save("wave.npy", np.sin(2 * np.pi * x[:-1]))
    with h5py.File("speed.h5", "w") as file:
        file["run/time"], file["run/speed"] = x, x**2
    used = re.search(r"`u: (\S+)`, `(.*?)`, `(.*?)`; `(.*?)` is", TEXT)
    assert used is not None
    names = Problem.from_mapping(
        {
            "coordinates": {"x": [0, 1], "t": [0, 1]},
            "fields": ["u"],
            "functions": yaml_source.load(FUNCTIONS[0]).data["functions"],
            "equations": [used[2]],
            "conditions": [{"where": "t = 0", "u": used[1]}, {"where": "boundary", "u": "k(u)"}],
        }
    ).namespace
    assert parse(used[3], names).has(*parse(used[4], names).free_symbols)
    assert {given.name for given in names.functions} == {"u0", "p", "q", "r", "k", "f"}


def test_the_case_of_an_operator_is_read():
    (text,) = OPERATORS
    case = make_case(yaml_source.load(text).data)
    assert case.network.name == "mgno" and case.training.loss == "relative_h1"


def test_the_case_of_series_is_read(tmp_path):
    path = tmp_path / "prey.yaml"
    path.write_text(*SERIES, encoding="utf-8")
    assert load_trajectories(path, to_run=True).model.name == "neural_ode"


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line, folder, capsys):
    command = re.split(r"\s{3,}|; --", line)[0]
    words = shlex.split(re.sub(r"\bCASE(\.yaml)?", "case.yaml", command).replace("DIR", "out"))[1:]
    makes = words[0] == "solve" or words[:2] == ["data", "generate"]
    if makes and "--dry-run" not in words:
        words.append("--dry-run")
    if words[0] == "train":
        Path("case.yaml").write_text(OPERATORS[0], encoding="utf-8")
        words.append("--dry-run")
    # Nothing was begun here, which a dry run says as a run would; and there is no file of data.
    absent = "--resume" in words or words[:2] == ["data", "info"] or words[0] == "train"
    assert main(words) == (3 if absent else 0)
    assert capsys.readouterr()
    assert [path.name for path in folder.iterdir()] == ["case.yaml"]


def test_every_target_of_make_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"solve", "test"} <= set(TARGETS)
    for target in TARGETS:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("block", PYTHON)
def test_the_python_runs(block, folder):
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "integrate" in names:
        assert names["states"].shape == (256, 50, 2) and names["steps"].shape == (256,)
        assert names["found"].successful.all()
        return
    assert names["errors"]["u"] < 1e-3
    assert np.shape(names["values"]) == (2, 1)
    assert set(names["derivatives"]) == {"u_x", "u_xx"}
