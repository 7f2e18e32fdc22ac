"""What is really alive for the way back, whoever holds it, and thousands of reversible steps."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from residua.bench.trajectory_gradients import Alive, gradient_table
from residua.operators.neural_de import (
    ODE,
    PID,
    Backsolve,
    Constant,
    Direct,
    Euler,
    Interpolated,
    McCallumFoster,
    Midpoint,
    Reversible,
    Tsit5,
    integrate,
)

DOUBLE = torch.float64


def test_bytes_alive():
    before = torch.ones(1000, requires_grad=True)
    with Alive() as alive:
        kept = before * 2
        (kept * 3).sum()
        view = before[1:]
        assert alive.now == 4000 and alive.most >= 8000
        del kept
        assert alive.now == 0 and len(view) == 999
        numbers = torch.tensor([1.0, 2.0], dtype=DOUBLE)
        assert alive.now == 16 and len(numbers) == 2


@pytest.fixture(scope="module")
def table():
    return gradient_table((16, 144))


def test_errors_of_the_table(table):
    assert set(table) == {"direct", "checkpointed", "backsolve", "interpolated", "reversible"}
    for name, bound in (
        ("checkpointed", 1e-12), ("reversible", 1e-10), ("backsolve", 1e-6), ("interpolated", 1e-6)
    ):  # fmt: skip
        assert table[name]["error"] < bound, name


def test_memory_by_steps(table):
    """Nine times the steps: nine times the memory, thrice, or the same."""
    growth = {name: row["saved_bytes"][144] / row["saved_bytes"][16] for name, row in table.items()}
    assert growth["direct"] == pytest.approx(9, abs=0.6)
    assert growth["interpolated"] == pytest.approx(9, abs=0.9)
    assert growth["checkpointed"] < 5
    assert growth["reversible"] == 1 and growth["backsolve"] == 1


def rotation(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[:, 1], -torch.sin(y[:, 0])), dim=1)


def by_start(adjoint, stepper, controller) -> Tensor:
    start = torch.tensor([[0.3, 0.9]], dtype=DOUBLE, requires_grad=True)
    final = integrate(
        ODE(rotation), start, [0.0, 2.0], stepper=stepper, controller=controller, adjoint=adjoint,
        path="eager",
    ).final  # fmt: skip
    return torch.autograd.grad(final.square().sum(), start)[0]


def test_thousands_of_steps_are_taken_back():
    def error(coupling: float, steps: int) -> float:
        stepper = McCallumFoster(Euler(), coupling)
        true = by_start(Direct(), stepper, Constant(2 / steps))
        found = by_start(Reversible(), stepper, Constant(2 / steps))
        return float((found - true).norm() / true.norm())

    assert error(0.999, 3000) < 1e-10
    # Wrong twin: rounding grows like the power of the coupling, here 0.9 ** -400 = 1e18.
    assert not error(0.9, 400) < 1e-3


def test_steps_by_the_error_as_well():
    for base in (Midpoint(), Tsit5()):
        stepper = McCallumFoster(base)
        true = by_start(Direct(), stepper, PID(1e-4, 1e-5))
        found = by_start(Reversible(), stepper, PID(1e-4, 1e-5))
        assert float((found - true).norm() / true.norm()) < 1e-10


@pytest.mark.parametrize("adjoint", [Backsolve(), Interpolated(), Reversible()])
def test_a_solution_goes_when_it_is_let_go(adjoint):
    start = torch.ones(2, 2, dtype=DOUBLE, requires_grad=True)
    stepper = McCallumFoster(Tsit5()) if isinstance(adjoint, Reversible) else Tsit5()
    gc.disable()
    try:
        solution = integrate(
            ODE(rotation), start, [0.0, 1.0], stepper=stepper, controller=Constant(0.1),
            adjoint=adjoint, path="eager",
        )  # fmt: skip
        states = weakref.ref(solution.states)
        del solution
        assert states() is None
    finally:
        gc.enable()
