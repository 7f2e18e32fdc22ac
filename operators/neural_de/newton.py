"""Newton's method for the stages of a batch of implicit steps, and the derivative of its solution.

A stage is the slope s with ``s = f(t, base + scale s)``, scale = h gamma. The matrix I - scale J is
factorised once and kept over the stages of a step, and over steps while the iteration converges
fast and h changes little. Each row of a batch has a matrix, a rate of convergence and a verdict of
its own. The tests of convergence are those of Hairer and Wanner, "Solving Ordinary Differential
Equations II", IV.8: the displacement times theta / (1 - theta), with theta the observed
contraction, must be small against the tolerance of the integration.

The iterations leave no graph. `attached` makes the solution differentiable afterwards by the
implicit function theorem: one evaluation with a graph, and one linear solve in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import ConfigurationError

__all__ = ["Matrix", "Newton", "attached", "jacobian", "newton"]

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Newton:
    """How the stages are solved.

    Attributes:
        accuracy: error of a stage as a fraction of the tolerance of the integration.
        limit: iterations of a stage.
        refresh: the Jacobian is computed anew when the error of an iteration is more than this
            times that of the one before.
        reuse: the matrix is factorised anew when h has changed by more than this fraction.
        renewals: how often the Jacobian is computed at the last iterate, before a stage is given up
            that does not converge with the one of the start of the step.
    """

    accuracy: float = 1e-2
    limit: int = 10
    refresh: float = 3e-2
    reuse: float = 2e-2
    renewals: int = 3

    def __post_init__(self) -> None:
        for name in ("accuracy", "refresh"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(
                    f"Newton's {name} is a fraction.",
                    found=getattr(self, name),
                    advice="give a number between 0 and 1",
                )
        if self.limit < 2:
            raise ConfigurationError(
                "Newton's convergence cannot be seen in one iteration.",
                found=self.limit,
                advice="give a limit of at least 2",
            )


def jacobian(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """The Jacobian of each row, shape (batch, d, d): entry i, j is d f_i / d y_j.

    Rows do not influence each other, so that one product with (1, 0, ..., 0) in every row gives the
    first column of all of them: d products for the whole batch, done at once by vmap. The field is
    always called with the whole batch, as it may hold data of each row.

    Args:
        field: f(t, y).
        t: shape (batch,).
        y: shape (batch, d).
    """
    directions = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)

    def product(direction: Tensor) -> Tensor:
        along = direction.expand_as(y)
        return torch.func.jvp(lambda state: field(t, state), (y,), (along,))[1]

    try:
        columns = torch.func.vmap(product, chunk_size=64)(directions)
    except (RuntimeError, NotImplementedError, AttributeError):
        # An operation without forward differentiation or without a batching rule.
        return _jacobian_by_rows(field, t, y)
    return columns.permute(1, 2, 0)


def _jacobian_by_rows(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """The same by d backward passes, which ask least of the field."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        state = y if differentiable and y.requires_grad else y.detach().requires_grad_()
        value = field(t, state)
        if not value.requires_grad:
            return y.new_zeros(*y.shape, y.shape[1])
        rows = [
            torch.autograd.grad(
                value[:, i].sum(),
                state,
                retain_graph=True,
                create_graph=differentiable,
                materialize_grads=True,
            )[0]
            for i in range(y.shape[1])
        ]
    return torch.stack(rows, dim=1)


