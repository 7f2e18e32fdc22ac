"""One step of a stochastic differential equation.

Every stepper is for one calculus and says for which noise it has which strong order. Strong order p
means that the mean error along a path falls like the step to the p.

Sources: Kloeden and Platen, "Numerical solution of stochastic differential equations" (Springer
1992), chapter 10 (Euler-Maruyama, Milstein) and section 11.1 (without derivatives); Roessler,
"Runge-Kutta methods for the strong approximation of solutions of stochastic differential
equations", SIAM J. Numer. Anal. 48 (2010), tables 6.1 and 6.3 (SRIW1, SRA1); Foster, dos Reis and
Strange, "High order splitting methods for SDEs satisfying a commutativity condition", SIAM J.
Numer. Anal. 62 (2024) (ShARK); Kidger, Foster, Li and Lyons, arXiv 2105.13493, algorithm 1
(reversible Heun).
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ..terms import SDE, Calculus, Noise
from .calculus import along, with_slope
from .levy import Draw

__all__ = [
    "SRA1",
    "SRIW1",
    "EulerHeun",
    "EulerMaruyama",
    "Heun",
    "Memory",
    "Milstein",
    "ReversibleHeun",
    "ShARK",
    "StochasticStepper",
]

Memory: TypeAlias = tuple[Tensor, ...]
"""What a stepper takes from step to step besides the state; tensors (batch, ...)."""
Length: TypeAlias = float | Tensor
"""Of a step: a number, or (batch, 1) in the dtype of the state where samples have their own."""

COMMUTATIVE: dict[Noise, float] = {"diagonal": 1.0, "additive": 1.0, "general": 0.5}


class StochasticStepper(Protocol):
    """A rule for one step.

    Attributes:
        calculus: for which it is; None for both.
        orders: strong order by noise; noise that is missing is refused.
        levy: whether a step needs the space-time Levy area.
        area: whether a step needs the Levy areas between channels (general noise only).
        derivative: whether it relies on component i of a diagonal diffusion depending on
            component i of the state only.
        evaluations: of the drift and the diffusion, in a step.
    """

    calculus: Calculus | None
    orders: dict[Noise, float]
    levy: bool
    area: bool
    derivative: bool
    evaluations: int

    def begin(self, sde: SDE, t: Tensor, y: Tensor) -> Memory:
        """What the first step takes over, at t (batch,) and y (batch, d)."""
        ...

    def step(
        self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """One step from t by h; the state (batch, d) at its end and what the next takes over."""
        ...


class _Memoryless:
    """Parts that most steppers have in common."""

    calculus: Calculus | None = None
    orders: dict[Noise, float] = COMMUTATIVE
    levy = False
    area = False
    derivative = False
    evaluations = 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def begin(self, sde: SDE, t: Tensor, y: Tensor) -> Memory:
        """Nothing."""
        return ()

    def step(
        self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See `StochasticStepper`."""
        return self.after(sde, t, h, y, draw), ()

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        raise NotImplementedError


class EulerMaruyama(_Memoryless):
    """``y + f h + g W``, Ito: strong order 1/2, 1 for additive noise; weak order 1."""

    calculus: Calculus | None = "ito"
    orders: dict[Noise, float] = {"diagonal": 0.5, "additive": 1.0, "general": 0.5}

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        return kicked(sde, moved(y, sde.drift(t, y), h), sde.diffusion(t, y), draw.w)


