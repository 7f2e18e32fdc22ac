"""Paths through irregular observations with gaps, against the polynomials they must reproduce."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de.controlled.paths import Hermite, Linear, Path, Rectilinear
from residua.operators.neural_de.controlled.preparation import prepare

DOUBLE = torch.float64
NAN = math.nan


def irregular(batch: int, n: int, channels: int, missing: float = 0.0, seed: int = 0):
    """Times of each sample's own, and values with gaps but both ends known."""
    generator = torch.Generator().manual_seed(seed)
    gaps = 0.1 + torch.rand(batch, n, generator=generator, dtype=DOUBLE)
    values = torch.randn(batch, n, channels, generator=generator, dtype=DOUBLE)
    gone = torch.rand(values.shape, generator=generator) < missing
    gone[:, 0] = gone[:, -1] = False
    return gaps.cumsum(1), values.masked_fill(gone, NAN)


def inside(times: Tensor, fraction: float) -> Tensor:
    """A time between the first and the last of each sample."""
    return torch.lerp(times[:, 0], times[:, -1], fraction)


def numeric_slope(path: Path, t: Tensor, step: float = 1e-5) -> Tensor:
    return (path.value(t + step) - path.value(t - step)) / (2 * step)


@pytest.mark.parametrize("kind", [Linear, Hermite])
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_straight_lines_are_exact_whatever_is_missing(kind, missing):
    times, gaps = irregular(5, 12, 3, missing)
    values = 0.7 - 1.3 * times[..., None] * torch.tensor([1.0, 2.0, -1.0], dtype=DOUBLE)
    path = kind(times, torch.where(gaps.isnan(), NAN, values))
    for fraction in (0.0, 0.03, 0.31, 0.77, 1.0):
        t = inside(times, fraction)
        line = 0.7 - 1.3 * t[:, None] * torch.tensor([1.0, 2.0, -1.0], dtype=DOUBLE)
        torch.testing.assert_close(path.value(t), torch.cat((t[:, None], line), 1))
        slope = torch.tensor([1.0, -1.3, -2.6, 1.3], dtype=DOUBLE).expand(5, 4)
        torch.testing.assert_close(path.slope(t), slope)


def test_linear_is_numpys_interpolation_of_each_channel():
    times, values = irregular(4, 20, 2, 0.5)
    path = Linear(times, values, time=False)
    for fraction in np.linspace(0, 1, 23):
        t = inside(times, float(fraction))
        found = path.value(t)
        for b in range(4):
            for c in range(2):
                seen = ~values[b, :, c].isnan()
                expected = np.interp(float(t[b]), times[b, seen], values[b, seen, c])
                assert float(found[b, c]) == pytest.approx(expected, abs=1e-12)


def test_hermite_is_scipys_spline_with_backward_differences():
    times, values = irregular(4, 20, 2, 0.5)
    path = Hermite(times, values, time=False)
    forward_differs = 0.0
    for b in range(4):
        for c in range(2):
            seen = ~values[b, :, c].isnan()
            x, y = times[b, seen].numpy(), values[b, seen, c].numpy()
            secants = np.diff(y) / np.diff(x)
            backward = CubicHermiteSpline(x, y, np.concatenate([secants[:1], secants]))
            forward = CubicHermiteSpline(x, y, np.concatenate([secants, secants[-1:]]))
            for fraction in np.linspace(0.01, 0.99, 19):
                t = inside(times, float(fraction))
                value, slope = float(path.value(t)[b, c]), float(path.slope(t)[b, c])
                assert value == pytest.approx(float(backward(t[b])), abs=1e-11)
                assert slope == pytest.approx(float(backward(t[b], 1)), abs=1e-10)
                forward_differs = max(forward_differs, abs(value - float(forward(t[b]))))
    assert forward_differs > 0.1


