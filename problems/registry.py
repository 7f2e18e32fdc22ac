"""Names to problems: the library, what a program registers, and plug-ins.

A plug-in is an installed package with an entry point in the group `residua.problems` that leads to
a mapping in the format of a case file's `problem:` section. It is imported when its name is asked
for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..yaml_source import YamlSource, load
from .given import located
from .namespace import nearest
from .problem import Problem

__all__ = ["get", "names", "register", "source"]

LIBRARY = Path(__file__).parent / "library"
GROUP = "residua.problems"

_registered: dict[str, YamlSource] = {}


def names() -> tuple[str, ...]:
    """Every known name, sorted."""
    return tuple(sorted({*_library(), *_registered, *_plugins()}))


def get(name: str, **parameters: float | str) -> Problem:
    """The problem of that name.

    Args:
        name: as listed by `names`.
        parameters: values other than the defaults.

    Raises:
        ConfigurationError: unknown name (with the nearest one) or a parameter that does not fit.
    """
    problem = _build(name) if name not in _registered else _read(name, _registered[name])
    return problem.with_parameters(**parameters) if parameters else problem


def register(definition: Mapping[str, Any] | str | Path, *, name: str | None = None) -> Problem:
    """Make a problem known under a name for the life of the program.

    Args:
        definition: a mapping, or the path of a YAML file in the format of the library.
        name: its name; a file's own by default.

    Returns:
        The problem, so that a definition is checked at once.

    Raises:
        ConfigurationError: the name is missing, unusable or taken, or the definition is wrong.
    """
    if isinstance(definition, Mapping):
        found = YamlSource(copy.deepcopy(dict(definition)), name or "", {})
    else:
        found = _placed(load(Path(definition)), Path(definition).parent)
        name = name or Path(definition).stem
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        advice = "write letters, digits, - and _, starting with a letter"
        raise ConfigurationError("a problem needs a usable name", found=name, advice=advice)
    if name in names():
        raise ConfigurationError(f"a problem named '{name}' exists", advice="choose another name")
    problem = _read(name, found)
    _registered[name] = found
    return problem


def source(name: str) -> Path | None:
    """The library file behind a name, as a model for one's own; None where there is none."""
    return _library().get(name)


@cache
def _library() -> dict[str, Path]:
    return {path.stem: path for path in sorted(LIBRARY.glob("*.yaml"))}


@cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name in found or point.name in _library():
            raise ConfigurationError(
                f"two installed packages define the problem '{point.name}'",
                advice="uninstall one of them",
            )
        found[point.name] = point
    return found


@cache
def _build(name: str) -> Problem:
    if name in _library():
        found = load(_library()[name], name=f"library/{name}.yaml")
        return _read(name, _placed(found, LIBRARY))
    if name in _plugins():
        definition = _plugins()[name].load()
        return _read(name, YamlSource(definition, f"plug-in {name}", {}))
    close = nearest(name, names())
    advice = f"did you mean '{close}'?" if close else f"known are {', '.join(names())}"
    raise ConfigurationError(f"there is no problem named '{name}'", advice=advice)


def _placed(found: YamlSource, folder: Path) -> YamlSource:
    """A definition whose files of numbers are found from anywhere."""
    return replace(found, data=located(found.data, folder))


def _read(name: str, found: YamlSource) -> Problem:
    try:
        return Problem.from_mapping(found.data, name=name)
    except ConfigurationError as error:
        raise (error.located(found.file, found.line(error.path)) if found.file else error) from None
