"""Symplectic stepping of separable systems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigurationError
from .dense import Hermite, Interpolant, Lazy
from .steppers import Step
from .terms import Separable, halves

__all__ = ["Leapfrog"]


class Leapfrog:
    """Velocity Verlet: half a kick, a drift, half a kick. Order 2, symplectic, time-reversible.

    With constant steps the energy of a Hamiltonian system stays within O(h^2) for all times; a
    controller that changes the step would lose this, so there is no error estimate.

    Source: Hairer, Lubich and Wanner, "Geometric numerical integration illustrated by the
    Stoermer-Verlet method", Acta Numerica 12 (2003).

    The cache is the force at the beginning of the step, shape (batch, d / 2). The interpolant is
    the cubic Hermite one; it evaluates the velocity at both ends when it is first used.
    """

    order = 2
    error_order: int | None = None
    dense_order = 2
    evaluations = 1

    def __repr__(self) -> str:
        return "Leapfrog()"

    def begin(self, term: Any, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """The force at t (batch,) on y (batch, d).

        Raises:
            ConfigurationError: the term is not separable.
        """
        if not isinstance(term, Separable):
            raise ConfigurationError(
                "Leapfrog steps separable systems.",
                found=type(term).__name__,
                advice="write Separable(velocity, force)",
            )
        return term.force(t.to(y.dtype), halves(y)[0])

    def step(self, term: Any, t: Tensor, h: Tensor, y: Tensor, cache: Tensor | None) -> Step:
        """One step from t by h, both (batch,) float64, of y = [q | p] (batch, d)."""
        force = self.begin(term, t, h, y) if cache is None else cache
        length = h.to(y.dtype)[:, None]
        half = 0.5 * length
        q, p = halves(y)
        middle = torch.addcmul(p, half, force)
        position = torch.addcmul(q, length, term.velocity((t + 0.5 * h).to(y.dtype), middle))
        after = term.force((t + h).to(y.dtype), position)
        momentum = torch.addcmul(middle, half, after)
        state = torch.cat((position, momentum), dim=1)
        inside = Lazy(self._hermite(term, t, h, y, state, force, after))
        return Step(state, None, after, inside, None, self.evaluations)

    def _hermite(
        self,
        term: Separable,
        t: Tensor,
        h: Tensor,
        before: Tensor,
        after: Tensor,
        force_before: Tensor,
        force_after: Tensor,
    ) -> Callable[[], Interpolant]:
        def make() -> Interpolant:
            dtype = before.dtype
            velocities = (
                term.velocity(t.to(dtype), halves(before)[1]),
                term.velocity((t + h).to(dtype), halves(after)[1]),
            )
            return Hermite(
                before,
                after,
                h.to(dtype)[:, None],
                torch.cat((velocities[0], force_before), dim=1),
                torch.cat((velocities[1], force_after), dim=1),
            )

        return make
