"""Loss weights: the causal table, its gradient, annealing, balancing, exact restoration."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from residua.engine import checkpoint, weighting
from residua.engine.weighting import Causal, Fixed, GradientNorm, causal_weights, slab_means
from residua.errors import ConfigurationError, DivergedError

TABLE = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
HAND = [1.0, math.exp(-1.0), math.exp(-1.5), math.exp(-1.75)]


def inclusive(losses: Tensor, epsilon: float) -> Tensor:
    """The wrong twin: the sum includes the slab itself."""
    return torch.exp(-epsilon * torch.cumsum(losses.detach(), 0))


def table_holds(weights: Callable[[Tensor, float], Tensor]) -> bool:
    return torch.allclose(
        weights(TABLE, 1.0), torch.tensor([1, 0.3679, 0.2231, 0.1738]).double(), atol=5e-5
    )


def residuals(parameter: Tensor, t: Tensor) -> Tensor:
    """A residual that depends on a parameter nonlinearly and differs between slabs."""
    return torch.sin(parameter[0] * t + 1) + parameter[1] * t**2


def problem(n: int = 96, slabs: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    parameter = torch.tensor([1.3, -0.7], dtype=torch.float64, requires_grad=True)
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return parameter, t, (t * slabs).long()


def test_the_hand_table() -> None:
    assert table_holds(causal_weights)
    assert not table_holds(inclusive)
    torch.testing.assert_close(
        causal_weights(TABLE, 1.0), torch.tensor(HAND).double(), atol=1e-7, rtol=0
    )


def test_first_weight_is_one_and_the_rest_never_grow() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-8, 1.0, 1e8):
        losses = scale * torch.rand(50, generator=generator)
        weights = causal_weights(losses, 0.7)
        assert weights[0] == 1.0
        assert (weights.diff() <= 0).all()
        assert weights.dtype == torch.float64
        assert inclusive(losses.double(), 0.7)[0] < 1.0


def test_the_initial_loss_gates_every_slab() -> None:
    weights = causal_weights(TABLE, 2.0, initial_loss=0.25)
    torch.testing.assert_close(weights, math.exp(-0.5) * causal_weights(TABLE, 2.0))
    assert weights[0] < 1.0
    fitted = causal_weights(TABLE, 2.0, torch.tensor(0.0))
    assert torch.equal(fitted, causal_weights(TABLE, 2.0))


def test_the_sum_is_carried_in_double_precision() -> None:
    """10^5 single-precision slabs of 1e-4: a float32 running sum drifts by far more than this."""
    losses = torch.full((100_001,), 1e-4)
    exact = math.exp(-1e5 * float(losses[0]))
    assert abs(float(causal_weights(losses, 1.0)[-1]) / exact - 1) < 1e-9
    total, drifting = torch.tensor(0.0), torch.tensor(1e-4)
    for _ in range(100_000):
        total = total + drifting
    assert abs(float(torch.exp(-total)) / exact - 1) > 1e-4


def test_without_causality_the_loss_is_the_plain_one_bit_for_bit() -> None:
    parameter, t, index = problem()
    squares = residuals(parameter, t) ** 2
    plain = torch.tensor(1 / 96, dtype=torch.float64).sqrt().expand(96)
    for dtype in (torch.float32, torch.float64):
        means = slab_means(squares.to(dtype), index, 6)
        for epsilon in (0.0, 1e-300):
            causal = Causal(6, [epsilon])
            causal.refresh(means)
            assert (causal.slab_weights == 1.0).all()
            assert torch.equal(causal.loss(means), means.mean())
            assert causal.loss(means).dtype == dtype
            # With equal numbers of points in the slabs, the rows are those of the plain mean too.
            assert torch.equal(causal.row_weights(index), plain)
    causal = Causal(6, [1e-3])
    causal.refresh(means)
    assert not torch.equal(causal.loss(means), means.mean())


def test_the_gradient_is_that_of_constant_weights() -> None:
    parameter, t, index = problem()
    causal = Causal(6, [1.5])

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        means = slab_means(residuals(parameter, t) ** 2, index, 6)
        return torch.autograd.grad(loss(means), parameter)[0]

    def ours(means: Tensor) -> Tensor:
        causal.refresh(means)
        return causal.loss(means)

    with torch.no_grad():
        constants = causal_weights(slab_means(residuals(parameter, t) ** 2, index, 6), 1.5).tolist()
    expected = gradient(lambda m: sum(w * loss for w, loss in zip(constants, m, strict=True)) / 6)
    torch.testing.assert_close(gradient(ours), expected, rtol=1e-14, atol=0)

    def attached(means: Tensor) -> Tensor:  # wrong twin: the gradient runs through the weights
        before = torch.cat([means.new_zeros(1), means.cumsum(0)[:-1]])
        return (torch.exp(-1.5 * before) * means).mean()

    assert not torch.allclose(gradient(attached), expected, rtol=1e-2)


def test_weights_do_not_depend_on_the_number_of_points() -> None:
    parameter, t, index = problem()
    squares = (residuals(parameter, t) ** 2).detach()
    once = causal_weights(slab_means(squares, index, 6), 3.0)
    often = causal_weights(slab_means(squares.repeat(7), index.repeat(7), 6), 3.0)
    torch.testing.assert_close(once, often, rtol=1e-13, atol=0)
    sums = torch.zeros(6, dtype=torch.float64).index_add(0, index, squares)
    twin = torch.zeros(6, dtype=torch.float64).index_add(0, index.repeat(7), squares.repeat(7))
    assert not torch.allclose(causal_weights(sums, 0.01), causal_weights(twin, 0.01), rtol=0.1)


def test_row_weights_turn_the_loss_into_a_sum_of_squares() -> None:
    """Unequal slabs, one of them empty; value, gradient and Gauss-Newton normal matrix agree."""
    parameter = torch.tensor([1.3, -0.7], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.6, 0.65, 0.95, 0.99]).double()
    index = torch.tensor([0, 0, 0, 1, 2, 2, 4, 4])  # slab 3 holds none
    r = residuals(parameter, t)
    means = slab_means(r**2, index, 5)
    assert means[3] == 0
    causal = Causal(5, [0.8])
    causal.refresh(means, 0.1)
    rows = causal.row_weights(index)
    weights = causal_weights(means, 0.8, 0.1)
    by_hand = sum(weights[i] * (r[index == i] ** 2).mean() for i in (0, 1, 2, 4)) / 5
    total = ((rows * r) ** 2).sum()
    torch.testing.assert_close(total, by_hand, rtol=1e-14, atol=0)
    torch.testing.assert_close(total, causal.loss(means), rtol=1e-14, atol=0)
    (ours,) = torch.autograd.grad(total, parameter, retain_graph=True)
    (theirs,) = torch.autograd.grad(by_hand, parameter)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    # Twin: leaving out the square root.
    assert not torch.allclose(((rows**2 * r) ** 2).sum(), by_hand)
    assert not rows.requires_grad
    with pytest.raises(ValueError, match="slab 5 of 5"):
        causal.row_weights(torch.tensor([0, 5]))


def test_weights_are_frozen_between_refreshes() -> None:
    causal = Causal(4, [1.0])
    with pytest.raises(RuntimeError, match="refresh"):
        _ = causal.slab_weights
    assert not causal.settled
    causal.refresh(TABLE)
    frozen = causal.slab_weights
    causal.loss(10 * TABLE)
    causal.row_weights(torch.arange(4))
    assert torch.equal(causal.slab_weights, frozen)
    causal.refresh(10 * TABLE)
    assert not torch.equal(causal.slab_weights, frozen)


def test_a_floor_keeps_every_slab_in_the_sum() -> None:
    causal = Causal(4, [1e3])
    causal.refresh(TABLE)
    index = torch.arange(4)
    plain, floored = causal.row_weights(index), causal.row_weights(index, 1e-4)
    assert plain[-1] ** 2 * 4 < 1e-4
    assert floored[-1] ** 2 * 4 == pytest.approx(1e-4, rel=1e-12)
    assert torch.equal(plain[0], floored[0])


def test_the_schedule_climbs_and_ends() -> None:
    causal = Causal(4, [0.01, 1.0, 100.0], delta=0.99)
    bound = -math.log(0.99) / 100.0  # the equivalent test on the sum of the losses before the last
    shape = torch.tensor([0.5, 0.25, 0.25, 1e9]).double()  # the last slab's own loss is no matter
    causal.refresh(0.999 * bound * shape)
    reached = [(causal.epsilon, causal.settled)]
    while causal.advance():
        reached.append((causal.epsilon, causal.settled))
    assert reached == [(0.01, True), (1.0, True), (100.0, True)]
    assert causal.epsilon == 100.0
    assert not causal.advance()
    causal.refresh(1.001 * bound * shape)
    assert not causal.settled
    assert causal.front == 3
    causal.refresh(1e3 * bound * shape)
    assert causal.front == 1
    report = causal.report()
    assert report["epsilon"] == 100.0
    assert report["stage"] == 2
    assert report["min_weight"] == float(causal.slab_weights.min())


def test_advancing_uses_the_new_epsilon_at_once() -> None:
    causal = Causal(4, [0.1, 1.0])
    causal.refresh(TABLE)
    causal.advance()
    assert torch.equal(causal.slab_weights, causal_weights(TABLE, 1.0))


def test_annealed_causal_descent_trains_early_slabs_first() -> None:
    """Independent slabs under gradient descent fall in order of time; without causality at once."""

    def halving_times(epsilon: float) -> list[int]:
        values = torch.ones(5, dtype=torch.float64, requires_grad=True)
        causal, times = Causal(5, [epsilon]), [0] * 5
        for step in range(1, 2000):
            if all(times):
                break
            losses = values**2
            causal.refresh(losses)
            (gradient,) = torch.autograd.grad(causal.loss(losses), values)
            values = (values - 0.1 * gradient).detach().requires_grad_()
            for i in range(5):
                if not times[i] and values[i] < 0.5:
                    times[i] = step
        return times

    times = halving_times(5.0)
    assert all(0 < early < late for early, late in zip(times, times[1:], strict=False))
    assert len(set(halving_times(0.0))) == 1


def test_causal_state_is_exact_through_a_checkpoint(tmp_path) -> None:
    base = GradientNorm(["equation", "initial"])
    causal = Causal(4, [0.3, 3.0], terms=base)
    base.update({"equation": 2.0, "initial": 0.7})
    causal.refresh(TABLE / 3, initial_loss=0.1)
    causal.advance()
    checkpoint.save(tmp_path, 1, {"weighting": causal.state_dict()})
    state, _ = checkpoint.load_latest(tmp_path)
    again = Causal(4, [0.3, 3.0], terms=GradientNorm(["equation", "initial"]))
    again.load_state_dict(state["weighting"])
    assert torch.equal(again.slab_weights, causal.slab_weights)
    assert (again.stage, again.weights) == (causal.stage, causal.weights)
    fresh = Causal(4, [0.3, 3.0])
    fresh.load_state_dict(Causal(4, [0.3, 3.0]).state_dict())
    assert fresh.report() == Causal(4, [0.3, 3.0]).report()
    for other in (Causal(5, [0.3, 3.0], terms=base), Causal(4, [0.3], terms=base), fresh):
        with pytest.raises(ValueError, match="saved with"):
            other.load_state_dict(state["weighting"])


def test_causal_refuses_bad_settings_and_bad_losses() -> None:
    for arguments in [
        {"slabs": 0},
        {"slabs": 4, "epsilons": []},
        {"slabs": 4, "epsilons": [-1.0]},
        {"slabs": 4, "epsilons": [math.nan]},
        {"slabs": 4, "delta": 1.0},
    ]:
        with pytest.raises(ConfigurationError):
            Causal(**arguments)
    causal = Causal(4)
    causal.refresh(TABLE)
    kept = causal.slab_weights
    for place in range(4):
        bad = TABLE.clone()
        bad[place] = math.nan
        with pytest.raises(DivergedError):
            causal.refresh(bad)
    with pytest.raises(DivergedError):
        causal.refresh(TABLE, initial_loss=math.inf)
    with pytest.raises(ValueError, match="4 slab losses expected"):
        causal.refresh(TABLE[:3])
    assert torch.equal(causal.slab_weights, kept)


def test_the_patent_is_mentioned() -> None:
    for word in ("University of Pennsylvania", "patent", "optional"):
        assert word in (weighting.__doc__ or "")
    assert "patent" in (Causal.__doc__ or "")


TERMS = {"equation": "interior", "initial": "initial", "x = 0": "boundary", "x = 1": "boundary"}


def test_fixed_weights_by_name_before_kind() -> None:
    fixed = Fixed(TERMS, {"boundary": 10.0, "x = 1": 3.0})
    assert fixed.weights == {"equation": 1.0, "initial": 1.0, "x = 0": 10.0, "x = 1": 3.0}
    assert set(Fixed(TERMS).weights.values()) == {1.0}
    again = Fixed(TERMS)
    again.load_state_dict(fixed.state_dict())
    assert again.weights == fixed.weights
    with pytest.raises(ValueError, match="loss terms"):
        Fixed({"a": "b"}).load_state_dict(fixed.state_dict())
    with pytest.raises(ConfigurationError, match="found 'bondary'; did you mean 'boundary'"):
        Fixed(TERMS, {"bondary": 1.0})
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="at least 0"):
            Fixed(TERMS, {"initial": value})


def test_gradient_norm_equalises_the_terms() -> None:
    norms = {"equation": 100.0, "initial": 1.0, "x = 0": 0.01}
    balance = GradientNorm(norms, decay=0.9, every=10)
    assert [step for step in range(25) if balance.due(step)] == [0, 10, 20]
    mean = 101.01 / 3
    balance.update(norms)
    for name, norm in norms.items():
        assert balance.weights[name] == pytest.approx(0.9 + 0.1 * mean / norm, rel=1e-14)
    for _ in range(400):
        balance.update(norms)
    sizes = [balance.weights[name] * norm for name, norm in norms.items()]
    assert sizes == pytest.approx([mean] * 3, rel=1e-10)
    # Twin: weights by own / mean would drive them apart.
    twin = {name: norm / mean * norm for name, norm in norms.items()}
    assert max(twin.values()) / min(twin.values()) > 1e3 * max(sizes) / min(sizes)


def test_gradient_norm_is_guarded() -> None:
    balance = GradientNorm(["a", "b"], decay=0.0)
    balance.update({"a": 1.0, "b": 0.0})
    assert balance.weights == {"a": 0.5, "b": pytest.approx(1e5)}
    kept = dict(balance.weights)
    balance.update({"a": 0.0, "b": 0.0})
    for bad in (math.nan, math.inf):
        with pytest.raises(DivergedError, match="'b'"):
            balance.update({"a": 1.0, "b": bad})
    with pytest.raises(ValueError, match="loss terms"):
        balance.update({"a": 1.0})
    assert balance.weights == kept
    with pytest.raises(ValueError, match="decay"):
        GradientNorm(["a"], decay=1.0)
