"""Training of operators: it learns what can be learnt, and an interruption changes nothing."""

from __future__ import annotations

import pytest
import torch

from residua.engine.fit import Record, fit, restore
from residua.errors import ConfigurationError, DataError, DivergedError
from residua.operators.losses import relative_h1, relative_l2
from residua.operators.networks.fno import FNO
from residua.operators.networks.mgno import MgNO
from residua.operators.normalisation import Normalised, Scale
from residua.operators.options import TrainingOptions
from residua.operators.training import OperatorTrainer, Pairs, Trajectories, rollout

DOUBLE = torch.float64


class Silent:
    """A reporter that says nothing."""

    def message(self, text: str) -> None: ...

    def update(self, *args: object) -> None: ...


def small(seed: int = 0, *, residual: bool = False) -> Normalised:
    generator = torch.Generator().manual_seed(seed)
    network = MgNO(
        1, 1, width=6, depth=2, smoothings=(1, 2), dimension=1, boundary="periodic",
        generator=generator,
    )  # fmt: skip
    return Normalised(network, 1, 1, residual=residual).double()


def smoothing(samples: int, seed: int = 0) -> Pairs:
    """Fields and their averages over three nodes, in units far from one."""
    generator = torch.Generator().manual_seed(seed)
    data = 300 + 40 * torch.randn(samples, 1, 16, generator=generator, dtype=DOUBLE)
    mean = (data + data.roll(1, 2) + data.roll(-1, 2)) / 3
    return Pairs(data, 1e-3 * mean, [True])


def trained(model: Normalised, data: Pairs | Trajectories, **settings) -> OperatorTrainer:
    trainer = OperatorTrainer(model, data, TrainingOptions(**settings))
    while not trainer.step(1e9).done:
        pass
    return trainer


def test_a_linear_map_is_learnt_and_carries_over_to_unseen_fields():
    model, data, unseen = small(), smoothing(64), smoothing(32, seed=9)
    model.measure(data.inputs, data.outputs)
    middle = unseen.outputs.mean()

    def error(model: torch.nn.Module) -> float:
        """In parts of how much the truths vary."""
        found = model(unseen.inputs).detach()
        return float(relative_l2(found - middle, unseen.outputs - middle).mean())

    spread = error(model)
    trainer = trained(model, data, epochs=60, batch=16, learning_rate=1e-2)
    assert error(trainer.averaged) < 0.05 * spread
    # Wrong twin: what has no such relation is not predicted.
    shuffled = Pairs(data.inputs, data.outputs.roll(1, 0), data.periodic)
    wrong = trained(small(), shuffled, epochs=5, batch=16)
    assert error(wrong.averaged) > 0.5


def test_mixed_precision_learns_the_same_with_weights_kept_in_full():
    """The wrong twin is rounding that does not reach the products: both losses would agree."""
    losses = {}
    for mixed in (False, True):
        model, data = small().float(), smoothing(64)
        data = Pairs(data.inputs.float(), data.outputs.float(), data.periodic)
        model.measure(data.inputs, data.outputs)
        schedule = TrainingOptions(epochs=40, batch=16, learning_rate=1e-2, mixed_precision=mixed)
        trainer = OperatorTrainer(model, data, schedule)
        losses[mixed] = [trainer.step(1e9).loss for _ in range(trainer.steps)]
        assert {p.dtype for p in trainer.averaged.parameters()} == {torch.float32}
    assert losses[True][0] != losses[False][0]
    assert losses[True][0] == pytest.approx(losses[False][0], rel=2e-2)
    assert losses[True][-1] < 0.1 * losses[True][0]


