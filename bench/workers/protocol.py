"""How a worker is asked.

A worker is started with nothing to do but its imports. Each line on its standard input is
``HOW PATH``: with ``fork`` a child of it, which has everything imported but has computed nothing,
connects to the socket at PATH; with ``here`` the process itself does, until the conversation ends
(for devices that do not survive a fork). There it answers lines of JSON:

* ``{"do": "open", ...}`` makes a contender, runs it on a few points so that its code is loaded,
  then twice on all; answers loss, the file with its gradient, seconds of preparation (compilation
  is part of it) and of the second run, and by how much memory grew at most;
* ``{"do": "time", "steps": n, "warm": s}`` steps for s seconds untimed, then n times; answers
  seconds a step.

It ends when the socket closes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

__all__ = ["Contender", "Unavailable", "main"]

RESET_PEAK = "5"
"""What makes the kernel forget the largest resident size so far; see proc(5), clear_refs."""


class Contender(Protocol):
    """One way to compute the same thing."""

    def warm(self) -> None:
        """Load all code that a step will need, without touching as much memory."""
        ...

    def step(self) -> None:
        """What is timed; done when it returns, on the device too."""
        ...

    def result(self) -> tuple[float, np.ndarray] | None:
        """Loss and gradient of the last step; None if there is nothing to agree on."""
        ...

    def device_peak(self) -> int | None:
        """Bytes of device memory the steps needed at most; None on a processor."""
        ...

    def how(self) -> str | None:
        """What does the work, in words, where there is a choice."""
        ...


class Unavailable(Exception):
    """This contender cannot take this case here, which is no fault; the text says why."""


Make = Callable[[dict[str, Any]], Contender]
About = Callable[[], dict[str, str]]


def main(make: Make, about: About) -> None:
    """Serve until standard input ends.

    Args:
        make: from the content of ``open`` to a contender.
        about: versions and device, asked once a contender has run.
    """
    # Ctrl-C reaches every process of a terminal; the one that asks decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        how, _, path = line.strip().partition(" ")
        if how == "here":
            _converse(path, make, about)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                _converse(path, make, about)
                code = 0
            finally:
                # Not sys.exit: what the parent has opened is not this process's to close.
                os._exit(code)


def _converse(path: str, make: Make, about: About) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:
            _serve(stream, make, about)


def _serve(stream: TextIO, make: Make, about: About) -> None:
    contender: Contender | None = None
    for line in stream:
        request = json.loads(line)
        try:
            if request["do"] == "open":
                contender = None
                contender, answer = _open(request, make)
                answer["about"] = about()
            else:
                assert contender is not None
                answer = {"seconds": _time(contender, request["steps"], request["warm"])}
        except Exception as error:
            kind = "unavailable" if isinstance(error, Unavailable) else "failed"
            text = f"{error}" if kind == "unavailable" else f"{type(error).__name__}: {error}"
            answer = {kind: " ".join(text.split())[:400]}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def _open(request: dict[str, Any], make: Make) -> tuple[Contender, dict[str, Any]]:
    if request["device"] == "cpu" and hasattr(os, "sched_setaffinity"):
        # The same processors for all. XLA takes as many threads as there are processors to run on.
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: request["threads"]])
    began = time.perf_counter()
    contender = make(request)
    contender.warm()
    preparation = time.perf_counter() - began
    before = _resident()
    contender.step()
    began = time.perf_counter()
    contender.step()
    seconds = time.perf_counter() - began
    peak = contender.device_peak()
    if peak is None and before is not None:
        peak = _status("VmHWM") - before
    answer: dict[str, Any] = {"preparation": preparation, "seconds": seconds, "memory": peak}
    if (how := contender.how()) is not None:
        answer["how"] = how
    if (found := contender.result()) is not None:
        loss, vector = found
        path = Path(request["results"])
        np.save(path, vector)
        answer |= {"loss": loss, "vector": str(path)}
    return contender, answer


def _time(contender: Contender, steps: int, warm: float) -> float:
    began = time.perf_counter()
    while time.perf_counter() - began < warm:
        contender.step()
    began = time.perf_counter()
    for _ in range(steps):
        contender.step()
    return (time.perf_counter() - began) / steps


def _resident() -> int | None:
    """Bytes resident now; from here on VmHWM counts the largest. None where no /proc says."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
