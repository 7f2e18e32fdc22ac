"""Radau IIA collocation in time for fully implicit systems G(t, y, y') = 0.

s stages at the right Radau points; the stage values satisfy G at every stage with the derivative of
the collocation polynomial through y_n and the stages:

    Y'_i = (1/h) sum_j (A^-1)_ij (Y_j - y_n),        G(t_n + c_i h, Y_i, Y'_i) = 0.

Order 2 s - 1 at the ends of steps, s + 1 in between; L-stable and stiffly accurate, so that
algebraic rows hold at every step (Hairer and Wanner, Solving ODEs II, IV.5 and IV.8). The s stages
decouple by diagonalising A^-1.

The step is chosen by what the stored polynomial resolves: its last Legendre coefficient is held
below the tolerance, which bounds the error of the dense output and not only that of the end point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, lu_factor, lu_solve

from .spectral import barycentric_matrix, barycentric_weights

__all__ = [
    "Diverged",
    "ImplicitSystem",
    "OutOfTime",
    "Tableau",
    "consistent",
    "integrate",
    "radau_tableau",
]

Array = NDArray[np.float64]

# A solution that one step could resolve is still given a few, so that fewer of them can be
# compared.
_FEWEST = 5
_SMALL = 40


class Diverged(Exception):
    """The numbers stopped being finite, or no step is small enough."""


class OutOfTime(Exception):
    """The deadline passed before the end of the interval."""


class ImplicitSystem(Protocol):
    """What `integrate` asks of a system; `Collocation` is one."""

    components: int
    unknowns: int

    def residual(self, t: Array, y: Array, slope: Array) -> Array:
        """G at times (s,) and states (s, unknowns): shape (s, unknowns)."""
        ...

    def jacobian(self, t: float, y: Array, slope: Array) -> tuple[Array, Array]:
        """Derivatives of G by y and by y'."""
        ...


@dataclass(frozen=True)
class Tableau:
    """Radau IIA of s stages.

    Attributes:
        nodes: 0 and the s stages, in [0, 1].
        slope: A^-1, takes stage values less y_n to h times stage derivatives.
        values, vectors, inverse: eigenvalues of A^-1 with non-negative imaginary part, and the
        change of basis.
        last: row that takes values at `nodes` to the last Legendre coefficient of their polynomial.
    """

    nodes: Array
    slope: Array
    values: NDArray[np.complex128]
    vectors: NDArray[np.complex128]
    inverse: NDArray[np.complex128]
    last: Array


@lru_cache(maxsize=8)
def radau_tableau(stages: int) -> Tableau:
    """The tableau, from the zeros of P_s - P_(s-1)."""
    legendre = np.polynomial.legendre
    right = np.sort(legendre.legroots([*(0.0,) * (stages - 1), -1.0, 1.0]).real)
    right[-1] = 1.0
    nodes = np.concatenate([[-1.0], right])
    vandermonde = legendre.legvander(nodes, stages)
    to_coefficients = np.linalg.inv(vandermonde)
    derivative = np.stack(
        [legendre.legval(right, legendre.legder(row)) for row in np.eye(stages + 1)], axis=1
    )
    slope = 2.0 * (derivative @ to_coefficients)[:, 1:]
    eigen = np.linalg.eig(slope)
    values = np.asarray(eigen[0], dtype=complex)
    vectors = np.asarray(eigen[1], dtype=complex)
    inverse = np.asarray(np.linalg.inv(vectors), dtype=complex)
    kept = np.imag(values) > -1e-9
    return Tableau(
        (nodes + 1) / 2, slope, values[kept], vectors[:, kept], inverse[kept], to_coefficients[-1]
    )


