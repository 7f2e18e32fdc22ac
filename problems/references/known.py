"""What a problem gives as formulas, put through the grids that are to resolve it.

Two grids agree on what neither of them sees: a mode that both alias, a spike between the nodes, a
pulse between two steps. But initial data, sources, coefficients and boundary data are known
everywhere. Each is interpolated from the nodes of the two grids, or of the two sets of steps, that
the error bar compares. With e the distance of the finer interpolant from the formula and d that
of the two interpolants, the comparison works on this function if e <= 3 d, as the bar supposes of
the solution. What is missing from that, in units of the function, is added to the bar.

A function is sampled densely first, and its interpolants are compared where it bends most as well
as everywhere else, so that a feature need only be wider than the dense sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..evaluation import NUMPY, evaluate
from .solution import Slices
from .spectral import Basis
from .system import System

__all__ = ["KnownData", "known_parts"]

Array = NDArray[np.float64]

# Dense points along a coordinate: of a function of one coordinate, and by line of one of several.
_DENSE, _DENSE_LINE = 2**18, 2**14
# Lines at random places, and through the largest values found.
_LINES, _PEAKS = 8, 4
# Points at which interpolants are compared: everywhere, and where the function bends most.
_EVEN, _BENT = 1024, 512
# A second difference this large on the dense points, relative, is a jump.
_JUMP = 0.05
_SAFETY = 3.0
_ROUNDING = 1e-12


def known_parts(tree: Any, jets: Any) -> Iterator[Any]:
    """The largest parts of a tree that hold no field: sources, coefficients, conditions."""
    unknown = set(jets)
    if not tree.free_symbols & unknown:
        if tree.free_symbols:
            yield tree
        return
    if isinstance(tree, sympy.Add | sympy.Mul):
        known, rest = [], []
        for part in tree.args:
            (rest if part.free_symbols & unknown else known).append(part)
        whole = tree.func(*known)
        if whole.free_symbols:
            yield whole
    else:
        rest = list(tree.args)
    for part in rest:
        yield from known_parts(part, unknown)


@dataclass
class _Lines:
    """One function along one coordinate.

    Attributes:
        others: values of the other coordinates, each of shape (lines, 1).
        points: where interpolants are compared, shape (p,); `weights` of a mean square.
        values: the function there, shape (lines, p).
        size: its root mean square.
        jumps: whether it changes by much between two of the dense points.
    """

    others: Mapping[str, Array]
    points: Array
    weights: Array
    values: Array
    size: float
    jumps: bool
    images: dict[int, Array | None] = field(default_factory=dict)  # interpolants by level in space


class _Known:
    """A formula, the coordinates it depends on, and what it is called."""

    def __init__(
        self,
        name: str,
        tree: sympy.Expr,
        fixed: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        parity: Mapping[str, int],
    ) -> None:
        self.name, self.tree, self.fixed, self.parity = name, tree, dict(fixed), parity
        names = {str(symbol) for symbol in tree.free_symbols}
        self.free = [c for c in bounds if c in names and c not in fixed]
        self.bounds = bounds
        self.lines: dict[str, _Lines | None] = {}

    def __call__(self, values: Mapping[str, Array]) -> Array:
        shape = np.broadcast_shapes(*(v.shape for v in values.values()))
        with np.errstate(all="ignore"):
            found = np.asarray(evaluate(self.tree, {**self.fixed, **values}, NUMPY), dtype=float)
        return np.broadcast_to(found, shape)

    def along(self, coordinate: str) -> _Lines | None:
        """Lines along a coordinate; None where the function does not depend on it or is zero."""
        if coordinate not in self.lines:
            self.lines[coordinate] = self._drawn(coordinate) if coordinate in self.free else None
        return self.lines[coordinate]

    def _drawn(self, coordinate: str) -> _Lines | None:
        generator = np.random.default_rng(11)
        others = self._others(coordinate, generator)
        count = _DENSE_LINE if others else _DENSE
        dense = _stratified(self.bounds[coordinate], count, generator)
        values = self({**others, coordinate: dense[None, :]})
        values = np.where(np.isfinite(values), values, 0.0)
        size = float(np.sqrt(np.mean(values**2)))
        if not 0 < size < np.inf:
            return None
        bend = np.abs(values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]).max(axis=0)
        bent = 1 + np.argpartition(bend, -_BENT)[-_BENT:]
        even = np.arange(count // _EVEN // 2, count, count // _EVEN)
        chosen = np.concatenate([even, bent])
        weights = np.concatenate([np.full(len(even), 1 / len(even)), np.full(_BENT, 1 / count)])
        jumps = bool(bend.max() > _JUMP * size)
        return _Lines(others, dense[chosen], weights / len(values), values[:, chosen], size, jumps)

    def _others(self, coordinate: str, generator: np.random.Generator) -> dict[str, Array]:
        names = [c for c in self.free if c != coordinate]
        if not names:
            return {}
        cloud = {c: generator.uniform(*self.bounds[c], 2**16) for c in self.free}
        values = np.abs(np.nan_to_num(self(cloud), nan=0.0, posinf=0.0, neginf=0.0))
        rows = np.concatenate([np.argsort(values)[-_PEAKS:], np.arange(_LINES)])
        return {c: cloud[c][rows][:, None] for c in names}


def _stratified(bounds: tuple[float, float], count: int, generator: np.random.Generator) -> Array:
    low, high = bounds
    return low + (high - low) * (np.arange(count) + generator.random(count)) / count


class KnownData:
    """The known functions of a system and what two grids do not see of them.

    Args:
        system: the problem.
        parity: sign of each field by coordinate where walls are mirrors.

    Attributes:
        roughness: relative distance of the function that the finer of the last two grids resolves
            worst from its interpolant, and 1 if one jumps: steps that adapt to a jump resolve it,
            but where it lies within the last of them is luck; `roughness_in_time` is that for the
            last two sets of steps.
    """

    def __init__(self, system: System, parity: Mapping[str, Sequence[int]] | None = None) -> None:
        self.system = system
        self.roughness = self.roughness_in_time = 0.0
        self.functions: list[_Known] = []
        seen: set[tuple[Any, ...]] = set()
        mirrors = parity or {}

        def add(
            name: str, tree: sympy.Expr, fixed: Mapping[str, float], sign: Mapping[str, int]
        ) -> None:
            key = (tree, tuple(fixed.items()), tuple(sign.items()))
            found = _Known(name, tree, fixed, system.bounds, sign)
            if found.free and key not in seen:
                seen.add(key)
                self.functions.append(found)

        for number, trees in enumerate(system.initial):
            sign = {c: signs[number] for c, signs in mirrors.items()}
            for tree in trees:
                start = {str(system.time): system.span[0]}
                add(f"the initial data of {system.fields[number]}", tree, start, sign)
        even = dict.fromkeys(mirrors, 1)
        for tree in system.equations:
            for part in known_parts(tree, system.jets(tree)):
                add("a source or coefficient of the equation", part, {}, even)
        for row in system.boundary:
            face = {row.face.coordinate: row.face.value}
            for part in known_parts(row.tree, system.jets(row.tree)):
                add("the boundary data", part, face, even)

    def unseen_in_space(
        self, fine: Sequence[Basis], coarse: Sequence[Basis] | None
    ) -> tuple[float, str]:
        """What two grids miss of the known functions, relative, and of which.

        Args:
            fine: bases of the finer grid, by space coordinate; longer than the box where mirrored.
            coarse: those of the coarser grid; None if there is none.
        """
        worst = 0.0, ""
        self.roughness = 0.0
        for axis, name in enumerate(self.system.space):
            for known in self.functions:
                lines = known.along(name)
                if lines is None:
                    continue
                images = [
                    None if bases is None else self._image(known, lines, name, bases[axis])
                    for bases in (fine, coarse)
                ]
                missed, error = _missed(lines, images[0], images[1])
                self.roughness = max(self.roughness, error, float(lines.jumps))
                worst = max(worst, (missed, known.name))
        return worst

    def unseen_in_time(self, fine: Slices, coarse: Slices | None) -> tuple[float, str]:
        """The same for two sets of steps."""
        worst = 0.0, ""
        self.roughness_in_time = 0.0
        time = str(self.system.time)
        for known in self.functions:
            lines = known.along(time)
            if lines is None:
                continue
            images: list[Array | None] = [None, None]
            for k, slices in enumerate((fine, coarse)):
                if slices is not None:
                    values = known({**lines.others, time: slices.times[None, :]})
                    images[k] = slices.interpolate(values, lines.points)
            missed, error = _missed(lines, images[0], images[1])
            self.roughness_in_time = max(self.roughness_in_time, error, float(lines.jumps))
            worst = max(worst, (missed, known.name))
        return worst

    @staticmethod
    def _image(known: _Known, lines: _Lines, name: str, basis: Basis) -> Array | None:
        if basis.n not in lines.images:
            high = known.bounds[name][1]
            beyond = basis.nodes > high
            nodes = np.where(beyond, 2 * high - basis.nodes, basis.nodes)
            values = known({**lines.others, name: nodes[None, :]})
            values = values * np.where(beyond, known.parity.get(name, 1), 1.0)
            lines.images[basis.n] = values @ basis.interpolation(lines.points).T
        return lines.images[basis.n]


def _missed(lines: _Lines, fine: Array | None, coarse: Array | None) -> tuple[float, float]:
    """Distance of the finer interpolant from the function.

    Returns:
        What the distance to the coarser interpolant does not explain, and the whole.
    """
    if fine is None:
        return 0.0, 0.0

    def norm(values: Array) -> float:
        return float(np.sqrt((values**2 @ lines.weights).sum())) / lines.size

    error = norm(fine - lines.values)
    change = 0.0 if coarse is None else norm(fine - coarse)
    if not np.isfinite(error):
        return 0.0, 0.0  # a singular function: the solver itself meets it at the nodes
    explained = _SAFETY * change if np.isfinite(change) else 0.0
    return max(0.0, error - explained - _ROUNDING), error
