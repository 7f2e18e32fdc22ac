"""Networks of every kind: derivatives, parameter Jacobians, embeddings, initial weights."""

from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn

from residua.engine.networks.ansatz import Reflection, SymbolicField
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.field import Context, Field, Linear, NestedField, Record
from residua.engine.networks.mlp import Mlp
from residua.engine.residuals import PointSet, ResidualEngine, interior_term
from residua.engine.taylor import JetAlgebra, algebra_for, value_algebra
from residua.problems import Problem

sys.path.insert(0, str(Path(__file__).parent))
try:
    from oracle import (
        disagreement,
        inside,
        nested,
        rows_by_autograd,
        rows_from_tape,
        shaken,
        up_to,
        wrong_from,
    )
finally:
    sys.path.pop(0)

BOX = [(-1.0, 1.5), (0.25, 2.0)]
SOLID = [*BOX, (-2.0, -1.0)]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embedded(bounds: list[tuple[float, float]] = BOX, seed: int = 3, **settings: Any) -> Embedding:
    return Embedding(bounds, generator=seeded(seed), **{"periodic": {}, **settings})


def network(
    activation: str = "tanh",
    depth: int = 2,
    bounds: list[tuple[float, float]] = BOX,
    gated: bool = False,
    factorised: bool = False,
    **embedding: Any,
) -> Mlp:
    return Mlp(
        embedded(bounds, **embedding), 2, width=6, depth=depth, activation=activation, gated=gated,
        factorised=factorised, generator=seeded(4),
    )  # fmt: skip


class Informed(Field):
    """A network that also takes the known part of an ansatz as input."""

    def __init__(self) -> None:
        super().__init__()
        x, t = sympy.symbols("x t", real=True)
        self.known = SymbolicField(("x", "t"), [sympy.sin(2 * x) * sympy.exp(-t), 3 * x * t])
        self.inner = Mlp(
            embedded(periodic={0: 2}), 2, width=6, depth=2, generator=seeded(4),
            background=torch.tensor([1.0, 9.0], dtype=torch.float64),
        )  # fmt: skip

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        known = self.known.jet(points, algebra)
        return self.inner.jet(points, algebra, replace(context or Context(), background=known))


VARIANTS: dict[str, Callable[[], Field]] = {
    "plain": lambda: network(),
    "one layer": lambda: network(depth=1),
    "factorised": lambda: network(factorised=True),
    "gated": lambda: network(gated=True),
    "gated and factorised": lambda: network("silu", gated=True, factorised=True),
    "periodic": lambda: network("gelu", periodic={0: 3}),
    "periodic twice": lambda: network("sin", periodic={0: 2, 1: 1}),
    "periodic and even": lambda: network(periodic={0: 3}, cosine_only=[0]),
    "flat at one end": lambda: network("silu", flat={0: (True, False), 1: (False, True)}),
    "flat at both ends": lambda: network(flat={0: (True, True)}, gated=True),
    "Fourier features": lambda: network(fourier=5, fourier_scale=0.7),
    "Fourier features, periodic": lambda: network("sin", fourier=5, periodic={0: 2}, depth=1),
    "everything": lambda: network(
        "gelu", gated=True, factorised=True, fourier=4, periodic={0: 2}, flat={1: (True, False)}
    ),
    "informed": Informed,
    "reflected": lambda: Reflection(network(gated=True, factorised=True), 0, 0.25, (1, -1)),
}


def mlp_of(field: Field) -> Mlp:
    inner = field.field if isinstance(field, Reflection) else field
    inner = inner.inner if isinstance(inner, Informed) else inner
    assert isinstance(inner, Mlp)
    return inner


