"""Neighbourhoods of points: tiles of near points, and which Gaussians reach into each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..gaussian_taylor import WAVE

ELEMENTS = 2**16
"""Point-Gaussian pairs of a tile: its arrays stay in cache."""
SMALLEST, LARGEST = 64, 1024
"""Points of a tile."""

Some = Tensor | slice
"""Positions, or all of a range."""


def tiles(
    points: Tensor, means: Tensor, reach: Tensor, periodic: Sequence[int]
) -> Iterator[tuple[Some, Some]]:
    """Tiles that cover the points, each with the Gaussians that are not negligible on it.

    The work is that of pairs which are near, in dense pieces: with Gaussians whose number grows as
    the domain is resolved, a point meets no more of them than before.

    Args:
        points: shape (p, d).
        means: shape (n, d).
        reach: half extents of the boxes outside of which the Gaussians are taken as zero, shape
            (n, d).
        periodic: axes of period 2.

    Yields:
        Positions of a tile's points and of its Gaussians.
    """
    size = int(min(max(ELEMENTS // max(len(means), 1), SMALLEST), LARGEST))
    everything = slice(None)
    if len(points) <= size:
        yield everything, everything
        return
    corners = points.detach().cpu().numpy()
    pieces = _split(corners, np.arange(len(points)), size)
    low = torch.from_numpy(np.stack([corners[piece].min(0) for piece in pieces])).to(points)
    high = torch.from_numpy(np.stack([corners[piece].max(0) for piece in pieces])).to(points)
    near = torch.ones(len(pieces), len(means), dtype=torch.bool, device=points.device)
    for axis in range(points.shape[1]):
        apart = ((low + high)[:, axis, None] / 2 - means[:, axis]).abs()
        if axis in periodic:
            period = 2 * torch.pi / WAVE
            apart = apart % period
            apart = torch.minimum(apart, period - apart)
        near &= apart - (high - low)[:, axis, None] / 2 <= reach[:, axis]
    if bool(near.all()):
        for start in range(0, len(points), size):
            yield slice(start, start + size), everything
        return
    for piece, row in zip(pieces, near, strict=True):
        active = everything if bool(row.all()) else torch.nonzero(row)[:, 0]
        yield torch.from_numpy(piece).to(points.device), active


def _split(points: np.ndarray, chosen: np.ndarray, size: int) -> list[np.ndarray]:
    """Halve along the longest side until pieces are small: the leaves of a k-d tree."""
    if len(chosen) <= size:
        return [chosen]
    members = points[chosen]
    axis = int(np.argmax(np.ptp(members, axis=0)))
    half = size * ((len(chosen) // size + 1) // 2)
    order = np.argpartition(members[:, axis], half - 1)
    return _split(points, chosen[order[:half]], size) + _split(points, chosen[order[half:]], size)
