"""A ladder: cases with what is asked of their accuracy, and races between them, as a YAML file.

title: ...
cases:
  - name: burgers           # default: the problem's or the file's
    problem: burgers        # as in a case file; or file: PATH, relative to the ladder
    solver: {windows: 8}    # likewise, on top of what the problem recommends
    run: {budget: 10 min}
    must: 1e-5              # relative L2 error of the last iterate, median of the seeds
    aim: 1e-7
    seeds: [0]              # default: those of the command
races:                      # how much sooner `ours` is at the best error of `peer`
  - {name: burgers, ours: burgers, peer: burgers_deepxde, must: 20, aim: 100}
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import yaml_source
from ..config import SECTIONS, Case, make_case, placed
from ..errors import ConfigurationError
from ..execution.options import NAME
from ..overrides import merged
from ..typed import build, nearest, option
from ..yaml_source import YamlSource

__all__ = ["LADDERS", "Goal", "Ladder", "Race", "Rung", "chosen", "find", "load"]

LADDERS = Path(__file__).parent / "ladders"


@dataclass(frozen=True)
class Goal:
    """What stands beside the case."""

    name: str | None = option(
        None, "of the row", pattern=NAME, pattern_says="write a plain name of up to 100 letters"
    )
    must: float | None = option(None, "error that has to be reached", above=0.0)
    aim: float | None = option(None, "error that should be reached", above=0.0)
    seeds: tuple[int, ...] | None = option(None, "instead of those of the command", low=0)


@dataclass(frozen=True)
class Race:
    """How much sooner one case is at the best error of another."""

    name: str = option("", "of the race", pattern=NAME, pattern_says="write a plain name")
    ours: str = option("", "name of a case of the ladder")
    peer: str = option("", "name of a case of the ladder")
    must: float = option(1.0, "times sooner that it has to be", above=0.0)
    aim: float = option(1.0, "times sooner that it should be", above=0.0)


@dataclass(frozen=True)
class Rung:
    """One case of a ladder.

    Attributes:
        name: of the row.
        case: what is run, but for the seed.
        goal: what is asked of it.
        written: problem, solver and run as they stand there.
    """

    name: str
    case: Case
    goal: Goal
    written: Mapping[str, Any]


@dataclass(frozen=True)
class Ladder:
    """A file of cases and races."""

    title: str
    rungs: Sequence[Rung]
    races: Sequence[Race]


def find(name: str) -> Path:
    """The file behind a name of `LADDERS`, or a path.

    Raises:
        ConfigurationError: there is none.
    """
    known = {path.stem: path for path in sorted(LADDERS.glob("*.yaml"))}
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise ConfigurationError("there is no such ladder", found=name, advice=nearest(name, known))


def load(path: Path) -> Ladder:
    """Read and check a ladder: every case of it is one that could be run.

    Raises:
        ConfigurationError: with file and line.
    """
    source = yaml_source.load(path)
    try:
        return _ladder(source, path.parent)
    except ConfigurationError as error:
        if error.file is not None:
            raise
        raise error.located(source.file, source.line(error.path)) from None


def chosen(ladder: Ladder, only: Sequence[str] | None) -> Ladder:
    """The cases whose name is among `only`, in which * stands for any text, and the races.

    Raises:
        ConfigurationError: a name is nobody's.
    """
    if only is None:
        return ladder
    names = [rung.name for rung in ladder.rungs]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise ConfigurationError(
                "no case of the ladder has this name", found=pattern, advice=nearest(pattern, names)
            )
    rungs = [r for r in ladder.rungs if any(fnmatch.fnmatchcase(r.name, p) for p in only)]
    return Ladder(ladder.title, rungs, ladder.races)


def _ladder(source: YamlSource, folder: Path) -> Ladder:
    data = source.data
    if not isinstance(data, Mapping):
        raise ConfigurationError("", found=data, advice="write a mapping of title, cases, races")
    _check_keys(data, ("title", "cases", "races"))
    title = data.get("title", "")
    if not isinstance(title, str):
        raise ConfigurationError("", path=("title",), found=title, advice="write a text")
    rungs: list[Rung] = []
    for position, entry in enumerate(_items(data, "cases")):
        try:
            rung = _rung(entry, folder)
            if rung.name in [other.name for other in rungs]:
                raise ConfigurationError(f"two cases are called '{rung.name}'", path=("name",))
        except ConfigurationError as error:
            raise (error if error.file else error.under("cases", position)) from None
        rungs.append(rung)
    races = []
    for position, entry in enumerate(_items(data, "races")):
        race = build(Race, entry, ("races", position))
        for key in ("ours", "peer"):
            if getattr(race, key) not in (names := [rung.name for rung in rungs]):
                raise ConfigurationError(
                    "no case of the ladder has this name",
                    path=("races", position, key),
                    found=getattr(race, key),
                    advice=nearest(getattr(race, key), names),
                )
        races.append(race)
    return Ladder(title, rungs, races)


def _rung(entry: Any, folder: Path) -> Rung:
    keys = ("name", *SECTIONS, "file", "must", "aim", "seeds")
    if not isinstance(entry, Mapping):
        advice = f"write a mapping with any of: {', '.join(keys)}"
        raise ConfigurationError("", found=entry, advice=advice)
    _check_keys(entry, keys)
    goal = build(Goal, {k: v for k, v in entry.items() if k not in (*SECTIONS, "file")})
    written = {k: v for k, v in entry.items() if k in SECTIONS}
    stem = None
    if "file" in entry:
        if not isinstance(entry["file"], str) or "problem" in entry:
            advice = "write file: PATH of a case, or problem:, not both"
            raise ConfigurationError("", path=("file",), found=entry["file"], advice=advice)
        stem = Path(entry["file"]).stem
        written = merged(yaml_source.load(folder / entry["file"]).data, written)
    if written.get("problem") is None:
        advice = "write 'problem: NAME', a definition in place, or 'file: PATH' of a case"
        raise ConfigurationError("the problem is missing", advice=advice)
    written = placed(written, folder / Path(entry.get("file", "")).parent)
    case = make_case(written["problem"], written.get("solver"), written.get("run"))
    return Rung(goal.name or stem or case.name, case, goal, written)


def _items(data: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = data.get(key) or []
    if not isinstance(found, list):
        raise ConfigurationError("", path=(key,), found=found, advice="write a list")
    return found


def _check_keys(data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(key,), advice=nearest(key, known)
            )