# -- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives_to_order_four_agree_with_nested_ad(name: str) -> None:
    field = shaken(VARIANTS[name]())
    algebra = up_to(4, 2)
    slow = nested(field, inside(BOX), algebra)
    assert max(disagreement(field, inside(BOX), algebra, slow)) <= 1e-12
    # Wrong twin: one per cent off at order three shows in all of that order and in none below.
    inner = mlp_of(field)
    inner.activation = wrong_from(3, inner.activation)
    found = disagreement(field, inside(BOX), algebra, slow)
    order = [sum(index) for index in algebra.indices]
    assert max(e for e, o in zip(found, order, strict=True) if o <= 2) <= 1e-12
    assert min(e for e, o in zip(found, order, strict=True) if o == 3) > 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gated": True, "factorised": True, "periodic": {1: 2}},
        {"flat": {0: (True, True), 2: (False, True)}, "periodic": {1: 1}, "fourier": 4},
    ],
)
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2)])
def test_collapsed_laplacians_agree_with_nested_ad(
    settings: dict[str, Any], axes: tuple[int, ...]
) -> None:
    field = shaken(network(bounds=SOLID, **settings))
    algebra = algebra_for([(0, 1, 0)], 3, laplacian=axes)
    assert max(disagreement(field, inside(SOLID), algebra)) <= 1e-12
    other = algebra_for([(0, 1, 0)], 3, laplacian=(0, 1))
    change = field.jet(inside(SOLID), algebra)[-1] - field.jet(inside(SOLID), other)[-1]
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_collapsed_bilaplacians_agree_with_nested_ad(name: str) -> None:
    field = shaken(VARIANTS[name]())
    collapsed = algebra_for([], 2, biharmonic=(0, 1))
    assert collapsed.channels == 9
    assert max(disagreement(field, inside(BOX), collapsed)) <= 1e-11
    full = algebra_for([(4, 0), (2, 2), (0, 4)], 2)
    bundle = field.jet(inside(BOX), full)
    terms = [full.derivative(bundle, index) for index in ((4, 0), (2, 2), (0, 4))]
    found = collapsed.collapsed(field.jet(inside(BOX), collapsed))
    wanted = terms[0] + 2 * terms[1] + terms[2]
    assert (found - wanted).abs().max() <= 1e-11 * wanted.abs().max()
    assert (found - sum(terms)).abs().max() > 1e-6 * wanted.abs().max()  # 2 for the mixed one


def test_products_of_collapsed_bilaplacians_in_space() -> None:
    one, other = network(bounds=SOLID), shaken(network(bounds=SOLID))
    algebra = algebra_for([(0, 0, 1)], 3, biharmonic=(0, 1, 2))

    class Product(Field):
        def jet(self, points: Tensor, algebra: JetAlgebra, context: Any = None) -> Tensor:
            return algebra.multiply(one.jet(points, algebra), other.jet(points, algebra))

    assert max(disagreement(Product(), inside(SOLID), algebra)) <= 1e-11


