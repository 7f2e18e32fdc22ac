"""The backend lagrangian: exact cases, invariants, restarts of labels, refusals."""

import dataclasses

import numpy as np
import pytest
import torch

import residua
from residua.config import make_case
from residua.engine.fit import Record, fit, restore
from residua.engine.networks.branches import Branches
from residua.errors import ConfigurationError, DataError, DivergedError
from residua.progress import QuietReporter
from residua.solvers import lagrangian
from residua.solvers.lagrangian import LagrangianPinn
from residua.solvers.options import LagrangianOptions
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


def test_millimetres_are_trained_like_metres():
    """First displacements, and what each equation counts for, are in units of the domain."""
    found = []
    for length, time in ((2 * np.pi, 1.0), (6e-3, 1e-3), (6e3, 1e4)):
        speed, wave = length / (2 * np.pi * time), 2 * np.pi / length
        start, nu = f"{speed}*sin({wave}*x)", 0.1 * speed / wave
        problem = carried("u", source="nu*u_xx", start=start, nu=nu)
        problem["coordinates"] = {"x": [0, length], "t": [0, time]}
        trainer = LagrangianPinn(make_case(problem, SMALL, ENDLESS), torch.device("cpu"))
        for _ in range(8):
            trainer.step(np.inf)
        points = torch.from_numpy(np.random.default_rng(1).uniform(0, [length, time], (50, 2)))
        found.append(trainer.field(points).detach() / speed)
        motion = trainer.terms[0].equations[1].residual({"dx_t": length, "u": 0.0})
        assert motion == pytest.approx(2 * np.pi * speed)
    assert (found[1] - found[0]).abs().max() < 0.03
    assert (found[2] - found[0]).abs().max() < 0.03


def test_positions_far_from_every_path_are_told(monkeypatch):
    trainer = LagrangianPinn(make_case(carried("1"), SMALL, ENDLESS), torch.device("cpu"))
    trainer.step(np.inf)
    assert not any("every path" in note for note in trainer.report()["notes"])
    monkeypatch.setattr(lagrangian, "MISSED", -1.0)
    assert any("away from every path in window 1" in n for n in trainer.report()["notes"])


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
    with pytest.raises(DivergedError, match=r"all but cross \(J = .*\) at t = .* add diffusion"):
        trainer._refuse_crossing(0, trainer.current.field)


def test_a_shock_without_viscosity_is_refused_with_its_time():
    with pytest.raises(ConfigurationError, match=r"cross at t = 1,"):
        make_case(carried("u"), SMALL, ENDLESS)
    with pytest.raises(ConfigurationError, match="one word is not enough"):
        solver = SMALL | {"symmetry": {"x": "odd"}}
        make_case(carried("u", source="0.2*u_xx"), solver, ENDLESS)


def contracting(end=1.6):
    """Labels move to x = pi by tan(x/2) = exp(t) tan(X/2): J falls to exp(-t)."""
    problem = carried("sin(x)", start="cos(x)")
    problem["coordinates"] = {"x": [0, "2*pi"], "t": [0, end]}
    return problem


def contracted(points):
    """The label, and so the state, is known by hand."""
    x, t = points.T
    return np.cos(2 * np.arctan2(np.sin(x / 2) * np.exp(-t), np.cos(x / 2)))


RENEWED = SMALL | {
    "network": {"width": 8, "depth": 1, "harmonics": 3},
    "paths": {"width": 12, "depth": 2},
    "points": {"interior": 300, "resample_every": 0},
    "optimizer": {"name": "gauss_newton", "steps": 25},
    "renew": 0.4,
}


def test_labels_are_given_out_anew_by_themselves(tmp_path):
    outcome = solve(contracting(), RENEWED, tmp_path, deterministic=True)
    edges = outcome.solution.metadata["window_edges"]
    least = [entry["value"] for entry in outcome.solution.metadata["least_jacobian"]]
    assert len(edges) >= 3 and edges[0] == 0 and edges[-1] == 1.6
    assert min(least) > 0.4
    points = np.random.default_rng(0).uniform([0, 0], [6.28, 1.6], (300, 2))
    values = outcome.solution(points)[:, 0]
    error = np.linalg.norm(values - contracted(points)) / np.linalg.norm(contracted(points))
    assert error < 2e-2
    assert np.array_equal(residua.load(tmp_path)(points)[:, 0], values)
    shown = [note for note in outcome.solution.metadata["notes"] if "given out anew" in note]
    assert len(shown) == 1 and shown[0].count(",") == len(edges) - 3
    # The twin: told not to, it keeps one window, in which J falls as it does.
    alone = LagrangianPinn(
        make_case(contracting(), RENEWED | {"renew": None}, ENDLESS), torch.device("cpu")
    )
    for _ in range(20):
        alone.step(np.inf)
    assert alone.edges == [0, 1.6]
    assert alone.report()["least_jacobian"][0]["value"] < 0.35


