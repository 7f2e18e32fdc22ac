"""Layers on bundles with adjoints written by hand: against torch's own graph, and one another."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from residua.engine import kernels, stack
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.mlp import Mlp
from residua.engine.taylor import ACTIVATIONS, JetAlgebra, algebra_for, composition

ALGEBRAS = {
    "burgers": algebra_for([(2, 0), (0, 1)], 2),
    "third order": algebra_for([(3, 0), (0, 1)], 2),
    "fourth order": algebra_for([(4, 0), (0, 1)], 2),
    "mixed": algebra_for([(2, 2), (1, 1)], 2),
    "collapsed": algebra_for([], 3, laplacian=(0, 1, 2)),
    "collapsed bilaplacian": algebra_for([(0, 0, 1)], 3, biharmonic=(0, 1)),
    "collapsed and mixed": algebra_for([(1, 1)], 2, laplacian=(0, 1)),
}


def random_bundle(algebra: JetAlgebra, points: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(algebra.channels, points, width, generator=generator, dtype=torch.float64)


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


@pytest.mark.parametrize("name", ALGEBRAS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_adjoint_of_a_composition_is_that_of_the_graph(activation: str, name: str) -> None:
    algebra = ALGEBRAS[name]
    plan, rule = composition(algebra), ACTIVATIONS[activation]
    z = random_bundle(algebra, 7, 3, 1).requires_grad_()
    adjoint = random_bundle(algebra, 7, 3, 2)
    slow = kernels.compose_in_graph(plan, rule, z)
    fast = kernels.compose(plan, rule, z)
    assert far(fast.detach(), slow.detach()) <= 1e-14
    wanted = torch.autograd.grad(slow, z, adjoint)[0]
    assert far(torch.autograd.grad(fast, z, adjoint)[0], wanted) <= 1e-13


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_one_wrong_derivative_of_the_activation_spoils_value_or_adjoint(order: int) -> None:
    """The adjoint needs one derivative more than the value: none of them may be wrong unnoticed."""
    algebra = ALGEBRAS["fourth order"]
    plan, rule = composition(algebra), ACTIVATIONS["sin"]

    def wrong(z: Tensor, highest: int) -> list[Tensor]:
        out = list(rule(z, highest))
        if highest >= order:
            out[order] = 1.01 * out[order]
        return out

    z = random_bundle(algebra, 7, 3, 1).requires_grad_()
    right = kernels.compose_in_graph(plan, rule, z)
    found = kernels.compose(plan, wrong, z)
    adjoint = random_bundle(algebra, 7, 3, 2)
    slip = far(torch.autograd.grad(found, z, adjoint)[0], torch.autograd.grad(right, z, adjoint)[0])
    assert max(far(found.detach(), right.detach()), slip) > 1e-4


@given(
    name=st.sampled_from(sorted(ALGEBRAS)),
    points=st.integers(1, 40),
    width=st.integers(1, 9),
    depth=st.integers(1, 3),
    outputs=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_a_chain_is_its_layers_one_after_the_other(
    name: str, points: int, width: int, depth: int, outputs: int, seed: int
) -> None:
    algebra = ALGEBRAS[name]
    plan, rule = composition(algebra), ACTIVATIONS["tanh"]
    # Far from saturation, where 1 - tanh^2 has no digits to compare.
    features = 0.3 * random_bundle(algebra, points, 2, seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = [2, *[width] * depth, outputs]
    flat = [
        (0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for inputs, units in zip(sizes[:-1], sizes[1:], strict=True)
        for shape in ((units, inputs), (units,))
    ]
    layers = list(zip(flat[::2], flat[1::2], strict=True))
    state = features
    for weight, bias in layers[:-1]:
        state = kernels.compose_in_graph(plan, rule, kernels.affine(state, weight, bias))
    slow = kernels.affine(state, *layers[-1])
    fast = stack.evaluate(plan, rule, layers, features, stack.Workspace())
    assert far(fast.detach(), slow.detach()) <= 1e-12
    adjoint = random_bundle(algebra, points, outputs, seed + 1)
    for found, wanted in zip(
        torch.autograd.grad(fast, flat, adjoint),
        torch.autograd.grad(slow, flat, adjoint),
        strict=True,
    ):
        assert far(found, wanted) <= 1e-11


def network(seed: int = 3) -> Mlp:
    generator = torch.Generator().manual_seed(seed)
    embedding = Embedding([(-1.0, 1.0), (0.0, 2.0)], periodic={}, generator=generator)
    return Mlp(embedding, 1, width=6, depth=2, generator=generator)


def test_two_evaluations_in_flight_do_not_share_arrays() -> None:
    """The second forward pass must not overwrite what the backward pass of the first needs."""
    field, algebra = network(), ALGEBRAS["burgers"]
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 20, 2, generator=generator, dtype=torch.float64)
    alone = torch.autograd.grad(field.jet(first, algebra).square().sum(), field.parameters())
    one = field.jet(first, algebra).square().sum()
    field.jet(second, algebra)
    with torch.no_grad():
        field.jet(second, algebra)
    for found, wanted in zip(torch.autograd.grad(one, field.parameters()), alone, strict=True):
        assert torch.equal(found, wanted)


def test_arrays_are_given_back_and_borrowed_again() -> None:
    field, algebra = network(), ALGEBRAS["burgers"]
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    held = set()
    for _ in range(4):
        field.jet(points, algebra).square().sum().backward()
        kept = [arrays for free in field._workspace._free.values() for arrays in free]
        held.add(tuple(arrays.before[0].data_ptr() for arrays in kept))
    assert len(held) == 1 and len(next(iter(held))) == 1
    assert copy.deepcopy(field)._workspace._free == {}


def test_gradients_can_be_differentiated_again() -> None:
    """A Hessian-vector product by the graph agrees with a difference of gradients."""
    field, algebra = network(), ALGEBRAS["third order"]
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = list(field.parameters())
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def gradients(graph: bool) -> tuple[Tensor, ...]:
        loss = field.jet(points, algebra).square().mean()
        return torch.autograd.grad(loss, parameters, create_graph=graph)

    slope = sum((g * d).sum() for g, d in zip(gradients(True), direction, strict=True))
    products = torch.autograd.grad(slope, parameters)  # type: ignore[arg-type]
    step = 1e-5
    sides = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
        sides.append(gradients(False))
    for product, ahead, behind in zip(products, *sides, strict=True):
        assert far((ahead - behind) / (2 * step), product) <= 1e-6


def test_the_fast_tanh_errs_by_a_unit_in_the_last_place_of_one() -> None:
    form = kernels.IN_PLACE[ACTIVATIONS["tanh"]]
    for dtype in (torch.float64, torch.float32):
        z = torch.linspace(-30, 30, 100_001, dtype=dtype)
        found = torch.empty_like(z)
        form.value(z, found)
        assert (found - torch.tanh(z)).abs().max() <= 3 * torch.finfo(dtype).eps


def chain(width: int = 16) -> Mlp:
    generator = torch.Generator().manual_seed(0)
    embedding = Embedding([(0, 1), (0, 1)], periodic={}, generator=generator)
    return Mlp(embedding, 1, width=width, depth=2, generator=generator)


def test_many_numbers_of_points_leave_few_arrays_behind() -> None:
    field, algebra = chain(), algebra_for([(2, 0)], 2)
    for count in range(1, 60):
        with torch.no_grad():
            field.jet(torch.rand(count, 2, dtype=torch.float64), algebra)
    assert len(field._workspace._free) <= stack.KEPT
    assert max(key[0][1] for key in field._workspace._free) == 59  # the last, not the first


def test_weights_changed_between_forward_and_backward_are_refused() -> None:
    field, algebra = chain(), algebra_for([(2, 0)], 2)
    points = torch.rand(5, 2, dtype=torch.float64)
    loss = field.jet(points, algebra).square().sum()
    with torch.no_grad():
        field.hidden[1].weight.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
