"""Whether a problem prescribes more than its equations can take.

Counted are the conditions at the ends of a space coordinate, their order, and how often one end is
given the same thing. With several fields what is too much depends on how they are coupled, so only
what holds a single field is judged there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .conditions import Condition
    from .equation import Equation
    from .problem import Problem

__all__ = ["check_overdetermined"]


def check_overdetermined(problem: Problem) -> None:
    """Refuse several equations for one field alone, and conditions that are too many.

    Raises:
        ConfigurationError: names the equation or condition, and what to remove.
    """
    _equations(problem)
    for name in problem.coordinates:
        if name != problem.time and name not in problem.periodic:
            _order(problem, name)
            _repeated(problem, name)
            _count(problem, name)


def _equations(problem: Problem) -> None:
    alone: dict[str, Equation] = {}
    for number, equation in enumerate(problem.equations):
        if len(equation.derivatives) != 1:
            continue
        (field,) = equation.derivatives
        if field in alone:
            raise ConfigurationError(
                f"two equations for '{field}' alone: '{alone[field].text}' and '{equation.text}'",
                path=("equations", number),
                advice="keep one of them, or add the field that the other one determines",
            )
        alone[field] = equation


def _order(problem: Problem, name: str) -> None:
    """No condition may be of the order of the equations, or higher."""
    # A system can be written with one field, whose order is at most the sum of all orders.
    highest = sum(max(e.order(name, f) for e in problem.equations) for f in problem.fields)
    for condition, equation in _conditions(problem, name):
        order, place = equation.order(name), condition.faces[0]
        if highest == 0:
            raise ConfigurationError(
                f"the equations hold no derivative by {name}, so nothing can be prescribed at "
                f"{place}",
                path=_path(condition),
                advice="remove the condition",
            )
        if order >= highest:
            field = next(f for f in equation.derivatives if equation.order(name, f) == order)
            jet = f"{field}_{name * order}"
            raise ConfigurationError(
                f"{jet} at {place} is of order {order} in {name}, and the equations are of order "
                f"{highest}",
                path=_path(condition),
                advice="prescribe a derivative of lower order, or the value",
            )


def _repeated(problem: Problem, name: str) -> None:
    """One end cannot be given two things of the same order, such as u = 0 and u = 1."""
    seen: dict[Any, Equation] = {}
    for condition, equation in _conditions(problem, name):
        if len(equation.derivatives) != 1:
            continue
        (field,) = equation.derivatives
        order, face = equation.order(name), condition.faces[0]
        first = seen.setdefault((face, field, order), equation)
        if first is not equation:
            raise ConfigurationError(
                f"at {face} both '{first.text}' and '{equation.text}' are prescribed",
                path=_path(condition),
                advice="keep one of them",
            )


def _count(problem: Problem, name: str) -> None:
    """With one field there are as many conditions as the order, whatever the ends."""
    if len(problem.fields) > 1:
        return
    found = _conditions(problem, name)
    order = max(e.order(name) for e in problem.equations)
    if len(found) <= order or (order % 2 and len(found) == order + 1 and _either(problem, name)):
        return
    conditions = f"{order} boundary condition{'s' * (order > 1)}"
    raise ConfigurationError(
        f"the equations, of order {order} in {name}, take {conditions} at the ends of {name}, "
        f"found {len(found)}",
        path=_path(found[order][0]),
        advice=f"remove {len(found) - order}, such as '{found[order][1].text}'",
    )


def _either(problem: Problem, name: str) -> bool:
    """Whether waves may enter at both ends: the highest coefficient is not one constant.

    As in u_t + u*u_x = 0, where the sign of u says which end is upstream.
    """
    axis = problem.coordinates.index(name)
    for equation in problem.equations:
        if equation.tree is None:
            return True
        tree = problem.substituted(equation.tree)
        for symbol, (_, index) in problem.namespace.jets(tree).items():
            if index[axis] == equation.order(name):
                coefficient: Any = sympy.diff(tree, symbol)
                if sum(index) > index[axis] or not coefficient.is_number:
                    return True
    return False


def _conditions(problem: Problem, name: str) -> list[tuple[Condition, Equation]]:
    return [
        (condition, equation)
        for condition in problem.conditions
        if condition.kind == "boundary" and condition.faces[0].coordinate == name
        for equation in condition.equations
    ]


def _path(condition: Condition) -> tuple[str | int, ...]:
    return ("conditions",) if condition.place is None else ("conditions", condition.place)
