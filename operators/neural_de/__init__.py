"""Neural ordinary, controlled and stochastic differential equations on a native integrator.

What is integrated (`terms`), the rule of a step (`explicit`, `symplectic`, `implicit`, `imex`), its
length (`controllers`) and how gradients are had (`adjoints`) are chosen separately and handed to
`integrate`.
"""

from __future__ import annotations

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
    "Reversible",
    "McCallumFoster",
    "Interpolated",
    "Checkpointed",
    "Backsolve",
    "ODE",
    "PID",
    "RK4",
    "SDE",
    "Bosh3",
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
    "KenCarp4",
    "Kvaerno3",
    "Kvaerno5",
    "Leapfrog",
    "Line",
    "Midpoint",
    "Newton",
    "Outcome",
    "Problem",
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
