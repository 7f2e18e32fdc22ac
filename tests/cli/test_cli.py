"""What the command prints: lists, sheets, schema, plans, progress."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys

import pytest

import residua
from residua.cli import main
from residua.config import load_case
from residua.errors import AccuracyError
from residua.execution.options import RunOptions
from residua.problems import registry
from residua.progress import LiveReporter, PlainReporter, QuietReporter, reporter_for
from residua.schema import json_schema
from residua.solvers import BACKENDS
from residua.solvers.options import CausalOptions, PinnOptions


@pytest.fixture
def out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    return call


def test_list_names_every_problem_and_every_reason(out):
    text = out("list")
    for name in registry.names():
        assert name in text
        for backend in BACKENDS.values():
            reason = backend.accepts(registry.get(name))
            assert reason is None or reason in " ".join(text.split())


def test_accepts_is_not_always_yes():
    answers = {
        backend.accepts(registry.get(name)) is None
        for backend in BACKENDS.values()
        for name in registry.names()
    }
    assert answers == {True, False}


@pytest.mark.parametrize("name", registry.names())
def test_show_states_the_whole_problem(name, out):
    problem = registry.get(name)
    text = out("show", name)
    for part in (
        *(e.text for e in problem.equations),
        *problem.parameters,
        *(c.name for c in problem.conditions),
    ):
        assert part in text
    assert "LaTeX" in text and "Backends" in text


def test_show_of_a_changed_problem(out):
    assert "0.25" in out("show", "burgers", "--set", "problem.parameters.nu=0.25")


def test_print_config_is_a_case_file(out, tmp_path):
    text = out("solve", "burgers", "--print-config", "--set", "solver.windows=3")
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    assert load_case(tmp_path / "again.yaml") == load_case("burgers", ["solver.windows=3"])


def test_version_and_help(out):
    assert out("--version").strip() == f"residua {residua.__version__}"
    for command in ("solve", "list", "show", "schema"):
        assert command in out("--help")
        assert "usage" in out(command, "--help")


def test_the_schema_has_exactly_the_keys_that_are_read(out):
    schema = json.loads(out("schema"))
    assert schema == json_schema()
    solver = schema["properties"]["solver"]["anyOf"]
    for number, options in enumerate((PinnOptions, CausalOptions)):
        assert set(solver[number]["properties"]) == {
            field.name for field in dataclasses.fields(options)
        }
        assert solver[number]["additionalProperties"] is False
    assert set(schema["properties"]["run"]["properties"]) == {
        field.name for field in dataclasses.fields(RunOptions)
    }
    definition = schema["properties"]["problem"]["anyOf"][2]["properties"]
    assert set(registry.get("allen_cahn_512").to_mapping()) | {"name"} == set(definition) - {
        "solver",
        "run",
    }


def test_solve_passes_the_case_on(tmp_path, monkeypatch, capsys):
    calls = []

    class Outcome:
        failure = AccuracyError("the accuracy was missed")

    def solve_case(case, **settings):
        calls.append((case, settings))
        return Outcome

    import sys
    import types

    module = types.ModuleType("residua.solvers.run")
    module.solve_case = solve_case
    monkeypatch.setitem(sys.modules, "residua.solvers.run", module)
    monkeypatch.chdir(tmp_path)
    assert main(["solve", "heat", "--out", "mine", "--quiet"]) == 1
    assert capsys.readouterr().err == "residua: the accuracy was missed\n"
    case, settings = calls[0]
    assert (
        case == load_case("heat") and str(settings["out"]) == "mine" and settings["resume"] is False
    )
    assert isinstance(settings["reporter"], QuietReporter)


# -- progress --


class Terminal(io.StringIO):
    def isatty(self):
        return True


def play(reporter):
    reporter.start("causal 1/2", total_seconds=100.0, total_steps=10)
    for step in range(1, 6):
        reporter.update(
            step, 10.0**-step, {"residual": 1e-3, "initial": 2e-3}, error=1e-2, extra="damping 1e-3"
        )
    reporter.message("window 1 done")
    reporter.finish("relative L2 1.2e-04")


def test_plain_lines_hold_loss_terms_error_and_time_left():
    stream = io.StringIO()
    play(PlainReporter(stream, every=0.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 8 and "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert "ETA" in lines[3] and "loss 1.00e-03" in lines[3] and "initial 2.0e-03" in lines[3]
    assert "error 1.0e-02" in lines[3]
    slow = io.StringIO()
    play(PlainReporter(slow, every=3600.0))
    assert len(slow.getvalue().splitlines()) == 4


def test_the_live_line_never_wraps_and_leaves_only_messages(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    play(LiveReporter(stream, colour=False, every=0.0))
    screen = []
    for row in stream.getvalue().split("\n"):
        line = ""
        for part in row.split("\r"):
            assert len(part) < 60
            line = part + line[len(part) :]
        screen.append(line.strip())
    assert screen == ["causal 1/2", "window 1 done", "relative L2 1.2e-04", ""]
    assert " 50%" in stream.getvalue()


def test_eighty_columns_show_loss_and_error_and_no_half_figure(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    play(LiveReporter(stream, colour=False, every=0.0))
    lines = [part.rstrip() for part in stream.getvalue().split("\r") if "50%" in part]
    assert lines and all(
        line.endswith("ETA 00:00  loss 1.00e-05  error 1.0e-02  residual 1.0e-03") for line in lines
    )


def test_the_time_left_is_that_of_the_rest_when_resumed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("residua.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    reporter = PlainReporter(stream, every=0.0)
    # 10 steps in 20 s here, 90 to go; 500 s of the budget are left.
    reporter.start("resumed", 1000.0, 1000, seconds=480.0, steps=900)
    now[0] += 20.0
    reporter.update(910, 1.0)
    assert "ETA 03:00" in stream.getvalue()
    reporter.start("short of time", 520.0, 1000, seconds=480.0, steps=900)
    now[0] += 20.0
    reporter.update(910, 1.0)
    assert "ETA 00:20" in stream.getvalue()


def test_the_reporter_suits_the_stream(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert isinstance(reporter_for(quiet=True, stream=Terminal()), QuietReporter)
    assert isinstance(reporter_for(stream=io.StringIO()), PlainReporter)
    live = reporter_for(stream=Terminal())
    assert isinstance(live, LiveReporter) and live.colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not reporter_for(stream=Terminal()).colour
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter_for(stream=Terminal()), PlainReporter)


def test_a_closed_stream_does_not_stop_a_run():
    stream = io.StringIO()
    reporter = PlainReporter(stream, every=0.0)
    stream.close()
    play(reporter)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_unicode_is_no_reason_to_fail(encoding, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    for arguments in (["show", "burgers"], ["list"], ["schema"], ["solve", "ungültig ∂"]):
        done = subprocess.run(
            [sys.executable, "-m", "residua", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (2 if arguments[0] == "solve" else 0), done.stderr
        if arguments[0] == "show":
            shown = done.stdout.decode(encoding)
            assert "u_{t}" in shown and "?" not in shown
