"""Radau IIA and ETDRK4: declared orders measured, phi functions against their series."""

from dataclasses import dataclass

import numpy as np
import pytest

from residua.problems import Problem
from residua.problems.references import etdrk4 as etd
from residua.problems.references.fourier import FourierSystem
from residua.problems.references.radau import Diverged, consistent, integrate, radau_tableau
from residua.problems.references.solution import GridSolution, Slices
from residua.problems.references.system import System


@dataclass
class Ode:
    """y' = f(t, y) for one unknown, written as y' - f = 0."""

    f: object
    df: object
    components: int = 1
    unknowns: int = 1

    def residual(self, t, y, slope):
        return slope - self.f(t[:, None], y)

    def jacobian(self, t, y, slope):
        return -np.array([[self.df(t, y[0])]]), np.eye(1)


LOGISTIC = Ode(lambda t, y: y * (1 - y) + np.sin(t), lambda t, y: 1 - 2 * y)


def march(stages: int, steps: int) -> GridSolution:
    partition = np.linspace(0, 4, steps + 1)[1:]
    times, states = integrate(
        LOGISTIC, np.array([0.1]), (0.0, 4.0), 1e-15, stages=stages, partition=partition
    )
    return GridSolution((), states, Slices(times, stages + 1, stages), 0)


