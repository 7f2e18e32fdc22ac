"""Diagonally implicit Runge-Kutta steppers for stiff equations.

The stages of a step are slopes, found one after the other by Newton's method (`newton`), each with
its first guess from those before. The matrix of the iteration is kept in the cache, by row, so that
a stiff problem costs one factorisation per change of the step and few Jacobians.

Sources: Kvaerno, BIT 44 (2004); Hairer and Wanner, "Solving Ordinary Differential Equations II",
IV.8; Shampine's filter of the error estimate as in IV.8.19 there.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigurationError
from .dense import StagePolynomial
from .implicit_tableaus import IMPLICIT_EULER, KVAERNO3, KVAERNO5, ImplicitTableau
from .newton import Field, Matrix, Newton, attached, newton
from .steppers import Step
from .terms import SDE

__all__ = ["DiagonallyImplicit", "ImplicitEuler", "Kvaerno3", "Kvaerno5"]


class DiagonallyImplicit:
    """A step by the coefficients of an ESDIRK tableau.

    The cache is the slope at the beginning of the step and the matrix of Newton's iteration, shape
    (batch, d + `Matrix.width(d)`).

    Args:
        tableau: coefficients.
        newton: how stages are solved.
        filtered: whether the error estimate is multiplied by (I - h gamma J)^-1; None leaves it to
            the tableau.
        rtol: relative tolerance of the integration, to which the accuracy of the stages is
            measured. None, until `within` gives it, means close to rounding.
        atol: absolute one.
    """

    def __init__(
        self,
        tableau: ImplicitTableau,
        *,
        newton: Newton | None = None,
        filtered: bool | None = None,
        rtol: float | None = None,
        atol: float | Tensor | None = None,
    ) -> None:
        self.tableau = tableau
        self.newton = newton or Newton()
        self.filtered = tableau.filtered if filtered is None else filtered
        self.rtol = rtol
        self.atol = atol
        self.order = tableau.order
        self.error_order: int | None = tableau.error_order + 1
        self.dense_order = tableau.dense_order
        self._tensors: dict[tuple[torch.dtype, torch.device], _Tensors] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def evaluations(self) -> int:
        """Calls of the field in a step, at least: two iterations a stage."""
        return 2 * (self.tableau.stages - 1)

    def within(self, rtol: float, atol: float | Tensor) -> DiagonallyImplicit:
        """The same stepper, with stages solved to a fraction of these tolerances.

        Tolerances that were given at construction stay.
        """
        if self.rtol is not None or self.atol is not None:
            return self
        result = copy.copy(self)
        result.rtol, result.atol = rtol, atol
        return result

    def work(self, cache: Tensor, d: int) -> tuple[Tensor, Tensor]:
        """Jacobians and factorisations so far, each (batch,), of states with d components."""
        matrix = Matrix.unpacked(cache[:, -Matrix.width(d) :].detach(), d)
        return matrix.jacobians.long(), matrix.factorisations.long()

    def split(self, term: Any) -> tuple[Field | None, Field]:
        """The field treated explicitly, or None, and the one treated implicitly.

        Raises:
            ConfigurationError: the term is none that this stepper can integrate.
        """
        if isinstance(term, SDE):
            raise ConfigurationError(
                f"{self!r} integrates ordinary differential equations.", found=type(term).__name__
            )
        return None, term

    def begin(self, term: Any, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """The slope at t (batch,) and y (batch, d), and the matrix for a step h (batch,)."""
        _, implicit = self.split(term)
        time = t.to(y.dtype)
        everywhere = torch.ones(len(y), dtype=torch.bool, device=y.device)
        with torch.no_grad():
            matrix = Matrix.empty(y).refreshed(implicit, time, y, everywhere)
            matrix = matrix.factorised(self.tableau.gamma * h.to(y.dtype), everywhere)
        return self._cached(implicit(time, y) if self.tableau.stiffly_accurate else None, matrix)

    def step(self, term: Any, t: Tensor, h: Tensor, y: Tensor, cache: Tensor | None) -> Step:
        """One step from t by h, both (batch,) float64, of y (batch, d)."""
        if cache is None:
            cache = self.begin(term, t, h, y)
        explicit, implicit = self.split(term)
        attempt = _Attempt(self, implicit, t, h, y, cache)
        slope = cache[:, : y.shape[1]] if self.tableau.stiffly_accurate else None
        slopes, driven, state = attempt.stages(explicit, slope)
        stages, known = torch.stack(slopes), attempt.known
        if driven:
            stages = stages + torch.stack(driven)
        if not self.tableau.stiffly_accurate:
            state = y + attempt.length * torch.tensordot(known.weights, stages, dims=1)
        last = slopes[-1] if self.tableau.stiffly_accurate else None
        retry = self._cached(cache[:, : y.shape[1]] if last is not None else None, attempt.matrix)
        after = replace(attempt.matrix, fresh=torch.zeros_like(attempt.matrix.fresh))
        return Step(
            state=state,
            error=attempt.error(stages),
            cache=self._cached(last, after),
            interpolant=StagePolynomial(y, attempt.length, stages, known.dense),
            solved=attempt.solved,
            evaluations=attempt.calls,
            retry=retry,
        )

    def _cached(self, slope: Tensor | None, matrix: Matrix) -> Tensor:
        packed = matrix.packed().detach()
        return packed if slope is None else torch.cat((slope, packed), dim=1)

    def tolerance(self, y: Tensor) -> Tensor:
        """What the error of a state (batch, d) is measured by, positive, (batch, d)."""
        info = torch.finfo(y.dtype)
        rtol = info.eps**0.65 if self.rtol is None else self.rtol
        atol = rtol * 1e-2 if self.atol is None else self.atol
        return (y.detach().abs() * rtol + atol).clamp(min=info.tiny)

    def constants(self, y: Tensor) -> _Tensors:
        """The tableau as tensors of the dtype and device of y."""
        key = (y.dtype, y.device)
        if key not in self._tensors:
            self._tensors[key] = _Tensors(self.tableau, y)
        return self._tensors[key]


class _Tensors:
    """A tableau in the dtype of a state; nodes in float64, as times are."""

    def __init__(self, tableau: ImplicitTableau, y: Tensor) -> None:
        double = {"dtype": torch.float64, "device": y.device}
        self.nodes = torch.tensor(tableau.nodes, **double)[:, None]
        self.implicit, *explicit = [y.new_tensor(matrix) for matrix in tableau.matrices]
        self.explicit = explicit[0] if explicit else None
        self.predictors = y.new_tensor(tableau.predictors)
        self.weights = y.new_tensor(tableau.weights)
        self.error = self.weights - y.new_tensor(tableau.embedded)
        self.dense = y.new_tensor(tableau.dense)


class _Attempt:
    """One step of a batch under way.

    Attributes:
        matrix: of Newton's iteration.
        solved: shape (batch,), bool, rows all of whose stages so far were solved.
        calls: of the fields.
    """

    def __init__(
        self,
        stepper: DiagonallyImplicit,
        field: Field,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        cache: Tensor,
    ) -> None:
        self.options = stepper.newton
        self.filtered = stepper.filtered
        self.known = stepper.constants(y)
        self.field = field
        self.y = y
        self.times = torch.addcmul(t, self.known.nodes, h).to(y.dtype).unbind(0)
        self.length = h.to(y.dtype)[:, None]
        self.scale = stepper.tableau.gamma * h.to(y.dtype)
        self.moving = h != 0
        self.solved = torch.ones_like(self.moving)
        self.tolerance = stepper.tolerance(y)
        self.calls = 0
        self.matrix = Matrix.unpacked(cache[:, -Matrix.width(y.shape[1]) :].detach(), y.shape[1])
        with torch.no_grad():
            self._renew((self.matrix.slow > 0) & (self.matrix.fresh == 0) & self.moving)
        # The rate is to be seen in the first stage of every step: a stage that is accepted after
        # one iteration shows none, and a matrix out of date would go unnoticed for ever.
        unknown = torch.ones_like(self.matrix.rate)
        self.matrix = replace(self.matrix, slow=torch.zeros_like(unknown), rate=unknown)

    def stages(
        self, explicit: Field | None, slope: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Slopes (batch, d) of the implicit and of the explicit field, and the last stage.

        Args:
            explicit: the field treated explicitly.
            slope: shape (batch, d), of the implicit field at the beginning, where it is known.
        """
        if slope is None:
            slope = self.field(self.times[0], self.y)
            self.calls += 1
        slopes, driven, state = [slope], [], self.y
        for stage in range(1, len(self.times)):
            base = _added(self.y, self.length, self.known.implicit[stage, :stage], slopes)
            if explicit is not None:
                assert self.known.explicit is not None
                driven.append(explicit(self.times[stage - 1], state))
                base = _added(base, self.length, self.known.explicit[stage, :stage], driven)
            slopes.append(self._solved(stage, base, slopes))
            state = base + self.scale[:, None] * slopes[-1]
        if explicit is not None:
            driven.append(explicit(self.times[-1], state))
        self.calls += len(driven)
        return slopes, driven, state

    def error(self, stages: Tensor) -> Tensor:
        """Estimate of the error of the step, shape (batch, d); stages (stages, batch, d)."""
        error = self.length * torch.tensordot(self.known.error, stages, dims=1)
        return self.matrix.solve(error) if self.filtered else error

    def _solved(self, stage: int, base: Tensor, slopes: list[Tensor]) -> Tensor:
        """The slope of an implicit stage, shape (batch, d)."""
        time, fixed = self.times[stage], base.detach()
        with torch.no_grad():
            weights = self.known.predictors[stage, :stage]
            guess = torch.tensordot(weights, torch.stack(slopes), dims=1)
            slope, solved = self._newton(time, fixed, guess, self.solved)
            again = self.solved & ~solved & (self.matrix.fresh == 0)
            if bool(again.any()):
                self._renew(again)
                slope, solved = self._retried(time, fixed, guess, slope, solved, again)
            for _ in range(self.options.renewals):
                again = self.solved & ~solved & torch.isfinite(slope).all(1)
                if not bool(again.any()):
                    break
                self._renew(again, time, fixed + self.scale[:, None] * slope)
                slope, solved = self._retried(time, fixed, slope, slope, solved, again)
            self.solved = self.solved & solved
        return attached(self.field, time, base, slope, self.scale)

    def _retried(
        self,
        time: Tensor,
        base: Tensor,
        guess: Tensor,
        slope: Tensor,
        solved: Tensor,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Slopes and verdicts with the rows marked sought once more."""
        second, rescued = self._newton(time, base, guess, rows)
        return torch.where(rows[:, None], second, slope), solved | rescued

    def _newton(
        self, time: Tensor, base: Tensor, guess: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        slope, solved, self.matrix, calls = newton(
            self.field,
            time,
            base,
            guess,
            self.scale,
            self.matrix,
            rows,
            self.tolerance,
            self.options,
        )
        self.calls += calls
        return slope, solved

    def _renew(
        self, stale: Tensor, time: Tensor | None = None, state: Tensor | None = None
    ) -> None:
        """A new Jacobian in the rows marked, and the matrix wherever it or h have changed.

        The Jacobian is that at the start of the step unless a time (batch,) and a state (batch, d)
        are given.
        """
        if time is None or state is None:
            self.matrix = self.matrix.refreshed(self.field, self.times[0], self.y, stale)
        else:
            self.matrix = self.matrix.refreshed(self.field, time, state, stale)
            elsewhere = torch.where(stale, 0.0, self.matrix.fresh)
            self.matrix = replace(self.matrix, fresh=elsewhere)
        drift = (self.scale - self.matrix.scale).abs() > self.options.reuse * self.scale.abs()
        self.matrix = self.matrix.factorised(self.scale, stale | (drift & self.moving))


def _added(start: Tensor, length: Tensor, row: Tensor, slopes: list[Tensor]) -> Tensor:
    """``start + length sum row_i slopes_i``, shape (batch, d)."""
    return torch.addcmul(start, length, torch.tensordot(row, torch.stack(slopes), dims=1))


class ImplicitEuler(DiagonallyImplicit):
    """The implicit Euler method: order 1, L-stable."""

    def __init__(self, **options: Any) -> None:
        super().__init__(IMPLICIT_EULER, **options)


class Kvaerno3(DiagonallyImplicit):
    """Kvaerno's 3(2) pair: L-stable, stiffly accurate, three implicit stages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(KVAERNO3, **options)


class Kvaerno5(DiagonallyImplicit):
    """Kvaerno's 5(4) pair: L-stable, stiffly accurate, six implicit stages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(KVAERNO5, **options)