def test_windows_found_in_training_are_resumed_to_the_same_bytes(tmp_path):
    solver = RENEWED | {
        "paths": {"width": 12, "depth": 2},
        "optimizer": {"name": "gauss_newton", "steps": 21},
        "points": {"interior": 150, "resample_every": 0},
    }
    case = make_case(contracting(), solver, {**ENDLESS, "deterministic": True})

    def train(member, record, steps, folder):
        folder.mkdir(exist_ok=True)
        return fit(member, record, reporter=QuietReporter(), folder=folder, steps=steps)

    whole = LagrangianPinn(case, torch.device("cpu"))
    train(whole, Record(), 50, tmp_path / "whole")
    for cut in (19, 45):
        folder = tmp_path / f"cut{cut}"
        train(LagrangianPinn(case, torch.device("cpu")), Record(), cut, folder)
        second = LagrangianPinn(case, torch.device("cpu"))
        train(second, restore(second, folder), 50, folder)
        assert second.edges == whole.edges and len(whole.edges) > 2
        expected, found = whole.field.state_dict(), second.field.state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_windows_of_another_case_are_refused():
    case = make_case(contracting(), RENEWED, ENDLESS)
    good = {"windows": 2, "edges": [0.0, 0.8, 1.6]}
    assert LagrangianPinn.rebuild(case, good) is not None
    wrong = ([0.0, 0.8, 2.0], [0.0, 1.6], [0.0, 0.9, 0.8, 1.6], "x", None)
    for edges in wrong:
        with pytest.raises(DataError):
            LagrangianPinn.rebuild(case, good | {"edges": edges})


def test_the_work_of_a_read_out_does_not_grow_as_a_power_of_the_windows():
    """Each window asks for its own labels alone: what it starts from is kept as splines."""
    case = make_case(carried("sin(x)"), SMALL | {"windows": 4}, ENDLESS)
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    field = LagrangianPinn.rebuild(case, {"windows": 4, "edges": edges})
    asked = [0] * 4
    for number, member in enumerate(field.fields):

        def count(*_, number=number):
            asked[number] += 1

        for module in member.modules():
            if isinstance(module, Branches):
                jet = module.jet
                module.jet = lambda *a, jet=jet, count=count, **k: (count(), jet(*a, **k))[1]
    points = torch.tensor([[1.0, 0.9], [2.0, 0.95]], dtype=torch.float64)
    field(points)
    assert asked[:3] == [0, 0, 0] and 0 < asked[3] < 40


