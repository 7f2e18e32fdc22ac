"""Arrays in files, read piece by piece and checked as they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

__all__ = ["Hdf5", "Joined", "Source", "Stored", "refuse"]

Rows = NDArray[np.int64]


def refuse(path: str | Path, dataset: str, found: str, advice: str) -> NoReturn:
    """Raise the error of a file that is not what it should be: file, dataset, found, advice."""
    place = f"{path}: '{dataset}' " if dataset else f"{path}: "
    raise DataError(f"{place}{found}; {advice}") from None


class Hdf5:
    """An HDF5 file, opened when it is needed, and again in every process that needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, h5py.File] | None = None

    @property
    def file(self) -> Any:
        """The open file; h5py does not say which of its members are what.

        Raises:
            DataError: it is no HDF5 file, or part of it is missing.
        """
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), h5py.File(self.path, "r")
            except OSError as error:
                reason = " ".join(str(error).split())
                whole = "truncated" not in reason
                found = "is no readable HDF5 file" if whole else "is truncated: its end is missing"
                refuse(self.path, "", f"{found} ({reason[:160]})", "copy or write it again")
        return self._opened[1]

    def close(self) -> None:
        """Let go of the file; it is opened again when it is read again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the file for itself."""
        return {"path": self.path, "_opened": None}

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset whose numbers lie in this file.

        Raises:
            DataError: it is missing, or a link to elsewhere.
        """
        place: Any = self.file
        for part in name.strip("/").split("/"):
            with self.reading(name):
                link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
                if link is None:
                    held = (
                        ", ".join(sorted(place)[:12]) if isinstance(place, h5py.Group) else "none"
                    )
                    refuse(self.path, name, "is missing", f"there are: {held}")
                if not isinstance(link, h5py.HardLink):
                    refuse(self.path, name, "is a link that leads elsewhere", "store the numbers")
                place = place[part]
        if not isinstance(place, h5py.Dataset):
            refuse(self.path, name, "is a group", "store the numbers as a dataset")
        if place.external or place.is_virtual:
            refuse(self.path, name, "holds no numbers of its own", "store the numbers themselves")
        return place

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Errors of the library while it reads, as one sentence."""
        try:
            yield
        except (OSError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:160]
            refuse(self.path, name, f"cannot be read ({reason})", "copy or write the file again")


class Source:
    """Numbers by sample: shape (samples, [times,] n_1, ...).

    Attributes:
        path: the file, for messages.
        name: what messages call it.
        samples: how many.
        times: how many instants; None without an axis of time.
        space: nodes by coordinate.
        dtype: as stored.
    """

    path: Path
    name: str
    samples: int
    times: int | None
    space: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: Rows, instants: slice | None = None) -> NDArray[Any]:
        """Samples of increasing, distinct numbers, shape (rows, [instants,] n_1, ...).

        Raises:
            DataError: a number is not finite.
        """
        values = self._read(rows, slice(None) if instants is None else instants)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            kind = "NaN" if np.isnan(values[bad]) else "infinite"
            refuse(
                self.path,
                self.name,
                f"holds {kind} in sample {int(rows[bad[0]])}, at {list(bad[1:])}",
                "leave that sample out by a split, or mend the file",
            )
        return values

    def _read(self, rows: Rows, instants: slice) -> NDArray[Any]:
        raise NotImplementedError


@dataclass
class Stored(Source):
    """An array with named axes.

    Args:
        path: the file.
        name: of the dataset.
        get: gives the array, or a dataset of HDF5.
        axes: names in stored order: sample, t, names of coordinates, and those in `picked`.
        picked: index by name of axes that are not kept, such as a channel.
        repeated: number of samples, where the array is the same for all.
    """

    path: Path
    name: str
    get: Callable[[], Any]
    axes: Sequence[str]
    picked: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 1

    def __post_init__(self) -> None:
        stored = self.get()
        shape = stored.shape
        if stored.dtype.kind not in "fiub":
            refuse(
                self.path,
                self.name,
                f"is of type {stored.dtype}",
                "store real numbers, as float32 or float64",
            )
        if len(shape) != len(self.axes):
            refuse(
                self.path,
                self.name,
                f"has {len(shape)} axes, shape {shape}",
                f"store {len(self.axes)}: ({', '.join(self.axes)})",
            )
        if 0 in shape:
            refuse(self.path, self.name, f"is empty, shape {shape}", "store at least one sample")
        sizes = dict(zip(self.axes, shape, strict=True))
        self.samples, self.times = sizes.get("sample", self.repeated), sizes.get("t")
        kept = [a for a in self.axes if a not in self.picked]
        space = [a for a in kept if a not in ("sample", "t")]
        if set(space) <= set("xyz"):  # in whatever order they are stored
            space.sort()
        self.space = tuple(sizes[a] for a in space)
        self.dtype = stored.dtype
        wanted = [a for a in ("sample", "t") if a in kept] + space
        self._order = [kept.index(a) for a in wanted]

    def _read(self, rows: Rows, instants: slice) -> NDArray[Any]:
        # HDF5 reads a range far quicker than a list of numbers.
        first, last = int(rows[0]), int(rows[-1])
        dense = last - first + 1 == len(rows)
        chosen: dict[str, Any] = {
            "sample": slice(first, last + 1) if dense else rows,
            "t": instants,
        }
        index = tuple(self.picked.get(a, chosen.get(a, slice(None))) for a in self.axes)
        stored = self.get()
        try:
            values = np.asarray(stored[index])
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            refuse(self.path, self.name, f"cannot be read ({reason})", "copy or write it again")
        if "sample" not in self.axes:
            one = values.transpose(self._order)[None]
            return np.broadcast_to(one, (len(rows), *one.shape[1:]))
        return values.transpose(self._order)


@dataclass
class Joined(Source):
    """One array a sample, as where every sample is a group of its own."""

    parts: Sequence[Stored]

    def __post_init__(self) -> None:
        first = self.parts[0]
        self.path, self.name, self.dtype = first.path, first.name, first.dtype
        self.samples, self.times, self.space = len(self.parts), first.times, first.space
        for part in self.parts:
            if (part.times, part.space) != (first.times, first.space):
                refuse(
                    part.path,
                    part.name,
                    f"has other sizes than '{first.name}': {part.space} and {first.space}",
                    "store samples of one size in one file",
                )

    def _read(self, rows: Rows, instants: slice) -> NDArray[Any]:
        one = np.zeros(1, dtype=np.int64)
        return np.concatenate([self.parts[int(row)]._read(one, instants) for row in rows])
