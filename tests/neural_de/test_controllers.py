"""Adaptive steps: the error follows the tolerance, each sample on its own, failures are told."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from residua.errors import ConfigurationError
from residua.operators import neural_de
from residua.operators.neural_de import (
    ODE,
    PID,
    Bosh3,
    Constant,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Outcome,
    Tsit5,
)

integrate = partial(neural_de.integrate, path="eager")

TIMES = torch.linspace(0, 6, 13, dtype=torch.float64)


def error_at(known, rtol, stepper, **gains):
    solution = integrate(
        ODE(known.field),
        known.start,
        TIMES,
        stepper=stepper,
        controller=PID(rtol, rtol * 1e-2, **gains),
    )
    assert (solution.outcome == Outcome.SUCCESS).all()
    return (solution.states - known.exact(TIMES)).abs().max().item(), solution.statistics


@pytest.mark.parametrize("stepper", [Heun, Bosh3, Tsit5, Dopri5, Dopri8])
def test_error_is_proportional_to_the_tolerance(forced, stepper):
    loose, tight = (1e-5, 1e-8) if stepper().order > 3 else (1e-2, 1e-4)
    (first, few), (second, many) = (error_at(forced, r, stepper()) for r in (loose, tight))
    # Error per step, so that the exponent is (k - 1) / k up to one.
    exponent = math.log(first / second) / math.log(loose / tight)
    assert 0.45 < exponent < 1.25
    assert second < 100 * tight
    growth = math.log((many.accepted / few.accepted).max()) / math.log(loose / tight)
    assert growth == pytest.approx(1 / stepper().error_order, rel=0.3)


def test_a_wrong_order_in_the_controller_costs_steps(forced):
    stepper = Tsit5()
    stepper.error_order = 50  # steps hardly react to the error
    wrong = error_at(forced, 1e-8, stepper)[1]
    right = error_at(forced, 1e-8, Tsit5())[1]
    assert wrong.steps.sum() > 2 * right.steps.sum()


def test_pi_control_rejects_less_where_steps_are_limited_by_stability():
    def stiff(t, y):
        return -200 * (y - t.cos()[:, None])

    start = torch.ones(1, 1, dtype=torch.float64)
    elementary, pi = (
        integrate(ODE(stiff), start, [0.0, 5.0], controller=PID(1e-4, 1e-4, p=p, i=i))
        for p, i in ((0.0, 1.0), (0.4, 0.3))
    )
    assert pi.statistics.rejected.sum() < 0.5 * elementary.statistics.rejected.sum()


def test_samples_do_not_know_of_each_other(forced):
    together = integrate(ODE(forced.field), forced.start, TIMES)
    for i in range(3):
        alone = integrate(ODE(forced.field), forced.start[i : i + 1], TIMES)
        assert torch.allclose(alone.states[0], together.states[i], rtol=0, atol=1e-13)
        assert alone.statistics.accepted[0] == together.statistics.accepted[i]
        assert alone.statistics.steps[0] == together.statistics.steps[i]
    assert len(set(together.statistics.steps.tolist())) > 1


def test_every_sample_has_steps_of_its_own():
    rates = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    start = torch.ones(2, 1, dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: -rates * y), start, [0.0, 1.0])
    slow, fast = solution.statistics.accepted.tolist()
    assert fast > 4 * slow
    assert torch.allclose(solution.final, (-rates).exp(), atol=1e-6)
    # A sample that has ended is not charged for evaluations.
    slow, fast = solution.statistics.evaluations.tolist()
    assert fast > 3 * slow


def test_backward_in_time_is_the_inverse(forced):
    options = {"controller": PID(1e-9, 1e-11)}
    there = integrate(ODE(forced.field), forced.start, TIMES, **options)
    back = integrate(ODE(forced.field), there.final, TIMES.flip(0), **options)
    assert (back.states.flip(1) - there.states).abs().max() < 1e-7
    assert (back.states - there.states).abs().max() > 0.1


# Failures


def test_field_that_is_not_finite_fails_its_sample_alone():
    def field(t, y):
        return torch.where(y > 1.5, math.nan, y)

    start = torch.tensor([[1.0], [0.01], [2.0], [math.inf]], dtype=torch.float64)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    solution = integrate(ODE(field), start, times)
    expected = [Outcome.NOT_FINITE, Outcome.SUCCESS, Outcome.NOT_FINITE, Outcome.NOT_FINITE]
    assert solution.outcome.tolist() == expected
    # The first got as far as log 1.5 = 0.405...
    assert solution.states[0, :, 0].isnan().tolist() == [False, False, False, True, True, True]
    assert torch.allclose(solution.states[1, :, 0], 0.01 * times.exp(), rtol=1e-5)
    assert "3 of 4: The field or the state is not finite" in solution.describe()
    assert solution.successful.tolist() == [False, True, False, False]


def test_nothing_happens_at_rest_without_an_absolute_tolerance():
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: -y), start, [0.0, 1.0], controller=PID(1e-6, 0.0))
    assert (solution.outcome == Outcome.SUCCESS).all()
    assert solution.final[0, 0] == 0
    assert solution.final[1, 0] == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("controller", [PID(), Constant(0.01)])
def test_failed_samples_do_not_spoil_gradients(controller):
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t, y):
        return rate * (1.5 - y).sqrt()

    start = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    solution = integrate(ODE(field), start, [0.0, 1.0], controller=controller)
    assert solution.outcome.tolist()[0] == Outcome.SUCCESS
    assert solution.outcome.tolist()[2] == Outcome.NOT_FINITE
    (gradient,) = torch.autograd.grad(solution.states[0, -1, 0], rate)
    # y = 1.5 - (sqrt(1.5) - rate t / 2)^2
    assert gradient == pytest.approx(math.sqrt(1.5) - 0.5, rel=1e-4)


def test_blow_up_and_the_limit_of_steps():
    start = torch.ones(1, 1, dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: y**2), start, [0.0, 0.9, 2.0])
    assert solution.outcome[0] in (Outcome.STEP_TOO_SMALL, Outcome.NOT_FINITE)
    assert solution.states[0, 1, 0] == pytest.approx(10, rel=1e-3)
    assert solution.states[0, 2].isnan()
    solution = integrate(ODE(lambda t, y: y**2), start, [0.0, 0.9], max_steps=3)
    assert solution.outcome[0] == Outcome.STEP_LIMIT
    assert solution.statistics.steps[0] == 3


def test_smallest_step(forced):
    controller = PID(1e-10, 1e-12, smallest=0.5)
    solution = integrate(ODE(forced.field), forced.start, TIMES, controller=controller)
    assert (solution.outcome == Outcome.STEP_TOO_SMALL).all()


def test_largest_and_first_step():
    start = torch.ones(2, 1, dtype=torch.float64)
    flat = ODE(torch.zeros_like)
    flat = ODE(lambda t, y: torch.zeros_like(y))
    few = integrate(flat, start, [0.0, 10.0], controller=PID(first=1.0))
    assert few.statistics.steps[0] <= 3
    many = integrate(flat, start, [0.0, 10.0], controller=PID(first=0.1, largest=0.1))
    assert many.statistics.steps[0] == 100


# Times at which steps end


def square_wave(t, y):
    return torch.where(t < 1, 1.0, -3.0)[:, None] * torch.ones_like(y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_jump_times(dtype, sign):
    start = torch.zeros(2, 1, dtype=dtype)
    times = [0.0, 1.0, 2.0] if sign > 0 else [2.0, 1.0, 0.0]
    expected = [0.0, 1.0, -2.0] if sign > 0 else [0.0, 3.0, 2.0]
    solution = integrate(ODE(square_wave), start, times, controller=PID(jump_times=(1.0,)))
    assert torch.allclose(solution.states[0, :, 0], torch.tensor(expected, dtype=dtype), atol=1e-6)
    assert solution.statistics.rejected.sum() == 0
    without = integrate(ODE(square_wave), start, times)
    assert without.statistics.rejected.sum() > 5


@pytest.mark.parametrize("stepper", [Euler, Tsit5])
def test_jump_times_with_constant_steps(stepper):
    start = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    options = {"stepper": stepper()}
    jumps = Constant(0.4, jump_times=(1.0,))
    solution = integrate(ODE(square_wave), start, [0.0, 2.0], controller=jumps, **options)
    assert torch.allclose(solution.final, torch.full_like(start, -2.0), atol=1e-12)
    without = integrate(ODE(square_wave), start, [0.0, 2.0], controller=Constant(0.4), **options)
    assert (without.final + 2).abs().max() > 1e-2


def test_jumps_are_repeated_with_a_graph():
    height = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def field(t, y):
        return torch.where(t < 1, height, -height * y[:, 0])[:, None]

    start = torch.zeros(2, 1, dtype=torch.float64)
    controller = PID(1e-9, 1e-11, jump_times=(1.0,))
    solution = integrate(ODE(field), start, [0.0, 1.5], controller=controller)
    # y = h exp(-h / 2)
    assert torch.allclose(solution.final, height * (-height / 2).exp(), atol=1e-8)
    (gradient,) = torch.autograd.grad(solution.final[0, 0], height)
    assert gradient == pytest.approx(0.0, abs=1e-7)


def test_step_times():
    seen = []

    def field(t, y):
        seen.append(float(t[0]))
        return torch.ones_like(y)

    start = torch.zeros(1, 1, dtype=torch.float64)
    controller = PID(step_times=(0.3, 0.7, 5.0))
    with torch.no_grad():
        integrate(ODE(field), start, [0.0, 1.0], controller=controller)
    assert {0.3, 0.7, 1.0} <= set(seen)
    assert max(seen) == 1.0


def test_custom_norm(forced):
    # Only the first component is controlled.
    controller = PID(1e-6, 1e-8, norm=lambda e: e[:, 0].abs())
    extended = torch.cat((forced.start, torch.zeros(3, 1, dtype=torch.float64)), dim=1)

    def field(t, y):
        return torch.cat((forced.field(t, y[:, :2]), (50 * t).sin()[:, None]), dim=1)

    free = integrate(ODE(field), extended, TIMES[:5], controller=controller)
    bound = integrate(ODE(field), extended, TIMES[:5], controller=PID(1e-6, 1e-8))
    assert bound.statistics.steps.sum() > 2 * free.statistics.steps.sum()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PID(rtol=-1),
        lambda: PID(rtol=0, atol=0),
        lambda: PID(safety=1.5),
        lambda: PID(shrink=2),
        lambda: PID(first=0.0),
        lambda: PID(largest=-1.0),
        lambda: Constant(0.0),
        lambda: Constant(math.inf),
    ],
)
def test_senseless_controllers(make):
    with pytest.raises(ConfigurationError):
        make()
