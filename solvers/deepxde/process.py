"""The worker as a process: started apart from everything, asked, and never left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from ...errors import ConfigurationError, ResourceError

__all__ = ["Worker"]

MODULE = "residua.solvers.deepxde.worker"
STDERR = "stderr.txt"
PATIENCE = 2.0
"""Seconds for the worker to end once its standard input has."""


class Worker:
    """A process that runs DeepXDE.

    Args:
        case: text of the case.
        job: see `worker`.
        files: texts of the files that the case names, by path.

    Raises:
        ConfigurationError: DeepXDE is not installed.
        ResourceError: the process could not be started, or ended at once.
    """

    def __init__(
        self, case: str, job: Mapping[str, Any], files: Mapping[str, str] | None = None
    ) -> None:
        # Asked for here, where the answer can be given at once; finding is not importing.
        if importlib.util.find_spec("deepxde") is None:
            raise ConfigurationError(
                "DeepXDE is not installed",
                path=("solver", "name"),
                found="deepxde",
                advice="install it by 'pip install deepxde', or choose another backend",
            )
        self.folder = Path(tempfile.mkdtemp(prefix="residua-deepxde-"))
        (self.folder / "case.yaml").write_text(case, encoding="utf-8")
        for name, text in (files or {}).items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
        (self.folder / "job.json").write_text(json.dumps(dict(job)), encoding="utf-8")
        try:
            self.process = self._start(job["device"])
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ResourceError(f"the DeepXDE process could not be started: {error}") from error
        # Also when this object is forgotten, and when the program ends.
        self._end = weakref.finalize(self, _end, self.process, self.folder)
        self._answer("ready")

    def _start(self, device: str) -> subprocess.Popen[str]:
        with (self.folder / STDERR).open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", MODULE, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,  # nothing that lies where the command runs can be imported
                env=_environment(self.folder, device),
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C in a terminal does not reach it
            )

    def ask(self, do: str, answer: str, **content: Any) -> dict[str, Any]:
        """Give a command and wait for its answer.

        Raises:
            ConfigurationError: the worker refuses the case.
            ResourceError: it ran out of memory, or ended.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # of a process that has ended; the answer will tell
            self.process.stdin.write(json.dumps({"do": do, **content}) + "\n")
            self.process.stdin.flush()
        return self._answer(answer)

    def tensors(self, name: str) -> Any:
        """What the worker has written into a file of the folder."""
        return torch.load(self.folder / name, map_location="cpu", weights_only=True)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end()

    def _answer(self, wanted: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        try:
            line = self.process.stdout.readline()
            if not line:
                raise ResourceError(self._epitaph())
            answer = json.loads(line)
            if answer["event"] == "refused":
                raise ConfigurationError(
                    answer["message"],
                    path=answer["path"],
                    found=answer["found"],
                    advice=answer["advice"],
                )
            if answer["event"] == "exhausted":
                raise ResourceError(
                    f"DeepXDE ran out of memory: {answer['message']}; use fewer points or a "
                    "smaller network"
                )
            if answer["event"] != wanted:
                raise ResourceError(
                    f"the DeepXDE process answered {answer['event']!r}, not {wanted!r}"
                )
            return answer
        except BaseException:  # a second Ctrl-C too: question and answer are out of step
            self.close()
            raise

    def _epitaph(self) -> str:
        """Why the process ended, from its exit code and the last line of its standard error."""
        code = self.process.wait()
        text = (self.folder / STDERR).read_text("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = lines[-1] if lines else "it said nothing"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            reason = "; the system ends processes so when memory is short" if code == -9 else ""
            return f"the DeepXDE process was ended by signal {name}{reason}"
        return f"the DeepXDE process ended with exit code {code}: {last}"


def _environment(home: Path, device: str) -> dict[str, str]:
    """Variables for the worker: this process's, with what DeepXDE would trip over put right."""
    variables = dict(os.environ)
    # Under mpirun DeepXDE would look for Horovod.
    for name in ("OMPI_COMM_WORLD_SIZE", "DDEBACKEND", "PYTHONSTARTUP"):
        variables.pop(name, None)
    # Packages and font caches of the person's own stay where they are.
    variables["PYTHONUSERBASE"] = site.getuserbase()
    variables.setdefault("MPLCONFIGDIR", _matplotlib_cache())
    # DeepXDE writes its choice of backend into the home folder unless it is made for it.
    variables |= {"DDE_BACKEND": "pytorch", "HOME": str(home), "USERPROFILE": str(home)}
    variables["MPLBACKEND"] = "Agg"
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def _matplotlib_cache() -> str:
    import matplotlib

    return matplotlib.get_cachedir()


def _end(process: subprocess.Popen[str], folder: Path) -> None:
    streams: list[IO[str] | None] = [process.stdin, process.stdout]
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()  # the worker's sign to stop
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in streams:
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
    shutil.rmtree(folder, ignore_errors=True)
