"""Series made here: against closed forms, invariants and moments; and what a series refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de.trajectories.series import Series, thinned
from residua.operators.neural_de.trajectories.systems import (
    SYSTEMS,
    generate,
    ornstein_uhlenbeck_moments,
    ratchet_rates,
)

QUICK = {"van_der_pol_stiff": {"points": 5, "span": (0.0, 10.0)}}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_repeats_and_starts_anew_with_another_seed(name):
    settings = QUICK.get(name, {})
    one, same, other = (generate(name, 4, seed=s, **settings) for s in (1, 1, 2))
    assert torch.equal(one.values, same.values)
    assert one.values.isfinite().all() and len(one) == 4
    if name != "robertson":  # its start is the same for all
        assert not torch.equal(one.values, other.values)


def invariant(name: str, values: np.ndarray) -> np.ndarray:
    if name == "lotka_volterra":
        p, (x, y) = SYSTEMS[name].parameters, values.transpose(2, 0, 1)
        return p["c"] * x - p["d"] * np.log(x) + p["b"] * y - p["a"] * np.log(y)
    if name == "robertson":
        return values.sum(-1)
    a, b, v, w = values.transpose(2, 0, 1)
    kinetic = v**2 + w**2 / 2 + v * w * np.cos(a - b)
    return kinetic - 9.81 * (2 * np.cos(a) + np.cos(b))


@pytest.mark.parametrize("name", ["lotka_volterra", "double_pendulum", "robertson"])
def test_what_is_conserved_is_conserved(name):
    values = generate(name, 3).values.numpy()
    kept = invariant(name, values)
    assert np.abs(kept - kept[:, :1]).max() < 1e-7
    # Wrong twin: the same states in another order of the channels.
    twisted = invariant(name, np.roll(values, 1, -1)) if name != "robertson" else values[..., 0]
    assert np.abs(twisted - twisted[:, :1]).max() > 1e-3


def test_decaying_oscillators_by_their_closed_form():
    found = generate("decaying_oscillators", 2)
    t, start = found.times[0], found.values[:, 0]
    turn = torch.stack([torch.cos(t), torch.sin(t)])
    exact = torch.stack(
        [start[:, :1] * turn[0] + start[:, 1:] * turn[1],
         start[:, 1:] * turn[0] - start[:, :1] * turn[1]], -1
    ) * torch.exp(-0.2 * t)[:, None]  # fmt: skip
    assert (found.values - exact).abs().max() < 1e-8


def test_the_ball_loses_its_energy_at_bounces_only():
    values = generate("bouncing_ball", 5, points=2001).values.numpy()
    energy = 9.81 * values[..., 0] + values[..., 1] ** 2 / 2
    assert values[..., 0].min() > -1e-12
    change = energy[:, 1:] / energy[:, :-1]
    flying = np.abs(change - 1) < 1e-9
    assert flying.mean() > 0.99 and np.allclose(change[~flying], 0.64, atol=1e-6)


def test_moments_of_the_ornstein_uhlenbeck_process():
    samples = 20000
    found = generate("ornstein_uhlenbeck", samples, irregular=True)
    mean, variance = ornstein_uhlenbeck_moments(
        found.times[0].numpy(), SYSTEMS["ornstein_uhlenbeck"].parameters
    )
    values = found.values[..., 0].numpy()
    assert (np.abs(values.mean(0) - mean) < 5 * np.sqrt(variance / samples)).all()
    assert (np.abs(values.var(0) / variance - 1) < 5 * math.sqrt(2 / samples)).all()
    # Wrong twin: the moments of another drift.
    wrong, _ = ornstein_uhlenbeck_moments(
        found.times[0].numpy(), {"rate": 0.1, "drift": 0.025, "noise": 0.4}
    )
    assert (np.abs(values.mean(0) - wrong) > 5 * np.sqrt(variance / samples)).any()


def test_moments_of_geometric_brownian_motion():
    values = generate("geometric_brownian", 40000).values[:, -1, 0].numpy()
    mean, spread = math.exp(1), math.exp(1) * math.sqrt(math.exp(0.25) - 1)
    assert abs(values.mean() - mean) < 5 * spread / 200


def test_jumps_of_the_ratchet_come_at_their_rates():
    """The distribution of the state after a short while: the matrix exponential of the rates."""
    from scipy.linalg import expm

    found = generate("flashing_ratchet", 20000, points=2, span=(0.0, 0.3)).values[..., 0].long()
    rates = ratchet_rates(1.0, 1.0, 1.0)
    moves = expm(0.3 * (rates - np.diag(rates.sum(1))))
    counts = np.zeros((6, 6))
    np.add.at(counts, (found[:, 0].numpy(), found[:, 1].numpy()), 1)
    shares = counts / counts.sum(1, keepdims=True)
    assert np.abs(shares - moves).max() < 0.04
    assert np.abs(shares - moves.T).max() > 0.04


def test_chirality_is_the_sign_of_the_turn():
    found = generate("chirality", 40, missing=0.0)
    x, y = found.values.unbind(-1)
    turn = (x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]).sign()
    assert torch.equal(turn.mean(1) > 0, found.labels == 1)
    assert 0 < found.labels.double().mean() < 1


def test_missing_values_and_noise():
    whole = generate("lotka_volterra", 50)
    gaps = generate("lotka_volterra", 50, missing=0.3)
    part = 1 - float(gaps.known.double().mean())
    assert 0.27 < part < 0.32 and gaps.known[:, 0].all()
    assert torch.equal(gaps.values[gaps.known], whole.values[gaps.known])
    noisy = generate("lotka_volterra", 50, noise=0.05)
    size = (noisy.values - whole.values).std((0, 1)) / whole.values.std((0, 1))
    assert torch.allclose(size, torch.full_like(size, 0.05), rtol=0.1)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigurationError, match="no such system.*lorenz"):
        generate("lorentz", 1)
    with pytest.raises(ConfigurationError, match="no such parameter"):
        generate("lorenz", 1, parameters={"ro": 1.0})


def series(**changes) -> Series:
    parts = {
        "times": torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, 9.0]], dtype=torch.float64),
        "values": torch.zeros(2, 3, 1),
        "lengths": torch.tensor([3, 2]),
    }
    return Series(**(parts | changes))


def test_a_series_knows_what_belongs_to_it():
    found = series()
    assert found.inside.tolist() == [[True] * 3, [True, True, False]]
    assert not found.shared and found[:1].shared
    batches = found.batches(1, torch.Generator().manual_seed(0))
    assert sorted(int(next(batches).lengths) for _ in range(2)) == [2, 3]
    assert thinned(found, 1.0, torch.Generator()).known[:, :, 0].sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"times": torch.zeros(2, 3)}, "sample 0: time 0 follows 0"),
        ({"times": torch.tensor([[0.0, 1, 2], [0, torch.nan, 9]])}, "sample 1, time 1"),
        ({"values": torch.zeros(2, 4, 1)}, "give \\(batch, n\\)"),
        ({"lengths": torch.tensor([3, 4])}, "sample 1 has length 4"),
        ({"values": torch.full((2, 3, 1), torch.inf)}, "infinite"),
        ({"labels": torch.zeros(3)}, "labels"),
    ],
)
def test_a_series_refuses(changes, says):
    with pytest.raises(DataError, match=says):
        series(**changes)