def errors(stages: int, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """At the end, and in the mean between steps, against a solution with many steps."""
    fine, t = march(7, 64), np.linspace(0, 4, 1001)[:, None]
    solutions = [march(stages, n) for n in steps]
    end = [abs(s.values[-1, 0] - fine.values[-1, 0]) for s in solutions]
    between = [np.sqrt(np.mean((s(t) - fine(t)) ** 2)) for s in solutions]
    return np.array(end), np.array(between)


@pytest.mark.parametrize(("stages", "steps"), [(1, [161, 321]), (3, [21, 41])])
def test_radau_order(stages: int, steps: list[int]) -> None:
    end, between = errors(stages, steps)
    ratio = np.log(steps[1] / steps[0])
    assert np.log(end[0] / end[1]) / ratio == pytest.approx(2 * stages - 1, abs=0.25)
    if stages > 1:
        assert np.log(between[0] / between[1]) / ratio == pytest.approx(stages + 1, abs=0.3)


def test_radau_coefficients() -> None:
    tableau = radau_tableau(3)
    root = np.sqrt(6)
    np.testing.assert_allclose(tableau.nodes, [0, (4 - root) / 10, (4 + root) / 10, 1], atol=1e-15)
    matrix = np.linalg.inv(tableau.slope)
    # Hairer and Wanner II, table IV.5.6.
    np.testing.assert_allclose(matrix[2], [(16 - root) / 36, (16 + root) / 36, 1 / 9], atol=1e-14)


def test_radau_is_stiffly_stable() -> None:
    stiff = Ode(lambda t, y: -1e6 * (y - np.cos(t)), lambda t, y: -1e6)
    times, states = integrate(stiff, np.array([2.0]), (0.0, 3.0), 1e-9)
    assert len(times) // 7 < 60
    assert states[-1, 0] == pytest.approx(np.cos(3.0), abs=1e-6)


def test_radau_reports_blow_up() -> None:
    explosive = Ode(lambda t, y: y**2, lambda t, y: 2 * y)
    with pytest.raises(Diverged), np.errstate(all="ignore"):
        integrate(explosive, np.array([1.0]), (0.0, 2.0), 1e-8)


@dataclass
class Constrained:
    """u' = v, 0 = u + v: index 1, with a start that violates the constraint."""

    components: int = 2
    unknowns: int = 2

    def residual(self, t, y, slope):
        return np.stack([slope[:, 0] - y[:, 1], y[:, 0] + y[:, 1]], axis=1)

    def jacobian(self, t, y, slope):
        return np.array([[0.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])


def test_algebraic_rows_hold_from_the_start() -> None:
    np.testing.assert_allclose(consistent(Constrained(), 0.0, np.array([1.0, 5.0])), [1.0, -1.0])
    times, states = integrate(Constrained(), np.array([1.0, 5.0]), (0.0, 1.0), 1e-10)
    np.testing.assert_allclose(states[:, 0], np.exp(-times), atol=1e-9)
    np.testing.assert_allclose(states.sum(axis=1), 0, atol=1e-12)


# -- ETDRK4 ---------------------------------------------------------------------------------------


def series(z: complex, k: int) -> complex:
    """phi_k by its power series."""
    term = 1.0 / float(np.prod(np.arange(1, k + 1)))
    total: complex = term
    for n in range(1, 60):
        term = term * z / (n + k)
        total += term
    return total


def test_phi_functions_match_their_series_and_matrices() -> None:
    z = np.array([0.0, 1e-9, -1e-3, 0.5j, -1.0, 1.0, -4.0 + 2j])
    found = etd.phi_functions(z)
    for k in range(4):
        np.testing.assert_allclose(found[k], [series(v, k) for v in z], rtol=1e-13, atol=1e-14)
    matrices = etd._matrix_phi(z[:, None, None])
    for scalar, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(matrix[:, 0, 0], scalar, rtol=1e-12, atol=1e-13)
    # Far out, where the series is useless: phi_1(z) = (e^z - 1)/z.
    far = np.array([-1e3, -1e8 + 0j, 1e4j])
    np.testing.assert_allclose(etd.phi_functions(far)[1], (np.exp(far) - 1) / far, rtol=1e-12)


def periodic(equation: str, initial: dict, length: float = 2.0, end: float = 0.5) -> Problem:
    return Problem.from_mapping(
        {
            "coordinates": {"x": [0, length], "t": [0, end]},
            "fields": ["u"],
            "equations": [equation],
            "conditions": [{"where": "t = 0", **initial}, {"periodic": "x"}],
        }
    )


CASES = {
    "diffusive": periodic("u_t + u*u_x = 0.05*u_xx + sin(t)*u^3", {"u": "sin(pi*x)"}),
    "dispersive": periodic("u_t + u*u_x + 0.01*u_xxx = 0", {"u": "cos(pi*x)"}),
    "second order": periodic("u_tt = u_xx - sin(u)", {"u": "sin(pi*x)", "u_t": "cos(pi*x)"}),
    "mass": periodic("u_t + u_x + u*u_x - 0.1*u_xxt = 0", {"u": "sin(pi*x)"}),
}


def observed_order(problem: Problem, steps: int) -> float:
    fourier = FourierSystem(System(problem))
    x = [np.linspace(0, 2, 77)]
    end = [
        etd.etdrk4(fourier, 64, steps * 2**k).on_grid(np.array([problem.bounds[1][1]]), x)
        for k in range(3)
    ]
    change = [np.linalg.norm(end[k] - end[k + 1]) for k in range(2)]
    return float(np.log2(change[0] / change[1]))


@pytest.mark.parametrize("name", CASES)
def test_etdrk4_is_of_fourth_order(name: str) -> None:
    assert observed_order(CASES[name], 80) == pytest.approx(4, abs=0.2)


def test_the_order_test_notices_a_wrong_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    right = etd.phi_functions
    monkeypatch.setattr(etd, "phi_functions", lambda z: (*right(z)[:3], 1.01 * right(z)[3]))
    assert observed_order(CASES["diffusive"], 80) < 3


def test_kdv_keeps_mass_and_energy() -> None:
    """u_t = -(u^2/2 + 0.01 u_xx)_x: the mean is constant exactly, the mean square to the order."""
    solution = etd.etdrk4(FourierSystem(System(CASES["dispersive"])), 96, 800)
    mass = solution.values.mean(axis=-1)
    energy = (solution.values**2).mean(axis=-1)
    assert np.ptp(mass) < 1e-14
    assert np.ptp(energy) < 1e-9
    twin = periodic("u_t + u^2*u_x + u*u_x + 0.01*u_xxx = 0.001*u^2", {"u": "cos(pi*x)"})
    wrong = etd.etdrk4(FourierSystem(System(twin)), 96, 800)
    assert np.ptp(wrong.values.mean(axis=-1)) > 1e-5


def test_products_do_not_alias() -> None:
    """cos(11 w x)^2 has frequency 22 w, which 32 nodes would show as 10 w."""
    problem = periodic("u_t = u^2", {"u": "cos(11*pi*x)"}, end=1e-3)
    solution = etd.etdrk4(FourierSystem(System(problem)), 32, 4)
    spectrum = np.abs(np.fft.rfft(solution.values[-1, 0], norm="forward"))
    assert spectrum[10] < 1e-8
    # What the coarse grid alone would see:
    plain = np.abs(np.fft.rfft(np.cos(11 * np.pi * np.arange(32) / 16) ** 2, norm="forward"))
    assert plain[10] > 0.1
