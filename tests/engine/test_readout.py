"""Fields along characteristics read at positions: against maps that can be inverted by hand."""

import itertools

import numpy as np
import pytest
import sympy
import torch

from residua.engine.networks import snapshot
from residua.engine.networks.ansatz import SymbolicField
from residua.engine.networks.entering import Entering, Entry
from residua.engine.networks.free_flight import FreeFlight
from residua.engine.networks.readout import Readout, least_jacobian
from residua.engine.networks.snapshot import Snapshot
from residua.engine.taylor import algebra_for

x, y, t = sympy.symbols("x y t", real=True)


def oracle(tree, coordinates, index, points):
    for name, order in zip(coordinates, index, strict=True):
        tree = tree.diff(sympy.Symbol(name, real=True), order) if order else tree
    function = sympy.lambdify([sympy.Symbol(n, real=True) for n in coordinates], tree, "numpy")
    return np.broadcast_to(function(*points.T), len(points))


def line(drift=0.0):
    """x = X + t X^2 / 2 on [0, 1] with an end that moves, and the state as a function of X."""
    w = sympy.sin(3 * x) * sympy.exp(-t)
    field = SymbolicField(("x", "t"), [w, t * x**2 / 2])
    bounds = [(0.0, 4.0), (0.0, 1.0)]
    readout = Readout(
        field, bounds, space=[0], time=1, periodic=[], drift=[drift], start=0.0, since=0.0
    )
    place = x - drift * t
    label = (sympy.sqrt(1 + 2 * t * place) - 1) / t
    return readout, w.xreplace({x: label})


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_values_and_derivatives_are_those_of_the_inverse_map(drift):
    readout, u = line(drift)
    random = np.random.default_rng(0)
    points = np.stack([random.uniform(0.6, 1.2, 40), random.uniform(0.1, 1.0, 40)], 1)
    indices = [(i, j) for i, j in itertools.product(range(4), range(3)) if i + j <= 3]
    algebra = algebra_for(indices, 2)
    bundle = readout.jet(torch.from_numpy(points), algebra)
    for index in indices:
        found = algebra.derivative(bundle, index)[:, 0].numpy()
        wanted = oracle(u, ("x", "t"), index, points)
        assert np.abs(found - wanted).max() < 1e-9 * (1 + np.abs(wanted).max()), index


def test_a_laplacian_in_the_plane():
    w = sympy.sin(x) * sympy.cos(2 * y) * sympy.exp(-t)
    label_y = y / (1 + t / 2)
    label_x = x - t * sympy.sin(label_y)
    field = SymbolicField(("x", "y", "t"), [w, t * sympy.sin(y), y * t / 2])
    bounds = [(-4.0, 4.0), (-4.0, 4.0), (0.0, 1.0)]
    readout = Readout(
        field, bounds, space=[0, 1], time=2, periodic=[], drift=[0, 0], start=0.0, since=0.0
    )
    points = np.random.default_rng(1).uniform([-1, -1, 0.1], [1, 1, 1], (50, 3))
    algebra = algebra_for([(0, 0, 1)], 3, laplacian=(0, 1))
    bundle = readout.jet(torch.from_numpy(points), algebra)
    u = w.xreplace({x: label_x, y: label_y})
    names = ("x", "y", "t")
    wanted = oracle(u, names, (2, 0, 0), points) + oracle(u, names, (0, 2, 0), points)
    assert np.abs(2 * bundle[-1, :, 0].numpy() - wanted).max() < 1e-9
    assert np.abs(
        algebra.derivative(bundle, (0, 0, 1))[:, 0].numpy() - oracle(u, names, (0, 0, 1), points)
    ).max() < 1e-9  # fmt: skip


def ring(slope=0.95, drift=30.0, since=0.0):
    """x = X + V t + slope sin(X) t on a ring: J falls to 1 - slope at t = 1."""
    field = SymbolicField(("x", "t"), [sympy.cos(x), slope * sympy.sin(x) * t])
    bounds = [(0.0, 2 * np.pi), (0.0, 1.0)]
    return Readout(
        field, bounds, space=[0], time=1, periodic=[0], drift=[drift], start=0.0, since=since
    )


