"""How a case is run: everything that is neither what is solved or learnt nor the method.

Nothing here imports torch: a wrong setting must be reported before anything heavy is loaded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigurationError
from ..typed import option

__all__ = ["NAME", "NAME_SAYS", "RunOptions", "check_device", "gpu_present"]

# Windows keeps the names of devices for itself, with any ending. No (?i): editors read this pattern
# too (JSON Schema).
_DEVICES = "[cC][oO][nN]|[pP][rR][nN]|[aA][uU][xX]|[nN][uU][lL]|[cC][oO][mM][0-9]|[lL][pP][tT][0-9]"
NAME = rf"(?!(?:{_DEVICES})(?:[./]|$))[A-Za-z0-9_][A-Za-z0-9._-]{{0,99}}"
NAME_SAYS = (
    "write up to 100 letters, digits, dots, dashes and underscores, the first no dot or dash"
)


@dataclass(frozen=True)
class RunOptions:
    """The section `run` of a case."""

    name: str | None = option(
        None,
        "first part of the run folder's name; null for the problem's or the file's name",
        pattern=NAME,
        pattern_says=NAME_SAYS,
    )
    seed: int = option(0, "seed of every random draw", low=0, high=2**63 - 1)
    dtype: Literal["float64", "float32"] = option("float64", "precision")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    budget: float | None = option(
        300.0, "wall time for training, or none", above=0.0, high=366 * 86400.0, duration=True
    )
    steps: int | None = option(
        None, "optimiser steps in all; null for no limit", low=1, high=10**12
    )
    accuracy: float | None = option(
        None, "relative L2 error that must be reached, else exit code 1", above=0.0, high=1e6
    )
    deterministic: bool = option(False, "bit-identical repeats and resumes")
    threads: int | None = option(None, "CPU threads; null for all", low=1, high=4096)
    checkpoint_every: float = option(
        60.0, "wall time between checkpoints", above=0.0, high=366 * 86400.0, duration=True
    )
    out: str | None = option(
        None,
        "run folder, relative to where the command runs; null for runs/<name>-<hash>",
        pattern=rf"{NAME}(?:/{NAME})*",
        pattern_says="write a relative path of plain names such as runs/mine (--out takes any)",
    )


def check_device(device: str) -> None:
    """Refuse a GPU where the system shows none, before torch is loaded to say the same.

    Raises:
        ConfigurationError: there is none.
    """
    if device == "cuda" and not gpu_present():
        advice = "there is no CUDA device here; write auto or cpu"
        raise ConfigurationError("", path=("run", "device"), found=device, advice=advice)


def gpu_present() -> bool:
    """Whether there may be a GPU; only Linux tells without torch."""
    if sys.platform != "linux":
        return True
    # NVIDIA's, the one of Windows' subsystem, AMD's.
    return any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia*", "dxg", "kfd"))
