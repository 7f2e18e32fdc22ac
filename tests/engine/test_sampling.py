"""Collocation points: low discrepancy, stratification, adaptive densities, reproducibility."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

from residua.engine import sampling
from residua.errors import ConfigurationError, DivergedError

BOUNDS = ((-1.0, 1.0), (0.0, 3.0), (2.0, 2.5))
NAMES = ("x", "y", "t")


@dataclass(frozen=True)
class Face:
    """Stands for `problems.conditions.Face`, of which only the three fields are used."""

    coordinate: str
    value: float
    side: int


@pytest.mark.parametrize("method", sampling.METHODS)
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (64, 2), (125, 3), (2000, 1), (0, 2), (5, 0)])
def test_points_fill_the_unit_cube(method: str, n: int, dim: int) -> None:
    points = sampling.unit_points(n, dim, method, (7, 0))
    assert points.dtype == np.float64
    assert points.shape[1] == dim
    assert len(points) == n or method == "grid" and n <= len(points)
    assert ((points >= 0) & (points < 1)).all()


def test_low_discrepancy_beats_uniform() -> None:
    """The mean centred discrepancy over ten seeds; 300 is no power of two."""

    def discrepancy(method: str) -> float:
        draws = [sampling.unit_points(300, 2, method, (seed,)) for seed in range(10)]
        return float(np.mean([qmc.discrepancy(draw) for draw in draws]))

    uniform = discrepancy("uniform")
    assert discrepancy("sobol") < 0.05 * uniform
    assert discrepancy("halton") < 0.1 * uniform
    assert discrepancy("latin_hypercube") < 0.5 * uniform


def test_sobol_integrates_faster_than_the_square_root_of_n() -> None:
    """Root-mean-square error of a smooth mean: scrambled nets near n^-1.5, uniform n^-0.5."""

    def order(method: str) -> float:
        errors = []
        for n in (64, 1024):
            points = [sampling.unit_points(n, 2, method, (seed, n)) for seed in range(30)]
            means = [np.exp(p.sum(axis=1)).mean() - (np.e - 1) ** 2 for p in points]
            errors.append(np.sqrt(np.mean(np.square(means))))
        return float(-np.log(errors[1] / errors[0]) / np.log(16))

    assert order("sobol") > 1.2
    assert 0.3 < order("uniform") < 0.7


def strata(points: np.ndarray) -> bool:
    n = len(points)
    return all(np.array_equal(np.sort((n * x).astype(int)), np.arange(n)) for x in points.T)


def test_latin_hypercube_has_one_point_in_each_stratum() -> None:
    assert strata(sampling.unit_points(37, 4, "latin_hypercube", (3,)))
    assert not strata(sampling.unit_points(37, 4, "uniform", (3,)))


def test_a_power_of_two_of_sobol_points_is_a_net() -> None:
    """256 points in 2-D: one in each of the elementary boxes 2^-a by 2^-(8-a), for every a."""
    points = sampling.unit_points(256, 2, "sobol", (1,))
    for a in range(9):
        boxes = (points * (2**a, 2 ** (8 - a))).astype(int)
        assert len(np.unique(boxes, axis=0)) == 256


def test_fewer_sobol_points_are_the_beginning_of_more() -> None:
    more = sampling.unit_points(128, 3, "sobol", (1,))
    assert np.array_equal(sampling.unit_points(100, 3, "sobol", (1,)), more[:100])


@pytest.mark.parametrize(("n", "dim", "count"), [(2000, 2, 2025), (8, 3, 8), (7, 1, 7), (2, 3, 2)])
def test_grid_is_a_cell_centred_tensor_grid(n: int, dim: int, count: int) -> None:
    points = sampling.unit_points(n, dim, "grid", (0,))
    sides = [np.unique(axis) for axis in points.T]
    assert len(points) == count == np.prod([len(side) for side in sides])
    assert len(np.unique(points, axis=0)) == count
    assert max(map(len, sides)) - min(map(len, sides)) <= 1
    for side in sides:
        np.testing.assert_allclose(side, (np.arange(len(side)) + 0.5) / len(side))


@pytest.mark.parametrize("method", sampling.METHODS)
def test_interior_is_the_scaled_cube(method: str) -> None:
    points = sampling.interior(BOUNDS, 64, method, (1, 2))
    unit = sampling.unit_points(64, 3, method, (1, 2))
    low, high = np.transpose(BOUNDS)
    assert ((points >= low) & (points <= high)).all()
    np.testing.assert_allclose((points - low) / (high - low), unit, atol=1e-14)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_face_points_lie_on_the_face_with_outward_normals(axis: int, side: int) -> None:
    value = BOUNDS[axis][side > 0]
    face = Face(NAMES[axis], value, side)
    points, normals = sampling.on_face(BOUNDS, NAMES, face, 32, "sobol", (1,))
    assert points.shape == normals.shape == (32, 3)
    assert (points[:, axis] == value).all()
    low, high = np.transpose(BOUNDS)
    assert ((points >= low) & (points <= high)).all()
    np.testing.assert_array_equal(normals, np.tile(side * np.eye(3)[axis], (32, 1)))
    outside = points + 1e-6 * normals
    assert ((outside < low) | (outside > high)).any(axis=1).all()
    for other in {0, 1, 2} - {axis}:
        assert np.ptp(points[:, other]) > 0.9 * (high - low)[other]


def test_the_face_of_an_interval_is_one_point() -> None:
    points, normals = sampling.on_face([(0.0, 20.0)], ["t"], Face("t", 0.0, -1), 200, "sobol", (1,))
    assert points.tolist() == [[0.0]]
    assert normals.tolist() == [[-1.0]]


def test_periodic_partners_differ_in_one_coordinate_only() -> None:
    low, high = Face("x", -1.0, -1), Face("x", 1.0, 1)
    points, _ = sampling.on_face(BOUNDS, NAMES, low, 16, "uniform", (1,))
    partners = sampling.opposite(points, NAMES, high)
    assert (points[:, 0] == -1).all()
    assert (partners[:, 0] == 1).all()
    np.testing.assert_array_equal(points[:, 1:], partners[:, 1:])
    # Drawing the other face with the same seed is no substitute.
    drawn, _ = sampling.on_face(BOUNDS, NAMES, high, 16, "uniform", (1,))
    assert not np.isclose(points[:, 1:], drawn[:, 1:]).any()


def test_seeds_are_counters() -> None:
    """Tuples that NumPy's own seeding takes for equal must still give different points."""
    seeds = [(1,), (1, 0), (0, 1), (1, 0, 0), (2**32,), (2**32, 0), (5, 2**32), (5, 0, 1), ()]
    draws = {seed: sampling.unit_points(4, 2, "uniform", seed).tobytes() for seed in seeds}
    assert len(set(draws.values())) == len(seeds)
    assert np.random.default_rng([1]).random() == np.random.default_rng([1, 0]).random()
    for seed in [(-1,), (2**64,)]:
        with pytest.raises(ValueError, match="counters"):
            sampling.generator(seed)


