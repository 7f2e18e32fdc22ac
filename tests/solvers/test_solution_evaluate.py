"""A solution as a function: values, derivatives, grids, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from residua.engine.networks.field import NestedField
from residua.problems.problem import Problem
from residua.solvers import solution as module
from residua.solvers.solution import Solution

HEAT = {
    "coordinates": {"x": [-1, 2], "t": [0, 0.5]},
    "fields": ["u", "v"],
    "equations": ["u_t = u_xx", "v_t = v_xx"],
    "conditions": [
        {"where": "t = 0", "u": 0, "v": 0},
        {"where": ["x = -1", "x = 2"], "u": 0, "v": 0},
    ],
}


class Polynomial(torch.nn.Module):
    """u = a x^3 t + b t^2,  v = b x t."""

    def __init__(self, a: float = 2.0, b: float = -0.5, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([a], dtype=dtype))
        self.b = torch.nn.Parameter(torch.tensor([b], dtype=dtype))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        x, t = points.unbind(1)
        return torch.stack([self.a * x**3 * t + self.b * t**2, self.b * x * t], dim=1)


@pytest.fixture
def solved() -> Solution:
    return Solution(Problem.from_mapping(HEAT, name="heat"), NestedField(Polynomial()), "converged")


def test_values_and_derivatives_of_a_polynomial(solved: Solution, rng: np.random.Generator) -> None:
    points = rng.uniform(-1, 2, (50, 2))
    x, t = points.T
    values, by_name = solved(points, derivatives=("u_x", "u_xx", "u_tx", "v_t", "u"))
    exact = {
        "u_x": 6 * x**2 * t,
        "u_xx": 12 * x * t,
        "u_tx": 6 * x**2,
        "v_t": -0.5 * x,
        "u": 2 * x**3 * t - 0.5 * t**2,
    }
    assert values.shape == (50, 2) and values.dtype == np.float64
    np.testing.assert_allclose(values[:, 1], -0.5 * x * t, atol=1e-14)
    assert list(by_name) == list(exact)
    for name, expected in exact.items():
        assert by_name[name].shape == (50,)
        np.testing.assert_allclose(by_name[name], expected, atol=1e-12)
    # The wrong twin: coordinates in the other order.
    swapped, _ = solved(points[:, ::-1], derivatives=("u_x",))
    assert np.abs(swapped - values).max() > 0.1


def test_chunks_do_not_show(
    solved: Solution, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = rng.uniform(-1, 1, (100, 2))
    whole, derived = solved(points, derivatives=("u_xx",))
    monkeypatch.setattr(module, "CHUNK", 7)
    parts, pieces = solved(points, derivatives=("u_xx",))
    assert np.array_equal(whole, parts)
    assert np.array_equal(derived["u_xx"], pieces["u_xx"])


def test_no_points_and_torch_points(solved: Solution) -> None:
    values, by_name = solved(np.empty((0, 2)), derivatives=("u_x",))
    assert values.shape == (0, 2) and by_name["u_x"].shape == (0,)
    points = torch.tensor([[1.0, 0.25]], requires_grad=True)
    np.testing.assert_allclose(solved(points), [[2 * 0.25 - 0.5 * 0.0625, -0.125]], rtol=1e-6)
    assert np.array_equal(solved([[1.0, 0.25]]), solved(np.array([[1.0, 0.25]])))


def test_single_precision_fields_are_evaluated_in_theirs(rng: np.random.Generator) -> None:
    problem = Problem.from_mapping(HEAT, name="heat")
    single = Solution(problem, NestedField(Polynomial(dtype=torch.float32)), "converged")
    points = rng.uniform(0, 1, (20, 2))
    double = Solution(problem, NestedField(Polynomial()), "converged")
    assert 0 < np.abs(single(points) - double(points)).max() < 1e-6


@pytest.mark.parametrize("points", [[1.0, 2.0], [[1.0]], [[1.0, 2.0, 3.0]]])
def test_points_of_another_shape_are_refused(solved: Solution, points: list) -> None:
    with pytest.raises(ValueError, match=r"give shape \(n, 2\), the columns being x, t"):
        solved(points)


@pytest.mark.parametrize("name", ["w_x", "u_y", "x", "t", "u__x", "u_", "", 5])
def test_names_that_are_not_derivatives_are_refused(solved: Solution, name: str) -> None:
    with pytest.raises(ValueError, match="derivatives: found") as caught:
        solved([[0.0, 0.0]], derivatives=(name,))
    assert f"mean '{name}'" not in str(caught.value)
    if name in ("x", "t", "", 5):
        assert "write such as 'u_x'" in str(caught.value)


def test_grid_spans_the_domain_in_declared_order(solved: Solution) -> None:
    axes, fields = solved.grid((7, 4))
    assert list(axes) == ["x", "t"]
    assert (axes["x"][0], axes["x"][-1], axes["t"][-1]) == (-1.0, 2.0, 0.5)
    x, t = np.meshgrid(axes["x"], axes["t"], indexing="ij")
    assert fields["u"].shape == (7, 4)
    np.testing.assert_allclose(fields["v"], -0.5 * x * t, atol=1e-15)
    for wrong in (1, (7,), (7, 1)):
        with pytest.raises(ValueError, match="grid"):
            solved.grid(wrong)
