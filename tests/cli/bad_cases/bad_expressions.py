"""Texts that are no expression, or a hostile one."""

from __future__ import annotations

from bad_base import Bad

EXPRESSION = "-sin(pi*x)"
TERM = "nu*u_xx"


def in_condition(id: str, new: str, *says: str, good: str = "cos(pi*x)") -> Bad:  # noqa: A002
    return Bad(id, EXPRESSION, new, good, ("problem.conditions[0].u", *says))


def in_equation(id: str, new: str, *says: str, good: str = "nu*u_xx + 0") -> Bad:  # noqa: A002
    return Bad(
        id,
        f"u_t + u*u_x = {TERM}",
        f"'u_t + u*u_x = {new}'",
        f"'u_t + u*u_x = {good}'",
        ("problem.equations[0]", *says),
    )


EXPRESSIONS = [
    in_condition("unknown name", "sin(pi*z)", "z"),
    in_condition("unknown function", "sine(pi*x)", "sine", "sin"),
    in_condition("time in the initial data", "u + sin(pi*q)", "q"),
    in_condition("arity", "sin()", "sin"),
    in_condition("parenthesis", "sin(pi*x", good="sin((pi*x))"),
    in_condition("implicit product", "2x", good="2*x"),
    in_condition("empty", "''", good="'0'"),
    in_condition("null", "null", good="0"),
    in_condition("boolean", "true", good="1"),
    in_condition("attribute", "x.__class__"),
    in_condition("dunder call", "__import__(os)"),
    in_condition("subscript", "'x[0]'"),
    in_condition("lambda", "'lambda: 1'"),
    in_condition("comprehension", "'[x for x in x]'"),
    in_condition("walrus", "'(y := 1)'"),
    in_condition("string", "\"'a'\""),
    in_condition("statement", "import os"),
    in_condition("full-width", "ｓｉｎ(x)"),
    in_condition("too deep", "(" * 300 + "x" + ")" * 300, good="((x))"),
    in_condition("nan literal", ".nan", "nan"),
    in_equation("two equals signs", "nu*u_xx = 0"),
    in_equation("undeclared parameter", "mu*u_xx", "mu"),
    in_equation("undeclared derivative", "nu*u_yy", "u_yy"),
    in_equation("undeclared field", "nu*v_xx", "v_xx"),
    in_equation("power tower", "9**9**9**9"),
    in_equation("huge power", "u**1000000"),
    in_equation("huge integer", "u*" + "9" * 100),
    in_equation("too long", "u + " * 2000 + "u", good="u + u"),
    in_equation("order", "u_" + "x" * 12),
    in_equation("division by zero", "u/0", good="u/2"),
]  # fmt: skip
