"""Columns of numbers from a file: CSV or other plain text, .npy, HDF5.

Reading trusts nothing: no pickle, no links or data outside the file, sizes checked before anything
is allocated, numbers that are finite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...errors import ConfigurationError
from ..namespace import nearest
from .function import Array

__all__ = ["ENDINGS", "MAX_ROWS", "checked", "read_columns", "text_of"]

ENDINGS = (".csv", ".txt", ".dat", ".npy", ".h5", ".hdf5")
MAX_ROWS = 1_000_000
MAX_BYTES = 1 << 27
MAX_COLUMNS = 64
# Underscores and infinities, which float() takes, are none.
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\Z")
_WORDS = re.compile(r"[-+]?(nan|inf|infinity)\Z", re.IGNORECASE)


def read_columns(path: Path, wanted: Sequence[str] | None, usual: Sequence[Sequence[str]]) -> Any:
    """The columns of a file that a function is made of.

    Args:
        path: the file; its ending tells the format.
        wanted: names of columns or datasets; None for the usual ones.
        usual: lists of names, longest first: of the first that the file holds all names of, or in
            a file without names as many columns as it has.

    Returns:
        As many arrays of equal length, shape (rows,), as names were asked for or found.

    Raises:
        ConfigurationError: with the file, and the line where there are lines.
    """
    if not path.exists():
        _refuse(path, "there is no such file", "check the path; it is relative to the case file")
    if not path.is_file():
        _refuse(path, "is no regular file", "give a file of numbers")
    if path.stat().st_size > MAX_BYTES:
        _refuse(path, f"is larger than {MAX_BYTES >> 20} MiB", "give fewer numbers")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        _refuse(path, f"the ending '{ending}' tells no format", f"use one of {', '.join(ENDINGS)}")
    try:
        if ending in (".h5", ".hdf5"):
            return _datasets(path, wanted, usual)
        named, table = _array(path) if ending == ".npy" else _text(path)
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        _refuse(path, f"cannot be read ({reason[:120]})", "give a readable file")
    return _chosen(path, named, table, wanted, usual)


def checked(table: Any, path: Path | None = None, first: int = 1) -> Array:
    """Numbers as an array (rows, columns), finite and not too many.

    Args:
        table: anything of one or two axes.
        path: for messages.
        first: what the first row is called in messages.
    """
    try:
        found = np.asarray(table)
    except ValueError:  # rows of different lengths
        found = np.asarray(None)
    if found.dtype.kind not in "iuf" or found.ndim not in (1, 2) or not found.size:
        what = f"an array of shape {found.shape} and type {found.dtype}"
        advice = "give real numbers in one or several columns, shape (n,) or (n, columns)"
        _refuse(path, f"holds {what}", advice)
    found = found[:, None] if found.ndim == 1 else found
    if len(found) > MAX_ROWS or found.shape[1] > MAX_COLUMNS:
        limits = f"at most {MAX_ROWS} rows and {MAX_COLUMNS} columns"
        _refuse(path, f"holds {found.shape[0]} rows of {found.shape[1]}", f"give {limits}")
    found = found.astype(float)
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        place = f"row {row + first}, column {column + 1}"
        advice = "leave out rows that are not known, or fill them in"
        _refuse(path, f"{place} holds {found[row, column]}, which is no number", advice)
    return found


def text_of(columns: Mapping[str, Array]) -> str:
    """Columns as CSV from which they are read back to the last bit."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = (",".join(repr(value) for value in row) for row in rows)
    return "\n".join([",".join(columns), *lines]) + "\n"


def _refuse(path: Path | None, message: str, advice: str, line: int | None = None) -> NoReturn:
    raise ConfigurationError(message, file=path, line=line, advice=advice) from None


