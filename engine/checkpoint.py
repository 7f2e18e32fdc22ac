"""Checkpoints: written atomically, verified before use, old ones kept until the new one is safe.

A checkpoint folder holds ``step-<step>-<first 16 hex digits of its SHA-256>.pt`` files and a
``manifest.json`` that lists the usable ones, oldest first, with size and full SHA-256. Saving goes
data file, manifest, pruning, in this order and each file through `write_atomic`, so that at every
instant at least the previous checkpoint can be loaded. Because the name carries the digest, the
files verify themselves should the manifest be lost.

Nothing is unpickled freely: the state is reduced to plain containers, numbers, text and tensors on
saving, and read with torch's restricted loader.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atomic import remove_stale, write_atomic
from ..errors import DataError, DivergedError

__all__ = ["CheckpointInfo", "CheckpointWarning", "exists", "load_latest", "save"]

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(?P<step>\d{9,})-(?P<digest>[0-9a-f]{16})\.pt")


class CheckpointWarning(UserWarning):
    """A checkpoint or manifest was damaged and passed over."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a state came from.

    Attributes:
        path: the file.
        step: the step it was saved at.
        size: bytes.
        sha256: hex digest of the file.
        rejected: why newer checkpoints were passed over, newest first; normally empty.
    """

    path: Path
    step: int
    size: int
    sha256: str
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    file: str
    step: int
    bytes: int
    sha256: str


def save(folder: str | Path, step: int, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write the checkpoint of `step`, list it, then remove those beyond the last `keep`.

    Listed checkpoints of the same or a later step are dropped: the run has gone back behind them
    (to an older checkpoint after damage, or to repeat the step), and they must not push out the one
    it went back to.

    Args:
        folder: checkpoint folder, of one run; created if missing.
        step: count that grows over the whole run.
        state: nested dicts, lists and tuples of tensors, numbers, text, bytes and None. Tensors go
            to the CPU. Random states fit: a NumPy bit generator's `state` dict, a torch generator's
            `get_state()`.
        keep: checkpoints kept, at least 2: the newest may turn out damaged.

    Returns:
        The path written.

    Raises:
        DivergedError: a tensor holds a value that is not finite, or a number is NaN. (An infinite
            number is a legitimate "not reached yet".) Nothing was written.
        ResourceError: the disk is full or refuses; the checkpoints before are untouched.
        TypeError: the state holds something a restricted load would refuse, with its place.
        ValueError: `keep` below 2, or a negative step.
    """
    if keep < 2 or step < 0:
        raise ValueError(f"keep must be at least 2 and step not negative, got {keep = }, {step = }")
    folder = Path(folder)
    content = {
        "format": FORMAT,
        "step": step,
        "torch": _plain(torch.__version__, "torch"),
        "state": _plain(state, "state"),
    }
    # In memory first: size and digest are then exact before the disk is touched, and a full disk
    # shows as a plain OSError (torch, writing directly, says "unexpected pos" without a reason).
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    new = _Entry(f"step-{step:09d}-{digest[:16]}.pt", step, len(data), digest)

    remove_stale(folder)
    older = [e for e in _entries(folder)[0] if e.step < step and _present(folder, e)]
    path = write_atomic(folder / new.file, data)
    entries = [*older, new][-keep:]
    _write_manifest(folder, entries)
    listed = {entry.file for entry in entries}
    for found in folder.iterdir():
        if _NAME.fullmatch(found.name) and found.name not in listed:
            with suppress(OSError):
                found.unlink()
    return path


def exists(folder: str | Path) -> bool:
    """Whether a checkpoint was ever finished here, sound or not."""
    folder = Path(folder)
    return (folder / MANIFEST).exists() or any(folder.glob("step-*.pt"))


