"""Files that are either the old one or the new one, never half of one.

The protocol, in this order: check the free space; write under a unique temporary name *in the same
folder* (a rename across devices is a copy, and a copy can be cut in half); close, which flushes;
fsync the file; rename it over the final name; fsync the folder, without which the rename itself may
be lost with the power. A process killed anywhere on that path leaves the old file, or the new one,
and at worst a temporary file that `remove_stale` recognises.

A failed fsync is never retried: the kernel marks the pages clean after the first failure, so a
second call would report success for data that never reached the disk (Rebello et al., "Can
applications recover from fsync failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ResourceError

__all__ = ["remove_stale", "replacing", "write_atomic"]

# What a full disk, a used-up quota and a file-size limit look like.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Below this the disk counts as full when a library fails without giving the reason.
_NEARLY_FULL = 1 << 20
_FOREIGN_AGE = 24 * 3600.0
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{12}\.tmp")
_active: set[str] = set()


@contextmanager
def replacing(path: str | Path, *, expected: int = 0) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on failure it is removed.

    For writers that need a path of their own, such as HDF5. The block must have closed the file
    when it ends.

    Args:
        path: final name; missing folders are created. A symbolic link there is replaced, not
            followed.
        expected: bytes that will be written, if known; refused at once when they do not fit.

    Yields:
        A path that does not exist yet, in the same folder.

    Raises:
        ResourceError: the disk is full (with the bytes needed and free), or the system refused to
            write.
    """
    path = Path(path)
    # Cut, because file systems end names at 255 bytes and these marks come on top.
    name = f".{path.name[:40]}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp"
    temporary = path.parent / name
    _active.add(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = _free(path.parent)
        if free is not None and free < expected:
            raise _full(path, expected, free)
        yield temporary
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        written, full = 0, False
        with suppress(OSError):
            full = _is_full(error, path.parent)
            written = temporary.stat().st_size + 1  # it wanted at least one more
        with suppress(OSError):
            os.unlink(temporary)
        if full:
            raise _full(path, max(expected, written), _free(path.parent)) from error
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ResourceError(f"{path}: cannot be written: {reason}") from error
        raise
    finally:
        _active.discard(name)


def write_atomic(
    path: str | Path, content: bytes | str | Callable[[BinaryIO], Any], *, expected: int = 0
) -> Path:
    """Replace the file at `path` by `content` in one step.

    Args:
        path: final name; missing folders are created.
        content: bytes, text (written as UTF-8), or a function that writes to the open binary file
            it is given.
        expected: bytes a function will write, if known; bytes and text are measured.

    Returns:
        The path.

    Raises:
        ResourceError: the disk is full (with the bytes needed and free), or the system refused to
            write. What was at `path` before is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    size = expected if callable(data) else len(data)
    with replacing(path, expected=size) as temporary, open(temporary, "xb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
    return Path(path)


def remove_stale(folder: str | Path) -> list[Path]:
    """Remove temporary files of writers that no longer exist.

    Those of this process that no call is writing, and those of dead processes of this machine, go
    at once. Of other machines sharing the folder, and of a process number in use again, nothing can
    be known: they go after a day.

    Returns:
        The files removed; an absent folder has none.
    """
    folder = Path(folder)
    removed = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or path.name in _active:
            continue
        with suppress(OSError):
            if not _writer_may_live(match) or time.time() - path.lstat().st_mtime > _FOREIGN_AGE:
                os.unlink(path)
                removed.append(path)
    return removed


def _writer_may_live(match: re.Match[str]) -> bool:
    if match["host"] != _HOST:
        return True
    pid = int(match["pid"])
    if pid == os.getpid():
        return False
    if os.name != "posix":  # os.kill(pid, 0) would end the process on Windows
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # folders cannot be opened on Windows
        return
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        # Some network file systems do not offer this call; any other failure is a failure.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _is_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # torch.save and other C++ writers hide the reason in a RuntimeError without errno.
    free = _free(folder) if isinstance(error, RuntimeError) else None
    return free is not None and free < _NEARLY_FULL


def _full(path: Path, needed: int, free: int | None) -> ResourceError:
    known = "an unknown number of" if free is None else free
    return ResourceError(
        f"{path}: no room on the disk: at least {needed} bytes needed, {known} bytes free;"
        " make room or write to another folder"
    )
