"""Compiled integration: the same numbers as torch's operations, or a reason why not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from residua.engine.fused import record
from residua.errors import ConfigurationError
from residua.operators.neural_de import (
    ODE,
    PID,
    RK4,
    Bosh3,
    Constant,
    Dopri5,
    Dopri8,
    Euler,
    Event,
    Heun,
    Midpoint,
    Outcome,
    Tsit5,
    integrate,
)
from residua.operators.neural_de.fused import library

DOUBLE = torch.float64
STEPPERS = [Euler, Midpoint, Heun, RK4, Bosh3, Tsit5, Dopri5, Dopri8]

pytestmark = pytest.mark.skipif(
    record.forbidden() or not library.build("int one(void) { return 1; }"),
    reason="nothing can be compiled here",
)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, 2 * (1 - x * x) * v - x + 0.1 * torch.cos(t)), dim=-1)


class Network(nn.Module):
    """A field with every kind of constant: matrices, biases, one that torch has to compute."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 12), activation, nn.Linear(12, 2)).double()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))
        with torch.no_grad():
            for p in self.layers.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        data = torch.cat((y**3 / (1 + y * y * y * y), torch.sin(t)[:, None]), dim=-1)
        return self.layers(data) * self.scale.exp() - y


def starts(batch: int = 11) -> Tensor:
    return torch.linspace(-1, 1, 2 * batch, dtype=DOUBLE).reshape(batch, 2)


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one - other).norm() <= tolerance * other.norm())


@pytest.mark.parametrize("stepper", STEPPERS, ids=lambda s: s.__name__)
@pytest.mark.parametrize("adaptive", [True, False])
def test_states_and_steps_are_those_of_the_eager_path(stepper, adaptive):
    if adaptive and stepper is Euler:
        return
    control = PID(rtol=1e-5, atol=1e-6, p=0.2, i=0.5) if adaptive else Constant(0.07)
    for times in ([0.0, 0.9, 1.0, 3.0], [2.0, 1.5, -0.5]):
        one, other = (
            integrate(
                ODE(oscillator), starts(), times, stepper=stepper(), controller=control, path=path
            )
            for path in ("fused", "eager")
        )
        assert one.path == "fused" and other.path == "eager"
        assert close(one.states, other.states, 1e-8 if adaptive else 1e-12)
        assert torch.equal(one.outcome, other.outcome)
        for name in ("steps", "accepted", "rejected"):
            assert torch.equal(getattr(one.statistics, name), getattr(other.statistics, name))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.SiLU, nn.GELU, nn.Sigmoid, nn.ELU])
@pytest.mark.parametrize("adaptive", [True, False])
def test_gradients_are_those_of_the_eager_path(activation, adaptive):
    """By the start and by every parameter, with times between the ends of steps."""
    field = Network(activation())
    control = PID(rtol=1e-6, atol=1e-6) if adaptive else Constant(0.13)
    found = []
    for path in ("fused", "eager"):
        start = starts().requires_grad_()
        states = integrate(
            ODE(field), start, torch.linspace(0, 2, 6), controller=control, path=path
        ).states
        weights = torch.cos(torch.arange(6.0, dtype=DOUBLE))[:, None]
        loss = (states * weights).square().sum()
        found.append(torch.autograd.grad(loss, [start, *field.parameters()]))
    # Rounding of an error estimate moves a step, by far less than the tolerance.
    assert all(close(a, b, 1e-6 if adaptive else 1e-11) for a, b in zip(*found, strict=True))
    # Wrong twin: without the weights of the last time another gradient comes out.
    start = starts().requires_grad_()
    states = integrate(ODE(field), start, torch.linspace(0, 2, 6), controller=control).states
    (wrong,) = torch.autograd.grad(states[:, :-1].square().sum(), start)
    assert not close(wrong, found[1][0], 1e-2)


def test_a_gradient_of_a_gradient():
    found = []
    for path in ("fused", "eager"):
        start = starts(3).requires_grad_()
        states = integrate(ODE(oscillator), start, [0.0, 1.0], path=path).states
        (first,) = torch.autograd.grad(states[:, -1].pow(3).sum(), start, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), start)[0])
    assert close(found[0], found[1], 1e-8)


