"""Real processes and real signals: what is stopped goes on to the same bytes.

The commands are forked from one process that has torch loaded already, which saves the seconds that
each of them would spend on importing; one test starts `python -m residua` the usual way.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

if sys.platform == "win32":
    pytest.skip("needs fork, signals and terminals of Unix", allow_module_level=True)

import fcntl
import pty
import termios

CASE = """
problem:
  coordinates: {t: [0, 6]}
  fields: [u, v]
  equations: ["u_t = v", "v_t = -sin(u)"]
  conditions:
    - {where: t = 0, u: 1, v: 0}
  reference: none
solver:
  name: causal
  windows: 3
  hard: false
  network: {width: 10, depth: 2}
  points: {interior: 100, adaptive: rad, resample_every: 4}
  weighting: {name: gradient_norm, every: 3}
  optimizer: [{name: adam, steps: 12}, {name: lbfgs, steps: 12}, {name: gauss_newton, steps: 12}]
run: {budget: none, steps: 200, deterministic: true, device: cpu}
"""
ZYGOTE = """
import json, os, sys
import scipy.stats, torch._dynamo, matplotlib.font_manager
import residua.solvers.causal, residua.solvers.figures, residua.solvers.pinn, residua.solvers.run
from residua.cli import main
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.chdir(job["folder"])
            for number in (1, 2):
                os.dup2(os.open(job["streams"][number - 1], os.O_WRONLY | os.O_CREAT), number)
            code = main(job["arguments"])
            sys.stdout.flush()
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
PATIENCE = 60.0


class Commands:
    """Starts `residua` commands one after the other, each as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: int | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TERM": "xterm"},
        )

    def start(self, *arguments: str, terminal: str | None = None) -> int:
        """The process id of the command."""
        if self.running:  # a failed test has left it alone
            os.kill(self.running, signal.SIGKILL)
            self.wait()
        for name in ("out", "err"):
            (self.folder / name).unlink(missing_ok=True)
        streams = [terminal] * 2 if terminal else ["out", "err"]
        job = {"folder": str(self.folder), "arguments": arguments, "streams": streams}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        self.running = int(self.process.stdout.readline())
        return self.running

    def wait(self) -> int:
        """Its exit code."""
        code = int(self.process.stdout.readline())
        self.running = None
        return code

    def run(self, *arguments: str) -> int:
        self.start(*arguments)
        return self.wait()

    @property
    def out(self) -> str:
        return self._read("out")

    @property
    def err(self) -> str:
        return self._read("err")

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "case.yaml").write_text(CASE)
    started = Commands(folder)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.fixture(scope="module")
def whole(commands):
    """The run that nobody interrupts."""
    assert commands.run("solve", "case.yaml", "--out", "whole", "--quiet") == 0, commands.err
    assert commands.out == commands.err == "", "quiet is quiet"
    return commands.folder / "whole"


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def logged(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def results(folder):
    """Everything that has to repeat: all arrays, the log and the summary without its clocks."""
    arrays = {}
    with h5py.File(folder / "solution.h5") as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    for clock in ("seconds", "peak_memory_mib"):
        summary.pop(clock)
        for entry in log:
            entry.pop(clock, None)
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}, log, summary


def stop(commands, folder, number, entries, *arguments):
    """Start the case, send a signal once so many entries are logged, give the exit code."""
    pid = commands.start("solve", "case.yaml", "--out", folder.name, *arguments)
    wait_for(lambda: logged(folder) >= entries)
    os.kill(pid, number)
    return commands.wait()


def one_line(commands):
    assert commands.err.startswith("residua: ") and commands.err.count("\n") == 1, commands.err
    return commands.err


def resume(commands, folder):
    """Continue to the end."""
    assert commands.run("solve", "case.yaml", "--out", folder.name, "--resume") == 0, commands.err
    return commands.out


@pytest.mark.parametrize(("number", "entries"), [(signal.SIGINT, 1), (signal.SIGTERM, 5)])
def test_a_stopped_run_resumes_to_the_bytes_of_the_whole(commands, whole, number, entries):
    """Stopped before the first checkpoint is due, and a window later."""
    folder = commands.folder / f"stopped-by-{number.name}"
    assert stop(commands, folder, number, entries) == 128 + number
    message = one_line(commands)
    step = re.fullmatch(r"residua: stopped at step (\d+); .* --resume\n", message).group(1)
    assert 0 < int(step) < 108
    assert not (folder / "summary.json").exists()
    assert commands.run("solve", "case.yaml", "--out", folder.name) == 2
    assert "--resume" in one_line(commands)
    assert f"resumed at step {step}\n" in resume(commands, folder)
    assert results(folder) == results(whole)


@pytest.mark.parametrize(("every", "says"), [("20 ms", "resumed at step"), ("60 s", "beginning")])
def test_a_killed_run_resumes_to_the_bytes_of_the_whole(commands, whole, every, says):
    """From its last checkpoint, or from the beginning where there is none yet."""
    folder = commands.folder / f"killed-{every.replace(' ', '-')}"
    code = stop(commands, folder, signal.SIGKILL, 3, "--set", f"run.checkpoint_every={every}")
    assert code == -signal.SIGKILL
    assert says in resume(commands, folder)
    assert results(folder) == results(whole)


def test_a_run_stopped_while_it_writes_its_results_has_lost_nothing(commands, whole):
    folder = commands.folder / "writing"
    last = logged(whole)
    assert stop(commands, folder, signal.SIGTERM, last) == 143
    assert "stopped at" in one_line(commands)
    assert not (folder / "summary.json").exists()
    resume(commands, folder)
    assert results(folder) == results(whole)


def test_a_second_signal_stops_at_once(commands):
    folder = commands.folder / "impatient"
    pid = commands.start("solve", "case.yaml", "--out", folder.name)
    wait_for(lambda: logged(folder) >= 3)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert commands.wait() == 143
    assert "at once" in one_line(commands)


def test_a_damaged_checkpoint_costs_a_warning_of_one_line(commands, whole):
    folder = commands.folder / "damaged"
    every = ("--set", "run.checkpoint_every=20 ms")
    assert stop(commands, folder, signal.SIGINT, 4, *every) == 130
    older, newest = sorted((folder / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    said = resume(commands, folder)
    assert f"resumed at step {int(older.name.split('-')[1])}\n" in said
    assert one_line(commands).startswith("residua: warning: checkpoint passed over: ")
    assert results(folder) == results(whole)
    for path in (folder / "checkpoints").glob("step-*.pt"):
        path.write_bytes(b"")
    assert commands.run("solve", "case.yaml", "--out", folder.name, "--resume") == 3
    assert "no usable checkpoint" in commands.err.splitlines()[-1]
    assert "Traceback" not in commands.err


def test_only_the_same_case_is_resumed(commands, whole):
    before = {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    for change, says in (
        ("solver.windows=2", "solver.windows is 3 there and 2 here"),
        ("run.seed=1", "run.seed is 0 there and 1 here"),
        ("run.dtype=float32", "run.dtype is 'float64' there and 'float32' here"),
        ("problem.equations.0=u_t = 2*v", "problem.equations[0] is 'u_t = v' there"),
    ):
        arguments = ("--out", whole.name, "--resume", "--set", change)
        assert commands.run("solve", "case.yaml", *arguments) == 3
        assert says in one_line(commands)
    assert commands.run("solve", "case.yaml", "--resume", "--out", "nowhere") == 3
    assert "nothing to resume" in one_line(commands)
    assert not (commands.folder / "nowhere").exists()
    assert before == {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}


def test_sigterm_during_the_reference_stops_at_once(commands):
    """Allen-Cahn's takes more than ten seconds."""
    pid = commands.start("solve", "allen_cahn", "--out", "early")
    wait_for(lambda: "computing the reference" in commands.out)
    os.kill(pid, signal.SIGTERM)
    assert commands.wait() == 143
    assert "at once" in one_line(commands)
    assert not list((commands.folder / "early").iterdir())
    assert commands.run("solve", "allen_cahn", "--out", "early", "--dry-run") == 0


