"""Files that hold arrays and nothing about them: MATLAB files of the FNO benchmarks, and .npy.

The FNO files (Li et al., ICLR 2021) are known by the names in them. What grid and boundary they
have is known from the benchmark and said in `notes`; of any other array nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from ..dataset import Dataset, Slot
from ..sources import Hdf5, Stored, refuse
from .getter import Getter

__all__ = ["Axes", "read_mat", "read_npy"]

_PAIRS = (("coeff", "sol"), ("a", "u"), ("input", "output"))
_SPACE = ("x", "y", "z")
_PARTNERS = (("input", "output"), ("Input", "Output"), ("_x", "_y"), ("_X", "_Y"), ("_a", "_u"))


@dataclass(frozen=True)
class Axes:
    """Names of the axes of inputs and outputs, as a person gives them.

    Attributes:
        inputs: in stored order: sample, t, x, y, z, channel.
        outputs: the same.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class _Array:
    """An array in a file, and the order of its axes on disk."""

    name: str
    get: Callable[[], Any]
    reverse: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.get().shape)
        return shape[::-1] if self.reverse else shape


class _Fixed:
    """An array in memory."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __call__(self) -> Any:
        return self.array


class _Mapped:
    """An array of a .npy file, mapped again in every process that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: Any = None

    def __call__(self) -> Any:
        if self._array is None:
            try:
                self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                reason = " ".join(str(error).split())[:120]
                refuse(
                    self.path,
                    "",
                    f"is no readable .npy file of numbers ({reason})",
                    "write it again by numpy.save, from an array of numbers",
                )
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_array": None}


def read_mat(path: Path, axes: Axes | None) -> Dataset:
    """Open a MATLAB file, version 5 or 7.3.

    Version 5 is read as a whole, for its compression allows nothing else; version 7.3 is HDF5 with
    all axes in reverse.

    Raises:
        DataError: the names in it are not known, or shapes do not fit together.
    """
    found = _arrays_73(path) if h5py.is_hdf5(path) else _arrays_5(path)
    pair = next((p for p in _PAIRS if found.keys() >= set(p)), None)
    if pair is None:
        refuse(
            path,
            "",
            f"holds {', '.join(sorted(found)) or 'no arrays'}",
            "known are " + ", ".join(f"'{a}' with '{b}'" for a, b in _PAIRS),
        )
    given, wanted = (found[name] for name in pair)
    notes = []
    if axes is None:
        axes = _benchmark(path, given, wanted)
        notes.append(f"axes are taken to be ({', '.join(axes.inputs)}) and "
                     f"({', '.join(axes.outputs)})")  # fmt: skip
    times = None
    for name in ("t", "tspan"):
        if name in found and "t" in axes.outputs:
            times = np.asarray(found[name].get()[()], dtype=float).ravel()
    closed = pair == ("coeff", "sol")
    kind = "dirichlet" if closed else "periodic"
    notes.append(f"nodes are taken to be those of the unit box, {kind}")
    return _made(path, "MATLAB, FNO benchmarks", (given, wanted), axes, kind, times, notes)


def read_npy(path: Path, outputs: Path | None, axes: Axes | None) -> Dataset:
    """Open a pair of .npy files.

    Raises:
        DataError: there is no second file, or shapes do not fit together.
    """
    if outputs is None:
        outputs = _partner(path)
    given = _Array(path.name, _Mapped(path))
    wanted = _Array(outputs.name, _Mapped(outputs))
    notes = ["a .npy file says nothing of its grid: the unit box, boundary unknown"]
    if axes is None:
        _check_square(path, given)
        space = _SPACE[: len(given.shape) - 1]
        axes = Axes(("sample", *space), ("sample", *space))
        notes.append(f"axes are taken to be ({', '.join(axes.inputs)})")
    return _made(path, "a pair of .npy files", (given, wanted), axes, "unknown", None, notes)


