"""The relative L2 error against integrals known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from residua.problems.problem import Problem
from residua.solvers.accuracy import Comparison, compare, quadrature, tensor_points

PLANE = {
    "coordinates": {"x": [0, 1], "y": [0, 2]},
    "fields": ["u"],
    "equations": ["lap(u) = 0"],
    "conditions": [{"where": "boundary", "u": 0}],
}
RING = {
    "coordinates": {"x": [0, 1], "t": [0, 1]},
    "fields": ["u"],
    "equations": ["u_t + u_x = 0"],
    "conditions": [{"where": "t = 0", "u": "sin(2*pi*x)"}, {"periodic": "x"}],
}


@pytest.fixture
def plane() -> Problem:
    return Problem.from_mapping(PLANE, name="plane")


def peaked(points: np.ndarray) -> np.ndarray:
    """exp(3 x) y: its square integrates to (e^6 - 1)/6 * 8/3 over the plane."""
    return (np.exp(3 * points[:, 0]) * points[:, 1])[:, None]


def test_error_equals_the_quotient_of_two_integrals(plane: Problem) -> None:
    """u* = exp(3x) y and u - u* = x: the square of the error is (2/3) / ((e^6 - 1)/6 * 8/3)."""
    exact = np.sqrt((2 / 3) / ((np.e**6 - 1) / 6 * 8 / 3))
    found = compare(plane, lambda p: peaked(p) + p[:, :1], peaked, {"u": 1e-9})
    assert abs(found.relative_l2["u"] / exact - 1) < 1e-13
    assert 0.99 < found.maximum["u"] < 1.0

    # The wrong twin: an unweighted mean over nodes that cluster at the ends of their panels.
    x, _ = quadrature(0, 1, 8, periodic=False)
    y, _ = quadrature(0, 2, 8, periodic=False)
    points = tensor_points([x, y])
    unweighted = np.sqrt((points[:, 0] ** 2).sum() / (peaked(points) ** 2).sum())
    assert abs(unweighted / exact - 1) > 1e-2


def test_nonperiodic_rule_converges_at_order_sixteen() -> None:
    """Eight Gauss nodes a panel: the error falls by 2^16 when the panels are halved."""

    def error(n: int) -> float:
        nodes, weights = quadrature(0, 3, n, periodic=False)
        return abs(weights @ np.cos(9 * nodes) - np.sin(27) / 9)

    order = np.log2(error(16) / error(32))
    assert 14.5 < order < 18
    nodes, weights = np.linspace(0, 3, 32), np.full(32, 3 / 31)
    weights[[0, -1]] /= 2
    trapezoidal = abs(weights @ np.cos(9 * nodes) - np.sin(27) / 9)
    assert trapezoidal > 1e6 * error(32)


def test_periodic_rule_is_exact_below_its_frequency() -> None:
    nodes, weights = quadrature(-1, 1, 20, periodic=True)
    assert nodes[-1] < 1 and np.isclose(weights.sum(), 2)
    for k in range(1, 20):
        assert abs(weights @ np.cos(np.pi * k * nodes + 0.3)) < 1e-13
    # The frequency of the grid itself is taken for a constant.
    assert abs(weights @ np.cos(np.pi * 20 * nodes)) > 1.9


def test_shift_of_a_wave_along_a_periodic_axis() -> None:
    """|sin(x + s) - sin(x)| / |sin(x)| = 2 sin(s / 2) in the L2 norm, at any number of nodes."""
    ring = Problem.from_mapping(RING, name="ring")
    shift = 1e-3

    def wave(points: np.ndarray, by: float = 0.0) -> np.ndarray:
        return np.sin(2 * np.pi * (points[:, :1] - points[:, 1:]) + by)

    found = compare(ring, lambda p: wave(p, shift), wave, {}, n=16)
    assert abs(found.relative_l2["u"] / (2 * np.sin(shift / 2)) - 1) < 1e-12
    assert found.error_bar == {"u": 0.0}
    assert found.nodes == 16 * 16


def test_a_vanishing_reference_gives_the_root_mean_square(plane: Problem) -> None:
    found = compare(plane, lambda p: p[:, :1], lambda p: 0 * p[:, :1], {}, n=8)
    assert abs(found.relative_l2["u"] - np.sqrt(1 / 3)) < 1e-14
    assert found.absolute == ("u",)
    assert compare(plane, lambda p: p[:, :1], lambda p: p[:, :1], {}, n=8).absolute == ()


def test_a_field_that_is_zero_up_to_rounding_is_measured_by_the_largest() -> None:
    """As the reference's bar measures it: not 2e6 for an error of 1e-9."""
    pair = Problem.from_mapping(
        {**PLANE, "fields": ["u", "v"], "equations": ["lap(u) = 0", "lap(v) = 0"],
         "conditions": [{"where": "boundary", "u": 0, "v": 0}]}
    )  # fmt: skip

    def both(p: np.ndarray, v: float) -> np.ndarray:
        return np.hstack([peaked(p), v * p[:, :1]])

    found = compare(pair, lambda p: both(p, 1e-9), lambda p: both(p, 1e-16), {})
    exact = 1e-9 * np.sqrt((2 / 3) / ((np.e**6 - 1) / 6 * 8 / 3))
    assert abs(found.relative_l2["v"] / exact - 1) < 1e-6 and found.absolute == ()
    # A small field that is no rounding is measured by itself.
    found = compare(pair, lambda p: both(p, 3e-6), lambda p: both(p, 1e-6), {})
    assert abs(found.relative_l2["v"] / 2 - 1) < 1e-9


