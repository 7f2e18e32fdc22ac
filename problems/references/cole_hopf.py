"""Viscous Burgers from a sine by the Cole-Hopf transform.

For u_t + u u_x = nu u_xx with u(x, 0) = a sin(q (x - x_0)),

    u(x, t) = int u_0(y) F(y) G dy / int F(y) G dy,     F(y) = exp(-1/(2 nu) int^y u_0),

G the heat kernel of variance 2 nu t (Cole, Q. Appl. Math. 9, 1951; Basdevant et al., Comput. Fluids
14, 1986). With y = x - s sqrt(4 nu t) both integrands are entire and decay like exp(-s^2), so the
trapezoidal rule converges exponentially. Exponents are shifted by their largest value at each
point: nothing overflows for small nu, and t = 0 needs no special case.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from ..evaluation import NUMPY, evaluate
from .system import ReferenceUnavailable, System, partial

__all__ = ["ColeHopf"]

Array = NDArray[np.float64]

_LARGEST_ORDER = 16384
_BLOCK = 2_000_000


class ColeHopf:
    """The solution at points, by quadrature.

    Args:
        problem: a Burgers problem from a sine that vanishes at both ends (or is periodic there).

    Attributes:
        nodes: number of quadrature nodes; twice as many change the solution by `change` in relative
            L2.

    Raises:
        ReferenceUnavailable: the equation, the conditions or the initial data are of another form.
    """

    def __init__(self, problem: Any) -> None:
        system = System(problem)
        self._read_equation(system)
        self._read_conditions(system)
        self._read_initial(system)
        self.start = system.span[0]
        self._columns = (
            system.coordinates.index(system.space[0]),
            system.coordinates.index(str(system.time)),
        )
        # |exponent of F| <= 2 |a / (2 nu q)|; beyond s^2 = that + 40 the integrand is below
        # rounding of its maximum.
        self._reach = float(
            np.sqrt(2 * abs(self.amplitude / (2 * self.viscosity * self.wave)) + 40.0)
        )
        low, high = system.bounds[system.space[0]]
        sample = np.stack(
            [
                v.ravel()
                for v in np.meshgrid(
                    np.linspace(low, high, 257)[:-1], np.linspace(*system.span, 33)
                )
            ],
            axis=1,
        )
        self.nodes, self.change = 64, np.inf
        coarse = self._quadrature(sample[:, 0], sample[:, 1], self.nodes)
        while self.change > 1e-13:
            if self.nodes >= _LARGEST_ORDER:
                if self.change > 1e-6:
                    raise ReferenceUnavailable(
                        "the Cole-Hopf quadrature does not converge at viscosity "
                        f"{self.viscosity:.3g}; raise it or "
                        "set 'reference: auto'"
                    )
                break
            fine = self._quadrature(sample[:, 0], sample[:, 1], 2 * self.nodes)
            self.change = float(np.linalg.norm(fine - coarse) / max(np.linalg.norm(fine), 1e-300))
            self.nodes, coarse = 2 * self.nodes, fine

    @property
    def error_bar(self) -> float:
        """Twice the change between the two orders, and the rounding of exponents up to reach^2."""
        return 2.0 * self.change + 4 * float(np.finfo(float).eps) * self._reach**2

    def __call__(self, points: Array) -> Array:
        """Values (n, 1) at points (n, 2)."""
        x, t = points[:, self._columns[0]], points[:, self._columns[1]]
        return self._quadrature(x, t, self.nodes)[:, None]

    def _quadrature(self, x: Array, t: Array, nodes: int) -> Array:
        s = self._reach * (2 * np.arange(nodes) + 1 - nodes) / nodes
        result = np.empty(len(x))
        for first in range(0, len(x), max(1, _BLOCK // nodes)):
            part = slice(first, first + max(1, _BLOCK // nodes))
            width = np.sqrt(4 * self.viscosity * np.maximum(t[part] - self.start, 0.0))
            phase = self.wave * (x[part, None] - width[:, None] * s - self.origin)
            exponent = self.amplitude / (2 * self.viscosity * self.wave) * np.cos(phase) - s**2
            weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
            total = (weight * self.amplitude * np.sin(phase)).sum(axis=1)
            result[part] = total / weight.sum(axis=1)
        return result

    # -- does the formula apply?
    # ------------------------------------------------------------------------------

    def _read_equation(self, system: System) -> None:
        form = (
            "the Cole-Hopf formula needs the equation u_t + u*u_x = nu*u_xx in one space coordinate"
        )
        if (
            len(system.space) != 1
            or system.time is None
            or len(system.fields) != 1
            or system.orders != (1,)
        ):
            raise ReferenceUnavailable(f"{form}; set 'reference: auto'")
        tree = sympy.expand(system.equations[0])
        names = {(j.time, j.space[0]): symbol for symbol, j in system.jets(tree).items()}
        try:
            u, u_t, u_x, u_xx = names[0, 0], names[1, 0], names[0, 1], names[0, 2]
        except KeyError:
            raise ReferenceUnavailable(f"{form}; set 'reference: auto'") from None
        scale, viscosity = partial(tree, u_t), -partial(tree, u_xx)
        rest = sympy.expand(tree - scale * (u_t + u * u_x) + viscosity * u_xx)
        coefficients = (
            [float(c) for c in rest.as_coefficients_dict().values()]
            if scale.is_number
            else [np.inf]
        )
        if (
            not viscosity.is_number
            or scale == 0
            or max(map(abs, coefficients), default=0.0) > 1e-14
        ):
            raise ReferenceUnavailable(f"{form}; set 'reference: auto'")
        self.viscosity = float(viscosity / scale)
        if not self.viscosity > 0:
            raise ReferenceUnavailable(
                f"the Cole-Hopf formula needs a positive viscosity, found {self.viscosity:.3g}; "
                "set 'reference: none'"
            )

    def _read_conditions(self, system: System) -> None:
        walls = system.boundary
        closed = len(walls) == 2 and all(
            sympy.expand(row.tree / partial(row.tree, s) - s) == 0
            and system.jets(row.tree)[s].space == (0,)
            for row in walls
            for s in list(system.jets(row.tree))[:1]
        )
        if not closed and not system.periodic:
            raise ReferenceUnavailable(
                "the Cole-Hopf formula needs u = 0 at both ends, or periodic ends; set 'reference: "
                "auto'"
            )

    def _read_initial(self, system: System) -> None:
        low, high = system.bounds[system.space[0]]
        # At random points: from equispaced ones a short wave looks like a long one.
        x = low + (high - low) * np.random.default_rng(7).random(256)
        values = {system.space[0]: x, str(system.time): system.span[0]}
        data = np.broadcast_to(evaluate(system.initial[0][0], values, NUMPY), x.shape)
        half = range(2, 33, 2) if system.periodic else range(1, 33)
        for k in half:
            sine = np.sin(k * np.pi * (x - low) / (high - low))
            amplitude = float(data @ sine / (sine @ sine))
            if amplitude and np.abs(data - amplitude * sine).max() < 1e-12 * abs(amplitude):
                self.amplitude, self.wave, self.origin = amplitude, k * np.pi / (high - low), low
                return
        raise ReferenceUnavailable(
            "the Cole-Hopf formula is written for initial data a*sin(k*pi*(x - x0)/L) that vanish "
            "at both ends; "
            "set 'reference: auto'"
        )
