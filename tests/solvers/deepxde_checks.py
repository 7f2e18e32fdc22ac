"""Compares DeepXDE's view of problems with Residua's; test_deepxde.py runs it as a process.

Prints one JSON object by problem. Importing DeepXDE changes torch for the whole process.
"""

import json
import sys
from types import SimpleNamespace

import deepxde as dde
import numpy as np
import torch

from residua.config import make_case
from residua.engine.functions import TORCH
from residua.engine.residuals import PointSet, ResidualEngine, condition_term, interior_term
from residua.problems import registry
from residua.problems.equation import evaluate, parse
from residua.problems.problem import Problem
from residua.solvers.deepxde import translation as translate
from residua.solvers.deepxde.trainer import Deepxde, _native

OWN = {
    "rod, time first": {
        "coordinates": {"t": [0, 0.2], "x": [0, 1]},
        "fields": ["u"],
        "equations": ["u_t = u_xx"],
        "conditions": [
            {"where": "t = 0", "u": "cos(pi*x)"},
            {"where": "x = 0", "u_n": "0"},
            {"where": "x = 1", "u_x": "-u - exp(-pi^2*t)"},
        ],
        "reference": {"exact": {"u": "exp(-pi^2*t)*cos(pi*x)"}},
    },
    "membrane": {
        "coordinates": {"x": [0, 1], "t": [0, 1], "y": [-1, 1]},
        "fields": ["u"],
        "equations": ["u_tt = lap(u)"],
        "conditions": [
            {"where": "t = 0", "u": "sin(pi*x)*sin(pi*y)", "u_t": 0},
            {"where": "x = 0", "u_n": "-pi*cos(sqrt(2)*pi*t)*sin(pi*y) - u"},
            {"where": "x = 1", "equation": "2*u_x + u = -2*pi*cos(sqrt(2)*pi*t)*sin(pi*y)"},
            {"where": "y = -1", "u_n": "pi*cos(sqrt(2)*pi*t)*sin(pi*x)"},
            {"where": "y = 1", "u": 0},
        ],
        "reference": {"exact": {"u": "cos(sqrt(2)*pi*t)*sin(pi*x)*sin(pi*y)"}},
    },
    "ring": {
        "coordinates": {"x": [0, "2*pi"], "t": [0, 1]},
        "fields": ["u", "v"],
        "equations": ["u_t + u_xxx = 0", "v_t + v_x = u - sin(x + t)"],
        "conditions": [
            {"where": "t = 0", "u": "sin(x)", "v": "cos(x)"},
            {"periodic": "x"},
        ],
        "reference": {"exact": {"u": "sin(x + t)", "v": "cos(x - t)"}},
    },
    "oscillator": {
        "coordinates": {"t": [0, 2]},
        "fields": ["u", "v"],
        "equations": ["u_tt = -u", "v_t = u"],
        "conditions": [{"where": "t = 0", "u": 1, "u_t": 0, "v": 0}],
        "reference": {"exact": {"u": "cos(t)", "v": "sin(t)"}},
    },
    "mixed": {
        "coordinates": {"x": [0, 1], "y": [0, 2], "z": [0, 1]},
        "fields": ["u", "v"],
        "equations": [
            "u_xy + u_xxyy + x*v_yyz = sin(x)*exp(u) + v_z^2",
            "lap(v) + max(u, v) + where(x < 0.5, u_x, abs(v)) = 0",
        ],
        "conditions": [{"where": "boundary", "u": "x*y", "v": "z"}],
        "reference": "none",
    },
}


def problems():
    yield from ((name, registry.get(name)) for name in registry.names())
    yield from ((name, Problem.from_mapping(text, name="own")) for name, text in OWN.items())


def errors(translation, data, x, y):
    """Residual of every DeepXDE condition at its training points."""
    begin = np.cumsum([0, *data.num_bcs])
    found = []
    for constraint, start, end in zip(translation.constraints, begin, begin[1:], strict=False):
        found.append(constraint.object.error(data.train_x, x, y, int(start), int(end)))
    dde.grad.clear()
    return found


