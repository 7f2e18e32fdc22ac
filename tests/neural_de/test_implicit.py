"""ESDIRK steppers: order, stability, stiff problems against scipy, gradients, failures."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from residua.errors import ConfigurationError
from residua.operators.neural_de import (
    ODE,
    PID,
    SDE,
    Constant,
    Outcome,
    Stepper,
    Tsit5,
    implicit,
    integrate,
)
from residua.operators.neural_de.implicit import (
    DiagonallyImplicit,
    ImplicitEuler,
    Kvaerno3,
    Kvaerno5,
)
from residua.operators.neural_de.implicit_tableaus import (
    IMPLICIT_EULER,
    KVAERNO3,
    KVAERNO5,
    ImplicitTableau,
)
from residua.operators.neural_de.newton import Newton, jacobian

DOUBLE = torch.float64


def conditions(matrices: list[np.ndarray], order: int) -> list[list[tuple[np.ndarray, float]]]:
    """By size of tree: weights phi and 1 / gamma, from a recursion independent of the library's.

    A tree of size n is made by joining planted trees; phi, size and gamma are joined on the way.
    """
    stages = len(matrices[0])
    found: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(order + 1)]
    found[1] = [(np.ones(stages), 1.0)]
    for size in range(2, order + 1):
        planted = [
            (n, matrix @ phi, gamma)
            for n in range(1, size)
            for phi, gamma in found[n]
            for matrix in matrices
        ]
        for count in range(1, size):
            for branches in combinations_with_replacement(planted, count):
                if sum(n for n, _, _ in branches) == size - 1:
                    phi = np.prod([v for _, v, _ in branches], axis=0)
                    gamma = size * np.prod([g for _, _, g in branches])
                    found[size].append((phi, float(gamma)))
    return found


def defect(tableau: ImplicitTableau, weights: tuple[float, ...], order: int) -> float:
    trees = conditions(tableau.matrices, order)
    b = np.array(weights)
    return max(abs(b @ phi - 1 / gamma) for level in trees[1:] for phi, gamma in level)


def shifted(tableau: ImplicitTableau, row: int, column: int, by: float) -> ImplicitTableau:
    """A tableau with one coefficient wrong."""
    rows = [list(values) for values in tableau.implicit]
    rows[row][column] += by
    return replace(tableau, implicit=tuple(tuple(values) for values in rows))


def test_there_are_as_many_trees_as_there_should_be() -> None:
    assert [len(level) for level in conditions([KVAERNO5.matrix], 6)[1:]] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("tableau", [KVAERNO3, KVAERNO5], ids=lambda t: t.name)
def test_both_methods_of_a_pair_meet_their_order_conditions(tableau: ImplicitTableau) -> None:
    assert defect(tableau, tableau.weights, tableau.order) < 4e-16
    assert defect(tableau, tableau.weights, tableau.order + 1) > 1e-3
    assert defect(tableau, tableau.embedded, tableau.error_order) < 4e-16
    assert defect(tableau, tableau.embedded, tableau.error_order + 1) > 1e-3
    # Wrong in the tenth digit.
    assert defect(shifted(tableau, 2, 1, 1e-10), tableau.weights, tableau.order) > 1e-12


@pytest.mark.parametrize("tableau", [KVAERNO3, KVAERNO5, IMPLICIT_EULER], ids=lambda t: t.name)
def test_l_stable(tableau: ImplicitTableau) -> None:
    matrix, b = tableau.matrix, np.array(tableau.weights)
    one, identity = np.ones(len(b)), np.eye(len(b))
    states = -np.linalg.solve(matrix[1:, 1:], matrix[1:, 0])
    assert abs(states[-1]) < 1e-14
    for y in np.logspace(-3, 5, 200):
        z = 1j * y
        assert abs(1 + z * b @ np.linalg.solve(identity - z * matrix, one)) <= 1 + 1e-12


def test_another_gamma_is_not_l_stable() -> None:
    matrix = KVAERNO3.matrix.copy()
    matrix[[1, 2, 3], [1, 2, 3]] = 0.4
    assert abs(np.linalg.solve(matrix[1:, 1:], matrix[1:, 0])[-1]) > 1e-2


def swing(t: Tensor, y: Tensor) -> Tensor:
    """With the solution (sin t, cos t + 1/2 sin 2t), but nonlinear in y."""
    a, b = torch.sin(t), torch.cos(t) + 0.5 * torch.sin(2 * t)
    slope = torch.stack((torch.cos(t), -torch.sin(t) + torch.cos(2 * t)), 1)
    off = y - torch.stack((a, b), 1)
    return slope + torch.stack((off[:, 1] * y[:, 0], -2 * off[:, 0] - off[:, 1] * y[:, 1] ** 2), 1)


def exact(t: Tensor) -> Tensor:
    return torch.stack((torch.sin(t), torch.cos(t) + 0.5 * torch.sin(2 * t)), -1)


def observed_order(stepper: DiagonallyImplicit, steps: tuple[int, int], inside: bool) -> float:
    """Slope between two numbers of steps to t = 2; `inside` looks at points within the steps."""
    errors = []
    for count in steps:
        h = 2.0 / count
        times = torch.tensor([0.0, 0.37 * h + 1.0, 2.0] if inside else [0.0, 2.0], dtype=DOUBLE)
        start = exact(torch.zeros(1, dtype=DOUBLE))
        with torch.no_grad():
            solution = integrate(
                ODE(swing), start, times, stepper=stepper, controller=Constant(h), path="eager"
            )
        errors.append(float((solution.states[0, 1] - exact(times[1])).abs().max()))
    return float(np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0]))


@pytest.mark.parametrize(
    ("stepper", "steps"),
    [(ImplicitEuler(), (50, 100)), (Kvaerno3(), (24, 48)), (Kvaerno5(), (12, 24))],
    ids=repr,
)
def test_order(stepper: DiagonallyImplicit, steps: tuple[int, int]) -> None:
    precise = type(stepper)(rtol=1e-13, atol=1e-14)
    assert observed_order(precise, steps, inside=False) == pytest.approx(stepper.order, abs=0.2)
    if stepper.order > 1:
        assert observed_order(precise, steps, inside=True) > stepper.dense_order - 0.3


def test_a_wrong_coefficient_loses_the_order() -> None:
    rows = list(KVAERNO5.implicit)
    rows[4] = (rows[4][0] + 1e-3, rows[4][1] - 1e-3, *rows[4][2:])
    wrong = replace(KVAERNO5, implicit=tuple(rows))
    stepper = DiagonallyImplicit(wrong, rtol=1e-13, atol=1e-14)
    assert observed_order(stepper, (16, 32), inside=False) < 4.5


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((back - slow, slow - back - fast, fast), 1)


def robertson_jacobian(t: float, y: np.ndarray) -> np.ndarray:
    return np.array(
        [
            [-0.04, 1e4 * y[2], 1e4 * y[1]],
            [0.04, -1e4 * y[2] - 6e7 * y[1], -1e4 * y[1]],
            [0.0, 6e7 * y[1], 0.0],
        ]
    )


def test_robertson_to_1e11() -> None:
    times = [0.0, 0.4, 4e3, 4e7, 1e11]
    start = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE)
    controller = PID(rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        solution = integrate(
            ODE(robertson), start, times, stepper=Kvaerno5(), controller=controller, path="eager"
        )
    oracle = solve_ivp(
        lambda t, y: robertson(torch.tensor([t]), torch.tensor(y)[None])[0].numpy(),
        (0, 1e11),
        [1.0, 0.0, 0.0],
        method="Radau",
        jac=robertson_jacobian,
        rtol=1e-8,
        atol=[1e-12, 1e-16, 1e-12],
        t_eval=times,
    )
    assert solution.outcome.tolist() == [Outcome.SUCCESS]
    found = solution.states[0].numpy()
    assert np.abs(found[:, 0] - oracle.y[0]).max() < 1e-6
    assert np.abs(found[:, 1] - oracle.y[1]).max() < 1e-9
    # The sum is a linear invariant: no tolerance, only rounding.
    assert np.abs(found.sum(1) - 1).max() < 1e-14
    statistics = solution.statistics
    # Diffrax 0.7.2 makes 1316 steps with its Kvaerno5 and these tolerances; here 196.
    assert int(statistics.steps) < 300
    assert statistics.jacobians is not None and statistics.factorisations is not None
    assert int(statistics.jacobians) < int(statistics.steps)


def test_robertson_is_out_of_reach_of_an_explicit_method() -> None:
    start = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE)
    with torch.no_grad():
        solution = integrate(
            ODE(robertson), start, [0.0, 1e11], stepper=Tsit5(), max_steps=300, path="eager"
        )
    assert solution.outcome.tolist() == [Outcome.STEP_LIMIT]


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[:, 1], 1000 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]), 1)


def test_stiff_van_der_pol_through_a_jump() -> None:
    times = [0.0, 500.0, 800.0, 1000.0]
    start = torch.tensor([[2.0, 0.0]], dtype=DOUBLE)
    with torch.no_grad():
        solution = integrate(
            ODE(van_der_pol),
            start,
            times,
            stepper=Kvaerno5(),
            controller=PID(rtol=1e-6, atol=1e-6),
            path="eager",
        )
    oracle = solve_ivp(
        lambda t, y: [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]],
        (0, 1000),
        [2.0, 0.0],
        method="Radau",
        rtol=1e-9,
        atol=1e-9,
        t_eval=times,
    )
    assert np.abs(solution.states[0, :, 0].numpy() - oracle.y[0]).max() < 1e-4
    assert int(solution.statistics.steps) < 400


def test_rows_do_not_influence_each_other() -> None:
    rates = torch.tensor([1.0, 1e3, 1e6], dtype=DOUBLE)

    def field(rate: Tensor, t: Tensor, y: Tensor) -> Tensor:
        relaxed = y[:, 0] - torch.cos(t)
        return torch.stack((-rate * relaxed * (1 + y[:, 0] ** 2), y[:, 0] - y[:, 1]), 1)

    def solve(rate: Tensor) -> tuple[Tensor, Tensor]:
        start = torch.tensor([[2.0, 0.0]], dtype=DOUBLE).repeat(len(rate), 1)
        with torch.no_grad():
            found = integrate(
                ODE(lambda t, y: field(rate, t, y)),
                start,
                [0.0, 3.0],
                stepper=Kvaerno3(),
                controller=PID(rtol=1e-5, atol=1e-6),
                path="eager",
            )
        return found.final, found.statistics.steps

    together, steps = solve(rates)
    for row in range(3):
        alone, count = solve(rates[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-11, atol=1e-12)
        assert int(steps[row]) == int(count)


def test_a_linear_equation_needs_one_jacobian_and_equal_steps_one_factorisation() -> None:
    matrix = torch.tensor([[-1.0, 5.0], [0.0, -1e4]], dtype=DOUBLE)
    term, stepper = ODE(lambda t, y: y @ matrix.T), Kvaerno5()
    y, h = torch.ones(2, 2, dtype=DOUBLE), torch.full((2,), 0.1, dtype=DOUBLE)
    t = torch.zeros(2, dtype=DOUBLE)
    cache = stepper.begin(term, t, h, y)
    for _ in range(5):
        step = stepper.step(term, t, h, y, cache)
        y, t, cache = step.state, t + h, step.cache
        assert cache is not None
    assert [row.tolist() for row in stepper.work(cache, 2)] == [[1, 1], [1, 1]]
    step = stepper.step(term, t, 3 * h, y, cache)
    assert step.cache is not None
    assert [row.tolist() for row in stepper.work(step.cache, 2)] == [[1, 1], [2, 2]]


class Stiff(nn.Module):
    """A small network beside a stiff relaxation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=DOUBLE)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]]))
            self.layer.bias.copy_(torch.tensor([0.1, -0.2]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        learnt = torch.tanh(self.layer(torch.cat((y, t[:, None]), 1)))
        relaxed = torch.stack((-200 * (y[:, 0] - torch.cos(t)), y[:, 0] * y[:, 1]), 1)
        return learnt + relaxed


def gradient_defect(stepper: DiagonallyImplicit, h: float) -> float:
    """Relative difference of the gradient from central differences, along two directions."""
    field, generator = Stiff(), torch.Generator().manual_seed(0)
    start = torch.tensor([[0.5, 1.0], [1.0, -0.3]], dtype=DOUBLE, requires_grad=True)
    leaves = [start, field.layer.weight]
    term, controller = ODE(field), Constant(h)

    def loss() -> Tensor:
        found = integrate(
            term, start, [0.0, 0.37, 1.0], stepper=stepper, controller=controller, path="eager"
        )
        return found.states[:, 1:].sin().sum()

    gradients = torch.autograd.grad(loss(), leaves)
    worst, step = 0.0, 1e-3
    for _ in range(2):
        along = [torch.randn(x.shape, dtype=DOUBLE, generator=generator) for x in leaves]
        kept, values = [leaf.detach().clone() for leaf in leaves], []
        with torch.no_grad():
            for shift in (-2, -1, 1, 2):
                for leaf, value, direction in zip(leaves, kept, along, strict=True):
                    leaf.copy_(value + shift * step * direction)
                values.append(float(loss()))
            for leaf, value in zip(leaves, kept, strict=True):
                leaf.copy_(value)
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        exactly = sum(
            float((g * direction).sum()) for g, direction in zip(gradients, along, strict=True)
        )
        assert np.isfinite(exactly)
        worst = max(worst, abs(exactly - numeric) / abs(numeric))
    return worst


@pytest.mark.parametrize("stepper", [Kvaerno5(), Kvaerno3(), ImplicitEuler()], ids=repr)
def test_gradient_against_differences(stepper: DiagonallyImplicit) -> None:
    assert gradient_defect(stepper, 0.25) < 1e-7


def test_gradient_of_adaptive_steps_is_that_of_the_solution() -> None:
    field = Stiff()
    start = torch.tensor([[0.5, 1.0], [1.0, -0.3]], dtype=DOUBLE, requires_grad=True)

    def gradient(stepper: Stepper, tolerance: float) -> Tensor:
        found = integrate(
            ODE(field),
            start,
            [0.0, 0.2],
            stepper=stepper,
            controller=PID(rtol=tolerance, atol=tolerance / 10),
            path="eager",
        )
        (result,) = torch.autograd.grad(found.final.sin().sum(), field.layer.weight)
        return result

    # Slow components only: the relaxed one hardly depends on the weights.
    difference = gradient(Kvaerno5(), 1e-8) - gradient(Tsit5(), 1e-9)
    assert float(difference.abs().max()) < 1e-6 * float(gradient(Tsit5(), 1e-9).abs().max())


def test_the_gradient_without_the_implicit_solve_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def explicit(field, t, base, slope, scale):  # noqa: ANN001, ANN202
        return field(t, base + scale[:, None] * slope)

    monkeypatch.setattr(implicit, "attached", explicit)
    assert gradient_defect(Kvaerno3(), 0.25) > 1e-2


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    start = torch.tensor([[0.5, 1.0]], dtype=DOUBLE, requires_grad=True)
    final = integrate(ODE(Stiff()), start, [0.0, 0.1], stepper=Kvaerno3(), path="eager").final
    (gradient,) = torch.autograd.grad(final.sum(), start, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_row_whose_stages_have_no_solution_fails_alone() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        # Beyond t = 1/2 the second row jumps away from wherever a stage looks for it.
        wild = torch.where((t > 0.5) & (y[:, 0] > 5), 1e9 * torch.sign(torch.sin(1e9 * y[:, 0])), 0)
        return (-y[:, 0] + wild)[:, None] + 0 * y

    start = torch.tensor([[1.0], [10.0]], dtype=DOUBLE)
    with torch.no_grad():
        found = integrate(
            ODE(field), start, [0.0, 0.4, 1.0], stepper=Kvaerno5(), max_steps=60, path="eager"
        )
    assert found.outcome[0] == Outcome.SUCCESS
    assert Outcome(int(found.outcome[1])).failed
    assert float(found.final[0]) == pytest.approx(np.exp(-1), rel=1e-4)
    assert float(found.states[1, 1]) == pytest.approx(10 * np.exp(-0.4), rel=1e-4)
    assert torch.isnan(found.final[1]).all()


def test_unsolved_stages_are_told() -> None:
    stepper = Kvaerno3(newton=Newton(limit=2, renewals=0))
    y, zero = torch.tensor([[1.0], [1e-3]], dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    step = stepper.step(ODE(lambda t, y: -50 * y**5), zero, zero + 1.0, y, None)
    assert step.solved is not None and step.solved.tolist() == [False, True]


def test_jacobian_of_a_field_without_forward_derivative() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # noqa: ANN001, ANN205
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):  # noqa: ANN001, ANN205
            return 2 * ctx.saved_tensors[0] * g

    y = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DOUBLE)
    expected = torch.tensor([[[2.0, 1.0], [4.0, 2.0]], [[6.0, 1.0], [12.0, 6.0]]], dtype=DOUBLE)
    expected[:, 1, 0], expected[:, 1, 1] = y[:, 1], y[:, 0]

    def field(square, t: Tensor, y: Tensor) -> Tensor:  # noqa: ANN001
        return torch.stack((square(y[:, 0]) + y[:, 1], y[:, 0] * y[:, 1]), 1)

    t = torch.zeros(2, dtype=DOUBLE)
    with torch.no_grad():
        forward = jacobian(lambda t, y: field(torch.square, t, y), t, y)
        backward = jacobian(lambda t, y: field(Square.apply, t, y), t, y)
    torch.testing.assert_close(forward, expected, rtol=0, atol=0)
    torch.testing.assert_close(backward, expected, rtol=0, atol=0)


def test_single_precision() -> None:
    start = torch.tensor([[1.0, 0.0, 0.0]])
    with torch.no_grad():
        found = integrate(
            ODE(robertson),
            start,
            [0.0, 4e3],
            stepper=Kvaerno5(),
            controller=PID(rtol=1e-4, atol=1e-7),
            path="eager",
        )
    assert found.states.dtype == torch.float32
    assert float(found.final[0, 0]) == pytest.approx(0.18320226, rel=2e-3)


def test_what_cannot_be_is_refused() -> None:
    y, t = torch.ones(1, 1), torch.zeros(1, dtype=DOUBLE)
    with pytest.raises(ConfigurationError, match="ordinary"):
        Kvaerno5().begin(SDE(lambda t, y: y, lambda t, y: y), t, t + 1, y)
    with pytest.raises(ConfigurationError, match="one iteration"):
        Newton(limit=1)
    with pytest.raises(ConfigurationError, match="fraction"):
        Newton(accuracy=2.0)
