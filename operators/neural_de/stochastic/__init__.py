"""Stochastic differential equations: Brownian paths, steppers and their loop."""

from __future__ import annotations

from .brownian import Counted, Increments, Plain
from .calculus import converted
from .integrate import integrate_sde
from .interval import BrownianInterval, BrownianTree
from .reversible import ReversibleAdjoint
from .steppers import (
    SRA1,
    SRIW1,
    EulerHeun,
    EulerMaruyama,
    Heun,
    Milstein,
    ReversibleHeun,
    ShARK,
)

__all__ = [
    "SRA1",
    "SRIW1",
    "BrownianInterval",
    "BrownianTree",
    "Counted",
    "EulerHeun",
    "EulerMaruyama",
    "Heun",
    "Increments",
    "Milstein",
    "Plain",
    "ReversibleAdjoint",
    "ReversibleHeun",
    "ShARK",
    "converted",
    "integrate_sde",
]
