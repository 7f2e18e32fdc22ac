"""The exact linear evolution: heat, advection and Airy in closed form, derivatives, storage."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from residua.engine.networks.embedding import Embedding
from residua.engine.networks.mlp import Mlp
from residua.engine.networks.propagator import Growth, Propagated
from residua.engine.taylor import algebra_for

sys.path.insert(0, str(Path(__file__).parent))
try:
    from oracle import disagreement, inside, up_to
finally:
    sys.path.pop(0)

State = Callable[[Tensor], Tensor]

# No round numbers: sampling and phases must be right to rounding anyway.
LOW, HIGH, START = 0.3, 0.3 + 2 * math.pi / 1.7, 0.25
WAVE = 2 * math.pi / (HIGH - LOW)
BOX = [(LOW - 1.0, HIGH + 1.0), (START, START + 0.5)]


def propagated(
    state: State | None, *growth: Growth, modes: int = 48, axis: int = 0, **settings: Any
) -> Propagated:
    settings = {"bounds": (LOW, HIGH), "time": START, "time_axis": 1 - axis, **settings}
    return Propagated(state, growth, axis=axis, modes=modes, **settings)


def wave_packet(points: Tensor) -> Tensor:
    """Smooth, of all modes, neither even nor odd."""
    phase = WAVE * (points[:, :1] - LOW)
    return torch.exp(torch.sin(phase)) + 0.3 * torch.cos(2 * phase + 0.4)


# Equation: growth rate, and the solution that starts as sin(k w x + phase)
DIFFUSION, SPEED = 0.31, 1.3
LINEAR: dict[str, tuple[Growth, Callable[[Tensor, Tensor, float, float], Tensor]]] = {
    "heat": (
        lambda k: -DIFFUSION * k**2 + 0j,
        lambda x, s, k, phase: torch.exp(-DIFFUSION * k**2 * s) * torch.sin(k * x + phase),
    ),
    "advection": (
        lambda k: -1j * SPEED * k,
        lambda x, s, k, phase: torch.sin(k * (x - SPEED * s) + phase),
    ),
    # u_t + u_xxx = 0
    "Airy": (
        lambda k: -((1j * k) ** 3),
        lambda x, s, k, phase: torch.sin(k * x + k**3 * s + phase),
    ),
    # u_t + 1.3 u_x + u_xxx = 0.31 u_xx
    "all together": (
        lambda k: -DIFFUSION * k**2 - 1j * SPEED * k - (1j * k) ** 3,
        lambda x, s, k, phase: torch.exp(-DIFFUSION * k**2 * s)
        * torch.sin(k * (x - SPEED * s) + k**3 * s + phase),
    ),
}  # fmt: skip
MODES = [(1, 1.0, 0.2), (3, -0.7, 1.1), (8, 0.05, -0.4)]


def mixture(points: Tensor) -> Tensor:
    x = points[:, 0]
    parts = [a * torch.sin(n * WAVE * x + phase) for n, a, phase in MODES]
    return (2.5 + torch.stack(parts).sum(0))[:, None]


@pytest.mark.parametrize("name", LINEAR)
def test_every_mode_evolves_exactly(name: str) -> None:
    growth, evolved = LINEAR[name]
    field, points = propagated(mixture, growth), inside(BOX, 200)
    x, s = points[:, 0], points[:, 1] - START
    wanted = 2.5 + sum((a * evolved(x, s, n * WAVE, phase) for n, a, phase in MODES), 0 * x)
    assert (field(points)[:, 0] - wanted).abs().max() < 1e-12
    # Wrong twin: time run backwards.
    back = propagated(mixture, lambda k: -growth(k))
    assert (back(points)[:, 0] - wanted).abs().max() > 0.1


@pytest.mark.parametrize("name", LINEAR)
def test_the_equation_holds_with_every_derivative(name: str) -> None:
    """u_t = L u read off the bundle, L = -b u_x + d u_xx - e u_xxx."""
    b, d, e = {
        "heat": (0, DIFFUSION, 0), "advection": (SPEED, 0, 0), "Airy": (0, 0, 1),
        "all together": (SPEED, DIFFUSION, 1),
    }[name]  # fmt: skip
    field, algebra = propagated(wave_packet, LINEAR[name][0]), up_to(4, 2)
    bundle = field.jet(inside(BOX, 50), algebra)

    def part(*index: int) -> Tensor:
        return algebra.derivative(bundle, index)

    for m in (0, 1):
        right = -b * part(m + 1, 0) + d * part(m + 2, 0) - e * part(min(m + 3, 4), 0)
        assert (part(m, 1) - right).abs().max() <= 1e-11 * part(m, 1).abs().max()
        assert (part(m, 1) + right).abs().max() > 0.1


def test_advection_carries_a_profile_along() -> None:
    field, points = propagated(wave_packet, LINEAR["advection"][0]), inside(BOX, 200)
    carried = points.clone()
    carried[:, 0] -= SPEED * (points[:, 1] - START)
    assert (field(points) - wave_packet(carried)).abs().max() < 1e-13


def test_the_series_converges_geometrically_for_smooth_states() -> None:
    points = inside([BOX[0], (START, START)], 200)
    wanted = wave_packet(points)
    errors = [
        float((propagated(wave_packet, LINEAR["heat"][0], modes=m)(points) - wanted).abs().max())
        for m in (3, 6, 12, 24)
    ]
    assert errors[0] > 1e-2 and errors[1] < 1e-4 and errors[2] < 1e-11 and errors[3] < 1e-13


def test_a_kink_is_smoothed_as_the_heat_equation_does() -> None:
    """|x| on [-1, 1]: 1/2 - 4/pi^2 sum over odd k of cos(k pi x) exp(-d (k pi)^2 t)/k^2."""
    growth = LINEAR["heat"][0]

    def exact(points: Tensor) -> Tensor:
        k = torch.arange(1, 4001, 2, dtype=torch.float64) * math.pi
        x, t = points[:, :1], points[:, 1:]
        fade = torch.exp(-DIFFUSION * k**2 * t)
        return 0.5 - (4 * torch.cos(k * x) * fade / k**2).sum(1, keepdim=True)

    points = inside([(-1, 1), (0.01, 0.5)], 100)
    errors = []
    for modes in (64, 128, 256):
        field = propagated(
            lambda p: p[:, :1].abs(), growth, modes=modes, bounds=(-1.0, 1.0), time=0.0
        )
        errors.append(float((field(points) - exact(points)).abs().max()))
    # Sampling folds the tail of 1/k^2 back: second order, and no worse beside the kink.
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.05)
    assert errors[2] < 1e-4


@pytest.mark.parametrize("name", LINEAR)
def test_derivatives_agree_with_nested_ad(name: str) -> None:
    field = propagated(wave_packet, LINEAR[name][0], modes=12)
    assert max(disagreement(field, inside(BOX), up_to(4, 2))) <= 1e-12
    right = field._factor
    field._factor = lambda index, *rest: right(index, *rest) * (1 + 0.01 * (index == (1, 1)))  # type: ignore[method-assign]
    found = disagreement(field, inside(BOX), up_to(2, 2))
    assert [e > 1e-4 for e in found] == [i == (1, 1) for i in up_to(2, 2).indices]


def test_time_may_be_declared_first() -> None:
    """And the field is periodic in space with all its derivatives."""
    first = propagated(wave_packet, LINEAR["Airy"][0])
    second = propagated(lambda p: wave_packet(p[:, [1, 0]]), LINEAR["Airy"][0], axis=1)
    points, algebra = inside(BOX, 30), up_to(3, 2)
    here = first.jet(points, algebra)
    there = second.jet(points[:, [1, 0]], algebra)
    for a, b in algebra.indices:
        one, other = here[algebra.channel((a, b))], there[algebra.channel((b, a))]
        assert (one - other).abs().max() <= 1e-12 * one.abs().max()
    around = first.jet(points + torch.tensor([HIGH - LOW, 0.0], dtype=torch.float64), algebra)
    size = here.abs().amax(dim=(1, 2), keepdim=True)
    assert ((around - here).abs() <= 1e-11 * size).all()


def test_fields_evolve_each_by_its_own_rate() -> None:
    heat, airy = LINEAR["heat"][0], LINEAR["Airy"][0]
    both = propagated(lambda p: torch.cat([wave_packet(p), mixture(p)], dim=1), heat, airy)
    points = inside(BOX, 40)
    apart = [propagated(wave_packet, heat)(points), propagated(mixture, airy)(points)]
    assert torch.allclose(both(points), torch.cat(apart, dim=1), rtol=0, atol=1e-13)
    assert (both(points)[:, :1] - propagated(wave_packet, airy)(points)).abs().max() > 0.1


def test_a_laplacian_and_a_coordinate_that_does_not_matter() -> None:
    """The collapsed channel is half u_xx + u_yy, and u_yy = 0."""
    field = propagated(wave_packet, LINEAR["heat"][0], dimension=3)
    points = inside([*BOX, (0.0, 1.0)], 20)
    algebra = algebra_for([(0, 1, 1)], 3, laplacian=(0, 2))
    bundle = field.jet(points, algebra)
    u_t = algebra.derivative(bundle, (0, 1, 0))
    assert (DIFFUSION * 2 * bundle[-1] - u_t).abs().max() <= 1e-12 * u_t.abs().max()
    assert algebra.derivative(bundle, (0, 1, 1)).abs().max() == 0
    assert u_t.abs().max() > 0.1


# -- storage --------------------------------------------------------------------------------------


def test_the_state_comes_back_bit_for_bit() -> None:
    """Without the earlier field: coefficients are stored, rates follow from the equation."""
    growth = LINEAR["all together"][0]
    field = propagated(wave_packet, growth)
    points, algebra = inside(BOX), up_to(3, 2)
    again = propagated(None, growth)
    assert again(points).abs().max() == 0
    again.load_state_dict(field.state_dict())
    assert torch.equal(again.jet(points, algebra), field.jet(points, algebra))
    assert list(field.state_dict()) == ["coefficients"] and not list(field.parameters())
    other = propagated(None, LINEAR["heat"][0])
    other.load_state_dict(field.state_dict())
    assert (other(points) - field(points)).abs().max() > 1e-2


def network(dtype: torch.dtype) -> Mlp:
    generator = torch.Generator().manual_seed(1)
    embedding = Embedding([(LOW, HIGH), (0.0, 1.0)], periodic={0: 2}, generator=generator)
    return Mlp(embedding, 1, width=8, depth=2, generator=generator).to(dtype)


def test_a_network_hands_on_its_state() -> None:
    """In double precision exactly; in single precision without the rounding of high modes."""
    points = inside([BOX[0], (START, START)], 50)
    algebra = up_to(2, 2)
    state = network(torch.float64)
    wanted = state.jet(points, algebra).detach()
    u_xx = algebra.channel((2, 0))
    field = propagated(state, LINEAR["heat"][0], modes=128)
    found = field.jet(points, algebra)
    assert (found[0] - wanted[0]).abs().max() < 1e-13
    assert (found[u_xx] - wanted[u_xx]).abs().max() < 1e-10
    single = propagated(network(torch.float32), LINEAR["heat"][0], modes=1024)
    found = single.jet(points, algebra)
    assert (found[0] - wanted[0]).abs().max() < 1e-5
    assert (found[u_xx] - wanted[u_xx]).abs().max() < 1e-3 * wanted[u_xx].abs().max()


def test_single_precision_stays_single() -> None:
    field, points = propagated(wave_packet, LINEAR["heat"][0]), inside(BOX, 20)
    wanted = field.jet(points, up_to(2, 2))
    found = field.to(torch.float32).jet(points.float(), up_to(2, 2))
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_nothing_stays_nothing() -> None:
    field = propagated(lambda p: 0 * p[:, :1], LINEAR["heat"][0])
    assert torch.equal(field(inside(BOX)), torch.zeros(9, 1, dtype=torch.float64))