@dataclass
class Matrix:
    """The factorised matrix I - scale J of every row, and how Newton went with it.

    Attributes:
        jacobian: shape (batch, d, d).
        factors: shape (batch, d, d), L and U.
        pivots: shape (batch, d), in the dtype of the state so that all can be one tensor.
        scale: shape (batch,), h gamma of the factorisation.
        rate: shape (batch,), the last contraction that was observed.
        slow: shape (batch,), 1 where the next step is to begin with a new Jacobian.
        fresh: shape (batch,), 1 where the Jacobian belongs to the state the step starts from.
        jacobians: shape (batch,), how many were computed so far.
        factorisations: shape (batch,), how many.
    """

    jacobian: Tensor
    factors: Tensor
    pivots: Tensor
    scale: Tensor
    rate: Tensor
    slow: Tensor
    fresh: Tensor
    jacobians: Tensor
    factorisations: Tensor

    @classmethod
    def empty(cls, y: Tensor) -> Matrix:
        """Without a Jacobian; states y (batch, d)."""
        batch, d = y.shape
        zeros, square = y.new_zeros(batch), y.new_zeros(batch, d, d)
        return cls(
            jacobian=square,
            factors=square,
            pivots=y.new_zeros(batch, d),
            scale=zeros,
            rate=zeros + 1,
            slow=zeros,
            fresh=zeros,
            jacobians=zeros,
            factorisations=zeros,
        )

    @staticmethod
    def width(d: int) -> int:
        """Numbers a row takes in `packed`."""
        return 2 * d * d + d + 6

    def packed(self) -> Tensor:
        """All in one tensor, shape (batch, width)."""
        parts = [getattr(self, part.name) for part in fields(self)]
        return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)

    @classmethod
    def unpacked(cls, packed: Tensor, d: int) -> Matrix:
        """Inverse of `packed`."""
        sizes = (d * d, d * d, d, 1, 1, 1, 1, 1, 1)
        parts = packed.split(sizes, dim=1)
        squares = [part.reshape(-1, d, d) for part in parts[:2]]
        values = (*squares, parts[2], *(part[:, 0] for part in parts[3:]))
        return cls(**{part.name: value for part, value in zip(fields(cls), values, strict=True)})

    def refreshed(self, field: Field, t: Tensor, y: Tensor, rows: Tensor) -> Matrix:
        """With the Jacobian at t (batch,), y (batch, d) in the rows (batch,) that are marked."""
        if not bool(rows.any()):
            return self
        found = torch.where(rows[:, None, None], jacobian(field, t, y), self.jacobian)
        return replace(
            self,
            jacobian=found,
            fresh=torch.where(rows, 1.0, self.fresh),
            rate=torch.where(rows, 1.0, self.rate),
            jacobians=self.jacobians + rows,
        )

    def factorised(self, scale: Tensor, rows: Tensor) -> Matrix:
        """With I - scale J factorised anew in the rows that are marked; scale (batch,)."""
        index = rows.nonzero()[:, 0]
        if not len(index):
            return self
        identity = torch.eye(self.pivots.shape[1], dtype=scale.dtype, device=scale.device)
        system = identity - scale[index, None, None] * self.jacobian[index]
        factors, pivots, _ = torch.linalg.lu_factor_ex(system)
        return replace(
            self,
            factors=self.factors.index_copy(0, index, factors),
            pivots=self.pivots.index_copy(0, index, pivots.to(scale.dtype)),
            scale=torch.where(rows, scale, self.scale),
            factorisations=self.factorisations + rows,
        )

    def solve(self, right: Tensor, pivots: Tensor | None = None) -> Tensor:
        """(I - scale J)^-1 right, shape (batch, d); `pivots` as integers where they are at hand."""
        pivots = self.pivots.to(torch.int32) if pivots is None else pivots
        return torch.linalg.lu_solve(self.factors, pivots, right[..., None])[..., 0]


@dataclass
class _Progress:
    """Of one stage, by row."""

    slope: Tensor
    running: Tensor
    solved: Tensor
    rate: Tensor
    worst: Tensor


def newton(
    field: Field,
    t: Tensor,
    base: Tensor,
    guess: Tensor,
    scale: Tensor,
    matrix: Matrix,
    rows: Tensor,
    tolerance: Tensor,
    options: Newton,
) -> tuple[Tensor, Tensor, Matrix, int]:
    """Solve s = f(t, base + scale s) in the rows (batch,) that are marked.

    Args:
        field: f(t, y).
        t: shape (batch,), time of the stage in the dtype of the state.
        base: shape (batch, d).
        guess: shape (batch, d), where to start from.
        scale: shape (batch,), h gamma.
        matrix: factorised for a scale near it.
        rows: shape (batch,), bool.
        tolerance: shape (batch, d), of the integration: positive.
        options: when to stop.

    Returns:
        The slopes (batch, d), which of the rows were solved (batch,), the matrix with its rates,
        and the calls of the field.
    """
    limit = _attainable(base, tolerance, options)
    now = _Progress(guess, rows, torch.zeros_like(rows), matrix.rate, torch.zeros_like(matrix.rate))
    size = torch.zeros_like(matrix.rate)
    pivots = matrix.pivots.to(torch.int32)
    length = scale[:, None]
    calls = 0
    while calls < options.limit and bool(now.running.any()):
        residual = field(t, torch.addcmul(base, length, now.slope)) - now.slope
        change = matrix.solve(residual, pivots)
        before, size = size, _size(length * change / tolerance)
        now.slope = torch.where(now.running[:, None], now.slope + change, now.slope)
        calls += 1
        _judge(now, size, before, limit, calls, options)
    slow = now.worst > options.refresh
    matrix = replace(
        matrix,
        rate=torch.where(now.solved, now.rate, matrix.rate),
        slow=torch.where(rows, torch.maximum(matrix.slow, slow.to(size.dtype)), matrix.slow),
    )
    return now.slope, now.solved, matrix, calls


