"""Fixed points and deep equilibria: solutions, gradients against the unrolled, regularisation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de import ODE
from residua.operators.neural_de.fixed_points import (
    FixedPointOptions,
    Method,
    fixed_point,
    steady_state,
)
from residua.operators.neural_de.models.deep_equilibrium import DeepEquilibrium

DOUBLE = torch.float64
METHODS: tuple[Method, ...] = ("anderson", "newton", "transient", "iteration")


def contraction(size: int = 12, norm: float = 0.9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(size, size, dtype=DOUBLE, generator=generator)
    weight = norm * weight / torch.linalg.matrix_norm(weight, 2)
    return weight.requires_grad_(), torch.randn(3, size, dtype=DOUBLE, generator=generator)


def unrolled(weight: Tensor, x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(300):
        z = torch.tanh(z @ weight.T + x)
    return z


@pytest.mark.parametrize("method", METHODS)
def test_state_and_gradient_are_those_of_the_unrolled(method: Method) -> None:
    weight, x = contraction()
    z = unrolled(weight, x)
    (expected,) = torch.autograd.grad(z.sin().sum(), weight)
    found = fixed_point(lambda z: torch.tanh(z @ weight.T + x), torch.zeros_like(x), method, 1e-12)
    assert bool(found.converged.all())
    (gradient,) = torch.autograd.grad(found.state.sin().sum(), weight)
    assert float((found.state - z).detach().abs().max()) < 1e-10
    assert float((gradient - expected).abs().max() / expected.abs().max()) < 1e-8


def test_the_gradient_of_the_last_application_alone_is_wrong() -> None:
    weight, x = contraction()
    z = unrolled(weight, x)
    (expected,) = torch.autograd.grad(z.sin().sum(), weight)
    once = torch.tanh(z.detach() @ weight.T + x)
    (gradient,) = torch.autograd.grad(once.sin().sum(), weight)
    assert float((gradient - expected).abs().max() / expected.abs().max()) > 1e-2


def test_a_linear_fixed_point_in_closed_form() -> None:
    weight, x = contraction()
    found = fixed_point(lambda z: z @ weight.T + x, torch.zeros_like(x), tolerance=1e-13)
    identity = torch.eye(len(weight), dtype=DOUBLE)
    closed = torch.linalg.solve(identity - weight, x.T).T
    torch.testing.assert_close(found.state, closed, rtol=1e-10, atol=1e-11)
    (gradient,) = torch.autograd.grad(found.state.square().sum(), weight)
    (expected,) = torch.autograd.grad(closed.square().sum(), weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-9)


def test_the_better_methods_need_fewer_iterations() -> None:
    weight = 0.98 * torch.linalg.qr(contraction()[0].detach())[0]
    x = contraction()[1]
    counts = {
        method: int(
            fixed_point(
                lambda z: z @ weight.T + x, 0 * x, method, 1e-9, limit=2000, memory=12
            ).iterations.max()
        )
        for method in ("newton", "anderson", "iteration")
    }
    assert counts["newton"] <= 2 < counts["anderson"] <= 30 < 300 < counts["iteration"]


def test_rows_stop_on_their_own_and_say_whether_they_converged() -> None:
    factor = torch.tensor([[0.1], [0.9], [1.5]], dtype=DOUBLE)
    found = fixed_point(lambda z: factor * z + 1, factor * 0, "iteration", 1e-9)
    assert found.converged.tolist() == [True, True, False]
    assert found.iterations[0] < found.iterations[1] < found.iterations[2] == 200
    assert float(found.state[1]) == pytest.approx(10.0, rel=1e-6)


def test_states_of_any_shape() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = fixed_point(lambda z: 0.5 * torch.tanh(z.roll(1, 3)) + x, torch.zeros_like(x))
    torch.testing.assert_close(
        found.state, 0.5 * torch.tanh(found.state.roll(1, 3)) + x, rtol=1e-9, atol=1e-9
    )


def test_a_steady_state_and_its_gradient() -> None:
    rate = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    start = torch.tensor([[0.1], [-3.0], [1e-3]], dtype=DOUBLE)
    found = steady_state(ODE(lambda t, y: rate * y - y**3), start)
    root = 2.0**0.5
    expected = torch.tensor([[root], [-root], [root]], dtype=DOUBLE)
    torch.testing.assert_close(found.state, expected, rtol=1e-9, atol=0)
    # y = sqrt(rate): dy / d rate = 1 / (2 y).
    (gradient,) = torch.autograd.grad(found.state[0, 0], rate)
    assert float(gradient) == pytest.approx(1 / (2 * root), rel=1e-8)
    # Newton's method does not ask which roots are stable: from 0.1 it finds zero.
    unstable = steady_state(ODE(lambda t, y: rate * y - y**3), start, method="newton")
    assert abs(float(unstable.state[0].detach())) < 1e-9


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Unknown method"):
        fixed_point(lambda z: z, torch.ones(1, 1), "bisection")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="tolerance"):
        FixedPointOptions(tolerance=0.0)
    with pytest.raises(ConfigurationError, match="Damping"):
        FixedPointOptions(damping=0.0)
    with pytest.raises(ConfigurationError, match="length of time"):
        steady_state(ODE(lambda t, y: -y), torch.ones(1, 1), step=-1.0)


def series(values: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
    """What a model looks at of a `Series`."""
    lengths = torch.full((len(values),), values.shape[1])
    return SimpleNamespace(values=values, lengths=lengths, labels=labels)


def settling(count: int, seed: int) -> SimpleNamespace:
    """Inputs x and the solution of z = tanh(A z) / 2 + x, which the model is to find."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(count, 2, generator=generator) - 1
    mixing = torch.tensor([[1.0, -1.5], [1.5, 0.5]])
    z = fixed_point(lambda z: 0.5 * torch.tanh(z @ mixing.T) + x, torch.zeros_like(x)).state
    return series(torch.stack((x, z), 1))


