"""Gaussian fields: Taylor rule, Jacobian rows, truncation, merge and birth, separable products."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from residua.engine import gaussian_taylor
from residua.engine.gaussian_taylor import Bells
from residua.engine.networks import tiles as neighbourhoods
from residua.engine.networks.ansatz import Reflection
from residua.engine.networks.birth import redistribute
from residua.engine.networks.field import Context, Field
from residua.engine.networks.gaussian_field import Gaussians
from residua.engine.networks.gaussians import GaussianFeatures, GaussianSettings
from residua.engine.networks.separable import SeparableFeatures
from residua.engine.taylor import algebra_for, value_algebra

sys.path.insert(0, str(Path(__file__).parent))
try:
    from oracle import disagreement, inside, rows_by_autograd, rows_from_tape, shaken, up_to
finally:
    sys.path.pop(0)

BOX = [(-1.0, 1.5), (0.25, 2.0)]
SOLID = [*BOX, (-2.0, -1.0)]
LAPLACIAN = algebra_for([(1, 0)], 2, (0, 1))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(
    bounds: list[tuple[float, float]] = BOX,
    count: int = 12,
    channels: int = 3,
    periodic: tuple[int, ...] = (),
    **settings: Any,
) -> GaussianFeatures:
    chosen = GaussianSettings(count, channels, **settings)
    return GaussianFeatures(bounds, chosen, periodic=periodic, generator=seeded())


def gaussians(depth: int, outputs: int = 3, **settings: Any) -> Field:
    made = Gaussians(features(**settings), outputs, width=5, depth=depth, generator=seeded(4))
    return shaken(made)


KINDS: dict[str, Field] = {
    "diagonal": gaussians(0),
    "network": gaussians(2, 2),
    "full": gaussians(0, full=True),
    "own sets": gaussians(1, own=True, full=True),
    "periodic": gaussians(0, periodic=(0,)),
    "reflected": Reflection(gaussians(0, 3), 0, 0.25, (1, -1, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_taylor_rule_is_nested_differentiation(kind: str) -> None:
    assert max(disagreement(KINDS[kind], inside(BOX), up_to(4, 2))) < 1e-12
    assert max(disagreement(KINDS[kind], inside(BOX), LAPLACIAN)) < 1e-12


@pytest.mark.parametrize("kind", ["full", "products", "network of products"])
def test_taylor_rule_in_three_coordinates(kind: str) -> None:
    field = gaussians(0, bounds=SOLID, count=6, full=True)
    if kind != "full":
        made = SeparableFeatures(
            SOLID,
            GaussianSettings(4, 3, density=(1.0, 1.0, 2.0)),
            periodic=[0],
            placed=SOLID,
            generator=seeded(),
        )
        depth = int(kind != "products")
        field = shaken(Gaussians(made, 2, width=3, depth=depth, generator=seeded()))
    points = inside(SOLID, 4)
    assert max(disagreement(field, points, up_to(3, 3))) < 1e-12
    mixed = algebra_for([(0, 0, 2)], 3, (0, 1))
    assert max(disagreement(field, points, mixed)) < 1e-12


def test_a_wrong_recursion_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Bells._second_slope

    def wrong(self: Bells, axis: int, other: int) -> Tensor | None:
        found = right(self, axis, other)
        return None if found is None else 1.001 * found

    monkeypatch.setattr(Bells, "_second_slope", wrong)
    assert max(disagreement(KINDS["diagonal"], inside(BOX), up_to(4, 2))) > 1e-5


def scalar(bundle: Tensor) -> Tensor:
    """Some point-wise nonlinear function of derivatives."""
    return bundle[-1, :, 0] * bundle[0, :, 1] + bundle[1, :, 1]


def rows(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobian rows from the tape and from the adjoint, both written by hand."""
    parameters = list(field.parameters())
    tape: list = []
    by_tape = rows_from_tape(scalar(field.jet(points, LAPLACIAN, Context(tape))), tape, parameters)
    return by_tape, rows_by_autograd(scalar(field.jet(points, LAPLACIAN)), parameters)


