"""Gauss-Newton with Levenberg-Marquardt damping for sums of squares.

Minimises ``|r(theta)|^2`` by solving ``(S J^T J S + mu I) S^-1 d = -S J^T r`` in every step, where
S scales the
normal matrix to unit diagonal (Jacobi scaling), so that the damping mu is dimensionless. With
fewer residuals than
parameters the same step is found in residual space, ``d = -S^2 J^T (J S^2 J^T + mu I)^-1 r``
(push-through identity;
the dual form used for natural gradients in arXiv 2505.12149). Damping follows the gain ratio, after
Nielsen, "Damping parameter in Marquardt's method" (IMM-REP-1999-05), but falls by at most 4 a step
instead of 3, rises more slowly after a rejection, and any decrease is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ...errors import DivergedError

RESTART_DAMPING = 1e-3
LEAST_DAMPING = 1e-14
LEAST_COLUMN = 1e-8


class GaussNewton:
    """Levenberg-Marquardt on the parameters of a module.

    Args:
        parameters: what is trained, P numbers in all.
        residuals: ``() -> r`` of shape (m,), at the current parameters, no gradient needed.
        linearise: ``() -> (r, J)`` with J of shape (m, P), columns in the order of ``parameters``.
        damping: initial mu.
        form: ``"primal"`` (normal matrix P x P), ``"dual"`` (m x m) or ``"auto"`` for the smaller.
        max_trials: damping values tried before a step is given up.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        residuals: Callable[[], Tensor],
        linearise: Callable[[], tuple[Tensor, Tensor]],
        *,
        damping: float = 1e-3,
        form: str = "auto",
        max_trials: int = 12,
    ) -> None:
        self.parameters = list(parameters)
        self.residuals = residuals
        self.linearise = linearise
        self.initial_damping = damping
        self.damping = damping
        self.softened = False
        self.form = form
        self.max_trials = max_trials
        self.stalled = False

    def step(self) -> float:
        """One accepted step (or none, when every trial failed).

        Returns:
            The sum of squares after the step. `stalled` tells whether no trial lowered it.

        Raises:
            DivergedError: a residual or the Jacobian is not finite; the parameters were not moved.
        """
        r, jacobian = self.linearise()
        start = parameters_to_vector(self.parameters).detach().clone()
        before = float(r @ r)
        if not math.isfinite(before) or not bool(torch.isfinite(jacobian).all()):
            raise DivergedError("a residual or its Jacobian is not finite")
        solve = self._prepare(r, jacobian)
        raised = 2.0
        for _ in range(self.max_trials):
            direction, predicted = solve(self.damping)
            if direction is not None:
                with torch.no_grad():
                    vector_to_parameters(start + direction, self.parameters)
                    trial = self.residuals()
                after = float(trial @ trial)
                gain = (before - after) / max(predicted, 1e-300)
                if after < before:
                    self.damping *= min(max(1 / 4, 1 - (2 * gain - 1) ** 3), 2.0)
                    self.damping = max(self.damping, LEAST_DAMPING)
                    self.stalled = False
                    return after
            self.damping *= raised
            raised *= 1.5
        with torch.no_grad():
            vector_to_parameters(start, self.parameters)
        self.damping = RESTART_DAMPING
        self.stalled = True
        return before

    def _prepare(
        self, r: Tensor, jacobian: Tensor
    ) -> Callable[[float], tuple[Tensor | None, float]]:
        rows, columns = jacobian.shape
        gradient = jacobian.T @ r
        scale = torch.linalg.vector_norm(jacobian, dim=0)
        # A column far below the others is a parameter the residuals do not feel (beyond rounding):
        # scaling it
        # up to the rest would turn that rounding into a step.
        floor = LEAST_COLUMN * torch.clamp(scale.max(), min=torch.finfo(scale.dtype).tiny)
        scale = 1 / torch.maximum(scale, floor)
        dual = self.form == "dual" or (self.form == "auto" and rows < columns)
        scaled = jacobian * scale if dual else jacobian
        if dual:
            gram = scaled @ scaled.T
        else:
            gram = jacobian.T @ jacobian
            gram *= scale
            gram *= scale[:, None]
        diagonal = gram.diagonal().clone()

        def solve(damping: float) -> tuple[Tensor | None, float]:
            gram.diagonal().copy_(diagonal + damping)
            factor, failed = torch.linalg.cholesky_ex(gram)
            if failed:
                return None, 0.0
            if dual:
                multiplier = torch.cholesky_solve(-r[:, None], factor)[:, 0]
                scaled_step = scaled.T @ multiplier
            else:
                scaled_step = torch.cholesky_solve(-(scale * gradient)[:, None], factor)[:, 0]
            # |r|^2 - |r + J d|^2 for the damped step, without another product with J
            predicted = damping * float(scaled_step @ scaled_step)
            direction = scale * scaled_step
            return direction, predicted - float(direction @ gradient)

        return solve

    def soften(self) -> None:
        """After a divergence: damp strongly."""
        self.damping = max(1.0, self.damping)
        self.softened = True

    def renew(self) -> None:
        """The residuals are of new points: no more damping than at first, unless just softened."""
        if not self.softened:
            self.damping = min(self.damping, self.initial_damping)
        self.softened = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return {"damping": self.damping, "stalled": self.stalled, "softened": self.softened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.damping = float(state["damping"])
        self.stalled = bool(state["stalled"])
        self.softened = bool(state["softened"])
