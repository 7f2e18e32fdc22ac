"""Classical reference solutions, each with an error bar.

- exact: a formula, checked against the equations and conditions;
- cole_hopf: viscous Burgers from a sine;
- auto: built from the equation tree. Fourier where the problem is periodic (or can be mirrored),
  exact in time for linear equations and with ETDRK4 otherwise; else Chebyshev collocation with
  Radau IIA in time, or Newton's method when steady; in one or two space coordinates.

Every reference also carries the error of a classical solver against its seconds.
"""

from __future__ import annotations

from .builder import build
from .reference import Reference
from .system import ReferenceUnavailable

__all__ = ["Reference", "ReferenceUnavailable", "build"]