def rows_by_torch(field: Field, points: Tensor) -> Tensor:
    """The same: points that ask for a gradient are evaluated by torch's own operations."""
    bundle = field.jet(points.clone().requires_grad_(), LAPLACIAN)
    return rows_by_autograd(scalar(bundle), list(field.parameters()))


def rows_by_func(field: Gaussians, points: Tensor) -> Tensor:
    """The same from the definition, written a second time, with derivatives by torch.func."""
    made = field.features
    low, high = torch.tensor(BOX, dtype=torch.float64).T

    def value(chosen: dict[str, Tensor], point: Tensor) -> Tensor:
        away = (point - (low + high) / 2) * 2 / (high - low) - chosen["features.means"]
        if "features.shears" in chosen:
            shear = chosen["features.shears"][:, 0]
            away = torch.stack([away[:, 0], away[:, 1] + shear * away[:, 0]], dim=1)
        square = torch.exp(2 * chosen["features.log_widths"]) + made.floor**2
        variance = 1 / (1 / square + 1 / 4.0**2)
        heights = torch.exp(-(away**2 / variance).sum(1) / 2)
        return chosen["features.weights"] @ heights

    def combined(chosen: dict[str, Tensor], point: Tensor) -> Tensor:
        u = value(chosen, point)
        u_x = torch.func.jacrev(value, argnums=1)(chosen, point)[:, 0]
        curvature = torch.func.hessian(lambda x: value(chosen, x)[0])(point)
        return curvature.trace() / 2 * u[1] + u_x[1]

    parameters = {name: p.detach() for name, p in field.named_parameters()}
    found = torch.func.vmap(torch.func.jacrev(combined), (None, 0))(parameters, points)
    return torch.cat([found[name].flatten(1) for name in parameters], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_rows_are_those_of_torch(kind: str) -> None:
    points = inside(BOX, 5)
    slow = rows_by_torch(KINDS[kind], points)
    for fast in rows(KINDS[kind], points):
        assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_jacobian_rows_are_those_of_the_definition(kind: str) -> None:
    field, points = KINDS[kind], inside(BOX, 5)
    assert isinstance(field, Gaussians)
    slow = rows_by_func(field, points)
    assert (rows(field, points)[0] - slow).abs().max() < 1e-12 * slow.abs().max()


def test_rows_without_the_floor_of_widths_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: GaussianFeatures) -> Tensor:
        return torch.ones_like(self.log_widths)

    monkeypatch.setattr(GaussianFeatures, "_elasticity", wrong)
    points = inside(BOX, 5)
    slow = rows_by_torch(KINDS["diagonal"], points)
    assert (rows(KINDS["diagonal"], points)[0] - slow).abs().max() > 1e-4 * slow.abs().max()


def test_a_gradient_can_be_differentiated_again() -> None:
    field = gaussians(0, 1)
    parameters = list(field.parameters())
    points = inside(BOX)

    def curvature(values: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(values.square().sum(), parameters[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), parameters[1])[0]

    fast = curvature(field.jet(points, LAPLACIAN)[-1])
    slow = curvature(field.jet(points.clone().requires_grad_(), LAPLACIAN)[-1])
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()


def test_widths_stay_between_their_bounds_whatever_the_parameter() -> None:
    made = features()
    with torch.no_grad():
        made.log_widths[0] = -1e6
        made.log_widths[1] = 1e6
    widths = made.widths().detach()
    assert torch.allclose(widths[0], made.floor, rtol=1e-3) and float(widths[1, 0]) == 4.0
    field = Gaussians(made, 3, width=1, depth=0, generator=seeded())
    field.jet(inside(BOX), LAPLACIAN).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in field.parameters())


