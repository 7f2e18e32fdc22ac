"""Settings over settings: `--set` texts over a case, a case over what its problem recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import yaml_source
from .errors import ConfigurationError
from .typed import nearest
from .yaml_source import YamlSource

__all__ = ["Override", "locate", "merged"]

PathKey = tuple["str | int", ...]


def merged(under: Any, over: Any) -> Any:
    """`over` on top of `under`, mapping by mapping.

    Where both choose by name and the names differ, the settings of the one below are not for the
    one above and go. A text in place of a mapping is its name; a mapping over a list of one changes
    that one.
    """
    if isinstance(under, list) and isinstance(over, Mapping):
        if over and all(key.isdecimal() and int(key) < len(under) for key in over):
            return [
                merged(item, over[str(i)]) if str(i) in over else item
                for i, item in enumerate(under)
            ]
        return [merged(under[0], over)] if len(under) == 1 else over
    if isinstance(under, str) and isinstance(over, Mapping):
        under = {"name": under}
    if isinstance(over, str) and isinstance(under, Mapping) and "name" in under:
        over = {"name": over}
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    if "name" in under and over.get("name", under["name"]) != under["name"]:
        return over
    return {**under, **{key: merged(under.get(key), value) for key, value in over.items()}}


@dataclass(frozen=True)
class Override:
    """One `--set a.b=value`."""

    text: str
    path: tuple[str, ...]
    value: Any

    @staticmethod
    def parse(text: str) -> Override:
        """Split at the first "=" and read the value by the rules of YAML.

        Raises:
            ConfigurationError: there is no "=", no key, or no value.
        """
        place = f"--set {text}"
        key, equals, value = text.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise ConfigurationError(
                "is not of the form KEY=VALUE", file=place, advice="write --set solver.windows=4"
            )
        if not value.strip():
            raise ConfigurationError("has no value", file=place, advice="write the value, or null")
        read = yaml_source.load(value.strip(), name=place).data
        return Override(text, path, read)

    def apply(self, data: Any) -> Any:
        """A copy of `data` with this value in its place; mappings on the way are made as needed."""
        problem = data.get("problem") if isinstance(data, Mapping) else None
        if isinstance(problem, Mapping) and len(self.path) > 2 and self.path[0] == "problem":
            # A definition may declare anything; an override may only change what is declared.
            declared = problem.get(self.path[1])
            named = self.path[1] in ("parameters", "coordinates") and "equations" in problem
            if named and isinstance(declared, Mapping) and self.path[2] not in declared:
                raise ConfigurationError(
                    f"'{self.path[2]}' is not declared",
                    path=self.path,
                    advice=nearest(self.path[2], declared),
                )
        return self._put(data, self.path, ())

    def _put(self, node: Any, rest: tuple[str, ...], done: tuple[str, ...]) -> Any:
        if not rest:
            if (
                isinstance(node, Mapping)
                and "value" in node
                and not isinstance(self.value, Mapping)
            ):
                return {**node, "value": self.value}  # a parameter keeps its range
            return self.value
        key = rest[0]
        if isinstance(node, list):
            if not key.isdecimal() and len(node) == 1:
                return [self._put(node[0], rest, (*done, "0"))]
            if not key.isdecimal() or int(key) >= len(node):
                place = ".".join(done)
                advice = (
                    f"write {place}.0 to {place}.{len(node) - 1}"
                    if node
                    else f"set {place} as a whole"
                )
                raise ConfigurationError(
                    f"{place} is a list of {len(node)}", path=done, advice=advice
                )
            return [
                self._put(item, rest[1:], (*done, key)) if i == int(key) else item
                for i, item in enumerate(node)
            ]
        if isinstance(node, str):
            node = {"name": node}
        if node is None:
            node = {}
        if not isinstance(node, Mapping):
            place = ".".join(done)
            raise ConfigurationError(
                f"{place} is the single value {node!r}",
                path=done,
                advice=f"write --set {place}=VALUE",
            )
        return {**node, key: self._put(node.get(key), rest[1:], (*done, key))}

    def reaches(self, path: PathKey) -> bool:
        """Whether the value at `path` comes from here; an override may leave list positions out."""
        rest = list(path)
        for part in self.path:
            while rest and str(rest[0]) != part and isinstance(rest[0], int):
                rest.pop(0)
            if not rest or str(rest.pop(0)) != part:
                return False
        return True


def locate(
    error: ConfigurationError, source: YamlSource, changes: Sequence[Override]
) -> ConfigurationError:
    """The error with the place where its value was written: an override, or a line of the file."""
    if error.file is not None:
        return error
    for change in reversed(changes):
        if change.reaches(error.path):
            return error.located(f"--set {change.text}", None)
    written = _as_written(error.path, source.data)
    for change in reversed(changes):
        # What the file does not hold was made by an override of something inside it.
        made = len(written) < len(error.path) <= len(change.path)
        if made and all(a == str(b) for a, b in zip(change.path, error.path, strict=False)):
            return error.located(f"--set {change.text}", None)
    placed = error.under()
    placed.path = written
    return placed.located(source.file or None, source.line(written) if source.file else None)


def _as_written(path: PathKey, data: Any) -> PathKey:
    """`path` without the steps that short forms left out, as `optimizer: adam` for [0].name."""
    written: list[str | int] = []
    for part in path:
        if isinstance(data, str):
            break
        if isinstance(part, int) and isinstance(data, Mapping):
            continue
        written.append(part)
        if isinstance(data, Mapping):
            data = data.get(part) if isinstance(part, str) else None
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part] if part < len(data) else None
    return tuple(written)
