"""The `functions:` section of a problem, and the files that a run folder keeps of it.

functions:
  u0: {series: modes.csv, period: [-1, 1]}       # columns k, cosine, sine
  p: {samples: wave.npy, period: [0, 1]}         # values at equispaced points of one period
  q: {samples: profile.csv}                      # columns x, value: a spline of degree five
  r: {samples: run.npy, over: [0, 2]}            # values alone, equispaced from end to end
  s: {samples: run.h5, columns: [depth, speed]}  # names of datasets, or of columns
  k: {samples: law.csv, beyond: straight}        # goes on as straight lines, so k(u) is possible
  f: {samples: grid.csv, columns: [x, t, value]} # f(x, t), a row for each point of a grid
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...errors import ConfigurationError
from ..namespace import nearest
from .files import checked, read_columns, text_of
from .function import Array, Given
from .series import Series
from .spline import DEGREE, Spline

__all__ = ["FOLDER", "KEYS", "few", "files", "located", "mapping_of", "read", "references_of"]

FOLDER = "functions"
"""Folder of a run folder that holds the numbers."""
SERIES = (("k", "cosine", "sine"), ("k", "cosine"))
SAMPLES = (("x1", "x2", "x3", "value"), ("x1", "x2", "value"), ("x", "value"), ("value",))
KEYS = ("series", "samples", "columns", "period", "over", "beyond", "description", "sha256")
STRAIGHT = "straight"
HIGHEST_MODE = 65_536
MAX_IN_PLACE = 1500  # rows; a YAML file may hold 10,000 values
# Points of a period may be off by as much as their decimals were rounded, in units of the spacing.
_OFF = 1e-6

Path_ = tuple["str | int", ...]


@dataclass(frozen=True)
class _Settings:
    """What stands beside the numbers."""

    description: str
    period: tuple[float, float] | None
    over: tuple[float, float] | None
    straight: bool


def read(section: Any) -> tuple[Given, ...]:
    """The functions of a problem.

    Args:
        section: mapping of names to `{series: ..., period: ...}` or `{samples: ...}`; the numbers
            are the path of a file, or an array of shape (rows,) or (rows, columns).

    Raises:
        ConfigurationError: with a path that starts at "functions", and the file of numbers where
            the fault is in it.
    """
    if section is None:
        return ()
    if not isinstance(section, Mapping):
        _wrong((), section, "write a mapping such as {u0: {series: modes.csv, period: [-1, 1]}}")
    found = []
    for name, entry in section.items():
        try:
            found.append(_function(name, entry))
        except ConfigurationError as error:
            raise error.under("functions", name) from error.__cause__
    return tuple(found)


def located(definition: Any, folder: Path) -> Any:
    """A problem as it stands in a file, its paths of functions relative to the file's folder.

    Args:
        definition: the `problem:` section; whatever is wrong in it is left for `read`.
        folder: folder of the file.

    Returns:
        The same with paths that are found from anywhere in the tree they were written in.
    """
    section = definition.get("functions") if isinstance(definition, Mapping) else None
    if not isinstance(section, Mapping):
        return definition

    def placed(entry: Any) -> Any:
        if not isinstance(entry, Mapping):
            return entry
        paths = {k: entry[k] for k in ("series", "samples") if isinstance(entry.get(k), str)}
        return {**entry, **{key: str(folder / path) for key, path in paths.items()}}

    return {**definition, "functions": {name: placed(entry) for name, entry in section.items()}}


def mapping_of(functions: Sequence[Given]) -> dict[str, Any]:
    """Functions with all of their numbers, as `read` reads them."""
    found = {}
    for given in functions:
        rows = np.stack(list(given.columns.values()), axis=1).tolist()
        found[given.name] = {given.kind: rows, **given.settings}
        if given.description:
            found[given.name]["description"] = given.description
    return found


def few(functions: Sequence[Given]) -> list[Given]:
    """Those whose numbers, together, a YAML file can hold."""
    found, rows = [], 0
    for given in functions:
        rows += len(next(iter(given.columns.values())))
        if rows <= MAX_IN_PLACE:
            found.append(given)
    return found


def references_of(functions: Sequence[Given]) -> dict[str, Any]:
    """The same with the paths of `files` in place of the numbers, and their SHA-256."""
    found = mapping_of(functions)
    for given in functions:
        found[given.name] |= {given.kind: _path(given), "sha256": given.digest}
    return found


def files(functions: Sequence[Given]) -> dict[str, str]:
    """The files that `references_of` names: paths within a folder, and their texts."""
    return {_path(given): text_of(given.columns) for given in functions}


def _path(given: Given) -> str:
    return f"{FOLDER}/{given.name}.csv"


def _wrong(path: Path_, found: Any, advice: str) -> NoReturn:
    raise ConfigurationError("", path=path, found=found, advice=advice)


def _function(name: Any, entry: Any) -> Given:
    if not isinstance(entry, Mapping):
        _wrong((), entry, "write {series: FILE, period: [low, high]} or {samples: FILE}")
    for key in entry:
        if key not in KEYS:
            close = nearest(key, KEYS)
            advice = f"did you mean '{close}'?" if close else f"write one of: {', '.join(KEYS)}"
            raise ConfigurationError(f"unknown key '{key}'", path=(key,), advice=advice)
    if ("series" in entry) == ("samples" in entry):
        both = "series and samples are both given" if "series" in entry else "there are no numbers"
        raise ConfigurationError(both, advice="write either series: FILE or samples: FILE")
    settings = _settings(entry)
    kind = "series" if "series" in entry else "samples"
    columns = _columns(entry, kind)
    make = _series if kind == "series" else _samples
    try:
        given = make(name, columns, settings)
    except ConfigurationError as error:
        # A fault of the numbers is told with the file that holds them.
        source = entry[kind]
        held = isinstance(source, str | Path) and error.path == (kind,)
        raise error.located(source, None) if held else error from None
    _check_digest(given, entry.get("sha256"), entry[kind])
    return given


def _settings(entry: Mapping[str, Any]) -> _Settings:
    description = entry.get("description")
    if description is not None and not isinstance(description, str):
        _wrong(("description",), description, "write a text")
    period, over = (_pair(entry[k], k) if k in entry else None for k in ("period", "over"))
    beyond = entry.get("beyond")
    if beyond is not None and (beyond != STRAIGHT or "samples" not in entry or period):
        _wrong(("beyond",), beyond, f"write {STRAIGHT}, for samples without period, or remove it")
    return _Settings(" ".join((description or "").split()), period, over, beyond is not None)


def _check_digest(given: Given, expected: Any, source: Any) -> None:
    """Refuse numbers other than those that a case was written for."""
    if expected is None or expected == given.digest:
        return
    if not isinstance(expected, str) or not re.fullmatch("[0-9a-f]{64}", expected):
        _wrong(("sha256",), expected, "write 64 hexadecimal digits, or remove it")
    raise ConfigurationError(
        f"the numbers are not the ones this case was written for (their SHA-256 begins with "
        f"{given.digest[:12]}, expected was {expected[:12]})",
        path=("sha256",),
        file=source if isinstance(source, str | Path) else None,
        advice="bring the old file back, or remove 'sha256:' to take the new one",
    )


def _columns(entry: Mapping[str, Any], kind: str) -> list[Array]:
    source, wanted = entry[kind], entry.get("columns")
    usual = SERIES if kind == "series" else SAMPLES
    if wanted is not None:
        texts = isinstance(wanted, list | tuple) and all(isinstance(w, str) for w in wanted)
        if not texts or len(wanted) not in [len(names) for names in usual]:
            shapes = " or ".join(f"[{', '.join(names)}]" for names in usual)
            _wrong(("columns",), wanted, f"write names that stand for {shapes}")
    try:
        if isinstance(source, str | Path):
            return read_columns(Path(source), wanted, usual)
        if wanted is not None or not isinstance(source, Sequence | np.ndarray):
            _wrong((), source, "write the path of a file, or rows of numbers without 'columns:'")
        table = checked(source)
    except ConfigurationError as error:
        raise error.under(kind) from error.__cause__
    if table.shape[1] not in [len(names) for names in usual]:
        shapes = " or ".join(f"{len(names)} ({', '.join(names)})" for names in usual)
        message = f"rows of {table.shape[1]} numbers"
        raise ConfigurationError(message, path=(kind,), advice=f"write rows of {shapes}")
    return list(table.T)


def _pair(value: Any, key: str) -> tuple[float, float]:
    from ..parser import parse_constant

    path = (key,)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        _wrong(path, value, "write two numbers, such as [-1, 1]")
    try:
        low, high = (parse_constant(end) for end in value)
    except ConfigurationError as error:
        raise error.under(key) from error.__cause__
    if not low < high:
        _wrong(path, list(value), "write [low, high] with low < high")
    return low, high


def _series(name: str, columns: Sequence[Array], settings: _Settings) -> Given:
    if settings.over is not None:
        raise ConfigurationError(
            "a series has a period", path=("over",), advice="write period: [low, high]"
        )
    if settings.period is None:
        advice = "write 'period: [low, high]'; angles count from low"
        raise ConfigurationError("the period of the series is missing", advice=advice)
    k, cosine = columns[:2]
    sine = columns[2] if len(columns) > 2 else np.zeros(len(k))
    fault = np.flatnonzero((k != np.round(k)) | (k < 0) | (k > HIGHEST_MODE))
    if len(fault):
        _refused(
            "series",
            f"row {fault[0] + 1} has the wave number {k[fault[0]]:.12g}",
            f"write whole numbers from 0 to {HIGHEST_MODE}",
        )
    numbers = k.astype(int)
    order = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(np.diff(numbers[order]) == 0)
    if len(twice):
        number = numbers[order][twice[0]]
        _refused("series", f"the wave number {number} comes twice", "give each one row")
    coefficients = np.zeros(numbers.max() + 1, dtype=complex)
    coefficients[numbers] = cosine - 1j * sine
    coefficients[0] = coefficients[0].real  # the sine of angle zero
    return Series(name, coefficients, settings.period, settings.description)


def _samples(name: str, columns: Sequence[Array], settings: _Settings) -> Given:
    values, places = columns[-1], (settings.period, settings.over)
    if len(columns) == 1 and places.count(None) != 1:
        advice = (
            "write 'period: [low, high]' for a periodic function, or 'over: [low, high]' for "
            "equispaced samples, both ends included, or give a column of points beside the values"
        )
        message = "two places are given" if all(places) else "nothing tells where the samples lie"
        raise ConfigurationError(message, advice=advice)
    if len(columns) > 2:
        return _gridded(name, columns, settings)
    if settings.period is not None:
        return _periodic(name, columns, settings.period, settings.description)
    if settings.over is None:
        x = columns[0]
    elif len(columns) > 1:
        message = "the samples come with their points"
        raise ConfigurationError(message, path=("over",), advice="remove 'over:'")
    else:
        x = np.linspace(*settings.over, len(values))
    if len(x) <= DEGREE:
        _refused("samples", f"{len(x)} samples are too few", f"give at least {DEGREE + 1}")
    back = np.flatnonzero(~(np.diff(x) > 0))
    if len(back):
        row = int(back[0])
        _refused(
            "samples",
            f"the points do not increase: row {row + 1} has {x[row]:.12g}, "
            f"row {row + 2} {x[row + 1]:.12g}",
            "sort the rows and keep one value for each point",
        )
    return Spline(name, [x], values, settings.description, straight=settings.straight)


def _gridded(name: str, columns: Sequence[Array], settings: _Settings) -> Given:
    """Samples on a grid of several arguments, in any order of rows."""
    for key in ("period", "over"):
        if getattr(settings, key) is not None:
            advice = "remove it, or give samples of one argument"
            raise ConfigurationError("is for one argument", path=(key,), advice=advice)
    if settings.straight:
        advice = "remove it, or give samples of one argument"
        raise ConfigurationError("is for one argument", path=("beyond",), advice=advice)
    found = [np.unique(column, return_inverse=True) for column in columns[:-1]]
    axes, places = [axis for axis, _ in found], tuple(place for _, place in found)
    shape = tuple(map(len, axes))
    if min(shape) <= DEGREE:
        _refused(
            "samples",
            f"a grid of {' x '.join(map(str, shape))} points is too coarse",
            f"give at least {DEGREE + 1} in each direction",
        )
    counts = np.zeros(shape, dtype=int)
    np.add.at(counts, places, 1)
    if (counts != 1).any():
        where = np.argwhere(counts != 1)[0]
        point = ", ".join(f"{axis[i]:.12g}" for axis, i in zip(axes, where, strict=True))
        what = "is missing" if counts[tuple(where)] == 0 else "comes twice"
        _refused("samples", f"the point ({point}) {what}", "give each point of a grid one row")
    values = np.empty(shape)
    values[places] = columns[-1]
    return Spline(name, axes, values, settings.description)


def _periodic(
    name: str, columns: Sequence[Array], period: tuple[float, float], description: str
) -> Given:
    """Samples at equispaced points of one period."""
    low, high = period
    values, n = columns[-1], len(columns[-1])
    if n < 3:
        _refused("samples", f"{n} samples are too few", "give at least three for a period")
    if len(columns) > 1:
        points = low + (high - low) * np.arange(n) / n
        off = np.abs(columns[0] - points) * n / (high - low)
        if off.max() > _OFF:
            row = int(np.flatnonzero(off > _OFF)[0])
            _refused(
                "samples",
                f"row {row + 1} lies at {columns[0][row]:.12g}, where a period of {n} equispaced "
                f"samples has {points[row]:.12g}",
                "write the points low + j*(high - low)/n for j = 0 to n - 1, without the end, or "
                "remove 'period:' to have a spline",
            )
    return Series.of_samples(name, values, period, description)


def _refused(kind: str, message: str, advice: str) -> NoReturn:
    raise ConfigurationError(message, path=(kind,), advice=advice)