def test_the_oracle_differentiates_a_known_function() -> None:
    """sin(2 x) e^(3 t): the derivative of order (a, b) is 2^a 3^b sin(2 x + a pi/2) e^(3 t)."""

    class Known(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return (torch.sin(2 * points[:, 0]) * torch.exp(3 * points[:, 1]))[:, None]

    points, algebra = inside(BOX), algebra_for(up_to(4, 2).indices, 2, laplacian=(0, 1))
    bundle = NestedField(Known()).jet(points, algebra)
    x, growth = points[:, 0], torch.exp(3 * points[:, 1])
    for a, b in algebra.indices:
        expected = 2**a * 3**b * torch.sin(2 * x + a * math.pi / 2) * growth
        found = algebra.derivative(bundle, (a, b))[:, 0]
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-9)
    laplacian = (9 - 4) * torch.sin(2 * x) * growth
    assert torch.allclose(2 * bundle[-1, :, 0], laplacian, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_single_precision_stays_single(name: str) -> None:
    field = VARIANTS[name]()
    points, algebra = inside(BOX), up_to(2, 2)
    wanted = field.jet(points, algebra)
    found = field.to(torch.float32).jet(points.float(), algebra)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


# -- parameter Jacobians --------------------------------------------------------------------------


def residual_of(bundle: Tensor, algebra: JetAlgebra) -> Tensor:
    """A residual in which every channel of two fields matters, one number per point."""
    u, v = bundle[..., 0], bundle[..., 1]
    weights = torch.linspace(0.5, 1.5, algebra.channels, dtype=bundle.dtype)[:, None]
    return (weights * u).sum(0) * v[0] + torch.sin(v[1:].sum(0)) + u[0] ** 3


@pytest.mark.parametrize("laplacian", [(), (0, 1)])
@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_the_jacobian_agree_with_autograd(
    name: str, laplacian: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = shaken(VARIANTS[name]())
    parameters = list(field.parameters())
    algebra = algebra_for([(1, 1)] if laplacian else [(2, 0), (0, 1), (1, 2)], 2, laplacian)
    tape: list[Record] = []
    values = residual_of(field.jet(inside(BOX), algebra, Context(tape)), algebra)
    assert {p for r in tape for p in r.parameters()} == set(parameters)
    fast = rows_from_tape(values, tape, parameters)
    graph = residual_of(field.jet(inside(BOX), algebra), algebra)
    assert (graph - values).abs().max() <= 1e-13 * values.abs().max()
    slow = rows_by_autograd(graph, parameters)
    assert fast.shape == (9, sum(p.numel() for p in parameters))
    assert (fast - slow).abs().max() <= 1e-11 * slow.abs().max()
    # Wrong twin: without the derivative channels of the layers' inputs.
    right = Linear.jacobian

    def values_only(layer: Linear, inputs: Tensor, *rest: Any) -> dict:
        return right(layer, torch.cat([inputs[:1], 0 * inputs[1:]]), *rest)

    monkeypatch.setattr(Linear, "jacobian", values_only)
    wrong = rows_from_tape(values, tape, parameters)
    assert (wrong - slow).abs().max() > 1e-3 * slow.abs().max()


def test_a_weight_used_twice_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reflection evaluates the network at a point and its image: both copies belong to a row."""
    field = shaken(VARIANTS["reflected"]())
    parameters = list(field.parameters())
    tape: list[Record] = []
    algebra = up_to(1, 2)
    values = residual_of(field.jet(inside(BOX), algebra, Context(tape)), algebra)
    fast = rows_from_tape(values, tape, parameters)
    slow = rows_by_autograd(residual_of(field.jet(inside(BOX), algebra), algebra), parameters)
    assert (fast - slow).abs().max() <= 1e-11 * slow.abs().max()
    right = Linear.jacobian

    def first_copy(layer: Linear, inputs: Tensor, adjoint: Tensor, points: int, *rest: Any) -> dict:
        return right(layer, inputs[:, :points], adjoint[:, :points], points, *rest)

    monkeypatch.setattr(Linear, "jacobian", first_copy)
    assert (rows_from_tape(values, tape, parameters) - slow).abs().max() > 1e-3 * slow.abs().max()


class Stretched(Field):
    """A network times a trained number, which is in no layer."""

    def __init__(self, inner: Field) -> None:
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(torch.tensor([1.5], dtype=torch.float64))

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        return self.factor * self.inner.jet(points, algebra, context)


def test_parameters_outside_the_layers_have_their_columns() -> None:
    problem = Problem.from_mapping(
        {
            "coordinates": {"x": [-1, 1.5], "y": [0.25, 2]},
            "fields": ["u", "v"],
            "equations": ["lap(u) + v^2 = x", "v_xy + u*v_x = 0"],
            "conditions": [{"where": "boundary", "u": 0, "v": 0}],
        }
    )
    field = Stretched(shaken(network(factorised=True)))
    engine = ResidualEngine(problem, field, [interior_term(problem)])
    points = PointSet(inside(BOX), torch.full((9,), 1 / 9, dtype=torch.float64))
    residual, jacobian = engine.linearise({"interior": points})
    values = engine.residuals({"interior": points})["interior"].flatten() / 3
    assert torch.allclose(residual, values)
    slow = rows_by_autograd(values, engine.parameters)
    assert (jacobian - slow).abs().max() <= 1e-11 * slow.abs().max()
    column = next(
        sum(p.numel() for p in engine.parameters[:i])
        for i, p in enumerate(engine.parameters)
        if p is field.factor
    )
    assert jacobian[:, column].abs().min() > 0


# -- embeddings -----------------------------------------------------------------------------------


def across(field: Field, axis: int, bounds: list[tuple[float, float]] = BOX) -> tuple[Tensor, ...]:
    """Bundles to order four at points of the low face, of the high face, and one length beyond."""
    low, high = bounds[axis]
    algebra = up_to(4, len(bounds))
    out = []
    for value in (low, high, 2 * high - low):
        points = inside(bounds)
        points[:, axis] = value
        out.append(field.jet(points, algebra))
    return tuple(out)


@pytest.mark.parametrize("settings", [{}, {"gated": True, "factorised": True}, {"fourier": 6}])
def test_periodic_fields_are_periodic_with_four_derivatives(settings: dict[str, Any]) -> None:
    field = shaken(network(periodic={0: 3}, **settings))
    low, high, beyond = across(field, 0)
    size = low.abs().amax(dim=(1, 2), keepdim=True)
    for other in (high, beyond):
        assert ((other - low).abs() <= 1e-12 * size).all()
    # Inside too, and not because nothing depends on the coordinate.
    assert (across(field, 1)[0] - across(field, 1)[1]).abs().max() > 1e-2
    assert low[1].abs().max() > 1e-2
    twin = shaken(network(**settings))
    low, high, _ = across(twin, 0)
    assert ((high - low).abs().amax(dim=(1, 2)) > 1e-3 * low.abs().amax(dim=(1, 2))).all()


def test_two_periods_close_a_torus() -> None:
    field = shaken(network(periodic={0: 2, 1: 2}))
    points, algebra = inside(BOX), up_to(4, 2)
    shift = torch.tensor([high - low for low, high in BOX], dtype=torch.float64)
    here, there = field.jet(points, algebra), field.jet(points - shift, algebra)
    assert ((here - there).abs() <= 1e-11 * here.abs().amax(dim=(1, 2), keepdim=True)).all()
    half = field.jet(points - shift / 2, algebra)
    assert (half - here).abs().max() > 1e-2


def test_cosines_alone_make_every_field_even() -> None:
    """About the midpoint and the ends: odd derivatives vanish there, even ones do not."""
    field = shaken(network(periodic={0: 3}, cosine_only=[0]))
    both = shaken(network(periodic={0: 3}))
    algebra = up_to(4, 2)
    points = inside(BOX)
    for value in (*BOX[0], 0.25):
        points[:, 0] = value
        bundle, twin = field.jet(points, algebra), both.jet(points, algebra)
        for order in (1, 2, 3, 4):
            found = bundle[algebra.channel((order, 0))].abs().max()
            assert (found <= 1e-11) if order % 2 else (found > 1e-2)
            assert twin[algebra.channel((order, 0))].abs().max() > 1e-2


def test_bounded_coordinates_are_scaled_to_the_unit_box() -> None:
    corners = torch.tensor([[-1.0, 0.25], [1.5, 2.0], [0.25, 1.125]], dtype=torch.float64)
    features = embedded().jet(corners, up_to(1, 2))
    assert torch.equal(features[0], torch.tensor([[-1.0, -1], [1, 1], [0, 0]]).double())
    assert torch.allclose(features[1, :, 0], torch.tensor(2 / 2.5).double())


def test_harmonics_are_orthogonal_over_the_period() -> None:
    """The mean square of each is 1/2, and that of its derivative gives the wave number."""
    embedding = embedded(periodic={0: 4})
    points = torch.zeros(64, 2, dtype=torch.float64)
    points[:, 0] = torch.linspace(-1, 1.5, 65, dtype=torch.float64)[:-1]
    values, slopes = embedding.jet(points, up_to(1, 2))[:2, :, 1:]
    assert values.shape[1] == embedding.features - 1 == 8
    assert torch.allclose(values.T @ values / 64, torch.eye(8).double() / 2, atol=1e-14)
    waves = (2 * slopes.square().mean(0)).sqrt()
    wanted = 2 * math.pi / 2.5 * torch.tensor([1.0, 2, 3, 4]).double().repeat(2)
    assert torch.allclose(waves, wanted, rtol=1e-13, atol=0)


def test_fourier_features_give_the_gaussian_kernel() -> None:
    """The mean of cos(B (f - g)) over B ~ N(0, s^2) is exp(-s^2 |f - g|^2 / 2).

    Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007.
    """
    count, scale = 4000, 0.8
    embedding = embedded(fourier=count, fourier_scale=scale)
    plain = embedded().jet(inside(BOX), value_algebra(2))[0]
    features = embedding.jet(inside(BOX), value_algebra(2))[0]
    assert features.shape == (9, 2 * count)
    cosines, sines = features.unflatten(1, (2, count)).unbind(1)
    assert torch.allclose(cosines**2 + sines**2, torch.ones_like(cosines), atol=1e-14)
    found = features @ features.T / count
    squares = torch.cdist(plain, plain) ** 2
    # Four standard deviations of a mean of 4000 cosines.
    assert (found - torch.exp(-(scale**2) * squares / 2)).abs().max() < 4 / math.sqrt(2 * count)
    assert (found - torch.exp(-((2 * scale) ** 2) * squares / 2)).abs().max() > 0.1


def test_frequencies_travel_with_the_weights() -> None:
    """B is drawn, so it must be stored; another draw is another field until it is loaded."""
    first, second = (
        Mlp(embedded(seed=seed, fourier=5), 2, width=6, depth=2, generator=seeded(4))
        for seed in (1, 2)
    )
    points = inside(BOX)
    assert (first(points) - second(points)).abs().max() > 1e-2
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(points), second(points))


# -- layers ---------------------------------------------------------------------------------------


def test_the_plain_network_is_the_textbook_one() -> None:
    field = shaken(network(depth=3))
    state = 2 * (inside(BOX) - torch.tensor([0.25, 1.125])) / torch.tensor([2.5, 1.75])
    inner = mlp_of(field)
    for layer in inner.hidden:
        assert isinstance(layer, Linear)
        state = torch.tanh(nn.functional.linear(state, layer.weight, layer.bias))
    wanted = nn.functional.linear(state, inner.readout.weight, inner.readout.bias)
    assert torch.allclose(field(inside(BOX)), wanted, rtol=1e-13, atol=1e-13)


def test_gates_blend_two_encoders() -> None:
    """h <- U + h (V - U): with U = V nothing of the hidden layers is left."""
    field = shaken(network(gated=True))
    inner = mlp_of(field)
    first, second = inner.encoders
    assert isinstance(first, Linear) and isinstance(second, Linear)
    features = inner.embedding.jet(inside(BOX), value_algebra(2))
    u, v = torch.tanh(first(features)), torch.tanh(second(features))
    state = features
    for layer in inner.hidden:
        mixed = torch.tanh(layer(state))
        state = (1 - mixed) * u + mixed * v
    assert torch.allclose(field(inside(BOX)), inner.readout(state)[0], rtol=1e-13, atol=1e-13)
    before = field(inside(BOX))
    for same in (False, True):
        if same:
            second.load_state_dict(first.state_dict())
            before = field(inside(BOX))
            assert torch.allclose(before, inner.readout(u)[0], rtol=1e-13, atol=1e-13)
        with torch.no_grad():
            for layer in inner.hidden:
                layer.weight.mul_(2.0)  # type: ignore[operator]
        change = (field(inside(BOX)) - before).abs().max()
        assert change <= 1e-14 if same else change > 1e-2


def test_factorising_changes_the_training_and_not_the_start() -> None:
    """W = diag(e^s) V is the draw of a plain layer; its gradients are G W and e^s G."""
    plain = Linear(20, 400, generator=seeded())
    layer = Linear(20, 400, generator=seeded(), factorised=True)
    assert layer.scale is not None and plain.scale is None
    assert torch.allclose(layer.effective_weight(), plain.weight, rtol=1e-14, atol=0)
    scale = layer.scale.detach()
    assert float(scale.mean()) == pytest.approx(0.5, abs=4 * 0.1 / math.sqrt(400))
    assert float(scale.std()) == pytest.approx(0.1, rel=4 / math.sqrt(2 * 400))
    cotangent = torch.randn(400, 20, generator=seeded(9), dtype=torch.float64)
    (layer.effective_weight() * cotangent).sum().backward()
    by_scale = (cotangent * plain.weight).sum(1)
    assert layer.scale.grad is not None and layer.weight.grad is not None
    assert torch.allclose(layer.scale.grad, by_scale)
    assert torch.allclose(layer.weight.grad, torch.exp(layer.scale)[:, None] * cotangent)
    assert not torch.allclose(layer.weight.grad, cotangent, rtol=0.1)


def test_initial_weights_are_glorot_normal() -> None:
    layer = Linear(100, 300, generator=seeded())
    weight, wanted = layer.weight.detach(), math.sqrt(2 / 400)
    assert float(weight.std()) == pytest.approx(wanted, rel=4 / math.sqrt(2 * 30000))
    assert float(weight.mean()) == pytest.approx(0, abs=4 * wanted / math.sqrt(30000))
    kurtosis = (weight**4).mean() / weight.var() ** 2
    assert float(kurtosis) == pytest.approx(
        3, abs=4 * math.sqrt(24 / 30000)
    )  # uniform would give 1.8
    assert layer.bias is not None
    assert layer.bias.abs().max() <= 0.1 and layer.bias.abs().max() > 0.095


def test_equal_seeds_give_equal_networks() -> None:
    for name, make in VARIANTS.items():
        first, second = make()(inside(BOX)), make()(inside(BOX))
        assert torch.equal(first, second), name


def test_an_informed_network_uses_what_it_is_told() -> None:
    """The background comes in divided by its size: 9 times the size for 9 times the field."""
    field = shaken(Informed())
    assert isinstance(field, Informed)
    before = field(inside(BOX))
    field.known = SymbolicField(("x", "t"), [9 * tree for tree in field.known.trees])
    assert (field(inside(BOX)) - before).abs().max() > 1e-2
    assert field.inner.background is not None
    field.inner.background *= 9
    assert torch.allclose(field(inside(BOX)), before, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match="background"):
        field.inner(inside(BOX))


# -- what travels beside an evaluation ------------------------------------------------------------


def test_features_are_computed_once_for_a_set_of_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the cache holds nothing that training changes."""
    field = network(gated=True, fourier=4)
    calls = []
    right = Embedding.jet
    monkeypatch.setattr(Embedding, "jet", lambda self, *args: calls.append(1) or right(self, *args))
    points, context = inside(BOX), Context(cache={})
    for algebra in (up_to(2, 2), up_to(1, 2)):
        for seed in (1, 2):
            shaken(field, seed)
            cached = field.jet(points, algebra, context)
            assert torch.equal(cached, field.jet(points, algebra))
    assert len(calls) == 4 + 2
    # Kept past its points, a cache answers for the old ones.
    stale = field.jet(points + 0.1, up_to(1, 2), context)
    assert (stale - field.jet(points + 0.1, up_to(1, 2))).abs().max() > 1e-3


def test_no_points_give_no_values() -> None:
    for name, make in VARIANTS.items():
        bundle = make().jet(torch.empty(0, 2, dtype=torch.float64), up_to(2, 2))
        assert bundle.shape == (6, 0, 2), name


def test_what_is_cached_belongs_to_its_field_for_good():
    """Another field at the same place in memory must not meet it."""
    context, algebra = Context(cache={}), value_algebra(1)

    class Owner:
        pass

    owner = Owner()
    kept = weakref.ref(owner)
    context.constant(owner, algebra, "features", lambda: torch.ones(1))
    del owner
    gc.collect()
    assert kept() is not None
    other = context.constant(Owner(), algebra, "features", lambda: torch.zeros(1))
    assert other.item() == 0
