"""Viscous Burgers by the Cole-Hopf formula."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from residua.problems.references import ReferenceUnavailable, build
from residua.problems.references.cole_hopf import ColeHopf
from residua.problems.references.methods import RadauCollocation
from residua.problems.references.system import System

sys.path.insert(0, str(Path(__file__).parent))
try:
    from exact_cases import RING, WALLS, burgers, distance, posed, scattered, start, walls
finally:
    sys.path.pop(0)


# -- Cole-Hopf ------------------------------------------------------------------------------------


def test_cole_hopf_against_chebyshev(rng: np.random.Generator) -> None:
    """Quadrature and collocation with Radau IIA know nothing of each other."""
    case = burgers(0.05)
    exact = build(case)
    assert exact.method == "Cole-Hopf quadrature" and exact.error_bar["u"] < 1e-12
    method = RadauCollocation(System(case))
    points = scattered(case, rng)
    assert distance(method.solve(method.space.index(128), 5, np.inf), exact, points) < 1e-8
    assert distance(build(burgers(0.0501)), exact, points) > 1e-4


@pytest.mark.parametrize("nu", [1e-3, "0.01/pi", 1.0, 50.0])
def test_cole_hopf_never_overflows(nu: float | str) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        exact = build(burgers(nu))
        x = np.linspace(-1, 1, 41)
        for t in (0.0, 1e-300, 1e-12, 1e-3, 1.0):
            u = exact(np.stack([x, np.full(41, t)], axis=1))[:, 0]
            assert np.all(np.isfinite(u)) and np.abs(u).max() <= 1 + 1e-12
            if t < 1e-10:
                np.testing.assert_allclose(u, -np.sin(np.pi * x), atol=1e-9)


def test_cole_hopf_satisfies_the_equation() -> None:
    """u_t + u u_x - nu u_xx by sixth-order differences."""
    exact = ColeHopf(burgers(0.1))
    h, offsets = 2e-3, np.arange(-3, 4)
    first = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
    second = np.array([2, -27, 270, -490, 270, -27, 2]) / 180
    for x, t in ((0.3, 0.4), (-0.1, 0.7), (0.8, 0.2)):
        along_x = exact(np.stack([x + h * offsets, np.full(7, t)], axis=1))[:, 0]
        along_t = exact(np.stack([np.full(7, x), t + h * offsets], axis=1))[:, 0]
        u, u_t, u_x = along_x[3], first @ along_t / h, first @ along_x / h
        u_xx = second @ along_x / h**2
        assert abs(u_t + u * u_x - 0.1 * u_xx) < 1e-8
        assert abs(u_t - u * u_x - 0.1 * u_xx) > 1e-2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"equation": "u_t + 2*u*u_x = nu*u_xx"}, "needs the equation"),
        ({"equation": "u_t + u*u_x = nu*u_xx + u"}, "needs the equation"),
        ({"equation": "u_t + u*u_x = -nu*u_xx"}, "positive viscosity"),
        ({"conditions": [start(u="-sin(pi*x)"), walls(u_x=0)]}, "u = 0 at both"),
        ({"conditions": [start(u="x*(1 - x^2)"), WALLS]}, "initial data"),
    ],
)
def test_cole_hopf_refuses(changes: dict, why: str) -> None:
    with pytest.raises(ReferenceUnavailable, match=why):
        build(burgers(0.1, **changes))


def test_cole_hopf_is_not_fooled_by_aliases() -> None:
    """sin(255 pi x) is -sin(pi x) on 129 equispaced points, and not the same problem."""
    alias = posed(
        "u_t + u*u_x = 0.05*u_xx", [start(u="sin(255*pi*x)"), WALLS], x=[0, 1], t=[0, 0.2],
        reference="cole_hopf",
    )  # fmt: skip
    with pytest.raises(ReferenceUnavailable, match="initial data"):
        build(alias)


def test_cole_hopf_reads_scaled_and_periodic_forms() -> None:
    """The same equation times 2, and the sine that closes on the ring: one solution."""
    points = np.stack([np.linspace(-1, 1, 21), np.linspace(0, 1, 21)], axis=1)
    plain = build(burgers(0.1))
    scaled = build(burgers(0.1, equation="2*u_t + 2*u*u_x - 2*nu*u_xx = 0"))
    ring = build(burgers(0.1, conditions=[start(u="-sin(pi*x)"), RING]))
    for other in (scaled, ring):
        np.testing.assert_allclose(other(points), plain(points), atol=1e-13)
