"""Equations as teachers: residuals of true solutions vanish at their order; operators follow."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

import residua
from residua.cli import main
from residua.errors import DataError
from residua.operators.case import load_case
from residua.operators.datasets.darcy import coarse_floor
from residua.operators.datasets.generation import Request, one_sample
from residua.operators.errors import batches, predicted
from residua.operators.evaluation.metrics import relative_l2
from residua.operators.fine_tuning import fine_tune
from residua.operators.laws import law_of
from residua.operators.options import PhysicsOptions
from residua.operators.physics import Burgers, Darcy, _moments, residual_of
from residua.operators.samples import open_samples

DOUBLE = torch.float64
PI = math.pi


def smooth(n: int, *, wrong: bool = False) -> float:
    """Residual of u = sin(pi x) sin(2 pi y) with the f that belongs to a = 1 + x + y^2."""
    nodes = torch.linspace(0, 1, n, dtype=DOUBLE)
    x, y = nodes[:, None], nodes[None]
    u, a = torch.sin(PI * x) * torch.sin(2 * PI * y), 1 + x + y**2
    slope_x = PI * torch.cos(PI * x) * torch.sin(2 * PI * y)
    slope_y = 2 * PI * torch.sin(PI * x) * torch.cos(2 * PI * y)
    source = 5 * PI**2 * a * u - slope_x - 2 * y * slope_y
    used = 1 + x + y if wrong else a
    return float(Darcy(source, 1 / (n - 1))(used[None, None], u[None, None]))


def test_the_residual_of_darcy_falls_at_second_order() -> None:
    sizes = [smooth(n) for n in (9, 17, 33)]
    assert 3.6 < sizes[0] / sizes[1] < 4.4 and 3.6 < sizes[1] / sizes[2] < 4.4
    assert smooth(33, wrong=True) > 10 * sizes[2]


def test_at_jumps_the_weak_form_is_nearer_to_the_truth_than_five_points() -> None:
    """The field of no residual, by conjugate gradients, against that of the generator's formula."""
    n, inner = 33, 31**2
    errors, floors = [], []
    for number in range(2):
        fields = one_sample(Request("darcy_rough", n, 0, {"grid": 129}), number).fields
        a, true = fields["a"], fields["u"]
        physics, coefficient = Darcy(1.0, 1 / (n - 1)), torch.from_numpy(a.copy())[None]

        def force(values: np.ndarray) -> np.ndarray:
            u = torch.zeros(1, n, n, dtype=DOUBLE)
            u[0, 1:-1, 1:-1] = torch.from_numpy(values.reshape(n - 2, n - 2))
            return physics.force(coefficient, u).numpy().ravel()  # noqa: B023

        load = -force(np.zeros(inner))
        matrix = LinearOperator((inner, inner), matvec=lambda v: force(v) + load)  # noqa: B023
        found, failed = cg(matrix, load, rtol=1e-6, maxiter=500)
        assert not failed
        inside = true[1:-1, 1:-1].ravel()
        errors.append(np.linalg.norm(found - inside) / np.linalg.norm(inside))
        floors.append(coarse_floor(a[None], true[None])[0])
    assert np.mean(errors) < 0.65 * np.mean(floors)


def test_forces_of_one_material_are_those_of_bilinear_elements() -> None:
    """Inside, 8/3 of a node and -1/3 of its eight neighbours, if edges were straight: they are."""
    u = torch.zeros(1, 7, 7, dtype=DOUBLE)
    u[0, 3, 3] = 1.0
    force = Darcy(0.0, 1 / 6).force(torch.full((1, 7, 7), 2.0, dtype=DOUBLE), u)[0]
    assert force[2, 2] == pytest.approx(2 * 8 / 3)
    assert force[1, 2] == pytest.approx(-2 / 3) and force[1, 1] == pytest.approx(-2 / 3)
    assert force[0].abs().max() == 0


def hopf(time: float, nodes: int) -> Tensor:
    """A solution with nu = 0.1 by the substitution of Cole and Hopf, shape (1, 1, nodes)."""
    x, k = torch.arange(nodes, dtype=DOUBLE) / nodes, 2 * PI
    size = 0.6 * math.exp(-0.1 * k**2 * time)
    return (0.2 * k * size * torch.sin(k * x) / (1 + size * torch.cos(k * x)))[None, None]


def test_the_residual_of_burgers_falls_at_fifth_order_of_one_step() -> None:
    def sizes(nu: float) -> list[float]:
        steps = (0.1, 0.05, 0.025, 0.0125)
        return [
            float(Burgers(nu, 1 / 48, step)(hopf(0.05, 48), hopf(0.05 + step, 48)))
            for step in steps
        ]

    right, wrong = sizes(0.1), sizes(0.12)
    assert right[-1] < 1e-7 and right[2] / right[3] > 15
    assert wrong[2] / wrong[3] < 2.5 and wrong[-1] > 1e-3


def test_moments_are_integrals() -> None:
    z = torch.tensor([0.0, 1e-9, 0.3, 3.99, 4.01, 80.0, 1e5], dtype=DOUBLE)
    for m, values in enumerate(_moments(z)):
        for rate, value in zip(z.tolist(), values.tolist(), strict=True):
            # The exponential lives within 1/z of the end.
            start = max(0.0, 1 - 40 / max(rate, 1e-9))
            true, _ = quad(lambda s: math.exp(-rate * (1 - s)) * s**m, start, 1)  # noqa: B023
            assert value == pytest.approx(true, rel=1e-9)


