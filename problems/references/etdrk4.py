"""Exponential time differencing of fourth order (ETDRK4) for Fourier pseudo-spectral systems.

For y' = L y + N(y, t), L exact through its exponential, N by the scheme of Cox and Matthews (J.
Comput. Phys. 176, 2002, eqs. 26-29). The phi functions come from contour integrals where L is
diagonal in Fourier space (Kassam and Trefethen, SIAM J. Sci. Comput. 26, 2005) and from the
exponential of an augmented matrix otherwise (Al-Mohy and Higham, SIAM J. Sci. Comput. 33, 2011,
theorem 2.1).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.linalg import expm

from ..evaluation import NUMPY, evaluate
from .fourier import FourierSystem, NotApplicable
from .radau import Diverged, OutOfTime
from .solution import GridSolution, Slices
from .spectral import Fourier

__all__ = ["etdrk4", "phi_functions"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Doubles kept of one solution: 48 MiB.
_STORED = 6_000_000


def phi_functions(z: Complex) -> tuple[Complex, Complex, Complex, Complex]:
    """exp, phi_1, phi_2, phi_3 by the mean over a circle about every z.

    phi_k(z) = (phi_(k-1)(z) - 1/(k-1)!) / z. The mean of an analytic function over 32 points of a
    unit circle is its value at the centre to rounding, and no point comes near the cancellation at
    0.
    """
    circle = np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)
    sums = [np.zeros_like(z) for _ in range(3)]
    for point in circle:
        r = z + point
        small = np.abs(r) < 1e-8
        r = np.where(small, 1e-8, r)
        phi1 = np.expm1(r) / r
        phi2 = (phi1 - 1.0) / r
        sums[0] += phi1
        sums[1] += phi2
        sums[2] += (phi2 - 0.5) / r
    return np.exp(z), sums[0] / 32, sums[1] / 32, sums[2] / 32


def _matrix_phi(z: Complex) -> tuple[Complex, Complex, Complex, Complex]:
    """The same for matrices (modes, c, c), from exp of [[z, I, 0, 0], [0, 0, I, 0], ...]."""
    c = z.shape[-1]
    augmented = np.zeros((*z.shape[:-2], 4 * c, 4 * c), dtype=complex)
    augmented[..., :c, :c] = z
    for block in range(3):
        augmented[..., block * c : (block + 1) * c, (block + 1) * c : (block + 2) * c] = np.eye(c)
    result = expm(augmented)[..., :c, :]
    return tuple(result[..., k * c : (k + 1) * c] for k in range(4))  # type: ignore[return-value]


class _Multiplier:
    """Functions of the linear part: by element when it is diagonal, else a matrix by mode."""

    def __init__(self, operator: Complex) -> None:
        c = operator.shape[0]
        off = operator.copy()
        off[np.arange(c), np.arange(c)] = 0
        self.diagonal = not off.any()
        if self.diagonal:
            self.values = operator[np.arange(c), np.arange(c)]
        else:
            self.values = np.moveaxis(operator, (0, 1), (-2, -1))

    def phi(self, h: float) -> tuple[Complex, Complex, Complex, Complex]:
        return (phi_functions if self.diagonal else _matrix_phi)(h * self.values)

    def masked(self, matrix: Complex, mask: Array) -> Complex:
        return matrix * (mask if self.diagonal else mask[..., None, None])

    def apply(self, matrix: Complex, state: Complex) -> Complex:
        if self.diagonal:
            return matrix * state
        return np.moveaxis(np.matmul(matrix, np.moveaxis(state, 0, -1)[..., None])[..., 0], -1, 0)


class _Nonlinear:
    """N(y, t) in Fourier space, products formed on a grid fine enough that they do not alias."""

    def __init__(
        self,
        fourier: FourierSystem,
        bases: Sequence[Fourier],
        waves: Sequence[Array],
        inverse: Complex,
    ):
        self.fourier, self.inverse = fourier, inverse
        # Orszag: a product of p factors needs (p + 1)/2 times the modes; beyond 2 the gain is not
        # worth it.
        stretch = min(2.0, (fourier.degree + 1) / 2) if fourier.degree > 1 else 1.0
        self.coarse = tuple(b.n for b in bases)
        self.fine = tuple(
            scipy.fft.next_fast_len(int(np.ceil(b.n * stretch / 2)), real=True) * 2 for b in bases
        )
        self.axes = tuple(range(-len(bases), 0))
        fine_bases = [Fourier(b.low, b.high, n) for b, n in zip(bases, self.fine, strict=True)]
        points, _ = fourier.folded(fine_bases)
        self.points = dict(zip(fourier.system.space, points, strict=True))
        self.trees = [(row, tree) for row, tree in enumerate(fourier.rest) if tree != 0]
        jets = {
            s.name: jet for _, tree in self.trees for s, jet in fourier.system.jets(tree).items()
        }
        self.names = list(jets)
        self.sources = [fourier.component(jet) for jet in jets.values()]
        modes = [
            self.coarse[k] if k < len(bases) - 1 else self.coarse[k] // 2 + 1
            for k in range(len(bases))
        ]
        self.multipliers = np.empty((len(jets), *modes), dtype=complex)
        for row, jet in enumerate(jets.values()):
            self.multipliers[row] = fourier.multiplier(jet.space, waves)
        self.scalar = inverse.shape[:2] == (1, 1)
        self.time, self.last = str(fourier.system.time), fourier.last_components

    def _resized(self, modes: Complex, old: Sequence[int], new: Sequence[int]) -> Complex:
        """Copy modes into an array for another grid, dropping the highest cosine."""
        if len(new) == 1:
            # A longer inverse transform pads by itself, and the weights drop what a shorter one
            # cannot hold.
            return modes if new[0] > old[0] else modes[..., : new[0] // 2 + 1]
        if tuple(old) == tuple(new):
            return modes
        result = np.zeros(
            (*modes.shape[: modes.ndim - len(new)], *new[:-1], new[-1] // 2 + 1), dtype=complex
        )
        kept = [min(a, b) // 2 for a, b in zip(old, new, strict=True)]
        halves = [(slice(0, k), slice(-k + 1, None)) for k in kept[:-1]]
        for corner in itertools.product(*halves):
            block = (..., *corner, slice(0, kept[-1]))
            result[block] = modes[block]
        return result

    def __call__(self, state: Complex, t: float) -> Complex:
        if not self.trees:
            return np.zeros_like(state)
        values: dict[str, Array | float] = {**self.points, self.time: t}
        modes = self.multipliers * (state if len(state) == 1 else state[self.sources])
        values.update(
            zip(
                self.names,
                inverse_transform(self._resized(modes, self.coarse, self.fine), self.fine),
                strict=True,
            )
        )
        rest = (
            self.inverse[0, :1]
            if self.scalar
            else np.zeros((len(self.inverse), *state.shape[1:]), dtype=complex)
        )
        for row, tree in self.trees:
            value = np.asarray(evaluate(tree, values, NUMPY))
            value = value if value.shape == self.fine else np.broadcast_to(value, self.fine)
            modes = self._resized(transform(value, len(self.fine)), self.fine, self.coarse)
            if self.scalar:
                rest = rest * modes
            else:
                rest[row] = modes
        if not self.scalar:
            rest = np.einsum("fg...,g...->f...", self.inverse, rest)
        if len(state) == len(rest):
            return -rest
        result = np.zeros_like(state)
        result[self.last] = -rest
        return result


def transform(values: Array, axes: int) -> Any:
    """Fourier coefficients over the last axes; the constant's is the mean."""
    # NumPy's one-dimensional call costs a fifth of SciPy's on the short arrays here.
    if axes == 1:
        return np.fft.rfft(values, norm="forward")
    return scipy.fft.rfftn(values, axes=tuple(range(-axes, 0)), norm="forward")


