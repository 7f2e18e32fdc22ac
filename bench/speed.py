"""`residua bench engine`: one loss-and-gradient step, and one Gauss-Newton iteration, side by side.

Every contender of a row gets the same network, weights and points. Before anything is timed, loss
and gradient must agree with those of nested automatic differentiation; a row in which they do not
is an error. Then all are timed in turns.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cases import Row, draw, problem_of
from .contenders import KINDS, Channel, Failed, Skipped, Workers
from .machine import commit, machine
from .timing import interleaved, ratio, steps_for

__all__ = ["TOLERANCES", "benchmark", "disagreements", "measure_row", "processors"]

TOLERANCES = {"float64": (1e-11, 1e-8), "float32": (1e-4, 1e-3)}
"""Relative difference allowed in loss, and in gradient (Euclidean norm), by precision."""
REPETITIONS, QUICK_REPETITIONS = 7, 5
ROW_SECONDS = {"cpu": 60.0, "cuda": 4.0}
"""After so long no further repetition begins."""
WARM = {"cpu": 0.02, "cuda": 0.005}
"""Seconds of untimed steps before each time: caches and threads are another contender's."""
SLACK = 0.1
"""Part of the budget that may be overdrawn before the contenders that compile are left out."""
GRACE = 30.0
"""Seconds after a budget at which contenders that still compute are ended."""


