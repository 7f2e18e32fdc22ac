"""Atomic writing: the old file or the new one, no leftovers, errors that say what to do."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from residua import atomic
from residua.atomic import remove_stale, replacing, write_atomic
from residua.errors import ResourceError


def test_bytes_text_and_functions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    assert write_atomic(path, b"\x00\xff") == path
    assert path.read_bytes() == b"\x00\xff"
    write_atomic(str(path), "\u03bd = 1\n")
    assert path.read_bytes() == "\u03bd = 1\n".encode()
    write_atomic(path, lambda file: [file.write(b"a"), file.seek(0), file.write(b"b")])
    assert path.read_bytes() == b"b"
    assert os.listdir(path.parent) == ["file"]


def test_the_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        mode = write_atomic(tmp_path / "file", b"").stat().st_mode
    finally:
        os.umask(old)
    assert stat.S_IMODE(mode) == 0o640


def test_a_failing_writer_changes_nothing(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "file", b"old")

    def fails(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise failure

    for failure in (KeyError("mine"), KeyboardInterrupt(), RuntimeError("mine")):
        with pytest.raises(type(failure)):
            write_atomic(path, fails)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]
    failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ResourceError, match=r"file: no room .* 5 bytes needed, \d+ bytes free"):
        write_atomic(path, fails)
    assert os.listdir(tmp_path) == ["file"]


def test_a_reason_hidden_by_a_library_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_free", lambda folder: 512)
        with pytest.raises(ResourceError, match="512 bytes free"):
            write_atomic(tmp_path / "file", fails)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_atomic(tmp_path / "file", fails)
    assert not os.listdir(tmp_path)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_atomic(tmp_path / "folder", b"")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_long_names_and_links(tmp_path: Path) -> None:
    long = "\u03bd" * 120 + ".json"
    assert write_atomic(tmp_path / long, b"1").read_bytes() == b"1"
    target = write_atomic(tmp_path / "target", b"old")
    (tmp_path / "link").symlink_to(target)
    write_atomic(tmp_path / "link", b"new")
    assert target.read_bytes() == b"old"
    assert not (tmp_path / "link").is_symlink()


def test_order_of_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data reach the disk before the name does, and the name before the call returns."""
    log = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        folder = stat.S_ISDIR(status.st_mode)
        log.append("fsync folder" if folder else f"fsync file of {status.st_size}")
        fsync(descriptor)

    def logged_replace(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        log.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    write_atomic(tmp_path / "file", b"x" * 100)
    assert log == ["fsync file of 100", "rename", "fsync folder"]


def test_stale_files_go_and_others_stay(tmp_path: Path) -> None:
    host, me = atomic._HOST, os.getpid()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = os.getppid()
    names = {
        "mine": f".f.{host}-{me}-0123456789ab.tmp",
        "dead": f".f.{host}-{dead.pid}-0123456789ab.tmp",
        "alive": f".f.{host}-{alive}-0123456789ab.tmp",
        "absurd": f".f.{host}-{10**30}-0123456789ab.tmp",
        "foreign": ".f.00000000-1-0123456789ab.tmp",
        "old": ".f.00000000-2-0123456789ab.tmp",
        "user": ".notes.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    long_ago = time.time() - 2 * 86400
    os.utime(tmp_path / names["old"], (long_ago, long_ago))
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"x")
        removed = {path.name for path in remove_stale(tmp_path)}
        assert temporary.exists()
    assert removed == {names[key] for key in ("mine", "dead", "absurd", "old")}
    assert set(os.listdir(tmp_path)) == {"file", *(names[k] for k in ("alive", "foreign", "user"))}
    assert remove_stale(tmp_path / "absent") == []


def test_no_torch() -> None:
    code = "import sys, residua.atomic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
