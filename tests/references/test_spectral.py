"""Differentiation and interpolation: exact where they must be, spectral elsewhere."""

import numpy as np
import pytest

from residua.problems.references.solution import GridSolution, Slices
from residua.problems.references.spectral import (
    Chebyshev,
    Fourier,
    barycentric_matrix,
    barycentric_weights,
)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_chebyshev_differentiates_polynomials(order: int) -> None:
    basis = Chebyshev(-0.5, 2.0, 9)
    polynomial = np.polynomial.Polynomial([1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 0.7, -0.3, 0.2])
    exact = polynomial.deriv(order)(basis.nodes)
    found = basis.derivative(order) @ polynomial(basis.nodes)
    np.testing.assert_allclose(found, exact, atol=1e-10 * np.abs(exact).max())
    # The matrix of another interval is off by the ratio of lengths.
    twin = Chebyshev(-1.0, 1.0, 9).derivative(order) @ polynomial(basis.nodes)
    assert np.abs(twin - exact).max() > 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_fourier_differentiates_harmonics(n: int, order: int) -> None:
    basis = Fourier(1.0, 4.0, n)
    w = 2 * np.pi / 3.0
    phase = 3 * w * basis.nodes + 0.3 + order * np.pi / 2
    found = basis.derivative(order) @ np.sin(3 * w * basis.nodes + 0.3)
    np.testing.assert_allclose(found, (3 * w) ** order * np.sin(phase), atol=1e-11 * (3 * w) ** 4)
    # A matrix for the wrong period fails.
    twin = Fourier(1.0, 5.0, n).derivative(order) @ np.sin(3 * w * basis.nodes + 0.3)
    assert np.abs(twin - (3 * w) ** order * np.sin(phase)).max() > 0.1


@pytest.mark.parametrize("basis", [Fourier(-1, 1, 31), Fourier(-1, 1, 32), Chebyshev(-1, 1, 60)])
def test_interpolation_is_spectral_and_exact_at_nodes(basis: Fourier | Chebyshev) -> None:
    x = np.concatenate([basis.nodes, np.linspace(-1, 1, 101), basis.nodes + 1e-15])
    values = basis.interpolation(x) @ np.exp(np.sin(np.pi * basis.nodes))
    np.testing.assert_allclose(values, np.exp(np.sin(np.pi * x)), atol=2e-13)


def test_interpolation_error_falls_geometrically() -> None:
    x = np.linspace(-1, 1, 301)
    errors = []
    for n in (10, 20, 30, 40):
        basis = Chebyshev(-1, 1, n)
        values = basis.interpolation(x) @ (1 / (1 + 4 * basis.nodes**2))
        errors.append(np.abs(values - 1 / (1 + 4 * x**2)).max())
    # Poles at +-i/2: the Bernstein ellipse through them has rho = 1.618.
    rates = -np.diff(np.log(errors)) / 10
    np.testing.assert_allclose(rates, np.log(1.618), rtol=0.08)


def test_equispaced_nodes_would_not_converge() -> None:
    """The wrong twin of the test above: Runge's phenomenon."""
    x = np.linspace(-1, 1, 301)
    nodes = np.linspace(-1, 1, 40)
    matrix = barycentric_matrix(nodes, barycentric_weights(nodes), x)
    assert np.abs(matrix @ (1 / (1 + 4 * nodes**2)) - 1 / (1 + 4 * x**2)).max() > 1e-3


def test_scattered_points_equal_the_grid(rng: np.random.Generator) -> None:
    """Two ways to evaluate one solution, in two space dimensions with two fields."""
    bases = Fourier(0, 1, 8), Chebyshev(-1, 2, 7)
    times = np.linspace(0, 1, 22)
    values = rng.standard_normal((22, 2, 8, 7))
    for width, stride in ((8, 7), (10, 1), (40, 1)):
        solution = GridSolution(bases, values, Slices(times, width, stride), 1)
        t, x, y = np.array([0.0, 0.33, 0.97, 1.0]), np.linspace(0, 1, 5), np.array([-1, 0.4, 2])
        grid = solution.on_grid(t, [x, y])
        points = np.stack([g.ravel() for g in np.meshgrid(x, t, y, indexing="ij")], axis=1)
        scattered = solution(points).reshape(5, 4, 3, 2)
        np.testing.assert_allclose(
            scattered, np.transpose(grid, (2, 0, 3, 1)), atol=1e-9 * np.abs(grid).max()
        )


def test_time_stencils_reproduce_polynomials() -> None:
    times = np.linspace(0, 2, 31)
    solution = GridSolution((), (times**7)[:, None], Slices(times, 10, 1), 0)
    t = np.linspace(0, 2, 200)[:, None]
    np.testing.assert_allclose(solution(t), t**7, atol=1e-10)
    short = GridSolution((), (times**7)[:, None], Slices(times, 6, 1), 0)
    assert np.abs(short(t) - t**7).max() > 1e-8