def load_latest(folder: str | Path) -> tuple[dict[str, Any], CheckpointInfo]:
    """Load the newest checkpoint that verifies: size, SHA-256, restricted load, format.

    A damaged one is passed over with a `CheckpointWarning` naming the cause. Tensors arrive on the
    CPU.

    Args:
        folder: checkpoint folder.

    Returns:
        The state as saved (mappings as dicts) and where it came from.

    Raises:
        DataError: there is no checkpoint, or none verifies.
    """
    folder = Path(folder)
    remove_stale(folder)
    entries, damage = _entries(folder)
    rejected = [] if damage is None else [damage]
    for entry in reversed(entries):
        try:
            state = _verified(folder, entry)
        except DataError as error:
            rejected.append(str(error))
            warnings.warn(f"checkpoint passed over: {error}", CheckpointWarning, stacklevel=2)
        else:
            place = folder / entry.file
            info = CheckpointInfo(place, entry.step, entry.bytes, entry.sha256, tuple(rejected))
            return state, info
    reason = "; ".join(rejected) or "there is none yet"
    raise DataError(f"{folder}: no usable checkpoint ({reason}); start the run without resuming")


def _plain(value: Any, place: str) -> Any:
    """Reduce to what a restricted load accepts; `place` names the value in errors."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | bytes):
        # Subclasses, such as torch's version string, would be refused on loading.
        return str.__str__(value) if isinstance(value, str) else bytes(value)
    if isinstance(value, Tensor):
        return _plain_tensor(value, place)
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(
                    f"{place}: a checkpoint key must be text or a whole number, got {key!r}"
                )
        return {key: _plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise DivergedError(f"{place} is not a number; the checkpoint was not written")
        return float(value)
    raise TypeError(
        f"{place}: a checkpoint cannot hold {type(value).__name__}; use tensors, numbers, text,"
        " lists and dicts (torch.from_numpy for arrays)"
    )


def _plain_tensor(tensor: Tensor, place: str) -> Tensor:
    tensor = tensor.detach().as_subclass(Tensor).cpu()
    if not bool(torch.isfinite(tensor).all()):
        raise DivergedError(
            f"{place} holds values that are not finite; the checkpoint was not written"
        )
    # torch.save writes the whole storage behind a view.
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _verified(folder: Path, entry: _Entry) -> dict[str, Any]:
    """The state in a listed file, or DataError with the first thing that is wrong with it."""
    path = folder / entry.file
    try:
        if path.is_symlink() or not path.is_file():
            raise DataError(f"{path}: missing, or not a regular file")
        size = path.stat().st_size
        if size != entry.bytes:
            raise DataError(f"{path}: {size} bytes where {entry.bytes} were written")
        # Hash and load the same bytes: the file may change between two reads.
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DataError(f"{path}: the SHA-256 differs from the one written")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the loader raise
        # Its text goes on to explain how to switch the restriction off; that is no advice of ours.
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise DataError(f"{path}: refused by the restricted loader ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a checkpoint of format {FORMAT}; another version wrote it")
    state = content.get("state")
    if content.get("step") != entry.step or not isinstance(state, dict):
        raise DataError(f"{path}: the content is not the checkpoint of step {entry.step}")
    return state


def _present(folder: Path, entry: _Entry) -> bool:
    path = folder / entry.file
    return path.is_file() and path.stat().st_size == entry.bytes


def _write_manifest(folder: Path, entries: list[_Entry]) -> None:
    listed = [vars(entry) for entry in entries]
    content = {"format": FORMAT, "checkpoints": listed, "sha256": _seal(listed)}
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def _seal(listed: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, listed], sort_keys=True).encode()).hexdigest()


def _entries(folder: Path) -> tuple[list[_Entry], str | None]:
    """The listed checkpoints, oldest first, and what was wrong with the manifest (None if nothing).

    Without a sound manifest the files are searched and believed by the digest in their names.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        listed = content["checkpoints"]
        if content["format"] != FORMAT or content["sha256"] != _seal(listed):
            raise ValueError("its seal does not match")
        entries = [_Entry(**item) for item in listed]
        if any(_NAME.fullmatch(entry.file) is None for entry in entries):
            raise ValueError("it names files that are not checkpoints")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = _search(folder)
        if isinstance(error, FileNotFoundError) and not found:
            return [], None
        cause = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        damage = f"{path}: the manifest is {cause}; files found by their names: {len(found)}"
        warnings.warn(damage, CheckpointWarning, stacklevel=3)
        return found, damage
    return entries, None


def _search(folder: Path) -> list[_Entry]:
    found = []
    for path in sorted(folder.glob("step-*.pt")) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_file():
            continue
        with suppress(OSError):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest.startswith(match["digest"]):
                found.append(_Entry(path.name, int(match["step"]), len(data), digest))
    return sorted(found, key=lambda entry: entry.step)
