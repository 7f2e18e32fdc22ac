"""The names an equation may use, and the jet symbols that stand for fields and their derivatives.

A field u of the coordinates (x, t) brings the symbols u, u_x, u_t, u_xx, u_xt, ... : coordinates of
the jet space. Differentiating an expression in them by x is the total derivative

    D_x F = dF/dx + sum_J (dF/du_J) u_{J,x}

(Olver, Applications of Lie Groups to Differential Equations, eq. 2.17).
"""

from __future__ import annotations

import difflib
import itertools
import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import sympy
from sympy.core.function import ArgumentIndexError

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .given.function import Given

__all__ = ["CONSTANTS", "FUNCTIONS", "OPERATORS", "MultiIndex", "Namespace", "nearest"]

MultiIndex = tuple[int, ...]

CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E}
FUNCTIONS = (
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sech"),
    *("exp", "log", "sqrt", "abs", "sign", "erf", "min", "max", "where"),
)
OPERATORS = ("d", "lap", "div", "grad", "dot")
NORMAL = "n"
MAX_DERIVATIVE = 8
MAX_NAME = 64

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class _Abs(sympy.Function):
    """|a| that differentiates to sign(a) whether or not SymPy can prove that a is real."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return cast("Any", sympy.sign)(self.args[0])


class _Sign(sympy.Function):
    """sign(a) whose derivative is 0: a residual is never sampled exactly on the jump."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.S.Zero


class _Max(sympy.Function):
    """max(a, b), differentiated to the branch that is taken (the mean of both where they meet)."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = cast("tuple[sympy.Expr, ...]", self.args)
        if argindex not in (1, 2):
            raise ArgumentIndexError(self, argindex)
        return (1 + cast("Any", sympy.sign)(a - b if argindex == 1 else b - a)) / 2


def _as_max(*args: Any) -> Any:
    first, *rest = args
    return first if not rest else _Max(first, _as_max(*rest))


def _as_min(*args: Any) -> Any:
    return -_as_max(*(-a for a in args))


# SymPy differentiates these into Dirac deltas, Heaviside steps or real parts, which no tensor can
# follow.
_OPEN = ((sympy.Abs, _Abs), (sympy.sign, _Sign), (sympy.Max, _as_max), (sympy.Min, _as_min))
_CLOSE = ((_Abs, sympy.Abs), (_Sign, sympy.sign), (_Max, sympy.Max))


def _diff(tree: sympy.Expr, symbol: sympy.Symbol) -> sympy.Expr:
    if not tree.has(*(kind for kind, _ in _OPEN)):
        return cast(sympy.Expr, tree.diff(symbol))
    opened: Any = tree
    for kind, stand_in in _OPEN:
        opened = opened.replace(kind, stand_in)
    derived = opened.diff(symbol)
    for stand_in, kind in _CLOSE:
        derived = derived.replace(stand_in, kind)
    return derived


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, or None."""
    # Of three letters two may agree by chance, as in inf and sin.
    cutoff = 0.6 if len(str(name)) > 3 else 0.7
    found = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=cutoff)
    return found[0] if found else None