class Milstein(_Memoryless):
    """Milstein's scheme, in the calculus of the equation: strong order 1.

    Diagonal noise: ``y + f h + g W + 1/2 g g' (W^2 - h)``, Stratonovich without h. General noise:
    the sum of ``(G_i . grad) G_j I_ij`` with ``I_ij = 1/2 (W_i W_j - [i = j] h) + A_ij`` and Levy
    areas A. Areas drawn for the step alone are right in law only (see `levy.levy_area`), so that
    along a path general noise that does not commute is left with order 1/2.

    Args:
        derivative_free: for diagonal noise, take a difference of g along g instead of autograd for
            ``g g'``.
    """

    orders: dict[Noise, float] = COMMUTATIVE
    area = True
    derivative = True

    def __init__(self, derivative_free: bool = False) -> None:
        self.derivative_free = derivative_free
        self.evaluations = 2

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        w = draw.w
        drifted = moved(y, sde.drift(t, y), h)
        if sde.noise == "additive":
            return kicked(sde, drifted, sde.diffusion(t, y), w)
        subtracted = h if sde.calculus == "ito" else 0.0
        if sde.noise == "diagonal":
            g, slope = self._diagonal(sde, t, h, y, drifted)
            return torch.addcmul(torch.addcmul(drifted, g, w), slope, w * w - subtracted, value=0.5)
        assert draw.area is not None
        double = 0.5 * (w[:, :, None] * w[:, None] - _identity(w) * _inner(subtracted)) + draw.area
        correction = torch.einsum("bdij,bij->bd", along(sde, t, y), double)
        return kicked(sde, drifted, sde.diffusion(t, y), w) + correction

    def _diagonal(
        self, sde: SDE, t: Tensor, h: Length, y: Tensor, drifted: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.derivative_free:
            return with_slope(sde.diffusion, t, y)
        g = sde.diffusion(t, y)
        root = abs(h) ** 0.5
        if sde.calculus == "ito":
            return g, (sde.diffusion(t, moved(drifted, g, root)) - g) / root
        # W^2 has not mean zero as W^2 - h has: here a one-sided difference would cost order.
        ahead, behind = moved(y, g, root), moved(y, g, -root)
        return g, (sde.diffusion(t, ahead) - sde.diffusion(t, behind)) / (2 * root)


class EulerHeun(_Memoryless):
    """Heun's rule for the diffusion, Euler's for the drift, Stratonovich.

    Strong order 1/2, and 1 where the noise commutes (diagonal or additive).
    """

    calculus: Calculus | None = "stratonovich"
    evaluations = 2

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        g = sde.diffusion(t, y)
        ahead = sde.diffusion(later(t, h), kicked(sde, y, g, draw.w))
        return kicked(sde, moved(y, sde.drift(t, y), h), torch.lerp(g, ahead, 0.5), draw.w)


class Heun(_Memoryless):
    """Heun's rule for drift and diffusion, Stratonovich; strong orders as `EulerHeun`.

    Second order where there is no noise.
    """

    calculus: Calculus | None = "stratonovich"
    evaluations = 2

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        f, g = sde.drift(t, y), sde.diffusion(t, y)
        end = later(t, h)
        ahead = kicked(sde, moved(y, f, h), g, draw.w)
        f = torch.lerp(f, sde.drift(end, ahead), 0.5)
        g = torch.lerp(g, sde.diffusion(end, ahead), 0.5)
        return kicked(sde, moved(y, f, h), g, draw.w)


class SRA1(_Memoryless):
    """Roessler's two-stage scheme for additive noise: strong order 3/2.

    For additive noise both calculi agree.
    """

    orders: dict[Noise, float] = {"additive": 1.5}
    levy = True
    evaluations = 2

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        assert draw.h is not None
        # The integral of W over the step, divided by the step.
        mean = torch.add(draw.h, draw.w, alpha=0.5)
        begin, end = sde.diffusion(t, y), sde.diffusion(later(t, h), y)
        f = sde.drift(t, y)
        inside = kicked(sde, moved(y, f, 0.75 * h), end, 1.5 * mean)
        slope = torch.lerp(f, sde.drift(later(t, 0.75 * h), inside), 2 / 3)
        return additive(sde, moved(y, slope, h), begin, end, draw.w, mean)


class ShARK(_Memoryless):
    """Foster's shifted additive-noise Runge-Kutta: strong order 3/2, additive noise."""

    orders: dict[Noise, float] = {"additive": 1.5}
    levy = True
    evaluations = 2

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        assert draw.h is not None
        mean = torch.add(draw.h, draw.w, alpha=0.5)
        begin, end = sde.diffusion(t, y), sde.diffusion(later(t, h), y)
        shifted = kicked(sde, y, begin, draw.h)
        f = sde.drift(t, shifted)
        inside = kicked(sde, moved(shifted, f, 5 / 6 * h), begin, 5 / 6 * draw.w)
        slope = torch.lerp(f, sde.drift(later(t, 5 / 6 * h), inside), 0.6)
        return additive(sde, moved(y, slope, h), begin, end, draw.w, mean)


class SRIW1(_Memoryless):
    """Roessler's four-stage scheme for diagonal noise, Ito: strong order 3/2."""

    calculus: Calculus | None = "ito"
    orders: dict[Noise, float] = {"diagonal": 1.5}
    levy = True
    derivative = True
    evaluations = 4

    def after(self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw) -> Tensor:
        """The state at the end of the step."""
        assert draw.h is not None
        w = draw.w
        root = abs(h) ** 0.5
        mean = torch.add(draw.h, w, alpha=0.5)
        double, triple = 0.5 * (w * w - h) / root, w * (w * w - 3 * h) / (6 * h)
        quarter, end = later(t, 0.25 * h), later(t, h)
        f0, g0 = sde.drift(t, y), sde.diffusion(t, y)
        f1 = sde.drift(later(t, 0.75 * h), torch.addcmul(moved(y, f0, 0.75 * h), g0, 1.5 * mean))
        g1 = sde.diffusion(quarter, moved(moved(y, f0, 0.25 * h), g0, 0.5 * root))
        g2 = sde.diffusion(end, moved(moved(y, f0, h), g0, -root))
        # The third stage of the drift is y itself: its slope is f0 once more.
        fourth = moved(moved(moved(y, g0, -5 * root), g1, 3 * root), g2, 0.5 * root)
        g3 = sde.diffusion(quarter, moved(fourth, f0, 0.25 * h))
        state = moved(y, torch.lerp(f0, f1, 2 / 3), h)
        state = torch.addcmul(state, g0, 2 * mean - w - double - 2 * triple)
        state = torch.addcmul(state, g1, (4 * (w + double - mean) + 5 * triple) / 3)
        state = torch.addcmul(state, g2, (2 * (w - mean - triple) - double) / 3)
        return torch.addcmul(state, g3, triple)


class ReversibleHeun(_Memoryless):
    """Heun's rule in a form that can be run backwards exactly, Stratonovich.

    The state y is accompanied by z, at which the fields are evaluated, once a step::

        z1 = 2 y0 - z0 + f0 h + g0 W,   y1 = y0 + 1/2 (f0 + f1) h + 1/2 (g0 + g1) W

    Strong order 1/2, and 1 where the noise commutes. Its region of stability is small; where the
    drift is stiff, the difference y - z grows.
    """

    calculus: Calculus | None = "stratonovich"

    def begin(self, sde: SDE, t: Tensor, y: Tensor) -> Memory:
        """z, the drift and the diffusion at the start."""
        return y, sde.drift(t, y), sde.diffusion(t, y)

    def step(
        self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See `StochasticStepper`."""
        z, f, g = memory
        z = kicked(sde, moved(torch.add(2 * y, z, alpha=-1), f, h), g, draw.w)
        end = later(t, h)
        f1, g1 = sde.drift(end, z), sde.diffusion(end, z)
        return averaged(sde, y, (f, f1), (g, g1), h, draw.w), (z, f1, g1)

    def reverse(
        self, sde: SDE, t: Tensor, h: Length, y: Tensor, draw: Draw, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Undo a step that began at t; arguments as they were at its end."""
        z1, f1, g1 = memory
        z = kicked(sde, moved(torch.add(2 * y, z1, alpha=-1), f1, -h), g1, -draw.w)
        f, g = sde.drift(t, z), sde.diffusion(t, z)
        return averaged(sde, y, (f, f1), (g, g1), -h, -draw.w), (z, f, g)


def averaged(
    sde: SDE,
    y: Tensor,
    drifts: tuple[Tensor, Tensor],
    diffusions: tuple[Tensor, Tensor],
    h: Length,
    w: Tensor,
) -> Tensor:
    """The state moved by the mean of two drifts and two diffusions."""
    moved_y = moved(y, drifts[0] + drifts[1], 0.5 * h)
    return kicked(sde, moved_y, diffusions[0] + diffusions[1], 0.5 * w)


def additive(sde: SDE, y: Tensor, begin: Tensor, end: Tensor, w: Tensor, mean: Tensor) -> Tensor:
    """The state + the integral of g(t) dW over a step, for a g that is linear in between."""
    if begin is end:
        return kicked(sde, y, begin, w)
    return kicked(sde, kicked(sde, y, begin, mean), end, w - mean)


def moved(y: Tensor, slope: Tensor, h: Length) -> Tensor:
    """``y + slope h``."""
    if isinstance(h, Tensor):
        return torch.addcmul(y, slope, h)
    return torch.add(y, slope, alpha=h)


def kicked(sde: SDE, y: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """``y + g W`` for a diffusion g (batch, d) or (batch, d, channels)."""
    if g.dim() == 2:
        return torch.addcmul(y, g, w)
    return torch.baddbmm(y[:, :, None], g, w[:, :, None])[:, :, 0]


def later(t: Tensor, h: Length) -> Tensor:
    """The time t (batch,) plus h."""
    return t + (h[:, 0] if isinstance(h, Tensor) else h)


def _identity(w: Tensor) -> Tensor:
    return torch.eye(w.shape[1], dtype=w.dtype, device=w.device)


def _inner(h: Length) -> Length:
    return h[:, :, None] if isinstance(h, Tensor) else h
