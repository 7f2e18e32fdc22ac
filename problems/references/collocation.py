"""Collocation of a system on a tensor grid: residual and Jacobian of G(t, y, y') = 0.

A field of order m in time contributes m components (u, u_t, ...), each known at all nodes. Every
component gives

- at points inside, the equation (for the last component) or "derivative of this one is the next
  one";
- at faces, its conditions, differentiated in time as often as the component asks, so that every
  algebraic row determines its own component (index 1).

An equation with one condition at most per face is collocated at the nodes that are left. With more
conditions than that it is collocated at fewer points of the first kind (rectangular collocation;
Driscoll and Hale, IMA J. Numer. Anal. 36, 2016), so that rows and unknowns match for any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..evaluation import NUMPY, evaluate
from .spectral import Basis, Chebyshev, Fourier
from .system import BoundaryRow, Jet, ReferenceUnavailable, System, partial

__all__ = ["Collocation"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Lines:
    """Points on one axis as the image of its nodes under `matrix`, shape (points, n)."""

    basis: Basis
    matrix: Array | None  # None: the nodes themselves
    points: Array

    def derivative(self, order: int) -> Array:
        full = self.basis.derivative(order)
        return full if self.matrix is None else self.matrix @ full


class _Rows:
    """One tree collocated at a tensor set of points."""

    def __init__(self, owner: Collocation, tree: sympy.Expr, lines: Sequence[_Lines]) -> None:
        self.owner, self.tree = owner, tree
        self.lines = tuple(lines)
        self.shape = tuple(len(line.points) for line in lines)
        self.count = int(np.prod(self.shape))
        self.jets = owner.system.jets(tree)
        self.slopes = {symbol: partial(tree, symbol) for symbol in self.jets}
        self._operators: dict[tuple[int, ...], list[Array | None]] = {}

    def _operator(self, space: tuple[int, ...]) -> list[Array | None]:
        """One matrix per axis; None where it is the identity."""
        if space not in self._operators:
            self._operators[space] = [
                None if order == 0 and line.matrix is None else line.derivative(order)
                for line, order in zip(self.lines, space, strict=True)
            ]
        return self._operators[space]

    def _values(self, t: Array, y: Array, slope: Array) -> dict[str, Array | float]:
        axes = len(self.shape)
        values: dict[str, Array | float] = {}
        if self.owner.system.time is not None:
            values[self.owner.system.time] = t.reshape(-1, *(1,) * axes)
        for axis, (name, line) in enumerate(zip(self.owner.system.space, self.lines, strict=True)):
            values[name] = line.points.reshape(1, *(-1 if a == axis else 1 for a in range(axes)))
        for symbol, jet in self.jets.items():
            component, differentiated = self.owner.component(jet)
            field = (slope if differentiated else y)[:, component]
            for axis, matrix in enumerate(self._operator(jet.space)):
                if matrix is not None:
                    field = np.moveaxis(
                        np.tensordot(matrix, field, axes=(1, axis + 1)), 0, axis + 1
                    )
            values[symbol.name] = field
        return values

    def residual(self, t: Array, y: Array, slope: Array) -> Array:
        value = evaluate(self.tree, self._values(t, y, slope), NUMPY)
        return np.broadcast_to(value, (len(t), *self.shape)).reshape(len(t), -1)

    def add_jacobian(self, t: float, y: Array, slope: Array, by_y: Array, by_slope: Array) -> None:
        """Add the derivatives of these rows to blocks (count, unknowns)."""
        values = self._values(np.array([t]), y[None], slope[None])
        size = self.owner.size
        for symbol, jet in self.jets.items():
            component, differentiated = self.owner.component(jet)
            factor = np.broadcast_to(
                evaluate(self.slopes[symbol], values, NUMPY), (1, *self.shape)
            ).ravel()
            target = by_slope if differentiated else by_y
            block = target[:, component * size : (component + 1) * size]
            block += factor[:, None] * self.owner.kron(self._operator(jet.space))


class _Link(_Rows):
    """Rows "time derivative of component k is component k + 1"."""

    def __init__(self, owner: Collocation, component: int, lines: Sequence[_Lines]) -> None:
        super().__init__(owner, sympy.S.Zero, lines)
        self.first = component

    def residual(self, t: Array, y: Array, slope: Array) -> Array:
        value = slope[:, self.first] - y[:, self.first + 1]
        for axis, line in enumerate(self.lines):
            if line.matrix is not None:
                value = np.moveaxis(
                    np.tensordot(line.matrix, value, axes=(1, axis + 1)), 0, axis + 1
                )
        return value.reshape(len(t), -1)

    def add_jacobian(self, t: float, y: Array, slope: Array, by_y: Array, by_slope: Array) -> None:
        size = self.owner.size
        block = self.owner.kron(self._operator((0,) * len(self.lines)))
        by_slope[:, self.first * size : (self.first + 1) * size] += block
        by_y[:, (self.first + 1) * size : (self.first + 2) * size] -= block


class Collocation:
    """The semi-discrete system G(t, y, y') = 0.

    Args:
        system: the problem.
        sizes: number of nodes by space coordinate.

    Attributes:
        bases: one per space coordinate.
        shape: nodes by coordinate; `size` their product; `components` number of (field, time order)
            pairs.
        unknowns: components * size, the length of a flat state.
    """

    def __init__(self, system: System, sizes: Sequence[int]) -> None:
        self.system = system
        self.bases: tuple[Basis, ...] = tuple(
            # An odd number of Fourier nodes has no cosine without a sine.
            Fourier(*system.bounds[c], n | 1)
            if c in system.periodic
            else Chebyshev(*system.bounds[c], n)
            for c, n in zip(system.space, sizes, strict=True)
        )
        self.shape = tuple(b.n for b in self.bases)
        self.size = int(np.prod(self.shape))
        counts = [max(m, 1) for m in system.orders]
        self._first = list(np.cumsum([0, *counts])[:-1])
        self.components = sum(counts)
        self.unknowns = self.components * self.size
        self.rows: list[_Rows] = []
        for field, count in enumerate(counts):
            for level in range(count):
                self._collocate(field, level, last=level == count - 1)
        total = sum(r.count for r in self.rows)
        if total != self.unknowns:
            raise AssertionError(f"{total} rows for {self.unknowns} unknowns")

    def component(self, jet: Jet) -> tuple[int, bool]:
        """Component that holds a derivative, and whether it is that component's time derivative."""
        order = self.system.orders[jet.field]
        if jet.time > order:
            raise ReferenceUnavailable(
                "a boundary condition couples time derivatives that the equations do not "
                "determine; "
                "rewrite it without time derivatives or give an exact solution"
            )
        if order > 0 and jet.time == order:
            return self._first[jet.field] + order - 1, True
        return self._first[jet.field] + jet.time, False

    def fields(self, y: Array) -> Array:
        """The fields themselves of states (..., unknowns): shape (..., fields, n_1, ...)."""
        blocks = y.reshape(*y.shape[:-1], self.components, *self.shape)
        return np.take(blocks, self._first, axis=y.ndim - 1)

    def initial(self) -> Array:
        """The flat state at the start of time."""
        values: dict[str, Array | float] = {str(self.system.time): self.system.span[0]}
        for axis, (name, basis) in enumerate(zip(self.system.space, self.bases, strict=True)):
            values[name] = basis.nodes.reshape(
                *(-1 if a == axis else 1 for a in range(len(self.bases)))
            )
        state = np.zeros((self.components, *self.shape))
        for first, trees in zip(self._first, self.system.initial, strict=True):
            for level, tree in enumerate(trees):
                state[first + level] = evaluate(tree, values, NUMPY)
        return state.ravel()

    # -- rows --------------------------------------------------------------------------------------
    # -----------

    def _collocate(self, field: int, level: int, *, last: bool) -> None:
        conditions = [
            (row, tree)
            for row in self.system.boundary
            if row.field == field and (tree := self._raised(row, level)) is not None
        ]
        inside: list[_Lines] = []
        for name, basis in zip(self.system.space, self.bases, strict=True):
            low = sum(row.face.coordinate == name and row.face.side < 0 for row, _ in conditions)
            high = sum(row.face.coordinate == name and row.face.side > 0 for row, _ in conditions)
            inside.append(self._remaining(basis, low, high))
        if last:
            self.rows.append(_Rows(self, self.system.equations[field], inside))
        else:
            self.rows.append(_Link(self, self._first[field] + level, inside))
        # Corners belong to the first axis in this order; one with values only comes first, because
        # a value at a corner is worth more than a derivative there.
        axes = sorted(range(len(self.bases)), key=lambda axis: self._highest(conditions, axis))
        for place, axis in enumerate(axes):
            for row, tree in conditions:
                if row.face.coordinate != self.system.space[axis]:
                    continue
                lines = [
                    inside[a] if a in axes[:place] else _Lines(b, None, b.nodes)
                    for a, b in enumerate(self.bases)
                ]
                basis, point = self.bases[axis], np.array([row.face.value])
                lines[axis] = _Lines(basis, basis.interpolation(point), point)
                self.rows.append(_Rows(self, tree, lines))

    def _raised(self, row: BoundaryRow, level: int) -> sympy.Expr | None:
        """The condition differentiated in time so that it fixes this time level of its field."""
        jets = self.system.jets(row.tree).values()
        given = max((j.time for j in jets if j.field == row.field), default=0)
        given = min(given, max(self.system.orders[row.field] - 1, 0))
        if level < given:
            return None
        tree = row.tree
        for _ in range(level - given):
            tree = self.system.namespace.total_derivative(tree, str(self.system.time))
        return tree

    def _highest(self, conditions: Sequence[tuple[BoundaryRow, sympy.Expr]], axis: int) -> int:
        name = self.system.space[axis]
        return max(
            (
                max((sum(j.space) for j in self.system.jets(tree).values()), default=0)
                for row, tree in conditions
                if row.face.coordinate == name
            ),
            default=99,
        )

    @staticmethod
    def _remaining(basis: Basis, low: int, high: int) -> _Lines:
        if low + high == 0:
            return _Lines(basis, None, basis.nodes)
        if low <= 1 and high <= 1:
            kept = slice(low, basis.n - high)
            return _Lines(basis, np.eye(basis.n)[kept], basis.nodes[kept])
        assert isinstance(basis, Chebyshev)
        points = basis.first_kind(basis.n - low - high)
        return _Lines(basis, basis.interpolation(points), points)

    # -- residual and Jacobian
    # --------------------------------------------------------------------------------

    def kron(self, matrices: Sequence[Array | None]) -> Array:
        """Kronecker product over the axes, None standing for the identity."""
        product: Any = np.ones((1, 1))
        for matrix, basis in zip(matrices, self.bases, strict=True):
            product = np.kron(product, np.eye(basis.n) if matrix is None else matrix)
        return product

    def residual(self, t: Array, y: Array, slope: Array) -> Array:
        """G at several times at once.

        Args:
            t: shape (s,).
            y: states, shape (s, unknowns).
            slope: their time derivatives, of the same shape.

        Returns:
            Shape (s, unknowns).
        """
        blocks = (len(t), self.components, *self.shape)
        y, slope = y.reshape(blocks), slope.reshape(blocks)
        return np.concatenate([rows.residual(t, y, slope) for rows in self.rows], axis=1)

    def jacobian(self, t: float, y: Array, slope: Array) -> tuple[Array, Array]:
        """Derivatives of G by y and by y', each (unknowns, unknowns)."""
        blocks = (self.components, *self.shape)
        y, slope = y.reshape(blocks), slope.reshape(blocks)
        by_y = np.zeros((self.unknowns, self.unknowns))
        by_slope = np.zeros((self.unknowns, self.unknowns))
        start = 0
        for rows in self.rows:
            part = slice(start, start + rows.count)
            rows.add_jacobian(t, y, slope, by_y[part], by_slope[part])
            start += rows.count
        return by_y, by_slope
