"""Fourier pseudo-spectral space with exponential time differencing of fourth order (ETDRK4).

For y' = L y + N(y, t), L exact through its exponential, N by the scheme of Cox and Matthews (J. Comput. Phys. 176,
2002, eqs. 26-29). The phi functions come from contour integrals where L is diagonal in Fourier space (Kassam and
Trefethen, SIAM J. Sci. Comput. 26, 2005) and from the exponential of an augmented matrix otherwise (Al-Mohy and
Higham, SIAM J. Sci. Comput. 33, 2011, theorem 2.1).

A box whose walls hold u = 0 or u_n = 0 is a period of twice its length, mirrored with the sign of each field,
when the equations are invariant under the reflection.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.fft
import sympy
from numpy.typing import NDArray
from scipy.linalg import expm

from ..evaluation import NUMPY, evaluate
from .radau import Diverged, OutOfTime
from .solution import GridSolution, Slices
from .spectral import Fourier
from .system import Jet, System, partial

__all__ = ["FourierSystem", "NotApplicable", "etdrk4", "phi_functions"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Doubles kept of one solution: 48 MiB.
_STORED = 6_000_000


class NotApplicable(Exception):
    """The scheme does not fit the problem; the message says why."""


class FourierSystem:
    """The constant-coefficient linear part and the rest of a system on a (possibly mirrored) period.

    Args:
        system: the problem.

    Attributes:
        mirrored: parity of each field by mirrored coordinate.

    Raises:
        NotApplicable: a coordinate is neither periodic nor mirrored, the highest time derivatives have variable
            coefficients, or the non-constant part has derivatives as high as the linear part.
    """

    def __init__(self, system: System) -> None:
        if not all(system.orders):
            raise NotApplicable("a field has no time derivative")
        self.system = system
        self.mirrored: dict[str, tuple[int, ...]] = {
            c: _parity(system, c) for c in system.space if c not in system.periodic
        }
        self._first = list(np.cumsum([0, *system.orders])[:-1])
        self.components = sum(system.orders)
        self.mass: list[dict[Jet, float]] = []
        self.linear: list[dict[Jet, float]] = []
        self.rest: list[sympy.Expr] = []
        for tree in system.equations:
            self._split(tree)
        self._check_orders()
        self.degree = max((_degree(tree, system) for tree in self.rest), default=0)

    def _split(self, tree: sympy.Expr) -> None:
        mass, linear, rest = {}, {}, tree
        jets = self.system.jets(tree)
        zero = dict.fromkeys(jets, 0)
        for symbol, jet in jets.items():
            slope = partial(tree, symbol)
            if jet.time == self.system.orders[jet.field]:
                if slope.free_symbols:
                    raise NotApplicable("the coefficient of the highest time derivative varies")
                mass[jet] = float(slope)
                rest = rest - slope * symbol
                continue
            slope = slope if not slope.free_symbols else slope.subs(zero)
            if not slope.free_symbols and slope.is_finite and slope != 0:
                linear[jet] = float(slope)
                rest = rest - slope * symbol
        self.mass.append(mass)
        self.linear.append(linear)
        self.rest.append(sympy.expand(rest) if rest.is_polynomial(*jets) else rest)

    def _check_orders(self) -> None:
        for tree, linear, mass in zip(self.rest, self.linear, self.mass, strict=True):
            heavy = max((sum(j.space) for j in mass), default=0)
            smooth = max((sum(j.space) for j in linear), default=0) - heavy
            rough = max((sum(j.space) for j in self.system.jets(tree).values()), default=0) - heavy
            if rough > max(1, smooth - 1):
                raise NotApplicable("the highest space derivative has a variable coefficient")

    def bases(self, n: int) -> tuple[Fourier, ...]:
        """Fourier bases with n nodes on each original length."""
        found = []
        for name in self.system.space:
            low, high = self.system.bounds[name]
            twice = name in self.mirrored
            found.append(Fourier(low, 2 * high - low if twice else high, 2 * n if twice else n))
        return tuple(found)

    def folded(self, bases: Sequence[Fourier]) -> tuple[list[Array], list[list[Array]]]:
        """Coordinates reflected into the original box, and the sign of every field there, by axis."""
        points, signs = [], []
        for axis, (name, basis) in enumerate(zip(self.system.space, bases, strict=True)):
            shape = [-1 if a == axis else 1 for a in range(len(bases))]
            high = self.system.bounds[name][1]
            beyond = basis.nodes > high
            x = np.where(beyond, 2 * high - basis.nodes, basis.nodes)
            points.append(x.reshape(shape))
            parity = self.mirrored.get(name, (1,) * len(self.system.fields))
            signs.append([np.where(beyond, p, 1.0).reshape(shape) for p in parity])
        return points, signs

    def initial(self, bases: Sequence[Fourier]) -> Array:
        """Initial components (components, n_1, ...), mirrored."""
        points, signs = self.folded(bases)
        values: dict[str, Array | float] = dict(zip(self.system.space, points, strict=True))
        values[str(self.system.time)] = self.system.span[0]
        state = np.zeros((self.components, *(b.n for b in bases)))
        for field, trees in enumerate(self.system.initial):
            for level, tree in enumerate(trees):
                component = self._first[field] + level
                state[component] = evaluate(tree, values, NUMPY)
                for sign in signs:
                    state[component] *= sign[field]
        return state

    def smooth_when_mirrored(self) -> bool:
        """Whether the mirrored initial data have a spectrum that decays: no corner arises at the walls."""
        if not self.mirrored:
            return True
        state = self.initial(self.bases(256 if len(self.system.space) == 1 else 64))
        spectrum = np.abs(scipy.fft.fftn(state, axes=tuple(range(1, state.ndim))))
        for axis, name in enumerate(self.system.space, start=1):
            if name not in self.mirrored:
                continue
            line = np.moveaxis(spectrum, axis, 0).reshape(spectrum.shape[axis], -1).max(axis=1)
            quarter = len(line) // 4
            if line[quarter : 3 * quarter].max() > 1e-10 * line.max():
                return False
        return True

    def symbols(self, waves: Sequence[Array]) -> tuple[Complex, Complex]:
        """Linear operator (components, components, modes...) and the inverse mass (fields, fields, modes...)."""
        shape = np.broadcast_shapes(*(w.shape for w in waves))
        fields = len(self.system.fields)
        mass = np.zeros((fields, fields, *shape), dtype=complex)
        linear = np.zeros((fields, self.components, *shape), dtype=complex)
        for row in range(fields):
            for jet, factor in self.mass[row].items():
                mass[row, jet.field] += factor * self.multiplier(jet.space, waves)
            for jet, factor in self.linear[row].items():
                linear[row, self._first[jet.field] + jet.time] += factor * self.multiplier(jet.space, waves)
        try:
            inverse = np.moveaxis(np.linalg.inv(np.moveaxis(mass, (0, 1), (-2, -1))), (-2, -1), (0, 1))
        except np.linalg.LinAlgError:
            raise NotApplicable("the highest time derivatives cannot be solved for in every mode") from None
        operator = np.zeros((self.components, self.components, *shape), dtype=complex)
        for field, order in enumerate(self.system.orders):
            for level in range(order - 1):
                operator[self._first[field] + level, self._first[field] + level + 1] = 1.0
            operator[self._first[field] + order - 1] = -np.einsum("f...,fc...->c...", inverse[field], linear)
        return operator, inverse

    @staticmethod
    def multiplier(space: Sequence[int], waves: Sequence[Array]) -> Complex:
        """Product of (i k)^order over the axes."""
        factor = np.ones((1,) * len(waves), dtype=complex)
        for order, wave in zip(space, waves, strict=True):
            factor = factor * (1j * wave) ** order
        return factor

    def component(self, jet: Jet) -> int:
        """Component that holds a derivative by time below the highest."""
        return self._first[jet.field] + jet.time

    @property
    def field_components(self) -> list[int]:
        """Components that are the fields themselves."""
        return self._first

    @property
    def last_components(self) -> list[int]:
        """Components whose equation holds the nonlinear part, by field."""
        return [first + order - 1 for first, order in zip(self._first, self.system.orders, strict=True)]


def _degree(tree: sympy.Expr, system: System) -> int:
    """Degree in the jets where polynomial, else 0: nothing to dealias exactly."""
    jets = list(system.jets(tree))
    return sympy.Poly(tree, *jets).total_degree() if jets and tree.is_polynomial(*jets) else 0


def _parity(system: System, coordinate: str) -> tuple[int, ...]:
    """Sign of every field under reflection at both walls of a coordinate."""
    axis = system.space.index(coordinate)
    choices = []
    for field in range(len(system.fields)):
        found = set()
        for side in (-1, 1):
            rows = [
                r for r in system.boundary if r.field == field and r.face.coordinate == coordinate and r.face.side == side
            ]
            found |= {_row_parity(system, row.tree, field, axis) for row in rows}
            if not rows:
                found.add(None)
        choices.append((1, -1) if found == {None} else tuple(found))
        if len(choices[-1]) > 1 and found != {None} or 0 in found:
            raise NotApplicable(f"the walls of {coordinate} are not mirrors")
    if any(tree.has(sympy.Symbol(coordinate, real=True)) for tree in system.equations):
        raise NotApplicable(f"the equations depend on {coordinate}")
    for parity in itertools.product(*choices):
        if all(_invariant(system, axis, parity, f) for f in range(len(parity))):
            return parity
    raise NotApplicable(f"the equations change under reflection of {coordinate}")


def _row_parity(system: System, tree: sympy.Expr, field: int, axis: int) -> int:
    """-1 for u = 0 or u_nn = 0, +1 for u_n = 0 or u_nnn = 0, 0 for anything else."""
    jets = system.jets(tree)
    if len(jets) != 1:
        return 0
    ((symbol, jet),) = jets.items()
    along = jet.space[axis]
    if jet.field != field or jet.time or sum(jet.space) != along:
        return 0
    if partial(tree, symbol).free_symbols or sympy.expand(tree.subs(symbol, 0)) != 0:
        return 0
    return -1 if along % 2 == 0 else 1


def _invariant(system: System, axis: int, parity: Sequence[int], equation: int) -> bool:
    """Whether reflection only changes the sign of an equation, tried at random jets (a polynomial identity test)."""
    tree = system.equations[equation]
    jets = system.jets(tree)
    generator = np.random.default_rng(20240229)
    values = {name: generator.uniform(0.2, 0.9, 16) for name in system.coordinates}
    values |= {symbol.name: generator.uniform(-0.9, 0.9, 16) for symbol in jets}
    image: Mapping[str, Array] = values | {
        symbol.name: parity[jet.field] * (-1) ** jet.space[axis] * values[symbol.name] for symbol, jet in jets.items()
    }
    with np.errstate(all="ignore"):
        there, back = evaluate(tree, image, NUMPY), evaluate(tree, values, NUMPY)
    return bool(np.allclose(there, parity[equation] * back, rtol=1e-11, atol=1e-12))


def phi_functions(z: Complex) -> tuple[Complex, Complex, Complex, Complex]:
    """exp, phi_1, phi_2, phi_3 by the mean over a circle about every z.

    phi_k(z) = (phi_(k-1)(z) - 1/(k-1)!) / z. The mean of an analytic function over 32 points of a unit circle is its
    value at the centre to rounding, and no point comes near the cancellation at 0.
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
    """The same for matrices (modes, c, c), from the exponential of [[z, I, 0, 0], [0, 0, I, 0], ...]."""
    c = z.shape[-1]
    augmented = np.zeros((*z.shape[:-2], 4 * c, 4 * c), dtype=complex)
    augmented[..., :c, :c] = z
    for block in range(3):
        augmented[..., block * c : (block + 1) * c, (block + 1) * c : (block + 2) * c] = np.eye(c)
    result = expm(augmented)[..., :c, :]
    return tuple(result[..., k * c : (k + 1) * c] for k in range(4))  # type: ignore[return-value]


