"""A tree turned into numbers: one straight-line program, run on NumPy, torch or jets alike.

Nothing is generated as source text. The tree is flattened once into instructions that share common
subexpressions; running them uses Python's arithmetic operators and a table of functions by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy

from .given.call import GivenCall
from .given.function import GIVEN

__all__ = ["NUMPY", "evaluate"]

Array = Any


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return erf(x)


NUMPY: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{
            name: getattr(np, name)
            for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt")
        },
        **{"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "abs": np.abs, "sign": np.sign},
        "sech": lambda x: 1 / np.cosh(x),
        "erf": _erf,
        "min": np.minimum,
        "max": np.maximum,
        "where": np.where,
        GIVEN: lambda given, orders, *arguments: given.at(arguments, orders),
    }
)

_SCALAR: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{
            name: getattr(math, name)
            for name in (
                "sin",
                "cos",
                "tan",
                "asin",
                "acos",
                "atan",
                "sinh",
                "cosh",
                "tanh",
                "exp",
                "log",
                "sqrt",
            )
        },
        "sech": lambda x: 1 / math.cosh(x),
        "abs": abs,
        "sign": lambda x: float((x > 0) - (x < 0)),
        "erf": math.erf,
        "min": min,
        "max": max,
        "where": lambda c, a, b: a if c else b,
    }
)

NAMES: Mapping[type, str] = MappingProxyType(
    {
        **{
            getattr(sympy, n): n
            for n in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")
        },
        **{
            sympy.sech: "sech",
            sympy.exp: "exp",
            sympy.log: "log",
            sympy.sign: "sign",
            sympy.erf: "erf",
        },
        **{sympy.Abs: "abs", sympy.Min: "min", sympy.Max: "max"},
    }
)

_RELATIONS: Mapping[type, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        sympy.StrictLessThan: operator.lt,
        sympy.LessThan: operator.le,
        sympy.StrictGreaterThan: operator.gt,
        sympy.GreaterThan: operator.ge,
    }
)

# (kind, payload, operand positions)
_Instruction = tuple[str, Any, tuple[int, ...]]


def evaluate(
    tree: sympy.Basic,
    values: Mapping[str, Array],
    functions: Mapping[str, Callable[..., Any]] = NUMPY,
) -> Array:
    """Value of a tree.

    Args:
        tree: an expression whose symbols are all in `values`.
        values: value of every symbol by name; anything with Python arithmetic (arrays that
            broadcast, jets, floats).
        functions: the functions of the language by name; called only when an argument is not a
            plain float.

    Returns:
        The value, of the kind that arithmetic on `values` gives; a plain float where the tree holds
        no symbol.

    Raises:
        KeyError: a symbol without a value.
        TypeError: a node that the language does not have.
    """
    slots: list[Any] = []
    for kind, payload, operands in _program(tree):
        args = [slots[i] for i in operands]
        if kind == "number":
            value = payload
        elif kind == "symbol":
            value = values[payload]
        elif kind == "add":
            value = reduce(operator.add, args)
        elif kind == "quotient":
            value = _quotient(payload, args)
        elif kind == "power":
            value = args[0] ** payload if payload is not None else args[0] ** args[1]
        elif kind == "compare":
            value = payload(*args)
        elif kind == "given":
            given, orders = payload
            plain = all(isinstance(a, (int, float)) for a in args)
            value = float(given.at(args, orders)) if plain else functions[GIVEN](*payload, *args)
        else:
            plain = all(isinstance(a, (int, float)) for a in args)
            table = (
                _SCALAR
                if plain or (payload == "where" and isinstance(args[0], bool))
                else functions
            )
            function = table[payload]
            value = reduce(function, args) if payload in ("min", "max") else function(*args)
        slots.append(value)
    return slots[-1]


def _quotient(split: tuple[int, float], args: list[Any]) -> Any:
    """Coefficient * product of the first `count` operands / product of the others."""
    count, coefficient = split
    top, bottom = args[:count], args[count:]
    if not top:
        value: Any = coefficient
    else:
        value = reduce(operator.mul, top)
        value = -value if coefficient == -1 else value if coefficient == 1 else coefficient * value
    return value / reduce(operator.mul, bottom) if bottom else value


class _Flattener:
    def __init__(self) -> None:
        self.code: list[_Instruction] = []
        self.place: dict[sympy.Basic, int] = {}

    def visit(self, node: sympy.Basic) -> int:
        if node not in self.place:
            self.place[node] = self._emit(*self._translate(node))
        return self.place[node]

    def _emit(self, kind: str, payload: Any, operands: tuple[int, ...] = ()) -> int:
        self.code.append((kind, payload, operands))
        return len(self.code) - 1

    def _translate(self, node: Any) -> _Instruction:
        if isinstance(node, sympy.Symbol):
            return "symbol", node.name, ()
        if node in (sympy.true, sympy.false):
            return "number", bool(node), ()
        if isinstance(node, sympy.Number) or node in (sympy.pi, sympy.E):
            return "number", float(node), ()
        if isinstance(node, sympy.Add):
            return "add", None, tuple(self.visit(a) for a in node.args)
        if isinstance(node, sympy.Mul):
            return self._product(node.args)
        if isinstance(node, sympy.exp) or (isinstance(node, sympy.Pow) and node.base is sympy.E):
            return "call", "exp", (self.visit(node.exp),)
        if isinstance(node, sympy.Pow):
            return self._power(node.base, node.exp)
        if isinstance(node, sympy.Piecewise):
            return self._branches(node.args)
        if isinstance(node, GivenCall):
            return "given", (node.given, node.orders), tuple(map(self.visit, node.arguments))
        if type(node) in _RELATIONS:
            return "compare", _RELATIONS[type(node)], (self.visit(node.lhs), self.visit(node.rhs))
        if type(node) in NAMES:
            return "call", NAMES[type(node)], tuple(self.visit(a) for a in node.args)
        raise TypeError(f"'{type(node).__name__}' is not part of the language of equations")

    def _product(self, factors: tuple[Any, ...]) -> _Instruction:
        coefficient, top, bottom = 1.0, [], []
        for factor in factors:
            if isinstance(factor, sympy.Number):
                coefficient *= float(factor)
            elif (
                isinstance(factor, sympy.Pow)
                and factor.base is not sympy.E
                and factor.exp.is_Number
            ):
                below = bool(factor.exp < 0)
                (bottom if below else top).append(1 / factor if below else factor)
            else:
                top.append(factor)
        operands = tuple(self.visit(f) for f in (*top, *bottom))
        return "quotient", (len(top), coefficient), operands

    def _power(self, base: Any, exponent: Any) -> _Instruction:
        if exponent.is_Number and exponent < 0:
            return "quotient", (0, 1.0), (self.visit(sympy.Pow(base, -exponent)),)
        if exponent == sympy.S.Half:
            return "call", "sqrt", (self.visit(base),)
        if exponent.is_Integer:
            return "power", int(exponent), (self.visit(base),)
        if exponent.is_Number:
            return "power", float(exponent), (self.visit(base),)
        if base.is_Number and base > 0:
            # b**x as exp(x log b): jets need no rule of their own for it.
            return "call", "exp", (self.visit(exponent * sympy.Float(math.log(float(base)), 17)),)
        return "power", None, (self.visit(base), self.visit(exponent))

    def _branches(self, pairs: tuple[Any, ...]) -> _Instruction:
        value, condition = pairs[0].args
        if condition == sympy.true:
            return "quotient", (1, 1.0), (self.visit(value),)
        if len(pairs) == 1:
            raise TypeError("a piecewise expression must cover every case")
        if isinstance(condition, sympy.And):
            # where(a and b, ...) as where(a, where(b, ...), ...).
            first, *others = condition.args
            inner = sympy.Piecewise((value, sympy.And(*others)), *pairs[1:], evaluate=False)
            rest = sympy.Piecewise(*pairs[1:], evaluate=False)
            return "call", "where", (self.visit(first), self.visit(inner), self.visit(rest))
        rest = sympy.Piecewise(*pairs[1:], evaluate=False)
        return "call", "where", (self.visit(condition), self.visit(value), self.visit(rest))


@lru_cache(maxsize=4096)
def _program(tree: sympy.Basic) -> tuple[_Instruction, ...]:
    flattener = _Flattener()
    last = flattener.visit(tree)
    if last != len(flattener.code) - 1:
        raise AssertionError("the root must be computed last")
    return tuple(flattener.code)