def trained(regularisation: float) -> DeepEquilibrium:
    generator = torch.Generator().manual_seed(0)
    model = DeepEquilibrium(2, 2, 16, regularisation=regularisation, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    data = settling(256, 1)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(data, generator).backward()  # type: ignore[arg-type]
        optimizer.step()
    return model


def test_a_deep_equilibrium_learns_where_a_system_settles() -> None:
    test = settling(256, 2)
    plain, calm = trained(0.0), trained(1.0)
    figures = calm.evaluate(test)  # type: ignore[arg-type]
    assert figures["relative_l2"] < 0.15
    assert figures["converged"] == 1.0
    assert DeepEquilibrium(2, 2, 16).evaluate(test)["relative_l2"] > 0.3  # type: ignore[arg-type]
    x, _ = calm.pairs(test)  # type: ignore[arg-type]
    sizes = []
    for model in (plain, calm):
        state = model.equilibrium(x).state.detach()
        sizes.append(float(model.penalty(x, state, torch.Generator().manual_seed(3)).detach()))
    assert sizes[1] < 0.5 * sizes[0]


def test_the_penalty_is_the_size_of_the_jacobian() -> None:
    generator = torch.Generator().manual_seed(0)
    model = DeepEquilibrium(3, 1, 6, generator=generator).double()
    x = torch.randn(1, 3, dtype=DOUBLE, generator=generator)
    z = model.equilibrium(x).state.detach()
    jacobian = torch.autograd.functional.jacobian(lambda z: model.cell(z, x), z)[0, :, 0]
    several = x.expand(20000, -1), z.expand(20000, -1)
    estimate = float(model.penalty(*several, generator).detach())
    assert estimate == pytest.approx(float(jacobian.square().sum()) / 6, rel=0.05)


def test_labelled_series_with_gaps_are_classified() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(128) % 2
    values = torch.randn(128, 5, 1, generator=generator) + 2.0 * (2 * labels[:, None, None] - 1)
    values[torch.rand(values.shape, generator=generator) < 0.2] = torch.nan
    data = series(values, labels)
    model = DeepEquilibrium(10, 2, 8, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(data, generator).backward()  # type: ignore[arg-type]
        optimizer.step()
    assert model.evaluate(data)["accuracy"] > 0.97  # type: ignore[arg-type]
    with pytest.raises(DataError, match="inputs"):
        DeepEquilibrium(9, 2).pairs(data)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="missing"):
        DeepEquilibrium(1, 1).pairs(series(torch.full((2, 3, 1), torch.nan)))  # type: ignore[arg-type]
