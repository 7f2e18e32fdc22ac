"""How far along a direction: a strong-Wolfe line search that survives NaN and rounding.

With ``f(a)`` the objective at distance a and ``f'`` its slope, a step is accepted when

    f(a) <= f(0) + c1 a f'(0)    and    |f'(a)| <= c2 |f'(0)|        (strong Wolfe)

Close to a minimum the first test compares numbers that agree to all their digits. Where the two
values differ by less than rounding, the slope alone decides: the approximate Wolfe conditions of
Hager and Zhang (SIAM J. Optim. 16, 2005), which a quadratic meets exactly when it meets the others.

The bracket is kept as in Nocedal and Wright, "Numerical Optimization", section 3.5: one end, `low`,
is the best step so far that is not too high; the slope there points to the other, `high`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FARTHEST = 10.0
"""An extrapolation goes at most so many times as far as the last trial did."""
CLOSEST = 0.1
"""A trial stays off the ends of its bracket by this share of it."""
SHRINK = 2 / 3
"""A bracket that has not shrunk so far in two trials is cut in half."""
RETREAT = 0.25
"""Where a trial was not finite, go so far of the way to it."""
NARROWEST = 1e-13
"""Relative width at which a bracket holds nothing more."""


@dataclass(frozen=True)
class Trial:
    """The objective at a distance along the direction.

    Attributes:
        step: the distance.
        value: of the objective.
        slope: its derivative by the distance.
        gradient: by the parameters, kept for whoever takes the step.
    """

    step: float
    value: float
    slope: float
    gradient: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Value and slope are numbers."""
        return math.isfinite(self.value) and math.isfinite(self.slope)


def rounding(dtype: torch.dtype) -> float:
    """Relative size below which a difference of two sums of many terms is not to be believed."""
    return torch.finfo(dtype).eps ** (2 / 3)


def strong_wolfe(
    evaluate: Callable[[float], Trial],
    origin: Trial,
    first: float = 1.0,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    noise: float = 0.0,
    most: int = 30,
) -> Trial | None:
    """Find a step that lowers the objective enough and leaves little slope.

    Args:
        evaluate: the objective at a distance; may return what is not finite.
        origin: at distance zero, with a negative slope.
        first: the first distance tried.
        c1: least share of the decrease that the slope promises.
        c2: largest share of the slope that may be left.
        noise: relative differences of values up to this are rounding (`rounding`).
        most: evaluations.

    Returns:
        The step. If none was found within `most` evaluations, the lowest one that meets the first
        condition; None if there is none.
    """
    blur = noise * abs(origin.value)
    low, high = origin, None
    behind = origin
    lowest: Trial | None = None
    widths = [math.inf, math.inf]
    step = first
    for _ in range(most):
        trial = evaluate(step)
        excess = trial.value - (origin.value + c1 * step * origin.slope)
        if trial.finite:
            enough = excess <= 0
            level = abs(trial.value - origin.value) <= blur
            if (enough or level) and abs(trial.slope) <= c2 * abs(origin.slope):
                return trial
            if enough and trial.value < (lowest or origin).value:
                lowest = trial
        if not trial.finite or excess > blur or trial.value > low.value + blur:
            high = trial
        else:
            onward = 1.0 if high is None else high.step - low.step
            behind, low = low, trial
            if trial.slope * onward >= 0:
                high = behind
        if high is None:
            step = _beyond(behind, low)
            if not math.isfinite(step):
                break
            continue
        width = abs(high.step - low.step)
        if width <= NARROWEST * max(high.step, low.step):
            break
        step = _between(low, high, blur, halve=width > SHRINK * widths[0])
        widths = [widths[1], width]
    return lowest


def _between(low: Trial, high: Trial, blur: float, *, halve: bool) -> float:
    """The next trial inside a bracket."""
    width = high.step - low.step
    if not high.finite:
        return low.step + RETREAT * width
    if halve:
        return low.step + 0.5 * width
    if abs(high.value - low.value) <= blur:
        step = _secant(low, high)
    else:
        step = _cubic(low, high)
    share = (step - low.step) / width
    if not math.isfinite(share):
        share = 0.5
    return low.step + min(max(share, CLOSEST), 1 - CLOSEST) * width


def _beyond(behind: Trial, low: Trial) -> float:
    """The next trial where every one so far went downhill."""
    step = _cubic(behind, low)
    least = low.step + (low.step - behind.step)
    # A cubic without a minimum on this side says nothing; then go far.
    if not math.isfinite(step) or step <= low.step:
        return FARTHEST * low.step
    return min(max(step, least), FARTHEST * low.step)


def _cubic(a: Trial, b: Trial) -> float:
    """Minimum of the cubic with the values and slopes of two trials; NaN where it has none."""
    width = b.step - a.step
    mean = a.slope + b.slope - 3 * (b.value - a.value) / width
    square = mean * mean - a.slope * b.slope
    if not square >= 0:
        return math.nan
    root = math.copysign(math.sqrt(square), width)
    divisor = b.slope - a.slope + 2 * root
    return math.nan if divisor == 0 else b.step - width * (b.slope + root - mean) / divisor


def _secant(a: Trial, b: Trial) -> float:
    """Where the slope vanishes, if it is linear; NaN where it is constant."""
    change = b.slope - a.slope
    return math.nan if change == 0 else a.step - a.slope * (b.step - a.step) / change
