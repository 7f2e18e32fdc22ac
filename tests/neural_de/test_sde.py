"""Stochastic equations: strong and weak orders, calculi, gradients by reversal, adaptive steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from residua.errors import ConfigurationError
from residua.operators.neural_de.adjoints import Direct
from residua.operators.neural_de.controllers import PID
from residua.operators.neural_de.solution import Outcome
from residua.operators.neural_de.stochastic import (
    SRA1,
    SRIW1,
    BrownianInterval,
    BrownianTree,
    Counted,
    EulerHeun,
    EulerMaruyama,
    Heun,
    Milstein,
    ReversibleAdjoint,
    ReversibleHeun,
    ShARK,
    converted,
    integrate_sde,
)
from residua.operators.neural_de.stochastic.levy import Draw
from residua.operators.neural_de.stochastic.steppers import StochasticStepper
from residua.operators.neural_de.terms import SDE

DOUBLE = torch.float64
LEVELS = (8, 16, 32, 64)
FINE = 512
MU, SIGMA = 0.3, 0.6


def geometric(calculus: str = "ito") -> SDE:
    return SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y, "diagonal", calculus)


def nonlinear(calculus: str = "ito") -> SDE:
    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * torch.cos(y) + 0.3 * torch.sin(2 * t)[:, None]

    return SDE(lambda t, y: torch.sin(t)[:, None] - y, diffusion, "diagonal", calculus)


def additive(calculus: str = "ito") -> SDE:
    """Nonlinear drift; two components moved by three Brownian motions of changing strength."""
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.3]], dtype=DOUBLE)

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y) + 0.5 * torch.cos(2 * y) - t[:, None] * y

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return (0.6 + 0.3 * torch.sin(2 * t))[:, None, None] * mixing.to(y.dtype)

    return SDE(drift, diffusion, "additive", calculus, 3)


def general(calculus: str = "stratonovich") -> SDE:
    """Noise that does not commute."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        first = torch.stack((0.6 + 0 * y[:, 0], 0.8 * y[:, 1]), dim=1)
        second = torch.stack((0.3 + 0 * y[:, 0], 0.8 * torch.sin(2 * y[:, 0])), dim=1)
        return torch.stack((first, second), dim=1)

    return SDE(lambda t, y: -y, diffusion, "general", calculus, 2)


def ornstein() -> SDE:
    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, 0.4)[..., None] * torch.eye(y.shape[1], dtype=y.dtype)

    return SDE(lambda t, y: 0.02 * t[:, None] - 0.1 * y, diffusion, "additive", "ito", 2)


