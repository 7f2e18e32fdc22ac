"""Equations as data: text to tree, tree to derivative set, numbers, LaTeX and back to text.

>>> ns = Namespace(("x", "t"), ("u",), ("nu",), time="t")
>>> Equation("u_t + u*u_x = nu*lap(u)", ns).derivatives
{'u': frozenset({(0, 0), (1, 0), (2, 0), (0, 1)})}
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from ..errors import ConfigurationError
from .arithmetic import MAX_INTEGER, elementary, number
from .evaluation import NAMES, NUMPY, Array, evaluate
from .given import GIVEN, GivenCall
from .namespace import FUNCTIONS, MAX_DERIVATIVE, MultiIndex, Namespace
from .parser import parse, parse_constant, parse_sides

__all__ = [
    "NUMPY",
    "Equation",
    "MultiIndex",
    "Namespace",
    "Variables",
    "evaluate",
    "parse",
    "parse_constant",
    "parse_equation",
    "to_text",
]


def parse_equation(
    text: str, namespace: Namespace, names: Mapping[str, sympy.Expr] | None = None
) -> sympy.Expr:
    """Read "left = right" as the residual left - right.

    Raises:
        ConfigurationError: see `parse`.
    """
    left, right = parse_sides(text, namespace, names)
    return left - right


class Variables:
    """What a Python residual sees: every name of the problem and of the language as an attribute.

    `v.u_tx` and `v.u_xt` are the same value; `v.sin` is the sine that fits the values at hand, and
    `v.u0(v.x)` the value of a function given by data.
    """

    __slots__ = ("_functions", "_namespace", "_values")

    def __init__(
        self,
        namespace: Namespace,
        values: Mapping[str, Array],
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self._namespace = namespace
        self._values = values
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        if name in self._functions:
            return self._functions[name]
        given = self._namespace.function(name)
        if given is not None:
            return partial(self._functions[GIVEN], given, (0,) * given.arity)
        symbol = self._namespace.symbol(name)
        if symbol is None:
            raise ConfigurationError(
                f"undeclared name '{name}'", advice=self._namespace.suggest(name)
            )
        return self._values[symbol.name]


class _Recorder(dict[str, Any]):
    """Values made on demand, so that asking for a name is what records it."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Any:
        return self.setdefault(name, self.make(name))


@dataclass(frozen=True)
class Equation:
    """One residual that a solution makes zero.

    Args:
        text: "left = right", or a name for a Python residual.
        namespace: the names it may use.
        tree: left - right; None for a Python residual that only runs on tensors.
        function: the Python residual, called with `Variables`.
        sampled: names that a Python residual without a tree asked for.
    """

    text: str
    namespace: Namespace
    tree: sympy.Expr | None = None
    function: Callable[[Variables], Any] | None = field(default=None, compare=False)
    sampled: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.tree is None and self.function is None:
            object.__setattr__(self, "tree", parse_equation(self.text, self.namespace))

    @classmethod
    def from_callable(
        cls, function: Callable[[Any], Any], namespace: Namespace, *, text: str | None = None
    ) -> Equation:
        """Trace a Python residual once to find the derivatives it needs.

        Args:
            function: f(v) -> residual, using v.u_t, v.x, v.nu, v.sin, ...
            namespace: the declared names.
            text: a name for messages; the function's own by default.

        Returns:
            An equation with a tree where the function is made of arithmetic and `v`'s functions;
            otherwise one that is evaluated by calling the function.

        Raises:
            ConfigurationError: an undeclared name, a derivative of too high an order, or a function
                that fails.
        """
        name = text or getattr(function, "__name__", "residual")
        tree = _trace_tree(function, namespace)
        asked = frozenset() if tree is not None else _trace_tensors(function, namespace, name)
        equation = cls(name, namespace, tree, function, asked)
        for field_name, indices in equation.derivatives.items():
            highest = max(map(sum, indices))
            if highest > MAX_DERIVATIVE:
                problem = f"'{name}' uses a derivative of {field_name} of order {highest}"
                raise ConfigurationError(problem, advice=f"use at most {MAX_DERIVATIVE}")
        return equation

    @cached_property
    def derivatives(self) -> dict[str, frozenset[MultiIndex]]:
        """Multi-indices of the derivatives that appear, by field; all zeros is the field."""
        if self.tree is not None:
            places = list(self.namespace.jets(self.tree).values())
        else:
            found = (self.namespace.derivative(name) for name in sorted(self.sampled))
            places = [place for place in found if place is not None]
        sets: dict[str, set[MultiIndex]] = {}
        for name, index in places:
            sets.setdefault(name, set()).add(index)
        return {name: frozenset(sets[name]) for name in self.namespace.fields if name in sets}

    def order(self, coordinate: str, field: str | None = None) -> int:
        """Highest order of differentiation by a coordinate, of one field or of all."""
        axis = self.namespace.coordinates.index(coordinate)
        chosen = [v for k, v in self.derivatives.items() if field in (None, k)]
        return max((index[axis] for indices in chosen for index in indices), default=0)

    def residual(
        self, values: Mapping[str, Array], functions: Mapping[str, Callable[..., Any]] = NUMPY
    ) -> Array:
        """Value of left - right on values by canonical name, see `evaluate`."""
        if self.tree is not None:
            return evaluate(self.tree, values, functions)
        assert self.function is not None
        return self.function(Variables(self.namespace, values, functions))

    @property
    def latex(self) -> str:
        """The equation for a report, as in u_{t} + u u_{x} = u_{xx}."""
        if self.tree is None:
            return rf"\mathrm{{{self.text}}} = 0".replace("_", r"\_")
        if self.function is not None or "=" not in self.text:
            return f"{sympy.latex(self.tree)} = 0"
        try:
            left, right = parse_sides(self.text, self.namespace)
        except ConfigurationError:  # the text uses names of a face (u_n), the tree does not
            return f"{sympy.latex(self.tree)} = 0"
        return f"{sympy.latex(left)} = {sympy.latex(right)}"


