"""Whether equations and conditions fit together: each rule has its own message."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import sympy

from ..errors import ConfigurationError
from .finite import check_finite
from .given.ranges import check_ranges
from .overdetermined import check_overdetermined

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["validate"]


def validate(problem: Problem) -> None:
    """Check a problem as a whole.

    Raises:
        ConfigurationError: the first rule that it breaks, with the path of what to change.
    """
    _ = problem.namespace  # checks the names
    _bounds(problem)
    _parameters(problem)
    _equations(problem)
    _finite(problem)
    _initial(problem)
    _boundary(problem)
    check_overdetermined(problem)
    check_ranges(problem)
    check_finite(problem)


def _bounds(problem: Problem) -> None:
    for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True):
        if not (math.isfinite(high - low) and low < high):
            raise ConfigurationError(
                "the interval is empty or not finite",
                path=("coordinates", name),
                found=[low, high],
                advice="write [low, high] with low < high",
            )


def _parameters(problem: Problem) -> None:
    for name, parameter in problem.parameters.items():
        path = ("parameters", name)
        if not math.isfinite(parameter.value):
            raise ConfigurationError(
                "not a finite number", path=path, found=parameter.value, advice="write a number"
            )
        if not parameter.holds(parameter.value):
            raise ConfigurationError(
                f"outside the range of '{name}'",
                path=path,
                found=parameter.value,
                advice=f"write a number from {parameter.low:g} to {parameter.high:g}",
            )


def _equations(problem: Problem) -> None:
    held: set[str] = set()
    for number, equation in enumerate(problem.equations):
        fields = set(equation.derivatives)
        if not fields:
            raise ConfigurationError(
                "the equation holds no field",
                path=("equations", number),
                found=equation.text,
                advice=f"write an equation for {', '.join(problem.fields)}",
            )
        held |= fields
    for name in problem.fields:
        if name not in held:
            raise ConfigurationError(
                f"no equation holds the field '{name}'",
                path=("equations",),
                advice=f"add one, or remove '{name}'",
            )
    have, need = len(problem.equations), len(problem.fields)
    if have < need:
        raise ConfigurationError(
            f"{have} equation{'s' * (have != 1)} for {need} fields ({', '.join(problem.fields)})",
            path=("equations",),
            advice=f"write at least {need}",
        )


def _finite(problem: Problem) -> None:
    """Parameter values can turn a harmless 1/nu into a division by zero."""
    trees = [(("equations", i), e.tree, e.text) for i, e in enumerate(problem.equations)]
    trees += [(("conditions",), e.tree, e.text) for c in problem.conditions for e in c.equations]
    for path, tree, text in trees:
        if tree is None:
            continue
        if problem.substituted(tree).has(
            sympy.zoo, sympy.nan, sympy.oo, sympy.S.NegativeInfinity, sympy.I
        ):
            settings = ", ".join(f"{k} = {v:g}" for k, v in problem.values.items())
            raise ConfigurationError(
                f"with {settings} this is infinite or not real",
                path=path,
                found=text,
                advice="change the parameter",
            )


def _initial(problem: Problem) -> None:
    time = problem.time
    if time is None:
        return
    axis = problem.coordinates.index(time)
    start = f"{time} = {problem.bounds[axis][0]:.12g}"
    targets = [t for c in problem.conditions if c.kind == "initial" for t in c.targets]
    for name, order in problem.time_order.items():
        given = sorted(t.index[axis] for t in targets if t.field == name)
        jets = [problem.namespace.jet(name, _along(problem, axis, k)).name for k in range(order)]
        for k in given:
            if k >= order:
                extra = problem.namespace.jet(name, _along(problem, axis, k)).name
                reason = (
                    f"the equations hold no time derivative of {name}"
                    if not order
                    else f"they are of order {order} in {time}"
                )
                raise ConfigurationError(
                    f"too many initial values for '{name}': {reason}",
                    path=("conditions",),
                    advice=f"remove {extra} at {start}",
                )
        missing = [jet for k, jet in enumerate(jets) if k not in given]
        if missing:
            values = ", ".join(f"{m}: ..." for m in missing)
            plural = "s" * (order > 1)
            raise ConfigurationError(
                f"'{name}' needs {order} initial value{plural} ({', '.join(jets)}), "
                f"found {len(given)}",
                path=("conditions",),
                advice=f"add {{where: {start}, {values}}}",
            )


def _along(problem: Problem, axis: int, order: int) -> tuple[int, ...]:
    return tuple(order if i == axis else 0 for i in range(len(problem.coordinates)))


def _boundary(problem: Problem) -> None:
    for name, ends in zip(problem.coordinates, problem.bounds, strict=True):
        if name == problem.time or name in problem.periodic:
            continue
        order = max(e.order(name) for e in problem.equations)
        _check_ends(problem, name, ends, order)


def _check_ends(problem: Problem, name: str, ends: tuple[float, float], order: int) -> None:
    field = problem.fields[0]
    counts = [0, 0]
    for condition in problem.conditions:
        face = condition.faces[0]
        if condition.kind == "boundary" and face.coordinate == name:
            counts[face.side > 0] += len(condition.equations)
    if order == 1 and not any(counts):
        raise ConfigurationError(
            f"nothing is prescribed at either end of {name}",
            path=("conditions",),
            advice=f"add {{where: {name} = {ends[0]:.12g}, {field}: ...}} or {{periodic: {name}}}",
        )
    for count, end in zip(counts, ends, strict=True):
        if order >= 2 and not count:
            place = f"{name} = {end:.12g}"
            raise ConfigurationError(
                f"nothing is prescribed at {place}, and the equations are of order {order} in "
                f"{name}",
                path=("conditions",),
                advice=f"add {{where: {place}, {field}: ...}} or {{periodic: {name}}}",
            )
    # With several fields the count depends on how they are coupled; with one it is the order.
    if len(problem.fields) == 1 and sum(counts) < order:
        raise ConfigurationError(
            f"order {order} in {name} needs {order} boundary conditions, found {sum(counts)}",
            path=("conditions",),
            advice=f"add values of derivatives, such as {field}_{name}: ...",
        )
