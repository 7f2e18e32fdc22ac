"""Read YAML strictly, and remember where everything stood.

A case file is full of texts on which ordinary YAML readers go wrong: PyYAML reads ``1e-3`` as text,
``no`` as false, ``010`` as eight, ``1:30`` as ninety, keeps the last of two equal keys, and follows
aliases that grow without limit. This reader composes the parser's events itself and follows YAML
1.2:

* numbers are ``12``, ``0x1F``, ``0o17``, ``1e-3``, ``.5``; booleans are ``true`` and ``false``;
  everything else is text;
* keys are texts and appear once in their mapping;
* there are no tags, anchors, aliases, merge keys, includes or interpolation, and one document a
  file;
* size, depth and number of nodes are limited, and invisible control characters are refused.

Whatever is wrong is a `ConfigurationError` with file and line.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import ConfigurationError

__all__ = ["YamlSource", "dump", "load"]

MAX_BYTES = 1 << 18  # read in half a second by the slowest parser path; a resolved case is 5 KiB
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_INTEGER_DIGITS = 30

PathKey = tuple["str | int", ...]

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}

# C0 without tab, line feed and carriage return; DEL and C1; zero-width and bidirectional
# formatting; surrogates; the byte order mark anywhere but at the start. An equation must be what it
# looks like.
_REFUSED_CHARACTERS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)


@dataclass(frozen=True)
class YamlSource:
    """The plain value of a YAML text, with the line of every key and item in it.

    Attributes:
        data: Dictionaries, lists, texts, numbers, booleans and None.
        file: The name to print in messages.
        lines: Line (from 1) of each path; a path is a tuple of keys and list positions.
    """

    data: Any
    file: str
    lines: Mapping[PathKey, int]

    def line(self, path: PathKey) -> int | None:
        """Line of the key or item at `path`, or of the nearest enclosing one in the text."""
        for length in range(len(path), -1, -1):
            if (found := self.lines.get(tuple(path[:length]))) is not None:
                return found
        return None


def load(text_or_path: str | Path, *, name: str | None = None) -> YamlSource:
    """Read a YAML text (a `str`) or file (a `Path`).

    Args:
        text_or_path: The text itself, or where it is.
        name: What to call it in messages; a file's own path by default.

    Raises:
        ConfigurationError: The file cannot be read, or the text breaks a rule of this module.
    """
    if isinstance(text_or_path, Path):
        file = name or str(text_or_path)
        text = _read(text_or_path, file)
    else:
        file = name or "text"
        text = text_or_path
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            _refuse(file, None, "is larger than 256 KiB", "write a smaller file")
    text = text.removeprefix("\ufeff")
    if bad := _REFUSED_CHARACTERS.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        _refuse(
            file,
            line,
            f"holds the invisible or control character U+{ord(bad[0]):04X} in column {column}",
            "remove it (is this a text file?)",
        )
    return _Composer(text, file).compose()


class _Dumper(yaml.SafeDumper):
    """Writes every value so that `load` reads it back the same; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML quotes what it would misread itself; what only the 1.2 rules read as a number is quoted
    # here.
    number = text in _CONSTANTS or any(rule.match(text) for rule in (_INTEGER, _BASED, _FLOAT))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if number else None)


