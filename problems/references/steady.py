"""Newton's method for steady collocation systems, damped by the natural monotonicity test.

A full step is halved until the simplified correction shrinks (Deuflhard, Newton Methods for
Nonlinear Problems, section 3.3.2); the test does not change when rows are rescaled, which boundary
rows beside fourth derivatives need. Where that fails from zero, the homotopy G(u) - (1 - s) G(0) =
0 leads there from u = 0 at s = 0.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs, lu_factor, lu_solve

from .collocation import Collocation
from .radau import Diverged, OutOfTime
from .system import ReferenceUnavailable

__all__ = ["newton"]

Array = NDArray[np.float64]

_EPS = float(np.finfo(float).eps)
# Beyond this relative change by rounding a solution is worth nothing.
_ILL = 1e-3


def newton(system: Collocation, *, deadline: float = np.inf) -> tuple[Array, float]:
    """Solve G(u) = 0 from u = 0.

    Returns:
        Flat state, shape (unknowns,), and its relative change by the last correction, which is
        rounding amplified by the condition of the problem.

    Raises:
        ReferenceUnavailable: the linearised system is singular.
        Diverged: no convergence, from zero or by continuation.
        OutOfTime: the deadline passed.
    """
    zero = np.zeros(system.unknowns)
    offset = _residual(system, zero)
    solution = (
        _damped(system, zero, 0.0 * offset, deadline) if np.all(np.isfinite(offset)) else None
    )
    if solution is not None:
        return solution
    if not np.all(np.isfinite(offset)):
        raise Diverged("the equation has no finite value at u = 0, where Newton's method starts")
    u, s, step, last = zero, 0.0, 0.1, 0.0
    while s < 1.0:
        target = min(1.0, s + step)
        found = _damped(system, u, (1.0 - target) * offset, deadline)
        if found is None:
            step *= 0.5
            if step < 1e-4:
                raise Diverged(f"continuation from zero stopped at {s:.3g} of the way")
        else:
            (u, last), s, step = found, target, min(1.6 * step, 0.5)
    return u, last


def _residual(system: Collocation, u: Array) -> Array:
    with np.errstate(all="ignore"):
        return system.residual(np.zeros(1), u[None], np.zeros((1, len(u))))[0]


def _damped(
    system: Collocation, u: Array, shift: Array, deadline: float
) -> tuple[Array, float] | None:
    damping = 1.0
    residual = _residual(system, u) - shift
    best = np.inf
    for iteration in range(60):
        if time.perf_counter() > deadline:
            raise OutOfTime
        matrix, _ = system.jacobian(0.0, u, np.zeros_like(u))
        if not np.all(np.isfinite(matrix)):
            return None
        # Rows differ by powers of n: scaled, so that the condition number means something.
        rows = np.abs(matrix).max(axis=1)
        rows[rows == 0] = 1.0
        matrix /= rows[:, None]
        norm = np.abs(matrix).sum(axis=0).max()
        factor = lu_factor(matrix, overwrite_a=True, check_finite=False)
        (condition,) = get_lapack_funcs(("gecon",), (factor[0],))
        inverse_condition, _ = condition(factor[0], norm)
        if not inverse_condition > 1e-14:
            if iteration == 0:
                raise ReferenceUnavailable(_why_singular(system, u, residual))
            return None
        correction = lu_solve(factor, -residual / rows, check_finite=False)
        size = _size(correction)
        scale = max(_size(u + correction), 1e-300)
        if size <= 1e-13 * scale or (size <= 1e-9 * scale and size > 0.3 * best):
            return u + correction, size / scale
        # Rounding alone changes the solution by this much.
        rounding = _EPS / inverse_condition * scale
        if size > 0.3 * best and size <= rounding and iteration > 1:
            return _limited(u + correction, size, scale)
        best = size
        while True:
            trial = u + damping * correction
            trial_residual = _residual(system, trial) - shift
            if np.all(np.isfinite(trial_residual)):
                simplified = _size(lu_solve(factor, -trial_residual / rows, check_finite=False))
                if simplified <= (1.0 - damping / 4.0) * size or simplified <= 1e-12 * scale:
                    break
            damping *= 0.5
            if damping < 1e-5:
                if size <= rounding and iteration > 0:
                    return _limited(u, size, scale)
                return None
        u, residual = trial, trial_residual
        damping = min(1.0, 2.0 * damping)
    return None


def _limited(u: Array, size: float, scale: float) -> tuple[Array, float]:
    """A solution that rounding lets Newton's method find no better, if it is any good."""
    if size > _ILL * scale:
        raise ReferenceUnavailable(
            "the steady equation with these conditions is ill-conditioned: it is close to having a "
            f"free mode, and rounding alone changes its solution by {size / scale:.1e}; move its "
            "parameters away from the resonance, give an exact solution, or set 'reference: none'"
        )
    return u, size / scale


def _why_singular(system: Collocation, u: Array, residual: Array) -> str:
    """Whether a singular system has no solution or many.

    A linear one has some if and only if its right side is orthogonal to the left null vectors, of
    which inverse iteration finds one.
    """
    generator = np.random.default_rng(3)
    trial = generator.standard_normal(len(u))
    curved = _residual(system, 2 * trial) - 2 * _residual(system, trial) + _residual(system, 0 * u)
    matrix, _ = system.jacobian(0.0, u, np.zeros_like(u))
    rows = np.abs(matrix).max(axis=1)
    rows[rows == 0] = 1.0
    linear = _size(curved / rows) <= 1e-8 * _size(trial)
    matrix = matrix / rows[:, None]
    matrix[np.diag_indices_from(matrix)] += 1e-11  # exactly singular factors divide by zero
    factor = lu_factor(matrix, overwrite_a=True, check_finite=False)
    vector = generator.standard_normal(len(u))
    for _ in range(3):
        vector = lu_solve(factor, vector, trans=1, check_finite=False)
        vector /= np.linalg.norm(vector)
    right = residual / rows
    if linear and abs(vector @ right) > 1e-5 * np.linalg.norm(right):
        return (
            "the steady equation has no solution with these conditions: they leave a constant or a "
            "mode free, and the sources do not balance what flows in and out; change the sources "
            "or the fluxes, or fix the value somewhere on the boundary"
        )
    return (
        "the steady equation with these conditions determines its solution only up to a constant "
        "or a mode, or is so ill-conditioned that rounding decides (the collocation matrix is "
        "singular to rounding); fix the value somewhere on the boundary"
    )


def _size(u: Array) -> float:
    return float(np.sqrt(np.mean(u**2)))
