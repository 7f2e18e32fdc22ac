"""One run from case to folder: train, measure against the reference, write everything down."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import Case
from ..engine import checkpoint
from ..engine.fit import Record, Status, fit, restore
from ..errors import AccuracyError, ConfigurationError, DivergedError, ResourceError
from ..execution.folder import check_same, clear, make, write_configuration
from ..execution.settings import device_of, missed, settings
from ..execution.summary import peak_memory_mib
from ..problems.notes import problem_notes
from ..problems.references import Reference, ReferenceUnavailable
from ..progress import Reporter
from . import BACKENDS
from .memory import check_memory
from .solution import Solution
from .trainer import SolverTrainer

HIDDEN = 10.0
"""A residual this much larger between the collocation points than on them is worth a warning."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        status: why training ended.
        folder: the run folder.
        solution: the trained solution.
        errors: relative L2 error by field; empty where there is no reference.
        failure: the accuracy asked for was missed; None if it was reached or none was asked for.
    """

    status: Status
    folder: Path
    solution: Solution
    errors: dict[str, float]
    failure: AccuracyError | None = None

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 0 if self.failure is None else self.failure.exit_code


def solve_case(case: Case, *, out: Path | None, resume: bool, reporter: Reporter) -> Outcome:
    """Solve a case.

    Args:
        case: what and how.
        out: run folder; None for the case's own. An earlier run there is replaced.
        resume: continue from the newest checkpoint in the folder.
        reporter: receives progress.

    Raises:
        ConfigurationError: the backend cannot solve this problem, or the device is not there.
        DataError: nothing to resume from, or it belongs to another case.
        DivergedError: training diverged; the last good state is saved, as a solution too.
        Interrupted: a signal came; a checkpoint is saved.
        ResourceError: memory or disk ran out.
    """
    backend = BACKENDS[case.solver.name]
    if reason := backend.accepts(case.problem):
        raise ConfigurationError(
            f"the backend {backend.name} cannot solve {case.problem.name}: {reason}",
            path=("solver", "name"),
            advice="choose another backend; `residua list` shows which accept a problem",
        )
    folder = Path(out) if out is not None else case.folder
    check_memory(case)
    device = device_of(case.run.device)
    if resume:
        check_same(case, folder)
    try:
        with settings(case.run, device):
            return _train(case, device, folder, resume, reporter)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory: {error}; use fewer points or a smaller network"
        ) from error
    finally:
        reporter.finish()


def _train(
    case: Case, device: torch.device, folder: Path, resume: bool, reporter: Reporter
) -> Outcome:
    backend = BACKENDS[case.solver.name]
    with contextlib.closing(backend.load()(case, device)) as trainer:
        make(folder)
        reference = _reference(case, reporter)
        return _train_with(trainer, case, reference, folder, resume, reporter)


def _train_with(
    trainer: SolverTrainer,
    case: Case,
    reference: Reference | None,
    folder: Path,
    resume: bool,
    reporter: Reporter,
) -> Outcome:
    record = Record()
    if not resume:
        clear(folder)
    # On resumption too: budget, steps and accuracy may be new ones.
    write_configuration(case, folder)
    if resume and checkpoint.exists(folder / "checkpoints"):
        record = restore(trainer, folder)
        reporter.message(f"resumed at step {record.step}")
    elif resume:
        reporter.message("no checkpoint was saved yet: starting from the beginning")
    for note in [*trainer.notes, *_notes(case, trainer)]:
        reporter.message(f"note: {note}")
    reporter.start(
        f"{case.problem.name} by {case.solver.name}, {trainer.parameter_count} parameters",
        case.run.budget,
        _planned_steps(case),
        seconds=record.seconds,
        steps=record.step,
    )
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
            error=_estimator(trainer, reference),
        )
    except DivergedError:
        reporter.finish()
        _write(case, trainer, record, Status.DIVERGED, reference, folder, reporter)
        raise
    reporter.finish()
    return _write(case, trainer, record, status, reference, folder, reporter)


def _notes(case: Case, trainer: SolverTrainer) -> list[str]:
    """What a person should know before a long run."""
    notes = []
    rows = trainer.residual_count
    if rows < trainer.parameter_count:
        notes.append(
            f"{rows} residuals for {trainer.parameter_count} parameters: between the points the "
            "equation is free to fail; raise solver.points.interior"
        )
    notes += problem_notes(case.problem)
    if case.run.deterministic and case.run.budget is not None:
        notes.append("run.budget is wall time: the run repeats exactly only if it ends before")
    return notes


def _write(
    case: Case,
    trainer: SolverTrainer,
    record: Record,
    status: Status,
    reference: Reference | None,
    folder: Path,
    reporter: Reporter,
) -> Outcome:
    residuals = trainer.residuals()
    field = trainer.field.requires_grad_(False)
    solution = Solution(
        case.problem,
        field,
        status.value,
        case.run.seed,
        record.history,
        {
            "solver": case.solver.name,
            "seconds": record.seconds,
            "steps": record.step,
            "trained_parameters": trainer.parameter_count,
            "windows": trainer.windows,
            "loss": record.history[-1]["loss"] if record.history else None,
            "peak_memory_mib": peak_memory_mib(),
            "device": str(trainer.device),
            "threads": torch.get_num_threads(),
            "config_digest": case.digest(),
            "notes": list(trainer.notes),
            "residual": residuals,
            "architecture": trainer.architecture,
            **trainer.report(),
        },
        case,
    )
    reached = trainer.reached
    if reached < trainer.windows and status is not Status.DIVERGED:
        reporter.message(
            f"only {reached} of {trainer.windows} time windows were reached; "
            f"give a larger budget with --resume --out {folder}"
        )
    comparison = None if reference is None else solution.compare(reference)
    solution.save(folder, reference=reference, comparison=comparison)
    _say_residuals(residuals, reporter)
    errors = {} if comparison is None else dict(comparison.relative_l2)
    reporter.message(f"{status.value}: step {record.step}, {record.seconds:.1f} s")
    for name, error in errors.items():
        assert reference is not None and comparison is not None
        bar = comparison.error_bar[name]
        limited = " (reference-limited)" if comparison.reference_limited[name] else ""
        what = f"relative L2 error of {name}"
        if name in comparison.absolute:
            what = f"absolute error of {name} (root mean square, for the reference is 0)"
        reporter.message(f"{what}: {error:.2e}{limited}, reference known to {bar:.1e}")
    if comparison is not None and not comparison.settled:
        reporter.message(
            "warning: the error is so uneven that the quadrature of its square has not settled; "
            "take it as an order of magnitude"
        )
    if errors and reference is not None:
        worst = max(errors.values())
        reporter.message(
            f"{_classical_time(reference, worst)}; this run took {record.seconds:.1f} s"
        )
    failure = missed(case.run.accuracy, errors)
    reporter.message(f"written to {folder}")
    return Outcome(status, folder, solution, errors, failure)


def _classical_time(reference: Reference, error: float) -> str:
    """What the classical solver needs for the same error, in words."""
    seconds = reference.seconds_to(error) if math.isfinite(error) else None
    if seconds is not None:
        return f"classical {reference.classical}: needs at most {seconds:.2g} s for it"
    rows = reference.costs()
    if not rows:
        return "no classical solver of the suite applies"
    return f"classical {reference.classical}: reached {min(e for _, e in rows):.1e} at best"


def _say_residuals(residuals: list[dict[str, float]], reporter: Reporter) -> None:
    """The residual on fresh points, and a warning where it is far from the training's."""
    worst = max(entry["fresh"] for entry in residuals)
    reporter.message(f"residual on fresh points: {worst:.1e} (root mean square)")
    hidden = [
        f"window {number}" if len(residuals) > 1 else "the domain"
        for number, entry in enumerate(residuals, start=1)
        if not entry["fresh"] <= HIDDEN * entry["training"]
    ]
    if hidden:
        reporter.message(
            f"warning: in {', '.join(hidden)} the residual is more than {HIDDEN:g} times larger "
            "between the collocation points than on them; raise solver.points.interior"
        )


