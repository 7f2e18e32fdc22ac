"""Events: times against closed forms, directions, gradients by the implicit function theorem."""

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
    Constant,
    Event,
    Outcome,
    Tsit5,
    integrate_with_jumps,
)
from residua.operators.neural_de.crossings import root

integrate = partial(neural_de.integrate, path="eager")

TIGHT = PID(1e-10, 1e-12)
G = 9.81


def circle(t, y):
    return torch.stack((y[:, 1], -y[:, 0]), dim=1)


def first(t, y):
    return y[:, 0]


def at_angles(*angles):
    a = torch.tensor(angles, dtype=torch.float64)
    return torch.stack((a.sin(), a.cos()), dim=1)  # y = (sin(t + a), cos(t + a))


@pytest.mark.parametrize("controller", [TIGHT, Constant(0.01)])
@pytest.mark.parametrize(("direction", "angle"), [(-1, math.pi), (1, 2 * math.pi), (0, math.pi)])
def test_time_of_a_root(controller, direction, angle):
    start = at_angles(0.5, 1.0, 2.0)
    event = Event(first, direction)
    solution = integrate(ODE(circle), start, [0.0, 9.0], controller=controller, events=(event,))
    expected = angle - torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(solution.event_times, expected, atol=1e-8)
    assert (solution.outcome == Outcome.EVENT).all()
    assert (solution.event == 0).all()
    assert solution.event_states[:, 0].abs().max() < 1e-9
    assert solution.states[:, -1].isnan().all()


def test_without_a_root_the_end_is_reached():
    start = at_angles(0.5, 2.0)
    solution = integrate(ODE(circle), start, [0.0, 0.5, 1.5], events=(Event(first),))
    assert solution.outcome.tolist() == [Outcome.SUCCESS, Outcome.EVENT]
    assert solution.event.tolist() == [-1, 0]
    assert solution.event_times[0] == 1.5
    assert torch.allclose(solution.event_states[0], solution.states[0, -1])
    assert not solution.states[1, 1].isnan().any()


def test_first_of_several_and_those_that_are_passed():
    events = (
        Event(lambda t, y: t - 2.0),
        Event(lambda t, y: y[:, 1], terminal=False),
        Event(lambda t, y: y[:, 0] + 0.5),
    )
    start = at_angles(0.0, 3.0)
    solution = integrate(ODE(circle), start, [0.0, 9.0], controller=TIGHT, events=events)
    assert solution.event.tolist() == [0, 2]
    times = torch.tensor([2.0, math.pi + math.pi / 6 - 3.0], dtype=torch.float64)
    assert torch.allclose(solution.event_times, times, atol=1e-8)
    passed = solution.crossings[1]
    assert passed.samples.tolist() == [0]
    assert passed.times[0] == pytest.approx(math.pi / 2, abs=1e-8)
    assert torch.allclose(passed.states[0], at_angles(math.pi / 2)[0], atol=1e-8)


def test_all_roots_that_are_passed_are_found():
    start = at_angles(0.3, 1.0)
    event = Event(first, terminal=False)
    solution = integrate(ODE(circle), start, [0.0, 20.0], controller=TIGHT, events=(event,))
    assert (solution.outcome == Outcome.SUCCESS).all()
    found = solution.crossings[0]
    for sample, angle in enumerate((0.3, 1.0)):
        times = found.times[found.samples == sample]
        expected = torch.arange(1, len(times) + 1) * math.pi - angle
        assert len(times) == int((20 + angle) / math.pi)
        assert torch.allclose(times, expected.double(), atol=1e-7)


def test_backward_in_time():
    solution = integrate(
        ODE(circle), at_angles(1.0), [0.0, -5.0], controller=TIGHT, events=(Event(first),)
    )
    assert solution.event_times[0] == pytest.approx(-1.0, abs=1e-8)


def test_more_looks_see_a_short_excursion():
    # Exact for one step of any length, so that the step passes over both roots.
    def parabola(t, y):
        return (2 - 2 * t)[:, None]

    start = torch.zeros(1, 1, dtype=torch.float64) - 0.75
    options = {"stepper": Tsit5(), "controller": Constant(2.0)}

    def roots(looks):
        event = Event(first, looks=looks)
        return integrate(ODE(parabola), start, [0.0, 2.0], events=(event,), **options)

    assert roots(1).event[0] == -1
    assert roots(4).event_times[0] == pytest.approx(0.5, abs=1e-12)


def test_gradient_of_time_and_state():
    start = at_angles(0.5, 1.2).requires_grad_()
    level = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def outcome(start, level, rate):
        event = Event(lambda t, y: y[:, 0] - level * (1 + 0.1 * t), -1)
        term = ODE(lambda t, y: rate * circle(t, y))
        solution = integrate(term, start, [0.0, 9.0], controller=PID(1e-8, 1e-10), events=(event,))
        weights = torch.tensor([[0.3, -1.1], [0.7, 0.2]], dtype=torch.float64)
        return solution.event_times.sum() + (solution.event_states * weights).sum()

    assert torch.autograd.gradcheck(
        outcome, (start, level, rate), eps=1e-5, atol=1e-5, rtol=1e-5, nondet_tol=0
    )