class _Multiplier:
    """Functions of the linear part: element by element when it is diagonal, matrix by mode otherwise."""

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

    def __init__(self, fourier: FourierSystem, bases: Sequence[Fourier], waves: Sequence[Array], inverse: Complex):
        self.fourier, self.inverse = fourier, inverse
        # Orszag: a product of p factors needs (p + 1)/2 times the modes; beyond 2 the gain is not worth it.
        stretch = min(2.0, (fourier.degree + 1) / 2) if fourier.degree > 1 else 1.0
        self.coarse = tuple(b.n for b in bases)
        self.fine = tuple(scipy.fft.next_fast_len(int(np.ceil(b.n * stretch / 2)), real=True) * 2 for b in bases)
        self.axes = tuple(range(-len(bases), 0))
        fine_bases = [Fourier(b.low, b.high, n) for b, n in zip(bases, self.fine, strict=True)]
        points, _ = fourier.folded(fine_bases)
        self.points = dict(zip(fourier.system.space, points, strict=True))
        self.trees = [(row, tree) for row, tree in enumerate(fourier.rest) if tree != 0]
        jets = {s.name: jet for _, tree in self.trees for s, jet in fourier.system.jets(tree).items()}
        self.names = list(jets)
        self.sources = [fourier.component(jet) for jet in jets.values()]
        modes = [self.coarse[k] if k < len(bases) - 1 else self.coarse[k] // 2 + 1 for k in range(len(bases))]
        self.multipliers = np.empty((len(jets), *modes), dtype=complex)
        for row, jet in enumerate(jets.values()):
            self.multipliers[row] = fourier.multiplier(jet.space, waves)
        self.scalar = inverse.shape[:2] == (1, 1)
        self.time, self.last = str(fourier.system.time), fourier.last_components

    def _resized(self, modes: Complex, old: Sequence[int], new: Sequence[int]) -> Complex:
        """Copy modes into an array for another grid, dropping the highest cosine."""
        if len(new) == 1:
            # A longer inverse transform pads by itself, and the weights drop what a shorter one cannot hold.
            return modes if new[0] > old[0] else modes[..., : new[0] // 2 + 1]
        if tuple(old) == tuple(new):
            return modes
        result = np.zeros((*modes.shape[: modes.ndim - len(new)], *new[:-1], new[-1] // 2 + 1), dtype=complex)
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
        values.update(zip(self.names, inverse_transform(self._resized(modes, self.coarse, self.fine), self.fine)))
        rest = self.inverse[0, :1] if self.scalar else np.zeros((len(self.inverse), *state.shape[1:]), dtype=complex)
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


def transform(values: Array, axes: int) -> Complex:
    """Fourier coefficients over the last axes; the constant's is the mean."""
    # NumPy's one-dimensional call costs a fifth of SciPy's on the short arrays here.
    if axes == 1:
        return np.fft.rfft(values, norm="forward")
    return scipy.fft.rfftn(values, axes=tuple(range(-axes, 0)), norm="forward")


def inverse_transform(modes: Complex, sizes: Sequence[int]) -> Array:
    """Values on a grid of the given sizes."""
    if len(sizes) == 1:
        return np.fft.irfft(modes, sizes[0], norm="forward")
    return scipy.fft.irfftn(modes, s=tuple(sizes), axes=tuple(range(-len(sizes), 0)), norm="forward")


def etdrk4(fourier: FourierSystem, n: int, steps: int, *, deadline: float = np.inf) -> GridSolution:
    """Solve with n nodes per original length and a number of equal steps.

    Args:
        fourier: the split system.
        n: even number of nodes on the original length of each coordinate.
        steps: number of time steps.
        deadline: value of time.perf_counter() at which to give up.

    Raises:
        Diverged: the numbers grew beyond bounds.
        OutOfTime: the deadline passed.
    """
    system = fourier.system
    bases = fourier.bases(n)
    sizes = tuple(b.n for b in bases)
    axes = tuple(range(-len(sizes), 0))
    waves, mask = [], np.ones((1,) * len(sizes))
    for axis, basis in enumerate(bases):
        last = axis == len(bases) - 1
        k = scipy.fft.rfftfreq(basis.n, 1.0 / basis.n) if last else scipy.fft.fftfreq(basis.n, 1.0 / basis.n)
        shape = [-1 if a == axis else 1 for a in range(len(bases))]
        mask = mask * (np.abs(k) < basis.n // 2).reshape(shape)
        waves.append((2 * np.pi / (basis.high - basis.low) * k).reshape(shape))
    operator, inverse = fourier.symbols(waves)
    linear = _Multiplier(operator)
    nonlinear = _Nonlinear(fourier, bases, waves, inverse)
    start, end = system.span
    h = (end - start) / steps
    half, half1, _, _ = linear.phi(h / 2)
    full, phi1, phi2, phi3 = linear.phi(h)
    half1 = 0.5 * h * half1
    # The highest cosine, whose odd derivatives the grid cannot see, is kept at zero.
    full, weights = linear.masked(full, mask), (h * (phi1 - 3 * phi2 + 4 * phi3), 2 * h * (phi2 - 2 * phi3), h * (4 * phi3 - phi2))
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
            state = apply(full, state) + apply(weights[0], n0) + apply(weights[1], na + nb) + apply(weights[2], nc)
        if (step + 1) % every == 0:
            kept.append(inverse_transform(state[fields], sizes))
        if step % 8 == 0 or step == steps - 1:
            if not np.abs(state).max() < bound:
                raise Diverged(f"the solution grew beyond bounds at {t:.6g}")
            if time.perf_counter() > deadline:
                raise OutOfTime
    times = np.linspace(start, end, steps // every + 1)
    assert system.time is not None
    return GridSolution(bases, np.stack(kept), Slices(times, 10, 1), system.coordinates.index(system.time))
