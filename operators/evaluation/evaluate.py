"""Everything that is measured of a trained operator, as plain values for evaluation.json."""

from __future__ import annotations

import dataclasses
import itertools
import statistics as middle
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...atomic import write_atomic
from ...errors import ConfigurationError, DataError
from ...execution.summary import peak_memory_mib, to_json, versions
from .. import fine_tuning
from ..build import parameters
from ..coarse import source_of
from ..datasets.dataset import refuse_leaks
from ..errors import batches, coarse_alone, predicted
from ..laws import Law, law_of
from ..operator import Operator
from ..options import PhysicsOptions
from ..physics import residual_of
from ..samples import Part, open_part, open_samples
from .classical import Classical, classical
from .conformal import LEVELS, bands, needed
from .metrics import pdebench, relative_l2, relative_l2_by_step, statistics
from .resolutions import other_grids
from .spectra import spectrum

__all__ = ["Evaluation", "evaluate"]

FILE = "evaluation.json"
FIGURE = "evaluation.png"
USUAL = 200
"""Training samples that tell how large an error is usual at each node."""
REPEATS = 5


@dataclass(frozen=True)
class Evaluation:
    """Numbers, and what a figure needs of one sample.

    Attributes:
        numbers: as in evaluation.json.
        inputs: of the sample of the median error, shape (channels, *n).
        found: prediction, shape (times, channels, *n).
        true: truth, shape (times, channels, *n).
    """

    numbers: dict[str, Any]
    inputs: NDArray[Any]
    found: NDArray[Any]
    true: NDArray[Any]

    def save(self, folder: Path) -> None:
        """Write evaluation.json and evaluation.png.

        Raises:
            ResourceError: something cannot be written.
        """
        from .figures import draw

        write_atomic(folder / FILE, to_json(self.numbers))
        draw(folder / FIGURE, self)


def evaluate(
    operator: Operator,
    *,
    file: Path | None = None,
    metrics: str = "standard",
    count: int = 20,
    fine_tune: int = 0,
) -> Evaluation:
    """Measure an operator.

    Args:
        operator: trained.
        file: samples to test on, of any resolution; None for the test of its case. Its split `test`
            where it has one, else all of it.
        metrics: standard, or pdebench for the metrics of that benchmark too.
        count: samples on other grids, and that are fine-tuned.
        fine_tune: steps of fine-tuning by the equation; 0 for none.

    Raises:
        ConfigurationError: the file does not hold what the operator takes.
        DataError: a file is missing or wrong.
    """
    # A rollout may leave what numbers can hold; what is not finite is told in the results.
    with np.errstate(invalid="ignore", over="ignore"):
        return _measured(operator, file, metrics, count, fine_tune)


