"""Gaussian fields: their covariance, their walls, and that more modes refine the same draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.operators.datasets.random_fields import Axis, draw, matern

KINDS = ("periodic", "neumann", "dirichlet")


def covariance_of(axis: Axis, law, points: np.ndarray) -> np.ndarray:
    """Of the truncated law, from its definition: sum of s(lambda)^2 phi(x) phi(y)."""
    number = np.arange(axis.modes)
    length = axis.high - axis.low
    x = (points[:, None] - axis.low) / length
    if axis.kind == "periodic":
        k = (number + 1) // 2
        waves = 2 * np.pi * k
        phi = np.where(number % 2 == 1, np.cos(waves * x), np.sin(waves * x))
    elif axis.kind == "neumann":
        waves, k = np.pi * number, number
        phi = np.cos(waves * x)
    else:
        waves, k = np.pi * (number + 1), number + 1
        phi = np.sin(waves * x)
    phi = np.where(k > 0, np.sqrt(2) * phi, 1.0) * np.where((waves / length) ** 2 == 0, 0.0, 1.0)
    return (phi * law((waves / length) ** 2) ** 2) @ phi.T


@pytest.mark.parametrize("kind", KINDS)
def test_covariance(kind, rng):
    axis, law = Axis(kind, -1.0, 1.5, 9), matern(3.0, 2.0, 1.5)
    points = np.linspace(-1.0, 1.5, 7)
    draws = np.stack([draw(rng, [axis], law).on_grid([points]) for _ in range(8_000)])
    found, true = draws.T @ draws / len(draws), covariance_of(axis, law, points)
    size = np.abs(true).max()
    # Eight thousand draws: the deviation of an entry is at most sqrt(2/8000) of the largest.
    assert np.abs(found - true).max() < 5 * np.sqrt(2 / 8_000) * size
    # Wrong twin: another smoothness is seen.
    wrong = covariance_of(axis, matern(3.0, 2.0, 2.0), points)
    assert np.abs(found - wrong).max() > 10 * np.sqrt(2 / 8_000) * size


def test_covariance_in_the_plane(rng):
    axis, law = Axis("neumann", 0.0, 1.0, 5), matern(3.0, 3.0, 2.0)
    points = np.array([0.1, 0.4, 1.0])
    draws = np.stack(
        [draw(rng, [axis, axis], law).on_grid([points, points]).ravel() for _ in range(8_000)]
    )
    true = 0.0
    for k in range(5):
        for m in range(5):
            if k or m:
                one, two = (np.sqrt(2.0 if n else 1.0) * np.cos(np.pi * n * points) for n in (k, m))
                phi = np.outer(one, two).ravel()
                true = true + 9 * (np.pi**2 * (k**2 + m**2) + 9) ** -2.0 * np.outer(phi, phi)
    found = draws.T @ draws / len(draws)
    assert np.abs(found - true).max() < 5 * np.sqrt(2 / 8_000) * np.abs(true).max()


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    few=st.integers(1, 6),
    more=st.integers(0, 5),
    seed=st.integers(0, 2**32),
    plane=st.booleans(),
)
def test_more_modes_begin_with_the_same_numbers(kind, few, more, seed, plane):
    """Sample i of a fine data set is sample i of a coarse one, and finer."""
    made = []
    for modes in (few, few + more):
        axes = [Axis(kind, 0.0, 1.0, modes)] * (1 + plane)
        generator = np.random.default_rng(seed)
        made.append(draw(generator, axes, matern(1.0, 1.0, 1.0)).coefficients)
    assert np.array_equal(made[0], made[1][(slice(few),) * (1 + plane)])


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_and_scattered_points(kind, rng):
    axes = [Axis(kind, 0.0, 2.0, 7), Axis("periodic", -1.0, 1.0, 7)]
    field = draw(rng, axes, matern(1.0, 1.0, 1.0), mean=None)
    x, y, h = rng.uniform(0, 2, 11), rng.uniform(-1, 1, 11), 1e-5
    for orders in ((1, 0), (0, 1), (2, 1)):
        less = (orders[0] - 1, orders[1]) if orders[0] else (orders[0], orders[1] - 1)
        step = (h, 0.0) if orders[0] else (0.0, h)
        there, back = (field.at([x + s * step[0], y + s * step[1]], less) for s in (1, -1))
        assert np.allclose(field.at([x, y], orders), (there - back) / (2 * h), rtol=1e-6, atol=1e-5)
    grid = field.on_grid([x, y])
    assert np.allclose(grid, field.at([x[:, None], y[None, :]], (0, 0)), atol=1e-13)
    assert np.allclose(np.diag(grid), field.at([x, y], (0, 0)), atol=1e-13)


def test_walls(rng):
    """Sines vanish at walls, slopes of cosines do, and a ring closes with all derivatives."""
    ends = np.array([-1.0, 3.0])
    for kind, order in (("dirichlet", 0), ("dirichlet", 2), ("neumann", 1), ("neumann", 3)):
        field = draw(rng, [Axis(kind, -1.0, 3.0, 12)], matern(1.0, 1.0, 1.0))
        assert np.abs(field.at([ends], (order,))).max() < 1e-9
        assert np.abs(field.at([ends], (1 - order % 2,))).max() > 1e-3
    field = draw(rng, [Axis("periodic", -1.0, 3.0, 12)], matern(1.0, 1.0, 1.0))
    for order in range(4):
        one, two = field.at([ends], (order,))
        assert np.isclose(one, two, atol=1e-10)