def _reference(case: Case, reporter: Reporter) -> Reference | None:
    method = case.problem.reference_spec.get("method")
    if method == "none":
        return None
    if method == "auto":  # the others take no time to speak of
        reporter.message("computing the reference")
    began = time.monotonic()
    try:
        reference = case.problem.reference()
    except ReferenceUnavailable as reason:
        reporter.message(f"no reference: {reason}")
        return None
    bars = ", ".join(f"{name} to {bar:.1e}" for name, bar in reference.error_bar.items())
    reporter.message(f"reference: {reference.method}, {bars} ({time.monotonic() - began:.1f} s)")
    if reference.note:
        reporter.message(f"note: {reference.note}".replace("note: warning: ", "warning: "))
    return reference


def _planned_steps(case: Case) -> int | None:
    """Steps after which the run ends at the latest, if any number is given."""
    limits = (case.run.steps, case.solver.planned_steps)
    return min((limit for limit in limits if limit is not None), default=None)


def _estimator(trainer: SolverTrainer, reference: Reference | None) -> Callable[[], float | None]:
    """Relative L2 error on a few points of the present window; shown, never acted on."""
    if reference is None:
        return lambda: None
    known: dict[int, tuple[torch.Tensor, np.ndarray]] = {}

    def estimate() -> float | None:
        window, bounds, field = trainer.present
        if window not in known:
            rng = np.random.default_rng(window)
            points = np.stack([rng.uniform(low, high, 256) for low, high in bounds], 1)
            known.clear()
            known[window] = (
                torch.as_tensor(points).to(trainer.device, trainer.dtype),
                np.asarray(reference(points)),
            )
        points, truth = known[window]
        with torch.no_grad():
            values = field(points).cpu().double().numpy()
        size = float(np.linalg.norm(truth))
        return float(np.linalg.norm(values - truth)) / size if size else None

    return estimate


__all__ = ["Outcome", "solve_case"]
