"""Where and on what a figure was taken."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import write_atomic
from ..errors import DataError
from ..execution.summary import to_json

__all__ = ["ROOT", "commit", "machine", "read", "write"]

KINDS = ("engine", "accuracy", "operators", "mgno", "trajectories")
"""Of results that are read again."""
ROOT = Path(__file__).resolve().parent.parent
"""The package, which is also the checkout."""


def machine() -> dict[str, Any]:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8").splitlines()
        name = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name
        )
    return {"processor": name, "cores": os.cpu_count()}


def commit() -> str:
    """The commit that is measured, marked where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as strict JSON; a number that is not finite becomes null."""
    write_atomic(path, to_json(results))


def read(path: Path, benchmark: str | None = None) -> dict[str, Any]:
    """Results written by `write`, of a certain benchmark if one is named.

    Raises:
        DataError: the file is missing or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON; give a file written by 'residua bench'") from error
    if not isinstance(found, dict) or found.get("benchmark") not in KINDS:
        raise DataError(f"{path}: holds no results of a benchmark; give one of 'residua bench'")
    if benchmark not in (None, found["benchmark"]):
        raise DataError(
            f"{path}: holds results of 'bench {found['benchmark']}'; give a file of "
            f"'bench {benchmark}'"
        )
    found.pop("notes", None)  # which numbers were not finite; they are told again
    return found