def test_fourier_layers_bear_mixed_precision():
    generator = torch.Generator().manual_seed(0)
    network = FNO(1, 1, width=4, depth=2, modes=3, dimension=1, generator=generator)
    field = torch.randn(2, 1, 16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(field).float().detach()
    full = network(field).detach()
    assert 0 < (rounded - full).std() < 0.1 * full.std()


def test_a_training_is_not_continued_with_other_data():
    model, data = small(), smoothing(16)
    state = OperatorTrainer(model, data, TrainingOptions()).state_dict()
    OperatorTrainer(model, smoothing(16), TrainingOptions()).load_state_dict(state)
    with pytest.raises(DataError, match="not those the run began with"):
        OperatorTrainer(model, smoothing(16, seed=1), TrainingOptions()).load_state_dict(state)


def test_a_step_in_time_is_learnt_unrolled():
    """Decay by a twentieth a step: the change is what the network gives."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(40, 1, 16, generator=generator, dtype=DOUBLE)
    states = torch.stack([0.95**k * first for k in range(6)], dim=1)
    for pushforward in (False, True):
        data = Trajectories(states, [True], unrolled=2)
        assert len(data) == 40 * 4
        model = small(residual=True)
        model.measure(states[:, :-1].flatten(0, 1), states[:, 1:].flatten(0, 1))
        trainer = trained(
            model, data, epochs=12, batch=20, learning_rate=1e-2, unrolled=2,
            pushforward=pushforward,
        )  # fmt: skip
        last = list(rollout(trainer.averaged, first, 5))[-1]
        assert relative_l2(last, states[:, 5]).mean() < 0.03
        assert relative_l2(first, states[:, 5]).mean() > 0.2
    with pytest.raises(ConfigurationError, match="6 instants"):
        Trajectories(states, [True], unrolled=6)


@pytest.mark.parametrize("stop", [1, 7, 11])
def test_a_resumed_training_is_the_same_training(tmp_path, stop):
    def trainer() -> OperatorTrainer:
        return OperatorTrainer(
            small(), smoothing(22), TrainingOptions(epochs=3, batch=5, average=0.9)
        )

    whole, folder = trainer(), tmp_path / "parts"
    folder.mkdir()
    fit(whole, Record(), reporter=Silent(), folder=tmp_path)
    assert whole.done == whole.steps == 15
    fit(trainer(), Record(), reporter=Silent(), folder=folder, steps=stop)
    again = trainer()
    record = restore(again, folder)
    assert record.step == stop == again.done
    fit(again, record, reporter=Silent(), folder=folder)
    for one, other in zip(whole.averaged.parameters(), again.averaged.parameters(), strict=True):
        assert torch.equal(one, other)
    other = OperatorTrainer(small(), smoothing(22), TrainingOptions(epochs=3, batch=5), seed=1)
    assert not torch.equal(whole.order(0), other.order(0))


def test_the_learning_rate_rises_and_falls():
    trainer = OperatorTrainer(small(), smoothing(10), TrainingOptions(epochs=100, batch=10))
    rates = []
    for trainer.done in range(100):
        rates.append(trainer.rate)
    top = rates.index(max(rates))
    assert 18 <= top <= 21 and max(rates) == pytest.approx(1e-3, rel=1e-2)
    assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(1e-6)
    assert all(a <= b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    assert all(a >= b for a, b in zip(rates[top:-1], rates[top + 1 :], strict=True))
    trainer.soften()
    trainer.done = top
    assert trainer.rate == pytest.approx(max(rates) / 2)


def test_what_is_not_finite_stops_the_training():
    data = smoothing(10)
    data.outputs[3] = torch.nan
    trainer = OperatorTrainer(small(), data, TrainingOptions(epochs=1, batch=10))
    with pytest.raises(DivergedError):
        trainer.step(1e9)


def test_the_average_of_the_weights_is_not_the_last_weights():
    trainer = trained(small(), smoothing(20), epochs=4, batch=5)
    pairs = list(zip(trainer.model.parameters(), trainer.averaged.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert all(not b.requires_grad for _, b in pairs)


def test_scales_keep_their_digits():
    """A channel that hardly varies about a large mean, one that is constant, one that is not."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 3, 40, generator=generator, dtype=DOUBLE)
    data = torch.tensor([1e6, 7.0, 0.0], dtype=DOUBLE)[:, None] + noise * torch.tensor(
        [1e-3, 0.0, 2.0], dtype=DOUBLE
    ).unsqueeze(1)
    scale = Scale(3).double()
    scale.measure(data)
    inside = scale.inward(data)
    assert inside[:, 0].std() == pytest.approx(1, rel=1e-3)
    assert inside[:, 1].abs().max() == 0
    assert torch.allclose(scale.outward(inside), data, rtol=1e-14)
    data[0, 0, 0] = torch.inf
    with pytest.raises(DataError, match="not finite"):
        scale.measure(data)


def test_norms_are_those_of_functions():
    """sin(2 pi x) with error 0.1 sin(6 pi x): L2 0.1, H1 by Parseval, on a fine grid."""
    n = 4096
    x = torch.arange(n, dtype=DOUBLE) / n
    true = torch.sin(2 * torch.pi * x).expand(2, 1, n)
    found = true + 0.1 * torch.sin(6 * torch.pi * x)
    assert torch.allclose(relative_l2(found, true), torch.full((2,), 0.1, dtype=DOUBLE))
    exact = torch.full((2,), 0.1 * (10 / 2) ** 0.5, dtype=DOUBLE)
    assert torch.allclose(relative_h1(found, true, [True]), exact, rtol=1e-5)
    # The same waves on nodes that include both ends.
    x = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
    true = torch.sin(2 * torch.pi * x).expand(2, 1, n + 1)
    found = true + 0.1 * torch.sin(6 * torch.pi * x)
    assert torch.allclose(relative_h1(found, true, [False]), exact, rtol=1e-3)
    assert not torch.allclose(relative_l2(found, true), exact, rtol=0.1)
