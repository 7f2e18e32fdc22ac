"""Contenders as live processes that answer one at a time; see `workers.protocol`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

__all__ = ["FAMILIES", "KINDS", "Channel", "Failed", "Skipped", "Workers", "check_interpreter"]

FAMILIES = {"nested": "torch", "floor": "torch", "deepxde": "deepxde"}
"""Which worker a contender lives in; of those not named it is the one they begin with."""
KINDS = {
    "step": ("residua", "nested", "deepxde", "jax nested", "jax forward", "jax jet", "floor"),
    "gauss-newton": (
        "residua jacobian",
        "torch.func jacobian",
        "residua iteration",
        "residua reuse",
        "torch.func iteration",
    ),
}
"""Contenders of each kind of row; ours first."""
START_SECONDS = 120.0
ANSWER_SECONDS = 900.0
LEAST_SECONDS = 1.0
"""Even when time is up an answer that is ready is taken."""


class Skipped(Exception):
    """The contender does not take part; the text says why."""


class Failed(Exception):
    """The contender was asked and could not; the text says why."""


class Channel:
    """The conversation with one contender.

    Args:
        connection: accepted from the worker.
        worker: the process it came from.
        deadline: moment after which no answer is waited for.
        alone: no other contender lives in the process.
    """

    def __init__(
        self, connection: socket.socket, worker: _Worker, deadline: float, *, alone: bool
    ) -> None:
        self.worker = worker
        self.deadline = deadline
        self.alone = alone
        self._connection = connection
        self._stream = connection.makefile("rw", encoding="utf-8")

    def send(self, do: str, **content: Any) -> None:
        """Ask; `answer` waits for the answer."""
        with contextlib.suppress(OSError):  # of a process that has ended; the answer will tell
            self._stream.write(json.dumps({"do": do, **content}) + "\n")
            self._stream.flush()

    def answer(self) -> dict[str, Any]:
        """What the worker says.

        Raises:
            Skipped: the contender cannot take this case.
            Failed: it broke, ended, or does not answer.
        """
        left = min(ANSWER_SECONDS, self.deadline - time.monotonic())
        self._connection.settimeout(max(left, LEAST_SECONDS))
        try:
            line = self._stream.readline()
        except OSError as error:
            if self.alone:  # else the next row would wait for it
                _end(self.worker.process)
            raise Failed(f"no answer: {error}") from error
        if not line:
            raise Failed(f"its process ended, out of memory perhaps ({self.worker.last_words()})")
        found = json.loads(line)
        if "unavailable" in found:
            raise Skipped(found["unavailable"])
        if "failed" in found:
            if self.alone:  # after some errors of a GPU nothing works in a process any more
                _end(self.worker.process)
            raise Failed(found["failed"])
        return found

    def close(self) -> None:
        """End the conversation, and a forked process with it."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    errors: Path

    def last_words(self) -> str:
        text = self.errors.read_text("utf-8", "replace") if self.errors.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


