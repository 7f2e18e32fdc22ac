"""SPRING: Gauss-Newton without momentum; with it, a stochastic linear problem is solved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from residua.engine.optimizers.least_squares import FORMS, Normal
from residua.engine.optimizers.spring import Spring
from residua.errors import ConfigurationError, DivergedError

DOUBLE = torch.float64
SIZE = 40


class Batches:
    """Fresh rows of ``A theta = b`` in every step; consistent, so the solution has no residual."""

    def __init__(self, rows=10, seed=0):
        self.rows = rows
        generator = torch.Generator().manual_seed(seed)
        self.solution = torch.randn(SIZE, dtype=DOUBLE, generator=generator)
        self.basis = torch.logspace(0, -1, SIZE, dtype=DOUBLE)
        self.theta = nn.Parameter(torch.zeros(SIZE, dtype=DOUBLE))
        self.calls = 0

    def __call__(self):
        generator = torch.Generator().manual_seed(1000 + self.calls)
        self.calls += 1
        draw = torch.randn(self.rows, SIZE, dtype=DOUBLE, generator=generator)
        jacobian = draw * self.basis / self.rows**0.5
        return (jacobian @ (self.theta - self.solution)).detach(), jacobian

    @property
    def error(self):
        return float((self.theta.detach() - self.solution).norm() / self.solution.norm())


@pytest.mark.parametrize("form", ["auto", *FORMS])
@pytest.mark.parametrize("rows", [10, 90])
def test_without_momentum_it_is_damped_gauss_newton(form, rows):
    batches = Batches(rows)
    optimizer = Spring(
        [batches.theta],
        batches,
        damping=1e-2,
        momentum=0.0,
        learning_rate=1.0,
        largest_step=1e9,
        form=form,
    )
    for _ in range(3):
        start = batches.theta.detach().clone()
        r, jacobian = batches()
        batches.calls -= 1
        system = Normal(jacobian, r)
        system.damp(1e-2)
        optimizer.step()
        assert torch.allclose(batches.theta.detach() - start, system.solve(), atol=1e-9, rtol=1e-9)


def test_a_step_solves_its_own_least_squares_problem():
    """The gradient of ``|J d + r|^2 + mu |S^-1 (d - beta d_1)|^2`` vanishes at d_2."""
    batches = Batches()
    options = {"damping": 0.1, "momentum": 0.7, "learning_rate": 1.0, "largest_step": 1e9}
    optimizer = Spring([batches.theta], batches, **options)
    optimizer.step()
    first, start = optimizer.last, batches.theta.detach().clone()
    r, jacobian = batches()
    batches.calls -= 1
    optimizer.step()
    d = optimizer.last
    inverse = torch.linalg.vector_norm(jacobian, dim=0).square()
    slope = jacobian.T @ (jacobian @ d + r) + 0.1 * inverse * (d - 0.7 * first)
    assert slope.abs().max() < 1e-12
    wrong = jacobian.T @ (jacobian @ d + r) + 0.1 * inverse * d
    assert wrong.abs().max() > 1e-6
    moved = batches.theta.detach() - start
    assert torch.allclose(moved, d / (1 - 0.7**4) ** 0.5, rtol=1e-10, atol=1e-14)


def error_after(steps, **options):
    batches = Batches()
    optimizer = Spring([batches.theta], batches, largest_step=10.0, **options)
    for _ in range(steps):
        optimizer.step()
    return batches.error


def test_it_converges_on_fresh_minibatches_and_sooner_with_momentum():
    """Every batch knows a quarter of the directions; the solution is found nevertheless."""
    options = {"damping": 0.1, "learning_rate": 0.1}
    assert error_after(150, momentum=0.9, **options) < 1e-5
    assert error_after(150, momentum=0.0, **options) > 1e-2


def test_the_step_is_cut_off():
    batches = Batches()
    optimizer = Spring([batches.theta], batches, damping=1e-6, largest_step=0.01)
    optimizer.step()
    assert float(batches.theta.detach().norm()) == pytest.approx(0.01)


def test_a_resumed_run_is_the_same_run():
    def run(interrupt):
        batches = Batches()
        optimizer = Spring([batches.theta], batches)
        for step in range(10):
            if step == interrupt:
                state = optimizer.state_dict()
                optimizer = Spring([batches.theta], batches, damping=5.0, largest_step=3.0)
                optimizer.load_state_dict(state)
            optimizer.step()
        return batches.theta.detach()

    assert torch.equal(run(None), run(4))


def test_what_is_not_finite_moves_nothing():
    batches = Batches()
    theta = batches.theta
    optimizer = Spring([theta], lambda: (torch.ones(3, dtype=DOUBLE) / 0, torch.ones(3, SIZE)))
    with pytest.raises(DivergedError):
        optimizer.step()
    assert (theta == 0).all()
    optimizer.soften()
    assert optimizer.damping == pytest.approx(1e-2) and optimizer.last is None


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"damping": -1.0}, {"form": "cholesky"}])
def test_what_is_out_of_range_is_refused(wrong):
    batches = Batches()
    with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))}.*write"):
        Spring([batches.theta], batches, **wrong)


def test_residuals_may_come_with_their_graph():
    theta = nn.Parameter(torch.ones(SIZE, dtype=DOUBLE))
    optimizer = Spring([theta], lambda: (2 * theta, 2 * torch.eye(SIZE, dtype=DOUBLE)))
    before = optimizer.step()
    assert optimizer.step() < before and optimizer.last.grad_fn is None
