"""Problems and plans as text: what `residua list`, `show` and `solve --dry-run` print."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import sympy

from .config import Case
from .errors import ConfigurationError
from .problems import registry
from .problems.equation import Equation
from .problems.notes import problem_notes
from .problems.problem import Problem
from .solvers import BACKENDS
from .solvers.deepxde.options import DeepxdeOptions
from .solvers.options import BackendOptions, SolverOptions

__all__ = ["plan", "problem_sheet", "table"]

WIDTH = 100


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of equal length, each column as wide as its widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(indent + line.rstrip() for line in lines)


def table() -> str:
    """Problems by backends, with the reason wherever a backend does not accept a problem."""
    rows = [["PROBLEM", "TITLE", *BACKENDS]]
    reasons: dict[str, list[str]] = {}
    for name in registry.names():
        try:
            problem = registry.get(name)
        except ConfigurationError as error:  # a plug-in's broken problem must not hide the others
            rows.append([name, f"unreadable: {error}"[:60], *("-" for _ in BACKENDS)])
            continue
        answers = {backend.name: backend.accepts(problem) for backend in BACKENDS.values()}
        rows.append(
            [name, problem.title, *("no" if reason else "yes" for reason in answers.values())]
        )
        for backend, reason in answers.items():
            if reason:
                reasons.setdefault(f"{backend}: {reason}", []).append(name)
    lines = [columns(rows)]
    if reasons:
        lines.append("\nWhere a backend says no:")
        lines += [_wrapped(f"{reason} ({', '.join(names)})") for reason, names in reasons.items()]
    lines.append("\nBackends:")
    lines.append(columns([[backend.name, backend.title] for backend in BACKENDS.values()], "  "))
    return "\n".join(lines)


def problem_sheet(problem: Problem) -> str:
    """Everything about a problem."""
    lines = [f"{problem.name}: {problem.title}" if problem.title else problem.name]
    if problem.description:
        lines.append(_wrapped(" ".join(problem.description.split())))
    lines += ["", "Coordinates"]
    lines += [
        f"  {name} in [{low:g}, {high:g}]"
        for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True)
    ]
    lines += ["", "Equations" if len(problem.equations) > 1 else "Equation"]
    for equation in problem.equations:
        lines += [
            f"  {equation.text}",
            "",
            textwrap.indent(_pretty(equation), "    "),
            "",
            f"  LaTeX: {equation.latex}",
        ]
    lines += ["", "Conditions"]
    lines += [f"  {name}: {text}" for name, text in _conditions(problem)]
    if problem.parameters:
        lines += ["", "Parameters"]
        rows = []
        for name, parameter in problem.parameters.items():
            low = "" if parameter.low is None else f"{parameter.low:g}"
            high = "" if parameter.high is None else f"{parameter.high:g}"
            span = f"[{low}, {high}]" if low or high else "any"
            rows.append([name, f"{parameter.value:.6g}", span, parameter.description])
        lines.append(columns(rows, "  "))
    if problem.functions:
        lines += ["", "Functions given by data"]
        lines.append(columns([[given.name, *given.says()] for given in problem.functions], "  "))
    lines += [
        "",
        "Reflections that leave it unchanged",
        *(f"  {text}" for text in _parities(problem)),
    ]
    lines += ["", f"Reference: {problem.reference_spec.get('method', 'auto')}"]
    lines += ["", "Backends"]
    answers = [[name, backend.accepts(problem) or "accepts"] for name, backend in BACKENDS.items()]
    lines.append(
        columns(
            [[name, f"no: {text}" if text != "accepts" else text] for name, text in answers], "  "
        )
    )
    return "\n".join(lines)


def plan(case: Case, folder: Path) -> str:
    """What `solve` would do."""
    problem, solver, run = case.problem, case.solver, case.run
    budget = "none" if run.budget is None else f"{run.budget:g} s"
    stages = ", ".join(
        stage.name + (f" ({stage.steps} steps)" if stage.steps else "") for stage in solver.stages
    )
    rows = [
        [
            "problem",
            f"{problem.name}: {'; '.join(equation.text for equation in problem.equations)}",
        ],
        ["conditions", "; ".join(f"{name}: {text}" for name, text in _conditions(problem))],
        *_method(problem, solver),
        ["optimizer", stages],
        ["run", f"seed {run.seed}, {run.dtype}, device {run.device}, budget {budget}"],
        ["reference", str(problem.reference_spec.get("method", "auto"))],
        ["folder", str(folder)],
        ["hash", case.digest()],
    ]
    rows += [["note", note] for note in problem_notes(problem)]
    return columns(rows) + "\nNothing was computed and nothing was written (--dry-run)."


def _method(problem: Problem, solver: BackendOptions) -> list[list[str]]:
    """Backend, network and points."""
    if isinstance(solver, SolverOptions):
        windows = f", time windows: {solver.windows}" if solver.windows > 1 else ""
        kind, size, boundary = solver.network.kind, _size(problem, solver), "a face"
    else:
        assert isinstance(solver, DeepxdeOptions)
        inputs = len(problem.coordinates)
        windows, kind, boundary = "", "FNN", "on the boundary"
        size = _parameters(inputs, solver.network.width, solver.network.depth, problem)
    network, points = solver.network, solver.points
    return [
        ["backend", f"{solver.name}{windows}"],
        [
            "network",
            f"{kind}, {network.depth} x {network.width} {network.activation}, "
            f"about {size} parameters",
        ],
        [
            "points",
            f"{points.interior} interior, {points.boundary} {boundary}, {points.initial} initial "
            f"({points.sampler})",
        ],
    ]


def _parameters(inputs: int, width: int, depth: int, problem: Problem) -> int:
    """Weights and biases of a multilayer perceptron."""
    widths = [inputs, *[width] * depth, len(problem.fields)]
    return sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))


def _size(problem: Problem, solver: SolverOptions) -> int:
    """Parameters of the field, before symmetries and hard conditions take any away."""
    network = solver.network
    inputs = sum(
        2 * network.harmonics if name in problem.periodic else 1 for name in problem.coordinates
    )
    inputs = 2 * network.fourier or inputs
    total = _parameters(inputs, network.width, network.depth, problem)
    return total + (2 * (inputs + 1) * network.width if network.kind == "modified_mlp" else 0)


def _conditions(problem: Problem) -> Iterable[tuple[str, str]]:
    for condition in problem.conditions:
        if condition.kind == "periodic":
            yield condition.name, "all derivatives match"
        else:
            yield condition.name, ", ".join(equation.text for equation in condition.equations)


def _parities(problem: Problem) -> list[str]:
    lines = []
    for coordinate, signs in problem.parities().items():
        words = ", ".join(
            f"{field} {'even' if sign > 0 else 'odd'}" for field, sign in signs.items()
        )
        low, high = problem.bounds[problem.coordinates.index(coordinate)]
        lines.append(f"{coordinate} about {(low + high) / 2:g}: {words}")
    return lines or ["none found"]


def _pretty(equation: Equation) -> str:
    """The residual set equal to zero, in two dimensions; in Unicode where that can be printed."""
    if equation.tree is None:
        return f"{equation.text}: a Python function"
    shown = sympy.Eq(equation.tree, 0, evaluate=False)
    text = sympy.pretty(shown, use_unicode=True, wrap_line=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return sympy.pretty(shown, use_unicode=False, wrap_line=False)
    return text


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
