"""Constants of an equation refined through its solution, and the choice between equations.

A fit of slopes inherits what the learnt field got wrong. So the constants, and the start, are
fitted to the data again by solving the equation (least squares); among equations of different
length the Bayesian information criterion decides, by how well their solutions fit the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from ..controllers import PID
from ..explicit import Dopri5
from ..integrate import integrate
from ..terms import ODE
from .sparse import Polynomial

__all__ = ["Refined", "choose", "refined", "solution"]

Array = NDArray[np.float64]
Known = Callable[[Tensor, Tensor], Tensor]
NUDGE = 1e-6
"""Relative change of a constant from which its derivative is taken, on both sides."""
LEAST = 1e-5
"""Relative misfit below which data say nothing more: their own error, or that of the solution."""


@dataclass(frozen=True)
class Refined:
    """An equation fitted to data.

    Attributes:
        polynomial: what was unknown.
        starts: shape (series, d).
        misfit: root mean square distance from the data, in parts of their spread.
        criterion: of Bayes; the lower the better.
    """

    polynomial: Polynomial
    starts: Array
    misfit: float
    criterion: float


def solution(known: Known, polynomial: Polynomial, starts: Array, times: Array) -> Array:
    """States (series, n, d) at times (n,) of ``dy/dt = known(t, y) + polynomial(y)``."""
    constants = np.broadcast_to(polynomial.coefficients, (len(starts), len(polynomial.terms)))
    return _solved(known, polynomial, starts, constants, times)


def _solved(
    known: Known, polynomial: Polynomial, starts: Array, constants: Array, times: Array
) -> Array:
    """The same with constants (series, terms) for every series: they are part of the state."""
    d = starts.shape[1]

    def field(t: Tensor, z: Tensor) -> Tensor:
        y, c = z[:, :d], z[:, d:]
        return torch.cat((known(t, y) + polynomial(y, c), torch.zeros_like(c)), dim=1)

    begin = torch.from_numpy(np.concatenate([starts, constants], axis=1))
    with torch.no_grad():
        found = integrate(
            ODE(field), begin, torch.from_numpy(times), stepper=Dopri5(),
            controller=PID(1e-8, 1e-9), max_steps=2000,
        )  # fmt: skip
    return found.states[..., :d].numpy()


def refined(known: Known, polynomial: Polynomial, times: Array, data: Array) -> Refined:
    """Fit constants and starts to data.

    Args:
        known: what of the field is known, of t (batch,) and y (batch, d).
        polynomial: the rest; its constants are the first guess.
        times: shape (n,), the first is the start.
        data: shape (series, n, d), NaN where missing.
    """
    series, _, d = data.shape
    spread = np.nanstd(data, axis=(0, 1)) + 1e-300
    count = len(polynomial.terms)
    seen = ~np.isnan(data)

    def residuals(stack: Array) -> Array:
        """Of several guesses (guesses, parameters) at once."""
        guesses = len(stack)
        constants = np.repeat(stack[:, :count], series, axis=0)
        starts = stack[:, count:].reshape(guesses * series, d)
        states = _solved(known, polynomial, starts, constants, times)
        apart = (states.reshape(guesses, *data.shape) - data) / spread
        # A solution that blows up is far from everything.
        return np.nan_to_num(apart[:, seen], nan=1e3, posinf=1e3, neginf=-1e3).clip(-1e3, 1e3)

    def jacobian(x: Array) -> Array:
        steps = NUDGE * np.maximum(np.abs(x), 1e-2)
        moved = np.concatenate([x + np.diag(steps), x - np.diag(steps)])
        found = residuals(moved)
        return ((found[: len(x)] - found[len(x) :]) / (2 * steps)[:, None]).T

    first = np.concatenate([polynomial.coefficients, data[:, 0].ravel()])
    fit = least_squares(
        lambda x: residuals(x[None])[0],
        first,
        jacobian,  # pyright: ignore[reportArgumentType]
        method="trf",
        x_scale="jac",
        max_nfev=60,
    )
    misfit = math.sqrt(float((fit.fun**2).mean()))
    points = int(seen.sum())
    criterion = 2 * points * math.log(max(misfit, LEAST)) + count * math.log(points)
    polynomial = replace(polynomial, coefficients=tuple(float(c) for c in fit.x[:count]))
    return Refined(polynomial, fit.x[count:].reshape(series, d), misfit, criterion)


def choose(
    known: Known, polynomials: Sequence[Polynomial], times: Array, data: Array, most: int = 8
) -> Refined:
    """The best of some equations, by the criterion; the `most` shortest of them are tried."""
    tried = [refined(known, p, times, data) for p in list(polynomials)[-most:]]
    return min(tried, key=lambda found: found.criterion)