@pytest.mark.parametrize("method", sampling.METHODS)
def test_draws_repeat_and_leave_the_global_generators_alone(method: str) -> None:
    before = np.random.get_state()[1].tobytes(), random.getstate()
    first = sampling.interior(BOUNDS, 50, method, (1, 2, 3))
    again = sampling.interior(BOUNDS, 50, method, (1, 2, 3))
    chosen = sampling.rad(first, np.ones(len(first)), 5, seed=(1,))
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before
    assert np.array_equal(first, again)
    assert np.array_equal(chosen, sampling.rad(first, np.ones(len(first)), 5, seed=(1,)))
    if method != "grid":
        assert not np.array_equal(first, sampling.interior(BOUNDS, 50, method, (1, 2, 4)))


def chi_square(chosen: np.ndarray, density: np.ndarray, x: np.ndarray) -> float:
    """p-value of the chosen points' histogram in 20 bins against the density of the candidates."""
    edges = np.linspace(0, 1, 21)
    share = np.histogram(x, edges, weights=density)[0]
    seen = np.histogram(chosen, edges)[0]
    return float(stats.chisquare(seen, share / share.sum() * len(chosen)).pvalue)


@pytest.mark.parametrize(("k", "c"), [(1.0, 1.0), (2.0, 0.0), (1.0, 0.0), (0.0, 0.0)])
def test_rad_follows_its_density(k: float, c: float) -> None:
    candidates = sampling.unit_points(40_000, 1, "uniform", (11,))
    x = candidates[:, 0]
    residual = np.sin(3 * np.pi * x) - 0.3
    chosen = sampling.rad(candidates, residual, 2000, k, c, seed=(5,))[:, 0]
    power = np.abs(residual) ** k
    density = power / power.mean() + c
    np.testing.assert_allclose(sampling.rad_density(residual, k, c), density / density.sum())
    assert chi_square(chosen, density, x) > 0.01
    # Twins: uniform choice, and another exponent.
    if k > 0:
        assert chi_square(x[:2000], density, x) < 1e-6
    other = sampling.rad(candidates, residual, 2000, k + 1, c, seed=(5,))[:, 0]
    assert chi_square(other, density, x) < 1e-6


def test_rad_draws_successively_without_replacement() -> None:
    """Inclusion probabilities of 2 out of 3, against the sum over the six orders."""
    candidates = np.arange(3.0)[:, None]
    p = np.array([0.6, 0.3, 0.1])
    exact = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    draws = [sampling.rad(candidates, p, 2, 1, 0, seed=(s,))[:, 0] for s in range(4000)]
    assert all(len(set(draw)) == 2 for draw in draws)
    seen = np.bincount(np.concatenate(draws).astype(int), minlength=3) / 4000
    np.testing.assert_allclose(seen, exact, atol=4 * 0.5 / np.sqrt(4000))
    assert abs(seen[0] - 2 * p[0]) > 0.2  # what drawing with replacement would approach
    everything = sampling.rad(candidates, p, 3, seed=(0,))
    np.testing.assert_array_equal(everything, candidates)


