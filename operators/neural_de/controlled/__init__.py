"""Controlled differential equations: paths through data, log-signatures, log-ODE."""

from __future__ import annotations

from .equation import controlled, solve_controlled
from .log_ode import solve_log_ode
from .logsignature import log_signature, windows
from .paths import Hermite, Linear, Path, Rectilinear

__all__ = [
    "Hermite",
    "Linear",
    "Path",
    "Rectilinear",
    "controlled",
    "log_signature",
    "solve_controlled",
    "solve_log_ode",
    "windows",
]