@pytest.mark.parametrize("moments", [1, 3000])
def test_a_label_is_found_to_rounding_however_steep_the_map(moments):
    """Both with the table of first guesses (few moments) and without."""
    readout = ring()
    random = np.random.default_rng(2)
    places = torch.from_numpy(random.uniform(0, 2 * np.pi, 3000))
    times = torch.from_numpy(random.uniform(0, 1, 3000) if moments > 1 else np.ones(3000))
    labels = torch.stack([places, times], 1)
    there = labels.clone()
    there[:, 0] += 0.95 * torch.sin(places) * times + 30 * times
    found = readout.labels(there)[:, 0]
    gap = torch.remainder(found - places + np.pi, 2 * np.pi) - np.pi
    jacobian = 1 + 0.95 * torch.cos(places) * times
    assert (gap.abs() * jacobian).max() < 1e-13
    # The state at a position is that of its label, not of the label of the same number.
    assert (readout(there)[:, 0] - torch.cos(places)).abs().max() < 1e-11
    assert (torch.cos(there[:, 0]) - torch.cos(places)).abs().max() > 0.5


def test_far_displacements_do_not_leave_the_bracket():
    """Without the drift split off the labels are many rounds away."""
    field = SymbolicField(("x", "t"), [sympy.cos(x), 80 * t + sympy.sin(x) * t / 2])
    bounds = [(0.0, 2 * np.pi), (0.0, 1.0)]
    readout = Readout(
        field, bounds, space=[0], time=1, periodic=[0], drift=[0.0], start=0.0, since=0.0
    )
    places = torch.linspace(0, 6, 200, dtype=torch.float64)
    there = torch.stack([places + 80 + torch.sin(places) / 2, torch.ones(200)], 1)
    assert (readout(there)[:, 0] - torch.cos(places)).abs().max() < 1e-11


def test_paths_of_a_vortex_are_followed_where_newton_alone_is_lost():
    """A turn by 3 radians: the first guess is on the other side of the plane."""
    angle = 3 * t
    dx = x * (sympy.cos(angle) - 1) - y * sympy.sin(angle)
    dy = x * sympy.sin(angle) + y * (sympy.cos(angle) - 1)
    bounds = [(-2.0, 2.0), (-2.0, 2.0), (0.0, 1.0)]
    readout = Readout(
        SymbolicField(("x", "y", "t"), [x + 2 * y, dx, dy]),
        bounds, space=[0, 1], time=2, periodic=[], drift=[0, 0], start=0.0, since=0.0,
    )  # fmt: skip
    points = torch.from_numpy(np.random.default_rng(4).uniform([-1, -1, 0], [1, 1, 1], (200, 3)))
    c, s = torch.cos(3 * points[:, 2]), torch.sin(3 * points[:, 2])
    label_x, label_y = c * points[:, 0] + s * points[:, 1], c * points[:, 1] - s * points[:, 0]
    assert (readout(points)[:, 0] - label_x - 2 * label_y).abs().max() < 1e-10