def test_rad_at_the_edges() -> None:
    candidates = sampling.unit_points(100, 2, "uniform", (1,))
    assert len(sampling.rad(candidates, np.zeros(100), 10, seed=(1,))) == 10
    assert len(sampling.rad(candidates, np.full(100, 1e300), 10, k=4, seed=(1,))) == 10
    # With c = 0, candidates without residual come only when the others are used up, and evenly.
    residual = np.r_[np.zeros(90), np.ones(10)]
    few = [sampling.rad(candidates, residual, 30, 1, 0, seed=(s,)) for s in range(40)]
    for chosen in few:
        assert {tuple(row) for row in candidates[90:]} <= {tuple(row) for row in chosen}
    rows = np.concatenate([np.flatnonzero((candidates[:, None] == f).all(-1).any(1)) for f in few])
    early = np.mean(rows[rows < 90] < 45)
    assert 0.4 < early < 0.6
    two = np.stack([3 * np.ones(100), 4 * np.ones(100)], axis=1)
    np.testing.assert_allclose(sampling.rad_density(two), 0.01)
    with pytest.raises(DivergedError):
        sampling.rad(candidates, np.r_[np.nan, np.ones(99)], 10, seed=(1,))
    with pytest.raises(ValueError, match="101 points wanted of 100"):
        sampling.rad(candidates, np.ones(100), 101, seed=(1,))


def test_r3_keeps_exactly_the_points_above_the_mean() -> None:
    points = sampling.interior(BOUNDS, 200, "uniform", (1, 0))
    residual = points[:, 0] ** 3
    fresh = sampling.interior(BOUNDS, 200, "uniform", (1, 1))
    new = sampling.r3(points, residual, fresh)
    high = np.abs(residual) > np.abs(residual).mean()
    assert new.shape == points.shape
    np.testing.assert_array_equal(new[: high.sum()], points[high])
    np.testing.assert_array_equal(new[high.sum() :], fresh[: (~high).sum()])
    # Twin: the signed residual would release the strong negative ones.
    assert not np.array_equal(high, residual > residual.mean())


def test_r3_gathers_at_a_peak_and_lets_go_of_a_solved_one() -> None:
    """As published: mass accumulates where |r| is high, and returns to uniform once r is flat."""
    points = sampling.unit_points(500, 1, "uniform", (0,))

    def near(points: np.ndarray) -> float:
        return float((np.abs(points[:, 0] - 0.5) < 0.05).mean())

    start = near(points)
    for round_ in range(20):
        residual = np.exp(-(((points[:, 0] - 0.5) / 0.05) ** 2))
        points = sampling.r3(points, residual, sampling.unit_points(500, 1, "uniform", (1, round_)))
        assert len(points) == 500
    assert start < 0.15
    assert near(points) > 3 * start
    fresh = sampling.unit_points(500, 1, "uniform", (2,))
    flat = sampling.r3(points, np.ones(500), fresh)
    np.testing.assert_array_equal(flat, fresh)


def test_r3_refuses_what_it_cannot_do() -> None:
    points = np.zeros((4, 1))
    with pytest.raises(ValueError, match="3 fresh points needed, got 2"):
        sampling.r3(points, np.array([9.0, 1, 1, 1]), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="4 points with 3"):
        sampling.r3(points, np.ones(3), np.zeros((4, 1)))
    with pytest.raises(DivergedError):
        sampling.r3(points, np.array([np.inf, 1, 1, 1]), np.zeros((4, 1)))
    assert sampling.r3(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2))).shape == (0, 2)


def test_slabs_are_half_open_and_cover_the_overhang() -> None:
    t = np.array([-0.1, 0.0, 0.0999, 0.1, 0.95, 1.0, 1.01])
    assert sampling.slabs(t, (0.0, 1.0), 10).tolist() == [0, 0, 0, 1, 9, 9, 9]
    assert sampling.slabs(t, (0.0, 1.0), 1).tolist() == [0] * 7
    edges = np.linspace(0.2, 1.4, 13)
    assert sampling.slabs(edges[:-1], (0.2, 1.4), 12).tolist() == list(range(12))
    # Twin: the textbook formula puts some edges one slab early.
    floor = np.floor((edges[:-1] - 0.2) / 1.2 * 12).astype(int)
    assert floor.tolist() != list(range(12))
    for bounds, count in [((1.0, 1.0), 4), ((0.0, 1.0), 0)]:
        with pytest.raises(ValueError, match="slabs need"):
            sampling.slabs(t, bounds, count)


def test_an_unknown_sampler_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="found 'sobel'; write one of: uniform, .*sobol"):
        sampling.unit_points(4, 2, "sobel", (0,))
    with pytest.raises(ValueError, match="negative"):
        sampling.unit_points(-1, 2, "sobol", (0,))
