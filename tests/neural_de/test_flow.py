"""Continuous flows: densities in closed form, that they integrate to one, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de.models.flow import ContinuousFlow, Density
from residua.operators.neural_de.models.networks import GatedField
from residua.operators.neural_de.models.solver import Solver
from residua.operators.neural_de.trajectories.series import Series
from residua.operators.neural_de.trajectories.systems import generate

DOUBLE = torch.float64
TIGHT = Solver("dopri5", rtol=1e-9, atol=1e-10, path="eager")


def points(values: Tensor) -> Series:
    count = len(values)
    return Series(torch.zeros(count, 1).double(), values[:, None], torch.ones(count).long())


def rough(components: int = 2, **settings) -> ContinuousFlow:
    """A flow with weights large enough to bend a density."""
    flow = ContinuousFlow(
        components, width=8, solver=Solver("rk4", step=0.1, path="eager"), **settings
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in flow.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return flow.double()


class Linear(nn.Module):
    """``dz/dt = A z``."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def along(self, t: Tensor, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return z @ self.matrix.T, directions @ self.matrix.T


@pytest.mark.parametrize("components", [1, 3])
def test_derivatives_along_directions_are_those_of_autograd(components):
    field = GatedField(components, width=5, depth=2).double()
    t = torch.tensor([0.1, 0.9], dtype=DOUBLE)
    z = torch.randn(2, components, dtype=DOUBLE)
    directions = torch.randn(2, 4, components, dtype=DOUBLE)
    slope, moved = field.along(t, z, directions)
    jacobians = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda y, s=s: field(s[None], y[None])[0], y)
            for s, y in zip(t, z, strict=True)
        ]  # pyright: ignore
    )
    expected = directions @ jacobians.mT
    torch.testing.assert_close(slope, field(t, z))
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-14)
    # Gates are open by other amounts at another time.
    assert float((field.along(1 - t, z, directions)[1] - expected).detach().abs().max()) > 1e-4


def test_a_linear_flow_carries_a_gaussian_to_a_gaussian():
    """x = exp(-A) z: covariance (exp(A)^T exp(A))^-1."""
    matrix = torch.tensor([[0.4, 0.7], [-0.2, -0.6]], dtype=DOUBLE)
    flow = ContinuousFlow(2, solver=TIGHT).double()
    flow.density = Density(Linear(matrix), 2).double()  # type: ignore[arg-type]
    x = torch.randn(50, 2, dtype=DOUBLE)
    grown = torch.linalg.matrix_exp(matrix)
    true = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), precision_matrix=grown.T @ grown)
    torch.testing.assert_close(flow.log_likelihood(x), true.log_prob(x), rtol=0, atol=1e-7)
    # Wrong twin: the other order of the factors.
    other = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), precision_matrix=grown @ grown.T)
    assert float((flow.log_likelihood(x) - other.log_prob(x)).abs().max()) > 0.1


def grid(half: float = 7.0, count: int = 141) -> tuple[Tensor, float]:
    axis = torch.linspace(-half, half, count, dtype=DOUBLE)
    cell = float(axis[1] - axis[0]) ** 2
    return torch.cartesian_prod(axis, axis), cell


def test_a_density_integrates_to_one_and_its_samples_have_it(monkeypatch):
    flow = rough()
    flow.shift.copy_(torch.tensor([0.3, -0.2]))
    flow.scale.copy_(torch.tensor([1.3, 0.8]))
    everywhere, cell = grid()
    with torch.no_grad():
        logs = flow.log_likelihood(everywhere)
        assert float(logs.exp().sum()) * cell == pytest.approx(1, abs=1e-4)
        # The density is bent: not the Gaussian it began as.
        base = MultivariateNormal(flow.shift, torch.diag(flow.scale**2)).log_prob(everywhere)
        assert float((logs.exp() - base.exp()).abs().sum()) * cell > 0.1
        drawn = flow.log_likelihood(flow.points(20_000, torch.Generator().manual_seed(0)))
    entropy = -float((logs * logs.exp()).sum()) * cell
    assert -float(drawn.mean()) == pytest.approx(
        entropy, abs=5 * float(drawn.std()) / math.sqrt(len(drawn))
    )
    # Wrong twin: half of the divergence.
    whole = Density.forward

    def half(self, t, y):
        return whole(self, t, y) * torch.tensor([1.0, 1.0, 0.5], dtype=DOUBLE)

    monkeypatch.setattr(Density, "forward", half)
    with torch.no_grad():
        found = flow.log_likelihood(everywhere).exp().sum() * cell
    assert abs(float(found) - 1) > 0.01


