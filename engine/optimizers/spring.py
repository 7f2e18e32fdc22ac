"""SPRING: damped Gauss-Newton that remembers its last step, for fresh points in every step.

A small batch of residuals says nothing about most directions in parameter space; there SPRING keeps
what earlier batches said. Source: Goldshlager, Abrahamsen and Lin, "A Kaczmarz-inspired approach to
accelerate the optimization of neural network wavefunctions", J. Comput. Phys. 516, 2024; for
physics-informed networks arXiv 2505.12149.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError, DivergedError
from .gauss_newton import prepare
from .least_squares import require_form, require_sum_of_squares
from .objective import assign, flatten


class Spring:
    """Subsampled projected-increment natural gradient descent.

    In step k, with r and J of fresh points and S the Jacobi scaling of J,

        d_k = argmin |J d + r|^2 + mu |S^-1 (d - beta d_{k-1})|^2,
        theta <- theta + eta d_k / sqrt(1 - beta^{2k}),

    the last cut off at a largest length. Without momentum (beta = 0) it is a damped Gauss-Newton
    step of fixed damping.

    Args:
        parameters: what is trained, P numbers in all.
        linearise: ``() -> (r, J)``, shapes (m,) and (m, P), of the present points.
        damping: mu, relative to a normal matrix of unit diagonal.
        momentum: beta, in [0, 1).
        learning_rate: eta. Momentum adds up: stable, roughly, to ``1 - beta``.
        largest_step: Euclidean length of the longest step taken.
        form: as in `GaussNewton`.

    Raises:
        ConfigurationError: damping, momentum or form is none.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        linearise: Callable[[], tuple[Tensor, Tensor]],
        *,
        damping: float = 1e-3,
        momentum: float = 0.9,
        learning_rate: float = 0.1,
        largest_step: float = 1.0,
        form: str = "auto",
    ) -> None:
        require_form(form)
        if not 0 < damping < math.inf:
            raise ConfigurationError(
                "damping: out of range", found=damping, advice="write a positive number, like 1e-3"
            )
        if not 0 <= momentum < 1:
            raise ConfigurationError(
                "momentum: out of range",
                found=momentum,
                advice="write a number from 0 up to, but not including, 1, such as 0.9",
            )
        self.parameters = list(parameters)
        self.linearise = linearise
        self.damping = damping
        self.momentum = momentum
        self.learning_rate = learning_rate
        self.largest_step = largest_step
        self.form = form
        self.steps = 0
        self.last: Tensor | None = None
        self.stalled = False

    def step(self) -> float:
        """One step.

        Returns:
            The sum of squares before the step, of the present points.

        Raises:
            ConfigurationError: `linearise` gives no vector of residuals with its Jacobian.
            DivergedError: a residual, the Jacobian or the step is not finite; the parameters were
                not moved.
        """
        r, jacobian = (part.detach() for part in self.linearise())
        start = flatten(self.parameters)
        require_sum_of_squares(r, jacobian, len(start))
        loss = float(r @ r)
        if not math.isfinite(loss):
            raise DivergedError("a residual is not finite")
        kept = torch.zeros_like(start) if self.last is None else self.momentum * self.last
        # In d - beta d_{k-1} an ordinary damped step, from the residuals that the kept part leaves.
        system = prepare(self.form, self.damping, jacobian, r + jacobian @ kept)
        if not system.damp(self.damping):
            raise DivergedError("rounding spoilt the damped normal matrix; use a larger damping")
        step = kept + system.solve()
        bias = 1 - self.momentum ** (2 * (self.steps + 1))
        move = self.learning_rate / math.sqrt(bias) * step
        length = float(move.norm())
        if not math.isfinite(length):
            raise DivergedError("a step is not finite")
        if length > self.largest_step:
            move *= self.largest_step / length
        assign(start + move, self.parameters)
        self.last = step
        self.steps += 1
        return loss

    def soften(self) -> None:
        """After a divergence: damp more, step shorter, forget the last step."""
        self.damping *= 10
        self.largest_step /= 2
        self.last = None
        self.steps = 0

    def renew(self) -> None:
        """Fresh points are what it is made for."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return {
            "damping": self.damping,
            "largest_step": self.largest_step,
            "steps": self.steps,
            "last": self.last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.damping = float(state["damping"])
        self.largest_step = float(state["largest_step"])
        self.steps = int(state["steps"])
        last = state["last"]
        self.last = None if last is None else last.to(self.parameters[0])
