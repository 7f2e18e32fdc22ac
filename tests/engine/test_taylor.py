"""Taylor mode against nested automatic differentiation, its oracle."""

import pytest
import torch

from residua.engine.networks.embedding import Embedding
from residua.engine.networks.field import NestedField
from residua.engine.networks.mlp import Mlp
from residua.engine.taylor import ACTIVATIONS, algebra_for

ALL_TO_FOUR = [(a, b) for a in range(5) for b in range(5 - a)]


def network(activation="tanh", gated=False, factorised=False, periodic=False):
    generator = torch.Generator().manual_seed(3)
    embedding = Embedding(
        [(-1.0, 1.0), (0.0, 2.0)], periodic={0: 2} if periodic else {}, generator=generator
    )
    return Mlp(
        embedding,
        2,
        width=7,
        depth=2,
        activation=activation,
        gated=gated,
        factorised=factorised,
        generator=generator,
    )


def points():
    generator = torch.Generator().manual_seed(5)
    return torch.rand(9, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("gated, periodic", [(False, False), (True, True)])
def test_every_derivative_to_order_four_agrees_with_nested_ad(activation, gated, periodic):
    field = network(activation, gated, periodic=periodic)
    algebra = algebra_for(ALL_TO_FOUR, 2)
    fast = field.jet(points(), algebra)
    slow = NestedField(field).jet(points(), algebra)
    for channel in range(algebra.channels):
        scale = slow[channel].abs().max()
        assert (fast[channel] - slow[channel]).abs().max() <= 1e-12 * scale


def test_a_wrong_second_derivative_is_noticed(monkeypatch):
    from residua.engine import taylor

    def wrong(z, order):
        out = taylor.tanh_rule(z, order)
        if order >= 2:
            out[2] = 1.01 * out[2]
        return out

    field = network()
    algebra = algebra_for([(2, 0)], 2)
    field.activation = wrong
    slow = NestedField(field).jet(points(), algebra)
    fast = field.jet(points(), algebra)
    assert (fast[2:] - slow[2:]).abs().max() > 1e-4 * slow.abs().max()


def test_the_collapsed_laplacian_equals_the_sum_of_second_derivatives():
    field = network(gated=True)
    full = algebra_for([(2, 0), (0, 2)], 2)
    collapsed = algebra_for([], 2, laplacian=(0, 1))
    assert collapsed.channels == 4 < full.channels
    wanted = full.derivative(field.jet(points(), full), (2, 0))
    wanted = wanted + full.derivative(field.jet(points(), full), (0, 2))
    found = 2 * field.jet(points(), collapsed)[-1]
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    only_x = full.derivative(field.jet(points(), full), (2, 0))
    assert (found - only_x).abs().max() > 1e-3 * wanted.abs().max()


def test_factorised_layers_begin_with_the_product_of_their_factors():
    field = network(factorised=True)
    layer = field.hidden[0]
    assert torch.equal(layer.effective_weight(), torch.exp(layer.scale)[:, None] * layer.weight)


def test_a_field_is_point_wise():
    field = network()
    x = points()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(field(x)[order], field(x[order]), rtol=1e-14, atol=1e-15)
    assert not torch.allclose(field(x)[order], field(x), rtol=1e-3)
