"""The errors a person can meet, each with the exit code of the command.

Every message says what was found and what to write instead. A `ConfigurationError` carries its
place as data (path inside the case, file, line, column), so that a layer which knows only the
values can raise it and the layer that knows the file can complete it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "AccuracyError",
    "ConfigurationError",
    "DataError",
    "DivergedError",
    "Interrupted",
    "ResiduaError",
    "ResourceError",
    "dotted",
]

# A value that a person wrote is repeated in a message up to this many characters.
SHOWN = 80


def dotted(path: Sequence[str | int]) -> str:
    """Write a path the way a person reads it: ("conditions", 1, "u") as "conditions[1].u"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class _Absent:
    """Marks `found` as not given: None is a value that a person can write."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()


class ResiduaError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command returns."""

    exit_code = 70


class AccuracyError(ResiduaError):
    """The run finished, but missed the accuracy that was asked for."""

    exit_code = 1


class ConfigurationError(ResiduaError, ValueError):
    """What was asked for cannot be run as written.

    Args:
        message: what is wrong, in words; may be empty where `found` and `advice` say it all.
        path: keys and list indices that lead to the value.
        file: the file it was read from.
        line: line in that file, counted from 1.
        found: the offending value.
        advice: what to write instead, as an imperative.
        column: column inside the value's text, counted from 1.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        path: Sequence[str | int] = (),
        file: str | Path | None = None,
        line: int | None = None,
        found: Any = ABSENT,
        advice: str | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = tuple(path)
        self.file = None if file is None else str(file)
        self.line = line
        self.found = found
        self.advice = advice
        self.column = column

    def _copy(self, **changes: Any) -> ConfigurationError:
        kept = {
            "path": self.path,
            "file": self.file,
            "line": self.line,
            "found": self.found,
            "advice": self.advice,
            "column": self.column,
        }
        return type(self)(self.message, **{**kept, **changes})

    def located(self, file: str | Path | None, line: int | None) -> ConfigurationError:
        """The same error with its file and line filled in."""
        return self._copy(file=file, line=line)

    def under(self, *prefix: str | int) -> ConfigurationError:
        """The same error with `prefix` put before its path."""
        return self._copy(path=(*prefix, *self.path))

    def __str__(self) -> str:
        place = ""
        if self.file is not None:
            place = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: "
        if self.path:
            place += f"{dotted(self.path)}: "
        at = f" (column {self.column})" if self.column is not None else ""
        parts = [self.message + at] if self.message else []
        if self.found is not ABSENT:
            shown = repr(self.found)
            shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
            parts.append(f"found {shown}" if self.message else f"found {shown}{at}")
        if self.advice:
            parts.append(self.advice)
        return place + "; ".join(parts)


class DataError(ResiduaError):
    """A file of results or data is missing, damaged or of another kind."""

    exit_code = 3


class DivergedError(ResiduaError):
    """The numbers stopped being finite and going back did not help."""

    exit_code = 4


class ResourceError(ResiduaError):
    """Memory, disk or device ran out."""

    exit_code = 5


class Interrupted(ResiduaError):
    """Stopped by a signal after the state was saved: 130 for Ctrl-C, 143 for SIGTERM."""

    exit_code = 130

    def __init__(self, message: str = "stopped on request", *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