def final(sde: SDE, stepper: StochasticStepper, steps: int, paths: int, fine: int = FINE) -> Tensor:
    start = torch.tensor([[0.7, -0.4]], dtype=DOUBLE).expand(paths, -1)
    return integrate_sde(
        sde,
        start,
        [0.0, 1.0],
        step=1 / steps,
        noise=Counted(5, fine // steps),
        stepper=stepper,
        convert=True,
    ).final


def strong_order(
    sde: SDE,
    stepper: StochasticStepper,
    reference: Tensor | StochasticStepper,
    paths: int = 300,
    fine: int = FINE,
) -> float:
    """Slope of the root mean square error along paths over the step."""
    with torch.no_grad():
        if not isinstance(reference, Tensor):
            reference = final(sde, reference, fine, paths, fine)
        errors = [
            float((final(sde, stepper, n, paths, fine) - reference).pow(2).mean().sqrt())
            for n in LEVELS
        ]
    x = -torch.tensor(LEVELS, dtype=DOUBLE).log()
    y = torch.tensor(errors, dtype=DOUBLE).log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


class WrongMilstein(Milstein):
    """Without its correction this is Euler and Maruyama's scheme."""

    def after(self, sde: SDE, t: Tensor, h, y: Tensor, draw: Draw) -> Tensor:
        return EulerMaruyama().after(sde, t, h, y, draw)


class WrongShARK(ShARK):
    """The first stage is not shifted by the Levy area."""

    def after(self, sde: SDE, t: Tensor, h, y: Tensor, draw: Draw) -> Tensor:
        assert draw.h is not None
        return super().after(sde, t, h, y, Draw(draw.w, 0 * draw.h))


class WrongSRIW1(SRIW1):
    """The space-time Levy area has the wrong sign."""

    def after(self, sde: SDE, t: Tensor, h, y: Tensor, draw: Draw) -> Tensor:
        assert draw.h is not None
        return super().after(sde, t, h, y, Draw(draw.w, -draw.h))


class WrongHeun(Heun):
    """The diffusion is not averaged, so that the integral becomes one of Ito."""

    def after(self, sde: SDE, t: Tensor, h, y: Tensor, draw: Draw) -> Tensor:
        return EulerMaruyama().after(sde, t, h, y, draw)


ITO, STRATONOVICH = "ito", "stratonovich"
ORDERS: list[tuple[Callable[[str], SDE], str, StochasticStepper, StochasticStepper, float]] = [
    (nonlinear, ITO, Milstein(), SRIW1(), 1.0),
    (nonlinear, ITO, Milstein(derivative_free=True), SRIW1(), 1.0),
    (nonlinear, ITO, SRIW1(), SRIW1(), 1.5),
    (nonlinear, STRATONOVICH, Milstein(), SRIW1(), 1.0),
    (nonlinear, STRATONOVICH, Milstein(derivative_free=True), SRIW1(), 1.0),
    (nonlinear, STRATONOVICH, EulerHeun(), SRIW1(), 1.0),
    (nonlinear, STRATONOVICH, Heun(), SRIW1(), 1.0),
    (nonlinear, STRATONOVICH, ReversibleHeun(), SRIW1(), 1.0),
    (additive, ITO, EulerMaruyama(), SRA1(), 1.0),
    (additive, STRATONOVICH, Heun(), SRA1(), 1.0),
    (additive, ITO, SRA1(), ShARK(), 1.5),
    (additive, ITO, ShARK(), SRA1(), 1.5),
]


@pytest.mark.parametrize(("problem", "calculus", "stepper", "reference", "order"), ORDERS)
def test_strong_orders(problem, calculus, stepper, reference, order):
    assert abs(strong_order(problem(calculus), stepper, reference) - order) < 0.2
    assert stepper.orders[problem(calculus).noise] == order


@pytest.mark.parametrize(
    ("problem", "twin", "reference", "order"),
    [
        (geometric, WrongMilstein(), SRIW1(), 1.0),
        (nonlinear, WrongSRIW1(), SRIW1(), 1.5),
        (additive, WrongShARK(), SRA1(), 1.5),
        (nonlinear, WrongHeun(), SRIW1(), 1.0),
    ],
)
def test_wrong_twins_lose_their_order(problem, twin, reference, order):
    calculus = twin.calculus or ITO
    assert strong_order(problem(calculus), twin, reference) < order - 0.25


@pytest.mark.parametrize(
    ("stepper", "order"),
    [(EulerMaruyama(), 0.5), (Milstein(), 1.0), (SRIW1(), 1.5), (WrongMilstein(), 0.5)],
)
def test_strong_orders_against_the_closed_form(stepper, order):
    """Geometric Brownian motion: y = y0 exp((mu - sigma^2 / 2) t + sigma W)."""
    paths = 1500
    still = SDE(lambda t, y: 0 * y, lambda t, y: 0 * y + 1, "diagonal", "ito")
    start = torch.tensor([0.7, -0.4], dtype=DOUBLE)
    w = final(still, EulerMaruyama(), FINE, paths) - start
    exact = start * torch.exp(MU - SIGMA**2 / 2 + SIGMA * w)
    assert abs(strong_order(geometric(), stepper, exact, paths) - order) < 0.2


@pytest.mark.parametrize(("stepper", "order"), [(EulerMaruyama(), 1.0), (SRA1(), 1.5)])
def test_strong_orders_on_ornstein_and_uhlenbeck(stepper, order):
    assert strong_order(ornstein(), stepper, ShARK()) > order - 0.2


def test_noise_that_does_not_commute_leaves_order_one_half_without_its_areas():
    sde, paths, fine = general(), 150, 256
    with torch.no_grad():
        reference = final(sde, Milstein(), fine, paths, fine)
    # Areas of a step that is made of many parts are those of the path.
    assert abs(strong_order(sde, Milstein(), reference, paths, fine) - 1) < 0.2
    for stepper in (Heun(), EulerHeun(), ReversibleHeun(), EulerMaruyama()):
        order = strong_order(sde, stepper, reference, paths, fine)
        assert abs(order - 0.5) < 0.2 and stepper.orders["general"] == 0.5


@pytest.mark.parametrize(
    ("stepper", "mean_rate"),
    [(EulerMaruyama(), MU), (SRIW1(), MU), (Heun(), MU + SIGMA**2 / 2)],
)
def test_means_are_those_of_the_calculus(stepper, mean_rate):
    """E y = y0 exp(mu t) for Ito, y0 exp((mu + sigma^2 / 2) t) for Stratonovich."""
    n = 40_000
    sde = geometric(stepper.calculus)
    y = integrate_sde(
        sde, torch.ones(n, 1, dtype=DOUBLE), [0, 1], step=1 / 32, noise=1, stepper=stepper
    ).final
    error = float(y.mean()) - math.exp(mean_rate)
    assert abs(error) < 4 * float(y.std()) / math.sqrt(n) + 0.01
    assert 16 * float(y.std()) / math.sqrt(n) + 0.04 < SIGMA**2 / 2


def test_a_stepper_of_the_other_calculus_is_refused_or_the_drift_converted():
    start = torch.ones(40, 2, dtype=DOUBLE)
    arguments = {"step": 1 / 128, "noise": 3}
    with pytest.raises(ConfigurationError, match="Stratonovich") as caught:
        integrate_sde(geometric("stratonovich"), start, [0, 1], **arguments)
    assert "convert=True" in str(caught.value.advice)
    for sde in (geometric("stratonovich"), nonlinear("stratonovich"), general()):
        plain = integrate_sde(sde, start, [0, 1], stepper=Heun(), **arguments).final
        other = integrate_sde(sde, start, [0, 1], convert=True, **arguments).final
        wrong = SDE(sde.drift, sde.diffusion, sde.noise, "ito", sde.channels)
        wrong = integrate_sde(wrong, start, [0, 1], **arguments).final
        distance = (other - plain).abs().mean()
        assert distance < 0.4 * (wrong - plain).abs().mean()
    back = converted(converted(geometric(), "stratonovich"), "ito")
    t = torch.zeros(40, dtype=DOUBLE)
    torch.testing.assert_close(back.drift(t, start), MU * start)


def test_what_does_not_fit_is_refused():
    start = torch.ones(3, 2)

    def refused(match: str, sde: SDE, **arguments) -> None:
        with pytest.raises(ConfigurationError, match=match):
            integrate_sde(sde, start, arguments.pop("times", [0.0, 1.0]), **arguments)

    refused("not for diagonal noise", geometric(), step=0.1, stepper=SRA1())
    refused("Either the step or a controller", geometric())
    refused("strong order 0.5", geometric(), controller=PID())
    refused("cannot be run backwards", geometric(), step=0.1, adjoint=ReversibleAdjoint())
    refused("backward in time", geometric(), step=0.1, times=[1.0, 0.0])
    mixed = SDE(lambda t, y: y, lambda t, y: y.flip(1))
    refused("depends on other components", mixed, step=0.1, stepper=Milstein())
    shape = SDE(lambda t, y: y, lambda t, y: y[:, :1])
    refused("shape of diagonal noise", shape, step=0.1)
    path = BrownianInterval(0.0, 1.0, 3, 2, seed=1)
    refused("Levy areas between channels", general(), step=0.1, stepper=Milstein(), noise=path)


def test_paths_do_not_depend_on_companions_or_on_the_kind_of_loop():
    start = torch.rand(6, 2, dtype=DOUBLE)
    whole = integrate_sde(nonlinear(), start, [0, 0.3, 1], step=0.1, noise=2).states
    part = integrate_sde(nonlinear(), start[:2], [0, 0.3, 1], step=0.1, noise=2).states
    torch.testing.assert_close(whole[:2], part, rtol=0, atol=1e-15)
    only = Counted(2, samples=torch.tensor([4]))
    alone = integrate_sde(nonlinear(), start[4:5], [0, 0.3, 1], step=0.1, noise=only).states
    torch.testing.assert_close(whole[4:5], alone, rtol=0, atol=1e-15)


def test_a_sample_that_fails_is_told_and_leaves_the_others_alone():
    sde = SDE(lambda t, y: y**3, lambda t, y: 0 * y)
    start = torch.tensor([[0.1], [50.0]])
    solution = integrate_sde(sde, start, [0, 1, 2], step=0.25, noise=1)
    assert solution.outcome.tolist() == [Outcome.SUCCESS, Outcome.NOT_FINITE]
    assert torch.isfinite(solution.states[0]).all() and solution.states[1, -1].isnan().all()


class Network(nn.Module):
    def __init__(self, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, outputs), nn.Tanh())
        self.to(DOUBLE)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat((t[:, None], y), dim=1)).unflatten(1, self.shape)


