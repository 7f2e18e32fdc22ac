"""From a problem's `reference:` entry to a Reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference_settings import read
from .automatic import Automatic, applicable
from .cole_hopf import ColeHopf
from .comparison import CommonSet
from .exact import ERROR_BAR, Exact
from .reference import Reference
from .system import ReferenceUnavailable, System

__all__ = ["build"]

Array = NDArray[np.float64]

# An exact solution this far from the computed one, relative, is the solution of something else.
_DIFFERENT = 1e-2
_TRIVIAL = 1e-10
# For what the quadrature of the distance misses.
_SAMPLED = 1.1


def build(problem: Any, **settings: Any) -> Reference:
    """The reference a problem asks for.

    Args:
        problem: the problem.
        settings: take the place of those in its `reference:` entry. `method`: auto, exact,
            cole_hopf or none. For
            auto: `target` (error bar to reach, 1e-9), `seconds` (to spend, 20), `resolution` (fixed
                nodes per
            coordinate). For exact: `exact`, a formula by field.

    Raises:
        ReferenceUnavailable: no reference can be built; the message says why.
        ConfigurationError: an unknown method or setting, or a value out of range.
    """
    spec: dict[str, Any] = dict(problem.reference_spec)
    if settings.get("method", spec.get("method")) != spec.get("method"):
        spec = {}
    spec = {"method": "auto", **spec, **settings}
    chosen = read({name: _number(value) for name, value in spec.items()})
    method = spec["method"]
    if method == "none":
        raise ReferenceUnavailable(
            "the problem says 'reference: none'; set 'reference: auto' to have one computed"
        )
    if method == "exact":
        return _exact(problem, chosen.exact)
    if method == "cole_hopf":
        return _cole_hopf(problem)
    return _automatic(problem, **vars(chosen))


def _number(value: Any) -> Any:
    """A number from a text like 1e-9, which readers of YAML 1.1 hand over as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _automatic(problem: Any, **settings: Any) -> Reference:
    system = System(problem)
    found = Automatic(system, **settings)
    bars = {name: float(bar) for name, bar in zip(problem.fields, found.bars, strict=True)}
    return Reference(
        method=found.method.name,
        error_bar=bars,
        description=f"{found.method.name}, {found.method.describe(*found.level)}; bar: 3 times the "
        "change from the next coarser space and the next coarser time resolution, relative L2 over "
        "a dense set",
        evaluate=found.solution,
        price=found.costs,
        classical=found.names,
        note=_branch(system, found.best.values),
    )


def _branch(system: System, values: Array) -> str:
    """What to say of a solution beside which others may exist."""
    if system.time is not None or system.linear:
        return ""
    note = (
        "the steady equation is not linear, so this is one of possibly several solutions: the "
        "branch that Newton's method reaches from u = 0"
    )
    if np.abs(values).max() < _TRIVIAL:
        note = f"warning: the reference is u = 0, the trivial solution; {note}"
    return note


def _exact(problem: Any, formulas: Mapping[str, Any]) -> Reference:
    exact = Exact.of(problem, formulas)
    bars, how = dict.fromkeys(problem.fields, ERROR_BAR), "rounding"
    if exact.residual:
        bars, how = _judged(problem, exact)
    return Reference(
        method="exact",
        error_bar=bars,
        description=f"exact solution, checked against equations and conditions; bar: {how}",
        evaluate=exact,
        price=_price(problem, exact),
        classical=_classical(problem),
    )


def _judged(problem: Any, exact: Exact) -> tuple[dict[str, float], str]:
    """The bar of formulas that do not satisfy the equations to rounding.

    A residual is not an error: growth and resonance amplify it. The error is at most the distance
    from the automatic reference and that one's own bar.
    """
    left = f"the exact solution given leaves a relative residual of {exact.residual:.1e}"
    advice = "write its constants with more digits or set 'reference: auto'"
    try:
        system = System(problem)
        found = Automatic(system, seconds=10.0)
    except ReferenceUnavailable as error:
        raise ReferenceUnavailable(
            f"{left}, and nothing tells how far it is from the solution ({error}); {advice}"
        ) from None
    common = found.best.common
    apart = common.relative_l2(common.sample(exact, system), found.best.values)
    apart = _SAMPLED * apart + found.bars
    if not apart.max() <= _DIFFERENT:
        raise ReferenceUnavailable(
            f"{left} and differs by {apart.max():.1e} in relative L2 from the solution that "
            f"{found.method.name} finds; {advice}"
        )
    bars = {name: float(bar) for name, bar in zip(problem.fields, apart, strict=True)}
    return bars, (
        f"distance from {found.method.name} and that one's bar, because a relative residual of "
        f"{exact.residual:.1e} is left"
    )


def _cole_hopf(problem: Any) -> Reference:
    exact = ColeHopf(problem)
    return Reference(
        method="Cole-Hopf quadrature",
        error_bar={problem.fields[0]: exact.error_bar},
        description=f"Cole-Hopf formula, trapezoidal rule of {exact.nodes} nodes; bar: twice the "
        "change from half as many, and rounding",
        evaluate=exact,
        price=_price(problem, exact),
        classical=_classical(problem),
    )


def _price(
    problem: Any, exact: Callable[[Array], Array]
) -> Callable[[], list[tuple[float, float]]]:
    """The classical solver measured against a formula: its refinement, and cheaper runs."""

    def rows() -> list[tuple[float, float]]:
        try:
            system = System(problem)
            values = CommonSet.of(system).sample(exact, system)
            found = Automatic(system, seconds=10.0)
        except ReferenceUnavailable:
            return []
        return found.costs(values, seconds=5.0)

    return rows


def _classical(problem: Any) -> str:
    """Name of the solver that the cost curve will use, without running it."""
    try:
        methods, _ = applicable(System(problem))
    except ReferenceUnavailable:
        return "none"
    return methods[0].name if methods else "none"
