"""Explicit Runge-Kutta steppers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tableaus
from .dense import Interpolant, StagePolynomial
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


SMALL = 8192
"""Numbers in a state up to which a product of matrices is faster than a sum of terms (measured)."""


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
        for time, row in zip(times, known.rows, strict=True):
            state = row.moved(y, length, slopes)
            slopes.append(term(time, state))
        return _ExplicitStep(state, y, length, slopes, known, self.evaluations)

    def _constants(self, y: Tensor) -> _Tensors:
        """The tableau as tensors of the dtype and device of y."""
        key = (y.dtype, y.device)
        if key not in self._tensors:
            self._tensors[key] = _Tensors(self.tableau, y)
        return self._tensors[key]


class _ExplicitStep(Step):
    """A step whose error and interpolant are computed when they are asked for.

    Constant steps, and steps that are repeated with a graph, need no error.
    """

    def __init__(
        self,
        state: Tensor,
        start: Tensor,
        length: Tensor,
        slopes: list[Tensor],
        known: _Tensors,
        evaluations: int,
    ) -> None:
        self.state = state
        self.cache = slopes[-1]
        self.solved = None
        self.evaluations = evaluations
        self._start, self._length, self._slopes, self._known = start, length, slopes, known
        self._error: Tensor | None = None
        self._interpolant: Interpolant | None = None

    @property
    def error(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Estimate of the error of this step, (batch, d); None if the method has none."""
        if self._known.error is None:
            return None
        if self._error is None:
            self._error = self._length * self._known.error.sum(self._slopes)
        return self._error

    @property
    def interpolant(self) -> Interpolant:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The state inside the step."""
        if self._interpolant is None:
            stages = torch.stack(self._slopes)
            self._interpolant = StagePolynomial(
                self._start, self._length, stages, self._known.dense
            )
        return self._interpolant


class _Tensors:
    """A tableau in the dtype of a state; nodes in float64, as times are."""

    def __init__(self, tableau: Tableau, y: Tensor) -> None:
        nodes = torch.tensor(tableau.nodes[1:], dtype=torch.float64, device=y.device)
        self.nodes = nodes[:, None]
        self.rows = [_Row(row, y) for row in tableau.matrix]
        self.error = None if tableau.error is None else _Row(tableau.error, y)
        self.dense = y.new_tensor(tableau.dense)


class _Row:
    """Weights of a sum of slopes. Small states: few calls; large ones: little memory moved."""

    def __init__(self, weights: tuple[float, ...], y: Tensor) -> None:
        self.count = len(weights)
        self.terms = [(i, w) for i, w in enumerate(weights) if w != 0]
        self.tensor = y.new_tensor([weights])

    def sum(self, slopes: list[Tensor]) -> Tensor:
        """The weighted sum of the slopes (batch, d)."""
        (first, weight), *others = self.terms
        if len(others) > 2 and slopes[0].numel() <= SMALL:
            together = torch.cat(slopes[: self.count]).view(self.count, -1)
            return torch.mm(self.tensor, together).view_as(slopes[0])
        total = slopes[first] * weight
        for i, weight in others:
            total = torch.add(total, slopes[i], alpha=weight)
        return total

    def moved(self, y: Tensor, length: Tensor, slopes: list[Tensor]) -> Tensor:
        """The state y (batch, d) moved by length (batch, 1) along the sum."""
        if len(self.terms) == 1:
            i, weight = self.terms[0]
            return torch.addcmul(y, length, slopes[i], value=weight)
        return torch.addcmul(y, length, self.sum(slopes))


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
