"""Every bad case and command line gets its message and exit code 2, and has a good twin."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from residua.cli import main
from residua.config import load_case

sys.path.insert(0, str(Path(__file__).parent / "bad_cases"))
try:
    from bad_base import BURGERS
    from bad_commands import ARGUMENTS, CONTENTS
    from bad_expressions import EXPRESSIONS
    from bad_keys import KEYS
    from bad_problems import PROBLEMS
    from bad_syntax import YAML
    from bad_values import VALUES
finally:
    sys.path.pop(0)

TABLE = [*YAML, *KEYS, *VALUES, *PROBLEMS, *EXPRESSIONS]
CASES = [pytest.param(bad, id=bad.id.replace(" ", "-")) for bad in TABLE]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check_refusal(code, out, err, *, says):
    assert code == 2, err
    assert out == ""
    assert err.startswith("residua: ")
    assert err.count("\n") == 1, "one message, one line"
    assert "Traceback" not in err
    for words in says:
        assert words in err


def test_the_table_is_large_and_has_no_row_twice():
    assert len(TABLE) + len(CONTENTS) + len(ARGUMENTS) >= 150
    assert len({bad.id for bad in TABLE}) == len(TABLE)
    for bad in TABLE:
        assert bad.old in bad.base, bad.id
        assert bad.text != bad.twin, bad.id


@pytest.mark.parametrize("bad", CASES)
def test_a_bad_case_is_refused(bad, run, tmp_path):
    (tmp_path / "case.yaml").write_text(bad.text, encoding="utf-8")
    began = time.process_time()
    code, out, err = run("solve", "case.yaml")
    assert time.process_time() - began < 2.0
    check_refusal(code, out, err, says=bad.says)
    place = "case.yaml:" if bad.expected_line is None else f"case.yaml:{bad.expected_line}: "
    assert place in err
    assert listing(tmp_path) == ["case.yaml"]


@pytest.mark.parametrize("bad", CASES)
def test_its_twin_is_accepted(bad, run, tmp_path):
    (tmp_path / "case.yaml").write_text(bad.twin, encoding="utf-8")
    code, out, err = run("solve", "case.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "case.yaml" not in out or "nothing was written" in out
    assert listing(tmp_path) == ["case.yaml"]


@pytest.mark.parametrize(("name", "content", "word"), CONTENTS, ids=[row[0] for row in CONTENTS])
def test_a_file_that_is_no_case_is_refused(name, content, word, run, tmp_path):
    (tmp_path / "case.yaml").write_bytes(content)
    began = time.process_time()
    code, out, err = run("solve", "case.yaml")
    assert time.process_time() - began < 2.0
    check_refusal(code, out, err, says=(word,))
    assert listing(tmp_path) == ["case.yaml"]


@pytest.mark.parametrize(
    "content",
    [
        BURGERS.encode().replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + BURGERS.encode(),
        json.dumps(
            {"problem": {"name": "burgers", "parameters": {"nu": 0.02}}, "run": {"seed": 1}}
        ).encode(),
    ],
    ids=["crlf", "byte-order-mark", "json"],
)
def test_unusual_but_valid_files_are_accepted(content, run, tmp_path):
    (tmp_path / "case.yaml").write_bytes(content)
    assert run("solve", "case.yaml", "--dry-run")[0] == 0


@pytest.fixture
def place(tmp_path):
    """A folder with good and odd files in it."""
    (tmp_path / "good.yaml").write_text(BURGERS, encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for folder, files in (
        ("full", ["thesis.tex", "figure.png", "summary.json"]),
        ("finished", ["config.resolved.yaml", "summary.json"]),
        ("unfinished", ["config.resolved.yaml"]),
    ):
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).write_text("{}")
    for folder in ("finished", "unfinished"):
        text = load_case(tmp_path / "good.yaml").text()
        (tmp_path / folder / "config.resolved.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"), ARGUMENTS, ids=[row[0] or "nothing" for row in ARGUMENTS]
)
def test_a_bad_command_line_is_refused(arguments, says, run, place):
    before = listing(place)
    code, out, err = run(*shlex.split(arguments.replace("{good}", "good.yaml")))
    check_refusal(code, out, err, says=says)
    assert listing(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--set solver.windows=4",
        "--set solver.windows=1e1",
        "--set solver.optimizer.0.steps=4",
        "--set solver.optimizer=lbfgs",
        "--set 'solver.optimizer=[{name: adam, steps: 5}, lbfgs]'",
        "--set problem.parameters.nu=0.02/pi",
        "--set solver.weighting=gradient_norm",
        "--set run.budget='2 min'",
        "--set run.budget=none --set run.steps=10",
        "--out elsewhere",
        "--out finished --resume",
        "--out finished --overwrite",
        "--out unfinished --resume",
        "--device cpu",
    ],
)
def test_good_command_lines_are_accepted(arguments, run, place):
    before = listing(place)
    code, _, err = run("solve", "good.yaml", "--dry-run", *shlex.split(arguments))
    assert (code, err) == (0, "")
    assert listing(place) == before


PROBE = """
import sys, time
from residua.cli import main
for arguments in {commands!r}:
    began = time.process_time()
    code = main(arguments)
    seconds = time.process_time() - began
    assert code == {code}, arguments
    assert "torch" not in sys.modules, arguments
    assert seconds < 2.0, (arguments, seconds)
"""


def fresh(code, folder):
    """Run Python code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_refusals_do_not_load_torch(tmp_path):
    commands = [["solve", "missing.yaml"], ["slove"], ["solve", "brugers"]]
    for number, bad in enumerate(TABLE[::3]):
        (tmp_path / f"case{number}.yaml").write_text(bad.text, encoding="utf-8")
        commands.append(["solve", f"case{number}.yaml"])
    done = fresh(PROBE.format(commands=commands, code=2), tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_lists_and_plans_do_not_load_torch(tmp_path):
    (tmp_path / "good.yaml").write_text(BURGERS, encoding="utf-8")
    commands = [["--help"], ["solve", "--help"], ["--version"], ["show", "good.yaml"], ["schema"]]
    commands += [["solve", "good.yaml", "--dry-run"], ["solve", "good.yaml", "--print-config"]]
    done = fresh(PROBE.format(commands=commands, code=0), tmp_path)
    assert done.returncode == 0, done.stderr
    assert listing(tmp_path) == ["good.yaml"]


def test_the_probe_sees_torch(tmp_path):
    """The wrong twin of the two tests above: with torch loaded the probe fails."""
    done = fresh("import torch\n" + PROBE.format(commands=[["--version"]], code=0), tmp_path)
    assert done.returncode != 0 and "AssertionError" in done.stderr


@pytest.mark.parametrize("bad", CASES[::40])
def test_as_a_program(bad, tmp_path):
    (tmp_path / "case.yaml").write_text(bad.text, encoding="utf-8")
    command = [sys.executable, "-m", "residua", "solve", "case.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    check_refusal(done.returncode, done.stdout, done.stderr, says=bad.says)
    assert listing(tmp_path) == ["case.yaml"]


def test_a_bug_is_70_with_the_traceback_only_on_demand(run, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("a bug")

    def no_memory(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("residua.config.load_case", broken)
    code, _, err = run("solve", "burgers")
    assert code == 70 and "internal error" in err and "Traceback" not in err
    code, _, err = run("solve", "burgers", "--debug")
    assert code == 70 and "Traceback" in err
    monkeypatch.setattr("residua.config.load_case", no_memory)
    assert run("solve", "burgers")[0] == 5
