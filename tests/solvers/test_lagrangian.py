"""The backend lagrangian: exact cases, invariants, restarts of labels, refusals."""

import numpy as np
import pytest
import torch

import residua
from residua.config import make_case
from residua.engine.fit import Record, fit, restore
from residua.errors import ConfigurationError, DivergedError
from residua.progress import QuietReporter
from residua.solvers.lagrangian import LagrangianPinn
from residua.solvers.run import solve_case

SMALL = {
    "name": "lagrangian",
    "network": {"width": 6, "depth": 1, "harmonics": 2},
    "paths": {"width": 6, "depth": 1},
    "points": {"interior": 150},
    "optimizer": {"name": "gauss_newton", "steps": 20},
}
ENDLESS = {"budget": "none", "threads": 1}


def carried(speed, source="0", exact="", start="sin(x)", **parameters):
    return {
        "coordinates": {"x": [0, "2*pi"], "t": [0, 1]},
        "fields": ["u"],
        "parameters": parameters,
        "equations": [f"u_t + ({speed})*u_x = {source}"],
        "conditions": [{"where": "t = 0", "u": start}, {"periodic": "x"}],
        "reference": {"exact": {"u": exact}} if exact else "none",
    }


def solve(problem, solver, folder, **run):
    case = make_case(problem, solver, {**ENDLESS, **run})
    return solve_case(case, out=folder, resume=False, reporter=QuietReporter())


def test_convection_is_as_accurate_at_any_speed_and_comes_back_from_its_folder(tmp_path):
    errors = []
    for speed in (10, 100):
        problem = carried("c", exact="sin(x - c*t)", c=speed)
        outcome = solve(problem, SMALL, tmp_path / str(speed))
        errors.append(outcome.errors["u"])
    assert max(errors) < 1e-5
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)
    solution = residua.load(tmp_path / "100")
    points = np.array([[0.3, 0.4], [6.0, 1.0], [0.0, 0.0]])
    values, derived = solution(points, derivatives=("u_x", "u_xx", "u_t"))
    phase = points[:, 0] - 100 * points[:, 1]
    assert np.abs(values[:, 0] - np.sin(phase)).max() < 1e-5
    assert np.abs(derived["u_x"] - np.cos(phase)).max() < 1e-4
    assert np.abs(derived["u_xx"] + np.sin(phase)).max() < 1e-4
    assert np.abs(derived["u_t"] + 100 * np.cos(phase)).max() < 1e-2
    assert np.array_equal(values, outcome.solution(points))


def test_a_velocity_that_varies_is_followed_through_new_labels():
    """Manufactured: the source is asked where the label is, not where it began."""
    speed = "1.5 + 0.3*sin(x)"
    problem = carried(speed, source="(0.5 + 0.3*sin(x))*cos(x - t)", exact="sin(x - t)")
    solver = SMALL | {
        "network": {"width": 10, "depth": 2, "harmonics": 2},
        "paths": {"width": 10, "depth": 2},
        "points": {"interior": 600, "resample_every": 0},
        "optimizer": {"name": "gauss_newton", "steps": 20},
    }
    points = np.random.default_rng(0).uniform([0, 0], [6.28, 1], (200, 2))
    truth = np.sin(points[:, 0] - points[:, 1])

    def error(problem, windows):
        case = make_case(problem, solver | {"windows": windows}, ENDLESS)
        trainer = LagrangianPinn(case, torch.device("cpu"))
        while not trainer.step(np.inf).done:
            pass
        values = trainer.field(torch.from_numpy(points)).detach()
        again = LagrangianPinn.rebuild(case, trainer.architecture)
        again.load_state_dict(trainer.field.state_dict())
        assert torch.equal(again(torch.from_numpy(points)), values)
        assert trainer.report()["least_jacobian"][0]["value"] > 0.5
        return np.abs(values.numpy()[:, 0] - truth).max()

    assert error(problem, 1) < 2e-2
    assert error(problem, 2) < 2e-3
    wrong = carried(speed, source="0.5*cos(x - t)")
    assert error(wrong, 1) > 0.05, "another source has another solution"


