"""Conditions met by construction: exactly, without restricting the field, or softly and said so."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import sympy
import torch

import residua
from residua.engine import constraints, sampling
from residua.engine.constraints import Architecture, Constrained, constrain
from residua.engine.networks import embedding as embeddings
from residua.engine.networks.ansatz import Handover
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.field import Field, NestedField
from residua.engine.residuals import PointSet, ResidualEngine, condition_term
from residua.engine.taylor import algebra_for
from residua.problems import Problem
from residua.problems.equation import to_text

ARCHITECTURE = Architecture(
    width=7,
    depth=2,
    activation="tanh",
    gated=False,
    factorised=False,
    harmonics=2,
    fourier=0,
    fourier_scale=1.0,
)
BOX = {"x": [-0.5, 1.0], "y": [1.0, 3.0], "t": [0.25, 1.0]}
DIRICHLET, NEUMANN, ROBIN = "u", "u_n", "u_n + kappa*u"


def problem_of(
    conditions: Sequence[Mapping[str, Any]],
    equations: Sequence[str] = ("u_t = u_xx",),
    coordinates: Sequence[str] = ("x", "t"),
    fields: Sequence[str] = ("u",),
    box: Mapping[str, Any] = BOX,
) -> Problem:
    mapping = {
        "coordinates": {name: box[name] for name in coordinates},
        "fields": list(fields),
        "equations": list(equations),
        "conditions": list(conditions),
    }
    return Problem.from_mapping(mapping)


def build(problem: Problem, *, seed: int = 0, **settings: Any) -> Constrained:
    """The field with random weights, larger than initial ones so that a defect would show."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"architecture": ARCHITECTURE, "parities": {}, **settings}
    built = constrain(problem, generator=generator, **settings)
    shake(built.field, seed)
    return built


def shake(field: Field, seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for p in field.parameters():
            if p.requires_grad:
                p += torch.randn(p.shape, generator=generator, dtype=p.dtype)


def violations(
    problem: Problem, field: Field, span: tuple[float, float] | None = None
) -> dict[str, float]:
    """Largest residual of each condition at points of its face, by the equations as written."""
    names = problem.coordinates
    bounds = list(problem.bounds)
    if span is not None:
        bounds[names.index("t")] = span
    terms = [condition_term(c, problem) for c in problem.conditions]
    engine = ResidualEngine(problem, field, terms)
    found = {}
    for condition in problem.conditions:
        points = sampling.on_face(bounds, names, condition.faces[0], 40, "uniform", (3,))[0]
        batch = {condition.name: PointSet(torch.tensor(points), torch.ones(len(points)))}
        with torch.no_grad():
            found[condition.name] = float(engine.residuals(batch)[condition.name].abs().max())
    return found


def data_of(exact: sympy.Expr, coordinate: str, side: int, kind: str, kappa: float) -> dict:
    """The condition of a kind that a function satisfies on a face."""
    x = sympy.Symbol(coordinate, real=True)
    value = sympy.Float(BOX[coordinate][side > 0])
    slope = side * exact.diff(x)
    where = f"{coordinate} = {value}"
    if kind == DIRICHLET:
        return {"where": where, "u": to_text(exact.subs(x, value))}
    if kind == NEUMANN:
        return {"where": where, "u_n": to_text(slope.subs(x, value))}
    wanted = to_text((slope + kappa * exact).subs(x, value))
    return {"where": where, "equation": f"2*u_n + {2 * kappa}*u = 2*({wanted})"}


def random_function(rng: np.random.Generator, coordinates: Sequence[str]) -> sympy.Expr:
    """A smooth function that is neither even nor odd nor a product."""
    symbols = [sympy.Symbol(name, real=True) for name in coordinates]

    def phase() -> sympy.Expr:
        return sympy.Add(*(round(float(rng.normal()), 3) * s for s in symbols))

    polynomial = sympy.Mul(*(1 + round(float(rng.normal()), 3) * s for s in symbols))
    return sympy.sin(phase() + 0.3) + 0.3 * polynomial


def manufactured(seed: int, space: Sequence[str], kinds: Sequence[str]) -> Problem:
    """A heat problem whose data come from one smooth function, so that they fit together."""
    rng = np.random.default_rng(seed)
    coordinates = (*space, "t")
    exact = random_function(rng, coordinates)
    time = sympy.Symbol("t", real=True)
    conditions = [{"where": "t = 0.25", "u": to_text(exact.subs(time, 0.25))}]
    faces = itertools.product(space, (-1, 1))
    for (name, side), kind in zip(faces, kinds, strict=True):
        kappa = round(float(rng.choice([-1, 1]) * rng.uniform(0.3, 4)), 3)
        conditions.append(data_of(exact, name, side, kind, kappa))
    laplacian = " + ".join(f"u_{name}{name}" for name in space)
    return problem_of(conditions, [f"u_t = {laplacian}"], coordinates)


KINDS = (DIRICHLET, NEUMANN, ROBIN)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)))
def test_inhomogeneous_data_in_time_hold_to_rounding(kinds):
    for seed in (1, 2):
        problem = manufactured(seed, ["x"], kinds)
        built = build(problem, seed=seed)
        assert built.met == {c.name for c in problem.conditions} and not built.notes
        assert max(violations(problem, built.field).values()) < 1e-10
        soft = build(problem, seed=seed, hard=False)
        assert not soft.met and min(violations(problem, soft.field).values()) > 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_data_that_fit_at_the_corners_hold_in_two_dimensions(seed):
    rng = np.random.default_rng(100 + seed)
    problem = manufactured(seed, ["x", "y"], [KINDS[i] for i in rng.integers(0, 3, 4)])
    built = build(problem, seed=seed)
    assert built.met == {c.name for c in problem.conditions} and not built.notes
    assert max(violations(problem, built.field).values()) < 1e-10


