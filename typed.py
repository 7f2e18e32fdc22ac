"""Frozen dataclasses from plain mappings, checked by their annotations, which also give a schema.

An options class says everything about a setting in one place::

    width: int = option(20, "neurons in each hidden layer", low=1, high=4096)

`build` reads a mapping into such a class, `plain` writes it back, `schema` describes it to editors.
Understood
annotations: bool, int, float, str, None, Literal, tuple[T, ...], Mapping[str, T], a dataclass, and
unions of these. In a union of dataclasses each has a field ``name: Literal["its_name"]`` that
chooses it; a bare text is short for ``{name: text}``, and where a tuple of them is asked for, one
alone is a tuple of one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from .errors import ConfigurationError

__all__ = ["build", "build_variant", "nearest", "option", "plain", "schema", "seconds"]

T = TypeVar("T")
PathKey = tuple["str | int", ...]

_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
_UNITS: Mapping[str, float] = {
    "ms": 1e-3,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    duration: bool = False,
    pattern: str | None = None,
    pattern_says: str = "",
) -> Any:
    """A dataclass field with its meaning and limits.

    Args:
        default: value, or a class to call for it.
        doc: one sentence for people and editors.
        low: smallest value allowed.
        high: largest value allowed.
        above: bound that the value must exceed.
        duration: the value is a time in seconds, and may be written "5 min".
        pattern: regular expression that a text must match as a whole.
        pattern_says: the same in words, as an imperative.
    """
    limits = {
        "doc": doc, "low": low, "high": high, "above": above, "duration": duration,
        "pattern": pattern, "pattern_says": pattern_says,
    }  # fmt: skip
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


def nearest(word: str, names: Iterable[str]) -> str:
    """Advice for a misspelt word: the nearest of `names`, or all of them."""
    names = list(names)
    folded = {name.casefold().replace("-", "_"): name for name in names}
    # Of three letters two may agree by chance, as in inf and sin.
    cutoff = 0.6 if len(word) > 3 else 0.7
    close = difflib.get_close_matches(word.casefold().replace("-", "_"), folded, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{folded[close[0]]}'?"
    return f"write one of: {', '.join(names)}" if names else "remove it"


def seconds(text: str) -> float:
    """Seconds in a text such as "90 s", "5 min" or "1.5 h".

    Raises:
        ValueError: The text is not a number followed by a unit.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*([a-z]*)\s*", text)
    if not match or (match[2] or "s") not in _UNITS:
        raise ValueError(f"{text!r} is not a duration")
    return float(match[1]) * _UNITS[match[2] or "s"]


def build(cls: type[T], value: Any, path: PathKey = ()) -> T:
    """Read a mapping into the options class `cls`, defaults where nothing is given.

    Raises:
        ConfigurationError: An unknown key, or a value of the wrong type or out of range; its path
            starts with `path`.
    """
    if not isinstance(value, Mapping):
        _wrong(value, path, f"write a mapping with any of: {', '.join(_fields(cls))}")
    fields = _fields(cls)
    for key in value:
        if key not in fields:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(*path, key), advice=nearest(str(key), fields)
            )
    arguments = {}
    for key, item in value.items():
        arguments[key] = _read(_hints(cls)[key], fields[key].metadata, item, (*path, key))
    try:
        return cls(**arguments)
    except ConfigurationError as error:
        # A class checks what no single field can show in __post_init__, with a path relative to
        # itself.
        raise error.under(*path) from None


def build_variant(annotation: Any, value: Any, path: PathKey = ()) -> Any:
    """Read a name, or a mapping with a name, into the class of the union that the name chooses.

    Raises:
        ConfigurationError: as for `build`, or an unknown name.
    """
    return _variant(variants(annotation), value, path)


