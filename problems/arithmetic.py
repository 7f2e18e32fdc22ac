"""SymPy's constructors behind guards.

SymPy evaluates eagerly, so a few harmless-looking characters (9^9^9^9, exp(10^15*log(2))) could
occupy it for ever. Each guard decides with doubles before the constructor is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import sympy

from ..errors import ConfigurationError
from .evaluation import evaluate

__all__ = ["MAX_INTEGER", "Refused", "constant_value", "elementary", "number", "power", "real"]

MAX_INTEGER = 10**15
MAX_EXPONENT = 64
MAX_LOGARITHM = 700  # exp of more is not a double
MAX_DIGITS = 300

_TOO_LARGE = ("a constant too large for a double", f"stay below 1e{MAX_DIGITS}")
_INFINITE = (sympy.zoo, sympy.nan, sympy.oo, sympy.S.NegativeInfinity)
_ELEMENTARY: Mapping[str, Callable[..., Any]] = {
    name: getattr(sympy, name)
    for name in (
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sech"),
        *("exp", "log", "erf"),
    )
}


class Refused(Exception):
    """A value that cannot be formed; the caller knows where in the text it stands."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


def number(value: float | int) -> sympy.Rational:
    """The shortest decimal that gives this double, as an exact fraction: 0.1 is 1/10.

    Raises:
        ConfigurationError: not finite, or an integer beyond 1e15.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError("not a finite number", found=value, advice="write a finite number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ConfigurationError("integer too large", found=value, advice="write it as 1.0e15")
    exact = Fraction(repr(value))
    return cast(sympy.Rational, sympy.Rational(exact.numerator, exact.denominator))


def constant_value(tree: sympy.Expr) -> float:
    """Float value of a tree without symbols; nan where it has none."""
    try:
        value = evaluate(tree, {})
    except (ArithmeticError, ValueError, TypeError):
        return math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan


def real(tree: sympy.Expr) -> sympy.Expr:
    """The tree, with a fraction of endless digits in front rounded to a double.

    Raises:
        Refused: infinite, undefined or not real.
    """
    if tree in _INFINITE:
        raise Refused("a division by zero or an infinite value", "check the constants")
    if not tree.free_symbols and not tree.is_Rational and tree.is_extended_real is False:
        raise Refused("the value is not a real number", "check the roots and logarithms")
    coefficient, rest = tree.as_coeff_Mul()
    if _digits(coefficient) > 2 * MAX_DIGITS:
        return _rounded(coefficient, sympy.S.One) * rest
    return tree


def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """The tree of base^exponent.

    Raises:
        Refused: the exponent is too large, alone or together with one inside, or the value is.
    """
    _check_terms(exponent, MAX_EXPONENT)
    if exponent.is_Rational:
        for factor in sympy.Mul.make_args(base):
            inner = factor.as_base_exp()[1]
            # (x^8)^9 merges to x^72; a tower of them would grow without end.
            if inner.is_Rational and abs(inner * exponent) > MAX_EXPONENT:
                raise Refused("exponent too large", f"stay within {MAX_EXPONENT} in total")
        coefficient, rest = base.as_coeff_Mul()
        if _digits(coefficient) * abs(exponent) > MAX_DIGITS:
            return _rounded(coefficient, exponent) * sympy.Pow(rest, exponent)
    if base.is_zero and not exponent.is_positive and not exponent.is_zero:
        raise Refused("a division by zero", "check the constants")
    return sympy.Pow(base, exponent)


def elementary(name: str, args: Sequence[sympy.Expr]) -> sympy.Expr:
    """The tree of a function of the language, other than `where`.

    Raises:
        Refused: its value cannot be formed.
    """
    if name == "sqrt":
        return power(args[0], sympy.S.Half)
    if name == "exp":
        # exp(n*log(2)) is 2**n to SymPy, written out in full.
        _check_terms(args[0], MAX_LOGARITHM)
    if name in ("abs", "sign", "min", "max"):
        return _kinked(name, args)
    return _ELEMENTARY[name](*args)


def _kinked(name: str, args: Sequence[sympy.Expr]) -> sympy.Expr:
    if any(a.free_symbols for a in args):
        known = {"abs": sympy.Abs, "sign": sympy.sign, "min": sympy.Min, "max": sympy.Max}
        return known[name](*args)
    # Deciding the sign of a constant exactly can take SymPy for ever; a double decides it at once.
    values = [constant_value(a) for a in args]
    if not all(map(math.isfinite, values)):
        raise Refused("the value is not a finite real number", "check the constants")
    if name == "abs":
        return args[0] if values[0] >= 0 else -args[0]
    if name == "sign":
        return sympy.Integer((values[0] > 0) - (values[0] < 0))
    return args[values.index(min(values) if name == "min" else max(values))]


def _check_terms(exponent: sympy.Expr, limit: int) -> None:
    """SymPy merges 2^(x + n) * 2^(-x) into 2^n, so every constant term must be modest."""
    for term in sympy.Add.make_args(exponent):
        if not term.free_symbols and not abs(constant_value(term)) <= limit:
            raise Refused("exponent too large", f"stay within {limit}")


def _digits(coefficient: Any) -> float:
    """Decimal digits of the longer of numerator and denominator; 0 for other numbers."""
    if not coefficient.is_Rational:
        return 0.0
    return max(abs(coefficient.p), coefficient.q).bit_length() * math.log10(2)


def _rounded(base: Any, exponent: sympy.Expr) -> sympy.Rational:
    """base^exponent as a double, for fractions whose exact digits run away (1.0001^64)."""
    try:
        value = float(base) ** float(exponent)
    except (OverflowError, ZeroDivisionError):
        raise Refused(*_TOO_LARGE) from None
    if isinstance(value, complex) or not math.isfinite(value):
        raise Refused(*_TOO_LARGE)
    return number(value)
