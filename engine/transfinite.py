"""Prescribed data as known functions: the background A and the envelope B of ``u = A + B N``.

A is built by transfinite interpolation (Gordon & Hall, Numer. Math. 21, 1973): start from the
initial data, then correct one space coordinate after the other so that each face carries its data,
with Hermite polynomials as blending functions. B vanishes where values are prescribed. Where
``u_n + kappa u`` is prescribed, B satisfies ``B_n + kappa B = 0`` and N is a network with ``N_n =
0`` (see `Embedding`), so that the product satisfies the homogeneous condition as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import sympy

from ..errors import ConfigurationError
from ..problems.conditions import Condition, Face
from ..problems.equation import Equation
from ..problems.problem import Problem

LARGEST_EXPONENT = 20.0
"""Largest ``|kappa|`` times the length of its coordinate that is built in: B goes as exp of it."""
_NO_NUMBERS = (sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)


@dataclass(frozen=True)
class Piece:
    """One prescribed quantity on a face: ``u = data``, or ``u_n + kappa u = data``.

    Attributes:
        condition: name of the condition it belongs to.
        face: where.
        field: whose.
        kappa: None where the value itself is prescribed.
        data: an expression in the other coordinates.
    """

    condition: str
    face: Face
    field: str
    kappa: float | None
    data: sympy.Expr

    def left(self, tree: sympy.Expr) -> sympy.Expr:
        """The left side for a function of the coordinates, to be read on the face."""
        if self.kappa is None:
            return tree
        x = sympy.Symbol(self.face.coordinate, real=True)
        return self.face.side * sympy.diff(tree, x) + _exact(self.kappa) * tree


@dataclass(frozen=True)
class Data:
    """What is to be built in.

    Attributes:
        problem: supplies names, bounds and orders.
        pieces: prescribed on faces.
        initial: field to order of the time derivative to its prescribed value; all or none of a
            field.
        periodic: coordinates in which A has to be periodic.
    """

    problem: Problem
    pieces: tuple[Piece, ...]
    initial: Mapping[str, Mapping[int, sympy.Expr]]
    periodic: tuple[str, ...] = ()

    @property
    def time(self) -> tuple[sympy.Symbol, float]:
        """The time symbol and the first moment."""
        name = str(self.problem.time)
        start = self.problem.bounds[self.problem.coordinates.index(name)][0]
        return sympy.Symbol(name, real=True), float(start)

    def at(self, field: str, axis: int, side: int) -> list[Piece]:
        """What is prescribed for a field at one end: its value first, then its slope."""
        name = self.problem.coordinates[axis]
        found = [p for p in self.pieces if p.field == field and p.face.coordinate == name]
        return sorted((p for p in found if p.face.side == side), key=lambda p: p.kappa is not None)

    def flat(self) -> dict[int, tuple[bool, bool]]:
        """Ends (low, high) of each axis where every field has a prescribed slope and no value."""

        def slopes_only(axis: int, side: int) -> bool:
            ends = [self.at(name, axis, side) for name in self.problem.fields]
            return all(len(end) == 1 and end[0].kappa is not None for end in ends)

        axes = range(len(self.problem.coordinates))
        return {axis: (slopes_only(axis, -1), slopes_only(axis, +1)) for axis in axes}

    def without(self, pieces: Iterable[Piece] = (), initial: Iterable[str] = ()) -> Data:
        """The rest."""
        gone, forgotten = list(pieces), list(initial)
        return replace(
            self,
            pieces=tuple(p for p in self.pieces if p not in gone),
            initial={name: v for name, v in self.initial.items() if name not in forgotten},
        )


def read(problem: Problem, conditions: Sequence[Condition]) -> tuple[Data, list[str]]:
    """What some conditions prescribe, and a sentence for each that cannot be built in."""
    time_axis = problem.coordinates.index(problem.time) if problem.time else 0
    pieces: list[Piece] = []
    initial: dict[str, dict[int, sympy.Expr]] = {}
    notes: list[str] = []
    for condition in conditions:
        if condition.kind == "initial":
            for target in condition.targets:
                tree = problem.substituted(target.tree)
                initial.setdefault(target.field, {})[target.index[time_axis]] = tree
        for equation in condition.equations if condition.kind == "boundary" else ():
            found = _piece(problem, condition, equation, pieces)
            if isinstance(found, Piece):
                pieces.append(found)
            else:
                notes.append(softly(condition.name, found))
    # A field of second order in time that has only one of its two values has no start.
    complete = {name: v for name, v in initial.items() if len(v) == problem.time_order[name]}
    periodic = tuple(c.faces[0].coordinate for c in conditions if c.kind == "periodic")
    return Data(problem, tuple(pieces), complete, periodic), notes


def softly(condition: str, reason: str) -> str:
    """The sentence for a condition that is not built in."""
    return f"condition '{condition}' is imposed softly: {reason}"


def _piece(
    problem: Problem, condition: Condition, equation: Equation, known: Sequence[Piece]
) -> Piece | str:
    """A condition ``alpha u + beta u_n = g`` on its face, or why it is not of this form."""
    face = condition.faces[0]
    axis = problem.coordinates.index(face.coordinate)
    assert equation.tree is not None
    x = sympy.Symbol(face.coordinate, real=True)
    tree = cast(sympy.Expr, problem.substituted(equation.tree).subs(x, sympy.Float(face.value)))
    jets = problem.namespace.jets(tree)
    fields = {name for name, _ in jets.values()}
    if len(fields) != 1:
        return "it couples several fields" if fields else "no field is left of it on its face"
    if any(sum(index) > index[axis] for _, index in jets.values()):
        return "it holds a derivative along the face"
    if any(index[axis] > 1 for _, index in jets.values()):
        return "it holds a derivative of second order or higher"
    coefficients = {0: 0.0, 1: 0.0}
    for symbol, (_, index) in jets.items():
        coefficient: Any = sympy.diff(tree, symbol)
        if not coefficient.is_number:
            coefficient = sympy.simplify(coefficient)
        if not coefficient.is_number:
            nonlinear = coefficient.free_symbols & set(jets)
            return "it is not linear" if nonlinear else "its coefficients vary"
        if not coefficient.is_finite:
            return "its coefficients are not finite"
        coefficients[index[axis]] = float(coefficient)
    (field,) = fields
    value, slope = coefficients[0], face.side * coefficients[1]
    rest = -cast(sympy.Expr, tree.subs({symbol: 0 for symbol in jets}))
    kappa = value / slope if slope else None
    low, high = problem.bounds[axis]
    if kappa is not None and not abs(kappa) * (high - low) <= LARGEST_EXPONENT:
        return (
            f"its coefficient of {field}, times the length of {face.coordinate}, is "
            f"{abs(kappa) * (high - low):.3g} times that of {field}_n, "
            f"and at most {LARGEST_EXPONENT:g} times is built in"
        )
    for other in known:
        # A value and a slope together, a clamped end, are built in; nothing else on one face.
        clamped = {other.kappa, kappa} == {None, 0.0}
        if (other.face, other.field) == (face, field) and not clamped:
            return f"'{other.condition}' is built in on the same face"
    return Piece(condition.name, face, field, kappa, rest / _exact(slope or value))


def _exact(number: float) -> sympy.Expr:
    """A SymPy number: small whole ones exactly, so that trees stay short."""
    whole = float(number).is_integer() and abs(number) <= 64
    return sympy.Integer(int(number)) if whole else sympy.Float(number)


def background(data: Data, field: str, start: float | None = None) -> sympy.Expr:
    """A for one field.

    Args:
        data: what it has to carry.
        field: name of the field.
        start: beginning of a later window, whose background is to be added to the state handed
            over; None for the first, where the initial data are carried.
    """
    result: sympy.Expr = sympy.Integer(0)
    if start is None and field in data.initial:
        time, begin = data.time
        for m, tree in data.initial[field].items():
            result += tree * (time - sympy.Float(begin)) ** m / sympy.factorial(m)
    for axis, bounds in enumerate(data.problem.bounds):
        ends = {side: data.at(field, axis, side) for side in (-1, +1)}
        correction: sympy.Expr = sympy.Integer(0)
        for piece in (*ends[-1], *ends[+1]):
            wanted = piece.data
            if start is not None:
                wanted -= _past(data, piece, start)
            side = piece.face.side
            blend = _blend(piece, ends[side], ends[-side], bounds)
            x = sympy.Symbol(piece.face.coordinate, real=True)
            found = piece.left(result).subs(x, sympy.Float(piece.face.value))
            correction += blend * (wanted - found)
        result += correction
    return result


def _past(data: Data, piece: Piece, start: float) -> sympy.Expr:
    """The part of boundary data that the state handed over carries: a Taylor polynomial in time."""
    time, _ = data.time
    total: sympy.Expr = sympy.Integer(0)
    for m in range(data.problem.time_order[piece.field]):
        slope = _at(sympy.diff(piece.data, time, m), time, start)
        total += slope * (time - sympy.Float(start)) ** m / sympy.factorial(m)
    return total


def _at(tree: Any, symbol: sympy.Symbol, value: float) -> sympy.Expr:
    """A tree at one value of a symbol, with the gap of something like sin(t)/t filled in.

    Raises:
        ConfigurationError: it is infinite there.
    """
    found = tree.subs(symbol, sympy.Float(value))
    if found.has(*_NO_NUMBERS):
        found = sympy.limit(tree, symbol, sympy.Rational(value))
    if found.has(*_NO_NUMBERS):
        raise ConfigurationError(
            f"the prescribed {tree} is infinite at {symbol} = {value:.6g}, where a time window "
            "begins",
            path=("solver", "windows"),
            advice="choose another number of windows",
        )
    return found


def envelope(data: Data, field: str) -> sympy.Expr:
    """B for one field, without the factor that vanishes at the start."""
    result: sympy.Expr = sympy.Integer(1)
    exponent: sympy.Expr = sympy.Integer(0)
    for axis, (low, high) in enumerate(data.problem.bounds):
        x = sympy.Symbol(data.problem.coordinates[axis], real=True)
        ends = {side: data.at(field, axis, side) for side in (-1, +1)}
        for side, end in ends.items():
            other = ends[-side]
            from_end = x - sympy.Float(low) if side < 0 else sympy.Float(high) - x
            distance = from_end / sympy.Float(high - low)
            if _has_value(end) and other and not _has_value(other):
                # Its slope vanishes at the other end, where only N and the exponential have a say.
                result *= _hermite(distance, (0,) * len(end), (1, 0))
            elif _has_value(end):
                result *= ((2 if other else 1) * distance) ** len(end)
            for piece in end:
                if piece.kappa:
                    exponent -= _exact(piece.kappa) * _blend(piece, end, other, (low, high))
    return result * sympy.exp(exponent)


def _has_value(end: Sequence[Piece]) -> bool:
    return any(piece.kappa is None for piece in end)


def _blend(
    piece: Piece, own: Sequence[Piece], other: Sequence[Piece], bounds: tuple[float, float]
) -> sympy.Expr:
    """Polynomial that answers one piece with 1 and the others of its coordinate with 0.

    Args:
        piece: what is answered.
        own: all that is prescribed for the field at the end of the piece.
        other: all that is prescribed at the opposite end.
        bounds: the two ends.
    """
    x = sympy.Symbol(piece.face.coordinate, real=True)
    length = sympy.Float(bounds[1] - bounds[0])
    inward = sympy.Float(bounds[1]) - x if piece.face.side > 0 else x - sympy.Float(bounds[0])
    s = inward / length
    slopes = any(p.kappa is not None for p in other)
    if piece.kappa is not None:
        return length * _hermite(s, (0, -1), (0, 0) if slopes else (0,))
    here = (1, 0) if len(own) > 1 else (1,)
    if [p.kappa for p in other] == [0.0]:
        return _hermite(s, here, (1, 0))
    return _hermite(s, here, (0, 0) if slopes else (0,) if other else ())


def _hermite(s: sympy.Expr, low: tuple[int, ...], high: tuple[int, ...]) -> sympy.Expr:
    """Lowest polynomial in s with given value and slope, as far as given, at s = 0 and s = 1."""
    return sympy.Add(*(c * s**k for k, c in enumerate(_coefficients(low, high))))


@lru_cache
def _coefficients(low: tuple[int, ...], high: tuple[int, ...]) -> tuple[sympy.Expr, ...]:
    powers = range(len(low) + len(high))
    rows = [[int(k == m) for k in powers] for m in range(len(low))]
    rows += [[k**m for k in powers] for m in range(len(high))]
    solved: Any = sympy.Matrix(rows).LUsolve(sympy.Matrix([*low, *high]))
    return tuple(solved)
