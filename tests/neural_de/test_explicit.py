"""Explicit and symplectic steppers: order conditions, measured order, dense output, invariants."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from residua.errors import ConfigurationError
from residua.operators import neural_de
from residua.operators.neural_de import (
    ODE,
    PID,
    RK4,
    Bosh3,
    Constant,
    Dopri5,
    Dopri8,
    Euler,
    ExplicitRungeKutta,
    Heun,
    Leapfrog,
    Midpoint,
    Separable,
    Tsit5,
)
from residua.operators.neural_de.implicit_tableaus import density, elementary_weights, trees

integrate = partial(neural_de.integrate, path="eager")

STEPPERS = [Euler, Midpoint, Heun, Bosh3, RK4, Tsit5, Dopri5, Dopri8]
# Steps at which truncation is well above rounding.
STEP = {1: 0.02, 2: 0.04, 3: 0.04, 4: 0.05, 5: 0.0125, 8: 0.4}


def matrix(tableau):
    rows = tableau.matrix
    full = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows):
        full[i + 1, : len(row)] = row
    return full


def violation(tableau, weights, power, order):
    """Largest violation of the conditions up to `order` by weights at a fraction of the step."""
    full = matrix(tableau)
    return max(
        abs(np.asarray(weights) @ elementary_weights(tree, [full]) - power**size / density(tree)[1])
        for size in range(1, order + 1)
        for tree in trees(size)
    )


def slope(errors, ratio=2.0):
    return math.log(errors[0] / errors[1]) / math.log(ratio)


def final_error(known, stepper, step, end=2.0, columns=2):
    times = torch.linspace(0, end, columns, dtype=torch.float64)
    solution = integrate(
        ODE(known.field),
        known.start,
        times,
        stepper=stepper,
        controller=Constant(step),
        path="eager",
    )
    return (solution.states - known.exact(times)).abs().max().item()


def measured(known, stepper, step, **more):
    return slope([final_error(known, stepper, h, **more) for h in (step, step / 2)])


@pytest.mark.parametrize("stepper", STEPPERS)
def test_order_conditions(stepper):
    tableau = stepper().tableau
    assert violation(tableau, tableau.weights, 1.0, tableau.order) < 2e-14
    if tableau.order < 8:
        assert violation(tableau, tableau.weights, 1.0, tableau.order + 1) > 1e-4
    if tableau.error is not None:
        embedded = np.array(tableau.weights) - np.array(tableau.error)
        assert violation(tableau, embedded, 1.0, tableau.error_order - 1) < 1e-13
        assert violation(tableau, embedded, 1.0, tableau.error_order) > 1e-5


@pytest.mark.parametrize("stepper", STEPPERS)
def test_dense_conditions(stepper):
    tableau = stepper().tableau
    dense = np.array(tableau.dense)
    powers = np.arange(1, dense.shape[1] + 1)
    for theta in (0.13, 0.5, 0.87):
        weights = dense @ theta**powers
        assert violation(tableau, weights, theta, tableau.dense_order) < 1e-12
    assert np.allclose(dense.sum(1), tableau.weights, atol=1e-12)  # continuous
    ends = np.eye(len(dense))[[0, -1]]
    assert np.allclose(dense[:, 0], ends[0], atol=1e-12)  # with the slope of the field
    assert np.allclose(dense @ powers, ends[1], atol=1e-11)
    wrong = dense + 1e-3 * np.outer(ends[1] - ends[0], powers == 2)
    assert violation(tableau, wrong @ 0.5**powers, 0.5, max(2, tableau.dense_order)) > 1e-5


@pytest.mark.parametrize("stepper", STEPPERS)
def test_measured_order(forced, stepper):
    method = stepper()
    assert measured(forced, method, STEP[method.order]) == pytest.approx(method.order, abs=0.2)


@pytest.mark.parametrize("stepper", [s for s in STEPPERS if s is not Euler])
def test_perturbed_tableau_loses_its_order(forced, stepper):
    tableau = stepper().tableau
    rows = [list(row) for row in tableau.matrix]
    rows[-1][0] += 3e-2  # the weights keep their sum: consistent, but of order one
    rows[-1][-1] -= 3e-2
    wrong = dataclasses.replace(tableau, matrix=tuple(tuple(row) for row in rows))
    assert measured(forced, ExplicitRungeKutta(wrong), 0.02) < 1.3


@pytest.mark.parametrize("stepper", STEPPERS)
def test_order_of_dense_output(forced, stepper):
    method = stepper()

    # One step from the exact start: the error inside falls with the order of the interpolant + 1.
    def inside(step):
        times = torch.tensor([0, 0.37 * step, 0.71 * step, step], dtype=torch.float64)
        solution = integrate(
            ODE(forced.field), forced.start, times, stepper=method, controller=Constant(step)
        )
        assert (solution.statistics.steps == 1).all()
        return (solution.states - forced.exact(times))[:, 1:3].abs().max().item()

    step = 0.1 if method.order == 8 else 0.05
    found = slope([inside(step), inside(step / 2)])
    assert found == pytest.approx(method.dense_order + 1, abs=0.2)


def test_one_evaluation_a_step_is_saved(forced):
    calls = []

    def counted(t, y):
        calls.append(1)
        return forced.field(t, y)

    solution = integrate(
        ODE(counted), forced.start, [0.0, 1.0], stepper=Dopri5(), controller=Constant(0.1)
    )
    assert len(calls) - 1 <= 6 * 10 + 1  # one call may find out whether gradients are asked for
    assert (solution.statistics.evaluations == 6 * 10 + 1).all()


def test_dense_solution(forced):
    times = torch.linspace(0, 3, 4, dtype=torch.float64)
    solution = integrate(
        ODE(forced.field), forced.start, times, controller=PID(1e-8, 1e-10), dense=True
    )
    anywhere = torch.linspace(0, 3, 41, dtype=torch.float64)
    assert (solution.dense(anywhere) - forced.exact(anywhere)).abs().max() < 1e-6
    assert solution.dense(3.5).isnan().all()
    own = torch.rand(3, 5, dtype=torch.float64) * 3
    expected = torch.stack([forced.exact(own[i])[i] for i in range(3)])
    assert (solution.dense(own) - expected).abs().max() < 1e-6
    assert (solution.dense(own) - expected.flip(1)).abs().max() > 1e-2


def test_float32_keeps_its_type(forced):
    start = forced.start.float()
    solution = integrate(ODE(forced.field), start, [0.0, 2.0], controller=PID(1e-4, 1e-6))
    assert solution.states.dtype == torch.float32
    exact = forced.exact(torch.tensor([2.0], dtype=torch.float64))[:, 0]
    assert (solution.final - exact).abs().max() < 1e-3


# Leapfrog


def pendulum():
    return Separable(lambda t, p: p, lambda t, q: -q.sin())


def energy(y):
    return y[..., 1] ** 2 / 2 - y[..., 0].cos()


START = torch.tensor([[1.0, 0.0], [2.5, 0.3]], dtype=torch.float64)


def test_leapfrog_order():
    times = torch.tensor([0.0, 2.03, 3.0], dtype=torch.float64)  # the second lies inside a step
    fine = integrate(pendulum(), START, times, stepper=Dopri8(), controller=PID(1e-13, 1e-13))
    errors = []
    for step in (0.1, 0.05, 0.025):
        coarse = integrate(pendulum(), START, times, stepper=Leapfrog(), controller=Constant(step))
        errors.append((coarse.states - fine.states)[:, 1:].abs().amax((0, 2)))
    for column in (0, 1):
        assert slope([errors[1][column], errors[2][column]]) == pytest.approx(2, abs=0.2)


def test_leapfrog_keeps_energy_and_heun_does_not():
    times = torch.linspace(0, 200, 201, dtype=torch.float64)

    def drift(stepper):
        solution = integrate(pendulum(), START, times, stepper=stepper, controller=Constant(0.1))
        error = (energy(solution.states) - energy(START)[:, None]).abs()
        return error[:, :100].max().item(), error[:, 100:].max().item()

    early, late = drift(Leapfrog())
    assert early < 5e-3
    assert late < 1.2 * early
    early, late = drift(Heun())
    assert late > 1.5 * early


def test_leapfrog_is_reversible():
    times = torch.linspace(0, 20, 2, dtype=torch.float64)

    def there_and_back(stepper):
        options = {"stepper": stepper, "controller": Constant(0.1)}
        there = integrate(pendulum(), START, times, **options).final
        return (integrate(pendulum(), there, times.flip(0), **options).final - START).abs().max()

    assert there_and_back(Leapfrog()) < 1e-11
    assert there_and_back(RK4()) > 1e-8


def test_leapfrog_asks_for_a_separable_system(forced):
    with pytest.raises(ConfigurationError, match="separable"):
        integrate(
            ODE(forced.field), forced.start, [0, 1], stepper=Leapfrog(), controller=Constant(0.1)
        )
