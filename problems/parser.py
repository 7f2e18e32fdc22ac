"""Text to tree: Python's grammar, a whitelist of node kinds, SymPy constructors.

Nothing of the text is ever run. `syntax` bounds the text, `arithmetic` bounds the values.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping
from typing import NoReturn, TypeAlias

import sympy

from ..errors import ConfigurationError
from .arithmetic import (
    MAX_DIGITS,
    MAX_INTEGER,
    Refused,
    constant_value,
    elementary,
    number,
    power,
    real,
)
from .given import Given, GivenCall
from .namespace import CONSTANTS, FUNCTIONS, MAX_DERIVATIVE, OPERATORS, Namespace, nearest
from .syntax import MAX_DEPTH, SourceText

__all__ = ["parse", "parse_constant", "parse_sides"]

MAX_GROWN = 3000  # nodes of one tree that d, lap, ... produced

# What people write in other systems.
_HABITS = {
    **{"ln": "log", "pow": "^", "arcsin": "asin", "arccos": "acos", "arctan": "atan"},
    **{"fabs": "abs", "sgn": "sign", "cbrt": "^(1/3)", "heaviside": "where", "laplacian": "lap"},
    **{"laplace": "lap", "Delta": "lap", "nabla": "grad", "gradient": "grad"},
    **{"divergence": "div", "diff": "d", "Derivative": "d"},
}
_COMPARE = {
    ast.Lt: (operator.lt, sympy.StrictLessThan),
    ast.LtE: (operator.le, sympy.LessThan),
    ast.Gt: (operator.gt, sympy.StrictGreaterThan),
    ast.GtE: (operator.ge, sympy.GreaterThan),
}
_ARITY = {"min": (2, 9), "max": (2, 9), "where": (3, 3), "d": (2, 9), "dot": (2, 2)}
_REFUSED_NODES: Mapping[type, tuple[str, str]] = {
    ast.Compare: ("a comparison outside where(...)", "write where(x < 0, a, b)"),
    ast.Tuple: ("a comma outside a function or vector", "write one value, or a vector as [a, b]"),
    ast.Attribute: ("a '.' between names", "write a plain name, or a derivative as u_x"),
    ast.Subscript: ("an index in brackets", "write derivatives as u_x; vectors have no index"),
}

Names: TypeAlias = Mapping[str, sympy.Expr]
Vector: TypeAlias = "tuple[sympy.Expr, ...]"
Value: TypeAlias = "sympy.Expr | Vector"


def parse(text: str | float | int, namespace: Namespace, names: Names | None = None) -> sympy.Expr:
    """Read one expression.

    Args:
        text: the expression, or a plain number.
        namespace: the declared names.
        names: further names and what they stand for, such as u_n on a face.

    Returns:
        A scalar SymPy expression in real symbols; decimals are kept as exact fractions.

    Raises:
        ConfigurationError: with the column and what to write instead.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return number(text)
    if not isinstance(text, str):
        problem = "an expression must be text or a number"
        raise ConfigurationError(problem, found=text, advice="write it in quotes")
    return _Builder(SourceText(text), namespace, names or {}).expression()


def parse_sides(
    text: str, namespace: Namespace, names: Names | None = None
) -> tuple[sympy.Expr, sympy.Expr]:
    """Read "left = right" into both sides.

    Raises:
        ConfigurationError: no equals sign, more than one, or a side that cannot be read.
    """
    if not isinstance(text, str):
        advice = "write 'left = right' in quotes"
        raise ConfigurationError("an equation must be text", found=text, advice=advice)
    if double := re.search("==|!=", text):
        advice = "write one '=' between the sides"
        column = double.start() + 1
        raise ConfigurationError("not an equation", found=text, column=column, advice=advice)
    signs = [match.start() for match in re.finditer(r"(?<![<>])=", text)]
    if len(signs) != 1:
        problem = "an equation needs '='" if not signs else "an equation has one '='"
        column = signs[1] + 1 if signs else None
        advice = "write 'left = right', such as 'u_t = u_xx'"
        raise ConfigurationError(problem, found=text, column=column, advice=advice)
    # Blanks in place of the left side keep the columns of the right one.
    left, right = text[: signs[0]], " " * (signs[0] + 1) + text[signs[0] + 1 :]
    trees = []
    for side, name in ((left, "left"), (right, "right")):
        if not side.strip():
            problem = f"the {name} side is empty"
            raise ConfigurationError(problem, found=text, advice="write 'left = right'")
        trees.append(_Builder(SourceText(side, text), namespace, names or {}).expression())
    return trees[0], trees[1]