def test_the_estimated_divergence_has_the_exact_mean():
    exact = rough(3)
    exact.solver = coarse = Solver("rk4", step=0.5, path="eager")
    x = points(torch.randn(5, 3, dtype=DOUBLE))
    true = float(exact.loss(x, torch.Generator()).detach())
    estimated = rough(3, trace="hutchinson", noises=4)
    estimated.solver = coarse
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = torch.stack([estimated.loss(x, generator) for _ in range(300)])
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - true) < 4 * error < 0.02
    assert float(found.std()) > 1e-3  # it is an estimate
    # In one dimension a sign squared is one, so that nothing is left to chance.
    x = points(torch.randn(5, 1, dtype=DOUBLE))
    one = [rough(1, trace=t).loss(x, generator).detach() for t in ("exact", "hutchinson")]  # type: ignore[arg-type]
    torch.testing.assert_close(one[0], one[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("gradients", "within"),
    [("checkpointed", 1e-10), ("reversible", 1e-3), ("backsolve", 1e-3), ("interpolated", 1e-3)],
)
def test_every_way_to_a_gradient_serves_a_flow(gradients, within):
    def gradient(solver: Solver) -> Tensor:
        flow = rough()
        flow.solver = solver
        x = points(torch.randn(6, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)))
        flow.loss(x, torch.Generator()).backward()
        return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])

    true = gradient(Solver("rk4", step=0.05, path="eager"))
    found = gradient(Solver("rk4", step=0.05, gradients=gradients))
    assert float((found - true).norm() / true.norm()) < within


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_compiled_code_says_the_same(trace):
    flow, losses = rough(trace=trace), {}
    x = points(torch.randn(9, 2, dtype=DOUBLE))
    for path in ("eager", "fused"):
        flow.solver = Solver("rk4", step=0.25, path=path)  # type: ignore[arg-type]
        flow.zero_grad()
        loss = flow.loss(x, torch.Generator().manual_seed(3))
        loss.backward()
        grads = [p.grad for p in flow.parameters() if p.grad is not None]
        losses[path] = torch.cat([loss.detach()[None], *(g.flatten() for g in grads)])
    torch.testing.assert_close(losses["fused"], losses["eager"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_flow_learns_eight_gaussians(trace):
    data, test = (generate("eight_gaussians", 4000, seed=seed) for seed in (0, 1))
    solver = Solver("midpoint", step=0.125, path="eager")
    flow = ContinuousFlow(2, width=32, trace=trace, solver=solver).standardise(data)
    before = flow.evaluate(test)["log_likelihood"]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(flow.parameters(), 2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for _, batch in zip(range(100), data.batches(128, generator), strict=False):
        optimizer.zero_grad()
        flow.loss(batch, generator).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    after = flow.evaluate(test)["log_likelihood"]
    # Eight Gaussians of deviation 0.2, far apart: no density has a higher mean than their own.
    best = -math.log(8) - math.log(2 * math.pi * math.e * 0.2**2)
    assert before < best - 1.5 and best - 1 < after < best + 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match="no such trace"):
        ContinuousFlow(2, trace="exakt")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="one noise"):
        ContinuousFlow(2, trace="hutchinson", noises=0)
    with pytest.raises(ConfigurationError, match="no such word"):
        Solver("rk5")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="estimate of its error"):
        Solver("euler")
    broken = torch.zeros(3, 2)
    broken[1, 0] = torch.nan
    with pytest.raises(DataError, match="point 1 is incomplete"):
        ContinuousFlow(2).loss(points(broken), torch.Generator())
