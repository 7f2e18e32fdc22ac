"""What training lowers: relative norms of fields on grids.

All take predictions and truths of shape (samples, channels, *n) and give one number a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["relative_h1", "relative_l2"]

LEAST = 1e-30
"""Of a squared norm that is divided by: a truth that is zero everywhere gives a huge number."""


def relative_l2(found: Tensor, true: Tensor) -> Tensor:
    """``|found - true| / |true|`` over all channels and nodes; shape (samples,)."""
    error = (found - true).flatten(1).square().sum(1)
    return (error / true.flatten(1).square().sum(1).clamp(min=LEAST)).sqrt()


def relative_h1(
    found: Tensor, true: Tensor, spacing: Sequence[float], periodic: Sequence[bool]
) -> Tensor:
    """The same in the norm of values and slopes, ``(|u|^2 + |grad u|^2)^(1/2)``; shape (samples,).

    Slopes are differences between neighbours, where no derivative is taken across a kink twice.

    Args:
        found: predictions.
        true: truths.
        spacing: between nodes, by coordinate.
        periodic: whether the last node of a coordinate is a neighbour of the first.
    """
    parts = []
    for field in (found - true, true):
        total = field.flatten(1).square().mean(1)
        for axis, (h, wraps) in enumerate(zip(spacing, periodic, strict=True), start=2):
            if wraps:
                slope = (field.roll(-1, axis) - field) / h
            else:
                slope = field.diff(dim=axis) / h
            total = total + slope.flatten(1).square().mean(1)
        parts.append(total)
    return (parts[0] / parts[1].clamp(min=LEAST)).sqrt()