def _judge(
    now: _Progress, size: Tensor, before: Tensor, limit: Tensor, calls: int, options: Newton
) -> None:
    """Which rows have converged and which will not, after a displacement of `size` (batch,)."""
    if calls == 1:
        # The rate of the stage before, made a little worse: it may be out of date (IV.8.10).
        rate = now.rate.clamp(min=torch.finfo(size.dtype).eps) ** 0.8
        hopeless = torch.zeros_like(now.running)
    else:
        rate = size / before
        now.rate = torch.where(now.running, rate, now.rate)
        now.worst = torch.where(now.running, torch.maximum(now.worst, rate), now.worst)
        ahead = rate ** (options.limit - calls) / (1 - rate) * size
        hopeless = (rate >= 1) | (ahead > limit)
    small = (rate < 1) & (rate / (1 - rate) * size <= limit)
    # Where the displacement is down to the rounding of the state the rate is of noise.
    converged = small | (size <= limit * 1e-3) | ((calls > 1) & (size <= limit) & (rate < 2))
    now.solved = now.solved | (now.running & converged)
    now.running = now.running & ~converged & ~hopeless & torch.isfinite(size)


def _attainable(base: Tensor, tolerance: Tensor, options: Newton) -> Tensor:
    """Error that a stage may keep, in units of the tolerance, shape (batch,).

    Not less than what rounding leaves.
    """
    rounding = _size(10 * torch.finfo(base.dtype).eps * base.abs() / tolerance)
    return rounding.clamp(min=options.accuracy)


def _size(scaled: Tensor) -> Tensor:
    """Root mean square of each row (batch, d)."""
    return torch.linalg.vector_norm(scaled, dim=1) / math.sqrt(scaled.shape[1])


class _Solution(torch.autograd.Function):
    """The solved slope as a function of the value of the field at it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, base: Tensor, *constants: Any) -> Tensor:
        slope, field, t, scale = constants
        ctx.field = field
        result = slope.clone()
        ctx.save_for_backward(base, result, t, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        base, slope, t, scale = ctx.saved_tensors
        state = base + scale[:, None] * slope
        # A row that rests or failed has no gradient to give, and perhaps a state without Jacobian.
        idle = (gradients[0] == 0).all(1)
        found = jacobian(ctx.field, t, state)
        found = torch.where(idle[:, None, None], 0.0, found)
        identity = torch.eye(base.shape[1], dtype=base.dtype, device=base.device)
        system = identity - scale[:, None, None] * found
        back = torch.linalg.solve(system.mT, gradients[0][..., None])[..., 0]
        return back, None, None, None, None, None


def attached(field: Field, t: Tensor, base: Tensor, slope: Tensor, scale: Tensor) -> Tensor:
    """The solution of s = f(t, base + scale s), with its derivative by base and by parameters.

    With v = f(t, base + scale s*) at fixed s*, ds = (I - scale J)^-1 dv, where dv is what autograd
    knows of v. J is computed at the solution itself: the frozen one of the iteration would give a
    gradient as wrong as it is out of date. Cannot be differentiated twice: the value does not know
    how s* moves.

    Args:
        field: f(t, y).
        t: shape (batch,).
        base: shape (batch, d), may have a graph.
        slope: shape (batch, d), the solution, without a graph.
        scale: shape (batch,).
    """
    if not torch.is_grad_enabled():
        return slope
    value = field(t, base + scale[:, None] * slope)
    if not value.requires_grad:
        return slope
    return _Solution.apply(value, base, slope, field, t, scale)  # type: ignore[return-value]