def _text(path: Path) -> tuple[list[str] | None, Array]:
    """Names of the columns, where the first row holds any, and the numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        _refuse(path, "is no text in UTF-8", "give a text file, or name it .npy or .h5")
    names: list[str] | None = None
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        separator = r"\s*[,;]\s*" if re.search("[,;]", content) else r"\s+"
        cells = [cell.strip('"') for cell in re.split(separator, content)]
        if not rows and names is None and not any(map(_is_number, cells)):
            names = cells
            continue
        rows.append([_number(path, number, cell) for cell in cells])
        width = len(names) if names is not None else len(rows[0])
        if len(cells) != width:
            message = f"found {len(cells)} values where the first row has {width}"
            _refuse(path, message, f"write {width} values in every row", number)
        if len(rows) > MAX_ROWS:
            _refuse(path, f"holds more than {MAX_ROWS} rows", "give fewer", number)
    if not rows:
        _refuse(path, "holds no numbers", "write one row of numbers for each point")
    return names, checked(rows, path)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.match(cell) or _WORDS.match(cell))


def _number(path: Path, line: int, cell: str) -> float:
    if _NUMBER.match(cell):
        return float(cell)
    shown = cell[:40] or "an empty cell"
    advice = "write a finite number such as 0.5 or 1e-3, or leave the row out"
    _refuse(path, f"found {shown}, which is no number", advice, line)


def _array(path: Path) -> tuple[None, Array]:
    try:
        table = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        _refuse(path, f"is no .npy file of numbers ({reason})", "write it by numpy.save")
    return None, checked(table, path)


def _chosen(
    path: Path,
    named: list[str] | None,
    table: Array,
    wanted: Sequence[str] | None,
    usual: Sequence[Sequence[str]],
) -> list[Array]:
    if wanted is None:
        if named is not None:
            lower = [name.lower() for name in named]
            for names in usual:
                if all(name in lower for name in names):
                    return [table[:, lower.index(name)] for name in names]
        for names in usual:
            if len(names) == table.shape[1]:
                return list(table.T)
        shapes = " or ".join(f"{len(names)} ({', '.join(names)})" for names in usual)
        advice = f"give {shapes}" + (", or say which by 'columns:'" if named else "")
        _refuse(path, f"holds {table.shape[1]} columns", advice)
    if named is None:
        message = "has no names of columns, so 'columns:' cannot choose any"
        _refuse(path, message, "write names in its first row, or remove 'columns:'")
    for name in wanted:
        if name not in named:
            close = nearest(name, named)
            advice = f"did you mean '{close}'?" if close else f"it has: {', '.join(named)}"
            _refuse(path, f"has no column '{name}'", advice)
    return [table[:, named.index(name)] for name in wanted]


def _datasets(
    path: Path, wanted: Sequence[str] | None, usual: Sequence[Sequence[str]]
) -> list[Array]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if wanted is None:
                held = {str(name) for name in file}
                wanted = next((names for names in usual if held.issuperset(names)), None)
                if wanted is None:
                    shown = ", ".join(sorted(held)[:20]) or "nothing"
                    advice = "name its datasets by 'columns: [...]'"
                    _refuse(path, f"holds {shown}, and none of the usual names", advice)
            columns = [_dataset(path, file, name) for name in wanted]
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:120]
        _refuse(path, f"is no readable HDF5 file ({reason})", "write it again")
    for name, column in zip(wanted, columns, strict=True):
        if len(column) != len(columns[0]):
            message = f"'{name}' has {len(column)} values and '{wanted[0]}' {len(columns[0])}"
            _refuse(path, message, "give datasets of equal length")
    return columns


def _dataset(path: Path, file: Any, name: str) -> Array:
    import h5py

    place: Any = file
    for part in name.strip("/").split("/"):
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            held = ", ".join(sorted(map(str, place))[:20]) if isinstance(place, h5py.Group) else ""
            _refuse(path, f"has no dataset '{name}'", f"its names: {held or 'none'}")
        if not isinstance(link, h5py.HardLink):
            _refuse(
                path, f"'{name}' is a link that leads elsewhere", "store the numbers themselves"
            )
        place = place[part]
    if not isinstance(place, h5py.Dataset) or place.external or place.is_virtual:
        _refuse(path, f"'{name}' holds no numbers of its own", "store the numbers themselves")
    if place.ndim != 1 or not 0 < place.shape[0] <= MAX_ROWS or place.dtype.kind not in "iuf":
        message = f"'{name}' has shape {place.shape} and type {place.dtype}"
        _refuse(path, message, f"give one to {MAX_ROWS} real numbers along one axis")
    try:
        return checked(place[()], path)[:, 0]
    except ConfigurationError as error:
        raise ConfigurationError(
            f"'{name}': {error.message}", file=path, advice=error.advice
        ) from None