def _partner(path: Path) -> Path:
    for a, b in _PARTNERS:
        if a in path.stem:
            other = path.with_name(path.stem.replace(a, b) + path.suffix)
            if other.exists():
                return other
    refuse(
        path,
        "",
        "holds one array, and no file beside it looks like its outputs",
        "name it: open(path, outputs=...), on the command line --outputs FILE.npy",
    )


def _arrays_5(path: Path) -> dict[str, _Array]:
    try:
        stored: Mapping[str, Any] = scipy.io.loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        refuse(path, "", f"is no readable MATLAB file ({reason})", "copy or write it again")
    return {
        name: _Array(name, _Fixed(value))
        for name, value in stored.items()
        if not name.startswith("__") and isinstance(value, np.ndarray)
    }


def _arrays_73(path: Path) -> dict[str, _Array]:
    hdf5 = Hdf5(path)
    names = [name for name in hdf5.file if isinstance(hdf5.file[name], h5py.Dataset)]
    return {name: _Array(name, Getter(hdf5, name), reverse=True) for name in names}


def _benchmark(path: Path, given: _Array, wanted: _Array) -> Axes:
    """The order of axes in the published files: samples first, time last."""
    _check_square(path, given)
    space = _SPACE[: len(given.shape) - 1]
    inputs = ("sample", *space)
    if len(wanted.shape) == len(given.shape):
        return Axes(inputs, inputs)
    if len(wanted.shape) != len(given.shape) + 1:
        refuse(
            path,
            wanted.name,
            f"has shape {wanted.shape} beside {given.shape} of '{given.name}'",
            "name the axes: axes=('sample x y', 'sample x y t')",
        )
    # (sample, x, t) or, in the files with `tspan`, (sample, t, x).
    last = wanted.shape[-1] in given.shape[1:] and wanted.shape[1] not in given.shape[1:]
    return Axes(inputs, ("sample", "t", *space) if last else (*inputs, "t"))


def _check_square(path: Path, array: _Array) -> None:
    shape = array.shape
    if len(shape) < 2:
        refuse(path, array.name, f"has shape {shape}", "store axes as (sample, x)")
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        refuse(
            path,
            array.name,
            f"has shape {shape}, whose axes look like (x, y, sample)",
            "name them: open(path, axes='x y sample'), on the command line --axes 'x y sample'",
        )


def _made(
    path: Path,
    layout: str,
    pair: tuple[_Array, _Array],
    axes: Axes,
    kind: str,
    times: Any,
    notes: Sequence[str],
) -> Dataset:
    given, wanted = pair
    inputs = _slots(path, given, axes.inputs)
    outputs = _slots(path, wanted, axes.outputs)
    source = inputs[0].source
    space = sorted(a for a in axes.inputs if a in _SPACE)
    grid = {}
    for name, n in zip(space, source.space, strict=True):
        grid[name] = np.linspace(0.0, 1.0, n, endpoint=kind != "periodic")
    states = tuple(s for s in outputs if s.source.times is not None)
    if states and times is None:
        times = np.arange(states[0].source.times or 0, dtype=float)
        notes = [*notes, "instants are not stored: they are numbered"]
    return Dataset(
        path,
        layout,
        grid,
        dict.fromkeys(grid, kind),
        tuple(Slot(s.name, s.source, 0) for s in inputs),
        tuple(Slot(s.name, s.source, -1) for s in outputs),
        states,
        times,
        rows=np.arange(source.samples),
        notes=tuple(notes),
    )


def _slots(path: Path, array: _Array, axes: Sequence[str]) -> list[Slot]:
    shape = array.shape
    if len(axes) != len(shape):
        refuse(
            path, array.name, f"has shape {shape}, {len(shape)} axes",
            f"name as many, instead of ({', '.join(axes)})",
        )  # fmt: skip
    stored = tuple(axes)[::-1] if array.reverse else tuple(axes)
    channels = dict(zip(axes, shape, strict=True)).get("channel")
    if channels is None:
        return [Slot(array.name, Stored(path, array.name, array.get, stored))]
    return [
        Slot(f"{array.name} {k}", Stored(path, array.name, array.get, stored, {"channel": k}))
        for k in range(channels)
    ]
