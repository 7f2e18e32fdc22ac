"""Neural ODEs on series: times of samples' own, gaps, windows, components that are not observed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de.models import solver as solving
from residua.operators.neural_de.models.augmented import AugmentedODE
from residua.operators.neural_de.models.neural_ode import NeuralODE
from residua.operators.neural_de.models.solver import Solver, follow
from residua.operators.neural_de.trajectories.series import Series
from residua.operators.neural_de.trajectories.systems import generate

DOUBLE = torch.float64
COARSE = Solver("rk4", step=0.5, path="eager")
TIGHT = Solver("dopri5", rtol=1e-9, atol=1e-10, path="eager")


class Forced(nn.Module):
    """``dy/dt = cos(3 t)``, or ``dy/dt = -y``."""

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self.timed = timed

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(3 * t)[:, None].expand_as(y) if self.timed else -y


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("columns", [0, 1 << 21])
@pytest.mark.parametrize("timed", [False, True])
def test_samples_are_followed_at_times_of_their_own(monkeypatch, own, columns, timed):
    monkeypatch.setattr(solving, "COLUMNS", columns)
    times = torch.rand(4, 6, dtype=DOUBLE).sort(1).values
    if not own:  # the same steps from starts of their own
        times = times[:1] + torch.tensor([[0.0], [0.5], [0.1], [2.0]], dtype=DOUBLE)
    times[3, 4:] = times[3, 3]  # a sample that has ended
    start = torch.randn(4, 2, dtype=DOUBLE)
    found = follow(TIGHT, Forced(timed), start, times, timed=timed)

    def exact(t: Tensor) -> Tensor:
        passed = t - times[:, :1]
        if not timed:
            return start[:, None] * torch.exp(-passed)[..., None]
        return start[:, None] + ((3 * t).sin() - (3 * times[:, :1]).sin())[..., None] / 3

    torch.testing.assert_close(found, exact(times), rtol=0, atol=1e-6)
    # Wrong twin: times of another sample.
    assert float((found - exact(times.flip(0))).abs().max()) > 1e-3


def test_a_sample_that_is_an_instant_stays_where_it_is():
    start = torch.randn(3, 2, dtype=DOUBLE)
    found = follow(TIGHT, Forced(False), start, torch.full((3, 2), 0.7, dtype=DOUBLE))
    assert torch.equal(found, start[:, None].expand(-1, 2, -1))


def fitted(model, data: Series, calls: int, rate: float = 2e-2, size: int = 32):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, calls)
    for _, batch in zip(range(calls), data.batches(size, generator), strict=False):
        optimizer.zero_grad()
        model.loss(batch, generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize("settings", [{"window": 8}, {"first_calls": 40, "first_part": 0.2}])
def test_an_oscillator_is_learnt(settings):
    data = generate("decaying_oscillators", 64, points=51, missing=0.1, irregular=True)
    test = generate("decaying_oscillators", 64, seed=1, points=51)
    model = NeuralODE(2, width=16, **settings).standardise(data)
    before = model.evaluate(test)["relative_l2"]
    assert fitted(model, data, 120).evaluate(test)["relative_l2"] < 0.25 < 0.6 < before


def test_one_observed_component_oscillates_with_another_unseen():
    """From rest, y = y0 cos(w t): no equation for y alone turns around."""
    times = torch.linspace(0, 1, 21, dtype=DOUBLE)
    heights = torch.linspace(0.5, 1.5, 16, dtype=DOUBLE)
    values = (heights[:, None] * torch.cos(6 * times))[..., None]
    data = Series(times.expand(16, -1), values, torch.full((16,), 21))

    def error(extra: int) -> float:
        torch.manual_seed(0)
        model = NeuralODE(1, extra, width=16, first_calls=60, first_part=0.5).standardise(data)
        return fitted(model, data, 160, size=16).evaluate(data)["relative_l2"]

    assert error(1) < 0.2 and error(0) > 0.4


@pytest.mark.parametrize("solver", [Solver("rk4", step=0.05, path="eager"), Solver(path="eager")])
def test_the_beginning_comes_first(solver):
    data = generate("decaying_oscillators", 4, points=20)
    model = NeuralODE(2, first_calls=2, first_part=0.25, solver=solver).standardise(data)
    other = Series(data.times, data.values.clone(), data.lengths)
    other.values[:, 5:] = 100.0
    losses = [float(model.loss(s, torch.Generator()).detach()) for s in (data, other)]
    assert losses[0] == losses[1]
    later = [float(model.loss(s, torch.Generator()).detach()) for s in (data, other)]
    assert later[1] > 100 * later[0]


def test_gaps_and_ends_are_left_out():
    data = generate("decaying_oscillators", 6, points=12)
    values, times, lengths = data.values.clone(), data.times.clone(), data.lengths.clone()
    lengths[:3], values[4, 5:7, 1] = 8, torch.nan
    model = NeuralODE(2, width=8, solver=Solver(path="eager")).standardise(data)

    def losses(behind: float) -> Tensor:
        times[:3, 8:], values[:3, 8:] = behind, behind
        series = Series(times, values, lengths)
        found = []
        for window in (None, 4):
            model.window = window
            found.append(model.loss(series, torch.Generator().manual_seed(0)))
        return torch.stack(found)

    found = losses(torch.nan)
    assert bool(found.isfinite().all()) and torch.equal(found, losses(17.0))
    values[4, 4, 0] += 1.0
    assert not torch.equal(found[0], losses(17.0)[0])
    values[5, 0, 1] = torch.nan
    with pytest.raises(DataError, match="sample 5 has no point"):
        model.window = None
        model.loss(Series(times, values, lengths), torch.Generator())


def test_windows_begin_where_all_is_known_and_end_inside():
    n = 10
    values = torch.arange(float(n)).expand(300, n)[..., None].clone()
    values[:, [0, 2, 3]] = torch.nan
    lengths = torch.full((300,), 8)
    data = Series(torch.arange(float(n)).double().expand(300, n), values, lengths)
    model = NeuralODE(1, window=3)
    prepared = model._prepared(data)
    found, times, _ = model._windows(data, *prepared, torch.Generator().manual_seed(0))
    assert set(found[:, 0, 0].tolist()) == {1.0, 4.0}
    assert torch.equal(times[:, 0].float(), found[:, 0, 0]) and found.shape == (300, 4, 1)


def absolute(extra: int) -> float:
    """How well |x| at -1, 0 and 1 is told; what is monotonic in x is off by half at least."""
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE).repeat(4)
    data = Series(torch.zeros(12, 1).double(), x[:, None, None], torch.ones(12).long(), x.abs())
    torch.manual_seed(0)
    # Long steps could let points pass where the flow itself does not.
    fine = Solver("rk4", step=0.125, path="eager")
    model = AugmentedODE(1, None, extra, width=16, solver=fine).standardise(data)
    return fitted(model, data, 100, size=12).evaluate(data)["relative_l2"]


def test_points_of_a_line_pass_each_other_with_one_more_component():
    assert absolute(1) < 0.05 and absolute(0) > 0.499


def test_rings_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    radius = labels + 0.5 * torch.rand(400, generator=generator, dtype=DOUBLE)
    angle = 2 * math.pi * torch.rand(400, generator=generator, dtype=DOUBLE)
    values = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)[:, None]
    data = Series(torch.zeros(400, 1).double(), values, torch.ones(400).long(), labels)
    model = AugmentedODE(2, 2, width=16, solver=COARSE).standardise(data)
    assert model.evaluate(data)["accuracy"] < 0.9
    found = fitted(model, data, 80, size=100).evaluate(data)
    assert found["accuracy"] == 1.0 and found["evaluations"] > 6
    assert float(model.predict(data).sum(1).sub(1).abs().max()) < 1e-6


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match="Windows have points"):
        NeuralODE(2, window=0)
    with pytest.raises(ConfigurationError, match="Windows have points"):
        NeuralODE(2, window=5, first_calls=10)
    with pytest.raises(ConfigurationError, match="part of a series"):
        NeuralODE(2, first_calls=10, first_part=0.0)
    with pytest.raises(ConfigurationError, match="no such activation"):
        NeuralODE(2, activation="tanhh")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="taken away"):
        AugmentedODE(2, 2, extra=-1)
    with pytest.raises(ConfigurationError, match="two classes"):
        AugmentedODE(2, 1)
    data = generate("decaying_oscillators", 4, points=3)
    with pytest.raises(DataError, match="these have none"):
        AugmentedODE(2, 2).loss(data, torch.Generator())
