"""The bar covers the true error at every resolution, and is not far above it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residua.problems import Problem
from residua.problems.references import build
from residua.problems.references.automatic import Automatic
from residua.problems.references.methods import FourierETDRK4, Method, RadauCollocation
from residua.problems.references.refinement import Refinement
from residua.problems.references.system import System

sys.path.insert(0, str(Path(__file__).parent))
try:
    from exact_cases import KNOWN, WALLS, posed, start
finally:
    sys.path.pop(0)

ROUNDING = 1e-14


@dataclass
class Rung:
    """Bar and true relative L2 errors by field at one level of refinement.

    `coarser` and `longer` are the true errors of the runs it was compared with, `by_space` and
    `by_time` what a bar from one comparison alone would have been.
    """

    name: str
    bar: np.ndarray
    error: np.ndarray
    coarser: np.ndarray
    longer: np.ndarray
    by_space: float
    by_time: float


def climbed(
    problem: Problem,
    method: Callable[[System], Method],
    exact: Callable[[np.ndarray], np.ndarray],
    levels: list[tuple[int, int]],
) -> list[Rung]:
    system = System(problem)
    refinement = Refinement(system, method(system), 0.0)
    common = refinement.common
    truth = common.sample(exact, system)

    def error(level: tuple[int, int, int]) -> np.ndarray:
        run = refinement.runs.get(level)
        return (
            np.zeros(len(system.fields)) if run is None else common.relative_l2(run.values, truth)
        )

    rungs = []
    for i, j in levels:
        bar, by_space, by_time = refinement._bar(i, j)
        if bar is not None:
            rungs.append(
                Rung(
                    refinement.method.describe(i, j), bar, error((i, j, 0)),
                    error((i - 1, j, 0)), error((i, j, 1)),
                    3 * by_space + ROUNDING, 3 * by_time + ROUNDING,
                )
            )  # fmt: skip
    return rungs


@cache
def rungs_of(name: str) -> list[Rung]:
    case = KNOWN[name]
    levels = [(i, j) for i in case.space for j in case.time]
    return climbed(case.problem, case.method, case.exact, levels)


def check(rungs: list[Rung]) -> None:
    """Every bar covers the error, and the best is not far above those of the runs it compares."""
    for rung in rungs:
        assert np.all(rung.bar >= rung.error), rung
    best = min(rungs, key=lambda rung: rung.bar.max())
    assert np.all(best.bar <= 150 * (best.coarser + best.longer + best.error) + 1e-13), best


@pytest.mark.parametrize("name", KNOWN)
def test_the_bar_covers_the_error(name: str) -> None:
    rungs = rungs_of(name)
    assert len(rungs) >= 3
    check(rungs)
    bars = [rung.bar.max() for rung in rungs]
    assert min(bars) < 0.1 * max(bars)


def test_a_bar_a_hundredth_as_large_would_not_cover_it() -> None:
    """The wrong twin: bars are within two orders of magnitude of the error somewhere."""
    sharp = [
        name
        for name in KNOWN
        if any(np.any(0.01 * rung.bar < rung.error) for rung in rungs_of(name))
    ]
    assert len(sharp) >= 0.75 * len(KNOWN)


def test_a_bar_from_one_comparison_alone_would_not_cover_it() -> None:
    """The wrong twins: refining only time, or only space, misses the error of the other."""
    for name in ("heat, Robin", "advection, ring", "Fisher", "Poisson", "Burgers, Chebyshev"):
        assert any(np.any(rung.by_time < 0.1 * rung.error) for rung in rungs_of(name)), name
    for name in ("heat, Robin", "advection, ring", "wave, mirrored Fourier"):
        assert any(np.any(rung.by_space < 0.1 * rung.error) for rung in rungs_of(name)), name


@pytest.mark.parametrize(
    "name",
    [
        "heat, Robin", "wave, Dirichlet in time", "advection, ring", "Klein-Gordon", "Fisher",
        "Schroedinger, two coupled fields", "algebraic field beside a marching one",
        "rotation, ordinary equations", "advection on a torus", "Helmholtz", "clamped plate",
    ],
)  # fmt: skip
def test_the_target_is_reached(name: str, rng: np.random.Generator) -> None:
    """Refined to 1e-9, and true at scattered points that no comparison used."""
    problem, exact = KNOWN[name].problem, KNOWN[name].exact
    reference = build(problem, method="auto", seconds=60)
    bars = np.array([reference.error_bar[field] for field in problem.fields])
    assert bars.max() <= 1e-9
    low, high = np.array(problem.bounds).T
    points = low + (high - low) * rng.random((400, len(low)))
    truth = exact(points)
    change = np.linalg.norm(reference(points) - truth, axis=0) / np.linalg.norm(truth, axis=0)
    assert np.all(change <= bars)


def test_a_wrong_sign_is_far_outside_the_bar() -> None:
    case = KNOWN["Fisher"].problem
    right = build(case, method="auto")
    flipped = {**case.to_mapping(), "equations": ["u_t = u_xx - u*(1 - u)"], "reference": "auto"}
    wrong = build(Problem.from_mapping(flipped), method="auto")
    points = np.stack([np.linspace(-9, 9, 50), np.full(50, 0.9)], axis=1)
    difference = np.linalg.norm(right(points) - wrong(points)) / np.linalg.norm(right(points))
    assert difference > 1e4 * (right.error_bar["u"] + wrong.error_bar["u"])


# -- data that are not smooth: algebraic convergence, where a bar is hardest to get right ----------


def heat_series(
    points: np.ndarray, waves: np.ndarray, coefficients: np.ndarray, diffusion: float, basis: Any
) -> np.ndarray:
    """sum_k c_k basis(k x) exp(-diffusion k^2 t) at points of a tensor grid."""
    x, columns = np.unique(points[:, 0], return_inverse=True)
    t, rows = np.unique(points[:, 1], return_inverse=True)
    faded = coefficients * np.exp(-diffusion * waves**2 * t[:, None])
    return (faded @ basis(waves[:, None] * x))[rows, columns][:, None]


def kinked(points: np.ndarray) -> np.ndarray:
    """Heat from x^2 cos(pi x) on the ring [-1, 1].

    The integral of x^2 cos(m pi x) over [-1, 1] is 4 (-1)^m / (m pi)^2, or 2/3 for m = 0.
    """
    k = np.arange(3000)
    moments = np.append([2 / 3], 4 * (-1.0) ** k[1:] / (k[1:] * np.pi) ** 2)
    # cos(pi x) cos(k pi x) is half the sum of the cosines of k - 1 and k + 1.
    coefficients = (moments[np.abs(k[:-1] - 1)] + moments[k[:-1] + 1]) / 2
    coefficients[0] /= 2
    return heat_series(points, k[:-1] * np.pi, coefficients, 0.02, np.cos)


def jumping(points: np.ndarray) -> np.ndarray:
    """Heat from u = 1 between walls that hold u = 0."""
    waves = np.arange(1, 3001, 2) * np.pi
    return heat_series(points, waves, 4 / waves, 1.0, np.sin)


SMOOTH = start(u="-0.5 - 0.5*cos(pi*x)")
KINK = start(u="x^2*cos(pi*x)")
RING = {"periodic": "x"}
ROUGH = {
    "kink, Fourier": (posed("u_t = 0.02*u_xx", [KINK, RING], x=[-1, 1], t=[0, 0.5]), kinked,
                      FourierETDRK4, [(i, 7) for i in range(4, 8)]),
    "kink, collocation": (posed("u_t = 0.02*u_xx", [KINK, RING], x=[-1, 1], t=[0, 0.5]), kinked,
                          RadauCollocation, [(i, 2) for i in range(2, 6)]),
    "jump at the walls": (posed("u_t = u_xx", [start(u=1), WALLS], x=[0, 1], t=[0, 0.1]), jumping,
                          RadauCollocation, [(3, 2), (4, 3), (5, 4)]),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUGH)
def test_bars_of_rough_data_are_sharp(name: str) -> None:
    """Error falls as a power of the number of nodes: the bar is then within a factor of 25."""
    problem, exact, method, levels = ROUGH[name]
    rungs = climbed(problem, method, exact, levels)
    assert len(rungs) == len(levels)
    check(rungs)
    for rung in rungs:
        assert 2 * rung.error[0] <= rung.bar[0] <= 25 * rung.error[0], rung


def test_a_kink_costs_spectral_accuracy() -> None:
    """x^2 cos(pi x) closes continuously on a ring but its slope jumps by 4: order two, not all."""
    problem, exact, method, _ = ROUGH["kink, collocation"]
    coarse, fine = climbed(problem, method, exact, [(2, 2), (6, 2)])
    order = np.log(coarse.error[0] / fine.error[0]) / np.log(65 / 17)
    assert order == pytest.approx(2.0, abs=0.1)
    smooth = posed("u_t = 0.02*u_xx", [SMOOTH, RING], x=[-1, 1], t=[0, 0.5])
    (rung,) = climbed(
        smooth, method,
        lambda p: -0.5 - 0.5 * np.cos(np.pi * p[:, :1]) * np.exp(-0.02 * np.pi**2 * p[:, 1:]),
        [(2, 4)],
    )  # fmt: skip
    assert rung.error[0] < 1e-8


def test_allen_cahn_with_a_kink_solved_in_two_ways(rng: np.random.Generator) -> None:
    """By symmetry the ring is a box with insulated walls, where no continuation has a kink."""
    equation = "u_t - 1e-3*u_xx + 5*u^3 - 5*u = 0"
    span = {"x": [-1, 1], "t": [0, 0.3]}
    ring = Automatic(System(posed(equation, [KINK, RING], **span)), target=4e-5)
    box = build(posed(equation, [KINK, {"where": "boundary", "u_n": 0}], **span), target=1e-6)
    assert ring.method.name == "Fourier ETDRK4" and box.method.startswith("Chebyshev")
    points = rng.random((1500, 2)) * [2.0, 0.3] - [1.0, 0.0]
    truth = box(points)
    change = np.linalg.norm(ring.solution(points) - truth) / np.linalg.norm(truth)
    assert change <= ring.bars[0] + box.error_bar["u"] <= 100 * change
    # A band-limited start of the same size needs far fewer nodes for far less error.
    smooth = Automatic(System(posed(equation, [SMOOTH, RING], **span)), target=1e-6)
    nodes = [found.method.space[found.level[0]] for found in (ring, smooth)]
    assert nodes[0] >= 4 * nodes[1] and smooth.bars[0] < 0.1 * ring.bars[0]
