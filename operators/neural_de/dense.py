"""The state between the ends of a step: interpolants, and dense output over all steps.

Every interpolant is a polynomial of the fraction theta of the step, so that those of all steps can
be laid side by side in one tensor and looked up without a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DenseOutput", "Hermite", "Interpolant", "Lazy", "Line", "Polynomial", "StagePolynomial"]


class Interpolant(Protocol):
    """States inside a step of a batch."""

    def __call__(self, theta: Tensor) -> Tensor:
        """States at fractions theta: (batch,) gives (batch, d), (batch, k) gives (batch, k, d)."""
        ...

    def rows(self, index: Tensor) -> Interpolant:
        """The same for the samples `index` (m,), which may repeat."""
        ...

    def coefficients(self) -> Tensor:
        """Coefficients of theta^0, theta^1, ..., shape (batch, degree + 1, d)."""
        ...


class StagePolynomial:
    """``y0 + h sum_j sum_i table[i, j] theta^(j + 1) k_i``: a continuous Runge-Kutta method.

    Args:
        start: shape (batch, d), state at theta = 0.
        step: shape (batch, 1), in the dtype of the state.
        stages: shape (stages, batch, d), slopes.
        table: shape (stages, degree).
    """

    def __init__(self, start: Tensor, step: Tensor, stages: Tensor, table: Tensor) -> None:
        self.start = start
        self.step = step
        self.stages = stages
        self.table = table

    def __call__(self, theta: Tensor) -> Tensor:
        """States at fractions theta of the step."""
        theta = theta.to(self.start.dtype)
        weights = _powers(theta, self.table.shape[1]) @ self.table.T
        if theta.dim() == 1:
            slope = (weights.T[..., None] * self.stages).sum(0)
            return self.start + self.step * slope
        slope = torch.einsum("bks,sbd->bkd", weights, self.stages)
        return self.start[:, None] + self.step[:, None] * slope

    def rows(self, index: Tensor) -> Interpolant:
        """The same for some samples."""
        return Polynomial(*self.coefficients()[index].unbind(1))

    def coefficients(self) -> Tensor:
        """Coefficients of theta^0, theta^1, ..., shape (batch, degree + 1, d)."""
        flat = torch.mm(self.table.T, self.stages.flatten(1))
        higher = flat.view(-1, *self.start.shape) * self.step
        return torch.cat((self.start[None], higher)).transpose(0, 1)


class Polynomial:
    """An interpolant given by its coefficients of theta^0, theta^1, ..., each (batch, d)."""

    def __init__(self, *coefficients: Tensor) -> None:
        self._coefficients = coefficients

    def __call__(self, theta: Tensor) -> Tensor:
        """States at fractions theta of the step."""
        theta = theta.to(self._coefficients[0].dtype)[..., None]
        value = None
        for row in reversed(self._coefficients):
            row = row if theta.dim() == 2 else row[:, None]
            value = row if value is None else torch.addcmul(row, value, theta)
        assert value is not None
        return value.expand(*theta.shape[:-1], value.shape[-1])

    def rows(self, index: Tensor) -> Interpolant:
        """The same for some samples."""
        return Polynomial(*(row[index] for row in self._coefficients))

    def coefficients(self) -> Tensor:
        """Coefficients of theta^0, theta^1, ..., shape (batch, degree + 1, d)."""
        return torch.stack(self._coefficients, dim=1)


class Line(Polynomial):
    """A straight line between two states (batch, d)."""

    def __init__(self, start: Tensor, end: Tensor) -> None:
        super().__init__(start, end - start)


class Hermite(Polynomial):
    """The cubic through both ends with their slopes; exact to order 3.

    Args:
        start: shape (batch, d).
        end: shape (batch, d).
        step: shape (batch, 1), in the dtype of the state.
        slope_start: shape (batch, d).
        slope_end: shape (batch, d).
    """

    def __init__(
        self, start: Tensor, end: Tensor, step: Tensor, slope_start: Tensor, slope_end: Tensor
    ) -> None:
        chord = end - start
        left, right = step * slope_start, step * slope_end
        super().__init__(start, left, 3 * chord - 2 * left - right, left + right - 2 * chord)


class Lazy:
    """An interpolant that is made when it is first used, as most steps are not looked into.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Interpolant]) -> None:
        self._make = make
        self._made: Interpolant | None = None

    @property
    def made(self) -> Interpolant:
        """The interpolant."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __call__(self, theta: Tensor) -> Tensor:
        """States at fractions theta of the step."""
        return self.made(theta)

    def rows(self, index: Tensor) -> Interpolant:
        """The same for some samples."""
        return self.made.rows(index)

    def coefficients(self) -> Tensor:
        """Coefficients of theta^0, theta^1, ..., shape (batch, degree + 1, d)."""
        return self.made.coefficients()


class DenseOutput:
    """The state at any time between the first and the last, differentiable.

    Args:
        starts: shape (steps, batch), float64, where each step of each sample begins; samples with
            fewer steps are padded by steps of length zero.
        steps: shape (steps, batch), float64, lengths, negative backward in time.
        coefficients: shape (steps, batch, degree + 1, d), of powers of the fraction of the step.
    """

    def __init__(self, starts: Tensor, steps: Tensor, coefficients: Tensor) -> None:
        self.starts = starts
        self.steps = steps
        self.coefficients = coefficients
        self._forward = bool((steps.sum() >= 0).item())

    def __call__(self, t: Tensor | float) -> Tensor:
        """States at t.

        Args:
            t: shape (k,) for the same times of all samples, (batch, k) for times of their own, or
                a number.

        Returns:
            shape (batch, k, d). Outside of the steps that were taken, NaN.
        """
        count, batch = self.starts.shape
        t = torch.as_tensor(t, dtype=torch.float64, device=self.starts.device)
        t = t.reshape(1, -1).expand(batch, -1) if t.dim() < 2 else t
        sign = 1.0 if self._forward else -1.0
        starts = (sign * self.starts.T).contiguous()
        last = (self.steps != 0).sum(0).clamp(min=1)[:, None] - 1
        which = torch.searchsorted(starts, (sign * t).contiguous(), right=True) - 1
        which = torch.minimum(which.clamp(min=0), last)
        rows = torch.arange(batch, device=t.device)[:, None]
        begin, length = self.starts[which, rows], self.steps[which, rows]
        theta = torch.where(length == 0, 0.0, (t - begin) / torch.where(length == 0, 1.0, length))
        outside = (theta < -1e-9) | (theta > 1 + 1e-9)
        values = self.coefficients[which, rows]
        powers = _powers(theta.to(values.dtype), values.shape[2] - 1)
        states = values[:, :, 0] + torch.einsum("bkj,bkjd->bkd", powers, values[:, :, 1:])
        return torch.where(outside[..., None], torch.nan, states)


def _powers(theta: Tensor, degree: int) -> Tensor:
    """Powers 1 to degree of theta (...), shape (..., degree)."""
    return theta[..., None].expand(*theta.shape, degree).cumprod(-1)
