"""Which backend can solve which problem, and why not; asked before torch is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..problems.problem import Problem

__all__ = ["causal", "deepxde", "gaussians", "lagrangian", "pinn"]

# The truncated Taylor algebra of the engine carries derivatives of this total order.
HIGHEST_ORDER = 4


def pinn(problem: Problem) -> str | None:
    """A network on the whole domain: every equation whose derivatives the engine carries."""
    for equation in problem.equations:
        for field, indices in equation.derivatives.items():
            if (order := max(map(sum, indices), default=0)) > HIGHEST_ORDER:
                return (
                    f"{field} has a derivative of order {order}; the engine carries {HIGHEST_ORDER}"
                )
    return None


def causal(problem: Problem) -> str | None:
    """Time windows: as `pinn`, for a problem with time and initial data."""
    if problem.time is None:
        return "there is no time coordinate t to march along"
    if not any(problem.time_order.values()):
        return "no equation holds a time derivative"
    if problem.time in problem.periodic:
        return "the problem is periodic in time, so there is no first moment"
    return pinn(problem)


def gaussians(problem: Problem) -> str | None:
    """Gaussians are smooth fields like any network."""
    return pinn(problem)


def lagrangian(problem: Problem) -> str | None:
    """Characteristics that carry the problem, stay in the domain and do not cross."""
    from ..problems.characteristics import NotCarried, read_carried
    from ..problems.crossing import breakdown

    try:
        carried = read_carried(problem)
    except NotCarried as reason:
        return str(reason)
    crossing = breakdown(problem, carried)
    if crossing is not None:
        return (
            f"its characteristics cross at {problem.time} = {crossing:.4g}, and from there on a "
            "position has several states; end before, or add diffusion"
        )
    return None


def deepxde(problem: Problem) -> str | None:
    """DeepXDE in another process: what can be told it as text, and measured by the engine here."""
    stated = [*problem.equations, *(e for c in problem.conditions for e in c.equations)]
    for equation in stated:
        if equation.tree is None:
            return (
                f"'{equation.text}' is a Python function that is no expression, and DeepXDE, in a "
                "process of its own, is told the problem as text"
            )
    return pinn(problem)
