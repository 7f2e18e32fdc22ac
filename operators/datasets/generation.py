"""From a request to a file: many processes, one sample a task, stop and go on at any time.

A sample depends on the seed and on its own number, never on the others or on who computes it. Each
is kept in a file of its own in the folder FILE.parts until all are there; then they are written, in
order, into one file that appears whole. So the bytes of the result know nothing of interruptions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...atomic import remove_stale, write_atomic
from ...errors import ConfigurationError, DataError, DivergedError, ResourceError
from ...progress import QuietReporter, Reporter
from .families import Family, family
from .layout import LAYOUT, Description, Sample, write
from .splits import Rows, check_disjoint, shares

__all__ = ["Request", "generate", "one_sample"]

# The arithmetic of a sample must not depend on how many threads share it.
_ONE_THREAD: Mapping[str, str] = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_RESOLUTIONS = 5, 8192


@dataclass(frozen=True)
class Request:
    """What a data set is to hold.

    Attributes:
        family: name of a generator.
        resolution: stored nodes per space coordinate.
        seed: of everything random.
        settings: of the generator, as a person writes them.
        dtype: float32 or float64, of the stored fields.
    """

    family: str
    resolution: int
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    def text(self) -> str:
        """The request as JSON: equal texts give equal samples."""
        return json.dumps({**vars(self), "layout": LAYOUT}, sort_keys=True)

    def description(self) -> Description:
        """What all samples share.

        Raises:
            ConfigurationError: family, settings and resolution do not fit together.
        """
        low, high = _RESOLUTIONS
        if not low <= self.resolution <= high:
            raise ConfigurationError(
                f"--resolution {self.resolution}: too few or too many nodes",
                advice=f"write a number from {low} to {high}",
            )
        return family(self.family, self.settings).describe(self.family, self.resolution)


def one_sample(request: Request, number: int, maker: Family | None = None) -> Sample:
    """Sample `number` of a request."""
    maker = maker or family(request.family, request.settings)
    seeds = np.random.SeedSequence(request.seed, spawn_key=(number,))
    return maker.sample(np.random.default_rng(seeds), request.resolution)


def generate(
    request: Request,
    samples: int,
    path: str | Path,
    *,
    workers: int = 1,
    splits: Mapping[str, Rows] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Make a data set, or what is still missing of one.

    Args:
        request: what it holds.
        samples: how many.
        path: of the file; what is done already lies in the folder `path`.parts.
        workers: processes of one thread each. As with all of Python's `multiprocessing`, a script
            that calls this needs `if __name__ == "__main__":`.
        splits: numbers of samples by name; 80, 10 and 10 per cent by default.
        overwrite: whether an existing file is replaced.
        reporter: of progress.

    Returns:
        The path.

    Raises:
        ConfigurationError: settings that do not fit, or a file that is there already.
    """
    path, reporter = Path(path), reporter or QuietReporter()
    description = request.description()
    splits = shares(samples) if splits is None else splits
    check_disjoint(splits)
    if path.exists() and not overwrite:
        if _holds(path, request, samples):
            reporter.message(f"{path} is complete: nothing to do")
            return path
        raise ConfigurationError(
            f"{path} exists", advice="choose another --out, or replace it by --overwrite"
        )
    parts = path.with_name(path.name + ".parts")
    _claim(parts, request)
    missing = [n for n in range(samples) if not _part(parts, n).exists()]
    title = f"{request.family}: {samples} samples into {path}"
    done = samples - len(missing)
    reporter.start(title + (f", {done} are there" if done else ""), None, samples, steps=done)
    _work(request, parts, missing, workers, samples, reporter)
    write(
        path,
        description,
        samples,
        lambda number: _read(_part(parts, number)),
        splits=splits,
        provenance=_provenance(request),
        dtype=request.dtype,
    )
    shutil.rmtree(parts)
    reporter.finish(f"{samples} samples in {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def _provenance(request: Request) -> dict[str, Any]:
    try:
        version = metadata.version("residua")
    except metadata.PackageNotFoundError:  # used from a source tree that was not installed
        version = "0+unknown"
    return {
        "seed": request.seed,
        "settings": dict(request.settings),
        "request": request.text(),
        "residua_version": version,
        "numpy_version": np.__version__,
    }


def _holds(path: Path, request: Request, samples: int) -> bool:
    try:
        with h5py.File(path, "r") as file:
            made, count = file.attrs.get("request"), file.attrs.get("n_trajectories")
    except OSError:
        return False
    return made == request.text() and count == samples


def _claim(parts: Path, request: Request) -> None:
    """Make the folder of parts, or see that it belongs to the same request."""
    note = parts / "request.json"
    same = note.exists() and note.read_text(encoding="utf-8") == request.text()
    if same or any(parts.glob("*.npz")):
        if not same:
            raise ConfigurationError(
                f"{parts} holds samples of another request",
                advice="repeat that request, choose another --out, or remove the folder",
            )
        remove_stale(parts)
        return
    write_atomic(note, request.text())


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:07d}.npz"


def _read(path: Path) -> Sample:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove it and run the same command again"
        ) from None
    scalars = {k[2:]: float(v) for k, v in stored.items() if k.startswith("s:")}
    return Sample({k[2:]: v for k, v in stored.items() if k.startswith("f:")}, scalars)


def _work(
    request: Request, parts: Path, missing: list[int], workers: int, samples: int, report: Reporter
) -> None:
    if not missing:
        return
    waiting = iter(missing)
    running: dict[Future[float], int] = {}
    done, worst = samples - len(missing), 0.0
    with _pool(min(workers, len(missing))) as pool:
        while True:
            # A few ahead of the workers, not all: an interruption then has little to take back.
            while len(running) < 2 * workers and (number := next(waiting, None)) is not None:
                running[pool.submit(_make, request, str(parts), number)] = number
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                number = running.pop(future)
                try:
                    worst = max(worst, future.result())
                except BrokenProcessPool:
                    raise ResourceError(
                        f"a process ended while it computed sample {number}, probably for lack of "
                        "memory; use fewer --workers and run the same command again to go on"
                    ) from None
                done += 1
                report.update(done, None, {"worst error bar": worst})


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one thread each, that end with this one whatever happens to it."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # read by the libraries when a process begins
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin() -> None:
    """In a worker: Ctrl-C is for the parent to handle, and without a parent there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_makers: dict[str, Family] = {}


def _make(request: Request, parts: str, number: int) -> float:
    """In a worker: compute and keep a sample; its error bar."""
    key = request.text()
    if key not in _makers:
        _makers[key] = family(request.family, request.settings)
    try:
        sample = one_sample(request, number, _makers[key])
    except DivergedError as error:
        raise DivergedError(f"sample {number}: {error}") from None
    for name, values in sample.fields.items():
        if not np.isfinite(values).all():
            raise DataError(f"sample {number}: '{name}' is not finite")
    arrays: dict[str, Any] = {f"f:{k}": v for k, v in sample.fields.items()}
    arrays |= {f"s:{k}": np.float64(v) for k, v in sample.scalars.items()}
    write_atomic(_part(Path(parts), number), lambda file: np.savez(file, **arrays))
    return sample.scalars["error_bar"]
