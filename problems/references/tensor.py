"""Linear steady problems with constant coefficients on a rectangle, without the large matrix.

On a tensor grid L u = f is A U + U B^T = F with one matrix by coordinate, a Sylvester equation:
solved by the Schur forms of A and B in O(n^3) operations (Bartels and Stewart, Comm. ACM 15, 1972)
where the LU factors of the Kronecker sum take O(n^6). The end nodes of a coordinate that have a
condition are eliminated first: with the conditions C u_b + D u_i = g,

    (A u)_i = (A_ii - A_ib C^-1 D) u_i + A_ib C^-1 g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.linalg import solve_sylvester

from ..evaluation import NUMPY, evaluate
from .fourier import NotApplicable
from .solution import GridSolution
from .spectral import Basis
from .system import BoundaryRow, System, partial

__all__ = ["TensorSystem"]

Array = NDArray[np.float64]

# Eigenvalue sums smaller than this, relative to the largest, are zero up to rounding.
_SINGULAR = 1e-13


@dataclass(frozen=True)
class _Axis:
    """One coordinate with its end nodes eliminated.

    Attributes:
        matrix: the operator on the nodes that are left.
        kept, ends: indices of the nodes that are left, and of those eliminated.
        lift: C^-1, `coupling`: A_ib C^-1, `follow`: C^-1 D.
    """

    matrix: Array
    kept: NDArray[np.intp]
    ends: NDArray[np.intp]
    lift: Array
    coupling: Array
    follow: Array


class TensorSystem:
    """The problem as one operator by coordinate.

    Args:
        system: the problem.

    Raises:
        NotApplicable: it is of another kind.
    """

    def __init__(self, system: System) -> None:
        if system.time is not None or len(system.space) != 2 or len(system.fields) != 1:
            raise NotApplicable("not a steady problem of one field in two coordinates")
        self.system = system
        self.factors, self.source = _split(system, system.equations[0])
        if any(px and py for px, py in self.factors):
            raise NotApplicable("a mixed derivative")
        self.rows: list[tuple[BoundaryRow, Mapping[tuple[int, int], float], sympy.Expr]] = []
        for axis, name in enumerate(system.space):
            for side in (-1, 1):
                at = [
                    r for r in system.boundary if (r.face.coordinate, r.face.side) == (name, side)
                ]
                if len(at) > 1:
                    raise NotApplicable("two conditions on one face")
                for row in at:
                    factors, data = _split(system, row.tree)
                    if any(powers[1 - axis] for powers in factors):
                        raise NotApplicable("a condition with a derivative along its face")
                    self.rows.append((row, factors, data))

    def solve(self, bases: Sequence[Basis]) -> GridSolution:
        """The solution on a tensor grid.

        Raises:
            NotApplicable: the operator is singular to rounding.
        """
        first, second = (self._axis(k, basis) for k, basis in enumerate(bases))
        constant = self.factors.get((0, 0), 0.0)
        left = first.matrix + constant * np.eye(len(first.matrix))
        sums = np.abs(np.linalg.eigvals(left)[:, None] + np.linalg.eigvals(second.matrix))
        if not sums.min() > _SINGULAR * sums.max():
            raise NotApplicable("singular to rounding")
        nodes = [basis.nodes for basis in bases]
        right = -self._evaluated(self.source, nodes[0][first.kept], nodes[1][second.kept])
        low, high = self._data(0, nodes[1]), self._data(1, nodes[0])
        right = right - first.coupling @ low[:, second.kept]
        right = right - (second.coupling @ high[:, first.kept]).T
        values = np.zeros((len(nodes[0]), len(nodes[1])))
        inside = solve_sylvester(left, second.matrix.T, right)
        values[np.ix_(first.kept, second.kept)] = inside
        values[np.ix_(first.ends, second.kept)] = (
            first.lift @ low[:, second.kept] - first.follow @ inside
        )
        values[:, second.ends] = (second.lift @ high - second.follow @ values[:, second.kept].T).T
        return GridSolution(bases, values[None, None])

    def _axis(self, axis: int, basis: Basis) -> _Axis:
        def combined(factors: Mapping[tuple[int, int], float]) -> Array:
            matrix = np.zeros((basis.n, basis.n))
            for powers, factor in factors.items():
                matrix += factor * basis.derivative(powers[axis])
            return matrix

        full = combined({p: f for p, f in self.factors.items() if p[axis]})
        rows = [entry for entry in self.rows if self._of(entry[0], axis)]
        ends = np.array([0 if row.face.side < 0 else basis.n - 1 for row, _, _ in rows], dtype=int)
        kept = np.setdiff1d(np.arange(basis.n), ends)
        given = np.array([combined(f)[end] for (_, f, _), end in zip(rows, ends, strict=True)])
        given = given.reshape(len(ends), basis.n)
        try:
            lift = np.asarray(np.linalg.inv(given[:, ends]), dtype=float)
        except np.linalg.LinAlgError:
            raise NotApplicable("the conditions do not determine the ends") from None
        coupling = full[np.ix_(kept, ends)] @ lift
        follow = lift @ given[:, kept]
        matrix = full[np.ix_(kept, kept)] - coupling @ given[:, kept]
        return _Axis(matrix, kept, ends, lift, coupling, follow)

    def _of(self, row: BoundaryRow, axis: int) -> bool:
        return row.face.coordinate == self.system.space[axis]

    def _data(self, axis: int, along: Array) -> Array:
        """What the conditions of a coordinate prescribe, shape (conditions, nodes along faces)."""
        found = [
            -self._evaluated(data, *((at, along) if axis == 0 else (along, at))).ravel()
            for row, _, data in self.rows
            if self._of(row, axis) and (at := np.array([row.face.value])) is not None
        ]
        return np.array(found).reshape(-1, len(along))

    def _evaluated(self, tree: sympy.Expr, x: Array, y: Array) -> Array:
        values: dict[str, Array | float] = dict(
            zip(self.system.space, (x[:, None], y[None, :]), strict=True)
        )
        return np.broadcast_to(
            np.asarray(evaluate(tree, values, NUMPY), dtype=float), (len(x), len(y))
        )


def _split(system: System, tree: sympy.Expr) -> tuple[dict[tuple[int, int], float], sympy.Expr]:
    """Constant factors of the derivatives in a linear tree, and what holds no field."""
    factors: dict[tuple[int, int], float] = {}
    jets = system.jets(tree)
    for symbol, jet in jets.items():
        slope = partial(tree, symbol)
        if slope.free_symbols or not slope.is_finite:
            raise NotApplicable("not linear with constant coefficients")
        factors[jet.space[0], jet.space[1]] = float(slope)
    source: Any = tree.xreplace(dict.fromkeys(jets, sympy.S.Zero))
    return factors, source
