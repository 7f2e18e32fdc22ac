"""Which prescribed data fit together, found at random points rather than assumed.

Boundary values that do not begin where the initial ones end, faces that disagree along their common
edge, data that are not periodic or whose derivatives do not exist: a background that carried them
would be wrong somewhere. They are imposed softly instead, and said so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import sympy

from ..problems.equation import NUMPY, MultiIndex, evaluate
from ..problems.problem import Problem
from .taylor import algebra_for
from .transfinite import Data, Piece, background, softly

POINTS = 64
AGREEMENT = 1e-9
HALVINGS = 30


def settle(data: Data) -> tuple[Data, list[str]]:
    """Leave out what A cannot carry.

    Decided on the whole span of time, so that every time window comes to the same answer.

    Returns:
        The data that are carried, and a sentence for each that is not.
    """
    notes: list[str] = []
    while True:
        before = data
        data, found = without(
            data, _unshared(data), "it would have to be of Neumann or Robin type for every field"
        )
        notes += found
        for field in data.problem.fields:
            fault = _wrong_start(data, field)
            if fault is not None:
                data = data.without(initial=[field])
                notes.append(f"{fault} are imposed softly")
            data, found = without(data, *_wrong_pieces(data, field))
            notes += found
        if data == before:
            return data, notes


def without(data: Data, pieces: Iterable[Piece], reason: str) -> tuple[Data, list[str]]:
    """The data without some pieces, and a sentence for each condition this concerns."""
    gone = list(pieces)
    names = dict.fromkeys(piece.condition for piece in gone)
    return data.without(gone), [softly(name, reason) for name in names]


def random_points(
    problem: Problem, fixed: Mapping[str, float], bounds: Iterable[tuple[float, float]]
) -> np.ndarray:
    """The same random points every time, some coordinates held; shape (POINTS, coordinates)."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(low, high, POINTS) for low, high in bounds], axis=1)
    for name, value in fixed.items():
        points[:, problem.coordinates.index(name)] = value
    return points


def numbers(problem: Problem, tree: sympy.Expr, points: np.ndarray) -> np.ndarray:
    """Values of a function at points; not a number where it has none."""
    values = {name: points[:, axis] for axis, name in enumerate(problem.coordinates)}
    with np.errstate(all="ignore"):
        try:
            found = evaluate(tree, values, NUMPY)
        except (ArithmeticError, TypeError, ValueError):
            found = np.nan
    return np.broadcast_to(np.asarray(found, dtype=float), (len(points),))


def same(found: np.ndarray, wanted: np.ndarray, size: float) -> bool:
    """Whether values agree to rounding, that of the field's size; not a number never agrees."""
    return bool(np.all(np.abs(found - wanted) <= AGREEMENT * (size + np.max(np.abs(wanted)))))


def sizes(problem: Problem) -> dict[str, float]:
    """Size of each field as the prescribed values tell it: the power of two nearest the largest.

    1 where nothing but zeros is prescribed, and then nothing is known of it.
    """
    zero = (0,) * len(problem.coordinates)
    points = random_points(problem, {}, problem.bounds)
    largest = dict.fromkeys(problem.fields, 0.0)
    for condition in problem.conditions:
        for target in condition.targets:
            if target.index == zero:
                held = points.copy()
                held[:, problem.coordinates.index(condition.faces[0].coordinate)] = condition.faces[
                    0
                ].value
                tree = cast(sympy.Expr, problem.substituted(target.tree))
                found = float(np.max(np.abs(numbers(problem, tree, held))))
                if math.isfinite(found):
                    largest[target.field] = max(largest[target.field], found)
    return {name: 2.0 ** round(math.log2(size)) if size else 1.0 for name, size in largest.items()}


def _unshared(data: Data) -> list[Piece]:
    """Slopes at an end where another field has none, or a value: the fields share an embedding."""
    flat = data.flat()
    gone = []
    for piece in data.pieces:
        axis, side = data.problem.coordinates.index(piece.face.coordinate), piece.face.side
        clamped = len(data.at(piece.field, axis, side)) > 1
        if piece.kappa is not None and not clamped and not flat[axis][side > 0]:
            gone.append(piece)
    return gone


