"""What training lowers: relative norms of fields on grids.

All take predictions and truths of shape (samples, channels, *n) and give one number a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["relative_h1", "relative_l2"]

LEAST = 1e-30
"""Of a squared norm that is divided by: a truth that is zero everywhere gives a huge number."""


def relative_l2(found: Tensor, true: Tensor) -> Tensor:
    """``|found - true| / |true|`` over all channels and nodes; shape (samples,)."""
    error = (found - true).flatten(1).square().sum(1)
    return (error / true.flatten(1).square().sum(1).clamp(min=LEAST)).sqrt()


def relative_h1(found: Tensor, true: Tensor, periodic: Sequence[bool]) -> Tensor:
    """The same in the norm of values and slopes, ``(|u|^2 + |grad u|^2)^(1/2)``; shape (samples,).

    Coordinates are scaled to length 2 pi, so that a wave of number k that the grid resolves
    counts ``1 + k^2`` times, whatever the unit of length (He, Liu and Xu, ICLR 2024). With a
    domain of length one it would be ``1 + 40 k^2``: hardly anything would be left for the mean,
    which is then found late.

    Slopes are differences between neighbours, where no derivative is taken across a kink twice.

    Args:
        found: predictions.
        true: truths.
        periodic: by coordinate, whether the last node is a neighbour of the first.
    """
    parts = []
    for field in (found - true, true):
        total = field.flatten(1).square().mean(1)
        for axis, wraps in enumerate(periodic, start=2):
            steps = field.shape[axis] - (0 if wraps else 1)
            change = field.roll(-1, axis) - field if wraps else field.diff(dim=axis)
            total = total + (change * (steps / (2 * math.pi))).flatten(1).square().mean(1)
        parts.append(total)
    return (parts[0] / parts[1].clamp(min=LEAST)).sqrt()
