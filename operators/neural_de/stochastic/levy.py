"""Space-time Levy areas, Brownian bridges that know them, and areas between channels.

Over a step from s of length h, a Brownian motion W has, besides its increment, the space-time
Levy area ``H = 1/h int_s^(s+h) (W_r - W_s - (r - s)/h (W_(s+h) - W_s)) dr``, normal with variance
h/12 and independent of the increment. With both, the integral of W over the step is known:
``h (W/2 + H)``. The formulas are those of Foster, Oberhauser and Lyons, "An optimal polynomial
approximation of Brownian motion" (SIAM J. Numer. Anal. 58, 2020), section 4.1, here for a split
anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Draw", "bridge", "joined", "levy_area", "merged"]

Number = TypeVar("Number", float, Tensor)


@dataclass(slots=True)
class Draw:
    """What a step needs to know of the Brownian motion.

    Attributes:
        w: shape (batch, channels), the increment.
        h: shape (batch, channels), the space-time Levy area, where the stepper uses it.
        area: shape (batch, channels, channels), antisymmetric, the Levy areas
            ``A_ij = 1/2 int (W_i dW_j - W_j dW_i)``, where the stepper uses them.
    """

    w: Tensor
    h: Tensor | None = None
    area: Tensor | None = None


def bridge(
    w: Tensor, h: Tensor, length: float | Tensor, x: Number, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Increment and Levy area of both parts of an interval that is split, given those of the whole.

    With ``p = x (1 - x)`` and ``q^2 = p / (1 - 3 p)``: the increment of the left part is normal
    around ``x W + 6 p H`` with variance ``length p (1 - 3 p)``; the areas follow from its
    covariance with the integral of W over the left part.

    Args:
        w: shape (batch, channels), increment over the whole.
        h: shape (batch, channels), Levy area of the whole.
        length: of the whole.
        x: fraction of the length left of the split, in [0, 1]; a number or (batch, 1).
        first: shape (batch, channels), standard normal numbers.
        second: shape (batch, channels), more of them.

    Returns:
        left increment, left area, right increment, right area.
    """
    y = 1 - x
    p = x * y
    q = (length * p / (1 - 3 * p)) ** 0.5
    left = x * w + 6 * p * h + q * (1 - 3 * p) * first
    first, second = -0.5 * q * first, q * second * 12**-0.5
    return left, x * x * (h + first) + y * second, w - left, y * y * (h + first) - x * second


def joined(left: Draw, right: Draw, x: float | Tensor = 0.5) -> Draw:
    """Increment and areas of an interval, given those of its parts (Chen's relation).

    Args:
        left: of the part before the split.
        right: of the part behind it.
        x: fraction of the length left of the split.
    """
    w = left.w + right.w
    h = area = None
    if left.h is not None and right.h is not None:
        y = 1 - x
        h = x * (left.h - 0.5 * right.w) + y * (right.h + 0.5 * left.w)
    if left.area is not None and right.area is not None:
        outer = 0.5 * left.w[..., :, None] * right.w[..., None, :]
        area = left.area + right.area + outer - outer.transpose(-1, -2)
    return Draw(w, h, area)


def merged(parts: Draw, count: int) -> Draw:
    """Draws of a coarse grid from those of one `count` times as fine, first axis the steps."""
    pieces = [
        None if value is None else value.unflatten(0, (-1, count)).unbind(1)
        for value in (parts.w, parts.h, parts.area)
    ]
    result = None
    for k in range(count):
        part = Draw(*(None if value is None else value[k] for value in pieces))  # type: ignore[arg-type]
        result = part if result is None else joined(result, part, k / (k + 1))
    assert result is not None
    return result


def levy_area(
    w: Tensor, h: Tensor, length: float | Tensor, normal: Tensor, method: str = "foster"
) -> Tensor:
    """Levy areas between channels that are right in their moments given the increments.

    ``A_ij = H_i W_j - W_i H_j + b_ij``. Of b given W and H only the variance is known and used:
    ``length^2 / 12`` on average over H (Davie, "KMT theory applied to approximations of SDE",
    2014), ``length^2 / 20 + length / 5 (H_i^2 + H_j^2)`` given H (Foster, "Numerical approximations
    for stochastic differential equations", thesis, Oxford 2020). The true area is not normal, so a
    scheme that uses this converges to the solution in law (in Wasserstein distance, with its order)
    and only with order 1/2 along a path.

    Args:
        w: shape (..., channels), increments.
        h: shape (..., channels), space-time Levy areas.
        length: of the step, a number or (..., 1).
        normal: shape (..., channels, channels), standard normal; above the diagonal is used.
        method: "foster" or "davie".

    Returns:
        shape (..., channels, channels), antisymmetric.
    """
    length = length[..., None] if isinstance(length, Tensor) else length
    if method == "davie":
        spread = normal * (length / 12**0.5)
    else:
        square = h * h
        square = square[..., :, None] + square[..., None, :]
        spread = normal * (length * (square / 5 + length / 20)).sqrt()
    half = h[..., :, None] * w[..., None, :] + torch.triu(spread, diagonal=1)
    return half - half.transpose(-1, -2)
