"""SOAP by its limits: Adam where the basis is the identity, equivariance, the rate of its basis."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from residua.engine.optimizers import soap
from residua.engine.optimizers.first_order import Adam
from residua.engine.optimizers.objective import objective_of
from residua.engine.optimizers.soap import Soap

F64 = torch.float64


def orthogonal(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))[0]


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def quartic(weights):
    """A loss of a matrix and a vector without any symmetry."""
    matrix, vector = weights
    a, b = random(5, 5, seed=1), random(4, 4, seed=2)
    linear = a @ matrix @ b - 1
    return linear.square().sum() + (linear @ vector - 2).square().sum() + linear.pow(4).sum() / 100


def start():
    return [nn.Parameter(random(5, 4, seed=3)), nn.Parameter(random(4, seed=4))]


def run(parameters, loss, steps, **settings):
    member = Soap(parameters, objective_of(loss, parameters), **settings)
    for _ in range(steps):
        member.step()
    return member


def test_with_the_identity_as_basis_it_is_adam(monkeypatch):
    ours, theirs = start(), start()
    adam = torch.optim.Adam(theirs, lr=1e-2, betas=(0.99, 0.999))
    monkeypatch.setattr(soap, "LARGEST_SIDE", 1)
    run(ours, lambda: quartic(ours), 1 + 20, learning_rate=1e-2)
    for _ in range(20):
        adam.zero_grad()
        quartic(theirs).backward()
        adam.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-13)
    # The wrong twin: with a basis of its own it is not.
    monkeypatch.undo()
    turned = start()
    run(turned, lambda: quartic(turned), 1 + 20, learning_rate=1e-2)
    assert (turned[0] - theirs[0]).abs().max() > 1e-3


def square_loss(matrix):
    linear = random(4, 4, seed=5) @ matrix @ random(4, 4, seed=6) - 1
    return linear.square().sum() + linear.pow(4).sum() / 100


def distance_of_rotated_twins(make):
    """Minimise f(W) and f(U W V^T); the iterates of one, rotated, against those of the other."""
    left, right = orthogonal(4, 7), orthogonal(4, 8)
    plain = nn.Parameter(random(4, 4, seed=9))
    rotated = nn.Parameter(left.T @ plain.detach() @ right)
    first = make([plain], objective_of(lambda: square_loss(plain), [plain]))
    second = make([rotated], objective_of(lambda: square_loss(left @ rotated @ right.T), [rotated]))
    for _ in range(15):
        first.step()
        second.step()
    return float((left @ rotated.detach() @ right.T - plain.detach()).abs().max())


def test_a_rotation_of_the_parameters_rotates_the_iterates():
    # Where the first gradient is diagonal, the other entries are rounding over epsilon.
    assert distance_of_rotated_twins(lambda p, o: Soap(p, o, learning_rate=1e-2)) < 1e-5
    # The wrong twin: Adam is tied to its axes.
    assert distance_of_rotated_twins(lambda p, o: Adam(p, o, learning_rate=1e-2)) > 1e-2


@pytest.mark.parametrize("shape", [(6,), (3, 5), (2, 3, 4), ()])
def test_down_a_constant_slope_of_rank_one_it_walks_at_its_learning_rate(shape):
    """In the eigenbasis the gradient is one number, so a step is its sign along G/|G|."""
    rows = shape[0] if shape else 1
    slope = torch.outer(random(rows, seed=11), random(math.prod(shape[1:]), seed=12)).reshape(shape)
    parameter = nn.Parameter(torch.zeros(shape, dtype=F64))
    member = Soap(
        [parameter],
        objective_of(lambda: (slope * parameter).sum(), [parameter]),
        learning_rate=0.1,
    )
    member.step()
    assert not parameter.detach().any()
    for k in range(1, 12):
        member.step()
        wanted = -0.1 * k * slope / slope.norm()
        assert torch.allclose(parameter.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_the_basis_converges_at_the_rate_of_orthogonal_iteration():
    """Off-diagonal entries of Q^T A Q between neighbours fall by the ratio of eigenvalues."""
    values = torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=F64)
    axes = orthogonal(4, 13)
    average = axes @ torch.diag(values) @ axes.T
    member = soap._Member(torch.zeros(4, 2, dtype=F64))
    member.averages[0] = average
    member.bases[0] = orthogonal(4, 14)
    angles = []
    for _ in range(30):
        member.turn()
        basis = member.bases[0]
        assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=F64), atol=1e-13)
        angles.append(float((basis.T @ average @ basis)[0, 1].abs()))
    assert angles[20] / angles[19] == pytest.approx(0.5, rel=1e-3)
    assert torch.allclose((axes.T @ member.bases[0]).abs(), torch.eye(4, dtype=F64), atol=1e-6)


def test_mean_squares_follow_when_the_columns_change_places():
    member = soap._Member(torch.zeros(3, 2, dtype=F64))
    member.averages[0] = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=F64))
    member.square = torch.tensor([[1.0, 1.5], [9.0, 9.5], [4.0, 4.5]], dtype=F64)
    member.turn()
    assert member.square.tolist() == [[9.0, 9.5], [4.0, 4.5], [1.0, 1.5]]
    assert torch.equal(member.bases[0].abs(), torch.eye(3, dtype=F64)[:, [1, 2, 0]])


def test_hidden_axes_cost_adam_much_and_soap_little():
    """Kronecker curvature of condition 1e6 in axes that are not those of the parameters."""

    def after(make):
        left = orthogonal(8, 15) * torch.logspace(0, -1.5, 8, dtype=F64)
        right = orthogonal(6, 16) * torch.logspace(0, -1.5, 6, dtype=F64)
        weight = nn.Parameter(torch.zeros(8, 6, dtype=F64))

        def loss():
            return (left.T @ (weight - 1) @ right).square().sum()

        member = make([weight], objective_of(loss, [weight]))
        first = float(loss().detach())
        for _ in range(400):
            member.step()
        return float(loss().detach()) / first

    good = after(lambda p, o: Soap(p, o, learning_rate=1e-2, beta1=0.9))
    bad = after(lambda p, o: Adam(p, o, learning_rate=1e-2))
    assert good < 0.1 * bad


def test_softer_is_half_the_learning_rate():
    parameters = start()
    member = run(parameters, lambda: quartic(parameters), 2, learning_rate=0.2)
    member.soften()
    assert member.learning_rate == 0.1
