"""Quasi-Newton methods: a line search along ``-H g``, with H learnt from changes of the gradient.

With s the step, y the change of the gradient along it, H the approximate inverse Hessian and
``B = H^-1``, every update here is of the self-scaled Broyden class (Al-Baali, Comput. Optim. Appl.
9, 1998; for networks, Urban, Stefanou and Pons, J. Comput. Phys. 523, 2025, arXiv 2405.04230):

    H+ = (H - Hy (Hy)^T / (y^T H y) + phi (y^T H y) v v^T) / tau + s s^T / (y^T s)
    v  = s / (y^T s) - Hy / (y^T H y)

Since ``v^T y = 0``, ``H+ y = s`` whatever phi and tau are: the secant equation. ``phi = tau = 1``
is BFGS. tau < 1 enlarges H where the last step was too short, which plain BFGS learns slowly.

H outlives a change of the objective (new collocation points, new weights): the curvature of a loss
over other points is much the same, and learning it again costs P steps. Only a pair (s, y) that
straddles the change would be wrong, so value and gradient are asked for anew.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError, DivergedError
from .line_search import Trial, rounding, strong_wolfe
from .objective import Objective, assign, evaluate, flatten

Update: TypeAlias = Literal["bfgs", "ss_bfgs", "ss_broyden", "ss_broyden1"]

CHECK_EVERY = 100
"""Updates after which a dense H is symmetrised, and after which a change of the objective has it
checked again: a factorisation costs as much as P/10 updates or so."""
LEAST_CURVATURE = 1e-14
"""A pair with ``y^T s`` below so much of ``|y| |s|`` is rounding."""
LEAST_ANGLE = 1e-10
"""Below this, ``a = (s^T B s)(y^T H y)/(y^T s)^2 - 1`` is rounding: H y is along s, and all updates
of the class agree."""


class InverseHessian(ABC):
    """What has been learnt of the inverse Hessian; vectors have shape (P,), in float64.

    Attributes:
        fresh: nothing has been learnt yet.
    """

    fresh: bool

    @abstractmethod
    def apply(self, vector: Tensor) -> Tensor:
        """H times a vector."""

    @abstractmethod
    def update(self, s: Tensor, y: Tensor, b: float) -> None:
        """Learn from a pair with positive curvature.

        Args:
            s: step.
            y: change of the gradient along it.
            b: ``s^T B s / (y^T s)``, which a step along ``-H g`` knows without B.
        """

    @abstractmethod
    def repair(self) -> bool:
        """Remove what rounding has done; False if H was lost over it and is the identity again."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything: H is the identity."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""