class _Stages:
    """Simplified-Newton matrices for one step size, one per eigenvalue of A^-1, factorised."""

    def __init__(self, tableau: Tableau, by_y: Array, by_slope: Array, h: float) -> None:
        self.tableau, self.h = tableau, h
        # A conjugate pair is solved once and counted twice.
        self.columns = tableau.vectors * np.where(np.abs(tableau.values.imag) < 1e-9, 1.0, 2.0)
        matrices = (by_y + (value / h) * by_slope for value in tableau.values)
        if len(by_y) <= _SMALL:
            # Calls, not operations, are what small systems cost.
            self.inverses = np.linalg.inv(np.stack(list(matrices)))
            return
        self.inverses = None
        self.factors = []
        for matrix, value in zip(matrices, tableau.values, strict=True):
            real = abs(value.imag) < 1e-9
            self.factors.append(
                lu_factor(matrix.real if real else matrix, overwrite_a=True, check_finite=True)
            )
            if not np.all(np.abs(np.diag(self.factors[-1][0])) > 0):
                raise LinAlgError("singular stage matrix")

    def solve(self, residual: Array) -> Array:
        """Newton correction of the stages, shape (s, unknowns)."""
        rows = -(self.tableau.inverse @ residual)
        if self.inverses is not None:
            parts = np.matmul(self.inverses, rows[:, :, None])[:, :, 0]
        else:
            parts = np.empty_like(rows)
            for k, factor in enumerate(self.factors):
                row = rows[k] if np.iscomplexobj(factor[0]) else rows[k].real
                parts[k] = lu_solve(factor, row, check_finite=False)
        return (self.columns @ parts).real


def integrate(
    system: ImplicitSystem,
    y: Array,
    span: tuple[float, float],
    tolerance: float,
    *,
    deadline: float = np.inf,
    stages: int = 7,
    partition: Array | None = None,
) -> tuple[Array, Array]:
    """March from y over the span.

    Args:
        system: residual and Jacobian.
        y: state at the start, shape (unknowns,); made consistent first.
        span: start and end.
        tolerance: largest last Legendre coefficient of a step, relative to the size of each
            component so far.
        deadline: value of time.perf_counter() at which to give up.
        stages: number of stages, odd.
        partition: ends of steps to take (without the start), in place of error control.

    Returns:
        Times (1 + s * steps,) and states (1 + s * steps, unknowns): stages of all steps, for
        interpolation by polynomials of degree s with stride s.

    Raises:
        Diverged: no step is small enough.
        OutOfTime: the deadline passed.
    """
    tableau = radau_tableau(stages)
    blocks = system.components
    y = consistent(system, span[0], y)
    times, states = [np.array([span[0]])], [y[None]]
    scale = np.zeros(blocks)
    t, length = span[0], span[1] - span[0]
    h, longest = 1e-3 * length, length / _FEWEST
    jacobian: tuple[Array, Array] | None = None
    solver: _Stages | None = None
    fresh = False
    slope = np.zeros_like(y)
    previous: tuple[Array, float] | None = None

    def norm(values: Array) -> float:
        rms = np.sqrt(np.mean(values.reshape(*values.shape[:-1], blocks, -1) ** 2, axis=-1))
        return float(np.max(rms / scale))

    while t < span[1] - 1e-12 * length:
        if time.perf_counter() > deadline:
            raise OutOfTime
        if h < 1e-13 * length:
            raise Diverged(f"the step size fell below rounding at {t:.6g}")
        remaining = span[1] - t
        if partition is not None:
            h = partition[len(times) - 1] - t
        elif h > 0.999 * remaining:
            h = remaining
        elif 2 * h > remaining:
            h = remaining / 2
        size = np.sqrt(np.mean(y.reshape(blocks, -1) ** 2, axis=-1))
        scale = np.maximum(scale, size)
        floor = float(scale.max()) or 1.0
        scale = np.maximum(scale, 1e-3 * floor)
        guess = np.zeros((stages, len(y)))
        if previous is not None and h < 3 * previous[1]:
            at = 1.0 + tableau.nodes[1:] * (h / previous[1])
            nodes = tableau.nodes
            guess = barycentric_matrix(nodes, barycentric_weights(nodes), at) @ previous[0] - y
        try:
            if jacobian is None:
                jacobian, fresh, solver = system.jacobian(t, y, slope), True, None
            if solver is None or abs(solver.h - h) > 1e-12 * h:
                solver = _Stages(tableau, *jacobian, h)
            stage, iterations = _newton(system, solver, t, y, guess, norm, tolerance)
        except (FloatingPointError, LinAlgError, ValueError):
            stage, iterations = None, 99
        if stage is None:
            if not fresh:
                jacobian = None
                continue
            if partition is not None:
                raise Diverged(f"Newton's method failed at the step prescribed at {t:.6g}")
            h *= 0.4
            solver = previous = None
            continue
        polynomial = np.concatenate([y[None], y + stage])
        error = norm(tableau.last @ polynomial)
        factor = min(4.0, max(0.15, 0.85 * (tolerance / max(error, 1e-300)) ** (1.0 / stages)))
        if error > tolerance and partition is None:
            h *= min(factor, 0.9)
            solver = None
            continue
        times.append(t + h * tableau.nodes[1:])
        states.append(polynomial[1:])
        previous = (polynomial, h)
        slope = tableau.slope[-1] @ stage / h
        y, t, fresh = polynomial[-1], t + h, False
        times[-1][-1] = t = span[1] if span[1] - t < 1e-12 * length else t
        if iterations > 6:
            jacobian = None
        if not 0.85 < factor < 1.2:
            h = min(h * factor, longest)
    return np.concatenate(times), np.concatenate(states)


