"""The run folder: what a run writes, and how an earlier one is removed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONFIGURATION", "clear", "is_run"]

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
