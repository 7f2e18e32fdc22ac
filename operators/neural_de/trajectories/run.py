"""One run from case to folder: train a model of series, measure it on the test, keep everything."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ....engine import checkpoint
from ....engine.fit import Progress, Record, Status, fit, restore
from ....errors import AccuracyError, ConfigurationError, DataError, DivergedError
from ....execution.folder import check_same, clear, make, write_configuration
from ....execution.settings import device_of, missed, settings
from ....execution.summary import peak_memory_mib, versions
from ....progress import Reporter
from ...schedule import numbered, one_cycle, shuffled
from ..registry import build_model, standardise
from .case import TrajectoryCase
from .fitted import TrajectoryModel
from .options import FitOptions
from .readers import read
from .series import Series
from .systems import generate

__all__ = ["Outcome", "plan", "series_of", "train_case"]

DRAWN = 6
"""Series in the figure."""
GENERATED = 2000
"""Paths of a generative model that are kept with the run."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        status: why training ended.
        folder: the run folder.
        model: what was trained.
        figures: what was measured on the test, by name.
        failure: the accuracy asked for was missed; None if it was reached or none was asked for.
    """

    status: Status
    folder: Path
    model: TrajectoryModel
    figures: dict[str, float]
    failure: AccuracyError | None = None


def series_of(case: TrajectoryCase) -> tuple[Series, Series]:
    """The series to train on and those to test on.

    Raises:
        ConfigurationError: no such system or parameter.
        DataError: the file is wrong, or holds too few series.
    """
    options = case.trajectories
    if options.file is not None:
        found = read(options.file)
    else:
        assert options.system is not None
        span = None if options.span is None else (options.span[0], options.span[1])
        try:
            found = generate(
                options.system, options.samples, seed=options.seed, points=options.points,
                span=span, parameters=options.parameters, noise=options.noise,
                missing=options.missing, irregular=options.irregular,
            )  # fmt: skip
        except ConfigurationError as error:
            raise error.under("trajectories") from None
    count = max(1, round(options.test * len(found)))
    if count >= len(found):
        raise DataError(
            f"{options.file or options.system}: {len(found)} series are too few to train on some "
            f"and test on {count}"
        )
    return found[: len(found) - count], found[len(found) - count :]  # type: ignore[misc]


def plan(case: TrajectoryCase, folder: Path) -> str:
    """What a checked case would do, in words.

    Raises:
        ConfigurationError: the model is not for such series.
        DataError: the file of series is wrong.
    """
    train, test = series_of(case)
    model = _model(case, train)
    count = sum(p.numel() for p in model.parameters())
    return "\n".join(
        [
            f"series: {case.trajectories.file or case.trajectories.system}, {len(train)} to train "
            f"on, {len(test)} to test, {train.channels} channels, up to {train.times.shape[1]} "
            f"points, {100 * float(train.known.double().mean()):.0f} % of the values known",
            f"model: {case.model.name}, {count} parameters",
            f"training: {case.training.steps} steps of {case.training.batch} series",
            f"run folder: {folder}",
        ]
    )


def _classes(series: Series) -> int | None:
    return None if series.labels is None else max(2, int(series.labels.max()) + 1)


def _model(case: TrajectoryCase, series: Series) -> nn.Module:
    dtype = getattr(torch, case.run.dtype)
    return build_model(case.model, series.channels, _classes(series), dtype, case.run.seed)


class _Trainer:
    """Trainer of `residua.engine.fit`: a mini-batch a step."""

    def __init__(self, model: nn.Module, series: Series, schedule: FitOptions, seed: int) -> None:
        self.model, self.series, self.schedule, self.seed = model, series, schedule, seed
        self.optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
        self.per_epoch = math.ceil(len(series) / schedule.batch)
        self.done, self.caution = 0, 1.0

    def step(self, seconds_left: float) -> Progress:
        """One mini-batch."""
        epoch, place = divmod(self.done, self.per_epoch)
        size = self.schedule.batch
        which = shuffled(len(self.series), self.seed, epoch)[place * size : (place + 1) * size]
        over = self.done / max(self.schedule.steps - 1, 1)
        rate = self.schedule.learning_rate * one_cycle(min(over, 1.0), self.schedule.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = self.caution * rate
        self.model.train()
        loss = self.model.loss(self.series[which], numbered(self.seed, self.done))  # type: ignore[operator]
        if not bool(loss.isfinite()):
            raise DivergedError("the loss is not finite")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        size_ = nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        if not bool(size_.isfinite()):
            raise DivergedError("a gradient is not finite")
        self.optimizer.step()
        self.done += 1
        return Progress(
            float(loss.detach()), extra=f"epoch {epoch + 1}", done=self.done >= self.schedule.steps
        )

    def soften(self) -> None:
        """After a divergence: half the learning rate."""
        self.caution /= 2

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        state = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "done": self.done, "caution": self.caution,
        }  # fmt: skip
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.caution = int(state["done"]), float(state["caution"])


def train_case(
    case: TrajectoryCase, *, out: Path | None, resume: bool, reporter: Reporter
) -> Outcome:
    """Train the model of a case.

    Args:
        case: what and how.
        out: run folder; None for the case's own. An earlier run there is replaced.
        resume: continue from the newest checkpoint in the folder.
        reporter: receives progress.

    Raises:
        ConfigurationError: the model is not for such series, or the device is not there.
        DataError: the file of series is wrong; or nothing to resume from, or another case.
        DivergedError: training diverged; the last good state is saved, as a model too.
        Interrupted: a signal came; a checkpoint is saved.
    """
    folder = Path(out) if out is not None else case.folder
    device = device_of(case.run.device)
    if resume:
        check_same(case, folder)
    try:
        with settings(case.run, device):
            return _train(case, device, folder, resume, reporter)
    finally:
        reporter.finish()


def _train(
    case: TrajectoryCase, device: torch.device, folder: Path, resume: bool, reporter: Reporter
) -> Outcome:
    train, test = series_of(case)
    model = _model(case, train).to(device)
    train, test = train.to(device), test.to(device)
    standardise(model, train)
    trainer = _Trainer(model, train, case.training, case.run.seed)
    make(folder)
    record = Record()
    if not resume:
        clear(folder)
    if resume and checkpoint.exists(folder / "checkpoints"):
        record = restore(trainer, folder)
        reporter.message(f"resumed at step {record.step}")
    elif resume:
        reporter.message("no checkpoint was saved yet: starting from the beginning")
    write_configuration(case, folder)
    count = sum(p.numel() for p in model.parameters())
    reporter.start(
        f"{case.name} by {case.model.name}, {count} parameters", case.run.budget,
        case.training.steps, seconds=record.seconds, steps=record.step,
    )  # fmt: skip
    try:
        status = fit(
            trainer, record, reporter=reporter, folder=folder, budget=case.run.budget,
            steps=case.run.steps, checkpoint_every=case.run.checkpoint_every,
            log_every=10 if case.run.deterministic else None, error=lambda: None,
        )  # fmt: skip
    except DivergedError:
        _write(case, model, train, test, record, Status.DIVERGED, folder, reporter)
        raise
    return _write(case, model, train, test, record, status, folder, reporter)


def _write(
    case: TrajectoryCase,
    model: nn.Module,
    train: Series,
    test: Series,
    record: Record,
    status: Status,
    folder: Path,
    reporter: Reporter,
) -> Outcome:
    reporter.finish()
    model.eval()
    figures = {name: float(value) for name, value in model.evaluate(test).items()}  # type: ignore[operator]
    metadata = {
        "model": case.model.name,
        "seed": case.run.seed,
        "seconds": record.seconds,
        "steps": record.step,
        "trained_parameters": sum(p.numel() for p in model.parameters()),
        "loss": record.history[-1]["loss"] if record.history else None,
        "train_series": len(train),
        "test_series": len(test),
        "test": figures,
        "peak_memory_mib": peak_memory_mib(),
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "config_digest": case.digest(),
    }
    fitted = TrajectoryModel(case, model, train.channels, _classes(train), status.value, metadata)
    fitted.save(folder)
    _keep_predictions(fitted, test, folder)
    reporter.message(f"{status.value}: step {record.step}, {record.seconds:.1f} s")
    said = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
    reporter.message(f"on {len(test)} test series: {said}")
    reporter.message(f"written to {folder}")
    errors = {"the test": figures["relative_l2"]} if "relative_l2" in figures else {}
    return Outcome(status, folder, fitted, figures, missed(case.run.accuracy, errors))


def _keep_predictions(fitted: TrajectoryModel, test: Series, folder: Path) -> None:
    """predictions.npz, and figure.png of the first series of the test beside them."""
    times, values = test.times.cpu().numpy(), test.values.cpu().numpy()
    if hasattr(fitted.model, "sample"):
        count = min(GENERATED, max(len(test), DRAWN))
        found = fitted.sample(times[0], count, fitted.case.run.seed)
    elif hasattr(fitted.model, "predict") and test.labels is None:
        found = fitted.predict(times, values)
    else:
        return
    np.savez(folder / "predictions.npz", times=times, values=values, found=found)
    if found.ndim == 3 and found.shape[1] > 1:
        _draw(folder / "figure.png", times, values, found, hasattr(fitted.model, "sample"))


def _draw(path: Path, times: Any, values: Any, found: Any, generated: bool) -> None:
    from matplotlib.figure import Figure

    channels = min(values.shape[2], 4)
    figure = Figure(figsize=(7, 2.2 * channels), layout="constrained")
    axes = figure.subplots(channels, 1, squeeze=False)[:, 0]
    for channel, axis in enumerate(axes):
        for k in range(min(DRAWN, len(values), len(found))):
            style = {"color": f"C{k}", "linewidth": 1.0}
            axis.plot(times[k], values[k, :, channel], ".", markersize=2.5, color=f"C{k}")
            axis.plot(times[0 if generated else k], found[k, :, channel], **style)
        axis.set_ylabel(f"channel {channel}")
    axes[0].set_title(
        "points: test series; lines: " + ("generated" if generated else "predicted"), fontsize=9
    )
    axes[-1].set_xlabel("time")
    figure.savefig(path, dpi=120)