def test_a_corner_in_the_first_state_is_carried():
    """The first velocity is a maximum, which is differentiated for the start of the paths."""
    problem = carried("u", source="0.1*u_xx", start="max(sin(x), 0)")
    trainer = LagrangianPinn(make_case(problem, SMALL, ENDLESS), torch.device("cpu"))
    losses = [trainer.step(np.inf).loss for _ in range(4)]
    assert losses[-1] < losses[0]
    points = torch.tensor([[1.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    start = torch.sin(points[:, 0]).clamp_min(0)
    assert torch.allclose(trainer.field(points)[:, 0], start, atol=0.05), "imposed softly"


def test_the_bound_in_free_flight_is_the_one_that_is_documented():
    """No J has fallen below the bound of trained paths yet, and the window ends all the same."""
    (told,) = [o for o in dataclasses.fields(LagrangianOptions) if o.name == "renew"]
    assert f"{lagrangian.FLIGHT[0]:g} in free flight" in str(told.metadata)
    problem = carried("u", source="0.1*u_xx")
    problem["coordinates"] = {"x": [0, "2*pi"], "t": [0, 1.2]}
    trainer = LagrangianPinn(make_case(problem, SMALL, ENDLESS), torch.device("cpu"))
    assert len(trainer.edges) == 3
    whole = make_case(problem, SMALL | {"renew": None}, ENDLESS)
    assert len(LagrangianPinn(whole, torch.device("cpu")).edges) == 2


def test_a_bound_below_the_guard_is_refused():
    with pytest.raises(ConfigurationError, match="above guard = 0.01"):
        make_case(contracting(), RENEWED | {"renew": 0.005}, ENDLESS)


def test_two_species_are_carried_by_one_velocity_and_react():
    """Known by hand: w = u + v is only carried, u = w / (1 + C exp(k w t)) along a path."""
    w, u = "(2 + sin(x))", "(2 + sin(x))/(1 + exp(-{t}*(2 + sin(x))))"
    problem = {
        "coordinates": {"x": [0, "2*pi"], "t": [0, 1]},
        "fields": ["u", "v"],
        "parameters": {"c": 20},
        "equations": ["u_t + c*u_x = u*v", "v_t + c*v_x = -u*v"],
        "conditions": [{"where": "t = 0", "u": f"{w}/2", "v": f"{w}/2"}, {"periodic": "x"}],
        "reference": {"exact": {
            "u": u.format(t="t").replace("sin(x)", "sin(x - c*t)"),
            "v": f"{w} - {u.format(t='t')}".replace("sin(x)", "sin(x - c*t)"),
        }},
    }  # fmt: skip
    errors = []
    for equation in ("-u*v", "-0.8*u*v"):
        problem["equations"] = ["u_t + c*u_x = u*v", f"v_t + c*v_x = {equation}"]
        if equation != "-u*v":
            problem["reference"] = "none"
        solver = SMALL | {"network": {"width": 12, "depth": 1, "harmonics": 3}}
        trainer = LagrangianPinn(make_case(problem, solver, ENDLESS), torch.device("cpu"))
        for _ in range(20):
            trainer.step(np.inf)
        points = np.random.default_rng(0).uniform([0, 0], [6.28, 1], (200, 2))
        total = 2 + np.sin(points[:, 0] - 20 * points[:, 1])
        first = total / (1 + np.exp(-points[:, 1] * total))
        truth = np.stack([first, total - first], 1)
        values = trainer.field(torch.from_numpy(points)).detach().numpy()
        errors.append(np.linalg.norm(values - truth) / np.linalg.norm(truth))
    assert errors[0] < 8e-3 < 3e-2 < errors[1]


LINE = {"x": [0, 1], "t": [1, 2]}


def coming(velocity, exact, source="0", **more):
    """On a line that paths cross from x = 0 to x = 1."""
    return {
        "coordinates": LINE,
        "fields": ["u"],
        "equations": [f"u_t + ({velocity})*u_x = {source}"],
        "conditions": [
            {"where": "t = 1", "u": exact.replace("t", "1")},
            {"where": "x = 0", "u": exact.replace("x", "0")},
        ],
        "reference": {"exact": {"u": exact}},
        **more,
    }


def test_what_comes_in_at_one_end_and_leaves_at_the_other(tmp_path):
    problem = coming("u", "(1 + x)/t")
    outcome = solve(problem, SMALL, tmp_path)
    assert outcome.errors["u"] < 1e-3
    points = np.array([[0.0, 1.5], [1.0, 1.5], [0.2, 2.0], [0.9, 1.0]])
    values, derived = residua.load(tmp_path)(points, derivatives=("u_x", "u_t"))
    x, t = points.T
    assert np.abs(values[:, 0] - (1 + x) / t).max() < 3e-3
    assert np.abs(derived["u_x"] - 1 / t).max() < 3e-2
    assert np.abs(derived["u_t"] + (1 + x) / t**2).max() < 3e-2
    # A flow that does not slow down has another solution.
    wrong = coming("1 + x", "(1 + x)/t", reference="none")
    trainer = LagrangianPinn(make_case(wrong, SMALL, ENDLESS), torch.device("cpu"))
    for _ in range(5):
        trainer.step(np.inf)
    found = trainer.field(torch.from_numpy(points)).detach().numpy()[:, 0]
    assert np.abs(found - (1 + x) / t).max() > 0.05


def test_ends_that_are_crossed_have_no_windows():
    with pytest.raises(ConfigurationError, match="no windows of time"):
        LagrangianPinn(
            make_case(coming("1", "x - t"), SMALL | {"windows": 2}, ENDLESS), torch.device("cpu")
        )


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
    assert losses[-1] < 2e-2 * losses[0]
    points = np.random.default_rng(0).uniform([0, 0, 0], [1, 1, 0.3], (200, 3))
    x, y, t = points.T
    truth = np.exp(-t) * np.sin(np.pi * x) * np.sin(np.pi * y) * (1 + x / 2)
    values = trainer.field(torch.from_numpy(points)).detach().numpy()[:, 0]
    assert np.linalg.norm(values - truth) < 2e-2 * np.linalg.norm(truth)