def test_an_embedding_that_is_not_flat_is_noticed(monkeypatch):
    """Wrong twin of the two tests above."""
    problem = manufactured(1, ["x"], (NEUMANN, ROBIN))
    crooked = embeddings.polynomial_rule((0, 3, 0.01, -1), 1 / 2)
    monkeypatch.setattr(embeddings, "_BOTH_ENDS", (crooked, *embeddings._BOTH_ENDS[1:]))
    built = build(problem)
    assert built.met == {"initial"}
    assert [n for n in built.notes if "'x = 1' is imposed softly" in n]


@pytest.mark.parametrize("seed", range(3))
def test_the_state_handed_over_goes_on_to_satisfy_the_conditions(seed):
    problem = manufactured(
        seed, ["x"], [(NEUMANN, ROBIN), (ROBIN, DIRICHLET), (NEUMANN,) * 2][seed]
    )
    first = build(problem, span=(0.25, 0.5), seed=seed)
    second = build(problem, span=(0.5, 1.0), seed=seed + 10, previous=first.field)
    assert second.handed_over and first.met == second.met
    found = violations(problem, second.field, (0.5, 1.0))
    assert max(v for name, v in found.items() if name != "initial") < 1e-10
    edge = torch.tensor([[x, 0.5] for x in np.linspace(-0.5, 1, 20)])
    assert torch.allclose(first.field(edge), second.field(edge), rtol=0, atol=1e-12)
    # Wrong twin: an earlier window in which the conditions were soft hands on its violations.
    loose = build(problem, span=(0.25, 0.5), seed=seed, hard=False)
    wrong = build(problem, span=(0.5, 1.0), seed=seed + 10, previous=loose.field)
    assert violations(problem, wrong.field, (0.5, 1.0))["x = 1"] > 1e-3


