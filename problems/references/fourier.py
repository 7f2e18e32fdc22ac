"""A system in Fourier space: constant-coefficient linear part and the rest, on a period.

A box whose walls hold u = 0 or u_n = 0 is a period of twice its length, mirrored with the sign of
each field, when the equations are invariant under the reflection.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..evaluation import NUMPY, evaluate
from .spectral import Fourier
from .system import Jet, System, partial

__all__ = ["FourierSystem", "NotApplicable"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


class NotApplicable(Exception):
    """The scheme does not fit the problem; the message says why."""


class FourierSystem:
    """The constant-coefficient linear part and the rest of a system on a period.

    Args:
        system: the problem.

    Attributes:
        mirrored: parity of each field by mirrored coordinate.

    Raises:
        NotApplicable: a coordinate is neither periodic nor mirrored, the highest time derivatives
            have variable coefficients, or the non-constant part has derivatives as high as the
            linear part.
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
        zero = dict.fromkeys(jets, sympy.S.Zero)
        for symbol, jet in jets.items():
            slope: Any = partial(tree, symbol)
            if jet.time == self.system.orders[jet.field]:
                if slope.free_symbols:
                    raise NotApplicable("the coefficient of the highest time derivative varies")
                mass[jet] = float(slope)
                rest = rest - slope * symbol
                continue
            slope = slope if not slope.free_symbols else slope.xreplace(zero)
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
        """Coordinates reflected into the original box, and the sign of every field, by axis."""
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
        """Whether the spectrum of the mirrored initial data decays: no corner at the walls."""
        if not self.mirrored or self._decays(256 if len(self.system.space) == 1 else 64, 1e-10):
            return True
        # A wave too short for that grid has no spectrum on a finer one but its own.
        return self._decays(1024 if len(self.system.space) == 1 else 256, 1e-14)

    def _decays(self, n: int, level: float) -> bool:
        state = self.initial(self.bases(n))
        spectrum = np.abs(np.fft.fftn(state, axes=tuple(range(1, state.ndim))))
        for axis, name in enumerate(self.system.space, start=1):
            if name not in self.mirrored:
                continue
            line = np.moveaxis(spectrum, axis, 0).reshape(spectrum.shape[axis], -1).max(axis=1)
            quarter = len(line) // 4
            if line[quarter : 3 * quarter].max() > level * line.max():
                return False
        return True

    def symbols(self, waves: Sequence[Array]) -> tuple[Complex, Any]:
        """Linear operator (components, components, ...) and inverse mass (fields, fields, ...)."""
        shape = np.broadcast_shapes(*(w.shape for w in waves))
        fields = len(self.system.fields)
        mass = np.zeros((fields, fields, *shape), dtype=complex)
        linear = np.zeros((fields, self.components, *shape), dtype=complex)
        for row in range(fields):
            for jet, factor in self.mass[row].items():
                mass[row, jet.field] += factor * self.multiplier(jet.space, waves)
            for jet, factor in self.linear[row].items():
                linear[row, self._first[jet.field] + jet.time] += factor * self.multiplier(
                    jet.space, waves
                )
        try:
            inverse = np.moveaxis(
                np.linalg.inv(np.moveaxis(mass, (0, 1), (-2, -1))), (-2, -1), (0, 1)
            )
        except np.linalg.LinAlgError:
            raise NotApplicable(
                "the highest time derivatives cannot be solved for in every mode"
            ) from None
        operator = np.zeros((self.components, self.components, *shape), dtype=complex)
        for field, order in enumerate(self.system.orders):
            for level in range(order - 1):
                operator[self._first[field] + level, self._first[field] + level + 1] = 1.0
            operator[self._first[field] + order - 1] = -np.einsum(
                "f...,fc...->c...", inverse[field], linear
            )
        return operator, inverse

    @staticmethod
    def multiplier(space: Sequence[int], waves: Sequence[Array]) -> Any:
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
        return [
            first + order - 1 for first, order in zip(self._first, self.system.orders, strict=True)
        ]


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
                r
                for r in system.boundary
                if r.field == field and r.face.coordinate == coordinate and r.face.side == side
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
    """Whether reflection only changes the sign of an equation, tried at random jets."""
    tree = system.equations[equation]
    jets = system.jets(tree)
    generator = np.random.default_rng(20240229)
    values = {name: generator.uniform(0.2, 0.9, 16) for name in system.coordinates}
    values |= {symbol.name: generator.uniform(-0.9, 0.9, 16) for symbol in jets}
    image: Mapping[str, Array] = values | {
        symbol.name: parity[jet.field] * (-1) ** jet.space[axis] * values[symbol.name]
        for symbol, jet in jets.items()
    }
    with np.errstate(all="ignore"):
        there, back = evaluate(tree, image, NUMPY), evaluate(tree, values, NUMPY)
    return bool(np.allclose(there, parity[equation] * back, rtol=1e-11, atol=1e-12))
