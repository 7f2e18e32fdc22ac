"""summary.json: one run in numbers, for people and programs.

Strict JSON: a number that is not finite is written as null and named under `notes`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata as packages
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..problems.problem import Problem
    from ..problems.references.reference import Reference
    from .accuracy import Comparison

__all__ = ["peak_memory_mib", "summarise", "to_json", "versions"]

PACKAGES = ("residua", "torch", "numpy", "scipy", "sympy", "h5py")


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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = packages.version(name)
        except packages.PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far in MiB, where the system says."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if platform.system() == "Darwin" else 1 << 10), 1)


def to_json(summary: Mapping[str, Any]) -> str:
    """Strict JSON text of plain values."""
    notes: list[str] = []
    cleaned = _clean(dict(summary), "", notes)
    if notes:
        cleaned["notes"] = notes
    return json.dumps(cleaned, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _clean(value: Any, path: str, notes: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): _clean(item, f"{path}.{key}" if path else str(key), notes)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, f"{path}[{i}]", notes) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):  # a NumPy scalar
        return _clean(value.item(), path, notes)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        notes.append(f"{path} is {'not a number' if math.isnan(value) else 'infinite'}")
        return None
    return str(value)