def neural(noise: str) -> tuple[SDE, list[Tensor]]:
    drift = Network(3, (3,))
    diffusion = Network(6, (3, 2)) if noise == "general" else Network(3, (3,))
    channels = 2 if noise == "general" else None
    parameters = [*drift.parameters(), *diffusion.parameters()]
    return SDE(drift, diffusion, noise, "stratonovich", channels), parameters


@pytest.mark.parametrize("noise", ["diagonal", "general"])
@pytest.mark.parametrize("times", [[0.0, 0.31, 1.0], [1.0, 0.0]])
def test_gradients_by_reversal_are_those_of_the_steps(noise, times):
    sde, parameters = neural(noise)
    start = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)

    def gradients(adjoint) -> list[Tensor]:
        states = integrate_sde(
            sde, start, times, step=0.01, noise=3, stepper=ReversibleHeun(), adjoint=adjoint
        ).states
        return list(torch.autograd.grad((states**2).sum(), [start, *parameters]))

    for a, b in zip(gradients(Direct()), gradients(ReversibleAdjoint()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradients_by_reversal_know_a_wrong_path(monkeypatch):
    """The twin of the test above: another path on the way back gives other gradients."""
    sde, parameters = neural("diagonal")
    start = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)
    path = BrownianInterval(0.0, 1.0, 5, 3, seed=1)
    options = {"step": 0.05, "noise": path, "stepper": ReversibleHeun()}
    loss = (integrate_sde(sde, start, [0, 1], **options).final ** 2).sum()
    expected = torch.autograd.grad(loss, start)[0]
    for wrong in (False, True):
        found = integrate_sde(sde, start, [0, 1], adjoint=ReversibleAdjoint(), **options)
        loss = (found.final**2).sum()
        if wrong:
            other = BrownianInterval(0.0, 1.0, 5, 3, seed=2)
            monkeypatch.setattr(path, "draw", other.draw)
        gradient = torch.autograd.grad(loss, start)[0]
        assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-10) is not wrong