def benchmark(
    table: Sequence[Row],
    *,
    device: str,
    threads: int | None = None,
    quick: bool = False,
    budget: float | None = None,
    jax_python: Path | None = None,
    say: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Time all rows.

    Args:
        table: what.
        device: ``cpu`` or ``cuda``.
        threads: of a processor; all by default.
        quick: fewer repetitions.
        budget: seconds for everything, shared among the rows that are left; rows not begun by then
            are errors, and JAX, which compiles for seconds, is left out of rows that are late. None
            for no limit.
        jax_python: interpreter that has JAX.
        say: called with every row when it is done.

    Returns:
        Plain values: what `machine.write` writes.
    """
    threads = threads or processors()
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    with Workers(device, threads, jax_python=jax_python) as workers:
        if budget is not None:
            workers.deadline = began + budget + GRACE
        for number, row in enumerate(table):
            gone = time.monotonic() - began
            spent = 0.0 if budget is None else gone / budget
            limit = ROW_SECONDS[device]
            if budget is not None:
                limit = min(limit, (budget - gone) / (len(table) - number))
            if spent >= 1:
                found = {**row.plain(), "name": row.name, "error": "not begun: out of time"}
                found |= {"contenders": {}, "ratios": {}}
            else:
                late = spent > number / len(table) + SLACK
                repetitions = QUICK_REPETITIONS if quick or late else REPETITIONS
                found = measure_row(row, workers, repetitions, jax=not late, limit=limit)
            results.append(found)
            say(found)
    return {
        "benchmark": "engine",
        "commit": commit(),
        "machine": machine(),
        "device": device,
        "threads": threads,
        "quick": quick,
        "tolerances": {k: {"loss": a, "gradient": b} for k, (a, b) in TOLERANCES.items()},
        "versions": workers.about,
        "seconds": time.monotonic() - began,
        "rows": results,
    }


def processors() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_row(
    row: Row, workers: Workers, repetitions: int, *, jax: bool = True, limit: float = math.inf
) -> dict[str, Any]:
    """Open, compare, time and close all contenders of a row; failures are entries.

    Args:
        row: which.
        workers: where contenders live.
        repetitions: how often each is timed.
        jax: whether those that compile for seconds take part.
        limit: seconds of timing after which no further repetition begins.
    """
    found: dict[str, dict[str, Any]] = {}
    vectors: dict[str, np.ndarray] = {}
    channels: dict[str, Channel] = {}
    data = workers.folder / "data.npz"
    np.savez(data, **draw(row))  # type: ignore[arg-type]
    common = {
        **row.plain(),
        "problem": problem_of(row.equation),
        "data": str(data),
        "device": workers.device,
        "threads": workers.threads,
    }
    try:
        workers.start([n for n in KINDS[row.kind] if jax or not n.startswith("jax")])
        for name in KINDS[row.kind]:
            if name.startswith("jax") and not jax:
                found[name] = {"skipped": "late: left out to keep the budget"}
                continue
            with _noted(found, name):
                channels[name] = workers.open(name)
                results = workers.folder / f"{name}.npy"
                channels[name].send("open", contender=name, results=str(results), **common)
                if workers.fork:  # one after the other, where they would share the processors
                    _opened(found, vectors, name, channels, workers.about)
        if not workers.fork:
            for name in channels:
                with _noted(found, name):
                    _opened(found, vectors, name, channels, workers.about)
        wrong = disagreements(found, vectors, *TOLERANCES[row.dtype])
        _time(found, channels, wrong, workers.device, repetitions, limit)
    finally:
        for channel in channels.values():
            channel.close()
    ours = [entry["failed"] for name, entry in found.items() if _is_ours(name, entry)]
    error = "; ".join([*wrong.values(), *ours]) or None
    return {
        **row.plain(),
        "name": row.name,
        "error": error,
        "contenders": found,
        "ratios": ratios(found, row.kind),
    }


def _is_ours(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether it is the engine that failed; a peer may."""
    return name.startswith("residua") and "failed" in entry


@contextlib.contextmanager
def _noted(found: dict[str, dict[str, Any]], name: str):
    """Keep a failure as the entry of the contender, and go on."""
    try:
        yield
    except Skipped as reason:
        found[name] = {"skipped": str(reason)}
    except Failed as reason:
        found[name] = {"failed": str(reason)}


def _opened(
    found: dict[str, dict[str, Any]],
    vectors: dict[str, np.ndarray],
    name: str,
    channels: Mapping[str, Channel],
    about: dict[str, str],
) -> None:
    answer = channels[name].answer()
    about.update(answer.pop("about"))
    vector = answer.pop("vector", None)
    if vector is not None:
        vectors[name] = np.load(vector)
    found[name] = answer


def disagreements(
    found: Mapping[str, dict[str, Any]],
    vectors: Mapping[str, np.ndarray],
    loss_tolerance: float,
    gradient_tolerance: float,
) -> dict[str, str]:
    """Who differs from nested differentiation (of those present, the first that is not ours).

    Writes the differences into `found`. A Jacobian is compared with a Jacobian, an iteration with
    an iteration.

    Returns:
        By contender what is wrong, in words.
    """
    wrong = {}
    for name, vector in vectors.items():
        what = name.split()[-1] if name.split()[-1] in ("jacobian", "iteration") else ""
        peers = [n for n in vectors if n.endswith(what) and not n.startswith("residua")]
        if not peers:
            wrong[name] = f"{name} has nobody left to be compared with"
            continue
        reference = peers[0]
        true, size = vectors[reference].astype(float), found[reference]["loss"]
        loss = abs(found[name]["loss"] - size) / abs(size)
        gradient = math.inf
        if vector.shape == true.shape:
            gradient = float(np.linalg.norm(vector - true) / np.linalg.norm(true))
        found[name]["loss_difference"] = loss
        found[name]["gradient_difference"] = gradient
        if not (loss <= loss_tolerance and gradient <= gradient_tolerance):
            wrong[name] = (
                f"{name} differs from {reference}: loss by {loss:.1e} (tolerance "
                f"{loss_tolerance:.0e}), gradient by {gradient:.1e} (tolerance "
                f"{gradient_tolerance:.0e})"
            )
    return wrong


def _time(
    found: dict[str, dict[str, Any]],
    channels: Mapping[str, Channel],
    wrong: Mapping[str, str],
    device: str,
    repetitions: int,
    limit: float,
) -> None:
    def clock(name: str) -> Callable[[], float]:
        steps = steps_for(found[name]["seconds"])
        warm = WARM[device] if found[name]["seconds"] < 10 * WARM[device] else 0.0

        def ask() -> float:
            if "failed" in found[name]:
                return math.nan
            try:
                channels[name].send("time", steps=steps, warm=warm)
                return channels[name].answer()["seconds"]
            except Failed as reason:
                found[name] = {"failed": str(reason)}
                return math.nan

        return ask

    sound = [name for name in found if "seconds" in found[name] and name not in wrong]
    clocks = {name: clock(name) for name in sound}
    times = interleaved(clocks, repetitions, limit=limit)
    for name, seconds in times.items():
        if "failed" in found[name]:
            continue
        del found[name]["seconds"]
        found[name] |= {
            "minimum": min(seconds),
            "median": statistics.median(seconds),
            "times": seconds,
        }


def ratios(found: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Our time and memory over theirs, by contender that was timed.

    Each Gauss-Newton iteration is compared with our iteration, each Jacobian with our Jacobian.
    Under the name of our iteration with the factor of an earlier one stands its time over theirs.
    """
    out = {}
    reuse, iteration = found.get("residua reuse", {}), found.get("torch.func iteration", {})
    if "times" in reuse and "times" in iteration:
        out["residua reuse"] = ratio(reuse["times"], iteration["times"])
    for name, entry in found.items():
        ours = "residua" if kind == "step" else f"residua {name.split()[-1]}"
        if name == ours or "times" not in entry or "times" not in found.get(ours, {}):
            continue
        out[name] = ratio(found[ours]["times"], entry["times"])
        if name != "floor" and entry.get("memory") and found[ours].get("memory") is not None:
            out[name]["memory"] = found[ours]["memory"] / entry["memory"]
    return out
