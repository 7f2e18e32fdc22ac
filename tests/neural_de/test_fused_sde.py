"""Euler and Maruyama's steps in compiled code: the same path as by torch's operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from residua.engine.fused import record
from residua.engine.fused.native import build
from residua.operators.neural_de import SDE
from residua.operators.neural_de.fused import stochastic as compiled
from residua.operators.neural_de.stochastic.integrate import integrate_sde
from residua.operators.neural_de.stochastic.steppers import Milstein

DOUBLE = torch.float64

pytestmark = pytest.mark.skipif(
    record.forbidden() or not build("int one(void) { return 1; }"),
    reason="nothing can be compiled here",
)


def drift(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(t)[:, None] - y**3


def diffusion(t: Tensor, y: Tensor) -> Tensor:
    return 0.3 + 0.2 * torch.tanh(y)


def eagerly(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "march", lambda *_: "asked for")
        return integrate_sde(*arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("batch", [1, 37])
def test_the_same_path(monkeypatch, dtype, batch):
    start = torch.linspace(-1, 1, 3 * batch, dtype=dtype).reshape(batch, 3)
    times = [0.0, 0.35, 1.0]
    for noise in (7, None):
        torch.manual_seed(0)
        one = integrate_sde(SDE(drift, diffusion), start, times, step=0.01, noise=noise)
        torch.manual_seed(0)
        other = eagerly(monkeypatch, SDE(drift, diffusion), start, times, step=0.01, noise=noise)
        assert one.path == "fused" and other.path == "eager"
        limit = 1e-12 if dtype == DOUBLE else 2e-5
        assert (one.states - other.states).abs().max() < limit
    # Wrong twin: another seed, another path.
    wrong = integrate_sde(SDE(drift, diffusion), start, times, step=0.01, noise=8)
    seven = integrate_sde(SDE(drift, diffusion), start, times, step=0.01, noise=7)
    assert (wrong.states[:, 1:] - seven.states[:, 1:]).abs().max() > 1e-2


def test_what_runs_eagerly_says_why():
    start = torch.ones(4, 2, dtype=DOUBLE)
    sde = SDE(drift, diffusion)
    milstein = integrate_sde(sde, start, [0.0, 0.1], step=0.05, stepper=Milstein())
    assert milstein.path == "eager" and "Milstein" in milstein.note
    wanted = start.clone().requires_grad_()
    found = integrate_sde(sde, wanted, [0.0, 0.1], step=0.05, noise=1)
    assert found.path == "eager" and found.states.requires_grad
    network = nn.Linear(2, 2).double()
    learnt = SDE(lambda t, y: network(y), diffusion)
    found = integrate_sde(learnt, start, [0.0, 0.1], step=0.05, noise=1)
    assert found.path == "eager" and found.states.requires_grad
    with torch.no_grad():
        assert integrate_sde(learnt, start, [0.0, 0.1], step=0.05, noise=1).path == "fused"
    general = SDE(drift, lambda t, y: y[..., None].expand(4, 2, 3), "general", channels=3)
    assert "several channels" in integrate_sde(general, start, [0.0, 0.1], step=0.05).note


def test_a_field_that_changed_is_compiled_anew():
    class Rate:
        value = 1.0

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return self.value * y

    rate, start = Rate(), torch.ones(3, 1, dtype=DOUBLE)
    still = SDE(rate, lambda t, y: 0 * y)
    ends = []
    for value in (1.0, -1.0):
        rate.value = value
        ends.append(float(integrate_sde(still, start, [0.0, 1.0], step=1e-3).final[0, 0]))
    assert ends == [pytest.approx((1 + s * 1e-3) ** 1000, rel=1e-9) for s in (1, -1)]
