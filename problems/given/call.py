"""A given function, or a derivative of it, as a node of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import sympy
from sympy.core.function import ArgumentIndexError

from .function import Given

__all__ = ["GivenCall"]


class _Table(sympy.Atom):
    """The function itself: a leaf that holds no symbol and is equal by its numbers."""

    __slots__ = ("given",)

    def __new__(cls, given: Given) -> _Table:
        """SymPy makes objects here."""
        made = super().__new__(cls)
        made.given = given
        return made

    def _hashable_content(self) -> tuple[Any, ...]:
        return (self.given.identity,)

    def _sympystr(self, printer: Any) -> str:
        return self.given.identity


class GivenCall(sympy.Function):
    """A partial derivative of a given function, at its arguments.

    Made by `of`. To SymPy its arguments are the function, then the orders, then the arguments.
    """

    is_commutative = True
    is_real = True

    @classmethod
    def of(cls, given: Given, arguments: Sequence[Any], orders: Sequence[int] = ()) -> sympy.Expr:
        """The node, or the number where all arguments are numbers."""
        orders = orders or (0,) * given.arity
        return cast(sympy.Expr, cls(_Table(given), *map(sympy.Integer, orders), *arguments))

    @classmethod
    def eval(cls, *args: Any) -> Any:
        """The value at numbers; None leaves the node as it is."""
        given = args[0].given
        orders, arguments = args[1 : 1 + given.arity], args[1 + given.arity :]
        if not all(argument.is_number for argument in arguments):
            return None
        value = float(given.at([float(a) for a in arguments], [int(m) for m in orders]))
        return sympy.Float(value) if value == value else sympy.nan

    @property
    def given(self) -> Given:
        """The function."""
        return cast(_Table, self.args[0]).given

    @property
    def orders(self) -> tuple[int, ...]:
        """Orders of the derivative, by argument."""
        return tuple(int(cast(Any, m)) for m in self.args[1 : 1 + self.given.arity])

    @property
    def arguments(self) -> tuple[sympy.Expr, ...]:
        """Where it is taken."""
        return cast("tuple[sympy.Expr, ...]", self.args[1 + self.given.arity :])

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """Derivative by one of SymPy's arguments, of which only the last have any."""
        place = argindex - 2 - self.given.arity
        if not 0 <= place < self.given.arity:
            raise ArgumentIndexError(self, argindex)
        raised = [m + (i == place) for i, m in enumerate(self.orders)]
        return self.of(self.given, self.arguments, raised)

    def _eval_derivative(self, s: Any) -> sympy.Expr:
        terms = []
        for place, argument in enumerate(self.arguments):
            slope: Any = argument.diff(s)
            if slope != 0:
                terms.append(self.fdiff(place + 2 + self.given.arity) * slope)
        return sympy.Add(*terms)

    def text(self, arguments: Sequence[str]) -> str:
        """As equations write it: u0(x), or q(x, t, 2, 0) for the second derivative by the first."""
        orders = self.orders if any(self.orders) else ()
        return f"{self.given.name}({', '.join([*arguments, *map(str, orders)])})"

    def _shown(self) -> sympy.Expr:
        """A stand-in for printers of formulas: the name with marks for derivatives."""
        marks = "'" * self.orders[0] if self.given.arity == 1 else ""
        if self.given.arity > 1 and any(self.orders):
            marks = f"^({','.join(map(str, self.orders))})"
        return cast(Any, sympy.Function(self.given.name + marks))(*self.arguments)

    def _sympystr(self, printer: Any) -> str:
        return self.text([printer.doprint(argument) for argument in self.arguments])

    def _latex(self, printer: Any) -> str:
        name = self.given.name.replace("_", r"\_")
        orders = ",".join(map(str, self.orders)) if any(self.orders) else ""
        marks = rf"^{{({orders})}}" if orders else ""
        inside = ", ".join(printer.doprint(argument) for argument in self.arguments)
        return rf"\operatorname{{{name}}}{marks}\left({inside}\right)"

    def _pretty(self, printer: Any) -> Any:
        return printer._print(self._shown())
