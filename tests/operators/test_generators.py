"""Generators: orders of convergence, manufactured and exact solutions, bars that hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.fft

from residua.errors import ConfigurationError
from residua.operators.datasets import darcy, helmholtz
from residua.operators.datasets.evolution import disturbed, first_level, march, next_level
from residua.operators.datasets.families import FAMILIES, family
from residua.operators.datasets.generation import Request, one_sample
from residua.operators.datasets.library import LibraryProblem
from residua.operators.datasets.navier_stokes import Flow, NavierStokes, stirring
from residua.operators.datasets.random_fields import Axis, draw, matern
from residua.problems import registry
from residua.problems.references.automatic import applicable
from residua.problems.references.system import System


def order(errors, sizes) -> float:
    """Slope of the error on logarithmic axes."""
    return -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def relative(found, true) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


# -- Darcy -----------------------------------------------------------------------------------------


def manufactured_darcy(s: int):
    """a, f and u = sin(pi x) sin(2 pi y) with a = 2 + cos(3 x) sin(2 y)."""
    x, y = (np.linspace(0, 1, s)[i] for i in ((slice(None), None), (None, slice(None))))
    a = 2 + np.cos(3 * x) * np.sin(2 * y)
    u = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
    ux, uy = (
        np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y),
        2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y),
    )
    ax, ay = -3 * np.sin(3 * x) * np.sin(2 * y), 2 * np.cos(3 * x) * np.cos(2 * y)
    return a, -(ax * ux + ay * uy - 5 * np.pi**2 * a * u), u


def test_darcy_is_of_second_order_where_the_coefficient_is_smooth():
    sizes, errors, wrong = (11, 21, 41), [], []
    for s in sizes:
        a, f, u = manufactured_darcy(s)
        errors.append(relative(darcy.solve(a, f), u))
        # Wrong twin: the coefficient transposed.
        wrong.append(relative(darcy.solve(a.T, f), u))
    assert order(errors, [s - 1 for s in sizes]) == pytest.approx(2.0, abs=0.1)
    assert errors[-1] < 3e-3 and min(wrong) > 0.02


def test_what_the_source_puts_in_leaves_through_the_walls(rng):
    """Gauss, to rounding, whatever the coefficient: the scheme conserves."""
    s = 33
    a = rng.choice([2.0, 12.0], size=(s, s))
    u = darcy.solve(a)
    out = 0.0
    for field, face in ((u, a), (u[::-1], a[::-1]), (u.T, a.T), (u.T[::-1], a.T[::-1])):
        out += (0.5 * (face[0] + face[1]) * field[1])[1:-1].sum()
    assert out == pytest.approx(((s - 2) / (s - 1)) ** 2, rel=1e-12)


@pytest.mark.parametrize("name", ["darcy", "darcy_rough", "darcy_multiscale"])
def test_the_bar_of_darcy_holds_against_a_much_finer_grid(name):
    for number in range(2):
        near = one_sample(Request(name, 17, 5, {"grid": 33, **_short(name)}), number)
        # The finer grid draws more modes of the same field; the coarse law is kept by the seed.
        fine = one_sample(Request(name, 17, 5, {"grid": 257, **_short(name)}), number)
        if name == "darcy_multiscale":
            assert np.allclose(near.fields["a"], fine.fields["a"])
        assert relative(near.fields["u"], fine.fields["u"]) < 3 * near.scalars["error_bar"]
        assert fine.scalars["error_bar"] < near.scalars["error_bar"]


def _short(name: str) -> dict[str, float]:
    return {"scales": 2} if name == "darcy_multiscale" else {}


def test_the_laws_of_darcy(rng):
    """Two values, in equal parts; of the size the published files have."""
    samples = [one_sample(Request("darcy", 33, 1, {"grid": 65}), n) for n in range(12)]
    a = np.stack([s.fields["a"] for s in samples])
    assert set(np.unique(a)) == {3.0, 12.0}
    assert 0.35 < (a == 12.0).mean() < 0.65
    tops = [s.fields["u"].max() for s in samples]
    assert 0.008 < np.median(tops) < 0.017
    rough = one_sample(Request("darcy_rough", 33, 1, {"grid": 65}), 0)
    assert set(np.unique(rough.fields["a"])) == {2.0, 12.0}


def test_the_floor_of_a_coarse_grid():
    """First order in the stride, zero where the data were solved on the very grid."""
    made = [one_sample(Request("darcy", 33, 3, {"grid": 129}), n) for n in range(6)]
    a, u = (np.stack([m.fields[k] for m in made]) for k in ("a", "u"))
    one, four = (darcy.coarse_floor(a, u, stride) for stride in (1, 4))
    assert 0 < np.median(one) < 0.03 and np.median(four) > 2 * np.median(one)
    own = np.stack([darcy.solve(field) for field in a])
    assert darcy.coarse_floor(a, own).max() < 1e-12
    with pytest.raises(ConfigurationError, match="32 steps, which 5 does not divide"):
        darcy.coarse_floor(a, u, 5)


# -- Helmholtz -------------------------------------------------------------------------------------


def test_helmholtz_is_of_fourth_order():
    """A flux through a wall, and a speed that varies with a source."""
    sizes, flux_errors, source_errors = (21, 41, 81), [], []
    for s in sizes:
        x, y = np.linspace(0, 1, s)[:, None], np.linspace(0, 1, s)[None, :]
        mu = 5.0
        u = np.cos(2 * np.pi * x) * np.cos(mu * y)
        flux = np.zeros((4, s))
        flux[3] = -mu * np.sin(mu) * np.cos(2 * np.pi * x[:, 0])
        k = np.full((s, s), np.sqrt(4 * np.pi**2 + mu**2))
        flux_errors.append(relative(helmholtz.solve(k, flux), u))
        k = 7 + np.cos(np.pi * x) * np.cos(2 * np.pi * y)
        u = np.cos(2 * np.pi * x) * np.cos(np.pi * y)
        f = (k**2 - 5 * np.pi**2) * u
        source_errors.append(relative(helmholtz.solve(k, np.zeros((4, s)), f), u))
    for errors in (flux_errors, source_errors):
        assert order(errors, [s - 1 for s in sizes]) == pytest.approx(4.0, abs=0.2)
        assert errors[-1] < 1e-3


def test_the_flux_leaves_by_the_wall_it_is_given_on():
    s = 41
    k, nodes = np.full((s, s), 2.0), np.linspace(0, 1, s)
    for side, axis in ((0, 0), (1, 0), (2, 1), (3, 1)):
        flux = np.zeros((4, s))
        flux[side] = 1.0
        # u'' + 4 u = 0 between a wall without and one with flux one.
        z = nodes if side % 2 else 1 - nodes
        line = -np.cos(2 * z) / (2 * np.sin(2.0))
        found = helmholtz.solve(k, flux)
        true = line[:, None] if axis == 0 else line[None, :]
        assert np.abs(found - true).max() < 1e-6


def test_the_bar_of_helmholtz_falls():
    bars = [
        one_sample(Request("helmholtz", 26, 0, {"omega": 300, "refine": r}), 0).scalars["error_bar"]
        for r in (2, 4)
    ]
    assert bars[1] < bars[0] / 3 < 0.1


# -- Navier-Stokes ---------------------------------------------------------------------------------


def test_a_vortex_decays_as_it_must():
    """Taylor and Green: w = cos(2 pi x) cos(2 pi y) has no advection and decays by 8 pi^2 nu."""
    n, nu, times = 16, 0.01, np.array([0.0, 0.5, 1.0])
    x = np.arange(n) / n
    w = np.outer(np.cos(2 * np.pi * x), np.cos(2 * np.pi * x))
    found = Flow(n, nu, np.zeros((n, n))).run(w, times, 0.1)
    true = np.exp(-8 * np.pi**2 * nu * times)[:, None, None] * w
    assert np.abs(found - true).max() < 1e-13


def test_the_flow_is_of_fourth_order_in_time_and_exact_in_space():
    """w = sin(2 pi (x + t)) + cos(2 pi (x + 2 y)) (1 + sin(t)), with the force that makes it so."""
    n, nu, p = 24, 0.02, 2 * np.pi
    x, y = np.arange(n)[:, None] / n, np.arange(n)[None, :] / n

    def parts(t):
        one, two = p * (x + t), p * (x + 2 * y)
        size = 1 + np.sin(t)
        w = np.sin(one) + size * np.cos(two)
        wx = p * np.cos(one) - p * size * np.sin(two)
        wy = -2 * p * size * np.sin(two)
        # psi = w/|k|^2 mode by mode, u = psi_y, v = -psi_x.
        u = -2 * p * size * np.sin(two) / (5 * p**2)
        v = -(p * np.cos(one) / p**2 - p * size * np.sin(two) / (5 * p**2))
        lap = -(p**2) * np.sin(one) - 5 * p**2 * size * np.cos(two)
        wt = p * np.cos(one) + np.cos(t) * np.cos(two)
        return w + 0 * y, wt + u * wx + v * wy - nu * lap

    errors, steps = [], (8, 16, 32)
    for count in steps:
        flow = Flow(n, nu, lambda t: parts(t)[1])
        found = flow.run(parts(0.0)[0], np.array([0.0, 1.0]), 1.0 / count)[-1]
        errors.append(relative(found, parts(1.0)[0]))
    assert order(errors, steps) == pytest.approx(4.0, abs=0.3)
    assert errors[-1] < 1e-5
    # Wrong twin: the flow turned round.
    wrong = Flow(n, nu, lambda t: parts(t)[1].T).run(parts(0.0)[0], np.array([0.0, 1.0]), 1 / 32)
    assert relative(wrong[-1], parts(1.0)[0]) > 0.1


def test_without_viscosity_energy_and_enstrophy_stay(rng):
    n = 32
    axis = Axis("periodic", 0.0, 1.0, 9)
    nodes = np.arange(n) / n
    w = draw(rng, [axis, axis], matern(100.0, 7.0, 2.5)).on_grid([nodes, nodes])
    flow = Flow(n, 0.0, np.zeros((n, n)))
    found = flow.run(w, np.array([0.0, 0.5]), 0.005)
    square = np.abs(np.stack([flow.modes(v) for v in found])) ** 2
    square[:, :, 1:-1] *= 2  # modes that stand for two
    enstrophy, energy = square.sum(axis=(1, 2)), (square * flow.inverse).sum(axis=(1, 2))
    assert np.abs(found[1] - found[0]).max() > 0.1 * np.abs(w).max()
    assert enstrophy[1] == pytest.approx(enstrophy[0], rel=1e-6)
    assert energy[1] == pytest.approx(energy[0], rel=1e-6)


def test_the_first_vorticity_has_the_spectrum_that_is_stated(rng):
    maker, n, draws = NavierStokes(), 32, 400
    nodes = np.arange(n) / n
    waves = maker._waves(n)
    power = 0.0
    for _ in range(draws):
        field = maker.initial(rng, n).on_grid([nodes, nodes])
        power = power + np.abs(scipy.fft.fft2(field, norm="forward")) ** 2 / draws
    k = scipy.fft.fftfreq(n, 1 / n)
    square = (2 * np.pi) ** 2 * (k[:, None] ** 2 + k[None, :] ** 2)
    # 2 * 7^3 (-Laplacian + 49)^-2.5, mean zero: twice what is stated, as the sampler draws it.
    true = 2 * 7.0**3 * (square + 49) ** -2.5
    kept = (np.abs(k[:, None]) <= waves) & (np.abs(k[None, :]) <= waves) & (square > 0)
    ratio = power[kept] / true[kept]
    # Products of sines and cosines: each |c|^2 is a mean of few squares; the mean of all is near 1.
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)
    assert np.abs(ratio - 1).max() < 0.5
    assert power[~kept].max() < 1e-25


def test_the_bar_of_the_flow_holds():
    settings = {"nu": 1e-3, "end": 1.0, "instants": 2}
    near = one_sample(Request("navier_stokes", 16, 0, {**settings, "grid": 32}), 0)
    fine = one_sample(Request("navier_stokes", 16, 0, {**settings, "grid": 64, "waves": 5}), 0)
    assert relative(near.fields["w"], fine.fields["w"]) < near.scalars["error_bar"] < 0.02
    with pytest.raises(ConfigurationError, match="an even number"):
        family("navier_stokes", {}).describe("navier_stokes", 17)


def test_the_force_of_the_benchmark():
    assert stirring(4)[0, 0] == pytest.approx(0.1) and stirring(4)[1, 0] == pytest.approx(0.1)


# -- transport and the library ---------------------------------------------------------------------


def test_burgers_against_cole_and_hopf():
    problem = registry.get("burgers", nu=0.05)
    times, x = np.array([0.0, 0.3, 1.0]), np.linspace(-1, 1, 65)
    found, bars, _ = march(problem, times, [x], 1e-8)
    points = np.stack(np.meshgrid(x, times, indexing="ij"), axis=-1).reshape(-1, 2)
    true = problem.reference()(points).reshape(65, 3).T
    assert relative(found[:, 0], true) < max(float(bars[0]), 1e-9) < 2e-8


def test_levels_differ_in_space_and_in_time():
    """What a step in one of them changes says nothing of the other."""
    (method,) = applicable(System(registry.get("nonlinear_diffusion_2d")))[0]
    level, levels = first_level(method, 0), []
    while level is not None:
        levels.append(level)
        level = next_level(method, level)
    assert len(levels) > 2
    assert all(b[0] == a[0] + 1 and b[1] == a[1] + 1 for a, b in itertools.pairwise(levels))
    exact = applicable(System(registry.get("heat")))[0][0]  # without steps in time
    assert next_level(exact, (1, 0)) == (2, 0)
    assert next_level(exact, (len(exact.space) - 1, 0)) is None


@pytest.mark.parametrize("nu", [0.1, "0.01/pi"])
def test_the_bar_of_burgers_holds(nu):
    near = one_sample(Request("burgers", 64, 0, {"nu": nu, "target": 1e-3}), 1)
    fine = one_sample(Request("burgers", 64, 0, {"nu": nu, "target": 1e-7}), 1)
    assert np.allclose(near.fields["u"][0], fine.fields["u"][0], atol=1e-12)
    assert relative(near.fields["u"], fine.fields["u"]) < near.scalars["error_bar"] <= 1e-3


def test_burgers_begins_with_the_law_of_the_benchmark():
    """N(0, 625 (-d2/dx2 + 25)^-2): variance of each mode, and none of the mean."""
    power = 0.0
    axis = Axis("periodic", 0.0, 1.0, 63)
    x = np.arange(64) / 64
    for number in range(400):
        generator = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(number,)))
        u = draw(generator, [axis], matern(25.0, 5.0, 2.0)).on_grid([x])
        power = power + np.abs(np.fft.rfft(u, norm="forward")) ** 2 / 400
    k = np.arange(1, 32)
    true = (25.0 / (4 * np.pi**2 * k**2 + 25)) ** 2
    assert np.abs(power[1:32] / true - 1).max() < 0.3 and power[0] < 1e-25
    first = one_sample(Request("burgers", 64), 3).fields["u"][0]
    generator = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(3,)))
    assert np.allclose(draw(generator, [axis], matern(25.0, 5.0, 2.0)).on_grid([x]), first)


def test_advection_carries_along():
    made = one_sample(Request("advection", 64, 0, {"beta": 0.5, "end": 0.5}), 0).fields["u"]
    assert np.allclose(made[1], np.roll(made[0], 16), atol=1e-12)
    assert not np.allclose(made[1], np.roll(made[0], -16), atol=1e-3)


def test_the_library_with_random_initial_values():
    """Heat in a rod: each sine decays on its own."""
    made = one_sample(Request("heat", 33, 2, {"alpha": 0.05, "instants": 3}), 0)
    u, t = made.fields["u"], np.linspace(0, 1, 3)
    modes = scipy.fft.dst(u[:, 1:-1], type=1, axis=1)
    k = np.arange(1, 32)
    true = modes[0] * np.exp(-0.05 * np.pi**2 * k**2 * t[:, None])
    assert np.abs(modes - true).max() < 1e-9 * np.abs(modes).max()
    assert np.abs(u[:, [0, -1]]).max() < 1e-12
    # The disturbance has the size that was asked for.
    rms = [
        np.sqrt(np.mean((one_sample(Request("heat", 65, 2, {"replace": True}), n)
                         .fields["u"][0]) ** 2)) for n in range(40)
    ]  # fmt: skip
    assert np.sqrt(np.mean(np.square(rms))) == pytest.approx(1.0, abs=0.25)


def test_the_covariance_of_random_initial_values(rng):
    """exp(-(r/length)^2) on a ring, without its mean, in units of the mean square."""
    maker = LibraryProblem.of("kdv", {"length": 0.15, "amplitude": 2.0})
    x = np.linspace(-1, 1, 16, endpoint=False)
    draws = np.stack([maker._field(rng, "u").on_grid([x]) for _ in range(4000)])
    found = (draws.T @ draws / len(draws))[0]
    r = (x - x[0]) / 2
    ring = sum(np.exp(-(((r + n) / 0.15) ** 2)) for n in range(-3, 4))
    mean = 0.15 * np.sqrt(np.pi)
    true = 4.0 * (ring - mean) / (1 - mean)
    assert np.abs(found - true).max() < 5 * np.sqrt(2 / 4000) * 4.0
    wrong = 4.0 * (np.sqrt(ring) - mean) / (1 - mean)
    assert np.abs(found - wrong).max() > 0.5


def test_the_library_with_random_parameters():
    settings = {"initial": False, "c": [0.5, 1.5], "instants": 4}
    made = [one_sample(Request("wave", 17, 0, settings), n) for n in range(3)]
    x, t = np.linspace(0, 1, 17), np.linspace(0, 1, 4)[:, None]
    for sample in made:
        c = sample.scalars["c"]
        assert 0.5 <= c <= 1.5
        true = np.sin(np.pi * x) * np.cos(np.pi * c * t)
        true = true + 0.5 * np.sin(4 * np.pi * x) * np.cos(4 * np.pi * c * t)
        assert np.abs(sample.fields["u"] - true).max() < 1e-9
    assert len({s.scalars["c"] for s in made}) == 3


def test_a_disturbance_is_added_or_takes_the_place(rng):
    problem = registry.get("heat")
    field = draw(rng, [Axis("dirichlet", 0.0, 1.0, 5)], matern(1.0, 1.0, 1.0), name="g")
    x = np.linspace(0, 1, 9)
    both = [
        march(disturbed(problem, {"u": field}, keep=keep), np.array([0.0, 0.1]), [x], 1e-6)[0]
        for keep in (True, False)
    ]
    assert np.allclose(both[0][0, 0] - both[1][0, 0], np.sin(np.pi * x), atol=1e-12)
    assert np.allclose(both[1][0, 0], field.on_grid([x]), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dracy", {}, "unknown family 'dracy'; did you mean 'darcy'"),
        ("darcy", {"alfa": 2}, "unknown key 'alfa'"),
        ("darcy", {"high": -1}, "high"),
        ("burgers", {"nu": 0}, "write a viscosity > 0"),
        ("lorenz", {}, "'lorenz' has no space coordinate"),
        ("poisson_2d", {}, "'poisson_2d' has no time coordinate"),
        ("heat", {"initial": False}, "nothing is random"),
        ("heat", {"alpha": [2, 1]}, "low < high"),
        ("heat", {"alpha": [1, 1e9]}, "alpha"),
        ("heat", {"beta": 3}, "unknown key 'beta'"),
    ],
)
def test_settings_that_do_not_fit(name, settings, message):
    with pytest.raises(ConfigurationError) as caught:
        family(name, settings)
    assert message in str(caught.value)


def test_a_grid_that_does_not_hold_the_nodes():
    with pytest.raises(ConfigurationError, match="write 43"):
        family("darcy", {"grid": 40}).describe("darcy", 22)


def test_every_family_describes_itself():
    for name in FAMILIES:
        described = family(name, {}).describe(name, 16)
        assert described.law and described.equation and described.error_bar
        assert all(len(nodes) == 16 for nodes in described.grid.values())
        made = family(name, {}).sample  # exists
        assert callable(made) and math.isfinite(sum(described.constants.values()))
