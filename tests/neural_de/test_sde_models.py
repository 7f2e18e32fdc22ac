"""Latent equations and generators: their divergences in closed form, and that they learn a law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from residua.errors import DataError
from residua.operators.neural_de.models.latent_paths import Anchors, Steered, matched_divergence
from residua.operators.neural_de.models.latent_sde import LatentSDE
from residua.operators.neural_de.models.sde_gan import SDEGAN, energy_distance
from residua.operators.neural_de.stochastic import Counted, integrate_sde
from residua.operators.neural_de.stochastic.moments import marginal_errors
from residua.operators.neural_de.terms import SDE
from residua.operators.neural_de.trajectories.series import Series

DOUBLE = torch.float64


def chosen(series: Series, index: Tensor) -> Series:
    return Series(series.times[index], series.values[index], series.lengths[index])


def ornstein(count: int, n: int = 12, seed: int = 1) -> tuple[Series, Tensor, Tensor]:
    """Paths of dy = (0.3 t - y) dt / 2 + 0.6 dW, and their mean and variance."""
    generator = torch.Generator().manual_seed(seed)
    a, b, s, gap = 0.5, 0.15, 0.6, 0.4
    t = gap * torch.arange(n, dtype=DOUBLE)
    mean = b / a * t - b / a**2 * (1 - torch.exp(-a * t))
    decay = math.exp(-a * gap)
    kick = s * math.sqrt((1 - decay**2) / (2 * a))
    deviation = [2 * torch.rand(count, generator=generator, dtype=DOUBLE) - 1]
    for _ in range(n - 1):
        noise = torch.randn(count, generator=generator, dtype=DOUBLE)
        deviation.append(decay * deviation[-1] + kick * noise)
    values = (torch.stack(deviation, dim=1) + mean)[..., None]
    squares = torch.exp(-2 * a * t)
    variance = squares / 3 + s**2 * (1 - squares) / (2 * a)
    data = Series(t.expand(count, -1), values, torch.full((count,), n))
    return data, mean[:, None], variance[:, None]


def trained(model, data: Series, steps: int, rate: float = 1e-2):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = chosen(data, torch.randint(len(data), (128,), generator=generator))
        optimizer.zero_grad()
        model.loss(batch, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def divergence(anchors: list[float], gap: float, drift, diffusion, count: int = 40_000) -> Tensor:
    """Estimates for single intervals from anchors [m0, m1, s0, s1, spread], shape (40,)."""
    m0, m1, s0, s1, spread = (torch.full((count, 1, 1), x, dtype=DOUBLE) for x in anchors)
    given = Anchors(torch.cat((m0, m1), 1), torch.cat((s0, s1), 1), 0 * m0, spread)
    times = torch.tensor([0.2, 0.2 + gap], dtype=DOUBLE).expand(count, 2)
    generator = torch.Generator().manual_seed(3)
    found = []
    for rows in torch.arange(count).chunk(40):
        part = Anchors(*(x[rows] for x in (given.mean, given.std, given.bend, given.spread)))
        total = matched_divergence(part, times[rows], drift, diffusion, generator)
        found.append(total / len(rows))
    return torch.stack(found)


def test_a_posterior_that_is_the_prior_has_no_divergence():
    """Brownian motion: the variance rises in a line; no drift is left over, sample by sample."""
    g, gap, before = 0.7, 0.9, 0.4
    after = before + g * g * gap
    anchors = [1.3, 1.3, before**0.5, after**0.5, (before + after) ** 0.5]
    found = divergence(anchors, gap, lambda t, z: 0 * z, lambda t, z: g + 0 * z)
    assert float(found.abs().max()) < 1e-12
    # A drift c that the posterior lacks costs c^2 gap / (2 g^2).
    found = divergence(anchors, gap, lambda t, z: 0 * z + 2, lambda t, z: g + 0 * z)
    torch.testing.assert_close(float(found.mean()), 4 * gap / (2 * g * g), rtol=1e-2, atol=0)


def test_a_posterior_that_is_the_prior_has_no_divergence_with_noise_that_depends_on_the_state():
    """The drift g g' - g^2 z / 2 leaves N(0, 1) as it is; without g g' it does not."""

    def g(t: Tensor, z: Tensor) -> Tensor:
        return 0.5 + 0.3 * torch.sin(z)

    def drift(t: Tensor, z: Tensor, ito: float = 1.0) -> Tensor:
        return ito * g(t, z) * 0.3 * torch.cos(z) - 0.5 * g(t, z) ** 2 * z

    anchors = [0.0, 0.0, 1.0, 1.0, 2**0.5]
    assert float(divergence(anchors, 0.8, drift, g, 4000).abs().max()) < 1e-12
    wrong = divergence(anchors, 0.8, lambda t, z: drift(t, z, 0.0), g, 4000)
    assert float(wrong.mean()) > 1e-2


@pytest.mark.parametrize(("end", "deviation"), [(0.8, 0.3), (-0.2, 0.1)])
def test_the_divergence_of_a_bridge_is_that_of_its_end(end, deviation):
    """Brownian motion from 0 whose end has another law: only the laws of the end differ."""
    g, gap = 0.7, 0.9
    spread = g * gap**0.5
    found = divergence(
        [0.0, end, 1e-5, deviation, spread], gap, lambda t, z: 0 * z, lambda t, z: g + 0 * z
    )
    ratio = deviation**2 / spread**2
    expected = 0.5 * (ratio + end**2 / spread**2 - 1 - math.log(ratio))
    error = abs(float(found.mean()) - expected)
    deviation_of_mean = float(found.std()) / math.sqrt(len(found))
    assert error < 5 * deviation_of_mean and 5 * deviation_of_mean < 0.1 * expected


def test_a_steered_path_carries_its_divergence_as_a_state():
    """With a steering of c in units of the diffusion, c^2 over two times the span."""
    batch, c = 2000, 1.5
    times = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE).expand(batch, -1)
    none = torch.zeros(batch, 3, 1, dtype=DOUBLE)
    path = Steered(
        lambda t, z: -z,
        lambda t, z: 0.5 + 0 * z,
        times,
        4,
        lambda x: torch.full_like(x[:, :1], c),
        none,
        none,
        torch.zeros(4, 1, dtype=DOUBLE),
    )
    states = integrate_sde(
        SDE(path.drift, path.diffusion),
        torch.zeros(batch, 2, dtype=DOUBLE),
        [0.0, 1.0, 2.0],
        step=0.25,
        noise=Counted(1),
    ).states
    expected = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE) * c**2 / 2
    torch.testing.assert_close(states[:, :, 1], expected.expand(batch, -1))
    # Its latent part is the prior's with the drift c g added: mean c g (1 - exp(-1)).
    assert abs(float(states[:, -1, 0].mean()) - c * 0.5 * (1 - math.exp(-1))) < 0.06


def test_marginal_errors_are_in_units_of_the_largest_spread():
    data, mean, variance = ornstein(40_000)
    errors = marginal_errors(data.values, mean, variance)
    assert errors["marginal_mean_error"] < 0.025 and errors["marginal_variance_error"] < 0.04
    top = float(variance.max())
    shifted = marginal_errors(data.values + 0.5 * top**0.5, mean, variance)
    assert abs(shifted["marginal_mean_error"] - 0.5) < 0.03
    wider = marginal_errors((data.values - mean) * 1.5 + mean, mean, variance)
    assert abs(wider["marginal_variance_error"] - 1.25) < 0.1


def test_a_latent_equation_learns_a_law():
    data, mean, variance = ornstein(4000)
    torch.manual_seed(0)
    model = LatentSDE(1, latent=1, anneal=50, noise=0.06).standardise(data)
    test = ornstein(500, seed=2)[0]
    before = model.evaluate(test, mean, variance, count=4000)
    after = trained(model, data, 250).evaluate(test, mean, variance, count=20_000)
    assert after["marginal_mean_error"] < 0.15 < before["marginal_mean_error"]
    assert after["marginal_variance_error"] < 0.15 < before["marginal_variance_error"]
    # No bound exceeds the mean log-likelihood of the true law, in units of the data's spread.
    kick = 0.6 * math.sqrt(1 - math.exp(-0.4))
    steps = -0.5 * math.log(2 * math.pi * math.e * kick**2)
    best = (11 * steps - math.log(2)) / 12 + math.log(float(model.scale))
    assert best - 0.3 < after["bound"] < best + 0.02


def test_a_steered_posterior_improves_its_bound():
    data, _, _ = ornstein(500, n=6)
    torch.manual_seed(0)
    model = LatentSDE(1, latent=1, posterior="steered", anneal=1, noise=0.2).standardise(data)
    before = model.evaluate(data, count=100)["bound"]
    assert trained(model, data, 60).evaluate(data, count=100)["bound"] > before + 0.2


@pytest.mark.parametrize("posterior", ["matched", "steered"])
def test_gaps_and_ends_of_series_are_left_out(posterior):
    data, _, _ = ornstein(40, n=8)
    torch.manual_seed(0)
    model = LatentSDE(1, latent=2, posterior=posterior, diffusion=0.8).standardise(data)
    values, times = data.values.clone(), data.times.clone()
    lengths = data.lengths.clone()
    lengths[:20] = 5
    values[30, 3] = torch.nan

    def loss(behind: float) -> Tensor:
        times[:20, 5:], values[:20, 5:] = behind, behind
        generator = torch.Generator().manual_seed(1)
        return model.loss(Series(times, values, lengths), generator)

    loss(torch.nan).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    # What is written behind the end of a series is not looked at.
    model.calls.fill_(10**6)
    assert torch.equal(loss(torch.nan), loss(17.0))


def test_energy_distance_is_unbiased_and_that_of_normal_laws():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 60, 1, generator=generator, dtype=DOUBLE)
    y = torch.randn(400, 50, 1, generator=generator, dtype=DOUBLE)
    same = energy_distance(x, y)
    assert abs(float(same.mean())) < 5 * float(same.std()) / 20
    apart = energy_distance(x, y + 1.5)
    # E|N(m, 2)| = 2 / sqrt(pi) exp(-m^2 / 4) + m erf(m / 2).
    between = 2 / math.sqrt(math.pi) * math.exp(-(1.5**2) / 4) + 1.5 * math.erf(0.75)
    expected = 2 * between - 4 / math.sqrt(math.pi)
    assert abs(float(apart.mean()) - expected) < 5 * float(apart.std()) / 20


def test_a_generator_learns_a_law():
    data, mean, variance = ornstein(4000)
    torch.manual_seed(0)
    model = SDEGAN(1, width=16).standardise(data)
    test = ornstein(500, seed=2)[0]
    before = model.evaluate(test, mean, variance, count=4000)
    after = trained(model, data, 150, 2e-2).evaluate(test, mean, variance, count=20_000)
    assert after["marginal_mean_error"] < 0.15 < before["marginal_mean_error"]
    assert after["marginal_variance_error"] < 0.25 < before["marginal_variance_error"]
    assert after["energy_distance"] < 0.01 < before["energy_distance"]


def test_a_generator_refuses_series_with_gaps():
    data, _, _ = ornstein(4)
    data.values[2, 3] = torch.nan
    with pytest.raises(DataError, match="complete series"):
        SDEGAN(1).loss(data, torch.Generator())
