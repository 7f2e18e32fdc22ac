"""Functions given by data on tensors: as on arrays, differentiable, exact on Taylor bundles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import torch

from residua.engine.functions import TORCH
from residua.engine.networks.ansatz import SymbolicField
from residua.engine.taylor import algebra_for
from residua.problems.equation import evaluate
from residua.problems.given import GIVEN, GivenCall, Series, Spline

X = sympy.Symbol("x", real=True)
T = sympy.Symbol("t", real=True)


def series(modes=70):
    random = np.random.default_rng(2)
    pairs = random.normal(size=(2, modes)) / (1 + np.arange(modes)) ** 4
    return Series("f", pairs[0] + 1j * pairs[1], (-1, 1))


def spline(straight=False):
    x = np.linspace(-1.3, 1.3, 40)
    return Spline("f", [x], np.exp(np.sin(2 * x)), straight=straight)


FUNCTIONS = [pytest.param(series(), id="series"), pytest.param(spline(), id="spline")]


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_tensors_and_arrays_agree(function, order, rng):
    points = rng.uniform(-1.25, 1.25, (40, 3))
    here = TORCH[GIVEN](function, [order], torch.tensor(points))
    there = function.at([points], [order])
    assert here.shape == (40, 3) and here.dtype == torch.float64
    assert np.abs(here.numpy() - there).max() <= 1e-12 * np.abs(there).max()
    single = TORCH[GIVEN](function, [order], torch.tensor(points, dtype=torch.float32))
    assert single.dtype == torch.float32


@pytest.mark.parametrize("order", range(5))
def test_straight_lines_go_on_on_tensors_too(order):
    points = np.linspace(-3, 3, 101)
    here = TORCH[GIVEN](spline(straight=True), [order], torch.tensor(points)).numpy()
    there = spline(straight=True).at([points], [order])
    assert np.abs(here - there).max() <= 1e-12 * np.abs(there).max()
    inside = torch.tensor([-2.0, 0.3, 2.0], dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(TORCH[GIVEN](spline(straight=True), [0], inside).sum(), inside)
    wanted = spline(straight=True).at([inside.detach().numpy()], [1])
    assert np.allclose(slope.numpy(), wanted, rtol=1e-12)


def test_outside_the_samples_is_no_number():
    values = TORCH[GIVEN](spline(), [0], torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64))
    assert torch.isnan(values).tolist() == [True, False, True]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autograd_gives_the_next_derivative(function):
    """The oracle of the tables: nested automatic differentiation."""
    points = torch.linspace(-1.2, 1.2, 31, dtype=torch.float64).requires_grad_()
    value = TORCH[GIVEN](function, [0], points)
    for order in range(1, 5):
        (value,) = torch.autograd.grad(value.sum(), points, create_graph=True)
        wanted = TORCH[GIVEN](function, [order], points).detach()
        assert (value - wanted).abs().max() <= 1e-10 * wanted.abs().max()
        # Wrong twin: the derivative below it.
        below = TORCH[GIVEN](function, [order - 1], points).detach()
        assert (value - below).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_taylor_bundles_hold_exact_derivatives(function, rng):
    """f(x + t/2) as a field: its mixed partials to order four are derivatives of f."""
    field = SymbolicField(("x", "t"), [GivenCall.of(function, [X + T / 2])])
    indices = [(a, b) for a in range(5) for b in range(5 - a)]
    algebra = algebra_for(indices, 2)
    points = torch.tensor(rng.uniform(-0.8, 0.8, (25, 2)))
    bundle = field.jet(points, algebra)
    place = (points[:, 0] + points[:, 1] / 2).numpy()
    for a, b in indices:
        found = algebra.derivative(bundle, (a, b))[:, 0].numpy()
        wanted = function.at([place], [a + b]) / 2**b
        assert np.abs(found - wanted).max() <= 1e-12 * np.abs(wanted).max()
    laplacian = field.jet(points, algebra_for([], 2, laplacian=(0,)))[-1, :, 0]
    assert np.allclose(2 * laplacian.numpy(), function.at([place], [2]), rtol=1e-12)


def test_one_expression_on_both():
    function = series(5)
    tree = sympy.exp(GivenCall.of(function, [X])) * GivenCall.of(function, [2 * X], [1])
    points = np.linspace(-1, 1, 20)
    here = evaluate(tree, {"x": torch.tensor(points)}, TORCH)
    assert np.allclose(here.numpy(), evaluate(tree, {"x": points}), rtol=1e-13)
    assert evaluate(tree, {"x": 0.3}, TORCH) == pytest.approx(
        math.exp(function(0.3)) * float(function.at([0.6], [1]))
    )


def test_grids_on_tensors(rng):
    axes = np.linspace(0, 1, 9), np.sort(rng.uniform(-1, 1, 8))
    function = Spline("g", axes, rng.normal(size=(9, 8)))
    x = rng.uniform(0, 1, (30, 1))
    y = rng.uniform(axes[1][0], axes[1][-1], (30, 2))
    for orders in ((0, 0), (1, 2), (4, 4)):
        here = TORCH[GIVEN](function, orders, torch.tensor(x), torch.tensor(y))
        there = function.at([x, y], orders)
        assert here.shape == (30, 2)
        assert np.abs(here.numpy() - there).max() <= 1e-11 * np.abs(there).max()
    left, right = (torch.tensor(v[:, 0]).requires_grad_() for v in (x, y))
    slopes = torch.autograd.grad(TORCH[GIVEN](function, (0, 0), left, right).sum(), (left, right))
    for slope, orders in zip(slopes, ((1, 0), (0, 1)), strict=True):
        wanted = function.at([x[:, 0], y[:, 0]], orders)
        assert np.abs(slope.numpy() - wanted).max() <= 1e-11 * np.abs(wanted).max()
    start = evaluate(GivenCall.of(function, [X, T]), {"x": torch.tensor(x[:, 0]), "t": 0.1}, TORCH)
    assert np.allclose(start.numpy(), function(x[:, 0], 0.1), rtol=1e-12)
