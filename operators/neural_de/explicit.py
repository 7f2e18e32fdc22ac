"""Explicit Runge-Kutta steppers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tableaus
from .dense import StagePolynomial
from .steppers import Step
from .tableaus import Tableau

__all__ = [
    "RK4",
    "Bosh3",
    "Dopri5",
    "Dopri8",
    "Euler",
    "ExplicitRungeKutta",
    "Heun",
    "Midpoint",
    "Tsit5",
]


class ExplicitRungeKutta:
    """A step by the coefficients of a tableau.

    The cache is the slope at the beginning of the step, shape (batch, d): the last stage of the
    step before.

    Args:
        tableau: coefficients of the method.
    """

    def __init__(self, tableau: Tableau) -> None:
        self.tableau = tableau
        self.order = tableau.order
        self.error_order = tableau.error_order
        self.dense_order = tableau.dense_order
        self.evaluations = len(tableau.matrix)
        self._tensors: dict[tuple[torch.dtype, torch.device], _Tensors] = {}

    def __repr__(self) -> str:
        return f"{self.tableau.name}()"

    def begin(self, term: Any, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """The slope at t (batch,) and y (batch, d)."""
        return term(t.to(y.dtype), y)

    def step(self, term: Any, t: Tensor, h: Tensor, y: Tensor, cache: Tensor | None) -> Step:
        """One step from t by h, both (batch,) float64, of y (batch, d)."""
        known = self._constants(y)
        times = torch.addcmul(t, known.nodes, h).to(y.dtype).unbind(0)
        length = h.to(y.dtype)[:, None]
        slopes = [self.begin(term, t, h, y) if cache is None else cache]
        state = y
        for time, row in zip(times, known.matrix, strict=True):
            state = torch.addcmul(y, length, _combined(row, slopes))
            slopes.append(term(time, state))
        stages = torch.stack(slopes)
        error = None
        if known.error is not None:
            error = length * torch.tensordot(known.error, stages, dims=1)
        interpolant = StagePolynomial(y, length, stages, known.dense)
        return Step(state, error, slopes[-1], interpolant, None, self.evaluations)

    def _constants(self, y: Tensor) -> _Tensors:
        """The tableau as tensors of the dtype and device of y."""
        key = (y.dtype, y.device)
        if key not in self._tensors:
            self._tensors[key] = _Tensors(self.tableau, y)
        return self._tensors[key]


class _Tensors:
    """A tableau in the dtype of a state; nodes in float64, as times are."""

    def __init__(self, tableau: Tableau, y: Tensor) -> None:
        double = {"dtype": torch.float64, "device": y.device}
        self.nodes = torch.tensor(tableau.nodes[1:], **double)[:, None]
        self.matrix = [y.new_tensor(row) for row in tableau.matrix]
        self.error = None if tableau.error is None else y.new_tensor(tableau.error)
        self.dense = y.new_tensor(tableau.dense)


def _combined(row: Tensor, slopes: list[Tensor]) -> Tensor:
    """Sum of slopes (batch, d) with the weights of a row of the tableau."""
    if len(slopes) == 1:
        return row * slopes[0]
    return torch.tensordot(row, torch.stack(slopes), dims=1)


class Euler(ExplicitRungeKutta):
    """Euler's method: order 1, no error estimate."""

    def __init__(self) -> None:
        super().__init__(tableaus.EULER)


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule: order 2."""

    def __init__(self) -> None:
        super().__init__(tableaus.MIDPOINT)


class Heun(ExplicitRungeKutta):
    """Heun's method, the explicit trapezoidal rule: order 2."""

    def __init__(self) -> None:
        super().__init__(tableaus.HEUN)


class RK4(ExplicitRungeKutta):
    """The classical method of Kutta: order 4."""

    def __init__(self) -> None:
        super().__init__(tableaus.RK4)


class Bosh3(ExplicitRungeKutta):
    """Bogacki and Shampine's 3(2) pair."""

    def __init__(self) -> None:
        super().__init__(tableaus.BOSH3)


class Dopri5(ExplicitRungeKutta):
    """Dormand and Prince's 5(4) pair, dense output of order 4."""

    def __init__(self) -> None:
        super().__init__(tableaus.DOPRI5)


class Tsit5(ExplicitRungeKutta):
    """Tsitouras' 5(4) pair, dense output of order 4: a good first choice."""

    def __init__(self) -> None:
        super().__init__(tableaus.TSIT5)


class Dopri8(ExplicitRungeKutta):
    """Prince and Dormand's 8(7) pair, dense output of order 5: for tight tolerances."""

    def __init__(self) -> None:
        super().__init__(tableaus.DOPRI8)
