"""Fields along characteristics read at positions: against maps that can be inverted by hand."""

import itertools

import numpy as np
import pytest
import sympy
import torch

from residua.engine.networks.ansatz import SymbolicField
from residua.engine.networks.readout import Readout, least_jacobian
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


def test_the_least_jacobian_and_its_moment():
    value, moment = least_jacobian(ring(), [(0.0, 2 * np.pi), (0.0, 1.0)], [201, 11])
    assert value == pytest.approx(0.05, abs=1e-3)
    assert moment == 1.0
    value, _ = least_jacobian(ring(1.2), [(0.0, 2 * np.pi), (0.0, 1.0)], [201, 11])
    assert value < 0


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