def test_a_mean_speed_changes_nothing_but_the_frame():
    """The invariant: Burgers with mean speed 0 and 50 are trained alike, number for number."""
    found = []
    for mean in (0, 50):
        problem = carried("u", source="0.1*u_xx", start=f"sin(x) + {mean}")
        solver = SMALL | {"symmetry": "none", "optimizer": {"name": "gauss_newton", "steps": 8}}
        trainer = LagrangianPinn(make_case(problem, solver, ENDLESS), torch.device("cpu"))
        losses = [trainer.step(np.inf).loss for _ in range(6)]
        points = torch.from_numpy(np.random.default_rng(1).uniform([0, 0], [6, 1], (40, 2)))
        moved = points.clone()
        moved[:, 0] += mean * points[:, 1]
        found.append((losses, trainer.field(moved).detach()[:, 0] - mean))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path):
    problem = carried("u", source="0.2*u_xx")
    solver = SMALL | {"windows": 2, "optimizer": {"name": "gauss_newton", "steps": 6}}
    solver["points"] = {"interior": 150, "resample_every": 4}
    case = make_case(problem, solver, {**ENDLESS, "deterministic": True})

    def train(member, record, steps, folder):
        folder.mkdir(exist_ok=True)
        return fit(member, record, reporter=QuietReporter(), folder=folder, steps=steps)

    whole = LagrangianPinn(case, torch.device("cpu"))
    train(whole, Record(), 12, tmp_path / "whole")
    for cut in (3, 8):
        first = LagrangianPinn(case, torch.device("cpu"))
        train(first, Record(), cut, tmp_path / f"cut{cut}")
        second = LagrangianPinn(case, torch.device("cpu"))
        record = restore(second, tmp_path / f"cut{cut}")
        train(second, record, 12, tmp_path / f"cut{cut}")
        expected, found = whole.field.state_dict(), second.field.state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_state_and_displacement_share_no_weights():
    problem = carried("u", source="0.2*u_xx")
    trainer = LagrangianPinn(make_case(problem, SMALL, ENDLESS), torch.device("cpu"))
    field = trainer.current.field
    points = torch.rand(20, 2, dtype=torch.float64)
    outputs = field(points)
    weights = trainer.engine.parameters
    for column in range(2):
        total = outputs[:, column].sum()
        gradients = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
        touched = sum(g is not None and bool(g.any()) for g in gradients)
        assert 0 < touched <= len(gradients) // 2
    at_start = torch.cat([points[:, :1], torch.zeros(20, 1)], 1)
    assert torch.allclose(field(at_start)[:, 0], torch.sin(points[:, 0]), atol=1e-14)
    assert not field(at_start)[:, 1].any()


def test_paths_that_cross_in_training_are_refused_with_the_moment():
    problem = carried("u", source="0.2*u_xx")
    solver = SMALL | {"optimizer": {"name": "gauss_newton", "steps": 1}}
    trainer = LagrangianPinn(make_case(problem, solver, ENDLESS), torch.device("cpu"))
    with torch.no_grad():
        for parameter in trainer.engine.parameters[-2:]:
            parameter.add_(20.0)
    with pytest.raises(DivergedError, match=r"all but cross \(J = .*\) at t = .* more windows"):
        trainer._refuse_crossing(0, trainer.current.field)


def test_a_shock_without_viscosity_is_refused_with_its_time():
    with pytest.raises(ConfigurationError, match=r"cross at t = 1,"):
        make_case(carried("u"), SMALL, ENDLESS)
    with pytest.raises(ConfigurationError, match="one word is not enough"):
        solver = SMALL | {"symmetry": {"x": "odd"}}
        make_case(carried("u", source="0.2*u_xx"), solver, ENDLESS)


def test_a_vortex_in_a_box_carries_and_spreads():
    """2-D, walls that nothing crosses, and a source that makes the solution known."""
    problem = residua.problems.manufactured(
        residua.problems.Problem.from_mapping(
            {
                "coordinates": {"x": [0, 1], "y": [0, 1], "t": [0, 0.3]},
                "fields": ["u"],
                "equations": [
                    "u_t - sin(pi*x)*cos(pi*y)*u_x + cos(pi*x)*sin(pi*y)*u_y = 0.05*lap(u)"
                ],
                "conditions": [{"where": "t = 0", "u": "0"}, {"where": "boundary", "u": 0}],
            }
        ),
        {"u": "exp(-t)*sin(pi*x)*sin(pi*y)*(1 + x/2)"},
    )
    solver = SMALL | {
        "network": {"width": 10, "depth": 2},
        "paths": {"width": 10, "depth": 1},
        "points": {"interior": 500, "resample_every": 0},
        "optimizer": {"name": "gauss_newton", "steps": 20},
    }
    trainer = LagrangianPinn(make_case(problem, solver, ENDLESS), torch.device("cpu"))
    losses = [float(trainer.step(np.inf).loss) for _ in range(16)]
    assert losses[-1] < 1e-2 * losses[0]
    points = np.random.default_rng(0).uniform([0, 0, 0], [1, 1, 0.3], (200, 3))
    x, y, t = points.T
    truth = np.exp(-t) * np.sin(np.pi * x) * np.sin(np.pi * y) * (1 + x / 2)
    values = trainer.field(torch.from_numpy(points)).detach().numpy()[:, 0]
    assert np.linalg.norm(values - truth) < 2e-2 * np.linalg.norm(truth)
