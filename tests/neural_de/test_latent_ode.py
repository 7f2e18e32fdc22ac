"""Latent ODEs: what the encoder looks at, the bound, and that starts are inferred."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from residua.errors import ConfigurationError
from residua.operators.neural_de.models.latent_ode import Encoder, LatentODE
from residua.operators.neural_de.models.solver import Solver
from residua.operators.neural_de.trajectories.series import Series
from residua.operators.neural_de.trajectories.systems import generate

DOUBLE = torch.float64
BETWEEN = ["ode", "gaps"]
EAGER = Solver(path="eager")


@pytest.mark.parametrize("between", BETWEEN)
def test_an_empty_place_changes_nothing_but_the_step(between):
    encoder = Encoder(2, 6, between).double()
    times = torch.tensor([[0.0, 0.2, 0.21, 0.5]], dtype=DOUBLE).expand(3, -1)
    values = torch.randn(3, 4, 2, dtype=DOUBLE)
    seen = torch.ones(3, 4, 2, dtype=torch.bool)
    seen[:, 2], values[:, 2] = False, 0.0
    kept = [0, 1, 3]
    with torch.no_grad():
        whole = encoder(values, seen, times)
        less = encoder(values[:, kept], seen[:, kept], times[:, kept])
        moved = times.clone()
        moved[:, 1] -= 0.15
        other = encoder(values[:, kept], seen[:, kept], moved[:, kept])
    # "gaps" is told how long it has waited, of a count of places it is told too.
    if between == "gaps":
        with torch.no_grad():
            less = encoder(values[:, kept], seen[:, kept], times[:, kept] * 4 / 3)
    torch.testing.assert_close(whole, less, rtol=0, atol=1e-4 if between == "ode" else 1e-12)
    # Wrong twin: an observation at another time.
    assert float((whole - other).abs().max()) > 1e-3


@pytest.mark.parametrize("between", BETWEEN)
def test_gaps_and_ends_of_series_are_left_out(between):
    data = generate("decaying_oscillators", 20, points=9)
    values, times, lengths = data.values.clone(), data.times.clone(), data.lengths.clone()
    lengths[:10], values[15, 3] = 5, torch.nan
    model = LatentODE(2, between=between, anneal=0, solver=EAGER).standardise(data)

    def loss(behind: float):
        times[:10, 5:], values[:10, 5:] = behind, behind
        return model.loss(Series(times, values, lengths), torch.Generator().manual_seed(1))

    loss(torch.nan).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    found = loss(17.0)
    assert torch.equal(loss(torch.nan), found)
    values[15, 4] += 1.0
    assert not torch.equal(loss(17.0), found)


def test_the_bound_is_likelihood_less_divergence():
    data = generate("decaying_oscillators", 8, points=7, missing=0.3)
    model = LatentODE(2, noise=0.3, solver=EAGER).double().standardise(data)
    generator = torch.Generator().manual_seed(4)
    likelihood, divergence, count = model._bound(data, generator)
    seen, times = data.known, model.filled(data)
    values = torch.where(seen, model.standardised(data), 0.0)
    mean, log_std = model._law(values, seen, times)
    law = Normal(mean, log_std.exp())
    expected = kl_divergence(law, Normal(torch.zeros_like(mean), 1.0)).sum().detach()
    torch.testing.assert_close(divergence.detach(), expected)
    # The reverse divergence is another.
    assert abs(float(kl_divergence(Normal(0 * mean, 1.0), law).sum().detach() - expected)) > 1e-3
    assert int(count) == int(seen.sum())
    # With latent states that do not move, what is observed is the decoder at the start.
    with torch.no_grad():
        model.field.scale.zero_()  # type: ignore[union-attr]
        likelihood, _, _ = model._bound(data, torch.Generator().manual_seed(4))
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
        found = model.decoder(mean + log_std.exp() * noise)[:, None]
        terms = Normal(found, model.log_noise.exp()).log_prob(values)
    torch.testing.assert_close(likelihood, terms[seen].sum())


@pytest.mark.parametrize("between", BETWEEN)
def test_starts_are_inferred_and_paths_go_on(between):
    settings = {"points": 12, "irregular": True}
    data = generate("decaying_oscillators", 300, noise=0.02, missing=0.2, **settings)
    test = generate("decaying_oscillators", 100, seed=1, **settings)
    model = LatentODE(2, hidden=24, between=between, anneal=30).standardise(data)
    before = model.evaluate(test)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for _, batch in zip(range(80), data.batches(64, generator), strict=False):
        optimizer.zero_grad()
        model.loss(batch, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    after = model.evaluate(test)
    assert after["relative_l2"] < 0.2 and after["extrapolation"] < 0.25
    assert before["relative_l2"] > 0.8 and before["extrapolation"] > 0.8
    assert after["bound"] > before["bound"] + 1
    # What lies behind the part that is looked at does not matter to what is said of it.
    altered = Series(test.times, test.values.clone(), test.lengths)
    altered.values[:, 6:] += 5
    assert torch.equal(model.predict(test, 0.5), model.predict(altered, 0.5))
    assert float((model.predict(test) - model.predict(altered)).abs().max()) > 1e-2


def test_paths_of_the_prior():
    model = LatentODE(2, solver=EAGER)
    times = torch.linspace(0, 1, 5, dtype=DOUBLE)
    one, same, other = (model.sample(times, 7, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert one.shape == (7, 5, 2) and torch.equal(one, same) and not torch.allclose(one, other)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match="no such word"):
        LatentODE(2, between="rnn")  # type: ignore[arg-type]
