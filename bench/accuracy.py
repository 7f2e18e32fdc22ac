"""`residua bench accuracy`: the cases of a ladder, each solved by the command in its own process.

What counts is the relative L2 error of the last iterate over the whole domain, as summary.json has
it. A run that failed counts as infinitely wrong, and stays.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .ladder import Ladder, Race, Rung
from .machine import commit, machine

__all__ = ["errors_of", "measure", "race", "run_ladder", "seconds_to", "staircases", "standing"]

KEPT = (
    "status", "relative_l2", "reference_error_bar", "seconds", "steps", "trained_parameters",
    "windows", "classical", "device", "threads", "versions",
)  # fmt: skip
TREAD = 0.95
"""A staircase has no step that changes the error less than by this factor."""
LIMIT = 3.0
"""An error below so many error bars of the reference says more about the reference."""


def run_ladder(
    ladder: Ladder,
    seeds: Sequence[int],
    *,
    budget: float | None = None,
    found: dict[str, Any] | None = None,
    say: Callable[[str, dict[str, Any]], None] = lambda name, run: None,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Solve every case of a ladder with every seed.

    Args:
        ladder: what.
        seeds: for the cases that name none.
        budget: seconds for each run instead of the case's own.
        found: results of earlier runs, whose other rows stay.
        say: called with every run when it is done.
        save: called with all results so far.

    Returns:
        Plain values: what `machine.write` writes.
    """
    results = found or {"benchmark": "accuracy", "ladder": ladder.title, "rows": {}, "races": {}}
    for rung in ladder.rungs:
        row: dict[str, Any] = {
            "case": dict(rung.written),
            "must": rung.goal.must,
            "aim": rung.goal.aim,
            "runs": [],
        }
        # A row that is measured again goes as a whole: half of it would be of another commit.
        results["rows"].pop(rung.name, None)
        for seed in rung.goal.seeds or seeds:
            run = measure(rung, seed, budget)
            row["runs"].append(run)
            results["rows"][rung.name] = row | standing(row)
            results["races"] = _races(ladder.races, results)
            say(rung.name, run)
            save(results)
    return results


def _races(races: Iterable[Race], results: Mapping[str, Any]) -> dict[str, Any]:
    rows = results["rows"]
    made = {
        r.name: race(r, rows[r.ours], rows[r.peer]) for r in races if {r.ours, r.peer} <= {*rows}
    }
    return {**results["races"], **made}


def measure(rung: Rung, seed: int, budget: float | None = None) -> dict[str, Any]:
    """One run by the command: plain values, a failure included."""
    settings = replace(rung.case.run, seed=seed, name=rung.name, accuracy=None)
    if budget is not None:
        settings = replace(settings, budget=budget)
    case = replace(rung.case, run=settings)
    run: dict[str, Any] = {"seed": seed, "commit": commit(), "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="residua-bench-") as name:
        folder = Path(name)
        (folder / "case.yaml").write_text(case.text(), encoding="utf-8")
        for path, text in case.files().items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        command = ["-m", "residua", "solve", "case.yaml", "--out", "run", "--quiet"]
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
        )
        run["exit_code"] = done.returncode
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            run["failure"] = said[-1][-500:] if said else f"exit code {done.returncode}"
        summary = folder / "run" / "summary.json"
        if summary.is_file():
            told = json.loads(summary.read_text("utf-8"))
            run |= {key: told.get(key) for key in KEPT}
            run["curves"] = staircases(_log(folder / "run" / "metrics.jsonl"))
            if not _errors(run):
                run.setdefault("failure", "there is no reference to measure its error by")
        elif "failure" not in run:
            run["failure"] = "it wrote no summary"
    return run


def _log(path: Path) -> list[tuple[float, float]]:
    """Seconds and error estimate of every entry of a log."""
    if not path.is_file():
        return []
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(entry["seconds"], entry.get("error", math.inf)) for entry in entries]


def staircases(log: Sequence[tuple[float, float]]) -> dict[str, list[list[float]]]:
    """When an error was reached, and from when on it was kept.

    Args:
        log: seconds and error, in order.

    Returns:
        ``reached``: seconds and lowest error so far; ``kept``: seconds and largest error from then
        to the end. Both fall; steps of less than five per cent are left out.
    """
    reached, kept = [], []
    lowest = math.inf
    for seconds, error in log:
        lowest = min(lowest, error)
        reached.append((seconds, lowest))
    largest = 0.0
    for seconds, error in reversed(log):
        largest = max(largest, error)
        kept.append((seconds, largest))
    return {"reached": _thinned(reached), "kept": _thinned(kept[::-1])}


