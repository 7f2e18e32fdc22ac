"""Neural ordinary, controlled and stochastic differential equations on a native integrator.

What is integrated (`terms`), the rule of a step (`explicit`, `symplectic`, `implicit`, `imex`), its
length (`controllers`) and how gradients are had (`adjoints`) are chosen separately and handed to
`integrate`.

Attributes are loaded on first use: a case file is checked without torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adjoints import (
        Backsolve,
        Checkpointed,
        Direct,
        Interpolated,
        McCallumFoster,
        Reversible,
    )
    from .controllers import PID, Constant
    from .dense import DenseOutput, Hermite, Interpolant, Line
    from .events import Event
    from .explicit import (
        RK4,
        Bosh3,
        Dopri5,
        Dopri8,
        Euler,
        ExplicitRungeKutta,
        Heun,
        Midpoint,
        Tsit5,
    )
    from .fixed_points import Equilibrium, FixedPointOptions, fixed_point, steady_state
    from .flow import Flow
    from .hybrid import integrate_with_jumps
    from .imex import ImplicitExplicit, KenCarp4
    from .implicit import DiagonallyImplicit, ImplicitEuler, Kvaerno3, Kvaerno5
    from .integrate import integrate
    from .newton import Newton
    from .problem import Problem
    from .solution import Crossings, Outcome, Solution, Statistics
    from .steppers import Step, Stepper
    from .symplectic import Leapfrog
    from .terms import ODE, SDE, Separable, SplitODE, Term, parameters_of

__all__ = [
    "Backsolve",
    "Bosh3",
    "Checkpointed",
    "Constant",
    "Crossings",
    "DenseOutput",
    "DiagonallyImplicit",
    "Direct",
    "Dopri5",
    "Dopri8",
    "Equilibrium",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "FixedPointOptions",
    "Flow",
    "Hermite",
    "Heun",
    "ImplicitEuler",
    "ImplicitExplicit",
    "Interpolant",
    "Interpolated",
    "KenCarp4",
    "Kvaerno3",
    "Kvaerno5",
    "Leapfrog",
    "Line",
    "McCallumFoster",
    "Midpoint",
    "Newton",
    "ODE",
    "Outcome",
    "PID",
    "Problem",
    "RK4",
    "Reversible",
    "SDE",
    "Separable",
    "Solution",
    "SplitODE",
    "Statistics",
    "Step",
    "Stepper",
    "Term",
    "Tsit5",
    "fixed_point",
    "integrate",
    "integrate_with_jumps",
    "parameters_of",
    "steady_state",
]

_HOMES = {
    "Backsolve": ".adjoints",
    "Bosh3": ".explicit",
    "Checkpointed": ".adjoints",
    "Constant": ".controllers",
    "Crossings": ".solution",
    "DenseOutput": ".dense",
    "DiagonallyImplicit": ".implicit",
    "Direct": ".adjoints",
    "Dopri5": ".explicit",
    "Dopri8": ".explicit",
    "Equilibrium": ".fixed_points",
    "Euler": ".explicit",
    "Event": ".events",
    "ExplicitRungeKutta": ".explicit",
    "FixedPointOptions": ".fixed_points",
    "Flow": ".flow",
    "Hermite": ".dense",
    "Heun": ".explicit",
    "ImplicitEuler": ".implicit",
    "ImplicitExplicit": ".imex",
    "Interpolant": ".dense",
    "Interpolated": ".adjoints",
    "KenCarp4": ".imex",
    "Kvaerno3": ".implicit",
    "Kvaerno5": ".implicit",
    "Leapfrog": ".symplectic",
    "Line": ".dense",
    "McCallumFoster": ".adjoints",
    "Midpoint": ".explicit",
    "Newton": ".newton",
    "ODE": ".terms",
    "Outcome": ".solution",
    "PID": ".controllers",
    "Problem": ".problem",
    "RK4": ".explicit",
    "Reversible": ".adjoints",
    "SDE": ".terms",
    "Separable": ".terms",
    "Solution": ".solution",
    "SplitODE": ".terms",
    "Statistics": ".solution",
    "Step": ".steppers",
    "Stepper": ".steppers",
    "Term": ".terms",
    "Tsit5": ".explicit",
    "fixed_point": ".fixed_points",
    "integrate": ".integrate",
    "integrate_with_jumps": ".hybrid",
    "parameters_of": ".terms",
    "steady_state": ".fixed_points",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A package in which `integrate` is the function; an import would leave its module there."""

    @property
    def integrate(self) -> Any:
        return __getattr__("integrate")

    @integrate.setter
    def integrate(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
