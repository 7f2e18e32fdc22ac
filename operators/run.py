"""One run from case to folder: train an operator, measure it on the test, write everything down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine import checkpoint
from ..engine.fit import Record, Status, fit, restore
from ..engine.memory import free_memory
from ..errors import AccuracyError, DivergedError, ResourceError
from ..execution.folder import check_same, clear, make, write_configuration
from ..execution.settings import device_of, missed, settings
from ..execution.summary import peak_memory_mib, versions
from ..progress import Reporter
from .build import Shape, model_for, names, parameters
from .case import OperatorCase
from .coarse import check_coarse, coarse_solutions, source_of
from .errors import coarse_alone, relative_errors
from .evaluation.metrics import statistics
from .laws import law_of
from .operator import Operator
from .physics import residual_of
from .samples import Part, Samples, check_network, check_symmetries, open_samples
from .training import OperatorTrainer, Pairs, Trajectories, fingerprint

__all__ = ["Outcome", "train_case"]

WATCHED = 64
"""Samples of the validation that an estimate is made of."""
SHARE = 20.0
"""An estimate is made again when this many times the time it took has passed."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        status: why training ended.
        folder: the run folder.
        operator: what was trained.
        errors: mean relative L2 error on the test.
        failure: the accuracy asked for was missed; None if it was reached or none was asked for.
    """

    status: Status
    folder: Path
    operator: Operator
    errors: dict[str, float]
    failure: AccuracyError | None = None


def train_case(
    case: OperatorCase, *, out: Path | None, resume: bool, reporter: Reporter
) -> Outcome:
    """Train the operator of a case.

    Args:
        case: what and how.
        out: run folder; None for the case's own. An earlier run there is replaced.
        resume: continue from the newest checkpoint in the folder.
        reporter: receives progress.

    Raises:
        ConfigurationError: the data or the network are not as the case says, or the device is not
            there.
        DataError: a file of data is wrong; or nothing to resume from, or it is of another case.
        DivergedError: training diverged; the last good state is saved, as an operator too.
        Interrupted: a signal came; a checkpoint is saved.
        ResourceError: memory or disk ran out.
    """
    folder = Path(out) if out is not None else case.folder
    device = device_of(case.run.device)
    if resume:
        check_same(case, folder)
    samples = open_samples(case.data)
    check_network(case.network, samples)
    check_symmetries(case.training, case.network, samples.train)
    check_coarse(case.data.coarse, samples)
    try:
        with settings(case.run, device):
            return _train(case, samples, device, folder, resume, reporter)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory: {error}; use a smaller batch or a smaller network"
        ) from error
    finally:
        reporter.finish()


def _train(
    case: OperatorCase,
    samples: Samples,
    device: torch.device,
    folder: Path,
    resume: bool,
    reporter: Reporter,
) -> Outcome:
    part = samples.train
    reporter.message(
        f"{len(part)} samples to train on, {len(samples.test)} to test: "
        f"{names(part.inputs)} to {names(part.outputs)} on {' x '.join(map(str, part.size))} nodes"
        + (f", {part.data.states.shape[1]} instants" if part.steps else "")
    )
    data = training_data(case, part)
    shape = _shape(case, part)
    known = fingerprint(data)
    if shape.coarse and isinstance(data, Pairs):
        reporter.message(f"solving on {shape.coarse} nodes per side for every sample")
        solved = coarse_solutions(data.inputs.numpy(), shape.coarse, shape.source)
        data.inputs = torch.cat([data.inputs, torch.from_numpy(solved).to(data.inputs)], 1)
    inputs, outputs = measured(data)
    model, shape = model_for(case.network, shape, inputs, outputs, case.run.seed)
    trainer = OperatorTrainer(
        model.to(device), on_device(data, device), case.training, seed=case.run.seed,
        budget=case.run.budget, steps=case.run.steps, physics=case.physics,
        residual=None if case.physics is None else residual_of(law_of(case.physics, part)),
    )  # fmt: skip
    trainer.fingerprint = known  # of what was read, not of what was solved for here
    make(folder)
    record = Record()
    if not resume:
        clear(folder)
    if resume and checkpoint.exists(folder / "checkpoints"):
        record = restore(trainer, folder)
        reporter.message(f"resumed at step {record.step}")
    elif resume:
        reporter.message("no checkpoint was saved yet: starting from the beginning")
    # On resumption too: budget, steps and accuracy may be new ones.
    write_configuration(case, folder)
    for note in [*samples.notes, *_notes(case)]:
        reporter.message(f"note: {note}")
    reporter.start(
        f"{case.name} by {case.network.name}, {parameters(model)} parameters",
        case.run.budget,
        trainer.steps,
        seconds=record.seconds,
        steps=record.step,
    )

    def write(status: Status) -> Outcome:
        reporter.finish()
        return _write(case, samples, trainer, shape, record, status, folder, reporter)

    def current() -> Operator:
        return _operator(case, trainer, shape, Status.FINISHED, record, samples)

    try:
        status = fit(
            trainer,
            record,
            reporter=reporter,
            folder=folder,
            budget=case.run.budget,
            steps=case.run.steps,
            checkpoint_every=case.run.checkpoint_every,
            log_every=10 if case.run.deterministic else None,
            error=_estimator(trainer, samples.validation, current, case.run.deterministic),
        )
    except DivergedError:
        write(Status.DIVERGED)
        raise
    return write(status)


def _shape(case: OperatorCase, part: Part) -> Shape:
    """What the data say about the model."""
    if case.data.coarse is None:
        static = len(part.static) if part.steps else 0
        return Shape(part.inputs, part.outputs, part.size, part.boundary, part.steps, static)
    source = source_of(part)
    assert source is not None
    inputs = (*part.inputs, *(f"coarse {name}" for name in part.outputs))
    return Shape(
        inputs, part.outputs, part.size, part.boundary, True, coarse=case.data.coarse,
        source=source,
    )  # fmt: skip


def training_data(case: OperatorCase, part: Part) -> Pairs | Trajectories:
    """The samples that are trained on, read into memory in the precision of the run.

    Raises:
        DataError: a number is not finite.
        ResourceError: there is no room for them.
    """
    data, dtype = part.data, getattr(torch, case.run.dtype)
    arrays = [data.states] if part.steps else [data.inputs, data.outputs]
    size = sum(int(np.prod(a.shape)) for a in arrays) * (4 if dtype == torch.float32 else 8)
    if 3 * size > free_memory():
        raise ResourceError(
            f"{size / 2**30:.1f} GiB of training data do not fit into memory with their scales; "
            "lower data.samples or data.resolution"
        )

    def read(array: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[:])).to(dtype)

    if not part.steps:
        return Pairs(read(data.inputs), read(data.outputs), part.periodic)
    static = read(data.inputs)[:, : len(part.static)] if part.static else None
    return Trajectories(
        read(data.states), part.periodic, case.training.unrolled, part.history,
        static,
    )  # fmt: skip


def measured(data: Pairs | Trajectories) -> tuple[Tensor, Tensor]:
    """All inputs and outputs of one application, for the scales."""
    if isinstance(data, Pairs):
        return data.inputs, data.outputs
    one = Trajectories(data.states, data.periodic, 1, data.history, data.static)
    inputs, targets = one.batch(torch.arange(len(one)))
    return inputs, targets[0]


def on_device(data: Pairs | Trajectories, device: torch.device) -> Pairs | Trajectories:
    """The same on the device of the model."""
    for name in ("inputs", "outputs", "states", "static"):
        value = getattr(data, name, None)
        if value is not None:
            setattr(data, name, value.to(device))
    return data


def _notes(case: OperatorCase) -> list[str]:
    """What a person should know before a long run."""
    if case.run.deterministic and case.run.budget is not None:
        return ["run.budget is wall time and shapes the learning rate: the run does not repeat"]
    return []


def _operator(
    case: OperatorCase,
    trainer: OperatorTrainer,
    shape: Shape,
    status: Status,
    record: Record,
    samples: Samples,
    **more: Any,
) -> Operator:
    model = trainer.averaged.eval()
    epochs = max(trainer.done / trainer.per_epoch, 1e-12)
    metadata = {
        "network": case.network.name,
        "map": "steps" if samples.train.steps else "pairs",
        "seed": case.run.seed,
        "seconds": record.seconds,
        "steps": record.step,
        "epochs": epochs,
        "seconds_per_epoch": record.seconds / epochs,
        "trained_parameters": parameters(model),
        "loss": record.history[-1]["loss"] if record.history else None,
        "train_samples": len(samples.train),
        "test_samples": len(samples.test),
        "peak_memory_mib": peak_memory_mib(),
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "config_digest": case.digest(),
        **more,
    }
    return Operator(case, model, shape, status.value, record.history, metadata)  # type: ignore[arg-type]


def _write(
    case: OperatorCase,
    samples: Samples,
    trainer: OperatorTrainer,
    shape: Shape,
    record: Record,
    status: Status,
    folder: Path,
    reporter: Reporter,
) -> Outcome:
    found = relative_errors(_operator(case, trainer, shape, status, record, samples), samples.test)
    spread = statistics(found)
    error = spread["mean"]
    alone = coarse_alone(shape, samples.test)
    operator = _operator(
        case, trainer, shape, status, record, samples, test_relative_l2=spread,
        coarse_nodes=shape.coarse or None, coarse_alone_relative_l2=alone,
    )  # fmt: skip
    operator.save(folder)
    reporter.message(f"{status.value}: step {record.step}, {record.seconds:.1f} s")
    what = "all predicted instants" if samples.test.steps else names(samples.test.outputs)
    reporter.message(
        f"relative L2 error of {what} on {len(found)} test samples: mean {error:.2e}, median "
        f"{spread['median']:.1e}, largest {spread['max']:.1e}"
    )
    if alone is not None:
        reporter.message(f"the solution on {shape.coarse} nodes per side alone: {alone:.2e}")
    reporter.message(f"written to {folder}")
    errors = {"the test": error}
    return Outcome(status, folder, operator, errors, missed(case.run.accuracy, errors))


def _estimator(
    trainer: OperatorTrainer,
    part: Part | None,
    current: Callable[[], Operator],
    every_epoch: bool,
) -> Callable[[], float | None]:
    """Mean relative L2 error on some samples of the validation; shown, never acted on.

    Made anew once an epoch at most, and so rarely that it costs little of the time.
    """
    if part is None or not len(part):
        return lambda: None
    some = part.of(part.data.select(slice(WATCHED)))
    known: dict[str, Any] = {"epoch": 0, "error": None, "next": 0.0}

    def estimate() -> float | None:
        epoch = trainer.done // trainer.per_epoch
        if epoch == known["epoch"] or (not every_epoch and time.monotonic() < known["next"]):
            return known["error"]
        began = time.monotonic()
        known["error"] = float(relative_errors(current(), some).mean())
        known["epoch"], now = epoch, time.monotonic()
        known["next"] = now + SHARE * (now - began)
        return known["error"]

    return estimate