def plain(value: Any) -> Any:
    """Plain values of an options object; `build` reads them back to an equal one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def variants(annotation: Any) -> dict[str, type]:
    """The dataclasses of a union by the text that chooses them; empty if it is no such union."""
    found = {}
    for member in _members(annotation):
        if dataclasses.is_dataclass(member) and "name" in _hints(member):
            hint = _hints(member)["name"]
            if typing.get_origin(hint) is Literal:
                found[typing.get_args(hint)[0]] = member
    return found


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _wrong(value: Any, path: PathKey, advice: str) -> NoReturn:
    raise ConfigurationError("", path=path, found=value, advice=advice)


def _read(annotation: Any, limits: Mapping[str, Any], value: Any, path: PathKey) -> Any:
    members = _members(annotation)
    if limits.get("duration") and isinstance(value, str):
        value = _duration(annotation, limits, value, path)
    if value is None:
        if type(None) in members:
            return None
        _wrong(value, path, _advice(annotation, limits))
    if named := variants(annotation):
        return _variant(named, value, path)
    for member in members:
        origin = typing.get_origin(member)
        if origin is Literal and isinstance(value, str):
            if value in typing.get_args(member):
                return value
        elif origin is tuple:
            item = typing.get_args(member)[0]
            if isinstance(value, list | tuple):
                return tuple(
                    _read(item, limits, entry, (*path, i)) for i, entry in enumerate(value)
                )
            if variants(item) and isinstance(value, str | Mapping):
                return (_read(item, limits, value, path),)
        elif _is_mapping(origin) and isinstance(value, Mapping):
            item = typing.get_args(member)[1]
            return {key: _read(item, limits, entry, (*path, key)) for key, entry in value.items()}
        elif dataclasses.is_dataclass(member) and isinstance(value, Mapping):
            return build(typing.cast(type, member), value, path)
        elif isinstance(member, type) and (scalar := _scalar(member, value)) is not None:
            _check_limits(annotation, limits, scalar, value, path)
            return scalar
    advice = _advice(annotation, limits)
    words = [
        word
        for member in members
        if typing.get_origin(member) is Literal
        for word in typing.get_args(member)
    ]
    if isinstance(value, str) and words and "did you mean" in (hint := nearest(value, words)):
        advice = f"{hint} ({advice})"
    _wrong(value, path, advice)


def _scalar(kind: type, value: Any) -> Any:
    """`value` as `kind` if it is one, else None. 1000.0 is a whole number; true is not a number."""
    if isinstance(value, bool) or kind is bool:
        return value if kind is bool and isinstance(value, bool) else None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int):
        return float(value)
    return value if kind in (int, float, str) and isinstance(value, kind) else None


def _check_limits(
    annotation: Any, limits: Mapping[str, Any], value: Any, found: Any, path: PathKey
) -> None:
    if isinstance(value, str):
        pattern = limits.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            _wrong(found, path, _advice(annotation, limits))
        return
    if isinstance(value, bool):
        return
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    outside = (
        not math.isfinite(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
    )
    if outside:
        _wrong(found, path, _advice(annotation, limits))


def _duration(
    annotation: Any, limits: Mapping[str, Any], value: str, path: PathKey
) -> float | None:
    if value == "none" and type(None) in _members(annotation):
        return None
    try:
        return seconds(value)
    except (ValueError, OverflowError):
        _wrong(value, path, _advice(annotation, limits))


def _variant(named: Mapping[str, type], value: Any, path: PathKey) -> Any:
    default, *_ = named
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        _wrong(
            value,
            path,
            f"write one of: {', '.join(named)}; or a mapping with its name and settings",
        )
    name = value.get("name", default)
    if not isinstance(name, str) or name not in named:
        advice = (
            nearest(name, named) if isinstance(name, str) else f"write one of: {', '.join(named)}"
        )
        raise ConfigurationError("unknown name", path=(*path, "name"), found=name, advice=advice)
    for key in value:
        owners = [other for other, cls in named.items() if key in _fields(cls)]
        if owners and name not in owners:
            message = f"'{name}' has no setting '{key}'"
            raise ConfigurationError(
                message, path=(*path, key), advice=f"it belongs to: {', '.join(owners)}"
            )
    return build(named[name], value, path)


def _advice(annotation: Any, limits: Mapping[str, Any]) -> str:
    """What to write, as an imperative: "write a whole number from 1 to 64 or null"."""
    if limits.get("duration"):
        return "write a time such as '90 s', '5 min' or '1 h'" + (
            ", or 'none'" if type(None) in _members(annotation) else ""
        )
    if limits.get("pattern_says"):
        return limits["pattern_says"]
    return "write " + " or ".join(_noun(member, limits) for member in _members(annotation))


def _noun(member: Any, limits: Mapping[str, Any]) -> str:
    origin = typing.get_origin(member)
    if member is type(None):
        return "null"
    if origin is Literal:
        return " or ".join(f"'{word}'" for word in typing.get_args(member))
    if origin is tuple:
        item = typing.get_args(member)[0]
        inner = "/".join(variants(item)) or _noun(item, {**limits, "pattern_says": ""})
        return f"a list of: {inner}"
    if _is_mapping(origin):
        return f"a mapping of names to {_noun(typing.get_args(member)[1], limits)}"
    if dataclasses.is_dataclass(member):
        return f"a mapping with any of: {', '.join(_fields(member))}"
    return _KINDS.get(member, str(member)) + (_range(limits) if member in (int, float) else "")


def _range(limits: Mapping[str, Any]) -> str:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    start = (
        f" from {low:g}" if low is not None else f" above {above:g}" if above is not None else ""
    )
    if high is None:
        return f"{start} up" if low is not None else start
    # :g would turn 1234567 into 1.23457e+06.
    limit = f"{high:g}" if float(f"{high:g}") == high else f"{high}"
    return f"{start} to {limit}" if low is not None else f"{start} up to {limit}"


def schema(annotation: Any, limits: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an annotation; dataclasses allow no further keys."""
    limits = limits or {}
    if limits.get("duration"):
        kinds: list[str] = ["number", "string"] + (
            ["null"] if type(None) in _members(annotation) else []
        )
        return {"type": kinds}
    members = _members(annotation)
    alternatives = [_schema_of(member, limits) for member in members]
    if named := variants(annotation):
        alternatives.append({"enum": list(named)})
    return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


def _schema_of(member: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(member)
    if member is type(None):
        return {"type": "null"}
    if origin is Literal:
        words = list(typing.get_args(member))
        return {"enum": words} if len(words) > 1 else {"const": words[0]}
    if origin is tuple:
        item = typing.get_args(member)[0]
        items = schema(item, limits)
        many = {"type": "array", "items": items}
        return {"anyOf": [items, many]} if variants(item) else many
    if _is_mapping(origin):
        return {
            "type": "object",
            "additionalProperties": schema(typing.get_args(member)[1], limits),
        }
    if dataclasses.is_dataclass(member):
        properties = {}
        for name, field in _fields(member).items():
            entry = schema(_hints(member)[name], field.metadata)
            default = field.default
            if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            properties[name] = {
                **entry,
                "description": field.metadata.get("doc", ""),
                "default": plain(default),
            }
        return {"type": "object", "properties": properties, "additionalProperties": False}
    entry: dict[str, Any] = {
        "type": {bool: "boolean", int: "integer", float: "number", str: "string"}[member]
    }
    if member in (int, float):
        names = {"low": "minimum", "high": "maximum", "above": "exclusiveMinimum"}
        entry.update({names[key]: limits[key] for key in names if limits.get(key) is not None})
    if member is str and limits.get("pattern"):
        entry["pattern"] = f"^(?:{limits['pattern']})$"
    return entry
