"""summary.json: one solved case in numbers, for people and programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..execution.summary import peak_memory_mib, versions

if TYPE_CHECKING:
    from ..problems.problem import Problem
    from ..problems.references.reference import Reference
    from .accuracy import Comparison

__all__ = ["summarise"]


def summarise(
    problem: Problem,
    status: str,
    seed: int,
    metadata: Mapping[str, Any],
    reference: Reference | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Any]:
    """Everything summary.json says, as plain values.

    Args:
        problem: what was solved.
        status: how training ended, as a sentence.
        seed: seed of the run.
        metadata: solver, seconds, peak_memory_mib, device, threads, config_digest and whatever else
            the solver wants to report; `architecture` stays out.
        reference: gives the classical method and its cost.
        comparison: gives the errors.
    """
    errors = comparison.relative_l2 if comparison else dict.fromkeys(problem.fields)
    bars = comparison.error_bar if comparison else dict.fromkeys(problem.fields)
    summary: dict[str, Any] = {
        "problem": problem.name,
        "title": problem.title,
        "parameters": dict(problem.values),
        "solver": metadata.get("solver"),
        "status": status,
        "seed": seed,
        "seconds": metadata.get("seconds"),
        "peak_memory_mib": metadata.get("peak_memory_mib", peak_memory_mib()),
        "relative_l2": dict(errors),
        "relative_l2_is_absolute": list(comparison.absolute) if comparison else [],
        "relative_l2_is_settled": comparison.settled if comparison else None,
        "maximum_error": dict(comparison.maximum) if comparison else dict.fromkeys(problem.fields),
        "reference_error_bar": dict(bars),
        "reference_note": reference.note if reference else "",
        "reference_limited": comparison.reference_limited if comparison else None,
        "classical": _classical(reference, comparison),
        "versions": versions(),
        "device": metadata.get("device"),
        "threads": metadata.get("threads"),
        "config_digest": metadata.get("config_digest"),
    }
    more = {key: value for key, value in metadata.items() if key not in summary}
    return {**summary, **{k: v for k, v in more.items() if k not in ("architecture", "notes")}}


def _classical(reference: Reference | None, comparison: Comparison | None) -> dict[str, Any]:
    """The method of the reference, and how long it needs to be as good as this solution.

    `curve` holds what it was measured at: rows of seconds and relative L2 error.
    """
    if reference is None:
        return {"method": None, "seconds_to_same_error": None, "curve": []}
    error = max(comparison.relative_l2.values()) if comparison else math.nan
    seconds = reference.seconds_to(error) if math.isfinite(error) else None
    curve = [[float(time), float(size)] for time, size in reference.costs()]
    return {"method": reference.classical, "seconds_to_same_error": seconds, "curve": curve}