def test_reversal_keeps_the_same_memory_for_ten_thousand_steps():
    sde, _ = neural("diagonal")
    start = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)

    def saved(steps: int, adjoint) -> int:
        count = 0

        def pack(value: Tensor) -> Tensor:
            nonlocal count
            count += value.numel() * value.element_size()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            options = {"noise": 3, "stepper": ReversibleHeun(), "adjoint": adjoint}
            integrate_sde(sde, start, [0.0, 1.0], step=1 / steps, **options)
        return count

    assert saved(10_000, ReversibleAdjoint()) == saved(10, ReversibleAdjoint())
    assert saved(100, Direct()) > 5 * saved(10, Direct())


def test_reversal_undoes_steps_to_rounding():
    sde, parameters = neural("general")
    for parameter in parameters:
        parameter.requires_grad_(False)
    stepper, y = ReversibleHeun(), torch.randn(4, 3, dtype=DOUBLE)
    t = torch.linspace(0, 1, 101, dtype=DOUBLE)
    state, memory = y, stepper.begin(sde, t[:1].expand(4), y)
    draws = [Draw(0.1 * torch.randn(4, 2, dtype=DOUBLE)) for _ in range(100)]
    for k, draw in enumerate(draws):
        state, memory = stepper.step(sde, t[k].expand(4), 0.01, state, draw, memory)
    moved = state
    for k in reversed(range(100)):
        state, memory = stepper.reverse(sde, t[k].expand(4), 0.01, state, draws[k], memory)
    assert float((moved - y).abs().max()) > 0.1
    torch.testing.assert_close(state, y, rtol=0, atol=1e-12)