def test_positions_that_no_path_gets_to_are_told_by_their_distance():
    moved = SymbolicField(("x", "t"), [sympy.cos(x), t / 2])
    walls = Readout(
        moved, [(0.0, 4.0), (0.0, 1.0)],
        space=[0], time=1, periodic=[], drift=[0.0], start=0.0, since=0.0,
    )  # fmt: skip
    points = torch.tensor([[0.2, 1.0], [0.2, 0.4], [3.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(walls.misses(points), torch.tensor([0.3, 0.0, 0.0]).double())
    points = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([6.0, 1.0])
    assert walls.misses(points).max() > 0 and ring().misses(points).max() < 1e-12


def test_the_least_jacobian_by_moment():
    times, least = least_jacobian(ring(), [(0.0, 2 * np.pi), (0.0, 1.0)], [201, 11])
    assert torch.allclose(times, torch.linspace(0, 1, 11, dtype=torch.float64))
    assert torch.allclose(least, 1 - 0.95 * times, atol=1e-3)
    crossed = least_jacobian(ring(1.2), [(0.0, 2 * np.pi), (0.0, 1.0)], [201, 11])[1]
    assert crossed[-1] < 0


def test_at_rest_labels_are_positions_again():
    readout = ring()
    resting = Readout(
        readout.field, readout.bounds, space=[0], time=1, periodic=[0], drift=[0.0],
        start=0.0, since=0.0, at_rest=True,
    )  # fmt: skip
    points = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    algebra = algebra_for([(2, 0)], 2)
    bundle = resting.jet(points, algebra)
    assert bundle.shape == (3, 2, 2)
    assert not bundle[..., 1].any()
    moved = points.clone()
    moved[:, 0] += 30.0
    assert torch.allclose(bundle[0, :, 0], readout(moved)[:, 0], atol=1e-12)


def test_a_snapshot_keeps_values_and_second_derivatives_on_a_ring_and_between_walls():
    w = sympy.exp(sympy.sin(x)) * sympy.cos(3 * y)
    field = SymbolicField(("x", "y", "t"), [w, t * w])
    bounds = [(0.0, 2 * np.pi), (0.0, 1.0), (0.0, 1.0)]
    kept = Snapshot(field, 2, bounds, space=[0, 1], time=2, moment=0.5, periodic=[0])
    points = np.random.default_rng(0).uniform([-7, 0, 0], [7, 1, 1], (200, 3))
    algebra = algebra_for([(0, 0, 1)], 3, laplacian=(0, 1))
    bundle = kept.float().jet(torch.from_numpy(points), algebra)
    assert kept.missed < 1e-9
    assert np.abs(bundle[0, :, 1].numpy() - oracle(w, "xyt", (0, 0, 0), points) / 2).max() < 1e-9
    laplacian = sum(oracle(w, "xyt", index, points) for index in ((2, 0, 0), (0, 2, 0)))
    assert np.abs(2 * bundle[-1, :, 0].numpy() - laplacian).max() < 1e-5
    assert not bundle[algebra.channel((0, 0, 1))].any(), "it stays as it was at the moment"
    again = Snapshot(None, 2, bounds, space=[0, 1], time=2, moment=0.5, periodic=[0])
    assert not again(torch.from_numpy(points)).any()
    again.load_state_dict(kept.state_dict())
    assert torch.equal(again(torch.from_numpy(points)), kept(torch.from_numpy(points)))


@pytest.mark.parametrize("periodic", [[0], []], ids=["ring", "walls"])
def test_a_snapshot_is_of_order_six_and_its_second_derivative_of_order_four(monkeypatch, periodic):
    """Twice the samples: 64 and 16 times closer. One degree less would be 32 and 8."""
    w = sympy.exp(sympy.sin(x))
    field = SymbolicField(("x", "t"), [w])
    bounds = [(0.0, 2 * np.pi), (0.0, 1.0)]
    points = np.random.default_rng(0).uniform([0, 0], [6.28, 1], (2000, 2))
    algebra = algebra_for([(2, 0)], 2)
    missed = []
    for samples in (48, 96):
        monkeypatch.setattr(snapshot, "SAMPLES", {1: samples})
        kept = Snapshot(field, 1, bounds, space=[0], time=1, moment=0.5, periodic=periodic)
        bundle = kept.jet(torch.from_numpy(points), algebra)
        orders = [algebra.derivative(bundle, (order, 0))[:, 0].numpy() for order in (0, 2)]
        true = [oracle(w, "xt", (order, 0), points) for order in (0, 2)]
        missed.append([np.linalg.norm(a - b) for a, b in zip(orders, true, strict=True)])
        assert kept.missed < 1.5 * np.abs(orders[0] - true[0]).max() < 3 * kept.missed
    values, second = (coarse / fine for coarse, fine in zip(*missed, strict=True))
    assert values > 45 and second > 12


def test_labels_in_free_flight_never_meet_and_know_their_derivatives():
    velocity = SymbolicField(("x", "t"), [-3 * sympy.sin(x)])
    bounds = [(-np.pi, np.pi), (0.0, 4.0)]
    flight = FreeFlight(velocity, 1, space=[0], time=1, since=0.5, bounds=bounds, restore=False)
    assert flight.rate.item() == pytest.approx(3)
    e = t - sympy.Rational(1, 2)
    d = -3 * sympy.sin(x) * e / sympy.sqrt(1 + 9 * e**2)
    points = np.random.default_rng(0).uniform([-3, 0.5], [3, 4], (100, 2))
    indices = [(0, 0), (1, 0), (2, 0), (1, 1), (0, 1), (0, 2), (0, 3)]
    algebra = algebra_for(indices, 2)
    bundle = flight.jet(torch.from_numpy(points), algebra)
    for index in indices:
        found = algebra.derivative(bundle, index)[:, 1].numpy()
        assert np.abs(found - oracle(d, "xt", index, points)).max() < 1e-10, index
    assert (1 + algebra.derivative(bundle, (1, 0))[:, 1]).min() > 0
    # The rule must be a number wherever loops compiled for it are tried.
    assert torch.isfinite(flight.jet(torch.from_numpy(points - [0, 9]), algebra)).all()


@pytest.mark.parametrize("side", [-1, 1])
def test_paths_that_come_in_are_read_by_the_age_they_have(side):
    """u_t + v u_x = 0 on [0, 1], v = -side (2 + t): known by label and entry time."""
    speed, start = 2.5, 0.5
    bound = 0.0 if side < 0 else 1.0
    beyond = sympy.Max(side * (x - sympy.Float(bound)), 0)
    delay = beyond / speed
    age = t - start
    # t is start + age here: a path has gone from its entry at start + delay for that age.
    path = -side * (2 * age + ((start + delay + age) ** 2 - (start + delay) ** 2) / 2)
    field = SymbolicField(("x", "t"), [sympy.sin(x - side * beyond) * (1 + delay) + age, path])
    for position in (0, 1):
        # Max has no derivative in the language: both sides of the end by hand.
        inside = sympy.diff(field.trees[position].xreplace({beyond: sympy.Integer(0)}), x)
        outer = field.trees[position].xreplace({beyond: side * (x - bound)})
        tree = sympy.Piecewise((sympy.diff(outer, x), side * (x - bound) > 0), (inside, True))
        field._derivatives[(position, (1, 0))] = tree
    aged = Entering(field, [Entry(side, bound, speed)], space=0, time=1, start=start)
    reach = speed
    bounds = [(-reach, 1.0) if side < 0 else (0.0, 1 + reach), (start, start + 1)]
    readout = Readout(
        aged, bounds, space=[0], time=1, periodic=[], drift=[0.0], start=start, since=start
    )
    random = np.random.default_rng(0)
    points = np.stack([random.uniform(0, 1, 200), random.uniform(start, start + 1, 200)], 1)
    labels = readout.labels(torch.from_numpy(points)).numpy()
    wanted = points.copy()
    for row, (place, moment) in enumerate(points):
        gone = (2 * moment + moment**2 / 2) - (2 * start + start**2 / 2)
        first = place + side * gone
        if 0 <= first <= 1:
            wanted[row, 0] = first
            continue
        # It came in at tau with the distance from the end left to go.
        left = abs(place - bound)
        now = 2 * moment + moment**2 / 2
        tau = -2 + np.sqrt(4 + 2 * (now - left))
        wanted[row, 0] = bound + side * speed * (tau - start)
    assert np.abs(labels - wanted).max() < 1e-9
    step = 1e-6
    around = [torch.from_numpy(points + [s * step, 0]) for s in (1, -1)]
    slope = (readout(around[0]) - readout(around[1]))[:, 0] / (2 * step)
    algebra = algebra_for([(1, 0)], 2)
    found = algebra.derivative(readout.jet(torch.from_numpy(points), algebra), (1, 0))[:, 0]
    far = np.abs(labels[:, 0] - bound) > 1e-4
    assert (found - slope)[torch.from_numpy(far)].abs().max() < 1e-6
