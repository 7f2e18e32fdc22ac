"""The suite from Python: arguments that would be lost are refused, gates and folders hold."""

import numpy as np
import pytest
import torch

import residua
from residua.config import make_case
from residua.errors import AccuracyError, ConfigurationError, DataError

HEAT = {
    "coordinates": {"x": [0, 1], "t": [0, 0.2]},
    "fields": ["u"],
    "equations": ["u_t = u_xx"],
    "conditions": [
        {"where": "t = 0", "u": "sin(pi*x)"},
        {"where": "x = 0", "u": 0},
        {"where": "x = 1", "u": 0},
    ],
}
SMALL = {"name": "pinn", "network": {"width": 4, "depth": 1}, "points": {"interior": 60}}


@pytest.mark.parametrize(
    ("case", "arguments", "says"),
    [
        (HEAT, {"set": ["run.seed=7"]}, "set changes"),
        ("heat", {"run": {"steps": 1}, "set": ["run.seed=7"]}, "either set"),
        ("case.yaml", {"run": {"steps": 1}}, "a case file holds its own"),
        (make_case(HEAT, SMALL), {"run": {"steps": 1}}, "a ready Case"),
        (5, {}, "a case is a file"),
        (None, {}, "a case is a file"),
    ],
)
def test_what_would_be_lost_is_refused(case, arguments, says, tmp_path):
    with pytest.raises(ConfigurationError, match=says):
        residua.solve(case, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_gate_folder_and_derivatives(tmp_path):
    out = tmp_path / "run"

    def solve(accuracy, **more):
        run = {"steps": 15, "budget": "none", "accuracy": accuracy}
        return residua.solve(HEAT, solver=SMALL, run=run, out=out, quiet=True, **more)

    with pytest.raises(AccuracyError):
        solve(1e-12)
    assert residua.load(out).problem.fields == ("u",)
    with pytest.raises(ConfigurationError, match="finished run"):
        solve(0.5)
    solution = solve(0.5, overwrite=True)
    _, one = solution([[0.5, 0.1]], derivatives="u_x")
    _, several = solution([[0.5, 0.1]], derivatives=("u_x", "u_t"))
    assert np.array_equal(one["u_x"], several["u_x"])


def test_foreign_files_are_not_touched(tmp_path):
    picture = tmp_path / "figure.png"
    picture.write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="no run folder"):
        residua.solve(HEAT, solver=SMALL, run={"steps": 1}, out=tmp_path)
    assert picture.read_bytes() == b"mine"


def softplus_source(v):
    """A residual that SymPy cannot follow."""
    return v.u_t - v.u_xx - torch.nn.functional.softplus(v.u)


def test_a_python_residual_is_solved_loaded_and_resumed(tmp_path):
    problem = {**HEAT, "equations": [softplus_source], "reference": "none"}
    out = tmp_path / "run"

    def solve(steps, **more):
        run = {"steps": steps, "budget": "none"}
        return residua.solve(problem, solver=SMALL, run=run, out=out, quiet=True, **more)

    first = solve(3)
    points = [[0.5, 0.1], [0.25, 0.2]]
    with pytest.raises(DataError, match="'softplus_source' is a Python function.*problem="):
        residua.load(out)
    for given in (problem, first.problem):
        assert np.array_equal(residua.load(out, given)(points), first(points))
    with pytest.raises(DataError, match="not the problem that stands here"):
        residua.load(out, HEAT)
    further = solve(6, resume=True)
    assert further.metadata["steps"] == 6
    assert np.array_equal(residua.load(out, problem)(points), further(points))


def test_what_leaves_torch_is_refused_before_training(tmp_path, recwarn):
    def with_numpy(v):
        return v.u_t - np.sin(v.u)

    def summed(v):
        return (v.u_t - torch.sin(v.u)).sum()

    for function in (with_numpy, summed, lambda v: None, lambda v: 1 / 0, lambda: 0):
        problem = {**HEAT, "equations": [function]}
        with pytest.raises(ConfigurationError, match=r"equations\[0\]: .*fails on tensors"):
            residua.solve(problem, solver=SMALL, run={"steps": 1}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not [str(w.message) for w in recwarn]