@dataclass(frozen=True)
class Namespace:
    """Declared names, and what a name in a text stands for.

    Args:
        coordinates: independent variables, in the order of columns of a point array.
        fields: unknown functions of all coordinates.
        parameters: constants with a name.
        time: the coordinate that counts as time, if any.
        functions: known functions given by data.

    Raises:
        ConfigurationError: a name that cannot be used, is used twice, or makes a derivative name
            ambiguous.
    """

    coordinates: tuple[str, ...]
    fields: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    time: str | None = None
    functions: tuple[Given, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("coordinates", "fields", "parameters", "functions"):
            object.__setattr__(self, kind, tuple(getattr(self, kind)))
        self._check_names()
        self._check_decodable()

    @property
    def space(self) -> tuple[str, ...]:
        """The coordinates without time."""
        return tuple(c for c in self.coordinates if c != self.time)

    def jet(self, field: str, index: MultiIndex) -> sympy.Symbol:
        """The symbol of one derivative.

        Args:
            field: a declared field.
            index: order by each coordinate, in declared order.

        Returns:
            Symbol such as u, u_x or u_xxt, its letters in declared coordinate order.
        """
        letters = "".join(c * k for c, k in zip(self.coordinates, index, strict=True))
        return _symbol(f"{field}_{letters}" if letters else field)

    def derivative(self, name: str) -> tuple[str, MultiIndex] | None:
        """Read "u_tx" as ("u", (1, 1)); None where `name` is not a field or a derivative of one."""
        return _derivative(self, name)

    def function(self, name: str) -> Given | None:
        """The function given by data of that name; None where there is none."""
        return next((given for given in self.functions if given.name == name), None)

    def symbol(self, name: str) -> sympy.Symbol | None:
        """The symbol of a name, derivatives in canonical spelling; None if undeclared."""
        if name in self.coordinates or name in self.parameters:
            return _symbol(name)
        found = self.derivative(name)
        return None if found is None else self.jet(*found)

    def jets(self, tree: sympy.Basic) -> dict[sympy.Symbol, tuple[str, MultiIndex]]:
        """The jet symbols that appear in a tree, with field and multi-index, sorted by name."""
        found = {}
        for symbol in sorted(cast("set[sympy.Symbol]", tree.free_symbols), key=str):
            place = self.derivative(symbol.name)
            if place is not None:
                found[symbol] = place
        return found

    def total_derivative(self, tree: sympy.Expr, coordinate: str) -> sympy.Expr:
        """Derivative of a tree by a coordinate with the fields as functions of it (Olver 2.17)."""
        axis = self.coordinates.index(coordinate)
        terms = [_diff(tree, _symbol(coordinate))]
        for symbol, (field, index) in self.jets(tree).items():
            raised = tuple(k + (i == axis) for i, k in enumerate(index))
            terms.append(_diff(tree, symbol) * self.jet(field, raised))
        return sympy.Add(*terms)

    def suggest(self, name: str, extra: Iterable[str] = ()) -> str:
        """What to write in place of an undeclared name."""
        for field in self.fields:
            tail = name[len(field) :].lstrip("_") if name.startswith(field) else ""
            if tail and self.derivative(f"{field}_{tail}") is not None:
                return f"did you mean '{field}_{tail}'?"
            if name.startswith(f"{field}_") and re.fullmatch(r"[a-z]{1,8}", tail):
                known = ", ".join(self.coordinates) or "none"
                return f"derivatives of {field} are by the declared coordinates ({known})"
        known = [*self.coordinates, *self.fields, *self.parameters, *CONSTANTS, *FUNCTIONS, *extra]
        known += [given.name for given in self.functions]
        for field, order in itertools.product(self.fields, range(1, 5)):
            for letters in itertools.combinations_with_replacement(self.coordinates, order):
                known.append(f"{field}_{''.join(letters)}")
        close = nearest(name, known)
        if close:
            return f"did you mean '{close}'?"
        declared = ", ".join([*self.coordinates, *self.fields, *self.parameters]) or "none"
        return f"declare it under parameters, or use a declared name ({declared})"

    def _entries(self) -> list[tuple[str, str, str | int]]:
        return [
            *((c, "coordinates", c) for c in self.coordinates),
            *((f, "fields", i) for i, f in enumerate(self.fields)),
            *((p, "parameters", p) for p in self.parameters),
            *((given.name, "functions", given.name) for given in self.functions),
        ]

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for name, kind, key in self._entries():
            path = (kind, key)
            if not isinstance(name, str):
                raise ConfigurationError(
                    "a name must be text", path=path[:1], found=name, advice="write it in quotes"
                )
            if (
                not _NAME.fullmatch(name)
                or len(name) > MAX_NAME
                or "__" in name
                or name.endswith("_")
            ):
                raise ConfigurationError(
                    "not a usable name",
                    path=path,
                    found=name,
                    advice="write plain letters and digits (a-z, A-Z, 0-9), starting with a letter",
                )
            if keyword.iskeyword(name):
                raise ConfigurationError(
                    f"'{name}' is a reserved word",
                    path=path,
                    advice=f"choose another name, such as '{name[:3]}'",
                )
            reserved = name in CONSTANTS or name in FUNCTIONS or name in OPERATORS
            if reserved or (kind == "coordinates" and name == NORMAL):
                meaning = "the outward normal" if name == NORMAL else "the language of equations"
                raise ConfigurationError(
                    f"'{name}' is taken by {meaning}", path=path, advice="choose another name"
                )
            if name in seen:
                raise ConfigurationError(
                    f"'{name}' is declared twice, here and under {seen[name]}",
                    path=path,
                    advice="rename one of them",
                )
            seen[name] = kind
        for name, kind, key in self._entries():
            for field in self.fields:
                tail = name[len(field) + 1 :] if name.startswith(f"{field}_") else ""
                if tail and (tail == NORMAL or _decode(self.coordinates, tail) is not None):
                    raise ConfigurationError(
                        f"'{name}' would also mean a derivative of {field}",
                        path=(kind, key),
                        advice="rename it",
                    )

    def _check_decodable(self) -> None:
        """Sardinas-Patterson: no string of coordinate names can be read in two ways."""
        names = self.coordinates
        dangling = {b[len(a) :] for a in names for b in names if a != b and b.startswith(a)}
        seen: set[str] = set()
        while dangling - seen:
            seen |= dangling
            clash = sorted(dangling.intersection(names))
            if clash:
                raise ConfigurationError(
                    f"derivatives by the coordinates {', '.join(names)} can be read in two ways",
                    path=("coordinates",),
                    advice="rename one so that no name is built from the others",
                )
            longer = {d[len(a) :] for d in dangling for a in names if d.startswith(a)}
            dangling = longer | {a[len(d) :] for d in dangling for a in names if a.startswith(d)}


@lru_cache(maxsize=4096)
def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, real=True)


@lru_cache(maxsize=4096)
def _derivative(namespace: Namespace, name: str) -> tuple[str, MultiIndex] | None:
    zero = (0,) * len(namespace.coordinates)
    if name in namespace.fields:
        return name, zero
    for field in namespace.fields:
        tail = name[len(field) + 1 :] if name.startswith(f"{field}_") else ""
        if tail:
            index = _decode(namespace.coordinates, tail)
            if index is not None:
                return field, index
    return None


def _decode(coordinates: tuple[str, ...], letters: str) -> MultiIndex | None:
    """Count coordinate names in "xxt"; None where it is not made of them."""
    if not letters:
        return (0,) * len(coordinates)
    for axis, name in enumerate(coordinates):
        if letters.startswith(name):
            rest = _decode(coordinates, letters[len(name) :])
            if rest is not None:
                return tuple(k + (i == axis) for i, k in enumerate(rest))
    return None
