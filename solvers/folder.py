"""The run folder: what a run writes, and how an earlier one is removed."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["CONFIGURATION", "check", "clear", "is_run"]

CONFIGURATION = "config.resolved.yaml"
FILES = ("metrics.jsonl", "summary.json", "solution.h5", "solution.vtkhdf", "figure.png")
CHECKPOINTS = ("step-*.pt", "manifest.json")


def is_run(folder: Path) -> bool:
    """Whether a run was begun here: its configuration is the first thing that is written."""
    return (folder / CONFIGURATION).is_file()


def clear(folder: Path) -> None:
    """Remove the files of an earlier run but its configuration, which the next one replaces.

    Nothing else is removed, and without a run nothing at all.

    Raises:
        OSError: a file cannot be removed.
    """
    if not is_run(folder):
        return
    checkpoints = folder / "checkpoints"
    found = [folder / name for name in FILES]
    if not checkpoints.is_symlink():
        found += [path for pattern in CHECKPOINTS for path in checkpoints.glob(pattern)]
    for path in found:
        path.unlink(missing_ok=True)


def check(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run folder that cannot be written or that holds what must not be lost.

    Args:
        folder: where the run is to go.
        resume: it continues what is there.
        overwrite: an earlier run there may be replaced.

    Raises:
        ConfigurationError: with what to do instead.
    """
    shown = str(folder)
    parent = folder
    while not parent.exists() and parent.parent != parent:
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigurationError(
            f"{parent} is a file, not a folder", advice="choose another folder by --out DIR"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{parent} cannot be written to", advice="choose another folder by --out DIR"
        )
    if not folder.exists():
        return
    present = {entry.name for entry in folder.iterdir()}
    if CONFIGURATION not in present:
        if present:
            raise ConfigurationError(
                f"{shown} is not empty and is no run folder (it has no {CONFIGURATION})",
                advice="choose another folder by --out DIR",
            )
    elif "summary.json" in present and not (resume or overwrite):
        advice = "give --overwrite to replace it, or --out DIR for another folder"
        raise ConfigurationError(f"{shown} already holds a finished run", advice=advice)
    elif not (resume or overwrite):
        advice = "give --resume to continue it, or --overwrite to begin again"
        raise ConfigurationError(f"{shown} holds an unfinished run", advice=advice)
