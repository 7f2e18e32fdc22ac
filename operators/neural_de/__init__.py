"""Neural ordinary, controlled and stochastic differential equations on a native integrator.

What is integrated (`terms`), the rule of a step (`explicit`, `symplectic`), its length
(`controllers`) and how gradients are had (`adjoints`) are chosen separately and handed to
`integrate`.
"""

from __future__ import annotations

from .adjoints.direct import Direct
from .controllers import PID, Constant
from .dense import DenseOutput, Hermite, Interpolant, Line
from .events import Event
from .explicit import (
    RK4,
    Bosh3,
    Dopri5,
    Euler,
    ExplicitRungeKutta,
    Heun,
    Midpoint,
    Tsit5,
)
from .integrate import integrate
from .problem import Problem
from .solution import Outcome, Solution, Statistics
from .steppers import Step, Stepper
from .terms import ODE, SDE, Separable, SplitODE, Term, parameters_of

__all__ = [
    "ODE",
    "PID",
    "RK4",
    "SDE",
    "Bosh3",
    "Constant",
    "DenseOutput",
    "Direct",
    "Dopri5",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "Hermite",
    "Heun",
    "Interpolant",
    "Line",
    "Midpoint",
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
    "integrate",
    "parameters_of",
]