def parse_constant(text: str | float | int) -> float:
    """Read a number: digits, pi, e, arithmetic and functions, such as "0.01/pi" or 1.0e-4.

    Raises:
        ConfigurationError: the text holds a name, or the value is not finite.
    """
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        advice = "write a number such as 0.5 or '2*pi'"
        raise ConfigurationError("not a number", found=text, advice=advice)
    try:
        value = constant_value(parse(text, Namespace((), ())))
    except ConfigurationError as error:
        if not error.message.startswith("undeclared name"):
            raise
        advice = "write it with numbers, pi, e and functions, such as 0.01/pi; no other names"
        raise ConfigurationError(
            error.message, found=text, column=error.column, advice=advice
        ) from None
    if not math.isfinite(value):
        advice = "write a number such as 0.5 or '2*pi'"
        raise ConfigurationError("not a finite number", found=text, advice=advice)
    return value


class _Builder:
    """One walk over the syntax tree of one text."""

    def __init__(self, source: SourceText, namespace: Namespace, names: Names) -> None:
        self.source = source
        self.namespace = namespace
        self.names = names
        self.differentiated = 0

    def expression(self) -> sympy.Expr:
        node = self.source.tree()
        try:
            value = self._build(node, 1)
        except (RecursionError, MemoryError, OverflowError) as error:
            advice = "split it into simpler terms"
            raise self.source.error("expression too large to read", None, advice) from error
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            message = f"this has no real meaning ({error})"
            raise self.source.error(message, None, "rewrite it") from error
        if isinstance(value, tuple):
            advice = "take div(...), dot(..., ...) or one component"
            self._fail("a vector where one value is needed", node, advice)
        if value.has(sympy.I, sympy.zoo, sympy.nan, sympy.oo, sympy.S.NegativeInfinity):
            advice = "check the roots, logarithms and divisions"
            self._fail("the value is not a real number", node, advice)
        self._check_constants(value, node)
        return value

    def _fail(self, message: str, node: ast.AST, advice: str) -> NoReturn:
        self.source.fail(message, node, advice)

    def _check_constants(self, tree: sympy.Expr, node: ast.expr) -> None:
        """Every part without a symbol must be a finite double, or evaluation would fail later."""
        visit = sympy.preorder_traversal(tree)
        for part in visit:
            if isinstance(part, sympy.Expr) and not part.free_symbols:
                visit.skip()
                if not math.isfinite(constant_value(part)):
                    advice = f"stay below 1e{MAX_DIGITS}"
                    self._fail("a constant here is not a finite real number", node, advice)

    def _build(self, node: ast.expr, depth: int) -> Value:
        if depth > MAX_DEPTH:
            self._fail("expression nested too deeply", node, f"use at most {MAX_DEPTH} levels")
        try:
            value = self._node(node, depth)
            return tuple(map(real, value)) if isinstance(value, tuple) else real(value)
        except Refused as refusal:
            self._fail(refusal.message, node, refusal.advice)

    def _node(self, node: ast.expr, depth: int) -> Value:
        if isinstance(node, ast.BinOp):
            return self._binary(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
            operand = self._build(node.operand, depth + 1)
            return _scaled(-1, operand) if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.Constant):
            return self._literal(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.List) and node.elts:
            return tuple(self._scalar(item, depth + 1) for item in node.elts)
        default = ("not part of the language", "use + - * / ^, functions and declared names")
        message, advice = _REFUSED_NODES.get(type(node), default)
        self._fail(message, node, advice)

    def _scalar(self, node: ast.expr, depth: int) -> sympy.Expr:
        value = self._build(node, depth)
        if isinstance(value, tuple):
            self._fail("a vector where one value is needed", node, "use div(...) or dot(..., ...)")
        return value

    def _binary(self, node: ast.BinOp, depth: int) -> Value:
        if isinstance(node.op, (ast.Add, ast.Sub)):
            return self._sum(node, depth)
        if isinstance(node.op, (ast.Mult, ast.Div)):
            return self._product(node, depth)
        if isinstance(node.op, ast.Pow):
            return power(self._scalar(node.left, depth + 1), self._scalar(node.right, depth + 1))
        self._fail("this operator is not part of the language", node, "use + - * / ^")

    def _chain(
        self, node: ast.BinOp, kinds: tuple[type, type], depth: int
    ) -> list[tuple[Value, bool]]:
        """Operands of a left-associative chain, with True behind the second kind of operator.

        A sum of 200 terms is 200 levels deep in Python's tree, but one level to a reader.
        """
        found: list[tuple[ast.expr, bool]] = []
        inner: ast.expr = node
        while isinstance(inner, ast.BinOp) and isinstance(inner.op, kinds):
            found.append((inner.right, isinstance(inner.op, kinds[1])))
            inner = inner.left
        found.append((inner, False))
        return [(self._build(part, depth + 1), second) for part, second in reversed(found)]

    def _sum(self, node: ast.BinOp, depth: int) -> Value:
        chain = self._chain(node, (ast.Add, ast.Sub), depth)
        terms = [_scaled(-1, value) if minus else value for value, minus in chain]
        vectors = [term for term in terms if isinstance(term, tuple)]
        scalars = [term for term in terms if not isinstance(term, tuple)]
        if not vectors:
            return sympy.Add(*scalars)
        if scalars or len({len(vector) for vector in vectors}) > 1:
            raise Refused("adding values of different shapes", "add vectors of one length")
        return tuple(sympy.Add(*parts) for parts in zip(*vectors, strict=True))

    def _product(self, node: ast.BinOp, depth: int) -> Value:
        vector: Vector | None = None
        factors: list[sympy.Expr] = []
        for value, divide in self._chain(node, (ast.Mult, ast.Div), depth):
            if not isinstance(value, tuple):
                factors.append(power(value, sympy.S.NegativeOne) if divide else value)
            elif vector is None and not divide:
                vector = value
            else:
                raise Refused("a product or quotient of vectors", "write dot(a, b)")
        product = sympy.Mul(*factors)
        return product if vector is None else _scaled(product, vector)

    def _literal(self, node: ast.Constant) -> sympy.Expr:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Refused("not a number", "write a real number, such as 0.5 or 1e-4")
        if isinstance(value, float) and math.isinf(value):
            raise Refused("number too large for a double", f"stay below 1e{MAX_DIGITS}")
        if isinstance(value, int) and value > MAX_INTEGER:
            raise Refused("integer too large", "write at most 1e15, or a decimal such as 1.0e20")
        return number(value)

    def _name(self, node: ast.Name) -> sympy.Expr:
        name = node.id
        if name in self.names:
            return self.names[name]
        if name in CONSTANTS:
            return CONSTANTS[name]
        symbol = self.namespace.symbol(name)
        if symbol is not None:
            self._check_order(symbol)
            return symbol
        if name in FUNCTIONS or name in OPERATORS or self.namespace.function(name) is not None:
            raise Refused(f"'{name}' is a function", f"write {name}(...)")
        if name.endswith("_n") and name[:-2] in self.namespace.fields:
            message = f"'{name}' (outward normal derivative) exists only on a boundary"
            raise Refused(message, "use it in conditions")
        raise Refused(f"undeclared name '{name}'", self.namespace.suggest(name, self.names))

    def _check_order(self, tree: sympy.Expr) -> None:
        for symbol, (_, index) in self.namespace.jets(tree).items():
            if sum(index) > MAX_DERIVATIVE:
                message = f"'{symbol}' is a derivative of order {sum(index)}"
                raise Refused(message, f"use at most {MAX_DERIVATIVE}")
        for call in tree.atoms(GivenCall):
            if max(call.orders) > call.given.smoothness:
                message = f"a derivative of order {max(call.orders)} of {call.given.name}"
                limit = f"{call.given.smoothness}, to which it is smooth"
                raise Refused(message, f"use at most {limit}")

    def _call(self, node: ast.Call, depth: int) -> Value:
        if not isinstance(node.func, ast.Name):
            raise Refused("a product needs '*'", "write '*' before the bracket, as in 2*(x + 1)")
        name = node.func.id
        given = self.namespace.function(name)
        if name not in FUNCTIONS and name not in OPERATORS and given is None:
            self._unknown_function(name)
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            raise Refused(f"{name}(...) takes plain arguments", "write them one after another")
        if given is not None:
            return self._given(given, node, depth)
        low, high = _ARITY.get(name, (1, 1))
        if not low <= len(node.args) <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}"
            raise Refused(f"{name}(...) has {len(node.args)} arguments", f"write {wanted}")
        if name == "where":
            return self._where(node, depth)
        if name == "d":
            value = self._build(node.args[0], depth + 1)
            for coordinate in map(self._coordinate, node.args[1:]):
                value = self._derived(value, coordinate)
            return value
        if name in OPERATORS:
            return self._operator(name, [self._build(a, depth + 1) for a in node.args])
        return elementary(name, [self._scalar(a, depth + 1) for a in node.args])

    def _given(self, given: Given, node: ast.Call, depth: int) -> sympy.Expr:
        """A function given by data, as u0(x); u0(x, 2) is its second derivative."""
        name, n = given.name, given.arity
        if len(node.args) not in (n, 2 * n):
            shown = ", ".join(["x", "y", "z"][:n])
            orders = ", ".join(["2", *["0"] * (n - 1)])
            advice = f"write {name}({shown}), or {name}({shown}, {orders}) for a derivative"
            raise Refused(f"{name}(...) has {len(node.args)} arguments", advice)
        arguments = [self._scalar(a, depth + 1) for a in node.args[:n]]
        call = GivenCall.of(given, arguments, [self._order(name, a) for a in node.args[n:]])
        self._check_order(call)
        if call is sympy.nan and given.bounds is not None:
            ranges = " and ".join(f"from {low:.12g} to {high:.12g}" for low, high in given.bounds)
            message = (
                f"{name} is sampled {ranges} and asked for at {', '.join(map(str, arguments))}"
            )
            raise Refused(message, "stay in this range")
        return call

    def _order(self, name: str, node: ast.expr) -> int:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"behind its arguments {name}(...) takes orders of a derivative"
            raise Refused(message, f"write whole numbers, as in {name}(x, 2)")
        return value

    def _unknown_function(self, name: str) -> NoReturn:
        if self.namespace.symbol(name) is not None or name in CONSTANTS:
            advice = f"write {name} alone, or {name}*(...) for a product"
            raise Refused(f"'{name}' is not a function", advice)
        known = (*FUNCTIONS, *OPERATORS, *(given.name for given in self.namespace.functions))
        close = _HABITS.get(name) or nearest(name, known)
        advice = f"did you mean '{close}'?" if close else f"known are {', '.join(known)}"
        raise Refused(f"unknown function '{name}'", advice)

    def _where(self, node: ast.Call, depth: int) -> sympy.Expr:
        """Branches; a < x < b is one branch inside the other, so that a tree needs no "and"."""
        test = node.args[0]
        if not isinstance(test, ast.Compare):
            raise Refused("where(...) starts with a comparison", "write where(x < 0, a, b)")
        yes, no = (self._scalar(branch, depth + 1) for branch in node.args[1:])
        sides = [self._scalar(side, depth + 1) for side in (test.left, *test.comparators)]
        for op, left, right in reversed(list(zip(test.ops, sides[:-1], sides[1:], strict=True))):
            if type(op) not in _COMPARE:
                raise Refused("this comparison is not part of the language", "use < <= > >=")
            decide, relation = _COMPARE[type(op)]
            if left.free_symbols or right.free_symbols:
                condition = relation(left, right, evaluate=False)
                yes = sympy.Piecewise((yes, condition), (no, True), evaluate=False)
            elif not decide(constant_value(left), constant_value(right)):
                yes = no
        return yes

    def _coordinate(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name) or node.id not in self.namespace.coordinates:
            known = ", ".join(self.namespace.coordinates) or "none"
            advice = f"write d(expression, x) with one of: {known}"
            self._fail("d(...) differentiates by coordinates", node, advice)
        return node.id

    def _derived(self, value: Value, coordinate: str) -> Value:
        if isinstance(value, tuple):
            return tuple(self._differentiate(part, coordinate) for part in value)
        return self._differentiate(value, coordinate)

    def _differentiate(self, tree: sympy.Expr, coordinate: str) -> sympy.Expr:
        derived = self.namespace.total_derivative(tree, coordinate)
        self._check_order(derived)
        for size, _ in enumerate(sympy.preorder_traversal(derived)):
            self.differentiated += 1
            if size > MAX_GROWN or self.differentiated > 5 * MAX_GROWN:
                advice = "introduce a field for the inner expression"
                raise Refused("the derivative grows too large", advice)
        return derived

    def _operator(self, name: str, args: list[Value]) -> Value:
        """Dot, div, grad and lap, over the space coordinates."""
        space = self.namespace.space
        first = args[0]
        if name == "dot":
            second = args[1]
            if not isinstance(first, tuple) or not isinstance(second, tuple):
                raise Refused("dot(...) needs two vectors", "write dot([a, b], [c, d])")
            if len(first) != len(second):
                raise Refused("dot(...) of different lengths", "write dot([a, b], [c, d])")
            return sympy.Add(*(a * b for a, b in zip(first, second, strict=True)))
        if not space:
            raise Refused(f"{name}(...) needs a space coordinate", "use d(expression, t) for time")
        if name == "div":
            if not isinstance(first, tuple) or len(first) != len(space):
                wanted = ", ".join(f"f{i + 1}" for i in range(len(space)))
                raise Refused(f"div(...) needs {len(space)} components", f"write div([{wanted}])")
            parts = zip(first, space, strict=True)
            return sympy.Add(*(self._differentiate(part, c) for part, c in parts))
        if isinstance(first, tuple):
            raise Refused(f"{name}(...) needs one value", f"write [{name}(a), {name}(b)]")
        slopes = tuple(self._differentiate(first, c) for c in space)
        if name == "grad":
            return slopes
        return sympy.Add(
            *(self._differentiate(slope, c) for slope, c in zip(slopes, space, strict=True))
        )


def _scaled(factor: sympy.Expr | int, value: Value) -> Value:
    return tuple(factor * v for v in value) if isinstance(value, tuple) else factor * value
