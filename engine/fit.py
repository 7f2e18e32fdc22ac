"""The one training loop: budget, progress, checkpoints, divergence, signals.

The loop knows nothing of what is trained. It drives a `Trainer` step by step, keeps its state
safe, and says in a `Status` why it stopped.

A state counts as good once a step from it has succeeded, for only then has its loss been seen to be
finite. The last good state is taken every `SNAPSHOT_EVERY` steps and travels with the checkpoints,
so that a resumed run that diverges goes back to where the uninterrupted one would have gone.
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

from ..atomic import write_atomic
from ..errors import DataError, DivergedError, Interrupted
from . import checkpoint

ROLLBACKS = 3
SNAPSHOT_EVERY = 50
LOG_SECONDS = 1.0
LOG_SHARE = 0.05
"""The log is written when so much of the time so far has passed again: often at first, when the
loss falls fast, and at least every `LOG_SECONDS`."""


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
        steps: optimiser steps that were made.
    """

    loss: float
    terms: Mapping[str, float] = field(default_factory=dict)
    extra: str = ""
    done: bool = False
    steps: int = 1


class Trainer(Protocol):
    """What the loop drives."""

    def step(self, seconds_left: float) -> Progress:
        """Advance by one optimiser step, or by the few that `Progress.steps` tells."""
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
class Good:
    """The state to go back to when a step fails.

    Attributes:
        step: the step it was taken at.
        state: of the trainer.
        returns: how often the run went back to it.
    """

    step: int
    state: dict[str, Any]
    returns: int = 0


@dataclass
class Record:
    """What the loop counts over the whole run, interruptions included.

    Attributes:
        step: optimiser steps made.
        seconds: spent on them.
        rollbacks: how often the run went back to a good state.
        finished: the trainer has said that nothing is left to do.
        history: what was logged.
        good: the last good state; None before the first step.
    """

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    good: Good | None = None


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
        log_every: log every so many steps instead of by the clock (a record of the run that
            repeats exactly).
        error: current error estimate, asked at every log entry.

    Returns:
        Why it stopped.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        DivergedError: three rollbacks did not help; the last good state was restored and saved.
    """
    if record.finished:
        return Status.FINISHED
    began = time.monotonic() - record.seconds
    saved = logged = time.monotonic()
    metrics = folder / "metrics.jsonl"
    _truncate(metrics, record.step)
    good = record.good or Good(record.step, trainer.state_dict())
    status: Status | None = None

    def save() -> None:
        record.seconds = time.monotonic() - began
        record.good = good
        state = {
            "trainer": trainer.state_dict(),
            "step": record.step,
            "seconds": record.seconds,
            "rollbacks": record.rollbacks,
            "finished": record.finished,
            "good": vars(good),
        }
        checkpoint.save(folder / "checkpoints", record.step, state)

    def save_and_stop() -> None:
        """Save; stop if a signal came before or meanwhile."""
        save()
        if caught:
            raise Interrupted(
                f"stopped at step {record.step}; the state is saved in {folder / 'checkpoints'}; "
                "continue with --resume",
                exit_code=130 if caught[0] == signal.SIGINT else 143,
            )

    def go_back(failure: DivergedError) -> None:
        failed = record.step
        trainer.load_state_dict(good.state)
        record.step = good.step
        # What was logged since belongs to steps that are made again.
        _truncate(metrics, record.step)
        record.history = [entry for entry in record.history if entry["step"] <= record.step]
        if record.rollbacks == ROLLBACKS:
            save()
            raise DivergedError(
                f"the training diverged at step {failed + 1}: {failure}; {ROLLBACKS} rollbacks did "
                f"not help; the last good state, of step {record.step}, is saved in "
                f"{folder / 'checkpoints'}; {_advice(failed)}"
            ) from failure
        record.rollbacks += 1
        good.returns += 1
        # The state brings back the optimiser as it was, so its softening starts over.
        for _ in range(good.returns):
            trainer.soften()
        reporter.message(f"step {failed + 1}: {failure}; back to step {record.step}")

    with _signals() as caught:
        while status is None:
            elapsed = time.monotonic() - began
            if steps is not None and record.step >= steps:
                status = Status.STEPS
                break
            if budget is not None and elapsed >= budget:
                status = Status.BUDGET
                break
            candidate = None
            if record.step - good.step >= SNAPSHOT_EVERY:
                candidate = Good(record.step, trainer.state_dict())
            try:
                progress = trainer.step(math.inf if budget is None else budget - elapsed)
                if not math.isfinite(progress.loss):
                    raise DivergedError("the loss is not finite")
            except DivergedError as failure:
                go_back(failure)
                if caught:
                    save_and_stop()
                continue
            good = candidate or good
            before = record.step
            record.step += progress.steps
            now = time.monotonic()
            record.seconds = now - began
            if progress.done:
                record.finished = True
                status = Status.FINISHED
            last = (
                progress.done
                or (steps is not None and record.step >= steps)
                or (budget is not None and record.seconds >= budget)
            )
            due = now - logged >= min(LOG_SECONDS, LOG_SHARE * record.seconds)
            if log_every:
                due = record.step // log_every > before // log_every
            if due or last or before == 0:
                logged = now
                estimate = error()
                entry = _entry(record, progress, estimate)
                record.history.append(entry)
                with metrics.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                reporter.update(
                    record.step, progress.loss, progress.terms, estimate, progress.extra
                )
            if caught or now - saved >= checkpoint_every:
                save_and_stop()
                saved = time.monotonic()
        save_and_stop()
    return status


def _advice(failed: int) -> str:
    """What to do about a divergence after so many steps."""
    if failed == 0:
        return "look for a singularity in the equation or its conditions, or try another seed"
    return "try a smaller learning rate, more time windows or float64"


def _entry(record: Record, progress: Progress, estimate: float | None) -> dict[str, Any]:
    """A record of the log: strict JSON, so only what is finite."""
    entry: dict[str, Any] = {
        "step": record.step,
        "seconds": round(record.seconds, 3),
        "loss": progress.loss,
        "losses": {k: v for k, v in progress.terms.items() if math.isfinite(v)},
        "stage": progress.extra,
    }
    if estimate is not None and math.isfinite(estimate):
        entry["error"] = estimate
    return entry


def restore(trainer: Trainer, folder: Path) -> Record:
    """Load the newest verified checkpoint of a run folder into a trainer.

    Raises:
        DataError: there is none, or it was made for another trainer.
    """
    state, info = checkpoint.load_latest(folder / "checkpoints")
    try:
        trainer.load_state_dict(state["trainer"])
        record = Record(
            int(state["step"]),
            float(state["seconds"]),
            int(state["rollbacks"]),
            bool(state["finished"]),
            good=Good(**state["good"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"{info.path}: does not fit this case or this version ({reason}); start the run again"
        ) from error
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
    for line in metrics.read_text("utf-8", "replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut off when the process was killed
            continue
        if isinstance(entry, dict) and entry.get("step", step + 1) <= step:
            kept.append(line + "\n")
    write_atomic(metrics, "".join(kept))


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
        put_back()

    def put_back() -> None:
        for other, old in previous.items():
            signal.signal(other, old)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield caught
    finally:
        put_back()