def test_as_a_program(commands):
    """Without the shortcut: `python -m residua`, stopped by Ctrl-C during the reference."""
    process = subprocess.Popen(
        [sys.executable, "-m", "residua", "solve", "allen_cahn", "--out", "program"],
        cwd=commands.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "computing the reference\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert err == "residua: stopped at once; what was saved before is intact\n"


class Screen:
    """A pseudo-terminal of 80 columns and what a person sees on it."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)
        self.slave = slave
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.bytes = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone once nobody holds it open
            while block := os.read(self.master, 4096):
                self.bytes += block

    def close(self) -> tuple[str, list[str]]:
        """All that was written, and the lines that remain."""
        os.close(self.slave)
        self.reader.join()
        os.close(self.master)
        text = self.bytes.decode().replace("\r\n", "\n")
        lines = []
        for row in text.split("\n"):
            line = ""
            for part in row.split("\r"):
                assert len(part) < 80 or "ETA" not in part, "it would wrap, and leave a trace"
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return text, lines


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_terminal_shows_a_bar_that_leaves_no_trace(commands, interrupted):
    screen = Screen()
    reference = ("--set", "problem.reference=auto", "--out", f"bar-{interrupted}")
    pid = commands.start("solve", "case.yaml", *reference, terminal=screen.name)
    if interrupted:
        wait_for(lambda: b"[#" in screen.bytes)
        os.kill(pid, signal.SIGINT)
    code = commands.wait()
    text, lines = screen.close()
    bars = [part for part in re.split(r"[\r\n]", text) if "ETA" in part]
    assert any(
        re.match(r"\[#+\.*\] +\d+% ETA \d\d:\d\d  loss \d.*  error \d.*  [a-z]+ \d", bar)
        for bar in bars
    ), bars
    assert not any("ETA" in line or "[#" in line for line in lines)
    if interrupted:
        assert code == 130 and lines[-2].startswith("residua: stopped at step ")
    else:
        assert code == 0 and lines[-2].startswith("written to ")


def test_a_finished_run_that_is_resumed_stays_as_it_is(commands, whole):
    before = results(whole)
    assert commands.run("solve", "case.yaml", "--out", whole.name, "--resume", "--quiet") == 0
    assert results(whole) == before


def test_another_seed_gives_other_bytes(commands, whole):
    """The wrong twin: what is compared above is not the same for every run."""
    other = commands.folder / "other-seed"
    arguments = ("solve", "case.yaml", "--quiet", "--set", "run.seed=1", "--out", other.name)
    assert commands.run(*arguments) == 0
    ours, theirs = results(whole), results(other)
    assert all(a != b for a, b in zip(ours, theirs, strict=True))
    assert np.shape(ours[1]) == np.shape(theirs[1])
