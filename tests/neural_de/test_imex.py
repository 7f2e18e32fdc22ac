"""Additive steppers: coupled order conditions, observed order, stability, gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from torch import Tensor

from residua.errors import ConfigurationError
from residua.operators.neural_de import ODE, PID, Constant, SplitODE, integrate
from residua.operators.neural_de.imex import ImplicitExplicit, KenCarp4
from residua.operators.neural_de.implicit_tableaus import KENCARP4, ImplicitTableau

DOUBLE = torch.float64


def defects(tableau: ImplicitTableau, weights: tuple[float, ...], order: int) -> list[float]:
    """|b . phi - 1 / gamma| of all trees up to an order whose branches have either colour."""
    found: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(order + 1)]
    found[1] = [(np.ones(tableau.stages), 1.0)]
    for size in range(2, order + 1):
        planted = [
            (n, matrix @ phi, gamma)
            for n in range(1, size)
            for phi, gamma in found[n]
            for matrix in tableau.matrices
        ]
        for count in range(1, size):
            for branches in combinations_with_replacement(planted, count):
                if sum(n for n, _, _ in branches) == size - 1:
                    phi = np.prod([v for _, v, _ in branches], axis=0)
                    found[size].append((phi, float(size * np.prod([g for _, _, g in branches]))))
    b = np.array(weights)
    return [abs(float(b @ phi) - 1 / gamma) for level in found[1:] for phi, gamma in level]


def test_coupled_order_conditions() -> None:
    conditions = defects(KENCARP4, KENCARP4.weights, 4)
    assert len(conditions) == 1 + 2 + 7 + 26
    assert max(conditions) < 1e-15
    assert max(defects(KENCARP4, KENCARP4.weights, 5)) > 1e-3
    assert max(defects(KENCARP4, KENCARP4.embedded, 3)) < 1e-15
    assert max(defects(KENCARP4, KENCARP4.embedded, 4)) > 1e-3
    assert KENCARP4.explicit is not None
    # The nodes of both methods agree, and the implicit one forgets an infinitely stiff component.
    explicit, implicit = KENCARP4.matrices[1], KENCARP4.matrix
    assert np.abs(explicit.sum(1) - implicit.sum(1)).max() < 1e-15
    assert abs(np.linalg.solve(implicit[1:, 1:], implicit[1:, 0])[-1]) < 1e-14


def test_one_wrong_explicit_coefficient_is_seen() -> None:
    assert KENCARP4.explicit is not None
    rows = [list(row) for row in KENCARP4.explicit]
    rows[3][1] += 1e-9
    wrong = replace(KENCARP4, explicit=tuple(tuple(row) for row in rows))
    assert max(defects(wrong, wrong.weights, 4)) > 1e-11


def exact(t: Tensor) -> Tensor:
    return torch.stack((torch.sin(t), torch.cos(t) + 0.5 * torch.sin(2 * t)), -1)


def drive(t: Tensor, y: Tensor) -> Tensor:
    """With `relax`, a nonlinear field whose solution is `exact`."""
    slope = torch.stack((torch.cos(t), -torch.sin(t) + torch.cos(2 * t)), 1)
    return slope + (y - exact(t)).flip(1) * y + y**3


def relax(t: Tensor, y: Tensor) -> Tensor:
    return -torch.sin(y - exact(t)) * (1 + y**2) - y**3


def observed_order(stepper: ImplicitExplicit, inside: bool = False) -> float:
    errors = []
    for count in (32, 64):
        h = 1.0 / count
        times = torch.tensor([0.0, 0.5 + 0.37 * h, 1.0] if inside else [0.0, 1.0], dtype=DOUBLE)
        with torch.no_grad():
            found = integrate(
                SplitODE(drive, relax),
                exact(times[:1]),
                times,
                stepper=stepper,
                controller=Constant(h),
                path="eager",
            )
        errors.append(float((found.states[0, 1] - exact(times[1])).abs().max()))
    return float(np.log2(errors[0] / errors[1]))


def test_order() -> None:
    precise = KenCarp4(rtol=1e-13, atol=1e-14)
    assert observed_order(precise) == pytest.approx(4, abs=0.2)
    assert observed_order(precise, inside=True) > 2.7


def test_a_wrong_coupling_loses_the_order() -> None:
    assert KENCARP4.explicit is not None
    rows = [list(row) for row in KENCARP4.explicit]
    rows[4][1], rows[4][2] = rows[4][1] + 0.02, rows[4][2] - 0.02
    wrong = replace(KENCARP4, explicit=tuple(tuple(row) for row in rows))
    assert observed_order(ImplicitExplicit(wrong, rtol=1e-13, atol=1e-14)) < 3.5


def stiff(t: Tensor, y: Tensor) -> Tensor:
    return -1e5 * (y - torch.cos(t)[:, None])


def slow(t: Tensor, y: Tensor) -> Tensor:
    return -torch.sin(t)[:, None] + 0.0 * y


@pytest.mark.parametrize(("swapped", "most"), [(False, 200), (True, None)])
def test_the_stiff_part_goes_where_it_belongs(swapped: bool, most: int | None) -> None:
    term = SplitODE(stiff, slow) if swapped else SplitODE(slow, stiff)
    with torch.no_grad():
        found = integrate(
            term,
            torch.tensor([[2.0]], dtype=DOUBLE),
            [0.0, 2.0],
            stepper=KenCarp4(),
            controller=PID(rtol=1e-5, atol=1e-5),
            max_steps=300,
            path="eager",
        )
    if most is None:
        assert not bool(found.successful.all())
    else:
        assert bool(found.successful.all())
        assert int(found.statistics.steps) < most
        assert float(found.final) == pytest.approx(np.cos(2.0), abs=1e-4)


def test_gradient_against_the_solution() -> None:
    rate = torch.tensor([0.7, 40.0], dtype=DOUBLE, requires_grad=True)

    def explicit(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((rate[0] * y[:, 1], torch.cos(t) * y[:, 0]), 1)

    def implicit(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-rate[1] * y[:, 0] ** 3, -y[:, 1] * y[:, 0]), 1)

    start = torch.tensor([[1.0, 0.5]], dtype=DOUBLE, requires_grad=True)
    found = integrate(
        SplitODE(explicit, implicit),
        start,
        [0.0, 1.0],
        stepper=KenCarp4(),
        controller=Constant(0.1),
        path="eager",
    )
    gradient = torch.autograd.grad(found.final.sin().sum(), (start, rate))
    values = []
    for shift in (-1e-5, 1e-5):
        with torch.no_grad():
            rate += torch.tensor([shift, 0.0], dtype=DOUBLE)
            again = integrate(
                SplitODE(explicit, implicit),
                start,
                [0.0, 1.0],
                stepper=KenCarp4(),
                controller=Constant(0.1),
                path="eager",
            )
            values.append(float(again.final.sin().sum()))
            rate -= torch.tensor([shift, 0.0], dtype=DOUBLE)
    numeric = (values[1] - values[0]) / 2e-5
    assert float(gradient[1][0]) == pytest.approx(numeric, rel=1e-6)
    assert torch.isfinite(gradient[0]).all()


def test_a_field_that_is_not_split_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="implicitly"):
        integrate(ODE(stiff), torch.ones(1, 1), [0.0, 1.0], stepper=KenCarp4(), path="eager")