def _thinned(stairs: Iterable[tuple[float, float]]) -> list[list[float]]:
    out: list[list[float]] = []
    last = None
    for seconds, error in stairs:
        if math.isfinite(error) and (not out or error <= TREAD * out[-1][1]):
            out.append([seconds, error])
            last = None
        elif out and error < out[-1][1]:
            last = [seconds, error]
    # The lowest of all is the end, however small the last step is.
    return [*out, last] if last is not None else out


def errors_of(row: Mapping[str, Any]) -> list[float]:
    """Of each run the relative L2 error of its worst field; infinite where it failed."""
    return [_error(run) for run in row["runs"]]


def _error(run: Mapping[str, Any]) -> float:
    return math.inf if "failure" in run else max(_errors(run), default=math.inf)


def _errors(run: Mapping[str, Any]) -> list[float]:
    """The errors of all fields; none where one is not known."""
    values = list((run.get("relative_l2") or {}).values())
    return [] if None in values else values


def _bar(row: Mapping[str, Any]) -> float | None:
    """Error bar of the reference, of its worst field."""
    bars = [
        bar
        for run in row["runs"]
        for bar in (run.get("reference_error_bar") or {}).values()
        if bar is not None
    ]
    return max(bars, default=None)


def standing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Median and worst of the seeds, and whether they meet what is asked."""
    errors = errors_of(row)
    middle, bar = statistics.median_high(errors), _bar(row)
    seconds = [run["seconds"] for run in row["runs"] if run.get("seconds") is not None]
    met = None
    if row["must"] is not None:
        met = "must" if middle <= row["must"] else "no"
        if row["aim"] is not None and middle <= row["aim"]:
            met = "aim"
    return {
        "median": middle,
        "worst": max(errors),
        "failed": sum(math.isinf(error) for error in errors),
        "reference_error_bar": bar,
        "reference_limited": bar is not None and middle < LIMIT * bar,
        "seconds": statistics.median(seconds) if seconds else None,
        "met": met,
    }


FOUND = 0.5
"""Relative error above which a run has found nothing: the function zero has 1."""


def race(what: Race, ours: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, Any]:
    """How much sooner we are at the best error of the peer.

    The peer is given its best seed, the lowest error on the way and the moment it first had it; we
    are given the median of the seeds, from when on the error never rose above that again. Where the
    peer found nothing there is no such error, and the seconds are those it was given.
    """
    best: list[float] | None = None
    for run in peer["runs"]:
        for stair in (run.get("curves") or {}).get("reached", [])[-1:]:
            best = stair if best is None or stair[1] < best[1] else best
    if best is None:
        return {"peer_error": None, "peer_seconds": None, "our_seconds": None, "sooner": None,
                "met": "not measured"}  # fmt: skip
    if best[1] > FOUND:
        given = max(run["seconds"] for run in peer["runs"] if run.get("seconds") is not None)
        return {"peer_error": best[1], "peer_seconds": given, "our_seconds": None, "sooner": None,
                "met": "the peer found nothing"}  # fmt: skip
    needed = statistics.median_high([seconds_to(run, best[1]) for run in ours["runs"]])
    sooner = best[0] / needed if needed > 0 else math.inf
    met = "aim" if sooner >= what.aim else "must" if sooner >= what.must else "no"
    return {
        "peer_error": best[1],
        "peer_seconds": best[0],
        "our_seconds": needed,
        "sooner": sooner,
        "must": what.must,
        "aim": what.aim,
        "met": met,
    }


def seconds_to(run: Mapping[str, Any], error: float) -> float:
    """From when on the error of a run was no larger; infinite if it never was.

    The log of a run in time windows tells the error of the window in training, so there it is the
    end of the run, if the error over the whole domain is then small enough.
    """
    if (run.get("windows") or 1) > 1:
        return run["seconds"] if _error(run) <= error else math.inf
    stairs = (run.get("curves") or {}).get("kept", [])
    return next((seconds for seconds, kept in stairs if kept <= error), math.inf)