def test_parameters_that_change_need_no_new_trace_and_fields_that_change_get_one():
    field = Network(nn.Tanh())
    before = integrate(ODE(field), starts(), [0.0, 1.0], path="fused").states
    with torch.no_grad():
        field.scale += 0.5
    after = integrate(ODE(field), starts(), [0.0, 1.0], path="fused").states
    assert not close(before, after, 1e-2)
    assert close(after, integrate(ODE(field), starts(), [0.0, 1.0], path="eager").states, 1e-9)

    class Switched(nn.Module):
        rate = 1.0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.rate * y

    switched = Switched()
    ends = []
    for rate in (1.0, -1.0):
        switched.rate = rate
        ends.append(integrate(ODE(switched), starts(), [0.0, 1.0], path="fused").final)
    for end, rate in zip(ends, (1.0, -1.0), strict=True):
        assert close(end, starts() * math.exp(rate), 1e-4)


def test_failures_are_told_and_do_not_spoil_the_gradient_of_others():
    rate = nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))
    start = torch.tensor([[0.5], [math.nan], [-1.0]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return 2 * rate * torch.sqrt(1 - y)

    found = []
    for path in ("fused", "eager"):
        solution = integrate(ODE(field), start, [0.0, 0.2, 0.5], path=path)
        assert solution.outcome.tolist() == [0, Outcome.NOT_FINITE, 0]
        loss = torch.nan_to_num(solution.states, 0.0).sum()
        found.append(torch.autograd.grad(loss, rate)[0])
    assert close(found[0], found[1], 1e-8)
    limited = integrate(
        ODE(oscillator), starts(), [0.0, 50.0], controller=PID(1e-9, 1e-9), max_steps=20,
        path="fused",
    )  # fmt: skip
    assert (limited.outcome == Outcome.STEP_LIMIT).all() and limited.final.isnan().all()


def test_single_precision_is_as_good_as_the_eager_path():
    true = integrate(
        ODE(oscillator), starts(40), [0.0, 5.0], controller=PID(1e-10, 1e-10), path="eager"
    ).final
    errors = [
        float((integrate(
            ODE(oscillator), starts(40).float(), [0.0, 5.0], controller=PID(1e-5, 1e-5), path=path
        ).final - true).norm())
        for path in ("fused", "eager")
    ]  # fmt: skip
    assert errors[0] < 2 * errors[1]


def holds_samples(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.arange(11.0, dtype=DOUBLE)[:, None]


def mixes_rows(t: Tensor, y: Tensor) -> Tensor:
    return y - y.mean(0)


def looks(t: Tensor, y: Tensor) -> Tensor:
    return y if float(y.sum()) > 0 else -y


def unknown(t: Tensor, y: Tensor) -> Tensor:
    return torch.special.bessel_j0(y)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (holds_samples, "one slope"),
        (mixes_rows, "do not agree"),
        (looks, "traced"),
        (unknown, "bessel_j0"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_and_says_why(field, says):
    solution = integrate(ODE(field), starts(), [0.0, 0.1])
    assert solution.path == "eager" and says in solution.note
    with pytest.raises(ConfigurationError, match="eager"):
        integrate(ODE(field), starts(), [0.0, 0.1], path="fused")


def test_events_run_eagerly():
    event = Event(lambda t, y: y[:, 0])
    assert "events" in integrate(ODE(oscillator), starts(), [0.0, 1.0], events=[event]).note


def test_a_falsified_library_is_not_trusted(monkeypatch):
    honest = library.build

    def falsified(text: str):
        return honest(text.replace("exponential_(x, ", "(real)1.0001 * exponential_(x, "))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-y) - 1.25

    monkeypatch.setattr(library, "build", falsified)
    library._library.cache_clear()
    try:
        solution = integrate(ODE(field), starts(), [0.0, 1.0])
    finally:
        library._library.cache_clear()
    assert solution.path == "eager" and "do not agree" in solution.note
