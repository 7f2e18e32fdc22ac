"""`residua bench compare`: what got worse between two files of results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ACCURACY", "MEMORY_BYTES", "SPEED", "Change", "changes"]

ACCURACY = 3.0
"""Times larger that an error may be: seeds and machines move it by about that."""
SPEED = 1.15
"""Times larger that a ratio of times, or of memory, may be."""
MEMORY_BYTES = 8 * 2**20
"""A difference of memory below this is the allocator's, not ours."""
LIMIT = 3.0
"""An error below so many error bars of the reference says more about the reference."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One figure in both files.

    Attributes:
        row: its row.
        what: which figure.
        before: in the old file.
        after: in the new one; infinite for what failed.
        regression: it got worse by more than noise.
    """

    row: str
    what: str
    before: float
    after: float
    regression: bool


def changes(old: Results, new: Results) -> tuple[list[Change], list[str]]:
    """Every figure that stands in both, and what keeps the files from being compared in full.

    Two files of the engine may come from different machines, as ratios do not depend on them much;
    it is noted.
    """
    notes = []
    if old["benchmark"] == "engine":
        for key in ("machine", "device", "threads"):
            if old[key] != new[key]:
                notes.append(f"{key} differs: {old[key]} and {new[key]}")
        before, after = ({row["name"]: row for row in file["rows"]} for file in (old, new))
        compared = _speed
    elif old["benchmark"] == "mgno":
        before, after = ({_size(row): row for row in file["rows"]} for file in (old, new))
        compared = _step
    else:
        before, after = old["rows"], new["rows"]
        compared = {"operators": _operator, "trajectories": _integrator}.get(
            old["benchmark"], _accuracy
        )
    found = [
        change
        for name in before
        if name in after
        for change in compared(name, before[name], after[name])
    ]
    for place, names in (("old", set(before) - set(after)), ("new", set(after) - set(before))):
        if names:
            notes.append(f"only in the {place} file: {', '.join(sorted(names))}")
    return found, notes


def _accuracy(name: str, before: Results, after: Results) -> Iterator[Change]:
    old, new = (math.inf if row["median"] is None else row["median"] for row in (before, after))
    bars = [row["reference_error_bar"] or 0.0 for row in (before, after)]
    # Neither can be told from the other below what the references know.
    resolved = new > LIMIT * max(bars)
    yield Change(name, "relative L2", old, new, resolved and new > ACCURACY * old)
    failed = (before["failed"] / len(before["runs"]), after["failed"] / len(after["runs"]))
    if any(failed):
        yield Change(name, "failed runs", *failed, regression=failed[1] > failed[0])


def _operator(name: str, before: Results, after: Results) -> Iterator[Change]:
    old, new = _median_error(before), _median_error(after)
    yield Change(name, "relative L2", old, new, new > ACCURACY * old)


def _integrator(name: str, before: Results, after: Results) -> Iterator[Change]:
    for rival in sorted(set(before["ratios"]) & set(after["ratios"])):
        old, new = before["ratios"][rival], after["ratios"][rival]
        worse = all(new[key] > SPEED * old[key] for key in ("minimum", "median"))
        yield Change(name, f"time / {rival}", old["minimum"], new["minimum"], worse)
    old, new = (row["contenders"]["residua"].get("error") for row in (before, after))
    if old is not None and new is not None:
        yield Change(name, "error", old, new, new > ACCURACY * old)


def _median_error(row: Results) -> float:
    """A run that failed is infinitely wrong."""
    return statistics.median(
        math.inf if run.get("error") else run["relative_l2"]["mean"] for run in row["runs"]
    )


def _size(row: Results) -> str:
    return f"{row['nodes']}^2, width {row['width']}, batch {row['batch']}, {row['boundary']}"


def _step(name: str, before: Results, after: Results) -> Iterator[Change]:
    old, new = (math.inf if row["error"] else row["ratio"]["minimum"] for row in (before, after))
    yield Change(name, "time / plain", old, new, new > SPEED * old)


def _speed(name: str, before: Results, after: Results) -> Iterator[Change]:
    if before["error"] or after["error"]:
        old, new = (math.inf if row["error"] else 0.0 for row in (before, after))
        yield Change(name, "row in error", old, new, regression=new > old)
    for rival, old in before["ratios"].items():
        new = after["ratios"].get(rival)
        if new is None:
            continue
        # Noise moves one of the two; a change of the program moves both.
        worse = all(new[key] > SPEED * old[key] for key in ("minimum", "median"))
        yield Change(name, f"time / {rival}", old["minimum"], new["minimum"], worse)
        if "memory" in old and "memory" in new:
            grown = _memory(after) - _memory(before) > MEMORY_BYTES
            worse = grown and new["memory"] > SPEED * old["memory"]
            yield Change(name, f"memory / {rival}", old["memory"], new["memory"], worse)


def _memory(row: Results) -> float:
    """Of our contenders, the one that needs most."""
    return max(
        (entry.get("memory") or 0.0)
        for name, entry in row["contenders"].items()
        if name.startswith("residua")
    )
