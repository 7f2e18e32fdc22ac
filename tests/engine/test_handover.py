"""Fields made of other fields: known functions, reflections, hand-over and joined windows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn

from residua.engine.networks.ansatz import Handover, Reflection, SymbolicField, Windows
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.field import Context, Field, NestedField
from residua.engine.networks.mlp import Mlp
from residua.engine.taylor import JetAlgebra, algebra_for
from residua.problems import Problem
from residua.problems.equation import parse

sys.path.insert(0, str(Path(__file__).parent))
try:
    from oracle import disagreement, inside, shaken, up_to
finally:
    sys.path.pop(0)

BOX = [(-1.0, 1.5), (0.25, 2.0)]
EDGE = 0.8
X, T, Y = sympy.symbols("x t y", real=True)


def network(
    fields: int = 1, bounds: list[tuple[float, float]] = BOX, seed: int = 4, **settings: Any
) -> Field:
    generator = torch.Generator().manual_seed(seed)
    embedding = Embedding(bounds, periodic={}, generator=generator)
    return shaken(
        Mlp(embedding, fields, width=6, depth=2, generator=generator, **settings), seed + 1
    )


def known(*trees: Any, names: tuple[str, ...] = ("x", "t")) -> SymbolicField:
    return SymbolicField(names, [sympy.sympify(tree) for tree in trees])


def on(time: float, count: int = 20) -> Tensor:
    points = inside(BOX, count)
    points[:, 1] = time
    return points


# -- known functions ------------------------------------------------------------------------------

NAMES = Problem.from_mapping(
    {
        "coordinates": {"x": [-1, 1.5], "t": [0.25, 2]},
        "fields": ["u"],
        "equations": ["u_t = u_xx"],
        "conditions": [{"where": "t = 0.25", "u": 0}, {"where": "boundary", "u": 0}],
    }
).namespace
FORMULAS = [
    "exp(-x^2)*sin(3*t)",
    "tanh(2*x - t)/(2 + cos(x*t))",
    "sqrt(4 + x + t)*log(3 + x)",
    "sech(x*t)^2 - atan(x + t)",
    "erf(x)*cosh(t)",
    "where(x < 0.3, x^2*t, sin(x)*t^3)",
    "x^4",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_differentiated_exactly(text: str) -> None:
    field = known(parse(text, NAMES))
    assert max(disagreement(field, inside(BOX, 30), up_to(4, 2))) <= 1e-12
    twin = known(parse(f"{text} + 1e-3*x^2*t^2", NAMES))
    channel = up_to(4, 2).channel((2, 2))
    change = [f.jet(inside(BOX, 30), up_to(4, 2))[channel] for f in (field, twin)]
    assert torch.allclose(change[1] - change[0], torch.tensor(1e-3).double(), atol=1e-9)


def test_formulas_have_collapsed_laplacians() -> None:
    """x^2 y^3 e^t: the Laplacian in x and y is (2 y^3 + 6 x^2 y) e^t."""
    field = known(X**2 * Y**3 * sympy.exp(T), sympy.sin(T), names=("x", "y", "t"))
    points = inside([*BOX, (0.0, 1.0)], 30)
    bundle = field.jet(points, algebra_for([(0, 0, 1)], 3, laplacian=(0, 1)))
    x, y, t = points.T
    wanted = (2 * y**3 + 6 * x**2 * y) * torch.exp(t)
    assert torch.allclose(2 * bundle[-1, :, 0], wanted, rtol=1e-13, atol=1e-13)
    assert bundle[-1, :, 1].abs().max() == 0


def test_a_constant_is_one_at_every_point() -> None:
    bundle = known(2.5, X).jet(inside(BOX), up_to(2, 2))
    assert bundle.shape == (6, 9, 2) and bundle.dtype == torch.float64
    assert torch.equal(bundle[0, :, 0], torch.full((9,), 2.5).double())
    assert bundle[1:, :, 0].abs().max() == 0 and bundle[1, :, 1].min() == 1


# -- reflections ----------------------------------------------------------------------------------

MIDDLE = 0.25


def image_of(points: Tensor) -> Tensor:
    image = points.clone()
    image[:, 0] = 2 * MIDDLE - image[:, 0]
    return image


def test_reflected_fields_have_their_parities() -> None:
    """Every derivative: the sign changes with every derivative across the mirror."""
    field, algebra = Reflection(network(2), 0, MIDDLE, (1, -1)), up_to(4, 2)
    points = inside(BOX)
    here, there = field.jet(points, algebra), field.jet(image_of(points), algebra)
    for channel, (across, _) in enumerate(algebra.indices):
        sign = torch.tensor([1.0, -1.0]).double() * (-1) ** across
        size = here[channel].abs().max()
        assert (there[channel] - sign * here[channel]).abs().max() <= 1e-13 * size
        assert (there[channel] + sign * here[channel]).abs().max() > 1e-3 * size
    mirror = image_of(points)
    mirror[:, 0] = MIDDLE
    bundle = field.jet(mirror, algebra)
    for order in range(5):
        vanishing, other = bundle[algebra.channel((order, 0))].abs().amax(0).roll(order % 2)[[1, 0]]
        # Equal rows of a matrix product may differ by rounding, depending on where they stand.
        assert vanishing <= 1e-15 * other and other > 1e-2


@pytest.mark.parametrize("laplacian", [(), (0, 1)])
def test_reflections_agree_with_nested_ad(laplacian: tuple[int, ...]) -> None:
    field = Reflection(network(2, activation="sin"), 1, 1.0, (-1, 1))
    algebra = algebra_for([(1, 1)], 2, laplacian) if laplacian else up_to(4, 2)
    assert max(disagreement(field, inside(BOX), algebra)) <= 1e-12


def test_even_and_odd_part_make_the_whole() -> None:
    """And reflecting a second time changes nothing: a projection."""
    whole, algebra = network(), up_to(3, 2)
    even, odd = (Reflection(whole, 0, MIDDLE, (sign,)) for sign in (1, -1))
    points = inside(BOX)
    parts = even.jet(points, algebra), odd.jet(points, algebra)
    assert torch.allclose(parts[0] + parts[1], whole.jet(points, algebra), rtol=0, atol=1e-12)
    twice = Reflection(odd, 0, MIDDLE, (-1,)).jet(points, algebra)
    assert torch.allclose(twice, parts[1], rtol=0, atol=1e-12)
    assert Reflection(odd, 0, MIDDLE, (1,)).jet(points, algebra).abs().max() < 1e-12
    assert parts[1].abs().max() > 0.1


# -- hand-over ------------------------------------------------------------------------------------


def test_a_state_is_handed_over_exactly() -> None:
    """Value, and velocity where the equation is of second order, with all space derivatives."""
    previous = network(3)
    handed, algebra = Handover(previous, 1, EDGE, (1, 2, 0)), up_to(3, 2)
    before, after = previous.jet(on(EDGE), algebra), handed.jet(on(EDGE), algebra)
    assert torch.equal(before[0, :, :2], after[0, :, :2])
    velocity = algebra.channel((0, 1))
    assert torch.equal(before[velocity, :, 1], after[velocity, :, 1])
    for across in range(4):
        value, slope = algebra.channel((across, 0)), algebra.channel((min(across, 2), 1))
        for channel, fields in ((value, [0, 1]), (slope, [1])):
            wanted, found = before[channel][:, fields], after[channel][:, fields]
            assert (wanted - found).abs().max() <= 1e-14 * wanted.abs().max()
    # First order: no velocity. Order zero: nothing. Beyond the order: nothing.
    assert after[velocity, :, 0].abs().max() == 0 < before[velocity, :, 0].abs().min()
    assert after[:, :, 2].abs().max() == 0
    assert after[algebra.channel((1, 2))].abs().max() == 0


def test_a_hand_over_is_the_taylor_polynomial_in_time() -> None:
    """Of e^t sin x: sin x e^s (1 + (t - s) + (t - s)^2/2)."""
    previous = known(sympy.exp(T) * sympy.sin(X))
    points, algebra = inside(BOX, 30), up_to(4, 2)
    elapsed = T - sympy.Float(EDGE)
    for order in (1, 2, 3):
        polynomial = sum(elapsed**m / sympy.factorial(m) for m in range(order))
        wanted = known(sympy.exp(sympy.Float(EDGE)) * polynomial * sympy.sin(X))
        found = Handover(previous, 1, EDGE, (order,)).jet(points, algebra)
        assert torch.allclose(found, wanted.jet(points, algebra), rtol=0, atol=1e-13)
        other = Handover(previous, 1, EDGE, (order + 1,)).jet(points, algebra)
        assert (found - other).abs().max() > 1e-2


@pytest.mark.parametrize("orders", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("time_axis", [0, 1, 2])
def test_hand_overs_agree_with_nested_ad(orders: tuple[int, int], time_axis: int) -> None:
    bounds = [*BOX, (-2.0, -1.0)]
    moment = sum(bounds[time_axis]) / 2
    field = Handover(network(2, bounds, gated=True), time_axis, moment, orders)
    space = tuple(axis for axis in range(3) if axis != time_axis)
    for axes in (space, (0, 1, 2)):
        algebra = algebra_for([(1, 1, 0), (0, 1, 1)], 3, laplacian=axes)
        assert max(disagreement(field, inside(bounds), algebra)) <= 1e-12
    if max(orders) < 3:  # the rules end at order four, of which time takes its share
        assert max(disagreement(field, inside(bounds), up_to(2, 3))) <= 1e-12


def test_what_was_handed_over_is_not_trained_any_more() -> None:
    previous = network()
    handed = Handover(previous, 1, EDGE, (1,))
    assert all(not p.requires_grad for p in handed.parameters())
    assert not handed(inside(BOX)).requires_grad


# -- windows --------------------------------------------------------------------------------------


class Continued(Field):
    """State handed over and (t - s)^order times a network."""

    def __init__(self, previous: Field, time: float, orders: tuple[int, ...], seed: int) -> None:
        super().__init__()
        self.start = Handover(previous, 1, time, orders)
        self.factor = known(*((T - sympy.Float(time)) ** order for order in orders))
        self.network = network(len(orders), seed=seed)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        change = algebra.multiply(
            self.factor.jet(points, algebra), self.network.jet(points, algebra, context)
        )
        return self.start.jet(points, algebra) + change


EDGES = (0.25, 0.8, 1.3, 2.0)


def chain(orders: tuple[int, ...]) -> list[Field]:
    """Three windows, each continued from the one before."""
    fields: list[Field] = [network(len(orders), seed=1)]
    for number in (1, 2):
        fields.append(Continued(fields[-1], EDGES[number], orders, seed=10 * number))
    return fields


def test_joined_windows_are_continuous() -> None:
    """Bit for bit in the value; in the velocity too for the field of second order."""
    fields = chain((1, 2))
    joined, algebra = Windows(fields, EDGES, 1), up_to(2, 2)
    for number in (1, 2):
        points = on(EDGES[number])
        before, after = (f.jet(points, algebra) for f in fields[number - 1 : number + 1])
        assert torch.equal(joined.jet(points, algebra), before)
        assert torch.equal(before[0], after[0])
        velocity, acceleration = algebra.channel((0, 1)), algebra.channel((0, 2))
        assert torch.equal(before[velocity, :, 1], after[velocity, :, 1])
        slope = algebra.channel((1, 0))
        assert (before[slope] - after[slope]).abs().max() <= 1e-14 * before[slope].abs().max()
        # What the equation does not carry over jumps.
        assert (before[velocity, :, 0] - after[velocity, :, 0]).abs().min() > 1e-6
        assert (before[acceleration] - after[acceleration]).abs().min() > 1e-6
        # Across the edge the value changes by the distance, not by a jump.
        low, high = joined(on(EDGES[number] - 1e-9)), joined(on(EDGES[number] + 1e-9))
        assert (high - low).abs().max() < 1e-7
    # Wrong twin: handed over at another time.
    late = Continued(fields[0], EDGES[1] + 1e-3, (1, 2), seed=10)
    assert (late(on(EDGES[1])) - fields[0](on(EDGES[1]))).abs().max() > 1e-5


def test_every_point_is_answered_by_its_window() -> None:
    fields: list[Field] = [known(sympy.Integer(n) + X) for n in range(3)]
    joined = Windows(fields, EDGES, 1)
    times = torch.tensor([2.0, 0.25, 0.81, 0.8, 1.3, 1.31, 0.1, 3.0], dtype=torch.float64)
    points = torch.stack([torch.linspace(0, 1, 8, dtype=torch.float64), times], dim=1)
    # An inner edge belongs to the window before; beyond the ends the nearest answers.
    number = torch.tensor([2, 0, 1, 0, 1, 2, 0, 2])
    assert torch.equal(joined(points)[:, 0], number + points[:, 0])
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(joined(points[shuffled]), joined(points)[shuffled])
    assert torch.equal(Windows(fields[:1], EDGES[:2], 1)(points)[:, 0], points[:, 0])
    assert joined.jet(points[:0], up_to(2, 2)).shape == (6, 0, 1)


def test_windows_agree_with_nested_ad() -> None:
    joined = Windows(chain((1, 2)), EDGES, 1)
    points = inside(BOX, 40)
    found = torch.bucketize(points[:, 1].contiguous(), torch.tensor(EDGES[1:-1]).double())
    assert set(found.tolist()) == {0, 1, 2}
    algebra = up_to(2, 2)
    assert max(disagreement(joined, points, algebra)) <= 1e-12
    collapsed = algebra_for([(0, 1)], 2, laplacian=(0, 1))
    assert max(disagreement(joined, points, collapsed)) <= 1e-12
    wrong = Windows(chain((1, 2)), (0.25, 0.81, 1.3, 2.0), 1)
    points[:, 1] = 0.805
    change = wrong.jet(points, algebra) - NestedField(joined).jet(points, algebra)
    assert change.abs().max() > 1e-3


def test_windows_hold_the_weights_of_all() -> None:
    joined = Windows(chain((2,)), EDGES, 1)
    own = sum(p.numel() for p in joined.parameters())
    single = sum(p.numel() for p in network().parameters())
    assert own == 3 * single
    assert isinstance(joined.fields, nn.ModuleList) and len(joined.fields) == 3
    again = Windows(chain((2,)), EDGES, 1)
    shaken(again, 99)
    assert (again(inside(BOX)) - joined(inside(BOX))).abs().max() > 1e-2
    again.load_state_dict(joined.state_dict())
    assert torch.equal(again(inside(BOX)), joined(inside(BOX)))
