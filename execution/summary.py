"""Numbers of a run for people and programs: strict JSON, versions, memory.

A number that is not finite is written as null and named under `notes`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata as packages
from typing import Any

__all__ = ["peak_memory_mib", "to_json", "versions"]

PACKAGES = ("residua", "torch", "numpy", "scipy", "sympy", "h5py")


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