# Neighbourhoods
# --------------------------------------------------------------------------------------------


def many(radius: float, **settings: Any) -> Gaussians:
    """Four hundred Gaussians that reach a small part of the domain."""
    made = features(count=400, channels=1, radius=radius, overlap=0.6, **settings)
    return Gaussians(made, 1, width=1, depth=0, generator=seeded())


@pytest.mark.parametrize("settings", [{}, {"full": True}, {"periodic": (0,)}], ids=str)
@pytest.mark.parametrize("radius", [4.0, 6.0])
def test_truncation_stays_below_its_bound(radius: float, settings: dict[str, Any]) -> None:
    near, everything = many(radius, **settings), many(1e6, **settings)
    assert isinstance(near.features, GaussianFeatures)
    points = inside(BOX, 2000)
    with torch.no_grad():
        difference = (near(points) - everything(points)).abs().max()
        weights = near.features.weights.abs().sum()
    # What is left out is at least `radius` standard deviations away.
    bound = float(weights) * math.exp(-(radius**2) / 2)
    assert 0 < difference <= bound
    assert difference > 1e-6 * bound, "a bound that says something"


def pairs(count: int, points: Tensor) -> int:
    """Point-Gaussian pairs that are evaluated."""
    made = features(count=count, channels=1, overlap=0.6, radius=5.0)
    scaled = (points - made.centre) * made.stretch
    total = 0
    for where, active in neighbourhoods.tiles(scaled, made.means.detach(), made._reach(), ()):
        total += len(scaled[where]) * len(made.means[active])
    return total


def test_work_grows_with_near_pairs_not_with_all() -> None:
    points = inside(BOX, 4000)
    few, more = pairs(400, points), pairs(6400, points)
    assert more < 3 * few < 16 * few / 4
    assert more < 0.15 * 6400 * len(points)


def test_a_point_is_answered_once_and_in_its_place() -> None:
    near = many(4.0)
    points = inside(BOX, 3000)
    with torch.no_grad():
        whole = near.jet(points, LAPLACIAN)
        turned = near.jet(points.flip(0), LAPLACIAN).flip(1)
    assert (whole - turned).abs().max() < 1e-3 * whole.abs().max()
    assert (whole - whole.roll(1, 1)).abs().max() > 0.1 * whole.abs().max()


# Merge and birth
# --------------------------------------------------------------------------------------------


def doubled() -> tuple[GaussianFeatures, Tensor]:
    """Features in which every fourth Gaussian stands where its neighbour does."""
    made = features(count=60, channels=2, overlap=0.8)
    with torch.no_grad():
        for parameter in (made.means, made.log_widths):
            parameter[3::4] = parameter[2::4]
    return made, inside(BOX, 600)


def test_merging_and_birth_leave_the_features_as_they_are() -> None:
    made, sample = doubled()
    fresh = inside(BOX, 500, seed=11)
    births = inside(BOX, 10, seed=12)
    with torch.no_grad():
        before = made.jet(fresh, value_algebra(2), Context())
        assert redistribute(made, sample, births, tolerance=1e-8) == 10
        after = made.jet(fresh, value_algebra(2), Context())
        assert (after - before).abs().max() < 1e-7 * before.abs().max()
        scaled = (births - made.centre) * made.stretch
        born = torch.cdist(scaled, made.means).amin(1)
        assert born.max() < 1e-12 and int((made.weights == 0).all(0).sum()) == 10


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_gaussians_in_single_precision_are_merged_too(device: str) -> None:
    made, sample = doubled()
    made, sample = made.float().to(device), sample.float().to(device)
    births = inside(BOX, 10, seed=12).float().to(device)
    with torch.no_grad():
        before = made.jet(sample, value_algebra(2), Context())
        assert redistribute(made, sample, births) == 10
        after = made.jet(sample, value_algebra(2), Context())
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    assert made.weights.dtype == torch.float32


