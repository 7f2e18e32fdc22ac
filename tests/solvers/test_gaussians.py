"""The backend `gaussians`: converges, resumes exactly, takes every optimiser, says what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from residua.config import make_case
from residua.engine.networks.gaussians import GaussianFeatures
from residua.engine.optimizers.variable_projection import VariableProjection
from residua.errors import ConfigurationError
from residua.problems import registry
from residua.problems.problem import Problem
from residua.solvers import BACKENDS, gaussians
from residua.solvers.build import build_field
from residua.solvers.gaussians import PhysicsInformedGaussians

SMALL = {"count": 40, "overlap": 2.0}
POINTS = {"interior": 500, "resample_every": 0}
MANUFACTURED = {
    "coordinates": {"x": [0, 1], "y": [0, 2]},
    "fields": ["u"],
    "equations": ["lap(u) + u^3 = -25*sin(3*x + 4*y) + sin(3*x + 4*y)^3"],
    "conditions": [{"where": "boundary", "u": "sin(3*x + 4*y)"}],
    "reference": {"exact": {"u": "sin(3*x + 4*y)"}},
}


def case(problem: Any, optimizer: Any = "gauss_newton", seed: int = 0, **solver: Any):
    settings = {"gaussians": SMALL, "points": POINTS, **solver}
    return make_case(
        problem,
        {"name": "gaussians", "optimizer": [optimizer], **settings},
        {"budget": 100, "seed": seed},
    )


def trainer(problem: Any, optimizer: Any = "gauss_newton", **more: Any) -> PhysicsInformedGaussians:
    return PhysicsInformedGaussians(case(problem, optimizer, **more), torch.device("cpu"))


def manufactured() -> Problem:
    return Problem.from_mapping(MANUFACTURED, name="manufactured")


def error(member: PhysicsInformedGaussians) -> float:
    """Relative L2 error against sin(3*x + 4*y) on a grid."""
    axes = [np.linspace(low, high, 41) for low, high in member.problem.bounds]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    with torch.no_grad():
        found = member.field(torch.from_numpy(points))[:, 0].numpy()
    true = np.sin(points @ [3.0, 4.0])
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def trained(member: PhysicsInformedGaussians, steps: int) -> PhysicsInformedGaussians:
    for _ in range(steps):
        if member.step(math.inf).done:
            break
    return member


@pytest.mark.parametrize(
    "settings",
    [{}, {"covariance": "full"}, {"network": True, "sets": "own", "count": 15}],
    ids=["sum", "full", "network of own sets"],
)
def test_the_error_falls_on_a_manufactured_solution(settings: dict[str, Any]) -> None:
    member = trainer(manufactured(), gaussians={**SMALL, **settings})
    before = error(member)
    assert error(trained(member, 25)) < 1e-3 < 1e-2 * before


def test_more_gaussians_are_more_accurate_and_too_few_are_not() -> None:
    chosen = {"name": "gauss_newton", "variable_projection": True}
    errors = [
        error(trained(trainer(manufactured(), chosen, gaussians={**SMALL, "count": n}), 6))
        for n in (4, 16, 64)
    ]
    assert errors[2] < 0.1 * errors[1] < 0.03 * errors[0]


def test_a_linear_equation_is_solved_for_its_weights_in_one_step() -> None:
    chosen = {"name": "gauss_newton", "variable_projection": True}
    member = trainer("poisson_2d", chosen)
    assert isinstance(member.optimizer, VariableProjection) and member.optimizer.exact
    assert int(member.optimizer.is_linear.sum()) == SMALL["count"]
    assert not trainer(manufactured(), chosen).optimizer.exact  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["gauss_newton", "spring", "quasi_newton", "lbfgs", "soap", "adam"]
)
def test_every_optimiser_lowers_the_loss(name: str) -> None:
    member = trainer(manufactured(), name)
    losses = [member.step(math.inf).loss for _ in range(8)]
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("name", ["burgers", "kuramoto_sivashinsky", "lorenz", "heat", "wave"])
def test_problems_of_the_registry_are_taken(name: str) -> None:
    assert BACKENDS["gaussians"].accepts(registry.get(name)) is None
    member = trainer(name)
    assert member.step(math.inf).loss < math.inf


def test_slopes_at_the_ends_are_imposed_softly() -> None:
    sloped = {
        **MANUFACTURED,
        "conditions": [
            {"where": "x = 0", "u_x": "3*cos(4*y)"},
            {"where": ["x = 1", "y = 0", "y = 2"], "u": "sin(3*x + 4*y)"},
        ],
    }
    member = trainer(Problem.from_mapping(sloped, name="sloped"))
    assert {term.name for term in member.terms} == {"interior", "x = 0"}


SEPARABLE = {"separable": True, "count": 8, "features": 10, "network": True}
REBORN = {"count": 40, "overlap": 2.0, "reborn": 0.2}


@pytest.mark.parametrize("settings", [REBORN, SEPARABLE], ids=["reborn", "separable"])
def test_a_resumed_run_is_the_same_run(settings: dict[str, Any]) -> None:
    points = {"interior": 300, "resample_every": 2}
    whole = trainer(manufactured(), points=points, gaussians=settings)
    trained(whole, 3)
    again = trainer(manufactured(), points=points, gaussians=settings)
    again.load_state_dict(whole.state_dict())
    for member in (whole, again):
        trained(member, 4)
    for one, other in zip(whole.field.parameters(), again.field.parameters(), strict=True):
        assert torch.equal(one, other)
    fresh = trained(trainer(manufactured(), points=points, gaussians=settings, seed=1), 4)
    assert any(
        not torch.equal(one, other)
        for one, other in zip(whole.field.parameters(), fresh.field.parameters(), strict=True)
    )


def test_a_field_is_rebuilt_for_its_weights() -> None:
    chosen = case(manufactured(), gaussians={**SMALL, "covariance": "full", "network": True})
    member = trained(PhysicsInformedGaussians(chosen, torch.device("cpu")), 2)
    again = build_field(chosen, member.architecture)
    again.load_state_dict(member.field.state_dict())
    points = torch.rand(50, 2, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again(points), member.field(points))


def test_gaussians_are_born_where_the_residual_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    right = gaussians.redistribute

    def watched(features: GaussianFeatures, *rest: Any, **more: Any) -> int:
        moved.append(right(features, *rest, tolerance=1.0))
        return moved[-1]

    monkeypatch.setattr(gaussians, "redistribute", watched)
    points = {"interior": 300, "resample_every": 1}
    trained(trainer(manufactured(), points=points, gaussians=REBORN), 3)
    assert moved == [8, 8]
    trained(trainer(manufactured(), points=points, gaussians={**REBORN, "reborn": 0.0}), 3)
    assert moved == [8, 8]


@pytest.mark.parametrize("count, births", [(50, [10]), (51, [])], ids=["enough", "too few"])
def test_nothing_is_merged_at_fewer_than_two_points_a_gaussian(
    count: int, births: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge keeps the values at its points, which says nothing where these are few."""
    asked: list[int] = []

    def watched(features: GaussianFeatures, sample: Any, wanted: Any, **more: Any) -> int:
        asked.append(len(wanted))
        return 0

    monkeypatch.setattr(gaussians, "redistribute", watched)
    points = {"interior": 25, "resample_every": 1}  # candidates are four times as many
    chosen = {"count": count, "reborn": 0.2}
    trained(trainer(manufactured(), points=points, gaussians=chosen), 2)
    assert asked == births


