"""Errors of an operator on samples of a file, one number a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .build import Shape
from .coarse import coarse_solutions
from .evaluation.metrics import relative_l2
from .operator import Operator
from .samples import Part

__all__ = ["batches", "coarse_alone", "predicted", "relative_errors", "step_inputs"]

Array = NDArray[np.float64]
BLOCK = 32
"""Samples read at once."""


def batches(part: Part) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Inputs and truths, a few samples at a time.

    Of pairs, truths have shape (samples, channels, *n); of steps in time, all instants after the
    first ones: (samples, times, channels, *n).
    """
    for start in range(0, len(part), BLOCK):
        rows = slice(start, start + BLOCK)
        if not part.steps:
            yield part.data.inputs[rows], part.data.outputs[rows]
            continue
        states = part.data.states[rows]
        yield step_inputs(part, rows, states), states[:, part.history :]


def step_inputs(part: Part, rows: slice, states: NDArray[Any]) -> NDArray[Any]:
    """What the first step takes: static fields, then the first instants as channels."""
    first = [states[:, k] for k in range(part.history)]
    if part.static:
        first.insert(0, part.data.inputs[rows][:, : len(part.static)])
    return np.concatenate(first, axis=1)


def predicted(operator: Operator, inputs: NDArray[Any], truths: NDArray[Any]) -> NDArray[Any]:
    """What the operator makes of inputs: of the shape of the truths."""
    if truths.ndim == inputs.ndim:
        return operator(inputs)
    return operator.rollout(inputs, truths.shape[1])


def relative_errors(operator: Operator, part: Part) -> Array:
    """Relative L2 error of each sample: of the output, or of all predicted instants together."""
    found = [relative_l2(predicted(operator, a, u), u) for a, u in batches(part)]
    return np.concatenate(found)


def coarse_alone(shape: Shape, part: Part) -> float | None:
    """Mean error of the coarse solution that an operator corrects; None where it corrects none."""
    if not shape.coarse:
        return None
    found = [
        relative_l2(coarse_solutions(a, shape.coarse, shape.source), u) for a, u in batches(part)
    ]
    return float(np.concatenate(found).mean())