def _list_node(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    short = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(str, _text_node)
_Dumper.add_representer(list, _list_node)


def dump(data: Any) -> str:
    """Write plain values as YAML that `load` reads back unchanged, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _read(path: Path, file: str) -> str:
    """The text of a regular file, read once; never waits on a pipe or device."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        )
    except FileNotFoundError:
        _refuse(file, None, "no such file", "check the path")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        _refuse(file, None, f"cannot be opened ({reason.lower()})", "give a readable YAML file")
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        _refuse(
            file,
            None,
            "is a folder" if stat.S_ISDIR(mode) else "is not a regular file",
            "give a YAML file",
        )
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        _refuse(file, None, "is larger than 256 KiB", "write a smaller file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _refuse(
            file,
            line,
            f"byte 0x{content[error.start]:02x} is not UTF-8 text",
            "save the file as UTF-8 text",
        )


def _refuse(
    file: str, line: int | None, message: str, advice: str | None = None, path: PathKey = ()
) -> NoReturn:
    raise ConfigurationError(message, path=path, file=file, line=line, advice=advice) from None


class _Composer:
    """Builds plain values from PyYAML's event stream; one instance reads one text."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.text = text
        self.lines: dict[PathKey, int] = {}
        self.nodes = 0
        # The pure Python parser is lazy and iterative: a limit below stops it before a hostile text
        # can cost anything.
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def compose(self) -> YamlSource:
        try:
            self._next()  # stream start
            event = self._next()
            if isinstance(event, yaml.StreamEndEvent):
                _refuse(self.file, None, "is empty", "write at least 'problem: NAME'")
            data = self._value(self._next(), (), 0)
            self._next()  # document end
            event = self._next()
            if not isinstance(event, yaml.StreamEndEvent):
                self._fail(
                    event,
                    "a second document starts here",
                    "keep one document a file (remove the line '---')",
                )
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.YAMLError as error:
            _refuse(self.file, None, f"is not YAML: {' '.join(str(error).split())}")
        return YamlSource(data=data, file=self.file, lines=self.lines)

    def _next(self) -> yaml.Event:
        return next(self.events)

    def _fail(
        self, event: yaml.Event, message: str, advice: str | None = None, path: PathKey = ()
    ) -> NoReturn:
        _refuse(self.file, event.start_mark.line + 1, message, advice, path)

    def _syntax(self, error: yaml.MarkedYAMLError) -> NoReturn:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or error.context or "syntax error"
        rows = self.text.split("\n")
        row = rows[mark.line] if mark and mark.line < len(rows) else ""
        if "\t" in row:
            advice = "indent with spaces, not tabs"
        elif "%" in problem or "cannot start any token" in problem:
            advice = "put a text that starts with a special character in quotes"
        elif "mapping values are not allowed" in problem:
            advice = "put a text that holds a colon in quotes, or check the indentation"
        else:
            advice = "check quotes, brackets, commas and indentation here and in the line above"
        _refuse(self.file, line, f"YAML syntax: {problem}", advice)

    def _value(self, event: yaml.Event, path: PathKey, depth: int) -> Any:
        self._check(event, path, depth)
        self.lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.ScalarEvent):
            if bad := _REFUSED_CHARACTERS.search(event.value):  # written as an escape
                self._fail(
                    event,
                    f"holds the invisible or control character U+{ord(bad[0]):04X}",
                    "remove it",
                    path,
                )
            return self._scalar(event, path) if event.style is None else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := self._next(), yaml.SequenceEndEvent):
                items.append(self._value(event, (*path, len(items)), depth + 1))
            return items
        return self._mapping(event, path, depth)

    def _mapping(self, start: yaml.Event, path: PathKey, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            self._check(event, path, depth + 1)
            if not isinstance(event, yaml.ScalarEvent):
                self._fail(
                    event,
                    "a key must be a text, found a list or mapping",
                    "put a text that holds a colon in quotes",
                    path,
                )
            key = event.value
            if event.style is None:
                if key == "<<":
                    self._fail(
                        event, "merge keys (<<) are not used here", "write the entries out", path
                    )
                if not isinstance(resolved := self._scalar(event, path), str):
                    kind = "empty" if resolved is None else type(resolved).__name__
                    self._fail(
                        event,
                        f"a key must be a text, found '{key}' ({kind})",
                        "name it, or put it in quotes",
                        path,
                    )
            line = event.start_mark.line + 1
            if key in entries:
                first = self.lines[(*path, key)]
                self._fail(
                    event,
                    f"the key '{key}' appears twice, in lines {first} and {line}",
                    "keep one of them",
                    (*path, key),
                )
            self.lines[(*path, key)] = line
            value = self._next()
            # {a: max(x, 0)} reads as two entries, the second without a value.
            empty = isinstance(value, yaml.ScalarEvent) and value.style is None and not value.value
            if empty and getattr(start, "flow_style", False):
                self._fail(
                    event,
                    f"'{key}' has no value",
                    "put a text that holds a comma in quotes, or write 'null'",
                    (*path, key),
                )
            entries[key] = self._value(value, (*path, key), depth + 1)
        return entries

    def _check(self, event: yaml.Event, path: PathKey, depth: int) -> None:
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            self._fail(
                event,
                f"aliases (*{event.anchor}) are not used here",
                "write the value out, or put a text that starts with * in quotes",
                path,
            )
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor is not None:
            self._fail(
                event,
                f"anchors (&{anchor}) are not used here",
                "remove it, or put a text that starts with & in quotes",
                path,
            )
        if tag is not None:
            self._fail(
                event,
                f"tags ({tag[:60]}) are not used here",
                "remove it, or put a text that starts with ! in quotes",
                path,
            )
        if depth > MAX_DEPTH:
            self._fail(event, f"is nested more than {MAX_DEPTH} deep", "write a flatter file")
        if self.nodes > MAX_NODES:
            self._fail(event, f"holds more than {MAX_NODES} values", "write a smaller file")

    def _scalar(self, event: yaml.ScalarEvent, path: PathKey) -> Any:
        """A plain (unquoted) scalar by the YAML 1.2 core schema."""
        text = event.value
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _LEADING_ZERO.match(text):
            plain = text.lstrip("+-").lstrip("0") or "0"
            self._fail(
                event,
                f"found {text[:40]}, a number with a leading zero",
                f"write {plain[:40]}, or put it in quotes",
                path,
            )
        if _INTEGER.match(text) or _BASED.match(text):
            if len(text) > MAX_INTEGER_DIGITS:
                self._fail(
                    event,
                    f"found a whole number of {len(text)} digits",
                    f"write at most {MAX_INTEGER_DIGITS}",
                    path,
                )
            return int(text, 0)
        if _FLOAT.match(text):
            value = float(text)
            mantissa_is_zero = not re.search("[1-9]", re.split("[eE]", text)[0])
            if math.isinf(value) or (value == 0.0 and not mantissa_is_zero):
                self._fail(
                    event,
                    f"found {text[:40]}, outside the range of a double",
                    "write a number from 1e-307 to 1e308",
                    path,
                )
            return value
        return text
