"""Gauss-Newton with Levenberg-Marquardt damping and geodesic acceleration, for sums of squares.

Each step minimises the linear model of ``|r(theta)|^2`` plus a damping term (`least_squares`),
and then follows the curve that the model bends along: with r'' the second derivative of r in the
direction of the step d, the acceleration ``a = argmin |J a + r''|^2 + mu |S^-1 a|^2`` gives the
path ``theta + t d + t^2 a / 2`` (Transtrum, Machta and Sethna, "Geometry of nonlinear least squares
with applications to sloppy models and optimization", Phys. Rev. E 83, 2011). It costs one
evaluation of the residuals and one solve with factors that are there already, and is what lets the
damping fall: a network's loss is a narrow, bent valley, and without it small damping leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError, DivergedError
from .damping import Damping
from .least_squares import (
    FORMS,
    Damped,
    Factor,
    Iterated,
    Normal,
    require_form,
    require_sum_of_squares,
)
from .objective import assign, flatten

PROBE = 0.1
"""Part of the step over which r'' is taken by a difference."""
MOST_BENT = 0.75
"""Largest ``2 |a| / |d|`` at which the acceleration is believed."""
SHORTEST = 15
"""Halvings of the step that the grid line search tries."""
MANY = 1000
"""Parameters from which on a factor is kept for later steps: with fewer, a new one costs little."""
LEAST_ITERATED = 1e-9
"""Damping below which an earlier factor is no help: the directions that matter have turned."""


class GaussNewton:
    """Levenberg-Marquardt on the parameters of a module.

    Args:
        parameters: what is trained, P numbers in all.
        residuals: ``() -> r`` of shape (m,), at the current parameters, no gradient needed.
        linearise: ``() -> (r, J)`` with J of shape (m, P), columns in the order of ``parameters``.
            J is not changed.
        damping: initial mu.
        form: a name in `least_squares.FORMS`, or ``"auto"``: dual for fewer residuals than
            parameters, else primal, and in its place qr once mu is so small that the normal matrix
            would be wrong; with many parameters, steps between two primal ones reuse their factor.
        line_search: ``"damping"`` tries one step for each damping and raises the damping until the
            loss falls; ``"grid"`` tries step lengths 1, 1/2, 1/4, ... along each, and keeps the
            best.
        acceleration: whether steps bend.
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
        line_search: str = "damping",
        acceleration: bool = True,
        max_trials: int = 12,
    ) -> None:
        require_form(form)
        if line_search not in ("damping", "grid"):
            raise ConfigurationError(
                "line_search: no such thing",
                found=line_search,
                advice="write one of damping, grid",
            )
        self.parameters = list(parameters)
        self.residuals = residuals
        self.linearise = linearise
        self.damping = Damping(damping)
        self.form = form
        self.line_search = line_search
        self.acceleration = acceleration
        self.max_trials = max_trials
        self.earlier: Factor | None = None
        self.stalled = False

    def step(self) -> float:
        """One accepted step (or none, when every trial failed).

        Returns:
            The sum of squares after the step. `stalled` tells whether no trial lowered it.

        Raises:
            ConfigurationError: what the closures return is no vector of residuals.
            DivergedError: a residual or the Jacobian is not finite; the parameters were not moved.
        """
        r, jacobian = (part.detach() for part in self.linearise())
        r = r.clone()  # whose memory may be used for the next residuals
        start = flatten(self.parameters)
        require_sum_of_squares(r, jacobian, len(start))
        before = float(r @ r)
        if not math.isfinite(before):
            raise DivergedError("a residual is not finite")
        system = self._prepare(jacobian, r)
        self.damping.begin()
        for _ in range(self.max_trials):
            if system.damp(self.damping.value):
                step = system.solve()
                predicted = system.predicted(step)
                bend = None
                if self.acceleration:
                    bend = self._bend(system, start, step, r, jacobian)
                after, length = self._search(start, step, bend, before)
                if after < before:
                    self._move(start, step, bend, length)
                    # A shortened step says that the model was trusted too far.
                    gain = (before - after) / max(predicted, 1e-300) if length == 1 else 0.0
                    self.damping.accept(gain, system.least)
                    self.stalled = False
                    self._keep(system)
                    return after
            if isinstance(system, Iterated):  # the factor is to blame before the damping is
                system = prepare(self.form, self.damping.value, jacobian, r)
            else:
                self.damping.reject()
        assign(start, self.parameters)
        self.damping.restart()
        self.stalled = True
        return before

    def _prepare(self, jacobian: Tensor, r: Tensor) -> Damped:
        """The problem of this step, by the factor of an earlier one where that pays."""
        kept = self.earlier
        if kept is None or len(kept.scale) != jacobian.shape[1]:
            return prepare(self.form, self.damping.value, jacobian, r)
        if self.damping.value < LEAST_ITERATED:
            return prepare(self.form, self.damping.value, jacobian, r)
        return Iterated(jacobian, r, kept)

    def _keep(self, system: Damped) -> None:
        """Keep the factor of an accepted step; drop one that has served its time."""
        if isinstance(system, Normal) and self.form == "auto" and len(system.scale) >= MANY:
            assert system.factor is not None
            self.earlier = Factor(system.scale, system.factor)
        elif not isinstance(system, Iterated) or system.worn:
            self.earlier = None

    def _bend(
        self, system: Damped, start: Tensor, step: Tensor, r: Tensor, jacobian: Tensor
    ) -> Tensor | None:
        """Half the acceleration, or None where it is too large to be believed."""
        self._move(start, PROBE * step)
        curvature = (2 / PROBE) * ((self._values() - r) / PROBE - jacobian @ step)
        return believable(system.solve(curvature), step)

    def _search(
        self, start: Tensor, step: Tensor, bend: Tensor | None, before: float
    ) -> tuple[float, float]:
        """Lowest loss found along the path, and at which length; stops once it rises again."""
        best, chosen = math.inf, 0.0
        for halvings in range(SHORTEST + 1 if self.line_search == "grid" else 1):
            length = 0.5**halvings
            self._move(start, step, bend, length)
            values = self._values()
            loss = float(values @ values)
            if loss < best:
                best, chosen = loss, length
            elif best < before:
                break
        return best, chosen

    def _move(
        self, start: Tensor, step: Tensor, bend: Tensor | None = None, length: float = 1.0
    ) -> None:
        where = start + length * step
        if bend is not None:
            where += length**2 * bend
        assign(where, self.parameters)

    def _values(self) -> Tensor:
        with torch.no_grad():
            return self.residuals().detach().clone()

    def soften(self) -> None:
        """After a divergence: damp strongly."""
        self.damping.soften()

    def renew(self) -> None:
        """The residuals are of new points: no more damping than at first, unless just softened."""
        self.damping.renew()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        kept = None if self.earlier is None else list(self.earlier)
        return {**self.damping.state_dict(), "stalled": self.stalled, "earlier": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.damping.load_state_dict(state)
        self.stalled = bool(state["stalled"])
        kept = state["earlier"]
        if kept is not None:
            kept = Factor(*(part.to(self.parameters[0].device) for part in kept))
        self.earlier = kept


TAKEOVER = 200
"""Damping, in machine epsilons, below which the normal matrix has too few digits left."""


def prepare(form: str, damping: float, jacobian: Tensor, residual: Tensor) -> Damped:
    """The damped problem in the form asked for; ``auto`` chooses by shape and damping."""
    if form == "auto":
        if damping < TAKEOVER * torch.finfo(jacobian.dtype).eps:
            form = "qr"
        else:
            form = "dual" if len(jacobian) < jacobian.shape[1] else "primal"
    return FORMS[form](jacobian, residual)


def believable(acceleration: Tensor, step: Tensor) -> Tensor | None:
    """Half the acceleration if the path it bends is still near the step; None if not."""
    size, length = acceleration.norm(), step.norm()
    return acceleration / 2 if 2 * size <= MOST_BENT * length else None