def test_gradient_at_fixed_time_is_wrong():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    event = Event(first, -1)
    solution = integrate(
        ODE(lambda t, y: rate * circle(t, y)),
        at_angles(0.5),
        [0.0, 9.0],
        controller=TIGHT,
        events=(event,),
    )
    (by_rate,) = torch.autograd.grad(solution.event_states[0, 0], rate, retain_graph=True)
    assert abs(by_rate) < 1e-8  # the state stays on the root
    (of_time,) = torch.autograd.grad(solution.event_times[0], rate)
    assert of_time == pytest.approx(-(math.pi - 0.5), rel=1e-7)


def test_gradient_of_roots_that_are_passed():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    solution = integrate(
        ODE(lambda t, y: rate * circle(t, y)),
        at_angles(0.5, 1.5),
        [0.0, 6.0],
        controller=PID(1e-8, 1e-10),
        events=(Event(first, terminal=False),),
    )
    found = solution.crossings[0]
    for time in found.times:
        (gradient,) = torch.autograd.grad(time, rate, retain_graph=True)
        assert gradient == pytest.approx(-time.item(), rel=1e-6)


def test_root_finding_converges_fast():
    calls = []

    def function(x):
        calls.append(1)
        return x**3 - torch.tensor([0.2, 0.5, 1e-9], dtype=torch.float64)

    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    found = root(function, zeros, ones, torch.float64)
    assert torch.allclose(found, torch.tensor([0.2, 0.5, 1e-9]).double() ** (1 / 3), rtol=1e-13)
    assert len(calls) < 30  # bisection takes 53


# A ball that bounces: y = (height, speed)


def fall(t, y):
    return torch.stack((y[:, 1], torch.full_like(t, -G)), dim=1)


FLOOR = Event(first, -1)


def bounced(height, restitution, time):
    """Closed form: height and speed at a time, and the times of the bounces before it."""
    flight = (2 * height / G).sqrt()
    speed, bounces = G * flight, [flight]
    if time < bounces[0]:
        return height - G * time**2 / 2, -G * time, []
    while True:
        speed = restitution * speed
        following = bounces[-1] + 2 * speed / G
        if following > time:
            since = time - bounces[-1]
            return speed * since - G * since**2 / 2, speed - G * since, bounces
        bounces.append(following)


@pytest.mark.parametrize("controller", [TIGHT, Constant(0.03)])
def test_bouncing_ball(controller):
    heights = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    restitution = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 2, 5, dtype=torch.float64)

    def jump(t, y):
        return torch.stack((torch.zeros_like(t), -restitution * y[:, 1]), dim=1)

    start = torch.stack((heights, torch.zeros_like(heights)), dim=1)
    solution = integrate_with_jumps(ODE(fall), start, times, FLOOR, jump, controller=controller)
    assert (solution.outcome == Outcome.SUCCESS).all()
    jumps = solution.crossings[0]
    for sample in range(3):
        for column, time in enumerate(times):
            height, speed, bounces = bounced(heights[sample], restitution, time)
            got = solution.states[sample, column].tolist()
            assert got == pytest.approx([height.item(), speed.item()], abs=1e-7)
        found = jumps.times[jumps.samples == sample]
        assert torch.allclose(found, torch.tensor([b.item() for b in bounces]).double(), atol=1e-8)
        exact = torch.autograd.grad(height, (heights, restitution), allow_unused=True)
        got = torch.autograd.grad(
            solution.states[sample, -1, 0], (heights, restitution), retain_graph=True
        )
        assert got[0][sample] == pytest.approx(float(exact[0][sample]), rel=1e-6)
        assert float(got[1]) == pytest.approx(float(exact[1] or 0), rel=1e-6, abs=1e-9)
    assert len(jumps.times[jumps.samples == 0]) >= 2
    assert len(jumps.times[jumps.samples == 2]) == 0


def test_too_many_jumps_are_told():
    start = torch.tensor([[1.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    solution = integrate_with_jumps(
        ODE(fall),
        start,
        [0.0, 3.0],
        FLOOR,
        lambda t, y: torch.stack((0 * t, -0.5 * y[:, 1]), 1),
        most=3,
    )
    assert solution.outcome.tolist() == [Outcome.STEP_LIMIT, Outcome.SUCCESS]
    assert solution.states[0, -1].isnan().all()


def test_senseless_events():
    with pytest.raises(ConfigurationError):
        Event(first, 2)
    with pytest.raises(ConfigurationError):
        Event(first, looks=0)
    with pytest.raises(ConfigurationError, match="terminal"):
        start = torch.zeros(1, 2, dtype=torch.float64)
        integrate_with_jumps(ODE(fall), start, [0, 1], Event(first, terminal=False), fall)
