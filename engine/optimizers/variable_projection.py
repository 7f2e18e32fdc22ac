"""Gauss-Newton without the linear parameters: the read-out of a network is solved for exactly.

For ``r(alpha, c)`` that is affine in c, such as the residuals of a linear equation in the read-out
of a network, every alpha has a best c, found by linear least squares. What is left is a problem in
alpha alone, ``r_P(alpha) = (I - Phi Phi^+) r`` with ``Phi = dr/dc`` (Golub and Pereyra, SIAM J.
Numer. Anal. 10, 1973), whose Jacobian is taken as ``(I - Phi Phi^+) dr/dalpha`` (Kaufman, BIT 15,
1975): the term left out is of second order in ``r_P`` and does not enter the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError, DivergedError
from .damping import Damping
from .gauss_newton import PROBE, believable, prepare
from .least_squares import Damped, require_form, require_memory, require_sum_of_squares
from .objective import assign, flatten

CUT = 1e-5
"""Default of ``cut``. Fewer digits of the best read-out are lost than are won: exact to rounding,
it may be a sum of millions that cancel, of which no small change of alpha makes a better one."""
CUT_NEARLY = 1e-3
"""The same where r is not affine in c: one undamped step must not lead far."""
LEAST_COLUMN = 1e-8
"""Part of the largest column norm below which a feature is not felt."""
STALE = 1e-2
"""Relative change of c after which the Jacobian, taken before it, is taken again."""


@dataclass
class _Point:
    """The problem, linearised and projected, at one alpha.

    Attributes:
        at: all parameters where J was taken.
        basis: orthonormal basis Q of the range of Phi.
        share: how much of each basis vector the projection takes away; one but for tiny singular
            values.
        inner: maps ``Q^T b`` to ``Phi^+ b``.
        loss: sum of squares once c is at its best.
        values: the residuals there; their part along Phi is zero where r is affine in c.
        r: the residuals there, projected.
        jacobian: projected Jacobian by alpha.
        coupling: ``Q^T J_alpha``.
    """

    at: Tensor
    basis: Tensor
    share: Tensor
    inner: Tensor
    loss: float
    values: Tensor
    r: Tensor
    jacobian: Tensor
    coupling: Tensor

    def along(self, residual: Tensor) -> Tensor:
        """The part of residuals that c takes away."""
        return self.basis @ (self.share * (self.basis.T @ residual))


class VariableProjection:
    """Levenberg-Marquardt in the nonlinear parameters, the linear ones at their best all along.

    Where r is not affine in the linear parameters (a nonlinear equation), "their best" is one
    Gauss-Newton step in them, taken only if it lowers the loss.

    Args:
        parameters: all that is trained, P numbers.
        linear: those of them that r is affine in, p numbers.
        residuals: ``() -> r`` of shape (m,), at the current parameters, no gradient needed.
        linearise: ``() -> (r, J)`` with J of shape (m, P), columns in the order of ``parameters``.
        exact: r is affine in ``linear``; False for "nearly".
        damping: initial mu, of alpha only.
        form: as in `GaussNewton`.
        acceleration: whether steps bend, as in `GaussNewton`.
        cut: singular values of Phi, columns scaled to unit length, below this part of the largest
            are damped away; None for `CUT` or `CUT_NEARLY`.
        max_trials: damping values tried before a step is given up.

    Raises:
        ConfigurationError: ``linear`` is empty, everything, or not among ``parameters``; or there
            is no such form.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        linear: Sequence[nn.Parameter],
        residuals: Callable[[], Tensor],
        linearise: Callable[[], tuple[Tensor, Tensor]],
        *,
        exact: bool = True,
        damping: float = 1e-3,
        form: str = "auto",
        acceleration: bool = True,
        cut: float | None = None,
        max_trials: int = 12,
    ) -> None:
        require_form(form)
        self.parameters = list(parameters)
        chosen = {id(p) for p in linear}
        if not chosen or not chosen < {id(p) for p in self.parameters}:
            raise ConfigurationError(
                "variable projection needs linear parameters, and others beside them",
                advice="pass some of the trained parameters, such as weight and bias of a read-out",
            )
        mask = [torch.full((p.numel(),), id(p) in chosen) for p in self.parameters]
        self.is_linear = torch.cat(mask).to(self.parameters[0].device)
        self.residuals = residuals
        self.linearise = linearise
        self.exact = exact
        self.damping = Damping(damping)
        self.form = form
        self.acceleration = acceleration
        self.cut = (CUT if exact else CUT_NEARLY) if cut is None else cut
        self.max_trials = max_trials
        self.stalled = False
        self._point: _Point | None = None
        self._at: Tensor | None = None
        self._counted = False

    def step(self) -> float:
        """One accepted step (or none, when every trial failed).

        Returns:
            The sum of squares after the step. `stalled` tells whether no trial lowered it.

        Raises:
            ConfigurationError: what the closures return is no vector of residuals.
            DivergedError: a residual or the Jacobian is not finite; the parameters were not moved.
            ResourceError: Jacobian and projection do not fit into memory.
        """
        point = self._here()
        start = self._get()
        before = point.loss
        system = prepare(self.form, self.damping.value, point.jacobian, point.r)
        self.damping.begin()
        for _ in range(self.max_trials):
            if system.damp(self.damping.value):
                step = system.solve()
                along = before - float(point.r @ point.r)
                predicted = system.predicted(step) + along
                # c would follow alpha along the linear model so; what is left is of second order.
                whole = self._joint(point, step, point.values)
                bend = self._bend(system, point, start, whole) if self.acceleration else None
                target = start + whole if bend is None else start + whole + bend
                trial = self._project(target, before)
                if trial is not None:
                    gain = (before - trial.loss) / max(predicted, 1e-300)
                    self.damping.accept(gain, system.least)
                    # What is there of the last point goes before more is asked for.
                    del system, point
                    self._point = None
                    self._point = self._again(trial)
                    self.stalled = False
                    return self._point.loss
            self.damping.reject()
        self._put(start)
        self.damping.restart()
        self.stalled = True
        return before

    def _here(self) -> _Point:
        """The problem at the present parameters, c brought to its best."""
        if self._point is not None:
            return self._point
        start = self._get()
        self._count()
        point = self._project(start if self._at is None else self._at)
        if point is None:
            self._put(start)
            raise DivergedError("a residual or its Jacobian is not finite")
        if self._at is not None:
            self._put(start)
        else:
            point = self._again(point)
        self._point, self._at = point, None
        return point

    def _count(self) -> None:
        """Refuse, before the first Jacobian, what does not fit."""
        if not self._counted:
            first, linear = self.parameters[0], int(self.is_linear.sum())
            rows, columns = self._values().numel(), len(self.is_linear)
            require_memory(rows, columns, first.dtype, first.device, form=self.form, linear=linear)
            self._counted = True

    def _again(self, point: _Point) -> _Point:
        """The point, linearised once more if its best c is far from where that was done."""
        best = self._get()
        moved = (best - point.at)[self.is_linear].norm()
        if moved <= STALE * best[self.is_linear].norm():
            return point
        again = self._project(best)
        if again is None:
            self._put(best)
            return point
        return again

    def _project(self, where: Tensor, before: float = math.inf) -> _Point | None:
        """Linearise at ``where``, move c to its best, project.

        None, and c wherever, if the loss is not below ``before`` or not finite.
        """
        self._put(where)
        r, jacobian = (part.detach() for part in self.linearise())
        r = r.clone()  # whose memory may be used for the next residuals
        require_sum_of_squares(r, jacobian, len(where))
        phi = jacobian[:, self.is_linear]
        norms = torch.linalg.vector_norm(phi, dim=0)
        if not math.isfinite(float(r @ r)) or not math.isfinite(float(norms.sum())):
            return None
        # A feature that the residuals do not feel (beyond rounding) is left alone; scaled up, its
        # rounding would move it without end.
        scale = torch.where(norms > LEAST_COLUMN * norms.max(), 1 / norms, 0.0)
        phi *= scale  # a copy, of columns of J
        left, size, right = torch.linalg.svd(phi, full_matrices=False)
        del phi
        cut = max(self.cut, 10 * torch.finfo(size.dtype).eps) * size[0]
        # Damped instead of cut off: a loss with jumps, where the rank changes, cannot be lowered.
        filtered = torch.where(size > 0, size / (size.square() + cut**2), 0.0)
        share = size * filtered
        inner = right.T * filtered * scale[:, None]
        content = left.T @ r
        best = where.clone()
        best[self.is_linear] -= inner @ content
        self._put(best)
        values = r - left @ (share * content)
        if not self.exact:
            values = self._values()
            if not float(values @ values) < float(r @ r):
                self._put(where)
                values = r
        rest = values - left @ (share * (left.T @ values))
        loss = float(values @ values)
        if not loss < before:
            return None
        outer = jacobian[:, ~self.is_linear]
        coupling = left.T @ outer
        if not bool(coupling.isfinite().all()):
            return None
        outer.addmm_(left, share[:, None] * coupling, alpha=-1)
        return _Point(where, left, share, inner, loss, values, rest, outer, coupling)

    def _joint(self, point: _Point, step: Tensor, right: Tensor) -> Tensor:
        """The step of all parameters: alpha by ``step``, c by ``-Phi^+ (right + J_alpha step)``."""
        whole = step.new_empty(len(self.is_linear))
        whole[~self.is_linear] = step
        content = point.coupling @ step + point.basis.T @ right
        whole[self.is_linear] = -(point.inner @ content)
        return whole

    def _bend(self, system: Damped, point: _Point, start: Tensor, whole: Tensor) -> Tensor | None:
        """Half the acceleration of all parameters; see `GaussNewton`."""
        self._put(start)
        first = self._values()
        self._put(start + PROBE * whole)
        step = whole[~self.is_linear]
        # J d: what alpha changes along Phi, c takes back.
        slope = point.jacobian @ step - point.along(point.values)
        curvature = (2 / PROBE) * ((self._values() - first) / PROBE - slope)
        bend = system.solve(curvature - point.along(curvature))
        return believable(self._joint(point, bend, curvature), whole)

    def _values(self) -> Tensor:
        with torch.no_grad():
            return self.residuals().detach().clone()

    def _get(self) -> Tensor:
        return flatten(self.parameters)

    def _put(self, values: Tensor) -> None:
        assign(values, self.parameters)

    def soften(self) -> None:
        """After a divergence: damp strongly."""
        self.damping.soften()

    def renew(self) -> None:
        """Points or weights are new: as in `GaussNewton`; the linearisation is taken again."""
        self.damping.renew()
        self._point = self._at = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters.

        The linearisation was taken before the last move of c: the place is kept, not the matrix.
        """
        at = self._at if self._point is None else self._point.at
        return {
            **self.damping.state_dict(),
            "stalled": self.stalled,
            "at": None if at is None else at.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.damping.load_state_dict(state)
        self.stalled = bool(state["stalled"])
        self._point = None
        self._at = None if state["at"] is None else state["at"].to(self.parameters[0])


def is_affine(
    values: Callable[[], Tensor], parameters: Sequence[nn.Parameter], *, seed: int = 0
) -> bool:
    """Whether ``values()`` is affine in some parameters: ``f(a + b) + f(0) = f(a) + f(b)``.

    A numerical test, to rounding, at one random pair a, b; the parameters are put back.
    """
    with _kept(parameters), torch.no_grad():
        generator = torch.Generator().manual_seed(seed)

        def draw() -> list[Tensor]:
            return [
                0.5 + torch.rand(p.shape, generator=generator, dtype=torch.float64, device="cpu")
                for p in parameters
            ]

        one, two = draw(), draw()
        found = []
        for here, there in ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
            for parameter, a, b in zip(parameters, one, two, strict=True):
                parameter.copy_(here * a + there * b)
            found.append(values().detach().clone())
        both, none, first, second = found
        size = torch.stack([v.abs().max() for v in found]).max()
        defect = (both + none - first - second).abs().max()
        return bool(defect <= 1e4 * torch.finfo(both.dtype).eps * size)


@contextmanager
def _kept(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    old = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, old, strict=True):
                parameter.copy_(value)