def test_dropping_gaussians_without_handing_their_weights_on_is_seen() -> None:
    made, sample = doubled()
    with torch.no_grad():
        before = made.jet(sample, value_algebra(2), Context())
        made.weights[:, 3::4] = 0
        after = made.jet(sample, value_algebra(2), Context())
    assert (after - before).abs().max() > 1e-2 * before.abs().max()


def test_gaussians_that_are_all_needed_stay() -> None:
    made = features(count=30, channels=1, overlap=0.4)
    before = made.means.detach().clone()
    assert redistribute(made, inside(BOX, 400), inside(BOX, 3, seed=1), tolerance=1e-8) == 0
    assert torch.equal(made.means, before)


def unevenness(made: GaussianFeatures, stretch: float) -> float:
    """Spread of the distances to the nearest neighbour, the first axis stretched."""
    metric = made.means.detach() * torch.tensor([stretch, 1.0])
    near = torch.cdist(metric, metric).fill_diagonal_(math.inf).amin(1)
    return float(near.std() / near.mean())


def test_means_begin_evenly_and_as_dense_as_asked() -> None:
    assert unevenness(features(count=200, density=(16.0, 1.0)), 16.0) < 0.15
    assert unevenness(features(count=200), 1.0) < 0.15
    assert unevenness(features(count=200), 16.0) > 0.3


def test_a_single_gaussian_settles_and_keeps_its_width() -> None:
    made = features(count=1)
    width = made.log_widths.detach().clone()
    points = inside(BOX, 100)
    weight = torch.zeros(len(points))
    weight[7] = 1e9
    made.settle(points, weight.numpy())
    assert torch.equal(made.log_widths, width) and bool(made.means.isfinite().all())


def test_wave_is_the_one_of_the_scaled_period() -> None:
    field = KINDS["periodic"]
    left, right = torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.5, 1.0]])
    with torch.no_grad():
        there = field.jet(left.double(), LAPLACIAN) - field.jet(right.double(), LAPLACIAN)
    assert there.abs().max() < 1e-12
    assert 2 * math.pi / gaussian_taylor.WAVE == 2.0


def test_gaussians_that_do_not_move_have_rows_of_their_weights_alone() -> None:
    field, points = gaussians(1, 2, moving=False), inside(BOX, 5)
    trained = [p for p in field.parameters() if p.requires_grad]
    tape: list = []
    fast = rows_from_tape(scalar(field.jet(points, LAPLACIAN, Context(tape))), tape, trained)
    slow = rows_by_autograd(scalar(field.jet(points, LAPLACIAN)), trained)
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()
    assert {id(p) for record in tape for p in record.parameters()} == {id(p) for p in trained}


def test_means_settle_where_the_weight_is() -> None:
    made, even = features(count=200), features(count=200)
    points = inside(BOX, 2000)
    made.settle(points, torch.exp(-20 * (points[:, 0] - 1.0) ** 2).numpy())

    def near(chosen: GaussianFeatures) -> Tensor:
        return (chosen.means[:, 0] / chosen.stretch[0] + chosen.centre[0] - 1.0).abs() < 0.2

    assert int(near(made).sum()) > 2 * int(near(even).sum()) > 0
    assert int((~near(made)).sum()) > 60, "no part goes without"
    widths = made.log_widths.detach().mean(1)
    assert float(widths[near(made)].mean()) < float(widths[~near(made)].mean()) - 0.2


def test_a_weight_on_one_point_does_not_put_means_into_one_place() -> None:
    made = features(count=100)
    points = inside(BOX, 1000)
    weight = torch.full((1000,), 1e-12)
    weight[17] = 1e6
    made.settle(points, weight.numpy())
    means = made.means.detach()
    apart = torch.cdist(means, means).fill_diagonal_(math.inf).amin(1)
    assert bool(made.log_widths.isfinite().all()) and int((apart > 1e-6).sum()) > 90
