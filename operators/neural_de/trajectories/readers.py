"""Series from files: CSV, NPZ and HDF5.

CSV has a line of names: `time`, perhaps `sample` (which series a line belongs to; without it the
file is one series) and `label` (its class, the same on all its lines), and the channels. An empty
field or `nan` is a missing value. NPZ and HDF5 hold the arrays `times` (batch, n) or (n,), `values`
(batch, n, channels) with NaN where missing, and perhaps `lengths` and `labels`.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....errors import DataError
from .series import Series

__all__ = ["read"]

SPECIAL = ("sample", "time", "label")


def read(path: str | Path) -> Series:
    """The series of a file, by its ending.

    Raises:
        DataError: it is missing or damaged, or something in it is wrong; names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    readers = {".csv": _csv, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: give a file that ends in {', '.join(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _csv(path: Path) -> Series:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV: {error}") from None
    if not lines:
        raise DataError("is empty; write a line of names: time and the channels")
    names = [name.strip() for name in lines[0]]
    if "time" not in names or len(set(names)) < len(names):
        raise DataError(f"line 1: found {', '.join(names)}; write each name once, one is 'time'")
    channels = [name for name in names if name not in SPECIAL]
    if not channels:
        raise DataError("line 1: there is no channel beside time")
    rows: dict[str, list[list[float]]] = {}
    labels: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(names):
            raise DataError(f"line {number}: {len(line)} fields; line 1 has {len(names)}")
        fields = dict(zip(names, (text.strip() for text in line), strict=True))
        sample = fields.get("sample", "")
        values = [_number(fields[name], number, name) for name in ("time", *channels)]
        if math.isnan(values[0]):
            raise DataError(f"line {number}: the time is missing")
        rows.setdefault(sample, []).append(values)
        if "label" in names:
            label = _label(fields["label"], number)
            if labels.setdefault(sample, label) != label:
                raise DataError(f"line {number}: label {label} after {labels[sample]} in a series")
    if not rows:
        raise DataError("has a line of names and no other")
    return _stacked(list(rows.values()), list(labels.values()))


def _number(text: str, line: int, name: str) -> float:
    if text.lower() in ("", "nan", "na"):
        return math.nan
    try:
        found = float(text)
    except ValueError:
        raise DataError(f"line {line}, {name}: '{text}' is no number") from None
    if math.isinf(found):
        raise DataError(f"line {line}, {name}: '{text}' is not finite; leave it empty if missing")
    return found


def _label(text: str, line: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 10**6):
        raise DataError(f"line {line}, label: '{text}' is no class; write 0, 1, 2, ...")
    return int(text)


def _stacked(rows: list[list[list[float]]], labels: list[int]) -> Series:
    """Series of different lengths side by side; times go on after the end."""
    lengths = torch.tensor([len(part) for part in rows])
    n, channels = int(lengths.max()), len(rows[0][0]) - 1
    times = torch.zeros(len(rows), n, dtype=torch.float64)
    values = torch.full((len(rows), n, channels), torch.nan, dtype=torch.float64)
    for k, part in enumerate(rows):
        found = torch.tensor(part, dtype=torch.float64)
        times[k, : len(part)], values[k, : len(part)] = found[:, 0], found[:, 1:]
        times[k, len(part) :] = found[-1, 0]
    return Series(times, values, lengths, torch.tensor(labels) if labels else None)


def _npz(path: Path) -> Series:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"cannot be read as NPZ: {error}") from None
    return _from_arrays(arrays)


def _hdf5(path: Path) -> Series:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {
                name: np.asarray(file[name][()])  # type: ignore[index]
                for name in ("times", "values", "lengths", "labels")
                if name in file
            }
    except (OSError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read as HDF5: {error}") from None
    return _from_arrays(arrays)


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> Series:
    for name in ("times", "values"):
        if name not in arrays:
            raise DataError(f"has no array '{name}'; found {', '.join(arrays) or 'none'}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"'{name}' holds {array.dtype}, not numbers")
    values = np.asarray(arrays["values"], np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3:
        raise DataError(f"'values' has shape {values.shape}; give (batch, n, channels)")
    times = np.asarray(arrays["times"], np.float64)
    times = np.broadcast_to(times, values.shape[:2]) if times.ndim == 1 else times
    lengths = arrays.get("lengths", np.full(len(values), values.shape[1]))
    labels = arrays.get("labels")
    return Series(
        torch.from_numpy(np.array(times)),
        torch.from_numpy(np.array(values)),
        torch.from_numpy(np.asarray(lengths, np.int64)),
        None if labels is None else torch.from_numpy(np.asarray(labels, np.int64)),
    )
