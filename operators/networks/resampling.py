"""From the nodes of one grid to those of another on the same domain.

Linear interpolation for data, which may jump; cubic splines for solutions, which do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor

__all__ = ["resampled"]

Kind = Literal["linear", "cubic"]


def resampled(
    field: Tensor, size: Sequence[int], *, periodic: bool, kind: Kind = "linear"
) -> Tensor:
    """Interpolation to other nodes, along one coordinate after the other.

    Args:
        field: shape (batch, channels, *n).
        size: nodes wanted along each coordinate.
        periodic: whether the first node comes again after the last; else both ends
            are nodes.
        kind: linear, or cubic splines (not-a-knot at the ends that are not periodic).

    Returns:
        Shape (batch, channels, *size); the same tensor where the grid is the same.
    """
    for axis, n in enumerate(size, start=2):
        if field.shape[axis] != n:
            matrix = _matrix(field.shape[axis], n, periodic, kind).to(field)
            field = (field.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return field


@lru_cache(maxsize=64)
def _matrix(old: int, new: int, periodic: bool, kind: Kind) -> Tensor:
    """Values at the old nodes to values at the new ones, shape (new, old)."""
    places = np.arange(new) / new if periodic else np.linspace(0.0, 1.0, new)
    nodes = np.arange(old + 1) / old if periodic else np.linspace(0.0, 1.0, old)
    unit = np.eye(old)
    if periodic:
        unit = np.vstack([unit, unit[:1]])
    if kind == "linear" or old < 4:
        found = make_interp_spline(nodes, unit, k=1)(places)
    else:
        found = CubicSpline(nodes, unit, bc_type="periodic" if periodic else "not-a-knot")(places)
    return torch.from_numpy(found)