def inverse_transform(modes: Complex, sizes: Sequence[int]) -> Any:
    """Values on a grid of the given sizes."""
    if len(sizes) == 1:
        return np.fft.irfft(modes, sizes[0], norm="forward")
    return scipy.fft.irfftn(
        modes, s=tuple(sizes), axes=tuple(range(-len(sizes), 0)), norm="forward"
    )


def mode_grid(bases: Sequence[Fourier]) -> tuple[list[Array], Array]:
    """Wave numbers by axis, and 0 for the highest cosines, 1 for all other modes."""
    waves, mask = [], np.ones((1,) * len(bases))
    for axis, basis in enumerate(bases):
        last = axis == len(bases) - 1
        k = (
            scipy.fft.rfftfreq(basis.n, 1.0 / basis.n)
            if last
            else scipy.fft.fftfreq(basis.n, 1.0 / basis.n)
        )
        shape = [-1 if a == axis else 1 for a in range(len(bases))]
        mask = mask * (np.abs(k) < basis.n // 2).reshape(shape)
        waves.append((2 * np.pi / (basis.high - basis.low) * k).reshape(shape))
    return waves, mask


def etdrk4(fourier: FourierSystem, n: int, steps: int, *, deadline: float = np.inf) -> GridSolution:
    """Solve with n nodes per original length and a number of equal steps.

    Args:
        fourier: the split system.
        n: even number of nodes on the original length of each coordinate.
        steps: number of time steps.
        deadline: value of time.perf_counter() at which to give up.

    Raises:
        Diverged: the numbers grew beyond bounds, or the highest time derivatives cannot be solved
            for.
        OutOfTime: the deadline passed.
    """
    system = fourier.system
    bases = fourier.bases(n)
    sizes = tuple(b.n for b in bases)
    axes = tuple(range(-len(sizes), 0))
    waves, mask = mode_grid(bases)
    try:
        operator, inverse = fourier.symbols(waves)
    except NotApplicable as error:
        # A wave number of this grid: another method may do.
        raise Diverged(str(error)) from None
    linear = _Multiplier(operator)
    nonlinear = _Nonlinear(fourier, bases, waves, inverse)
    start, end = system.span
    h = (end - start) / steps
    half, half1, _, _ = linear.phi(h / 2)
    full, phi1, phi2, phi3 = linear.phi(h)
    half1 = 0.5 * h * half1
    # The highest cosine, whose odd derivatives the grid cannot see, is kept at zero.
    full, weights = (
        linear.masked(full, mask),
        (h * (phi1 - 3 * phi2 + 4 * phi3), 2 * h * (phi2 - 2 * phi3), h * (4 * phi3 - phi2)),
    )
    weights = tuple(linear.masked(w, mask) for w in weights)
    half, half1 = linear.masked(half, mask), linear.masked(half1, mask)
    state = transform(fourier.initial(bases), len(sizes)) * mask
    bound = 1e6 * (np.abs(state).sum(axis=axes).max() + 1.0)
    every = max(1, int(np.ceil(steps * len(system.fields) * np.prod(sizes) / _STORED)))
    while steps % every:
        every += 1
    fields = fourier.field_components
    kept = [inverse_transform(state[fields], sizes)]
    apply = linear.apply
    for step in range(steps):
        t = start + step * h
        with np.errstate(all="ignore"):
            n0 = nonlinear(state, t)
            drift = apply(half, state)
            a = drift + apply(half1, n0)
            na = nonlinear(a, t + h / 2)
            nb = nonlinear(drift + apply(half1, na), t + h / 2)
            nc = nonlinear(apply(half, a) + apply(half1, 2 * nb - n0), t + h)
            state = (
                apply(full, state)
                + apply(weights[0], n0)
                + apply(weights[1], na + nb)
                + apply(weights[2], nc)
            )
        if (step + 1) % every == 0:
            kept.append(inverse_transform(state[fields], sizes))
        if step % 8 == 0 or step == steps - 1:
            if not np.abs(state).max() < bound:
                raise Diverged(f"the solution grew beyond bounds at {t:.6g}")
            if time.perf_counter() > deadline:
                raise OutOfTime
    times = np.linspace(start, end, steps // every + 1)
    assert system.time is not None
    return GridSolution(
        bases, np.stack(kept), Slices(times, 10, 1), system.coordinates.index(system.time)
    )