def test_a_wave_is_handed_over_with_its_velocity():
    conditions = [
        {"where": "t = 0.25", "u": "cos(2*pi*(x + 0.5)/1.5)", "u_t": "1"},
        {"where": "boundary", "u_n": "0"},
    ]
    problem = problem_of(conditions, ["u_tt = u_xx"])
    first = build(problem, span=(0.25, 0.5))
    assert len(first.met) == 3 and not first.notes
    assert max(violations(problem, first.field, (0.25, 0.5)).values()) < 1e-10
    second = build(problem, span=(0.5, 1.0), previous=first.field, seed=4)
    found = violations(problem, second.field, (0.5, 1.0))
    assert max(v for name, v in found.items() if name != "initial") < 1e-10
    algebra = algebra_for([(0, 1)], 2)
    edge = torch.tensor([[x, 0.5] for x in np.linspace(-0.5, 1, 20)])
    with torch.no_grad():
        before, after = (f.field.jet(edge, algebra) for f in (first, second))
    assert torch.allclose(before, after, rtol=0, atol=1e-10)


def test_clamped_ends_hold_value_and_slope():
    conditions = [
        {"where": "t = 0.25", "u": "0"},
        {"where": "x = -0.5", "u": "sin(t - 0.25)", "u_n": "(t - 0.25)^2"},
        {"where": "x = 1", "u": "0"},
        {"where": "x = 1", "u_x": "3*(t - 0.25)"},
    ]
    problem = problem_of(conditions, ["u_t + u_xxxx = 0"])
    built = build(problem)
    assert len(built.met) == 4 and not built.notes
    assert max(violations(problem, built.field).values()) < 1e-10
    # The bending moment at a clamped end is not fixed by the ansatz.
    point = torch.tensor([[1.0, 0.8]], dtype=torch.float64)
    algebra = algebra_for([(3, 0)], 2)
    for index in ((2, 0), (3, 0)):
        moment = [
            algebra.derivative(build(problem, seed=s).field.jet(point, algebra), index)
            for s in (0, 1)
        ]
        assert abs(moment[0] - moment[1]) > 1e-2