DARCY = """
data: {file: darcy.h5}
network: {name: mgno, width: 8, depth: 2, smoothings: [1, 1, 2]}
training: {epochs: 12, batch: 8, learning_rate: 0.01}
run: {threads: 1}
"""
BURGERS = DARCY.replace("darcy", "burgers")


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_data):
    """Data of both equations."""
    folder, rows = tmp_path_factory.mktemp("made"), {"train": (0, 24), "test": (24, 26)}
    make_data(folder / "darcy.h5", "darcy", 17, rows, grid=65)
    make_data(folder / "burgers.h5", "burgers", 32, rows, target=1e-3, instants=4, end=0.15)
    make_data(folder / "pairs.h5", "burgers", 32, rows, target=1e-2, end=0.01)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder of one's own with copies of them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(text: str, *arguments: str) -> int:
    Path("case.yaml").write_text(text)
    return main(["train", "case.yaml", "--quiet", *arguments])


@pytest.mark.parametrize(
    ("text", "wrong", "steps", "rate"), [(DARCY, 1.6, 50, 1e-3), (BURGERS, 20.0, 15, 3e-3)]
)
def test_fine_tuning_lowers_the_error_and_its_wrong_twin_does_not(here, text, wrong, steps, rate):
    assert train(text, "--out", "run") == 0
    operator = residua.load_operator("run")
    test = open_samples(operator.case.data).test
    inputs, truths = next(batches(test))
    law = law_of(PhysicsOptions(), test)

    def error(found) -> float:
        return float(relative_l2(predicted(found, inputs[:1], truths[:1]), truths[:1])[0])

    def tuned(constant: float):
        return fine_tune(
            operator, inputs[0], residual_of(dataclasses.replace(law, constant=constant)),
            steps=steps, learning_rate=rate, instants=len(truths[0]) if test.steps else 1,
        )  # fmt: skip

    before = operator.model.state_dict()["network.readout.weight"].clone()
    right, other = tuned(law.constant), tuned(wrong * law.constant)
    assert right.after < 0.5 * right.before and other.after < other.before
    assert error(right.operator) < 0.7 * error(operator)
    assert error(other.operator) > error(operator)
    assert torch.equal(before, operator.model.state_dict()["network.readout.weight"])


def test_the_command_says_what_fine_tuning_gives(here, capsys):
    assert train(DARCY, "--out", "run", "--set", "physics.weight=0.1") == 0
    assert "physics:" in Path("run/config.resolved.yaml").read_text()
    code = main(["evaluate", "run", "--samples", "1", "--fine-tune", "10"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and "fine-tuned by the equation (darcy), 10 steps" in out
    assert train(BURGERS.replace("burgers.h5", "pairs.h5"), "--out", "pairs") == 0
    assert main(["evaluate", "pairs", "--fine-tune", "10"]) == 2
    assert "map: steps" in capsys.readouterr().err


def test_an_equation_alone_teaches(here):
    """Solutions that are noise are not looked at; where they are, nothing is learnt."""
    with h5py.File("darcy.h5", "r+") as file:
        stored = file["t0_fields/u"]
        truths = stored[24:]
        noise = np.random.default_rng(0).standard_normal(stored[:24].shape)
        stored[:24] = stored[:24].mean() + stored[:24].std() * noise
    errors = {}
    for name, physics in (("equation", "{data: 0, weight: 1}"), ("noise", "null")):
        text = f"{DARCY}physics: {physics}\n"
        assert train(text, "--out", name, "--set", "training.epochs=20") == 0
        operator = residua.load_operator(name)
        test = open_samples(operator.case.data).test
        errors[name] = relative_l2(operator(test.data.inputs[:])[:, 0], truths).mean()
    assert errors["equation"] < 0.4 and errors["equation"] < 0.6 * errors["noise"]


BAD = [
    ("physics.weigth=1", ["physics.weigth", "did you mean 'weight'"]),
    ("physics={data: 0, weight: 0}", ["physics.weight", "nothing is left to train on"]),
    ("physics={equation: burgers}", ["physics.equation", "write data.map: steps"]),
    ("physics={equation: heat}", ["physics.equation", "darcy"]),
]


@pytest.mark.parametrize(("change", "says"), BAD)
def test_a_mistake_gets_one_line(here, capsys, change, says):
    Path("case.yaml").write_text(DARCY)
    assert main(["train", "case.yaml", "--dry-run", "--set", change]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(words in err for words in says)


def test_what_the_file_does_not_say_is_asked_for(here, capsys):
    first = np.random.default_rng(0).uniform(3, 12, (8, 9, 9))
    np.save("x_inputs.npy", first)
    np.save("x_outputs.npy", first)
    text = (
        "data: {file: x_inputs.npy, boundary: dirichlet, splits: {train: [0, 6], test: [6, 8]}}\n"
        "physics: %s\n"
    )
    for physics, code, says in (
        ("{}", 2, "does not say which equation"),
        ("{equation: darcy}", 2, "does not say f"),
        ("{equation: darcy, constant: 1.0}", 0, ""),
    ):
        assert train(text % physics, "--dry-run") == code
        assert says in capsys.readouterr().err


def test_cases_without_an_equation_are_as_they_were(here):
    Path("case.yaml").write_text(DARCY)
    assert "physics" not in load_case("case.yaml").resolved()


def test_a_coefficient_without_a_solution_is_named() -> None:
    a = torch.ones(1, 1, 5, 5)
    a[0, 0, 2, 2] = 0.0
    with pytest.raises(DataError, match="not positive"):
        Darcy(1.0, 0.25)(a, torch.zeros(1, 1, 5, 5))