class DenseInverse(InverseHessian):
    """H as a matrix of shape (P, P).

    Args:
        size: P.
        update: member of the class.
        device: where H lives.
    """

    def __init__(
        self, size: int, update: Update = "ss_broyden", device: torch.device | str = "cpu"
    ) -> None:
        if update not in get_args(Update):
            raise ConfigurationError(
                "update: no such member of Broyden's class",
                found=update,
                advice=f"write one of {', '.join(get_args(Update))}",
            )
        self.kind: Update = update
        self.matrix = torch.eye(size, dtype=torch.float64, device=device)
        self.fresh = True
        self.unchecked = 0

    def apply(self, vector: Tensor) -> Tensor:
        """See `InverseHessian`."""
        return self.matrix @ vector

    def update(self, s: Tensor, y: Tensor, b: float) -> None:
        """See `InverseHessian`."""
        ys = float(y @ s)
        if self.fresh:
            # The first pair gives the scale of H (Nocedal and Wright, eq. 6.20), and with it b.
            scale = ys / float(y @ y)
            self.matrix.mul_(scale)
            b /= scale
            self.fresh = False
        hy = self.matrix @ y
        yhy = float(y @ hy)
        phi, tau = scaling(self.kind, b, yhy / ys, len(s))
        v = s / ys - hy / yhy
        factors = s.new_tensor([-1 / (yhy * tau), phi * yhy / tau, 1 / ys])
        columns = torch.stack([hy, v, s], dim=1) * factors.abs().sqrt()
        # One pass over H. Since only signs tell the two sides apart, entries (i, j) and (j, i) are
        # the same sums of the same products.
        self.matrix.addmm_(columns * factors.sign(), columns.T, beta=1 / tau)
        self.unchecked += 1
        if self.unchecked % CHECK_EVERY == 0:
            self._symmetrise()

    def _symmetrise(self) -> None:
        # No update corrects a part that is not symmetric, and tau < 1 makes it grow.
        self.matrix = (self.matrix + self.matrix.T).mul_(0.5)

    def repair(self) -> bool:
        """Symmetrise, and see by a Cholesky factorisation whether H is positive definite."""
        if self.unchecked < CHECK_EVERY:
            return True
        self.unchecked = 0
        self._symmetrise()
        _, failed = torch.linalg.cholesky_ex(self.matrix)
        # The factorisation of a matrix with NaN may end without complaint.
        if failed or not math.isfinite(float(self.matrix.sum())):
            self.reset()
            return False
        return True

    def reset(self) -> None:
        """See `InverseHessian`."""
        self.matrix.zero_().fill_diagonal_(1.0)
        self.fresh = True
        self.unchecked = 0

    def state_dict(self) -> dict[str, Any]:
        """See `InverseHessian`."""
        return {"matrix": self.matrix, "fresh": self.fresh, "unchecked": self.unchecked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `InverseHessian`."""
        self.matrix.copy_(state["matrix"])
        self.fresh = bool(state["fresh"])
        self.unchecked = int(state["unchecked"])


def scaling(update: Update, b: float, h: float, size: int) -> tuple[float, float]:
    """The two numbers that choose a member of the self-scaled Broyden class.

    theta is the member in terms of B (0 is BFGS, 1 is DFP, ``1/(1 - b)`` SR1) and phi the same in
    terms of H. theta lies between bounds within which B stays positive definite and the smallest
    and the largest of its eigenvalues are not driven apart.

    Args:
        update: how theta and tau are chosen.
        b: ``s^T B s / (y^T s)``.
        h: ``y^T H y / (y^T s)``.
        size: number of parameters.

    Returns:
        ``(phi, tau)``.
    """
    if update == "bfgs":
        return 1.0, 1.0
    shorter = min(1.0, 1 / b)
    a = b * h - 1
    # With one parameter H y is along s, whatever rounding says of it.
    if update == "ss_bfgs" or a <= LEAST_ANGLE or size == 1:
        return 1.0, shorter
    c = math.sqrt(a / (1 + a))
    # 1 - c, without losing its digits where c is nearly one.
    least = min(1.0, h / ((1 + a) * (1 + c)))
    lower = (least - 1) / a
    if update == "ss_broyden1":
        upper = max(1.0, b * (1 + c))
        wanted = 1 / (1 - b) if b != 1 else math.inf
    else:
        upper = 1 / least
        wanted = (1 - b) / b
    theta = max(lower, min(upper, wanted))
    sigma = 1 + a * theta
    root = abs(sigma) ** (1 / (1 - size))
    tau = min(shorter * root, sigma) if theta <= 0 else shorter * min(root, 1 / theta)
    return (1 - theta) / sigma, tau


class LimitedInverse(InverseHessian):
    """The last pairs, from which H g is formed by the two-loop recursion (L-BFGS).

    Source: Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35, 1980.

    Args:
        history: pairs kept.
    """

    def __init__(self, history: int = 100) -> None:
        self.history = history
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.fresh = True

    def apply(self, vector: Tensor) -> Tensor:
        """See `InverseHessian`."""
        if not self.pairs:
            return vector.clone()
        result = vector.clone()
        rho = [1 / float(y @ s) for s, y in self.pairs]
        shares = []
        for (s, y), r in zip(reversed(self.pairs), reversed(rho), strict=True):
            shares.append(r * float(s @ result))
            result.sub_(y, alpha=shares[-1])
        s, y = self.pairs[-1]
        result.mul_(float(s @ y) / float(y @ y))
        for (s, y), r, share in zip(self.pairs, rho, reversed(shares), strict=True):
            result.add_(s, alpha=share - r * float(y @ result))
        return result

    def update(self, s: Tensor, y: Tensor, b: float) -> None:
        """See `InverseHessian`."""
        del b
        self.pairs = [*self.pairs, (s, y)][-self.history :]
        self.fresh = False

    def repair(self) -> bool:
        """Nothing can be lost: H is made of pairs of positive curvature."""
        return True

    def reset(self) -> None:
        """See `InverseHessian`."""
        self.pairs = []
        self.fresh = True

    def state_dict(self) -> dict[str, Any]:
        """See `InverseHessian`."""
        return {"s": [s for s, _ in self.pairs], "y": [y for _, y in self.pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `InverseHessian`."""
        # A pair is never changed in place, so it may be shared.
        self.pairs = list(zip(state["s"], state["y"], strict=True))
        self.fresh = not self.pairs


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _kept(gradient: Tensor) -> Tensor:
    """A copy in float64: an objective may write the next gradient where the last one was."""
    return gradient.to(torch.float64, copy=True)


class QuasiNewton:
    """Steps along ``-H g``, as far as the strong Wolfe conditions say.

    It has no stopping test of its own: absolute thresholds made for float32 end a float64 run
    early.

    Args:
        parameters: what is trained, P numbers in all.
        objective: value and flat gradient at the present parameters.
        inverse: what is known of the inverse Hessian: `DenseInverse` or `LimitedInverse`.
        say: told when H was lost and learning begins again.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        inverse: InverseHessian,
        *,
        say: Callable[[str], None] = _warn,
    ) -> None:
        self.parameters = list(parameters)
        self.objective = objective
        self.inverse = inverse
        self.say = say
        self.noise = rounding(self.parameters[0].dtype)
        self.known: tuple[float, Tensor] | None = None
        self.stalled = False

    def step(self) -> float:
        """One step; if none lowers the loss along ``-H g``, one along the gradient.

        Returns:
            The loss after the step. `stalled` tells whether it is no lower than before.

        Raises:
            DivergedError: loss or gradient is not finite; the parameters were not moved.
        """
        if self.known is None:
            value, gradient = evaluate(self.objective)
            self.known = value, _kept(gradient)
        value, gradient = self.known
        if not bool(gradient.any()):
            self.stalled = True
            return value
        point = flatten(self.parameters).double()
        try:
            trial, promised = self._move(point, value, gradient)
            # Where the slope promises less than rounding, H is not to blame.
            lost = not promised <= self.noise * abs(value)
            if trial is None and lost and not self.inverse.fresh:
                self.say(
                    "found no lower loss along -H g: the inverse Hessian is the identity again"
                )
                self.inverse.reset()
                trial, _ = self._move(point, value, gradient)
        except BaseException:
            assign(point, self.parameters)
            raise
        if trial is None:
            assign(point, self.parameters)
            self.stalled = True
            return value
        assert trial.gradient is not None
        s = flatten(self.parameters).double() - point
        y = trial.gradient - gradient
        curvature = float(y @ s)
        if curvature > LEAST_CURVATURE * float(y.norm() * s.norm()):
            self.inverse.update(s, y, -trial.step * float(s @ gradient) / curvature)
        self.known = trial.value, trial.gradient
        self.stalled = not trial.value < value
        return trial.value

    def _move(self, point: Tensor, value: float, gradient: Tensor) -> tuple[Trial | None, float]:
        """Search along ``-H g``; the parameters end at the step found.

        Returns:
            The step, None if there is none, and the decrease that the slope promised.
        """
        direction = self.inverse.apply(gradient).neg_()
        slope = float(direction @ gradient)
        if not (slope < 0 and math.isfinite(slope)):
            return None, math.inf
        at = 0.0

        def evaluate_at(step: float) -> Trial:
            nonlocal at
            assign(torch.add(point, direction, alpha=step), self.parameters)
            at = step
            try:
                there, found = self.objective()
            except DivergedError:
                return Trial(step, math.inf, math.nan)
            found = _kept(found)
            return Trial(step, there, float(found @ direction), found)

        first = min(1.0, 1 / float(gradient.norm())) if self.inverse.fresh else 1.0
        origin = Trial(0.0, value, slope, gradient)
        trial = strong_wolfe(evaluate_at, origin, first, noise=self.noise)
        if trial is not None and at != trial.step:
            assign(torch.add(point, direction, alpha=trial.step), self.parameters)
        return trial, -slope

    def soften(self) -> None:
        """After a divergence: no memory of curvature, and so a cautious first step."""
        self.inverse.reset()
        self.known = None

    def renew(self) -> None:
        """The objective has changed: its value and gradient are asked for anew, H is kept."""
        self.known = None
        if not self.inverse.repair():
            self.say(
                "lost the positive definiteness of the inverse Hessian to rounding: it is the "
                "identity again"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return {
            "inverse": self.inverse.state_dict(),
            "known": None if self.known is None else list(self.known),
            "stalled": self.stalled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        device = self.parameters[0].device
        inverse = {
            key: [part.to(device) for part in value] if isinstance(value, list) else value
            for key, value in state["inverse"].items()
        }
        self.inverse.load_state_dict(inverse)
        known = state["known"]
        self.known = None if known is None else (float(known[0]), known[1].to(device))
        self.stalled = bool(state["stalled"])
