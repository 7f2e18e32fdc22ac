"""What `residua train --dry-run` prints."""

from __future__ import annotations

from pathlib import Path

from .case import OperatorCase
from .laws import law_of
from .samples import open_samples

__all__ = ["plan"]


def plan(case: OperatorCase, folder: Path) -> str:
    """A checked case and what it would do, in words.

    Raises:
        ConfigurationError: the case asks for what the file does not hold.
        DataError: the file is none that is known.
    """
    samples = open_samples(case.data)
    part, training, run = samples.train, case.training, case.run
    what = "a step in time from" if part.steps else "a map from"
    epochs = "until the budget ends" if training.epochs is None else f"{training.epochs} epochs"
    ends = [
        epochs,
        f"{run.budget:g} s" if run.budget else "",
        f"{run.steps} steps" if run.steps else "",
    ]
    watched = "no" if samples.validation is None else str(len(samples.validation))
    teacher = []
    if case.physics is not None:
        law = law_of(case.physics, part)
        teacher.append(
            f"physics: {law.equation} with {law.constant:g}, weight {case.physics.weight:g} "
            f"beside {case.physics.data:g} of the data"
        )
    lines = [
        f"data: {part.data.path}, {part.data.layout}",
        f"learns {what} {', '.join(dict.fromkeys(part.inputs))} to "
        f"{', '.join(part.outputs)} on {' x '.join(map(str, part.size))} nodes, {part.boundary}",
        f"samples: {len(part)} to train on, {watched} to watch, {len(samples.test)} to test",
        f"network: {case.network.name}",
        f"training: batches of {training.batch}, {', at most '.join(end for end in ends if end)}",
        *teacher,
        f"run folder: {folder}",
        *(f"note: {note}" for note in samples.notes),
    ]
    return "\n".join(lines)
