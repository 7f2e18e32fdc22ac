"""Every way to a gradient against autograd through the steps, and the memory it takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from residua.bench.trajectory_gradients import Alive
from residua.errors import ConfigurationError
from residua.operators.neural_de import (
    ODE,
    PID,
    RK4,
    Backsolve,
    Checkpointed,
    Constant,
    Direct,
    Dopri5,
    Euler,
    Interpolated,
    McCallumFoster,
    Midpoint,
    Reversible,
    Tsit5,
    integrate,
)

DOUBLE = torch.float64
TIGHT = PID(1e-10, 1e-11)


class Field(nn.Module):
    """A pendulum with a small network for a force that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        with torch.no_grad():
            for p in self.layers.parameters():
                p.copy_(0.4 * torch.randn(p.shape, generator=generator, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.unbind(-1)
        force = self.layers(torch.cat((y, torch.cos(t)[:, None]), dim=-1))
        return torch.stack((p, -torch.sin(q)), dim=-1) + force


def gradients(adjoint, controller, stepper=None, times=(0.0, 0.7, 1.0, 2.0)):
    field = Field()
    start = torch.linspace(-1, 1, 10, dtype=DOUBLE).reshape(5, 2).requires_grad_()
    states = integrate(
        ODE(field), start, list(times), stepper=stepper or Tsit5(), controller=controller,
        adjoint=adjoint, path="eager",
    ).states  # fmt: skip
    loss = (states * torch.cos(torch.arange(float(len(times))))[:, None]).square().sum()
    return states.detach(), torch.autograd.grad(loss, [start, *field.parameters()])


def apart(found, true) -> float:
    """Largest relative distance of the gradients."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize("controller", [PID(1e-6, 1e-8), Constant(0.07)])
@pytest.mark.parametrize("how", [(), (1,), (3,), (None, 2), (2, 6)])
def test_checkpointed_gradients_are_those_of_the_steps(controller, how):
    states, true = gradients(Direct(), controller)
    found, close = gradients(Checkpointed(*how), controller)
    assert torch.allclose(states, found, rtol=1e-13) and apart(close, true) < 1e-12


@pytest.mark.parametrize("adjoint", [Backsolve, Interpolated])
def test_the_adjoint_equation_gives_the_gradient_as_well_as_it_is_solved(adjoint):
    _, true = gradients(Direct(), TIGHT, Dopri5())
    _, tight = gradients(adjoint(), TIGHT, Dopri5())
    assert apart(tight, true) < 1e-6
    # Wrong twin: a way back at loose tolerances.
    _, loose = gradients(adjoint(rtol=1e-2, atol=1e-2), TIGHT, Dopri5())
    assert apart(loose, true) > 1e-5


def test_a_kept_path_serves_where_the_state_cannot_be_had_back():
    """Backward in time this equation forgets its state by a factor of e^20 and more."""
    start = torch.tensor([[0.5], [-1.0]], dtype=DOUBLE, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -20 * (y + 0.2 * torch.sin(y) - torch.cos(3 * t)[:, None])

    def gradient(adjoint) -> Tensor:
        final = integrate(
            ODE(field), start, [0.0, 1.0], controller=PID(1e-8, 1e-14), adjoint=adjoint,
            path="eager",
        ).final  # fmt: skip
        return torch.autograd.grad(final.sum(), start)[0]

    true = gradient(Direct())
    assert apart([gradient(Interpolated())], [true]) < 1e-4
    # Wrong twin.
    assert apart([gradient(Backsolve())], [true]) > 0.1


def test_the_adjoint_equation_backward_in_time():
    _, true = gradients(Direct(), TIGHT, times=(1.0, 0.4, 0.0))
    for adjoint in (Backsolve(), Interpolated()):
        _, found = gradients(adjoint, TIGHT, times=(1.0, 0.4, 0.0))
        assert apart(found, true) < 1e-6


@pytest.mark.parametrize("controller", [PID(1e-4, 1e-5), Constant(0.02)])
@pytest.mark.parametrize("base", [Midpoint, RK4, Tsit5])
def test_reversed_gradients_are_those_of_the_steps(base, controller):
    stepper = McCallumFoster(base())
    states, true = gradients(Direct(), controller, stepper)
    found, close = gradients(Reversible(), controller, stepper)
    assert torch.allclose(states, found, rtol=1e-12) and apart(close, true) < 1e-10


def test_steps_with_another_coupling_are_not_those_to_take_back():
    """Wrong twin of the above."""

    class Wrong(McCallumFoster):
        def reverse(self, term, t, h, y, z):
            return McCallumFoster(self.base, 0.9).reverse(term, t, h, y, z)

    _, true = gradients(Direct(), Constant(0.1), McCallumFoster(Euler()))
    _, found = gradients(Reversible(), Constant(0.1), Wrong(Euler()))
    assert apart(found, true) > 1e-6


@pytest.mark.parametrize(("base", "order"), [(Euler, 1), (Midpoint, 2), (RK4, 4)])
def test_a_reversible_step_has_the_order_of_its_base(base, order):
    start = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.unbind(-1)
        return torch.stack((p, -torch.sin(q) + 0.3 * torch.cos(t)), dim=-1)

    true = integrate(ODE(field), start, [0.0, 1.0], controller=PID(1e-12, 1e-13), path="eager")
    errors = [
        float((integrate(
            ODE(field), start, [0.0, 1.0], stepper=McCallumFoster(base()),
            controller=Constant(h), path="eager",
        ).final - true.final).norm())
        for h in (0.04, 0.02)
    ]  # fmt: skip
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2


def saved_bytes(adjoint, steps: int, stepper=None) -> int:
    """What autograd keeps for the way back of so many steps, each tensor once."""
    seen: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in seen:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            held.append(tensor)  # so that its address is not given away again
        return tensor

    rate = nn.Parameter(torch.tensor(-0.3, dtype=DOUBLE))
    start = torch.ones(4, 2, dtype=DOUBLE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        integrate(
            ODE(lambda t, y: rate * y), start, [0.0, 1.0], stepper=stepper or RK4(),
            controller=Constant(1 / steps), adjoint=adjoint, path="eager",
        )  # fmt: skip
    return sum(seen.values())


def test_memory():
    few, many = 100, 1600
    direct = [saved_bytes(Direct(), n) for n in (few, many)]
    assert 12 < direct[1] / direct[0] < 20
    root = [saved_bytes(Checkpointed(), n) for n in (few, many)]
    assert root[1] < 0.1 * direct[1] and root[1] / root[0] < 8
    flat = [saved_bytes(Reversible(), n, McCallumFoster(RK4())) for n in (few, many)]
    assert flat[1] == flat[0]


def test_segments_of_segments_are_kept_in_less_memory():
    """Sixteen times the steps: 16 times the memory, its root, its cube root, or some more bits."""
    rate = nn.Parameter(torch.tensor(-0.3, dtype=DOUBLE))
    start = torch.ones(8, 4, dtype=DOUBLE)

    def most(adjoint, steps: int) -> int:
        with Alive() as alive:
            states = integrate(
                ODE(lambda t, y: torch.tanh(rate * y)), start, [0.0, 1.0], stepper=Midpoint(),
                controller=Constant(1 / steps), adjoint=adjoint, path="eager",
            ).states  # fmt: skip
            torch.autograd.grad(states.sum(), rate)
        return alive.most - 2 * 8 * steps  # without starts and lengths of the steps

    growth = [
        most(adjoint(512), 512) / most(adjoint(32), 32)
        for adjoint in (
            lambda n: Direct(),
            lambda n: Checkpointed(),
            lambda n: Checkpointed(levels=2),
            lambda n: Checkpointed(2, n.bit_length() - 1),
        )
    ]
    assert growth[0] > 12 and 2.5 < growth[1] < 5.5 and growth[2] < 3.3 and growth[3] < 2
    assert growth[3] < growth[2] < growth[1]


def test_fields_that_are_no_modules_hand_their_parameters_over():
    rate = nn.Parameter(torch.tensor(-0.3, dtype=DOUBLE))
    start = torch.ones(3, 1, dtype=DOUBLE)
    exact = 3 * math.exp(-0.3)
    for adjoint, stepper in (
        (Backsolve(parameters=(rate,)), Tsit5()),
        (Interpolated(parameters=(rate,)), Tsit5()),
        (Reversible(parameters=(rate,)), McCallumFoster(Tsit5())),
        (Checkpointed(), Tsit5()),
    ):
        found = integrate(
            ODE(lambda t, y: rate * y), start, [0.0, 1.0], stepper=stepper,
            controller=PID(1e-9, 1e-10), adjoint=adjoint,
        ).final  # fmt: skip
        (gradient,) = torch.autograd.grad(found.sum(), rate)
        assert float(gradient) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(
    ("adjoint", "stepper", "says"),
    [
        (Reversible(), Tsit5(), "cannot be taken back"),
        (Backsolve(), McCallumFoster(Tsit5()), "not explicit"),
        (Checkpointed(0), Tsit5(), "One segment"),
        (Checkpointed(levels=0), Tsit5(), "One level"),
    ],
)
def test_what_does_not_fit_is_refused(adjoint, stepper, says):
    start = torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(ConfigurationError, match=says):
        integrate(ODE(lambda t, y: -y), start, [0.0, 1.0], stepper=stepper, adjoint=adjoint)
    with pytest.raises(ConfigurationError, match="coupling"):
        McCallumFoster(Tsit5(), 1.5)
