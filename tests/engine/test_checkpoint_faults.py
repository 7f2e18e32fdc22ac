"""Checkpoints against faults: killed at any step, a failing disk, a full one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from residua import atomic
from residua.engine import checkpoint
from residua.engine.checkpoint import load_latest, save
from residua.errors import ResourceError


def state(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(5, 4, generator=generator, dtype=torch.float64), "seed": seed}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return torch.equal(left["w"], right["w"]) and left["seed"] == right["seed"]


class Killed(BaseException):
    """The process is gone: nothing after it runs, cleaning up least of all."""


class Dying:
    """Stands for a module; from the n-th call of a listed function on, every call fails.

    A process killed in the middle of a write leaves half the data, so the fatal `write` does too.
    """

    def __init__(self, fatal: int) -> None:
        self.fatal, self.calls = fatal, 0

    def touch(self) -> None:
        self.calls += 1
        if self.calls > self.fatal:
            raise Killed

    def guard(self, function: Any) -> Any:
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            self.touch()
            return function(*arguments, **keywords)

        return guarded


class DyingFile:
    """A file whose fatal write leaves half of its data."""

    def __init__(self, file: Any, dying: Dying) -> None:
        self.file, self.dying = file, dying

    def __enter__(self) -> DyingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.dying.touch()
        self.file.write(data[len(data) // 2 :])


def die_at(monkeypatch: pytest.MonkeyPatch, fatal: int) -> Dying:
    dying = Dying(fatal)
    for name in ("fsync", "replace", "unlink", "open", "close"):
        monkeypatch.setattr(os, name, dying.guard(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", dying.guard(Path.unlink))
    opening = dying.guard(open)
    monkeypatch.setattr(
        atomic, "open", lambda path, mode: DyingFile(opening(path, mode), dying), raising=False
    )
    return dying


def killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders left by a third save that was killed at its 1st, 2nd, ... system call."""
    for fatal in range(100):
        folder = tmp_path / f"{fatal}"
        save(folder, 1, state(1))
        save(folder, 2, state(2))
        with monkeypatch.context() as patch:
            dying = die_at(patch, fatal)
            try:
                save(folder, 3, state(3))
            except Killed:
                pass
            else:
                assert dying.calls == fatal > 10
                return
        # The dead process had another number.
        for left in folder.glob(".*.tmp"):
            left.rename(left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194305-")))
        yield folder
    raise AssertionError("the save never ended")


def test_killed_anywhere_the_last_checkpoint_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, temporaries = [], 0
    for folder in killed_at_every_step(tmp_path, monkeypatch):
        temporaries += len(list(folder.glob(".*.tmp")))
        loaded, info = load_latest(folder)
        assert info.rejected == ()
        assert same(loaded, state(info.step))
        assert not list(folder.glob(".*.tmp"))
        seen.append(info.step)
        save(folder, 4, state(4))
        assert load_latest(folder)[1].step == 4
        assert len(list(folder.iterdir())) == 3
    assert set(seen) == {2, 3}
    assert seen == sorted(seen)
    assert temporaries >= 6


def test_the_harness_catches_a_writer_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong twin: with files written in place the folder is at some step neither old nor new."""

    def naive(path: Path, content: Any) -> Path:
        path.parent.mkdir(exist_ok=True)
        with atomic.open(path, "wb") as file:  # type: ignore[attr-defined]
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    monkeypatch.setattr(atomic, "open", open, raising=False)
    monkeypatch.setattr(checkpoint, "write_atomic", naive)
    damaged = 0
    for fatal in range(12):
        folder = tmp_path / f"{fatal}"
        save(folder, 1, state(1))
        with monkeypatch.context() as patch:
            die_at(patch, fatal)
            try:
                save(folder, 2, state(2))
            except Killed:
                pass
            else:
                break
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_latest(folder)
        damaged += bool(caught)
    assert damaged > 0


def test_a_failed_fsync_means_the_checkpoint_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, state(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(ResourceError, match="cannot be written: Input/output error"):
            save(tmp_path, 2, state(2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_disk_full_names_the_bytes_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, state(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    size = save(tmp_path / "other", 2, state(2)).stat().st_size
    shutil.rmtree(tmp_path / "other")

    # Known beforehand.
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(ResourceError, match=rf"{size} bytes needed, 100 bytes free") as caught:
            save(tmp_path, 2, state(2))
    assert caught.value.exit_code == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    # Met on the way, by a limit of the system (Python ignores the signal and sees errno EFBIG).
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(ResourceError, match=rf"{size} bytes needed, \d+ bytes free"):
            save(tmp_path, 2, state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save(tmp_path, 2, state(2))
    assert load_latest(tmp_path)[1].step == 2