def test_hermite_follows_smooth_data_with_order_two_and_continuous_slopes():
    # Slopes that are those half an interval ago make errors of second order.
    errors = []
    for n in (20, 40, 80):
        times = torch.linspace(0, 3, n + 1, dtype=DOUBLE)
        path = Hermite(times, times.sin()[None, :, None], time=False)
        middles = torch.linspace(1, 2.9, 57, dtype=DOUBLE)
        found = torch.stack([path.value(t[None])[0, 0] for t in middles])
        errors.append(float((found - middles.sin()).abs().max()))
        knot = times[5:6]
        jump = path.slope(knot + 1e-9) - path.slope(knot - 1e-9)
        assert abs(float(jump)) < 1e-6
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 2) < 0.25 for order in orders), orders


@pytest.mark.parametrize("kind", [Linear, Hermite, Rectilinear])
def test_slope_is_the_derivative_of_the_value(kind):
    times, values = irregular(6, 15, 3, 0.4)
    path = kind(times, values, counts=5.0)
    for fraction in (0.013, 0.21, 0.51, 0.83, 0.991):
        t = inside(path.knots, fraction)
        torch.testing.assert_close(path.slope(t), numeric_slope(path, t), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", [Linear, Hermite, Rectilinear])
def test_observations_are_passed_and_stages_agree_with_slopes(kind):
    times, values = irregular(3, 9, 2, 0.3)
    path = kind(times, values, counts=1.0)
    every = path.knot_values if kind is not Rectilinear else path.knot_values[:, ::2]
    seen = ~values.isnan()
    torch.testing.assert_close(every[..., 1:3][seen], values[seen])
    torch.testing.assert_close(every[..., 0], times)
    torch.testing.assert_close(every[..., 3:], seen.cumsum(1).double())
    moments, slopes = path.stages((0.25, 0.5), substeps=2)
    gap = path.knots.diff(dim=1)
    for step in range(slopes.shape[1]):
        torch.testing.assert_close(
            path.slope(moments[1, step]) * gap[:, step // 2, None] / 2, slopes[1, step]
        )


def test_at_a_knot_the_slope_is_that_on_the_right_and_at_the_end_that_on_the_left():
    times = torch.tensor([[0.0, 1.0, 3.0]], dtype=DOUBLE)
    path = Linear(times, torch.tensor([[[0.0], [2.0], [1.0]]], dtype=DOUBLE), time=False)
    slopes = [float(path.slope(torch.tensor([t], dtype=DOUBLE))) for t in (0.0, 1.0, 3.0, 3.1)]
    assert slopes == [2.0, -0.5, -0.5, 0.0]


def visible(path: Path, end: int, points: int = 40) -> Tensor:
    """Values at times up to knot number `end`."""
    grid = torch.linspace(0, 1, points, dtype=DOUBLE)[:, None]
    times = torch.lerp(path.knots[:, 0], path.knots[:, end], grid)
    return torch.stack([path.value(t) for t in times])


def test_the_future_does_not_change_the_past():
    times, values = irregular(4, 12, 2)
    values[:, 4, 0] = NAN
    changed = values.clone()
    changed[:, 7:] += 1.0
    # Rectilinear has seen no more than observation 6 up to knot 12 and on the way to knot 13.
    before, after = Rectilinear(times, values), Rectilinear(times, changed)
    assert torch.equal(visible(before, 13), visible(after, 13))
    assert not torch.equal(visible(before, 14), visible(after, 14))
    # Hermite looks ahead by one observation: it is fixed up to knot 6 and no further.
    before, after = Hermite(times, values), Hermite(times, changed)
    assert torch.equal(visible(before, 6), visible(after, 6))
    assert not torch.equal(visible(before, 7), visible(after, 7))


def test_rectilinear_moves_time_first_and_values_then():
    times = torch.tensor([[0.0, 2.0, 5.0]], dtype=DOUBLE)
    values = torch.tensor([[[1.0, NAN], [NAN, 4.0], [3.0, 6.0]]], dtype=DOUBLE)
    corners = Rectilinear(times, values).knot_values[0]
    # What has not been seen yet is zero: looking ahead for it would not be causal.
    expected = [[0, 1, 0], [2, 1, 0], [2, 1, 4], [5, 1, 4], [5, 3, 6]]
    assert corners.tolist() == expected


@pytest.mark.parametrize("kind", [Linear, Hermite])
def test_gaps_at_the_ends_hold_the_nearest_observation(kind):
    times = torch.arange(6, dtype=DOUBLE)[None]
    values = torch.tensor([NAN, NAN, 2.0, 3.0, NAN, NAN], dtype=DOUBLE)[None, :, None]
    nothing = torch.full_like(values, NAN)
    path = kind(times, torch.cat((values, nothing), 2), time=False)
    for t, expected in ((0.0, 2.0), (1.7, 2.0), (2.5, 2.5), (3.2, 3.0), (5.0, 3.0), (9.0, 3.0)):
        found = path.value(torch.tensor([t], dtype=DOUBLE))
        assert found.tolist() == [[pytest.approx(expected), 0.0]]
    for t in (0.5, 1.9, 3.1, 4.9, 7.0):
        assert path.slope(torch.tensor([t], dtype=DOUBLE)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", [Linear, Hermite, Rectilinear])
def test_after_its_length_a_sample_rests_in_all_channels(kind):
    times, values = irregular(3, 10, 2, 0.3)
    lengths = torch.tensor([10, 6, 1])
    short = kind(times[1:2, :6], values[1:2, :6], counts=2.0)
    # What lies after the length is not looked at, were it nonsense.
    times[1, 6:], values[1, 6:] = -7.0, 1e9
    times[2, 1:], values[2, 1:] = NAN, NAN
    path = kind(times, values, lengths, counts=2.0)
    values_there, (_, slopes) = path.knot_values, path.stages((0.0, 0.5, 1.0))
    real = short.knots.shape[1]
    torch.testing.assert_close(values_there[1, :real], short.knot_values[0])
    rest = values_there[1, real - 1 :]
    assert torch.equal(rest, rest[:1].expand_as(rest))
    assert not slopes[:, real - 1 :, 1].any() and not slopes[:, :, 2].any()
    assert slopes[:, : real - 1, 1].any() and not values_there.isnan().any()
    late = path.knots[:, -1] + 1
    assert not path.slope(late).any()
    torch.testing.assert_close(path.value(late), values_there[:, -1])


def test_knots_by_number_keep_the_path():
    times, values = irregular(3, 8, 2, 0.3)
    path = Hermite(times, values)
    numbered = path.by_knots()
    t = torch.lerp(times[:, 3], times[:, 4], 0.4)
    number = torch.full((3,), 3.4, dtype=DOUBLE)
    torch.testing.assert_close(numbered.value(number), path.value(t))
    gap = (times[:, 4] - times[:, 3])[:, None]
    torch.testing.assert_close(numbered.slope(number), path.slope(t) * gap)


def test_values_are_differentiable_by_the_data():
    times, values = irregular(2, 7, 2)
    values[0, 3, 1] = NAN
    seen = ~values.isnan()

    def value(data: Tensor) -> Tensor:
        whole = torch.full_like(values, NAN).masked_scatter(seen, data)
        path = Hermite(times, whole, counts=1.0)
        return torch.cat((path.value(inside(times, 0.6)), path.slope(inside(times, 0.3))))

    assert torch.autograd.gradcheck(value, values[seen].clone().requires_grad_())


def test_counts_tell_when_something_was_observed():
    times, values = irregular(2, 30, 1, 0.6)
    found = prepare(times, values, counts=10.0)
    assert found.values.shape == (2, 30, 3)
    torch.testing.assert_close(
        found.values[..., 2], (~values[..., 0].isnan()).cumsum(1).double() / 10
    )


def test_wrong_observations_are_refused():
    times, values = irregular(2, 6, 1)
    twice = times.clone()
    twice[1, 3] = twice[1, 2]
    with pytest.raises(DataError, match="sample 1.*sort the times"):
        Linear(twice, values)
    with pytest.raises(DataError, match="two times"):
        Hermite(times[:, :1], values[:, :1])
    with pytest.raises(DataError, match="infinite"):
        Hermite(times, values / 0.0)
    with pytest.raises(DataError, match="shapes"):
        Rectilinear(times[:, :3], values)
    with pytest.raises(ConfigurationError, match="unit"):
        Linear(times, values, counts=0.0)
