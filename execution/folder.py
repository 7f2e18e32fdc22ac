"""The run folder: what a run writes, and how an earlier one is removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_atomic
from ..errors import ConfigurationError, DataError, ResiduaError, dotted
from .case import KEPT

if TYPE_CHECKING:
    from .case import Runnable

__all__ = [
    "CONFIGURATION",
    "check",
    "check_same",
    "clear",
    "configuration_in",
    "is_run",
    "make",
    "write_configuration",
]

CONFIGURATION = "config.resolved.yaml"
FILES = (
    "metrics.jsonl",
    "summary.json",
    "solution.h5",
    "solution.vtkhdf",
    "figure.png",
    "operator.h5",
    "model.h5",
    "predictions.npz",
    "evaluation.json",
    "evaluation.png",
)
CHECKPOINTS = ("step-*.pt", "manifest.json")


def configuration_in(folder: Path, advice: str) -> Path:
    """The configuration of a run folder that is to be read.

    Raises:
        DataError: there is no folder, or none was written there; `advice` follows.
    """
    configuration = folder / CONFIGURATION
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; {advice}")
    if not configuration.is_file():
        raise DataError(f"{configuration}: there is no such file; {advice}")
    return configuration


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


def make(folder: Path) -> None:
    """Make a run folder.

    Raises:
        ConfigurationError: the system does not allow it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigurationError(
            f"{folder} cannot be made: {error.strerror}",
            advice="choose another folder by --out DIR",
        ) from error


def write_configuration(case: Runnable, folder: Path) -> None:
    """Write the case with every setting, and the numbers of given functions that it names.

    Raises:
        ResourceError: the disk is full, or the system refused to write.
    """
    # First, as a folder without it is not known as that of a run.
    write_atomic(folder / CONFIGURATION, case.text())
    for name, text in case.files().items():
        write_atomic(folder / name, text)


def check_same(case: Runnable, folder: Path) -> None:
    """Refuse to continue a run of anything else, or by another method, seed or precision.

    The rest (budget, steps, accuracy, device) may differ.

    Raises:
        DataError: there is no run to continue, or it is another one.
    """
    path = folder / CONFIGURATION
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file, so there is nothing to resume; run without --resume, "
            "or give the folder of the run by --out DIR (its name changes with the budget)"
        )
    try:
        before = case.reread(path).resolved()
    except ResiduaError as error:
        raise DataError(f"{path}: is not a case this program can read: {error}") from error
    now = case.resolved()
    for resolved in (before, now):
        resolved["run"] = {key: resolved["run"][key] for key in KEPT}
    place = _first_difference(before, now)
    if place is not None:
        raise DataError(
            f"{folder}: holds a run of another case ({place}); "
            "resume with the same settings; only budget, steps, accuracy and device may be others"
        )


def _first_difference(before: Any, now: Any, path: tuple[str | int, ...] = ()) -> str | None:
    """Where two resolved cases part, in words; None where they agree."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = {key: (before.get(key), now.get(key)) for key in [*before, *now]}
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = dict(enumerate(zip(before, now, strict=True)))
    elif before == now:
        return None
    else:
        return f"{dotted(path)} is {_short(before)} there and {_short(now)} here"
    found = (_first_difference(*pair, (*path, key)) for key, pair in pairs.items())
    return next((place for place in found if place is not None), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