@pytest.mark.parametrize("place", [0.0, 0.013, 0.02, 0.031, -0.27])
def test_a_bump_of_error_in_a_layer_is_not_missed(place: float) -> None:
    """The layer tanh(x/0.0032) and an error as wide as it: integrals of Gaussians, to 10 per cent.

    On 256 even nodes a seventh of it was seen.
    """
    ring = Problem.from_mapping(
        {**RING, "coordinates": {"x": [-1, 1], "t": [0, 1]},
         "conditions": [{"where": "t = 0", "u": "x"}, {"where": "x = -1", "u": 0}]}
    )  # fmt: skip
    width, size = 0.0032, 1e-3

    def layer(p: np.ndarray) -> np.ndarray:
        return np.tanh(p[:, :1] / width)

    def off(p: np.ndarray) -> np.ndarray:
        return layer(p) + size * np.exp(-(((p[:, :1] - place) / width) ** 2))

    exact = np.sqrt(size**2 * width * np.sqrt(np.pi / 2) / (2 - 2 * width))
    found = compare(ring, off, layer, {})
    if found.settled:
        assert abs(found.relative_l2["u"] / exact - 1) < 0.1
    assert found.settled or abs(place) > 0.1  # far from the layer nothing points to it
    assert found.relative_l2["u"] > 0.3 * exact


def test_errors_at_the_first_instant_and_at_the_seam_are_seen() -> None:
    """A corner of the data at the seam, gone after 1e-4: a uniform rule of 256 nodes is 30% off."""
    ring = Problem.from_mapping(RING)

    def wave(p: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * (p[:, :1] - p[:, 1:]))

    def off(p: np.ndarray) -> np.ndarray:
        near = np.minimum(p[:, :1], 1 - p[:, :1])
        return wave(p) + np.exp(-near / 1e-3 - p[:, 1:] / 1e-4)

    exact = np.sqrt(1e-3 * 0.5e-4 / 0.5)
    assert abs(compare(ring, off, wave, {}).relative_l2["u"] / exact - 1) < 0.02
    assert abs(compare(ring, off, wave, {}, n=256).relative_l2["u"] / exact - 1) > 0.2


def test_an_error_that_no_rule_settles_is_called_so(plane: Problem) -> None:
    found = compare(plane, lambda p: peaked(p) + 1 / np.abs(p[:, :1] - 0.3123), peaked, {})
    assert not found.settled
    assert compare(plane, lambda p: peaked(p) + p[:, :1], peaked, {}).settled


def test_reference_limited_means_below_three_error_bars() -> None:
    errors, bars = {"u": 2.9e-6, "v": 3.1e-6, "w": 0.0}, {"u": 1e-6, "v": 1e-6, "w": 0.0}
    limited = Comparison(errors, {}, bars, 1).reference_limited
    assert limited == {"u": True, "v": False, "w": False}


def test_values_that_are_not_finite_give_an_error_that_is_not_finite(plane: Problem) -> None:
    def broken(points: np.ndarray) -> np.ndarray:
        return np.where(points[:, :1] > 0.5, np.nan, 1.0)

    assert not np.isfinite(compare(plane, broken, peaked, {}, n=8).relative_l2["u"])


def test_shapes_that_do_not_fit_are_refused(plane: Problem) -> None:
    with pytest.raises(ValueError, match="reference gave values of shape"):
        compare(plane, peaked, lambda p: p[:, 0], {}, n=8)
    with pytest.raises(ValueError, match="at least 1"):
        quadrature(0, 1, 0, periodic=True)