def consistent(system: ImplicitSystem, t: float, y: Array) -> Array:
    """The state just after the start, at which rows without time derivative hold.

    What the other rows differentiate is kept. Initial data that violate a boundary condition jump
    at once; a polynomial in time cannot.
    """
    at, start, zero = np.array([t]), y, np.zeros_like(y)
    with np.errstate(all="ignore"):
        for _ in range(20):
            by_y, by_slope = system.jacobian(t, y, zero)
            algebraic = np.logical_not(by_slope.any(axis=1))
            if not algebraic.any():
                return y
            residual = system.residual(at, y[None], zero[None])[0]
            matrix = np.where(algebraic[:, None], by_y, by_slope)
            right = np.where(algebraic, -residual, by_slope @ (start - y))
            rows = np.abs(matrix).max(axis=1)
            try:
                correction = np.linalg.solve(matrix / rows[:, None], right / rows)
            except np.linalg.LinAlgError:
                return start
            if not np.all(np.isfinite(correction)):
                return start
            y = y + correction
            if np.abs(correction).max() <= 1e-12 * np.abs(y).max():
                return y
    return start


def _newton(
    system: ImplicitSystem,
    solver: _Stages,
    t: float,
    y: Array,
    stage: Array,
    norm: Callable[[Array], float],
    tolerance: float,
) -> tuple[Array | None, int]:
    """Simplified Newton for the stages; None where it does not converge."""
    tableau, h = solver.tableau, solver.h
    at = t + h * tableau.nodes[1:]
    last = np.inf
    goal = 1e-4 * tolerance
    for iteration in range(1, 16):
        with np.errstate(all="ignore"):
            residual = system.residual(at, y + stage, tableau.slope @ stage / h)
        if not np.all(np.isfinite(residual)):
            return None, iteration
        correction = solver.solve(residual)
        stage = stage + correction
        size = norm(correction)
        if not np.isfinite(size) or size > 1e8:
            return None, iteration
        rate = min(size / last, 0.9) if np.isfinite(last) else 0.9
        if rate / (1 - rate) * size <= goal or (size <= tolerance and size > 0.3 * last):
            # The second: rounding, not the iteration, now limits the correction.
            return stage, iteration
        if iteration > 3 and size > 0.9 * last:
            return None, iteration
        last = size
    return (stage, 16) if last <= 0.1 * tolerance else (None, 16)
