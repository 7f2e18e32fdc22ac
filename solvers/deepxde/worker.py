"""The process in which DeepXDE runs: `python -m residua.solvers.deepxde.worker FOLDER`.

The folder, made by the backend, holds `case.yaml`, read by the same strict loader as any case, and
`job.json` with device and threads. Commands come as lines of JSON on standard input, answers go as
lines of JSON to standard output, tensors are files in the folder. Whatever DeepXDE prints goes to
standard error. The process ends when its standard input does, so it never outlives the backend.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

__all__ = ["main"]


class Pipes:
    """The conversation with the backend; see `session.Link`.

    Args:
        answers: where lines go.
        folder: removed where the backend is gone and could not.
    """

    def __init__(self, answers: TextIO, folder: Path) -> None:
        self.answers = answers
        self.folder = folder
        self.commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.commands.put(json.loads(line))
        # Nobody is left to answer: stop at once, in the middle of an iteration if need be.
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)

    def receive(self) -> dict[str, Any]:
        """The next command; waits for it."""
        return self.commands.get()

    def send(self, event: str, **content: Any) -> None:
        """Answer."""
        self.answers.write(json.dumps({"event": event, **content}) + "\n")
        self.answers.flush()


def main(folder: Path) -> None:
    """Answer commands until standard input ends."""
    # Ctrl-C reaches every process of a terminal; the backend decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # DeepXDE prints, and its lines must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    pipes = Pipes(answers, folder)

    from ...config import load_case
    from ...errors import ConfigurationError

    case = load_case(folder / "case.yaml")

    import torch

    from .session import Begin, Session

    if job["device"] == "cpu":  # DeepXDE has taken what accelerator it found
        torch.set_default_device("cpu")
    torch.set_num_threads(job["threads"])
    if job["deterministic"]:
        torch.set_deterministic_debug_mode("error")
    pipes.send("ready")
    command = pipes.receive()
    while True:
        try:
            Session(case, folder, pipes, command).run()
        except Begin as again:
            command = again.command
        except ConfigurationError as error:
            detail = {"path": list(error.path), "found": error.found, "advice": error.advice}
            pipes.send("refused", message=error.message, **detail)
            command = pipes.receive()
        except (MemoryError, torch.OutOfMemoryError) as error:
            pipes.send("exhausted", message=" ".join(str(error).split()))
            command = pipes.receive()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
