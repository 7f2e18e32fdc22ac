"""Waves in a medium of random speed: a map from the speed c to the field u.

    Laplacian(u) + (omega/c)^2 u = 0 on the unit square,
    u_n = 1 for 0.35 <= x <= 0.65 on the side y = 1 and 0 elsewhere on the boundary,
    c = 20 + tanh(g),

after de Hoop, Huang, Qian and Stuart, "The cost-accuracy trade-off in operator learning with neural
networks" (2022), as other works state it; it has not been compared with their files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from ...typed import option
from .layout import Description, Field, Sample
from .random_fields import Axis, draw, matern

__all__ = ["Helmholtz", "solve"]

Array = NDArray[np.float64]

_SOURCE = 0.35, 0.65


def solve(wave: Array, flux: Array, source: Array | float = 0.0) -> Array:
    """Laplacian(u) + k^2 u = f with u_n given, by a nine-point scheme of fourth order.

    Phases run away from a scheme of second order long before it looks inaccurate. With T the second
    difference along an axis, mirrored at the walls, and q = k^2 the scheme of Numerov in the plane
    is (T_x + T_y + T_x T_y/6) u + h^2 (1 + (T_x + T_y)/12) (q u - f) = 0. Beyond the wall x = 0,
    u(-h) = u(h) + 2 h g - h^3/3 (q g + g_yy) with g = u_n, by the equation differentiated; k and f
    are taken to have no slope there, and g none along the wall at its ends.

    Args:
        wave: k at the nodes of the unit square, shape (s, s).
        flux: u_n at nodes of the four sides x = 0, x = 1, y = 0, y = 1, shape (4, s).
        source: f at the nodes, or one number.

    Returns:
        u, shape (s, s).
    """
    s, q = len(wave), wave**2
    h = 1.0 / (s - 1)
    ones = np.ones(s - 1)
    upper, lower = np.r_[2.0, ones[1:]], np.r_[ones[1:], 2.0]
    diagonals: Any = [-1, 0, 1]
    second = scipy.sparse.diags([lower, np.full(s, -2.0), upper], diagonals, format="csr")
    identity = scipy.sparse.identity(s, format="csr")
    across, along = scipy.sparse.kron(second, identity), scipy.sparse.kron(identity, second)
    averaged = h**2 * (scipy.sparse.identity(s * s) + (across + along) / 12)
    matrix = across + along + scipy.sparse.kron(second, second) / 6
    matrix = matrix + averaged @ scipy.sparse.diags(q.ravel())
    load = averaged @ np.broadcast_to(np.asarray(source, dtype=float), (s, s)).ravel()
    load = load.reshape(s, s)
    for side, g in enumerate(flux):
        edge = (0, -1)[side % 2]
        wall = (edge, slice(None)) if side < 2 else (slice(None), edge)
        beyond = 2 * h * g - h**3 / 3 * q[wall] * g - h / 3 * (second @ g)
        load[wall] -= beyond + second @ beyond / 6 + h**3 / 6 * q[wall] * g
    factor = scipy.sparse.linalg.splu(matrix.tocsc())
    return factor.solve(load.ravel()).reshape(s, s)


@dataclass(frozen=True)
class Helmholtz:
    """Neumann data on one side, a speed that varies by a few per cent."""

    omega: float = option(1000.0, "angular frequency", above=0)
    alpha: float = option(2.0, "smoothness of g", above=1)
    tau: float = option(3.0, "inverse length of g", low=0)
    refine: int = option(4, "cells of the grid that is solved on in one stored", low=2, high=16)

    def describe(self, name: str, resolution: int) -> Description:
        """See `families.Family`."""
        nodes = np.linspace(0.0, 1.0, resolution)
        fine, coarse = (k * (resolution - 1) + 1 for k in (self.refine, self.refine // 2))
        low, high = _SOURCE
        return Description(
            family=name,
            equation="lap(u) + (omega/c)^2*u = 0 on the unit square; u_n = 1 where "
            f"{low:g} <= x <= {high:g} at y = 1, u_n = 0 elsewhere on the boundary",
            law=f"c = 20 + tanh(g), g of N(0, {self.tau ** (2 * self.alpha - 2):g}*(-Laplacian + "
            f"{self.tau**2:g})^-{self.alpha:g}), Neumann conditions, mean zero, {fine} modes per "
            "axis",
            error_bar=f"relative L2 over stored nodes: the change of u from a grid of {coarse} "
            f"nodes per side to the {fine} it was solved on",
            grid={"x": nodes, "y": nodes},
            boundary={"x": "neumann", "y": "neumann"},
            fields=(Field("c", "input"), Field("u", "output")),
            constants={"omega": self.omega},
        )

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """See `families.Family`."""
        fine = self.refine * (resolution - 1) + 1
        axis = Axis("neumann", 0.0, 1.0, fine)
        deviation = matern(self.tau ** (self.alpha - 1), self.tau, self.alpha)
        field = draw(generator, [axis, axis], deviation)
        found, speed = [], np.empty(0)
        for cells in (self.refine // 2, self.refine):
            nodes = np.linspace(0.0, 1.0, cells * (resolution - 1) + 1)
            c = 20.0 + np.tanh(field.on_grid([nodes, nodes]))
            flux = np.zeros((4, len(nodes)))
            flux[3] = _covered(nodes, *_SOURCE)
            found.append(solve(self.omega / c, flux)[::cells, ::cells])
            speed = c[::cells, ::cells]
        bar = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[1])
        return Sample({"c": speed, "u": found[1]}, {"error_bar": float(bar)})


def _covered(nodes: Array, low: float, high: float) -> Array:
    """The part of each node's cell that lies in an interval: jumps between nodes count in part."""
    middle = 0.5 * (nodes[1:] + nodes[:-1])
    edges = np.r_[nodes[0], middle, nodes[-1]]
    inside = np.clip(edges, low, high)
    return np.diff(inside) / np.diff(edges)
