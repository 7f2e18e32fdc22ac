"""One run from case to folder: train, measure against the reference, write everything down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..atomic import write_atomic
from ..config import Case
from ..engine.fit import Record, Status, fit, restore
from ..errors import ConfigurationError, DataError, DivergedError, ResourceError
from ..problems.references import Reference, ReferenceUnavailable
from ..progress import Reporter
from . import BACKENDS
from .solution import CONFIGURATION, Solution
from .summary import peak_memory_mib

ACCURACY_MISSED = 1


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        status: why training ended.
        exit_code: of the command.
        folder: the run folder.
        solution: the trained solution.
        errors: relative L2 error by field; empty where there is no reference.
    """

    status: Status
    exit_code: int
    folder: Path
    solution: Solution
    errors: dict[str, float]


def solve_case(case: Case, *, out: Path | None, resume: bool, reporter: Reporter) -> Outcome:
    """Solve a case.

    Args:
        case: what and how.
        out: run folder; None for the case's own.
        resume: continue from the newest checkpoint in the folder.
        reporter: receives progress.

    Raises:
        ConfigurationError: the backend cannot solve this problem, or the device is not there.
        DataError: nothing to resume from, or it belongs to another case.
        DivergedError: training diverged; the last good state is saved.
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
    device = _device(case)
    _prepare(case)
    folder.mkdir(parents=True, exist_ok=True)
    reference = _reference(case, reporter)
    try:
        trainer = backend.load()(case, device)
        record = Record()
        if resume:
            _check_same(case, folder)
            record = restore(trainer, folder)
            reporter.message(f"resumed at step {record.step}")
        else:
            write_atomic(folder / CONFIGURATION, case.text())
        for note in trainer.notes:
            reporter.message(f"note: {note}")
        reporter.start(
            f"{case.problem.name} by {backend.name}, {trainer.engine.parameter_count} parameters",
            case.run.budget,
            case.run.steps or _planned_steps(case, trainer.windows),
        )
        status = fit(
            trainer,
            record,
            reporter=reporter,
            folder=folder,
            budget=case.run.budget,
            steps=case.run.steps,
            checkpoint_every=case.run.checkpoint_every,
            log_every=10 if case.run.deterministic else None,
            error=_estimator(case, trainer, reference),
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory: {error}; use fewer points or a smaller network"
        ) from error
    reporter.finish()
    return _write(case, trainer, record, status, reference, folder, reporter, device)


def _write(
    case: Case,
    trainer: Any,
    record: Record,
    status: Status,
    reference: Reference | None,
    folder: Path,
    reporter: Reporter,
    device: torch.device,
) -> Outcome:
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
            "parameters": trainer.engine.parameter_count,
            "windows": trainer.windows,
            "loss": record.history[-1]["loss"] if record.history else None,
            "peak_memory_mib": peak_memory_mib(),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "config_digest": case.digest(),
            "notes": list(trainer.notes),
            "architecture": trainer.architecture,
        },
        case,
    )
    if len(trainer.finished) + 1 < trainer.windows:
        reporter.message(
            f"only {len(trainer.finished) + 1} of {trainer.windows} time windows were reached; "
            "give a larger budget and --resume"
        )
    comparison = None if reference is None else solution.compare(reference)
    solution.save(folder, reference=reference, comparison=comparison)
    errors = {} if comparison is None else dict(comparison.relative_l2)
    reporter.message(f"{status.value}: step {record.step}, {record.seconds:.1f} s")
    code = 0
    for name, error in errors.items():
        assert reference is not None and comparison is not None
        bar = comparison.error_bar[name]
        limited = " (reference-limited)" if error < 3 * bar else ""
        reporter.message(
            f"relative L2 error of {name}: {error:.2e}{limited}, reference known to {bar:.1e}"
        )
    if errors and reference is not None:
        worst = max(errors.values())
        seconds = reference.seconds_to(worst) if math.isfinite(worst) else None
        spent = "did not reach it" if seconds is None else f"needs {seconds:.2g} s for it"
        reporter.message(
            f"classical {reference.classical}: {spent}; this run took {record.seconds:.1f} s"
        )
    if case.run.accuracy is not None:
        worst = max(errors.values(), default=math.inf)
        if not worst <= case.run.accuracy:
            reporter.message(f"the accuracy asked for, {case.run.accuracy:.1e}, was missed")
            code = ACCURACY_MISSED
    reporter.message(f"written to {folder}")
    return Outcome(status, code, folder, solution, errors)


def _device(case: Case) -> torch.device:
    wanted = case.run.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "",
            path=("run", "device"),
            found="cuda",
            advice="there is no CUDA device here; write auto or cpu",
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _prepare(case: Case) -> None:
    """Precision and threads. TF32 is never used: residuals need every bit of their format."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if case.run.threads is not None:
        torch.set_num_threads(case.run.threads)
    if case.run.deterministic:
        torch.use_deterministic_algorithms(True)


def _reference(case: Case, reporter: Reporter) -> Reference | None:
    if case.problem.reference_spec.get("method") == "none":
        return None
    began = time.monotonic()
    try:
        reference = case.problem.reference()
    except ReferenceUnavailable as reason:
        reporter.message(f"no reference: {reason}")
        return None
    bars = ", ".join(f"{name} to {bar:.1e}" for name, bar in reference.error_bar.items())
    reporter.message(f"reference: {reference.method}, {bars} ({time.monotonic() - began:.1f} s)")
    return reference


def _planned_steps(case: Case, windows: int) -> int | None:
    counts = [stage.steps for stage in case.solver.optimizer]
    return windows * sum(c for c in counts if c is not None) if None not in counts else None


def _estimator(case: Case, trainer: Any, reference: Reference | None) -> Callable[[], float | None]:
    """Relative L2 error on a few points of the present window; shown, never acted on."""
    if reference is None:
        return lambda: None
    known: dict[int, tuple[torch.Tensor, np.ndarray]] = {}

    def estimate() -> float | None:
        window = trainer.window
        if window not in known:
            rng = np.random.default_rng(window)
            points = np.stack(
                [rng.uniform(low, high, 256) for low, high in trainer.current.bounds], 1
            )
            known.clear()
            known[window] = (
                torch.as_tensor(points).to(trainer.device, trainer.dtype),
                np.asarray(reference(points)),
            )
        points, truth = known[window]
        with torch.no_grad():
            values = trainer.current.field(points).cpu().double().numpy()
        size = float(np.linalg.norm(truth))
        return float(np.linalg.norm(values - truth)) / size if size else None

    return estimate


def _check_same(case: Case, folder: Path) -> None:
    """Refuse to continue a run of another problem or solver; the budget may differ."""
    from ..config import load_case

    path = folder / CONFIGURATION
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; nothing to resume")
    before = load_case(path)
    if (
        before.problem != case.problem
        or before.solver != case.solver
        or before.run.seed != case.run.seed
    ):
        raise DataError(
            f"{folder}: holds a run of another case; resume with the same problem, solver and seed"
        )


__all__ = ["DivergedError", "Outcome", "solve_case"]
