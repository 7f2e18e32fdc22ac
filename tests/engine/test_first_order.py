"""What every general optimiser must do on any torch module, and Adam's own arithmetic."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from residua.engine.optimizers.first_order import Adam
from residua.engine.optimizers.objective import assign, flatten, objective_of, split
from residua.engine.optimizers.quasi_newton import DenseInverse, LimitedInverse, QuasiNewton
from residua.engine.optimizers.soap import Soap
from residua.errors import DivergedError

MAKERS = {
    "adam": lambda p, o: Adam(p, o, learning_rate=1e-2),
    "soap": lambda p, o: Soap(p, o, learning_rate=1e-2),
    "lbfgs": lambda p, o: QuasiNewton(p, o, LimitedInverse(7)),
    "bfgs": lambda p, o: QuasiNewton(p, o, DenseInverse(count(p), "bfgs")),
    "ss_broyden": lambda p, o: QuasiNewton(p, o, DenseInverse(count(p))),
}


def count(parameters):
    return sum(p.numel() for p in parameters)


class Fit:
    """A small convolutional network, a linear layer, and a parameter that nothing depends on."""

    def __init__(self, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.module = nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1)
        ).to(dtype)
        self.module.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=dtype)))
        self.parameters = list(self.module.parameters())
        with torch.no_grad():
            for p in self.parameters:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)
        self.inputs = torch.randn(40, 1, 8, generator=generator, dtype=torch.float64).to(dtype)
        self.spoilt = False

    def loss(self):
        wanted = torch.sin(self.inputs.sum((1, 2)))
        value = (self.module(self.inputs)[:, 0] - wanted).square().mean()
        return value * math.nan if self.spoilt else value

    @property
    def objective(self):
        return objective_of(self.loss, self.parameters)


def test_an_objective_is_value_and_flat_gradient():
    fit = Fit()
    value, gradient = fit.objective()
    fit.loss().backward()
    wanted = torch.cat(
        [torch.zeros_like(p) if p.grad is None else p.grad.flatten() for p in fit.parameters]
    )
    assert value == float(fit.loss().detach()) and torch.equal(gradient, wanted)
    assert not gradient.requires_grad and gradient[:2].tolist() == [0.0, 0.0]
    with torch.no_grad():
        assert torch.equal(fit.objective()[1], gradient)


def test_a_loss_that_cannot_be_lowered_is_refused_in_words():
    parameter = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(3,\); return a scalar"):
        objective_of(lambda: parameter * 2, [parameter])()
    with pytest.raises(ValueError, match="does not depend"):
        objective_of(lambda: torch.tensor(1.0), [parameter])()


def test_flat_vectors_are_copies():
    fit = Fit()
    vector = flatten(fit.parameters)
    before = vector.clone()
    assign(vector * 2, fit.parameters)
    assert torch.equal(vector, before) and torch.equal(flatten(fit.parameters), 2 * before)
    pieces = split(vector, fit.parameters)
    assert [p.shape for p in pieces] == [p.shape for p in fit.parameters]
    vector.zero_()
    assert torch.equal(flatten(fit.parameters), 2 * before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MAKERS)
def test_any_module_is_trained(name, dtype):
    fit = Fit(dtype)
    member = MAKERS[name](fit.parameters, fit.objective)
    before = float(fit.loss().detach())
    for _ in range(60):
        member.step()
        assert not member.stalled
    assert float(fit.loss().detach()) < 0.5 * before
    assert all(p.dtype == dtype and p.grad is None for p in fit.parameters)
    assert fit.parameters[0].tolist() == Fit(dtype).parameters[0].tolist()


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_not_finite_is_said_and_moves_nothing(name):
    fit = Fit()
    member = MAKERS[name](fit.parameters, fit.objective)
    for _ in range(5):
        member.step()
    before = flatten(fit.parameters)
    fit.spoilt = True
    member.renew()
    with pytest.raises(DivergedError):
        member.step()
    assert torch.equal(flatten(fit.parameters), before)
    fit.spoilt = False
    member.soften()
    value = float(fit.loss().detach())
    for _ in range(20):
        member.step()
    assert float(fit.loss().detach()) < value


@pytest.mark.parametrize("name", MAKERS)
def test_a_trial_that_raises_moves_nothing(name):
    fit = Fit()
    member = MAKERS[name](fit.parameters, fit.objective)
    for _ in range(3):
        member.step()
    before = flatten(fit.parameters)

    def broken():
        raise KeyboardInterrupt

    member.objective = broken
    with pytest.raises(KeyboardInterrupt):
        member.step()
    assert torch.equal(flatten(fit.parameters), before)


@pytest.mark.parametrize("cut", [0, 1, 2, 9, 12])
@pytest.mark.parametrize("name", MAKERS)
def test_a_stored_state_goes_on_bit_by_bit(name, cut):
    whole = Fit()
    member = MAKERS[name](whole.parameters, whole.objective)
    losses = []
    for step in range(20):
        if step == cut:
            file = io.BytesIO()
            torch.save({"p": flatten(whole.parameters), "o": member.state_dict()}, file)
            file.seek(0)
        losses.append(member.step())
    state = torch.load(file, weights_only=True)
    again = Fit(seed=1)
    again.inputs = whole.inputs
    second = MAKERS[name](again.parameters, again.objective)
    second.step()
    assign(state["p"], again.parameters)
    kept = copy.deepcopy(state["o"])
    second.load_state_dict(state["o"])
    assert [second.step() for _ in range(cut, 20)] == losses[cut:]
    assert torch.equal(flatten(again.parameters), flatten(whole.parameters))
    assert same(state["o"], kept), "loading must not tie the state to the optimiser"


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_adam_is_that_of_torch():
    ours, theirs = Fit(), Fit()
    member = Adam(ours.parameters, ours.objective, learning_rate=3e-3)
    reference = torch.optim.Adam(theirs.parameters, lr=3e-3)
    for _ in range(25):
        reference.zero_grad()
        loss = theirs.loss()
        loss.backward()
        reference.step()
        assert member.step() == float(loss.detach())
    assert torch.equal(flatten(ours.parameters), flatten(theirs.parameters))


def test_adam_walks_at_its_learning_rate_down_a_constant_slope():
    """Mean over root mean square is a sign: after k steps everything has moved by k times it."""
    slope = torch.tensor([1e-3, -5.0, 40.0], dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    member = Adam(
        [parameter], objective_of(lambda: slope @ parameter, [parameter]), learning_rate=0.01
    )
    for k in range(1, 30):
        member.step()
        assert torch.allclose(parameter.detach(), -0.01 * k * slope.sign(), rtol=1e-4)
    member.soften()
    before = parameter.detach().clone()
    member.step()
    assert torch.allclose(parameter.detach() - before, -0.005 * slope.sign(), rtol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_at_a_stationary_point_it_stalls(name):
    parameter = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    member = MAKERS[name]([parameter], objective_of(lambda: parameter.square().sum(), [parameter]))
    for _ in range(3):
        member.step()
    assert member.stalled and parameter.detach().tolist() == [0.0] * 4
