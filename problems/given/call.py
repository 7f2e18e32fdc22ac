"""A given function, or a derivative of it, as a node of an expression."""

from __future__ import annotations

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
    """The derivative of an order of a given function, at an argument.

    Made by `of`. SymPy sees three arguments: the function, the order and the argument.
    """

    is_commutative = True
    is_real = True
    nargs = 3

    @classmethod
    def of(cls, given: Given, argument: Any, order: int = 0) -> sympy.Expr:
        """The node, or the number where the argument is one."""
        return cast(sympy.Expr, cls(_Table(given), sympy.Integer(order), argument))

    @classmethod
    def eval(cls, *args: Any) -> Any:
        """The value at a number; None leaves the node as it is."""
        table, order, argument = args
        if not argument.is_number:
            return None
        value = float(table.given(float(argument), int(order)))
        return sympy.Float(value) if value == value else sympy.nan

    @property
    def given(self) -> Given:
        """The function."""
        return cast(_Table, self.args[0]).given

    @property
    def order(self) -> int:
        """Order of the derivative."""
        return int(cast(Any, self.args[1]))

    @property
    def argument(self) -> sympy.Expr:
        """Where it is taken."""
        return cast(sympy.Expr, self.args[2])

    def fdiff(self, argindex: int = 3) -> sympy.Expr:
        """Derivative by the argument."""
        if argindex != 3:
            raise ArgumentIndexError(self, argindex)
        return self.of(self.given, self.argument, self.order + 1)

    def _eval_derivative(self, s: Any) -> sympy.Expr:
        slope: Any = self.argument.diff(s)
        return sympy.S.Zero if slope == 0 else self.fdiff() * slope

    def text(self, argument: str) -> str:
        """As equations write it: u0(x), or u0(x, 2) for the second derivative."""
        order = f", {self.order}" if self.order else ""
        return f"{self.given.name}({argument}{order})"

    def _shown(self) -> sympy.Expr:
        """A stand-in for printers of formulas: the name with a prime for each derivative."""
        marks = "'" * self.order
        return cast(Any, sympy.Function(self.given.name + marks))(self.argument)

    def _sympystr(self, printer: Any) -> str:
        return self.text(printer.doprint(self.argument))

    def _latex(self, printer: Any) -> str:
        name = self.given.name.replace("_", r"\_")
        marks = rf"^{{({self.order})}}" if self.order else ""
        inside = printer.doprint(self.argument)
        return rf"\operatorname{{{name}}}{marks}\left({inside}\right)"

    def _pretty(self, printer: Any) -> Any:
        return printer._print(self._shown())
