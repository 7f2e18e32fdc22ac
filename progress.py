"""What a person sees of a training: a live line in a terminal, plain lines elsewhere.

The fit loop talks to a `Reporter` and does not know which one it has.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

__all__ = ["LiveReporter", "PlainReporter", "QuietReporter", "Reporter", "reporter_for"]


class Reporter(Protocol):
    """Receives the progress of a run. No method raises, whatever happens to the terminal."""

    def start(
        self,
        title: str,
        total_seconds: float | None = None,
        total_steps: int | None = None,
        *,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        """A run begins; its end is known in seconds, in steps, or not at all.

        Args:
            title: what runs.
            total_seconds: budget of the whole run.
            total_steps: steps of the whole run.
            seconds: spent before, by the run that is resumed.
            steps: made before.
        """

    def update(
        self,
        step: int,
        loss: float | None,
        terms: Mapping[str, float] | None = None,
        error: float | None = None,
        extra: str = "",
    ) -> None:
        """State after a step: loss, its terms, relative L2 error where known, a note."""

    def message(self, text: str) -> None:
        """Something to keep on the screen."""

    def finish(self, text: str = "") -> None:
        """The stage is over."""


class QuietReporter:
    """Says nothing."""

    def start(
        self,
        title: str,
        total_seconds: float | None = None,
        total_steps: int | None = None,
        *,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        """Nothing."""

    def update(
        self,
        step: int,
        loss: float | None,
        terms: Mapping[str, float] | None = None,
        error: float | None = None,
        extra: str = "",
    ) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def finish(self, text: str = "") -> None:
        """Nothing."""


class _Clock:
    """How far a run has come, counting what was done before it was resumed."""

    def __init__(
        self,
        total_seconds: float | None = None,
        total_steps: int | None = None,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        self.began = time.monotonic()
        self.total_seconds = total_seconds
        self.total_steps = total_steps
        self.seconds_before = seconds
        self.steps_before = steps

    @property
    def elapsed(self) -> float:
        """Seconds spent here."""
        return time.monotonic() - self.began

    def share(self, step: int) -> float | None:
        """The part of the run that is done, 0 to 1, by whichever limit comes first."""
        shares = []
        if self.total_seconds:
            shares.append((self.seconds_before + self.elapsed) / self.total_seconds)
        if self.total_steps:
            shares.append(step / self.total_steps)
        return min(max(shares), 1.0) if shares else None

    def left(self, step: int) -> float | None:
        """Seconds to go at the pace since the start or the resumption."""
        left = []
        if self.total_seconds:
            left.append(self.total_seconds - self.seconds_before - self.elapsed)
        if self.total_steps and step > self.steps_before:
            left.append((self.total_steps - step) * self.elapsed / (step - self.steps_before))
        return max(min(left), 0.0) if left else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _numbers(
    loss: float | None, terms: Mapping[str, float] | None, error: float | None, extra: str
) -> list[str]:
    """The figures of a step, the most important ones first."""
    parts = [] if loss is None else [f"loss {loss:.2e}"]
    if error is not None:
        parts.append(f"error {error:.1e}")
    parts += [f"{name} {value:.1e}" for name, value in (terms or {}).items()]
    return [*parts, extra] if extra else parts


class PlainReporter:
    """One line every `every` seconds, for log files and pipes."""

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        self.stream = stream or sys.stdout
        self.every = every
        self.clock = _Clock()
        self.last_line = -float("inf")

    def start(
        self,
        title: str,
        total_seconds: float | None = None,
        total_steps: int | None = None,
        *,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        """Print the title and begin to count."""
        self.clock = _Clock(total_seconds, total_steps, seconds, steps)
        self.last_line = -float("inf")
        self.message(title)

    def update(
        self,
        step: int,
        loss: float | None,
        terms: Mapping[str, float] | None = None,
        error: float | None = None,
        extra: str = "",
    ) -> None:
        """Print a line if the last is old enough."""
        now = time.monotonic()
        if now - self.last_line < self.every:
            return
        self.last_line = now
        left = self.clock.left(step)
        eta = f"  ETA {_duration(left)}" if left is not None else ""
        head = f"{_duration(self.clock.elapsed)}{eta}  step {step}"
        self.message("  ".join([head, *_numbers(loss, terms, error, extra)]))

    def message(self, text: str) -> None:
        """Print a line."""
        _write(self.stream, text + "\n")

    def finish(self, text: str = "") -> None:
        """Print the closing line, if there is one."""
        if text:
            self.message(text)


class LiveReporter:
    """A bar with ETA, loss, error estimate and loss terms on the last line of the terminal."""

    def __init__(
        self, stream: TextIO | None = None, colour: bool = True, every: float = 0.1
    ) -> None:
        self.stream = stream or sys.stdout
        self.colour = colour
        self.every = every
        self.clock = _Clock()
        self.line = ""
        self.last_drawn = -float("inf")

    def start(
        self,
        title: str,
        total_seconds: float | None = None,
        total_steps: int | None = None,
        *,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        """Print the title and begin a bar under it."""
        self.clock = _Clock(total_seconds, total_steps, seconds, steps)
        self.last_drawn = -float("inf")
        self.message(title)

    def update(
        self,
        step: int,
        loss: float | None,
        terms: Mapping[str, float] | None = None,
        error: float | None = None,
        extra: str = "",
    ) -> None:
        """Redraw the line if the last drawing is old enough to be worth it."""
        now = time.monotonic()
        if now - self.last_drawn < self.every:
            return
        self.last_drawn = now
        share, left = self.clock.share(step), self.clock.left(step)
        if share is None:
            line = _duration(self.clock.elapsed)
        else:
            length = 16 if self._width() > 90 else 8
            filled = round(length * share)
            eta = _duration(left) if left is not None else "--:--"
            line = f"[{'#' * filled}{'.' * (length - filled)}] {share:4.0%} ETA {eta}"
        # Whole figures only, as many as there is room for: half a number misleads.
        for part in (*_numbers(loss, terms, error, extra), f"step {step}"):
            if len(line) + 2 + len(part) <= self._width():
                line += f"  {part}"
        self._draw(line)

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        line = self.line
        self._clear()
        _write(self.stream, text + "\n")
        if line:
            self._draw(line)

    def finish(self, text: str = "") -> None:
        """Replace the bar by the closing line."""
        self._clear()
        if text:
            bold, plain = ("\x1b[1m", "\x1b[0m") if self.colour else ("", "")
            _write(self.stream, f"{bold}{text}{plain}\n")

    @staticmethod
    def _width() -> int:
        # A line that wraps could not be drawn over.
        return max(20, shutil.get_terminal_size((100, 24)).columns - 1)

    def _draw(self, text: str) -> None:
        text = text[: self._width()]
        _write(self.stream, "\r" + text + " " * max(0, len(self.line) - len(text)))
        self.line = text

    def _clear(self) -> None:
        if self.line:
            _write(self.stream, "\r" + " " * len(self.line) + "\r")
            self.line = ""


def _write(stream: TextIO, text: str) -> None:
    """Write and flush; a closed pipe or full disk behind the terminal must not stop a run."""
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        _write(stream, text.encode("ascii", "replace").decode("ascii"))
    except (OSError, ValueError):
        pass


def reporter_for(*, quiet: bool = False, stream: TextIO | None = None) -> Reporter:
    """The reporter that suits the output: silent, live in a terminal, plain lines elsewhere."""
    out = sys.stdout if stream is None else stream
    if quiet:
        return QuietReporter()
    if out.isatty() and os.environ.get("TERM") != "dumb":
        return LiveReporter(out, colour=not os.environ.get("NO_COLOR"))
    return PlainReporter(out)
