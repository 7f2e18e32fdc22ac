"""The one training loop: budget, progress, checkpoints, divergence, signals.

The loop knows nothing of what is trained. It drives a `Trainer` step by step, keeps its state
safe, and says in a
`Status` why it stopped.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import DivergedError, Interrupted
from . import checkpoint

ROLLBACKS = 3
SNAPSHOT_EVERY = 50
LOG_SECONDS = 1.0


class Status(enum.Enum):
    """Why training ended; the value is the sentence shown."""

    FINISHED = "every stage of the training was completed"
    BUDGET = "the time budget ran out"
    STEPS = "the step budget ran out"
    DIVERGED = "the training diverged; this is the last good state"


@dataclass
class Progress:
    """State after a step.

    Attributes:
        loss: present loss.
        terms: its share by term.
        extra: where the trainer stands, for the progress line.
        done: nothing is left to do.
    """

    loss: float
    terms: Mapping[str, float] = field(default_factory=dict)
    extra: str = ""
    done: bool = False


class Trainer(Protocol):
    """What the loop drives."""

    def step(self, seconds_left: float) -> Progress:
        """Advance by one optimiser step."""
        ...

    def soften(self) -> None:
        """Be more careful after a divergence."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        ...


@dataclass
class Record:
    """What the loop counts over the whole run, interruptions included."""

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    trainer: Trainer,
    record: Record,
    *,
    reporter: Any,
    folder: Path,
    budget: float | None = None,
    steps: int | None = None,
    checkpoint_every: float = 60.0,
    log_every: int | None = None,
    error: Callable[[], float | None] = lambda: None,
) -> Status:
    """Train until the trainer is done or the budget is spent.

    Args:
        trainer: what is trained.
        record: counters, changed in place (restored ones for a resumed run).
        reporter: receives progress.
        folder: run folder; `metrics.jsonl` and `checkpoints/` go there.
        budget: seconds of training over the whole run; None for no limit.
        steps: optimiser steps over the whole run; None for no limit.
        checkpoint_every: seconds between checkpoints.
        log_every: log every so many steps instead of every second (a record of the run that
            repeats exactly).
        error: current error estimate, asked at every log entry.

    Returns:
        Why it stopped.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        DivergedError: more than three rollbacks did not help; the last good state was restored and
        saved.
    """
    began = time.monotonic() - record.seconds
    saved = logged = time.monotonic()
    metrics = folder / "metrics.jsonl"
    _truncate(metrics, record.step)
    good = (record.step, trainer.state_dict())
    status: Status | None = None

    def save() -> None:
        record.seconds = time.monotonic() - began
        state = {
            "trainer": trainer.state_dict(),
            "step": record.step,
            "seconds": record.seconds,
            "rollbacks": record.rollbacks,
        }
        checkpoint.save(folder / "checkpoints", record.step, state)

    with _signals() as caught:
        while status is None:
            elapsed = time.monotonic() - began
            if steps is not None and record.step >= steps:
                status = Status.STEPS
                break
            if budget is not None and elapsed >= budget:
                status = Status.BUDGET
                break
            try:
                progress = trainer.step(math.inf if budget is None else budget - elapsed)
                if not math.isfinite(progress.loss):
                    raise DivergedError("the loss is not finite")
            except DivergedError as failure:
                record.rollbacks += 1
                trainer.load_state_dict(good[1])
                if record.rollbacks > ROLLBACKS:
                    save()
                    raise DivergedError(
                        f"the training diverged at step {record.step}; {ROLLBACKS} rollbacks did "
                        f"not help ({failure}); the last good state is saved in "
                        f"{folder / 'checkpoints'}; "
                        "try a smaller learning rate, more time windows or float64"
                    ) from failure
                reporter.message(f"step {record.step}: {failure}; back to step {good[0]}")
                record.step = good[0]
                trainer.soften()
                continue
            record.step += 1
            now = time.monotonic()
            record.seconds = now - began
            if progress.done:
                status = Status.FINISHED
            due = record.step % log_every == 0 if log_every else now - logged >= LOG_SECONDS
            if due or progress.done or record.step == 1:
                logged = now
                entry = {
                    "step": record.step,
                    "seconds": round(record.seconds, 3),
                    "loss": progress.loss,
                    "losses": dict(progress.terms),
                    "stage": progress.extra,
                }
                estimate = error()
                if estimate is not None and math.isfinite(estimate):
                    entry["error"] = estimate
                record.history.append(entry)
                with metrics.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                reporter.update(
                    record.step, progress.loss, progress.terms, estimate, progress.extra
                )
            if record.step - good[0] >= SNAPSHOT_EVERY:
                good = (record.step, trainer.state_dict())
            if caught:
                save()
                number = caught[0]
                code = 130 if number == signal.SIGINT else 143
                raise Interrupted(
                    f"stopped at step {record.step}; continue with --resume", exit_code=code
                )
            if now - saved >= checkpoint_every:
                save()
                saved = time.monotonic()
    save()
    return status


def restore(trainer: Trainer, folder: Path) -> Record:
    """Load the newest verified checkpoint of a run folder into a trainer.

    Raises:
        DataError: there is none.
    """
    state, _ = checkpoint.load_latest(folder / "checkpoints")
    trainer.load_state_dict(state["trainer"])
    record = Record(int(state["step"]), float(state["seconds"]), int(state["rollbacks"]))
    metrics = folder / "metrics.jsonl"
    _truncate(metrics, record.step)
    if metrics.exists():
        record.history = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return record


def _truncate(metrics: Path, step: int) -> None:
    """Drop log entries after a step: they belong to work that is done again."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text("utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("step", step + 1) <= step:
            kept.append(line + "\n")
    metrics.write_text("".join(kept), "utf-8")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM until the step is over; a second signal acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {}

    def handler(number: int, frame: object) -> None:
        caught.append(number)
        for other, old in previous.items():
            signal.signal(other, old)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