def engine_errors(translation, data, problem, field):
    """The same by Residua's engine, up to sign: one column for each DeepXDE condition."""
    back = np.argsort(translation.order)
    begin = np.cumsum([0, *data.num_bcs])
    used = {}
    found = []
    for position, constraint in enumerate(translation.constraints):
        condition = next(c for c in problem.conditions if c.name == constraint.term)
        points = data.train_x[begin[position] : begin[position + 1]][:, back].copy()
        if condition.kind == "periodic":
            points = points[: len(points) // 2]
            face = condition.faces[0]
            points[:, problem.coordinates.index(face.coordinate)] = face.value
        points = torch.as_tensor(points)
        engine = ResidualEngine(problem, field, [condition_term(condition, problem)])
        batch = {condition.name: PointSet(points, torch.ones(len(points)))}
        column = used[condition.name] = used.get(condition.name, -1) + 1
        found.append(engine.residuals(batch)[condition.name][:, column : column + 1])
    return found


def exact_outputs(problem, translation, x, wrong):
    values = dict(problem.values)
    values |= {name: x[:, c : c + 1] for name, c in translation.column.items()}
    columns = []
    for name in problem.fields:
        tree = parse(problem.reference_spec["exact"][name], problem.namespace)
        column = evaluate(tree, values, TORCH)
        if wrong:
            column = column + 0.1 * torch.exp(
                sum(0.7 * (k + 1) * x[:, k : k + 1] for k in range(x.shape[1]))
            )
        columns.append(column.expand(len(x), 1))
    return torch.cat(columns, 1)


def gap(ours, theirs):
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / (1 + ours.abs().max()))


def check(problem):
    more = {"points": {"interior": 60, "boundary": 40, "initial": 20}}
    case = make_case(problem, {"name": "deepxde", **more}, {"seed": 7})
    translate.configure(case)
    translation = translate.Translation(case.problem)
    data = translate.training_data(translation, case.solver)
    sizes = [len(problem.coordinates), 20, 20, 20, len(problem.fields)]
    net = dde.nn.FNN(sizes, "tanh", "Glorot normal")
    for name, parameter in net.named_parameters():  # biases are zero at first
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter.data, -1, 1)
    field = Deepxde.rebuild(case, {"network": "fnn"})
    field.load_state_dict(_native(net.state_dict(), translation.order))

    bounds = torch.tensor(problem.bounds)
    points = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * torch.rand(50, len(bounds))
    engine = ResidualEngine(problem, field, [interior_term(problem)])
    ours = engine.residuals({"interior": PointSet(points, torch.ones(50))})["interior"]
    x = points[:, translation.order].clone().requires_grad_()
    y = net(x)
    theirs = torch.cat(translation.residuals(x, y), 1)
    # The wrong twin: the first two columns change places.
    twin = SimpleNamespace(gap=None)
    if len(translation.order) > 1:
        swapped = x.detach()[:, [1, 0, *range(2, len(translation.order))]].requires_grad_()
        dde.grad.clear()
        twin.gap = gap(ours, torch.cat(translation.residuals(swapped, net(swapped)), 1))
    dde.grad.clear()
    x = torch.as_tensor(data.train_x).requires_grad_()
    y = net(x)
    found = errors(translation, data, x, y)
    kinds = [type(constraint.object).__name__ for constraint in translation.constraints]
    wanted = engine_errors(translation, data, problem, field)
    conditions = []
    for kind, mine, other in zip(kinds, wanted, found, strict=True):
        if "Periodic" in kind:
            other = other[: len(mine)]
        conditions.append(gap(mine.abs(), other.detach().abs()))
    result = {
        "values": gap(field(points), net(points[:, translation.order]).detach()),
        "residual": gap(ours, theirs.detach()),
        "twin": twin.gap,
        "conditions": conditions,
        "kinds": kinds,
        "dtype": str(theirs.dtype),
    }
    if "exact" in problem.reference_spec:
        for name, wrong in (("exact", False), ("wrong", True)):
            y = exact_outputs(problem, translation, x, wrong)
            sizes = [float(e.detach().abs().max()) for e in errors(translation, data, x, y)]
            result[name] = sizes
            pde = translation.residuals(x, y)
            dde.grad.clear()
            result[f"{name} residual"] = max(float(r.detach().abs().max()) for r in pde)
    return result


def resampling():
    """DeepXDE's targets after its points were drawn again, as the backend lets it."""
    points = {"interior": 50, "sampler": "pseudo", "resample_every": 1}
    case = make_case("fisher_kpp", {"name": "deepxde", "points": points}, {"seed": 7})
    translate.configure(case)
    translation = translate.Translation(case.problem)
    data = translate.training_data(translation, case.solver)
    moved, worst = [], 0.0
    for _ in range(20):
        before = data.train_x_all.copy()
        data.resample_train_points(pde_points=True, bc_points=False)
        moved.append(float(np.abs(before - data.train_x_all).max()))
        x = torch.as_tensor(data.train_x).requires_grad_()
        y = exact_outputs(case.problem, translation, x, False)
        worst = max(worst, *(float(e.abs().max()) for e in errors(translation, data, x, y)))
    return {"moved": min(moved), "stale": worst}


if __name__ == "__main__":
    found = {name: check(problem) for name, problem in problems()}
    json.dump({"problems": found, "resampling": resampling()}, sys.__stderr__)
