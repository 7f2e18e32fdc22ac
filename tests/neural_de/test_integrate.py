"""The entry point: states against scipy, gradients against closed forms and differences."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from residua.errors import ConfigurationError
from residua.operators import neural_de
from residua.operators.neural_de import (
    ODE,
    PID,
    RK4,
    SDE,
    Bosh3,
    Constant,
    Direct,
    Dopri8,
    Euler,
    Flow,
    Outcome,
    Separable,
    SplitODE,
    Tsit5,
    parameters_of,
)
from residua.operators.neural_de.loop import trace
from residua.operators.neural_de.plan import replay
from residua.operators.neural_de.problem import Problem

integrate = partial(neural_de.integrate, path="eager")

TIMES = torch.tensor([0.0, 0.7, 1.1, 3.0], dtype=torch.float64)


def van_der_pol(t, y):
    x, v = y.unbind(1)
    return torch.stack((v, 2 * (1 - x * x) * v - x), dim=1)


def lotka_volterra(a):
    def field(t, y):
        x, z = y.unbind(1)
        return torch.stack((a[0] * x - a[1] * x * z, -z + a[1] * x * z), dim=1)

    return field


@pytest.mark.parametrize("stepper", [Tsit5, Dopri8])
def test_agrees_with_scipy(stepper):
    start = torch.tensor([[2.0, 0.0], [0.1, -1.0]], dtype=torch.float64)
    times = torch.linspace(0, 7.6, 30, dtype=torch.float64)
    solution = integrate(
        ODE(van_der_pol), start, times, stepper=stepper(), controller=PID(1e-9, 1e-9)
    )
    for i, y0 in enumerate(start.numpy()):
        expected = solve_ivp(
            lambda t, y: [y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]],
            (0, 7.6),
            y0,
            "DOP853",
            times.numpy(),
            rtol=1e-11,
            atol=1e-12,
        )
        assert np.abs(solution.states[i].numpy().T - expected.y).max() < 1e-6


@pytest.mark.parametrize(
    ("stepper", "controller"),
    [
        (Tsit5(), PID(1e-7, 1e-9)),
        (Bosh3(), PID(1e-5, 1e-7)),
        (RK4(), Constant(0.1)),
        (Euler(), Constant(0.05)),
    ],
)
def test_gradient_of_the_steps(stepper, controller):
    rates = torch.tensor([1.5, 0.8], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[1.0, 0.6], [0.4, 2.0]], dtype=torch.float64, requires_grad=True)
    problem = Problem(ODE(lotka_volterra(rates)), start, TIMES, stepper, controller)
    record = trace(problem)
    weights = torch.randn(2, 4, 2, dtype=torch.float64)

    def objective(start, rates):
        # The same steps for all arguments: then the difference quotient is that of the graph.
        again = Problem(ODE(lotka_volterra(rates)), start, TIMES, stepper, controller)
        _, _, values = replay(again, record.plan, record.points, start)
        states = record.points.gather(values, start).view(2, 4, 2)[:, 1:]
        return (states * weights[:, 1:]).sum()

    solution = integrate(
        ODE(lotka_volterra(rates)), start, TIMES, stepper=stepper, controller=controller
    )
    got = torch.autograd.grad((solution.states * weights)[:, 1:].sum(), (start, rates))
    for number, gradient in enumerate(got):
        direction = torch.randn_like(gradient)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                arguments = [start, rates]
                arguments[number] = arguments[number] + sign * 1e-5 * direction
                ends.append(objective(*arguments))
        difference = (ends[0] - ends[1]) / 2e-5
        assert (gradient * direction).sum() == pytest.approx(difference.item(), rel=1e-7)
        assert (gradient * direction.roll(1)).sum() != pytest.approx(difference.item(), rel=1e-3)


def test_gradient_against_the_closed_form():
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[1.0], [3.0]], dtype=torch.float64, requires_grad=True)
    solution = integrate(ODE(lambda t, y: -rate * y), start, TIMES, controller=PID(1e-10, 1e-12))
    by_rate, by_start = torch.autograd.grad(solution.final.sum(), (rate, start))
    assert by_rate.item() == pytest.approx(-3 * 4 * math.exp(-2.1), rel=1e-8)
    assert torch.allclose(by_start, torch.full_like(start, math.exp(-2.1)), rtol=1e-8)


def test_second_derivative():
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.ones(1, 1, dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: -rate * y), start, TIMES, controller=PID(1e-10, 1e-12))
    (first,) = torch.autograd.grad(solution.final.sum(), rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    assert second.item() == pytest.approx(9 * math.exp(-2.1), rel=1e-7)


def test_too_many_constant_steps():
    start = torch.ones(1, 1, dtype=torch.float64)
    options = {"controller": Constant(0.1), "max_steps": 5}
    solution = integrate(ODE(lambda t, y: -y), start, [0.0, 0.4, 1.0], **options)
    assert solution.outcome[0] == Outcome.STEP_LIMIT
    assert solution.states[0, :, 0].isnan().tolist() == [False, False, True]


def test_constant_steps_do_no_work_for_an_error():
    class Forbidden:
        def sum(self, slopes):
            raise AssertionError("an error was computed")

    stepper = Tsit5()
    start = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    stepper._constants(start).error = Forbidden()
    solution = integrate(
        ODE(lambda t, y: -y), start, TIMES, stepper=stepper, controller=Constant(1), path="eager"
    )
    assert (solution.outcome == 0).all()
    with pytest.raises(AssertionError, match="an error"):
        integrate(ODE(lambda t, y: -y), start, TIMES, stepper=stepper, path="eager")


def test_gradient_through_the_start_time():
    since = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: t[:, None] * y), start, TIMES, since=since)
    exact = start[:, 0] * torch.exp((9 - since**2) / 2)
    assert torch.allclose(solution.final[:, 0], exact, rtol=1e-4)
    assert solution.states[:, :2, 0].isnan().tolist() == [[True, False], [True, True], [True, True]]
    expected = torch.autograd.grad(exact[:2].sum(), since, retain_graph=True)[0]
    got = torch.autograd.grad(solution.final[:2].sum(), since)[0]
    assert torch.allclose(got, expected, rtol=1e-4)


def test_graph_and_no_graph_give_the_same_states():
    start = torch.tensor([[2.0, 0.0], [0.1, -1.0]], dtype=torch.float64)
    with torch.no_grad():
        plain = integrate(ODE(van_der_pol), start, TIMES)
    graph = integrate(ODE(van_der_pol), start.clone().requires_grad_(), TIMES)
    assert not plain.states.requires_grad
    assert graph.states.requires_grad
    assert torch.equal(plain.states, graph.states.detach())
    assert torch.equal(plain.statistics.evaluations, graph.statistics.evaluations)


def test_training_a_network_finds_the_field():
    network = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    start = torch.randn(8, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 3, dtype=torch.float64)
    truth = torch.stack([start @ torch.linalg.matrix_exp(matrix * t).T for t in times], dim=1)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        solution = integrate(
            ODE(lambda t, y: network(y)), start, times, stepper=RK4(), controller=Constant(0.1)
        )
        loss = (solution.states - truth).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (network[0].weight - matrix).abs().max() < 1e-3


def test_states_at_the_times_do_not_depend_on_how_many_there_are():
    start = torch.tensor([[2.0, 0.0], [0.1, -1.0]], dtype=torch.float64)
    many = integrate(ODE(van_der_pol), start, torch.linspace(0, 3, 301, dtype=torch.float64))
    few = integrate(ODE(van_der_pol), start, torch.linspace(0, 3, 4, dtype=torch.float64))
    assert torch.equal(many.statistics.steps, few.statistics.steps)
    assert torch.allclose(many.states[:, ::100], few.states, rtol=0, atol=1e-12)


def test_constant_steps_are_the_same_in_the_loop_that_looks():
    start = torch.tensor([[2.0, 0.0], [0.1, -1.0]], dtype=torch.float64)
    problem = Problem(ODE(van_der_pol), start, TIMES, RK4(), Constant(0.13))
    record = trace(problem)
    looked = record.points.gather(record.values, start).view(2, 4, 2)[:, 1:]
    solution = Direct().solve(problem)
    assert torch.allclose(looked, solution.states[:, 1:], rtol=0, atol=1e-12)
    assert (solution.statistics.steps == record.statistics.steps).all()


def test_many_samples_of_data_stay_in_their_rows():
    # A field may hold data of each sample: it is always called with the whole batch.
    rates = torch.logspace(-1, 2, 7, dtype=torch.float64)[:, None]
    start = torch.ones(7, 1, dtype=torch.float64, requires_grad=True)
    solution = integrate(ODE(lambda t, y: -rates * y), start, [0.0, 0.5, 1.0])
    assert torch.allclose(solution.final, (-rates).exp(), atol=1e-6)
    (gradient,) = torch.autograd.grad(solution.final.sum(), start)
    assert torch.allclose(gradient, (-rates).exp(), atol=1e-6)


def test_split_and_separable_terms_are_sums():
    start = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    whole = integrate(ODE(lambda t, y: -y + t[:, None].cos()), start, TIMES).states
    split = SplitODE(lambda t, y: t[:, None].cos(), lambda t, y: -y)
    assert torch.allclose(integrate(split, start, TIMES).states, whole)
    pair = Separable(lambda t, p: p, lambda t, q: -q)
    turned = integrate(pair, start, TIMES, controller=PID(1e-9, 1e-9)).final
    c, s = math.cos(3.0), math.sin(3.0)
    expected = torch.tensor([[c + 0.5 * s, -s + 0.5 * c]], dtype=torch.float64)
    assert torch.allclose(turned, expected, atol=1e-7)


def test_parameters_of_a_term():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.inner.bias.requires_grad_(False)

        def forward(self, t, y):
            return self.inner(y)

        def other(self, t, y):
            return self.inner(y)

    model = Model()
    assert [id(p) for p in parameters_of(ODE(model))] == [id(model.inner.weight)]
    assert len(parameters_of(SplitODE(model, model.other))) == 1
    assert parameters_of(ODE(lambda t, y: y)) == []


def test_path_and_note_are_told():
    start = torch.ones(1, 1, dtype=torch.float64)
    solution = integrate(ODE(lambda t, y: -y), start, [0.0, 1.0], path="eager")
    assert (solution.path, solution.note) == ("eager", "asked for")
    solution = neural_de.integrate(ODE(lambda t, y: -y), start, [0.0, 1.0])
    assert solution.path in ("eager", "fused")
    assert solution.note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": [0.0]}, "Two times"),
        ({"times": [0.0, 2.0, 1.0]}, "strictly"),
        ({"times": [0.0, math.nan]}, "strictly"),
        ({"start": torch.ones(3)}, "one sample a row"),
        ({"start": torch.ones(3, 1, dtype=torch.int64)}, "real numbers"),
        ({"stepper": Euler()}, "does not estimate its error"),
        ({"max_steps": 0}, "one step"),
        ({"path": "quick"}, "Unknown path"),
        ({"since": torch.zeros(7)}, "one time a sample"),
        ({"term": lambda t, y: y}, "is a term"),
        ({"term": SDE(lambda t, y: y, lambda t, y: y)}, "noise"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    arguments = {"term": ODE(lambda t, y: y), "start": torch.ones(3, 1), "times": [0.0, 1.0]}
    with pytest.raises(ConfigurationError, match=words):
        integrate(**{**arguments, **change})


def test_outcomes_have_sentences():
    assert all(outcome.sentence.endswith(".") for outcome in Outcome)
    assert [o.name for o in Outcome if not o.failed] == ["SUCCESS", "EVENT"]


def test_flow_is_one_graph_and_agrees():
    network = nn.Linear(2, 2).double()
    term = ODE(lambda t, y: (network(y) + t[:, None]).tanh())
    term.fields = (network,)
    start = torch.randn(3, 2, dtype=torch.float64)
    controller = Constant(0.5, jump_times=(1.3,))
    flow = Flow(term, TIMES, controller, Tsit5())
    expected = integrate(term, start, TIMES, controller=controller, path="eager").states
    assert torch.allclose(flow(start), expected, rtol=0, atol=1e-14)
    whole = torch.compile(flow, backend="eager", fullgraph=True)
    assert torch.allclose(whole(start), expected, rtol=0, atol=1e-14)
    assert len(list(flow.parameters())) == 2
    (gradient,) = torch.autograd.grad(flow(start).sum(), network.bias)
    (same,) = torch.autograd.grad(expected.sum(), network.bias)
    assert torch.allclose(gradient, same)
    assert flow.float().starts.dtype == torch.float64
    assert flow(start.float()).dtype == torch.float32
