"""Who is timed when, and what the times say."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["interleaved", "ratio", "round_robin", "steps_for"]

LEAST_SECONDS = 0.05
"""A time is the mean over as many steps as fill this."""


def round_robin(names: Sequence[str], repetitions: int) -> list[list[str]]:
    """Who is timed in each repetition: everybody once, each time beginning with the next."""
    return [
        [names[(start + i) % len(names)] for i in range(len(names))] for start in range(repetitions)
    ]


def steps_for(seconds: float) -> int:
    """How many steps of this length make one time."""
    return max(1, math.ceil(LEAST_SECONDS / max(seconds, 1e-9)))


def interleaved(
    clocks: Mapping[str, Callable[[], float]],
    repetitions: int,
    *,
    least: int = 3,
    limit: float = math.inf,
) -> dict[str, list[float]]:
    """Times of all contenders, taken in turns so that whatever drifts drifts for all.

    Args:
        clocks: each gives seconds of one step when asked.
        repetitions: how often everybody is asked.
        least: repetitions made even if time is up.
        limit: seconds after which no further repetition begins.
    """
    times: dict[str, list[float]] = {name: [] for name in clocks}
    began = time.monotonic()
    for number, order in enumerate(round_robin(list(clocks), repetitions)):
        if number >= least and time.monotonic() - began > limit:
            break
        for name in order:
            times[name].append(clocks[name]())
    return times


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Our time over theirs: of the minima, and the median over repetitions.

    Other work on the machine only adds time, so the minima are the better estimate; where the two
    ratios differ much, the times were disturbed.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"minimum": min(ours) / min(theirs), "median": statistics.median(pairs)}