def _measured(
    operator: Operator, file: Path | None, metrics: str, count: int, fine_tune: int
) -> Evaluation:
    whole, test, calibration, usual = _parts(operator, file)
    physics = operator.case.physics or PhysicsOptions()
    # What cannot be done is said before anything is measured.
    law = law_of(physics, test) if fine_tune else None
    inputs, found, true = _predictions(operator, test)
    errors = relative_l2(found, true)
    mean = float(errors.mean())
    numbers: dict[str, Any] = {
        "data": str(test.data.path),
        "samples": len(test),
        "resolution": list(test.size),
        "trained_at": list(operator.shape.size),
        "map": "steps" if test.steps else "pairs",
        "relative_l2": statistics(errors),
        "relative_l2_of_zero_skill": _without_skill(test, inputs, true),
        "resolutions": _resolutions(operator, whole, test, count),
        "rollout": _rollout(found, true, test, inputs),
        "spectrum": _spectrum(found, true, test),
        "conformal": _conformal(operator, usual, calibration, (found, true)),
        "cost": _cost(operator, test),
        "coarse_alone": coarse_alone(operator.shape, test),
        "classical": _classical(classical(test, mean)),
        "fine_tuned": law and _fine_tuned(operator, test, law, physics, fine_tune, count),
        "versions": versions(),
    }
    if metrics == "pdebench":
        numbers["pdebench"] = pdebench(found, true)
    typical = int(np.argsort(errors)[len(errors) // 2])
    return Evaluation(numbers, inputs[typical], found[typical], true[typical])


def _parts(operator: Operator, file: Path | None) -> tuple[Part, Part, Part | None, Part | None]:
    """The test on all nodes of its file and as trained; samples for calibration and for scale."""
    options = operator.case.data
    if file is None:
        samples = open_samples(options)
        all_nodes = open_samples(dataclasses.replace(options, resolution=None))
        return all_nodes.test, samples.test, samples.validation, samples.train
    options = dataclasses.replace(options, resolution=None, outputs_file=None)
    try:
        whole = open_part(options, file)
    except ConfigurationError as error:
        raise _other_data(operator, file, error.message) from None
    if options.test in whole.data.splits:
        whole = whole.of(whole.data.split(options.test))
    shape = operator.shape
    same = (whole.inputs, whole.outputs, len(whole.size))
    if same != (shape.given, shape.outputs, len(shape.size)) or whole.steps != operator.steps:
        held = f"{', '.join(whole.inputs)} to {', '.join(whole.outputs)}"
        raise _other_data(operator, file, f"it holds {held} in {len(whole.size)} coordinates")
    if whole.boundary != shape.boundary:
        raise _other_data(operator, file, f"it is {whole.boundary}, not {shape.boundary}")
    if shape.coarse and source_of(whole) != shape.source:
        raise _other_data(operator, file, "its equations are not those of the coarse solution")
    if reason := operator.refusal(whole.size):
        raise _other_data(operator, file, f"it has {whole.size} nodes, and {reason}")
    _check_unseen(operator, file, whole)
    return whole, whole, None, None


def _check_unseen(operator: Operator, file: Path, test: Part) -> None:
    """Refuse a test on what was trained on, where the training file is still there."""
    if not Path(operator.case.data.file).is_file():
        warnings.warn(
            f"{operator.case.data.file} is gone: whether the operator was trained on samples of "
            f"{file} cannot be checked",
            stacklevel=2,
        )
        return
    try:
        refuse_leaks({"train": open_samples(operator.case.data).train.data, "test": test.data})
    except DataError as error:
        raise DataError(f"--data {file}: {error}") from None


def _other_data(operator: Operator, file: Path, why: str) -> ConfigurationError:
    """What to say of data that the operator does not take."""
    shape = operator.shape
    names = f"{', '.join(shape.given)} to {', '.join(shape.outputs)}"
    count = len(shape.size)
    return ConfigurationError(
        f"--data {file}: is not what this operator takes: {why}",
        advice=f"give data of {names} in {count} coordinate{'s' if count > 1 else ''}",
    )


def _predictions(operator: Operator, part: Part) -> tuple[NDArray[Any], ...]:
    """Inputs, predictions and truths; the latter of shape (samples, times, channels, *n)."""
    taken, found, true = [], [], []
    for a, u in batches(part):
        made = predicted(operator, a, u)
        taken.append(a)
        found.append(made if part.steps else made[:, None])
        true.append(u if part.steps else u[:, None])
    return np.concatenate(taken), np.concatenate(found), np.concatenate(true)


def _without_skill(part: Part, inputs: NDArray[Any], true: NDArray[Any]) -> dict[str, float | None]:
    """Errors of what needs no training: the mean of other truths, and that nothing changes."""
    found: dict[str, float | None] = {"mean_of_test": None}
    if len(true) > 1:  # of the others, for one's own truth is no prediction
        others = (true.sum(0) - true) / (len(true) - 1)
        found["mean_of_test"] = float(relative_l2(others, true).mean())
    channels = true.shape[2]
    if part.steps:
        last = np.broadcast_to(inputs[:, None, -channels:], true.shape)
        found["first_instant_kept"] = float(relative_l2(last, true).mean())
    return found


def _resolutions(operator: Operator, whole: Part, test: Part, count: int) -> list[dict[str, Any]]:
    """Mean error on other grids, beside that of the same samples on the grid of the test."""
    base: dict[int, float] = {}

    def same(samples: int) -> float:
        if samples not in base:
            some = test.of(test.data.select(slice(samples)))
            _, found, true = _predictions(operator, some)
            base[samples] = float(relative_l2(found, true).mean())
        return base[samples]

    rows = []
    for grid in other_grids(whole, test, count):
        row: dict[str, Any] = {"grid": grid.label, "nodes": grid.size, "source": grid.source}
        refusal = None
        if grid.inputs is not None:
            refusal = operator.refusal(grid.inputs.shape[2:])
        if grid.inputs is None or grid.truths is None or refusal:
            rows.append({**row, "mean": None, "source": refusal or grid.source})
            continue
        found = predicted(operator, grid.inputs, grid.truths)
        mean = float(relative_l2(found, grid.truths).mean())
        samples = len(grid.inputs)
        ratio = mean / same(samples) if same(samples) else None
        rows.append({**row, "samples": samples, "mean": mean, "ratio_to_test_grid": ratio})
    return rows


def _rollout(
    found: NDArray[Any], true: NDArray[Any], part: Part, inputs: NDArray[Any]
) -> list[dict[str, float]] | None:
    """Errors against the number of steps; beside them, of keeping the first instant."""
    if not part.steps:
        return None
    channels = true.shape[2]
    kept = relative_l2_by_step(np.broadcast_to(inputs[:, None, -channels:], true.shape), true)
    errors = relative_l2_by_step(found, true)
    return [
        {"step": k + 1, **statistics(errors[:, k]), "first_instant_kept": float(kept[:, k].mean())}
        for k in range(errors.shape[1])
    ]


def _spectrum(found: NDArray[Any], true: NDArray[Any], part: Part) -> dict[str, list[float]]:
    """Mean square by wave number, of the last instant."""
    last, truth = found[:, -1].astype(float), true[:, -1].astype(float)
    return {
        "reference": spectrum(truth, part.periodic).tolist(),
        "error": spectrum(last - truth, part.periodic).tolist(),
    }


def _conformal(
    operator: Operator,
    usual: Part | None,
    calibration: Part | None,
    test: tuple[NDArray[Any], NDArray[Any]],
) -> dict[str, Any] | None:
    if usual is None or calibration is None or not len(calibration):
        return None
    _, found, true = _predictions(operator, usual.of(usual.data.select(slice(USUAL))))
    scale = np.sqrt(((found.astype(float) - true) ** 2).mean(0))
    _, found, true = _predictions(operator, calibration)
    rows = bands(scale, (found, true), test)
    level = LEVELS[-1]
    least = next(n for n in itertools.count(1) if needed(n, level) <= n)
    note = "" if len(calibration) >= least else f"{level:g} needs {least} samples"
    return {"calibration_samples": len(calibration), "bands": rows, "note": note}


def _cost(operator: Operator, part: Part) -> dict[str, Any]:
    """Size of the operator, and time of a prediction: of a step in time, that of all instants."""
    some, true = next(batches(part))
    seconds = {}
    for batch in (1, len(some)):
        spent = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            predicted(operator, some[:batch], true[:batch])
            spent.append((time.perf_counter() - began) / batch)
        seconds[f"batch_{batch}"] = middle.median(spent[1:])
    known = operator.metadata
    return {
        "parameters": parameters(operator.model),
        "training_seconds": known.get("seconds"),
        "seconds_per_epoch": known.get("seconds_per_epoch"),
        "inference_seconds_per_sample": seconds,
        "training_peak_memory_mib": known.get("peak_memory_mib"),
        "evaluation_peak_memory_mib": peak_memory_mib(),
        "device": str(next(operator.model.parameters()).device),
        "threads": torch.get_num_threads(),
    }


def _fine_tuned(
    operator: Operator, test: Part, law: Law, physics: PhysicsOptions, steps: int, count: int
) -> dict[str, Any]:
    """Errors of the first samples before and after, each fine-tuned by itself."""
    residual = residual_of(law)
    before, after, residuals = [], [], []
    began = time.perf_counter()
    some = test.of(test.data.select(slice(count)))
    for inputs, truths in batches(some):
        for a, u in zip(inputs, truths, strict=True):
            tuned = fine_tuning.fine_tune(
                operator, a, residual, steps=steps, learning_rate=physics.learning_rate,
                instants=len(u) if test.steps else 1,
            )  # fmt: skip
            residuals.append((tuned.before, tuned.after))
            for errors, which in ((before, operator), (after, tuned.operator)):
                errors.append(relative_l2(predicted(which, a[None], u[None]), u[None]))
    return {
        "equation": law.equation,
        "steps": steps,
        "samples": len(after),
        "before": statistics(np.concatenate(before)),
        "after": statistics(np.concatenate(after)),
        "residual_before": float(np.mean([r[0] for r in residuals])),
        "residual_after": float(np.mean([r[1] for r in residuals])),
        "seconds_per_sample": (time.perf_counter() - began) / len(after),
    }


def _classical(found: Classical) -> dict[str, Any]:
    return {
        "method": found.method,
        "seconds_to_same_error": found.seconds,
        "floor_on_the_same_nodes": found.floor,
        "median_error_bar_of_truth": found.bar,
        "solves": [dataclasses.asdict(solve) for solve in found.solves],
        "note": found.note,
    }