class Workers:
    """All worker processes of one benchmark.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: of a processor.
        jax_python: interpreter that has JAX; None for this one.
        fork: a process forked for each contender and row, so that its memory can be measured;
            otherwise one process for each contender, as a GPU demands.
    """

    def __init__(
        self, device: str, threads: int, *, jax_python: Path | None = None, fork: bool = True
    ) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError(
                "this benchmark needs sockets that Windows lacks", advice="run it under WSL"
            )
        self.device = device
        self.threads = threads
        self.about: dict[str, str] = {}
        """Versions and device, as the workers tell."""
        self.fork = fork and device == "cpu" and hasattr(os, "fork")
        self.jax_python = jax_python
        self.deadline = math.inf
        """Moment after which contenders are not waited for."""
        self.folder = Path(tempfile.mkdtemp(prefix="residua-bench-"))
        self._workers: dict[str, _Worker | Skipped] = {}
        self._path = self.folder / "socket"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.settimeout(0.2)

    def __enter__(self) -> Workers:
        """Workers end when the block does."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._listener.close()
        for worker in self._workers.values():
            if isinstance(worker, _Worker):
                _end(worker.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, contender: str) -> Channel:
        """A conversation with a contender, in a process that holds no other.

        Raises:
            Skipped: what it needs is not installed.
            Failed: its worker does not start.
        """
        worker = self._worker(contender)
        how = "fork" if self.fork else "here"
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):
            worker.process.stdin.write(f"{how} {self._path}\n")
            worker.process.stdin.flush()
        deadline = min(time.monotonic() + START_SECONDS, self.deadline)
        while time.monotonic() < deadline:
            try:
                connection = self._listener.accept()[0]
                return Channel(connection, worker, self.deadline, alone=not self.fork)
            except TimeoutError:
                if worker.process.poll() is not None:
                    break
        raise self._no_start(contender, worker)

    def start(self, contenders: Sequence[str]) -> None:
        """Let their processes begin to import, all at once, where each has its own."""
        for contender in () if self.fork else contenders:
            with contextlib.suppress(Skipped):
                self._worker(contender)

    def _no_start(self, contender: str, worker: _Worker) -> Exception:
        said = worker.last_words()
        if contender.startswith("jax") and "No module named 'jax" in said:
            skipped = Skipped(f"JAX is not installed for {self.jax_python}")
            self._workers[self._key(contender)] = skipped
            return skipped
        return Failed(f"its process did not start: {said}")

    def _key(self, contender: str) -> str:
        return _family(contender) if self.fork else contender

    def _worker(self, contender: str) -> _Worker:
        key = self._key(contender)
        worker = self._workers.get(key)
        ended = isinstance(worker, _Worker) and worker.process.poll() is not None
        if worker is None or ended:
            worker = self._workers[key] = self._start(_family(contender), key)
        if isinstance(worker, Skipped):
            raise worker
        return worker

    def _start(self, family: str, key: str) -> _Worker | Skipped:
        environment = _environment(self.folder, self.device, self.threads)
        command = [sys.executable, "-m", f"{__package__}.workers.{family}_worker"]
        if family == "jax":
            if self.jax_python is None and importlib.util.find_spec("jax") is None:
                return Skipped("JAX is not installed; pip install 'residua[jax]', or --jax-python")
            environment["PYTHONPATH"] = str(Path(__file__).parent)
            python = str(self.jax_python or sys.executable)
            command = [python, "-m", "workers.jax_worker"]
        elif family == "deepxde" and importlib.util.find_spec("deepxde") is None:
            return Skipped("DeepXDE is not installed")
        errors = self.folder / f"{key}.txt"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self.folder,  # nothing that lies where the command runs can be imported
                env=environment,
                encoding="utf-8",
                start_new_session=True,  # a group of its own, forked children included
            )
        return _Worker(process, errors)


def check_interpreter(path: Path) -> None:
    """Refuse what cannot be run as an interpreter.

    Raises:
        ConfigurationError: it is not there, or not executable.
    """
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ConfigurationError(
            "--jax-python: not a program", found=str(path), advice="give a Python that has JAX"
        )


def _family(contender: str) -> str:
    first = contender.split()[0]
    return FAMILIES.get(first, "jax" if first == "jax" else "torch")


def _environment(folder: Path, device: str, threads: int) -> dict[str, str]:
    variables = dict(os.environ)
    variables.pop("PYTHONSTARTUP", None)
    variables["PYTHONUSERBASE"] = site.getuserbase()  # which HOME would move
    # SciPy's linear algebra has threads of its own, which torch does not limit.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = str(threads)
    # DeepXDE writes its choice of backend into the home folder unless it is made for it.
    variables |= {"DDE_BACKEND": "pytorch", "MPLBACKEND": "Agg", "HOME": str(folder)}
    # Else JAX takes three quarters of the device's memory before the first step.
    variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # Of all libraries, those that have no setting for it too.
    variables["NVIDIA_TF32_OVERRIDE"] = "0"
    if device == "cpu":
        variables |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return variables


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