def test_reversal_refuses_tensors_it_would_miss():
    hidden = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    sde = SDE(lambda t, y: hidden * y, lambda t, y: y, "diagonal", "stratonovich")
    with pytest.raises(ConfigurationError, match="no parameter of it"):
        integrate_sde(
            sde,
            torch.ones(1, 1, dtype=DOUBLE),
            [0, 1],
            step=0.1,
            stepper=ReversibleHeun(),
            adjoint=ReversibleAdjoint(),
        )


def test_adaptive_steps_follow_the_path_of_each_sample():
    n = 60
    tree = BrownianTree(0.0, 1.0, n, 2, seed=7)
    w = tree.value(torch.ones(n, dtype=DOUBLE))[0]
    exact = torch.exp(MU - SIGMA**2 / 2 + SIGMA * w)
    start = torch.ones(n, 2, dtype=DOUBLE, requires_grad=True)
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        solution = integrate_sde(
            geometric(),
            start,
            [0.0, 0.4, 1.0],
            noise=tree,
            stepper=Milstein(),
            controller=PID(rtol=tolerance, atol=tolerance),
        )
        assert bool(solution.successful.all())
        errors.append(float((solution.final.detach() - exact).pow(2).mean().sqrt()))
    assert errors[2] < errors[1] / 2 < errors[0] / 4 and errors[2] < 0.02
    counts = solution.statistics
    assert torch.equal(counts.accepted + counts.rejected, counts.steps)
    assert len(counts.accepted.unique()) > 3
    # The equation is linear, so that the gradient is the state over its start.
    (gradient,) = torch.autograd.grad(solution.final.sum(), start)
    torch.testing.assert_close(gradient, (solution.final / start).detach())
    part = integrate_sde(
        geometric(),
        start[:3],
        [0.0, 0.4, 1.0],
        noise=7,
        stepper=Milstein(),
        controller=PID(rtol=1e-3, atol=1e-3),
    )
    torch.testing.assert_close(part.states, solution.states[:3])


def test_adaptive_steps_end_in_words_where_they_cannot_go_on():
    sde = SDE(lambda t, y: y**2, lambda t, y: 0.01 * y)
    solution = integrate_sde(
        sde,
        torch.tensor([[0.1], [3.0]], dtype=DOUBLE),
        [0.0, 0.2, 1.0],
        noise=1,
        stepper=Milstein(),
        controller=PID(rtol=1e-2, atol=1e-3, smallest=1e-3),
    )
    assert solution.outcome[0] == Outcome.SUCCESS and Outcome(int(solution.outcome[1])).failed
    assert torch.isfinite(solution.states[1, 1]).all() and solution.states[1, 2].isnan().all()