def _wrong_start(data: Data, field: str) -> str | None:
    """Why the initial values of a field cannot be built in, if so."""
    if field not in data.initial:
        return None
    alone = background(data.without(data.pieces), field)
    if not _differentiable(data, field, alone):
        return f"initial values of {field} lack derivatives that the equations need; they"
    if not _periodic(data, field, alone):
        return f"initial values of {field} are not periodic; they"
    tree = background(data, field)
    time, start = data.time
    points = random_points(data.problem, {time.name: start}, data.problem.bounds)
    for m, wanted in data.initial[field].items():
        found = numbers(data.problem, sympy.diff(tree, time, m), points)
        if not same(found, numbers(data.problem, wanted, points), sizes(data.problem)[field]):
            return (
                f"initial and boundary values of {field} disagree where they meet; the initial ones"
            )
    return None


def _wrong_pieces(data: Data, field: str) -> tuple[list[Piece], str]:
    """Boundary data of a field that A does not carry, and why."""
    pieces = [p for p in data.pieces if p.field == field]
    tree = background(data, field)
    wrong = [p for p in pieces if not _carries(data, p, tree)]
    if wrong:
        return wrong, "its data disagree with others where they meet"
    if pieces and not _differentiable(data, field, tree):
        return pieces, "its data lack derivatives that the equations need"
    if pieces and not _periodic(data, field, tree):
        return pieces, "its data are not periodic"
    return [], ""


def _carries(data: Data, piece: Piece, tree: sympy.Expr) -> bool:
    problem = data.problem
    points = random_points(problem, {piece.face.coordinate: piece.face.value}, problem.bounds)
    left, right = (numbers(problem, side, points) for side in (piece.left(tree), piece.data))
    return same(left, right, sizes(problem)[piece.field])


def _periodic(data: Data, field: str, tree: sympy.Expr) -> bool:
    """Whether the derivatives that a periodic solution has agree at the two ends."""
    problem = data.problem
    for name in data.periodic:
        x = sympy.Symbol(name, real=True)
        low, high = problem.bounds[problem.coordinates.index(name)]
        for m in range(max(_orders(problem, field)[name], 1)):
            slope = sympy.diff(tree, x, m)
            ends = [
                numbers(problem, slope, random_points(problem, {name: end}, problem.bounds))
                for end in (low, high)
            ]
            low_end, high_end = ends
            if not same(low_end, high_end, sizes(problem)[field]):
                return False
    return True


def _orders(problem: Problem, field: str) -> dict[str, int]:
    return {
        name: max(equation.order(name, field) for equation in problem.equations)
        for name in problem.coordinates
    }


def _differentiable(data: Data, field: str, tree: sympy.Expr) -> bool:
    """Whether a function has the derivatives that the equations hold, and none that jumps below."""
    problem = data.problem
    wanted: set[MultiIndex] = set()
    for equation in problem.equations:
        wanted |= equation.derivatives.get(field, frozenset())
    points = random_points(problem, {}, problem.bounds)
    known = {(0,) * len(problem.coordinates): tree}
    for index in algebra_for(wanted, len(problem.coordinates)).indices:
        if index not in known:
            axis = next(i for i, order in enumerate(index) if order)
            lower = tuple(order - (i == axis) for i, order in enumerate(index))
            x = sympy.Symbol(problem.coordinates[axis], real=True)
            known[index] = sympy.diff(known[lower], x)
        if not np.isfinite(numbers(problem, known[index], points)).all():
            return False
    if tree.has(sympy.Piecewise, sympy.Abs, sympy.Max, sympy.Min, sympy.sign):
        for name, order in _orders(problem, field).items():
            x = sympy.Symbol(name, real=True)
            if any(_jumps(problem, sympy.diff(tree, x, m), name) for m in range(order)):
                return False
    return True


def _jumps(problem: Problem, tree: sympy.Expr, name: str) -> bool:
    """Whether a function of the coordinates jumps along one of them, on some random line.

    The steepest of a line's cells is halved until a smooth function would no longer change in it.
    """
    axis = problem.coordinates.index(name)
    for line in random_points(problem, {}, problem.bounds)[:8]:

        def along(places: np.ndarray, line: np.ndarray = line) -> np.ndarray:
            points = np.tile(line, (len(places), 1))
            points[:, axis] = places
            return numbers(problem, tree, points)

        places = np.linspace(*problem.bounds[axis], 1025)
        values = along(places)
        small = 1e-6 * (1 + np.max(np.abs(values)))
        for _ in range(HALVINGS):
            cell = int(np.argmax(np.abs(np.diff(values))))
            places = np.linspace(places[cell], places[cell + 1], 3)
            values = along(places)
        if not np.max(np.abs(np.diff(values))) <= small:
            return True
    return False