def _trace_tree(function: Callable[[Any], Any], namespace: Namespace) -> sympy.Expr | None:
    """Run the residual on symbols; None where it is not made of the language."""
    functions: dict[str, Callable[..., Any]] = {
        name: partial(_apply, name) for name in FUNCTIONS if name != "where"
    }
    functions["where"] = lambda test, yes, no: sympy.Piecewise(
        (yes, test), (no, True), evaluate=False
    )
    functions[GIVEN] = lambda given, orders, *arguments: GivenCall.of(
        given, [_as_tree(a) for a in arguments], orders
    )
    try:
        tree = _as_tree(function(Variables(namespace, _Recorder(namespace.symbol), functions)))
    except ConfigurationError:
        raise
    except Exception:
        return None
    try:
        evaluate(tree, _Recorder(lambda name: 1.0))
    except (ArithmeticError, ValueError):
        pass  # a pole at the probe point says nothing against the tree
    except TypeError:
        return None
    return tree


def _apply(name: str, *args: Any) -> sympy.Expr:
    return elementary(name, [_as_tree(a) for a in args])


def _as_tree(value: Any) -> sympy.Expr:
    if isinstance(value, sympy.Expr):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    raise TypeError(f"{type(value).__name__} is not an expression")


def _trace_tensors(
    function: Callable[[Any], Any], namespace: Namespace, name: str
) -> frozenset[str]:
    """Run the residual on small tensors, differentiate it, and note what it asks for."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (3,)

    def sample(symbol: str) -> torch.Tensor:
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        # Fields are differentiated by, as in training: what leaves torch, as np.sin, fails here.
        return drawn.requires_grad_(namespace.derivative(symbol) is not None)

    values = _Recorder(sample)
    functions = {n: getattr(torch, n) for n in FUNCTIONS if hasattr(torch, n)}
    functions |= {"min": torch.minimum, "max": torch.maximum, "sech": lambda a: 1 / torch.cosh(a)}
    # Only names are recorded.
    functions[GIVEN] = lambda given, orders, *arguments: torch.sin(sum(arguments, torch.zeros(())))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(Variables(namespace, values, functions))
            if not isinstance(result, torch.Tensor):
                raise TypeError(f"it returns {type(result).__name__} and not a tensor")
            if result.shape != shape:
                raise TypeError(f"for 3 points it returns shape {tuple(result.shape)} and not (3,)")
            if fields := [value for value in values.values() if value.requires_grad]:
                torch.autograd.grad(result.sum(), fields, allow_unused=True)
    except ConfigurationError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"the Python residual '{name}' fails on tensors: {reason}",
            advice="write it with arithmetic and torch functions of v.u, v.u_x, ... (not NumPy's)",
        ) from error
    return frozenset(values)


class _Printer(StrPrinter):
    """Writes a tree in the language that `parse` reads."""

    def _print_Rational(self, expr: sympy.Rational) -> str:
        if max(abs(expr.p), expr.q) > MAX_INTEGER:
            return repr(float(expr))
        return f"{expr.p}/{expr.q}" if expr.q != 1 else str(expr.p)

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return self._print_Rational(expr)

    def _print_Float(self, expr: sympy.Float) -> str:
        return repr(float(expr))

    def _print_Mul(self, expr: sympy.Mul) -> str:
        # Each divisor on its own: SymPy's 1/(2*(x + 1)) would be read as 1/(2*x + 2).
        coefficient, rest = expr.as_coeff_Mul()
        size: Any = abs(cast(Any, coefficient))
        top = [] if size == 1 else [self._print(size)]
        bottom = []
        if isinstance(size, sympy.Rational) and max(size.p, size.q) <= MAX_INTEGER:
            top = [] if size.p == 1 else [str(size.p)]
            bottom = [] if size.q == 1 else [str(size.q)]
        factors: Any = sympy.Mul.make_args(rest)
        for factor in factors:
            divides = factor.is_Pow and factor.exp.is_Number and factor.exp < 0
            text = self.parenthesize(1 / factor if divides else factor, PRECEDENCE["Mul"])
            (bottom if divides else top).append(text)
        sign = "-" if coefficient < 0 else ""
        return sign + "/".join(["*".join(top) or "1", *bottom])

    def _print_Function(self, expr: sympy.Function) -> str:
        return f"{NAMES.get(expr.func, expr.func.__name__)}({self.stringify(expr.args, ', ')})"

    _print_Abs = _print_Max = _print_Min = _print_Function

    def _print_GivenCall(self, expr: GivenCall) -> str:
        return expr.text([self._print(argument) for argument in expr.arguments])

    def _print_Piecewise(self, expr: sympy.Piecewise) -> str:
        pairs: list[Any] = list(expr.args)
        value, condition = pairs[0].args
        if condition == sympy.true:
            return self._print(value)
        rest = self._print(sympy.Piecewise(*pairs[1:], evaluate=False))
        text = self._print(value)
        tests: Any = condition.args if isinstance(condition, sympy.And) else (condition,)
        for test in reversed(tests):
            sides = f"{self._print(test.lhs)} {test.rel_op} {self._print(test.rhs)}"
            text = f"where({sides}, {text}, {rest})"
        return text


def to_text(tree: sympy.Expr) -> str:
    """Write a tree as text: parse(to_text(tree), namespace) gives the tree back."""
    named = {sympy.E: sympy.Symbol("e")}  # SymPy prints E, which is a name like any other here
    return _Printer({"order": "none"}).doprint(tree.xreplace(named))
