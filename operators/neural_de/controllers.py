"""How long a step is: constant, or chosen for every sample by the error of its last steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from ...errors import ConfigurationError

__all__ = ["PID", "Constant", "Controller", "root_mean_square"]

Norm: TypeAlias = Callable[[Tensor], Tensor]

TINY = 1e-12
"""Smallest error, in units of the tolerance, that the controller looks at."""

SMALLEST = 1e-30
"""Tolerance in place of zero, so that a state of zero without an error is not 0 / 0."""


def root_mean_square(scaled: Tensor) -> Tensor:
    """Root mean square over the components of each sample: (batch, d) gives (batch,)."""
    return torch.linalg.vector_norm(scaled, dim=1) / math.sqrt(scaled.shape[1])


@dataclass(frozen=True)
class Constant:
    """Steps of one length.

    The last step before the end, and before a step or jump time, is shortened to end there.

    Args:
        step: length, positive in both directions of time.
        step_times: times at which a step ends.
        jump_times: times at which a step ends and where the field may jump.

    Raises:
        ConfigurationError: the step is not a positive number.
    """

    step: float
    step_times: Sequence[float] = ()
    jump_times: Sequence[float] = ()

    def __post_init__(self) -> None:
        _positive("step", self.step)


@dataclass(frozen=True)
class PID:
    """Steps of each sample by a PID controller of its scaled error.

    With e the norm of ``error / (atol + rtol max(|y0|, |y1|))`` a step is accepted where e <= 1,
    and the next is longer by ::

        safety * e_n ** (-(p + i + d) / k) * e_(n-1) ** ((p + 2 d) / k) * e_(n-2) ** (-d / k)

    within [shrink, grow], where k is the order of the error estimate. (Soederlind, "Digital filters
    in adaptive time-stepping", ACM Trans. Math. Softw. 29 (2003); p = d = 0, i = 1 is the
    elementary controller of Hairer, Norsett and Wanner I, section II.4.) After a rejection the step
    does not grow.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        p: proportional gain.
        i: integral gain.
        d: derivative gain.
        safety: factor below one.
        shrink: smallest factor between steps.
        grow: largest factor between steps.
        smallest: a sample that needs a smaller step is given up.
        largest: no step is longer.
        first: length of the first step; None takes Hairer's rule (I, section II.4).
        norm: of the scaled error, (batch, d) to (batch,); None is the root mean square.
        step_times: times at which a step ends.
        jump_times: times at which a step ends and where the field may jump: it is evaluated anew
            on the other side.

    Raises:
        ConfigurationError: a tolerance, factor or length makes no sense.
    """

    rtol: float = 1e-5
    atol: float = 1e-7
    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    smallest: float = 0.0
    largest: float = math.inf
    first: float | None = None
    norm: Norm | None = None
    step_times: Sequence[float] = ()
    jump_times: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "smallest"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigurationError(
                    f"{name} is a number that is not negative.",
                    found=value,
                    advice=f"change {name}",
                )
        if self.rtol == self.atol == 0:
            raise ConfigurationError(
                "Both tolerances are zero.", advice="give a positive rtol or atol"
            )
        _positive("largest", self.largest, infinite=True)
        if self.first is not None:
            _positive("first", self.first)
        if not 0 < self.shrink < self.safety <= 1 <= self.grow:
            raise ConfigurationError(
                "The factors of a step are not in order.",
                found=(self.shrink, self.safety, self.grow),
                advice="choose 0 < shrink < safety <= 1 <= grow",
            )

    def size(self, error: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Norm of the error in units of the tolerance, shape (batch,), float64."""
        scale = torch.maximum(before.abs(), after.abs()).mul_(self.rtol)
        scale = scale.add_(max(self.atol, SMALLEST))
        return (self.norm or root_mean_square)(error / scale).double()

    def gains(self, order: int, device: torch.device) -> Tensor:
        """What the logarithms of the last three errors, newest first, are multiplied with."""
        return _gains(self.p, self.i, self.d, order, device)

    def first_step(
        self, slope: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, k: int, sign: float
    ) -> Tensor:
        """Length of the first step, shape (batch,), float64, positive; two evaluations.

        Args:
            slope: the field.
            t: shape (batch,), float64.
            y: shape (batch, d).
            k: order of the error estimate.
            sign: direction of time, 1 or -1.
        """
        norm = self.norm or root_mean_square
        scale = y.abs() * self.rtol + max(self.atol, SMALLEST)
        before = slope(t.to(y.dtype), y)
        size, speed = norm(y / scale).double(), norm(before / scale).double()
        small = (size < 1e-5) | (speed < 1e-5)
        guess = torch.where(small, 1e-6, 0.01 * size / torch.where(small, 1.0, speed))
        forward = (sign * guess).to(y.dtype)[:, None]
        after = slope((t + sign * guess).to(y.dtype), torch.addcmul(y, forward, before))
        bend = norm((after - before) / scale).double() / guess
        largest = torch.maximum(speed, bend)
        flat = largest <= 1e-15
        power = (0.01 / torch.where(flat, 1.0, largest)) ** (1 / k)
        step = torch.where(flat, (guess * 1e-3).clamp(min=1e-6), power)
        # The guess may have left the domain of the field: a smaller step may not.
        step = torch.where(torch.isfinite(step), step, 0.01 * guess)
        return torch.minimum(100 * guess, step)


@lru_cache
def _gains(p: float, i: float, d: float, order: int, device: torch.device) -> Tensor:
    gains = [-(p + i + d) / order, (p + 2 * d) / order, -d / order]
    return torch.tensor(gains, dtype=torch.float64, device=device)


Controller: TypeAlias = "Constant | PID"


def _positive(name: str, value: float, infinite: bool = False) -> None:
    if not value > 0 or (math.isinf(value) and not infinite):
        raise ConfigurationError(
            f"{name} is a positive length of time.", found=value, advice=f"change {name}"
        )