def test_nothing_is_spread_by_fewer_than_two_points_a_gaussian() -> None:
    for count, spread in ((50, True), (51, False)):
        chosen = {"count": count, "reborn": 0.0}
        points = {"interior": 25}
        even = trainer(manufactured(), points=points, gaussians=chosen)
        made = trainer(manufactured(), points=points, gaussians={**chosen, "begin": "residual"})
        first, second = (next(m.field.parameters()) for m in (even, made))
        assert torch.equal(first, second) != spread


def test_a_single_gaussian_can_begin_where_the_residual_is() -> None:
    chosen = {"count": 1, "begin": "residual"}
    assert math.isfinite(trainer(manufactured(), gaussians=chosen).step(math.inf).loss)


def test_what_is_advised_for_full_covariances_on_a_periodic_coordinate_is_taken() -> None:
    with pytest.raises(ConfigurationError, match=r"or 'hard: \[\]' beside 'gaussians'"):
        case("allen_cahn", gaussians={"covariance": "full"}, hard=["initial"])
    case("allen_cahn", gaussians={"covariance": "full"}, hard=[])


def test_variable_projection_of_weights_alone_is_refused() -> None:
    chosen = {"name": "gauss_newton", "variable_projection": True}
    with pytest.raises(ConfigurationError, match="variable_projection: false"):
        case("poisson_2d", chosen, gaussians={**SMALL, "moving": False})
    case("poisson_2d", chosen, gaussians={**SMALL, "moving": False, "network": True})


@pytest.mark.parametrize(
    "problem, solver, says",
    [
        ("poisson_2d", {"gaussians": {"count": 0}}, "from 1 to"),
        ("poisson_2d", {"gaussians": {"covariance": "diagnal"}}, "did you mean 'diagonal'"),
        ("poisson_2d", {"gaussians": {"counts": 5}}, "did you mean 'count'"),
        ("poisson_2d", {"gaussians": {"density": {"z": 2}}}, "no coordinate 'z'"),
        ("allen_cahn", {"gaussians": {"covariance": "full"}}, "periodic.*covariance: diagonal"),
        ("poisson_2d", {"network": {"kind": "spectral"}}, "write mlp"),
        (
            "poisson_2d",
            {"gaussians": {"separable": True, "covariance": "full"}},
            "covariance: diagonal",
        ),
        ("poisson_2d", {"network": {"fourier": 8}}, "Fourier features"),
        ("poisson_2d", {"network": {"width": 64}}, "'network: true' under 'gaussians'"),
        ("poisson_2d", {"gaussians": {"features": 9}}, "there are no features"),
        (
            "poisson_2d",
            {"gaussians": {"moving": False, "covariance": "full"}},
            "none is trained",
        ),
        ("poisson_2d", {"gaussians": {"begin": "residual", "separable": True}}, "begin: even"),
        ("poisson_2d", {"gaussians": {"begin": "residual", "sets": "own"}}, "begin: even"),
    ],
)
def test_what_does_not_fit_is_said(problem: str, solver: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        case(problem, **solver)
