"""Problems with functions given by data: the twin written as a formula has the same solution."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import residua
from residua.engine.residuals import PointSet, ResidualEngine, interior_term
from residua.problems import Problem
from residua.problems.references import ReferenceUnavailable

ONE = {"series": [[0, 1.0, 0.0], [1, 0.0, 0.5]], "period": [0, 1]}
"""1 + sin(2 pi x)/2."""
NODES = np.linspace(0, 1, 161)


def sampled(function):
    return {"samples": np.stack([NODES, function(NODES)], axis=1)}


def gridded(function):
    x, y = (column.ravel() for column in np.meshgrid(NODES[::2], NODES[::2]))
    return {"samples": np.stack([x, y, function(x, y)], axis=1)}


# Problems, their functions, and what these are as formulas.
TWINS = {
    "periodic": (
        {
            "coordinates": {"x": [0, 1], "t": [0, 0.5]},
            "fields": ["u"],
            "equations": ["u_t + u*u_x = 0.05*d(f(x)*u_x, x) + f(x + t)"],
            "conditions": [{"where": "t = 0", "u": "f(2*x)^2"}, {"periodic": "x"}],
        },
        {"f": ONE},
        {"f": "1 + sin(2*pi*({}))/2"},
    ),
    "walls": (
        {
            "coordinates": {"x": [0, 1], "t": [0, 1]},
            "fields": ["u"],
            "equations": ["u_t = q(x)*u_xx - u^3 + q(t)"],
            "conditions": [
                {"where": "t = 0", "u": "q(x) - 1"},
                {"where": "x = 0", "u": "q(t) - 1"},
                {"where": "x = 1", "u_x": "q(1, 1) - 2*(u - q(1) + 1)"},
            ],
        },
        {"q": sampled(lambda x: 1 + x**2 * np.cos(x))},
        {"q": "1 + ({0})^2*cos({0})"},
    ),
    "steady": (
        {
            "coordinates": {"x": [0, 1]},
            "fields": ["u"],
            "equations": ["d(q(x)*u_x, x) = exp(q(x))"],
            "conditions": [{"where": "boundary", "u": "q(x)"}],
        },
        {"q": sampled(lambda x: 1 + x**2 * np.cos(x))},
        {"q": "1 + ({0})^2*cos({0})"},
    ),
    "plane": (
        {
            "coordinates": {"x": [0, 1], "y": [0, 1]},
            "fields": ["u"],
            "equations": ["lap(u) = g(x, y)"],
            "conditions": [{"where": "boundary", "u": 0}],
        },
        {"g": gridded(lambda x, y: np.exp(x * y) * np.sin(2 * x))},
        {"g": "exp(({0})*({1}))*sin(2*({0}))"},
    ),
}


def twin(text, formulas):
    """The text with formulas in place of q(...), and of its derivative in q(1, 1)."""
    slope = 2 * math.cos(1) - math.sin(1)
    text = text.replace("q(1, 1)", repr(slope))
    for name, formula in formulas.items():
        call = rf"\b{name}\(([^()]*)\)"
        text = re.sub(call, lambda m, f=formula: f"({f.format(*m[1].split(', '))})", text)
    return text


def pair(name):
    definition, functions, formulas = TWINS[name]
    plain = {
        **definition,
        "equations": [twin(e, formulas) for e in definition["equations"]],
        "conditions": [
            {k: twin(v, formulas) if isinstance(v, str) else v for k, v in c.items()}
            for c in definition["conditions"]
        ],
    }
    return Problem.from_mapping({**definition, "functions": functions}), Problem.from_mapping(plain)


def points_of(problem, count, rng):
    low, high = np.array(problem.bounds).T
    return rng.uniform(low, high, (count, len(low)))


@pytest.mark.parametrize("name", TWINS)
def test_the_reference_is_that_of_the_formula(name, rng):
    given, plain = pair(name)
    # Wall time enough for a busy machine; the target ends the refinement long before.
    here, there = (p.reference(target=1e-8, seconds=60) for p in (given, plain))
    points = points_of(given, 500, rng)
    a, b = here(points), there(points)
    apart = np.linalg.norm(a - b) / np.linalg.norm(b)
    # 160 cells carry the spline to 1e-12 and its slope to 1e-10.
    assert apart <= here.error_bar["u"] + there.error_bar["u"] + 1e-9
    assert here.error_bar["u"] < 1e-7


@pytest.mark.parametrize("name", TWINS)
def test_the_residual_is_that_of_the_formula(name, rng):
    from residua.engine.networks.embedding import Embedding
    from residua.engine.networks.mlp import Mlp

    given, plain = pair(name)
    generator = torch.Generator().manual_seed(0)
    ends = [(float(a), float(b)) for a, b in given.bounds]
    embedding = Embedding(ends, periodic={}, generator=generator)
    field = Mlp(embedding, 1, width=8, depth=2, activation="tanh", generator=generator).double()
    points = PointSet(torch.tensor(points_of(given, 64, rng)), torch.ones(64) / 64)
    values = []
    for problem in (given, plain):
        term = interior_term(problem)
        engine = ResidualEngine(problem, field, [term])
        values.append(engine.residuals({term.name: points})[term.name].detach().numpy())
    assert np.abs(values[0] - values[1]).max() < 1e-9 * np.abs(values[1]).max()


@pytest.mark.parametrize("name", ["periodic", "walls"])
def test_the_trained_solution_is_that_of_the_formula(name, rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = {
        "name": "causal",
        "network": {"width": 6, "depth": 1},
        "points": {"interior": 100},
        "optimizer": {"name": "gauss_newton", "steps": 12},
    }
    run = {"budget": "none", "steps": 12, "deterministic": True}
    given, plain = pair(name)
    points = points_of(given, 100, rng)
    found = []
    for stated, folder in ((given, "given"), (plain, "plain")):
        problem = dataclasses.replace(stated, reference_spec={"method": "none"})
        solved = residua.solve(problem, solver=solver, run=run, out=folder, quiet=True)
        found.append((solved, solved(points)))
    (here, a), (there, b) = found
    assert here.metadata["notes"] == there.metadata["notes"], "the same conditions are built in"
    assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_modes_that_both_grids_alias_are_not_overlooked():
    """A short wave that looks long on the grids: its bar says so, or there is no reference."""
    definition = {
        "coordinates": {"x": [0, 1], "t": [0, 1]},
        "fields": ["u"],
        "functions": {"f": {"series": [[1, 1.0, 0.0], [3001, 0.2, 0.0]], "period": [0, 1]}},
        "equations": ["u_t + 0.1*u_x = 1e-9*u_xx"],
        "conditions": [{"where": "t = 0", "u": "f(x)"}, {"periodic": "x"}],
    }
    problem = Problem.from_mapping(definition)
    try:
        reference = problem.reference(seconds=5)
    except ReferenceUnavailable:
        return
    x, t = np.random.default_rng(0).uniform(0, 1, (2, 4000))
    decay = [np.exp(-1e-9 * (2 * np.pi * k) ** 2 * t) for k in (1, 3001)]
    phase = 2 * np.pi * (x - 0.1 * t)
    exact = decay[0] * np.cos(phase) + 0.2 * decay[1] * np.cos(3001 * phase)
    error = np.linalg.norm(reference(np.stack([x, t], 1))[:, 0] - exact) / np.linalg.norm(exact)
    assert error <= reference.error_bar["u"]


@pytest.mark.parametrize("modes", [40, 300])
def test_the_bar_covers_the_error_for_rough_series(modes, rng):
    """Coefficients that fall like 1/k: the heat equation, exact mode by mode."""
    k = np.arange(1, modes)
    cosine, sine = rng.normal(size=(2, len(k))) / k
    table = np.stack([k, cosine, sine], axis=1)
    definition = {
        "coordinates": {"x": [0, 1], "t": [0, 1e-3]},
        "fields": ["u"],
        "functions": {"f": {"series": table, "period": [0, 1]}},
        "equations": ["u_t = 0.01*u_xx - 0.1*u"],
        "conditions": [{"where": "t = 0", "u": "f(x)"}, {"periodic": "x"}],
    }
    reference = Problem.from_mapping(definition).reference()
    x, t = rng.uniform([0, 0], [1, 1e-3], (3000, 2)).T
    wave = 2 * np.pi * k
    decay = np.exp(-(0.01 * wave**2 + 0.1) * t[:, None])
    exact = (decay * (cosine * np.cos(wave * x[:, None]) + sine * np.sin(wave * x[:, None]))).sum(1)
    error = np.linalg.norm(reference(np.stack([x, t], 1))[:, 0] - exact) / np.linalg.norm(exact)
    assert error <= reference.error_bar["u"] < 1e-10


def test_exact_solutions_may_hold_them():
    definition = {
        "coordinates": {"x": [0, 1], "t": [0, 1]},
        "fields": ["u"],
        "functions": {"f": ONE},
        "equations": ["u_t + u_x = 0"],
        "conditions": [{"where": "t = 0", "u": "f(x)"}, {"periodic": "x"}],
        "reference": {"exact": {"u": "f(x - t)"}},
    }
    assert Problem.from_mapping(definition).reference().error_bar["u"] < 1e-14
    definition["reference"] = {"exact": {"u": "f(x + t)"}}
    with pytest.raises(ReferenceUnavailable):
        Problem.from_mapping(definition).reference()
