"""Linear equations with constant coefficients on a period: exact in time.

In Fourier space y' = L y, mode by mode, so y(t) = exp(L (t - t_0)) y(t_0) at any t: there are no
steps, and nothing is interpolated between stored instants. Space alone limits the accuracy, and
the rounding of phases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .etdrk4 import inverse_transform, mode_grid, transform
from .fourier import FourierSystem, NotApplicable
from .radau import Diverged
from .solution import GridSolution

__all__ = ["ModalSolution", "propagate", "propagator"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

_EPS = float(np.finfo(float).eps)
# Complex numbers held at once when many times are asked for.
_BLOCK = 1_000_000


def propagator(operator: Complex, t: Array) -> Complex:
    """exp(L t) for operators of one or two components.

    With s half the trace of L and q^2 = s^2 - det L, exp(L t) = e^(s t) (cosh(q t) + sinh(q t)/q (L
    - s)), written with e^((s + q) t) and e^((s - q) t), which stay small for damped modes.

    Args:
        operator: shape (c, c, modes...).
        t: shape (k,).

    Returns:
        Shape (k, c, c, modes...).
    """
    t = t.reshape(-1, *(1,) * (operator.ndim - 2))
    if len(operator) == 1:
        return np.exp(operator[0, 0] * t)[:, None, None]
    (a, b), (c, d) = operator
    s = (a + d) / 2
    q = np.sqrt(((a - d) / 2) ** 2 + b * c)
    plus, minus = np.exp((s + q) * t), np.exp((s - q) * t)
    small = np.abs(q * t) < 1e-4
    # sinh(q t)/q by its series where q t is small: to order (q t)^4, below rounding.
    series = np.exp(s * t) * t * (1 + (q * t) ** 2 / 6 + (q * t) ** 4 / 120)
    ratio = np.where(small, series, (plus - minus) / np.where(q == 0, 1.0, 2 * q))
    mean = (plus + minus) / 2
    half = (a - d) / 2
    return np.stack(
        [
            np.stack([mean + ratio * half, ratio * b], axis=1),
            np.stack([ratio * c, mean - ratio * half], axis=1),
        ],
        axis=1,
    )


@dataclass(frozen=True)
class ModalSolution(GridSolution):
    """Modes at the start and the operator that moves them.

    Args:
        operator: shape (c, c, modes...).
        modes: components at the start, shape (c, modes...).
        fields: rows that are the fields.
        start: the time of `modes`.
        length: how long it is to be moved.
    """

    operator: Complex = None  # type: ignore[assignment]
    modes: Complex = None  # type: ignore[assignment]
    fields: tuple[int, ...] = ()
    start: float = 0.0
    length: float = 0.0

    def nodal(self, times: Array) -> Array:
        """Values at the nodes, shape (k, fields, n_1, ...)."""
        return _nodal(
            self.operator, self.modes, self.fields, times - self.start, [b.n for b in self.bases]
        )

    def few(self) -> Array:
        """See `GridSolution.few`."""
        return self.nodal(self.start + self.length * np.linspace(0.0, 1.0, 8))

    def __call__(self, points: Array) -> Array:
        """See `GridSolution.__call__`."""
        points = np.asarray(points, dtype=float)
        assert self.time_column is not None
        t = points[:, self.time_column]
        space = np.delete(points, self.time_column, axis=1)
        lines = [self._line(basis, space[:, axis]) for axis, basis in enumerate(self.bases)]
        result = np.empty((len(points), len(self.fields)))
        distinct, place = np.unique(t, return_inverse=True)
        order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=len(distinct))
        ends = np.cumsum(counts)
        size = int(np.prod([b.n for b in self.bases])) * len(self.modes)
        block = max(1, _BLOCK // size)
        for first in range(0, len(distinct), block):
            chosen = slice(first, first + block)
            values = self.nodal(distinct[chosen])
            low = ends[first] - counts[first]
            rows = order[low : ends[min(first + block, len(distinct)) - 1]]
            longest = max(1, 8 * _BLOCK // (size * len(self.bases)))
            for begin in range(0, len(rows), longest):
                members = rows[begin : begin + longest]
                matrices = [line(members) for line in lines]
                result[members] = _picked(values, place[members] - first, matrices)
        return result

    def on_grid(self, times: Array | None, axes: list[Array]) -> Array:  # type: ignore[override]
        """See `GridSolution.on_grid`."""
        assert times is not None
        matrices = [
            basis.interpolation(points) for basis, points in zip(self.bases, axes, strict=True)
        ]
        return self._refined(self.nodal(times), matrices)


def _picked(values: Array, instant: NDArray[np.intp], matrices: list[Array]) -> Array:
    """Values (p, fields) of nodal values (k, fields, n_1, ...) at an instant and a place each."""
    if len(np.unique(instant)) == 1:  # one instant: no copy of its values for every point
        partial = np.tensordot(matrices[0], values[instant[0]], axes=(1, 1))
    else:
        partial = np.einsum("pn,pfn...->pf...", matrices[0], values[instant])
    for matrix in matrices[1:]:
        partial = np.einsum("pfn...,pn->pf...", partial, matrix)
    return partial


def _frequency(operator: Complex) -> Array:
    """Largest angular frequency of each mode."""
    if len(operator) == 1:
        return np.abs(operator[0, 0].imag)
    (a, b), (c, d) = operator
    q = np.sqrt(((a - d) / 2) ** 2 + b * c)
    return np.maximum(np.abs(((a + d) / 2 + q).imag), np.abs(((a + d) / 2 - q).imag))


def _nodal(
    operator: Complex, modes: Complex, fields: tuple[int, ...], t: Array, sizes: list[int]
) -> Array:
    moved = np.einsum("kcd...,d...->kc...", propagator(operator, t)[:, list(fields)], modes)
    return inverse_transform(moved, sizes)


def propagate(fourier: FourierSystem, n: int) -> ModalSolution:
    """The solution with n nodes per original length.

    Raises:
        Diverged: the numbers grew beyond bounds, or the highest time derivatives cannot be solved
            for.
    """
    system = fourier.system
    bases = fourier.bases(n)
    axes = tuple(range(-len(bases), 0))
    waves, mask = mode_grid(bases)
    try:
        operator, _ = fourier.symbols(waves)
    except NotApplicable as error:
        raise Diverged(str(error)) from None
    # The highest cosine, whose odd derivatives the grid cannot see, is kept at zero.
    modes = transform(fourier.initial(bases), len(bases)) * mask
    operator = operator * mask
    length = system.span[1] - system.span[0]
    fields = tuple(fourier.field_components)
    with np.errstate(all="ignore"):
        last = np.einsum("kcd...,d...->kc...", propagator(operator, np.array([length])), modes)[0]
    if not np.abs(last).max() < 1e6 * (np.abs(modes).sum(axis=axes).max() + 1.0):
        raise Diverged(f"the solution grew beyond bounds before {system.span[1]:.6g}")
    turned = _EPS * length * _frequency(operator)

    def energy(state: Complex) -> Array:
        return np.sqrt((np.abs(state[list(fields)]) ** 2).sum(axis=axes))

    scale = np.maximum(energy(modes), energy(last))
    rounding = np.maximum(energy(turned * modes), energy(turned * last)) / np.where(
        scale > 0, scale, max(float(scale.max()), 1e-300)
    )
    assert system.time is not None
    return ModalSolution(
        bases,
        np.zeros((1, len(fields), *(b.n for b in bases))),
        None,
        system.coordinates.index(system.time),
        operator=operator,
        modes=modes,
        fields=fields,
        start=system.span[0],
        length=length,
        rounding=rounding,
    )