def test_every_derivative_agrees_with_nested_ad():
    problem = manufactured(2, ["x", "y"], (ROBIN, NEUMANN, DIRICHLET, NEUMANN))
    field = build(problem).field
    low, high = torch.tensor(problem.bounds, dtype=torch.float64).T
    unit = torch.rand(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = low + (high - low) * unit
    orders = [index for index in itertools.product(range(4), repeat=3) if sum(index) <= 3]
    algebra = algebra_for(orders, 3)
    fast, slow = field.jet(points, algebra), NestedField(field).jet(points, algebra)
    for channel in range(algebra.channels):
        assert (fast[channel] - slow[channel]).abs().max() <= 1e-11 * slow.abs().max()
    collapsed = algebra_for([], 3, laplacian=(0, 1))
    wanted = algebra.derivative(slow, (2, 0, 0)) + algebra.derivative(slow, (0, 2, 0))
    assert torch.allclose(2 * field.jet(points, collapsed)[-1], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ends", [(True, False), (False, True), (True, True)])
def test_features_stay_in_range_and_are_flat_where_asked(ends):
    embedding = flat_embedding(ends)
    algebra = algebra_for([(2,)], 1)
    x = torch.linspace(-0.5, 1, 301, dtype=torch.float64)[:, None]
    bundle = embedding.jet(x, algebra)
    assert bundle[0].abs().max() <= 1 + 1e-12
    slopes, curvatures = bundle[1], 2 * bundle[2]
    for end, flat in ((0, ends[0]), (-1, ends[1])):
        if flat:
            assert slopes[end].abs().max() < 1e-15 and curvatures[end].abs().max() > 1
        else:
            assert slopes[end].abs().max() > 1
    # Somewhere every feature changes: no value of x is hidden from the network.
    assert slopes[1:-1].abs().max(dim=1).values.min() > 1e-4


def flat_embedding(ends: tuple[bool, bool]) -> Embedding:
    generator = torch.Generator().manual_seed(0)
    return Embedding([(-0.5, 1.0)], periodic={}, flat={0: ends}, generator=generator)


@pytest.mark.parametrize("ends", [(True, False), (False, True), (True, True)])
def test_no_function_with_that_slope_is_left_out(ends):
    """Polynomials in the features converge geometrically where cosines are stuck at third order."""
    x = np.linspace(-0.5, 1, 400)
    s = (x + 0.5) / 1.5
    wanted = {  # u' = 0 at the flat ends, u''' not
        (True, False): s**2 * np.exp(-s),
        (False, True): (1 - s) ** 2 * np.exp(s),
        (True, True): s**2 * (1 - s) ** 2 * np.exp(s),
    }[ends]
    with torch.no_grad():
        features = flat_embedding(ends).jet(torch.tensor(x)[:, None], algebra_for([], 1))[0].numpy()

    def error(basis: np.ndarray) -> float:
        weights = np.linalg.lstsq(basis, wanted, rcond=1e-13)[0]
        return float(np.abs(basis @ weights - wanted).max())

    degrees = [d for d in itertools.product(range(4), repeat=3) if sum(d) <= 3]
    ours = np.stack([np.prod(features**d, axis=1) for d in degrees], axis=1)
    wave = np.pi * (s if all(ends) else s / 2 if ends[0] else (1 - s) / 2)
    cosines = np.cos(np.arange(len(degrees)) * wave[:, None])
    assert error(ours) < 1e-8
    assert error(cosines) > 1e3 * error(ours) and error(cosines) > 1e-6


START = {"where": "t = 0.25", "u": "1"}
FLAT = {"where": "x = -0.5", "u_n": "0"}


@pytest.mark.parametrize(
    "condition, reason",
    [
        ({"equation": "u_n + t*u = 0"}, "its coefficients vary"),
        ({"equation": "u_n + u^2 = 1"}, "it is not linear"),
        ({"equation": "u_n + u_t = 0"}, "it holds a derivative along the face"),
        ({"equation": "u_n + 14*u = 14"}, "is 21 times that of u_n, and at most 20"),
        ({"equation": "(x - 1)*u_n = 0"}, "no field is left of it"),
    ],
)
def test_what_cannot_be_built_in_is_soft_and_said(condition, reason):
    where = {"where": "x = 1", **condition}
    problem = problem_of([START, FLAT, where])
    built = build(problem)
    assert built.met == {"initial", "x = -0.5"}
    assert len(built.notes) == 1 and reason in built.notes[0] and "'x = 1'" in built.notes[0]
    found = violations(problem, built.field)
    assert max(found["initial"], found["x = -0.5"]) < 1e-10
    assert found["x = 1"] > 1e-3 or "no field" in reason
    assert not build(problem, hard=["initial"]).notes


@pytest.mark.parametrize(
    "condition, reason",
    [
        ({"u": 1, "equation": "u_xx = 0"}, "it holds a derivative of second order"),
        ({"u": 1, "equation": "u_n + u = 1"}, "is built in on the same face"),
    ],
)
def test_two_conditions_on_a_face_of_a_beam(condition, reason):
    clamped = {"where": "x = -0.5", "u": 1, "u_n": 0}
    problem = problem_of(
        [START, clamped, {"where": "x = 1", **condition}], ["u_t + 0.01*u_xxxx = 0"]
    )
    built = build(problem)
    assert {"initial", "x = -0.5"} <= built.met and "x = 1" not in built.met
    assert any(reason in note and "'x = 1'" in note for note in built.notes)


def test_coefficients_need_only_be_constant_on_the_face():
    """At x = -1/2 the first one reads u_n = 12 u + 2 sin(t - 1/4)."""
    conditions = [
        {"where": "t = 0.25", "u": "0"},
        {"where": "x = -0.5", "equation": "x*u_x = 6*u + sin(t - 0.25)"},
        {"where": "x = 1", "equation": "u = 13*x^2*u_n + t - 0.25"},
    ]
    problem = problem_of(conditions)
    built = build(problem)
    assert len(built.met) == 3 and not built.notes
    assert max(violations(problem, built.field).values()) < 1e-10


SYSTEM = ["u_t = u_xx + v", "v_t = v_xx - u"]


def test_fields_share_an_embedding_or_stay_soft():
    start = {"where": "t = 0.25", "u": 1, "v": 1}
    both = problem_of(
        [
            start,
            {"where": "x = -0.5", "u_n": 0, "v_n": "0"},
            {"where": "x = 1", "u_n": 0, "equation": "v_n + 0.5*v = 0.5"},
        ],
        SYSTEM,
        fields=("u", "v"),
    )
    built = build(both)
    assert len(built.met) == 3 and not built.notes
    assert max(violations(both, built.field).values()) < 1e-10
    mixed = problem_of(
        [start, {"where": "x = -0.5", "u_n": 0, "v": 1}, {"where": "x = 1", "u_n": 0, "v_n": 0}],
        SYSTEM,
        fields=("u", "v"),
    )
    built = build(mixed)
    assert built.met == {"initial", "x = 1"}
    assert "'x = -0.5' is imposed softly: it would have to be" in built.notes[0]
    assert max(v for k, v in violations(mixed, built.field).items() if k in built.met) < 1e-10
    # v keeps its value at that end, and its curvature there is free.
    algebra = algebra_for([(2, 0)], 2)
    end = torch.tensor([[-0.5, 0.7]], dtype=torch.float64)
    bundles = [build(mixed, seed=s).field.jet(end, algebra) for s in (0, 1)]
    values, curvatures = (
        [algebra.derivative(b, i)[0, 1] for b in bundles] for i in ((0, 0), (2, 0))
    )
    assert abs(values[0] - 1) < 1e-12 and abs(values[1] - 1) < 1e-12
    assert abs(curvatures[0] - curvatures[1]) > 1e-2
    coupled = problem_of(
        [
            start,
            {"where": "x = -0.5", "u_n": 0, "v_n": 0},
            {"where": "x = 1", "equation": ["u_n = v", "v_n = 0"]},
        ],
        SYSTEM,
        fields=("u", "v"),
    )
    built = build(coupled)
    assert built.met == {"initial", "x = -0.5"}
    assert "it couples several fields" in built.notes[0]


def test_an_initial_slope_that_contradicts_the_boundary_is_soft():
    conditions = [{**START, "u": "x"}, FLAT, {"where": "x = 1", "u_n": 0}]
    problem = problem_of(conditions)
    built = build(problem)
    assert built.met == {"x = -0.5", "x = 1"}
    assert built.notes == [
        "initial and boundary values of u disagree where they meet; "
        "the initial ones are imposed softly"
    ]
    found = violations(problem, built.field)
    assert max(found["x = -0.5"], found["x = 1"]) < 1e-10 < found["initial"]
    # The next window is handed the state all the same.
    later = build(problem, span=(0.5, 1.0), previous=built.field, seed=1)
    assert later.handed_over and later.met == built.met
    assert violations(problem, later.field, (0.5, 1.0))["x = 1"] < 1e-10


def test_faces_that_disagree_along_their_edge_are_soft():
    """A lid-driven cavity has two values in its upper corners."""
    walls = [{"where": f"{face}", "u": 0} for face in ("x = -0.5", "x = 1", "y = 1")]
    problem = problem_of([*walls, {"where": "y = 3", "u": 1}], ["u_xx + u_yy = 0"], ("x", "y"))
    built = build(problem)
    assert built.met == {"y = 1", "y = 3"} and len(built.notes) == 2
    assert all("disagree with others where they meet" in note for note in built.notes)
    found = violations(problem, built.field)
    assert max(found["y = 1"], found["y = 3"]) < 1e-10
    fits = problem_of(
        [*walls, {"where": "y = 3", "u": "(x + 0.5)*(1 - x)"}], ["u_xx + u_yy = 0"], ("x", "y")
    )
    built = build(fits)
    assert len(built.met) == 4 and max(violations(fits, built.field).values()) < 1e-10


@pytest.mark.parametrize(
    "kink", ["1 - abs(x)", "where(x < 0.1, x, 0.2 - x)", "max(x, 0)", "where(x < 0.3, 0, 1)"]
)
def test_initial_values_with_kinks_are_soft(kink):
    """Their second derivative holds a point mass that no collocation point sees."""
    neumann = [{"where": "x = -0.5", "u_n": 0}, {"where": "x = 1", "u_n": 0}]
    built = build(problem_of([{**START, "u": kink}, *neumann]))
    assert "initial" not in built.met and "lack derivatives" in built.notes[0]
    smooth = "where(x < 0, 0, x^4*(x - 1)^4) + 0*abs(x - 3)"
    assert not build(problem_of([{**START, "u": smooth}, *neumann])).notes


def test_initial_values_that_are_not_periodic_are_soft():
    conditions = [{**START, "u": "x^2"}, {"periodic": "x"}]
    built = build(problem_of(conditions))
    assert built.met == {"periodic x"} and "not periodic" in built.notes[0]
    problem = problem_of([{**START, "u": "sin(4*pi*x/3)"}, {"periodic": "x"}])
    built = build(problem)
    assert len(built.met) == 2 and max(violations(problem, built.field).values()) < 1e-10


def mirrored(field: Field, problem: Problem, sign: int) -> float:
    low, high = torch.tensor(problem.bounds, dtype=torch.float64).T
    unit = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = low + (high - low) * unit
    image = points.clone()
    image[:, 0] = low[0] + high[0] - image[:, 0]
    with torch.no_grad():
        return float((field(points) - sign * field(image)).abs().max())


@pytest.mark.parametrize(
    "start, ends, sign",
    [
        ("cos(4*pi*(x + 0.5)/3)", ["u_n = 0"] * 2, 1),
        ("sin(2*pi*(x - 0.25)/3)", ["u_n = 0"] * 2, -1),
        ("0", ["u_n + 2*u = t - 0.25"] * 2, 1),
        ("0", ["u_n - u = 0.25 - t", "u_n - u = t - 0.25"], -1),
    ],
)
def test_a_reflection_and_its_two_ends_go_together(start, ends, sign):
    faces = zip(("x = -0.5", "x = 1"), ends, strict=True)
    conditions = [{**START, "u": start}, *({"where": w, "equation": e} for w, e in faces)]
    problem = problem_of(conditions)
    parities = problem.parities()
    assert parities == {"x": {"u": sign}}
    built = build(problem, parities=parities)
    assert len(built.met) == 3 and not built.notes and built.bounds[0] == (0.25, 1.0)
    assert max(violations(problem, built.field).values()) < 1e-10
    assert mirrored(built.field, problem, sign) < 1e-10
    assert mirrored(build(problem).field, problem, sign) > 1e-3
    # Only one of the ends asked for: it holds, and what is not sampled follows from what is.
    half = build(problem, parities=parities, hard=["x = -0.5"])
    assert half.met == {"x = -0.5"} and violations(problem, half.field)["x = -0.5"] < 1e-10
    reflected = half.bounds[0] == (0.25, 1.0)
    assert reflected != bool(half.notes)
    assert (mirrored(half.field, problem, sign) < 1e-10) == reflected


def test_a_reflection_that_the_data_lack_is_not_built_in():
    problem = problem_of([{**START, "u": "x"}, {"where": "boundary", "u": "x"}])
    built = build(problem, parities={"x": {"u": 1}})
    assert built.bounds[0] == (-0.5, 1.0) and "reflection in x is not built in" in built.notes[0]
    assert len(built.met) == 3 and max(violations(problem, built.field).values()) < 1e-10


@pytest.mark.parametrize("slope, informed", [("0", True), ("t - 0.25", False)])
def test_a_network_that_takes_the_background_as_input_is_flat_too(slope, informed, monkeypatch):
    start = {**START, "u": "cos(2*pi*(x + 0.5)/1.5)"}
    problem = problem_of([start, FLAT, {"where": "x = 1", "u_n": slope}])
    architecture = dataclasses.replace(ARCHITECTURE, background=True)

    def windows() -> tuple[Constrained, Constrained]:
        first = build(problem, span=(0.25, 0.5), architecture=architecture)
        span = (0.5, 1.0)
        return first, build(problem, span=span, previous=first.field, architecture=architecture)

    for built, span in zip(windows(), ((0.25, 0.5), (0.5, 1.0)), strict=True):
        assert (built.field.network.background is not None) == informed
        assert len(built.met) == 3 and violations(problem, built.field, span)["x = 1"] < 1e-10
    # Wrong twin: an input with a slope spoils the condition, which is noticed.
    one = torch.ones(1, dtype=torch.float64)
    monkeypatch.setattr(constraints._Plan, "_sizes", lambda *_: one)
    assert ("x = 1" in windows()[0].met) == informed


def test_loading_weights_comes_to_the_same_decisions():
    problem = manufactured(5, ["x"], (NEUMANN, ROBIN))
    first = build(problem, span=(0.25, 0.5))
    second = build(problem, span=(0.5, 1.0), previous=first.field, seed=1)
    again = build(problem, span=(0.25, 0.5), seed=7, restore=True)
    loaded = build(problem, span=(0.5, 1.0), previous=again.field, seed=8, restore=True)
    assert (second.met, second.notes) == (loaded.met, loaded.notes)
    again.field.load_state_dict(first.field.state_dict())
    loaded.field.load_state_dict(second.field.state_dict())
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert isinstance(loaded.field.backgrounds[1], Handover)
    assert torch.equal(second.field(points), loaded.field(points))


NEUMANN_HEAT = ("0.5*x^2 + t + exp(-pi^2*t)*cos(pi*x)", ["u_n = 0", "u_n = 1"])
# The cosine satisfies u_n + k tan(k/2) u = 0 at both ends; the sine is what makes the data vary.
ROBIN_HEAT = (
    "exp(-1.7*t)*cos(sqrt(1.7)*(x - 0.5)) + 0.2*exp(-4*t)*sin(2*x)",
    [
        "u_n + sqrt(1.7)*tan(sqrt(1.7)/2)*u = -0.4*exp(-4*t)",
        "u_n + sqrt(1.7)*tan(sqrt(1.7)/2)*u"
        " = (0.4*cos(2) + 0.2*sqrt(1.7)*tan(sqrt(1.7)/2)*sin(2))*exp(-4*t)",
    ],
)


@pytest.mark.parametrize("exact, ends", [NEUMANN_HEAT, ROBIN_HEAT])
def test_heat_is_solved_more_accurately_than_with_soft_conditions(exact, ends, tmp_path):
    faces = zip(("x = 0", "x = 1"), ends, strict=True)
    problem = {
        "coordinates": {"x": [0, 1], "t": [0, 0.2]},
        "fields": ["u"],
        "equations": ["u_t = u_xx"],
        "conditions": [
            {"where": "t = 0", "u": exact.replace("t)", "0)").replace(" t ", " 0 ")},
            *({"where": w, "equation": e} for w, e in faces),
        ],
        "reference": {"exact": {"u": exact}},
    }
    errors = {}
    for hard in (True, False):
        solver = {
            "name": "pinn",
            "hard": hard,
            "symmetry": "none",
            "network": {"width": 12, "depth": 2},
            "points": {"interior": 200, "boundary": 15, "initial": 30},
        }
        run = {"budget": "none", "steps": 15, "seed": 0}
        solution = residua.solve(problem, solver=solver, run=run, out=tmp_path / str(hard))
        errors[hard] = solution.error(solution.problem.reference())["u"]
    assert errors[True] < 1e-2
    assert errors[True] < errors[False] / 5
