"""Brownian paths: the generator's published answers, laws, and the same path each time."""

from __future__ import annotations

import math

import pytest
import torch

from residua.errors import ConfigurationError
from residua.operators.neural_de.stochastic import brownian, native
from residua.operators.neural_de.stochastic.brownian import (
    AREA,
    Counted,
    Increments,
    Plain,
    normals,
    philox,
)
from residua.operators.neural_de.stochastic.interval import BrownianInterval, BrownianTree
from residua.operators.neural_de.stochastic.levy import Draw, bridge, joined, levy_area

DOUBLE = torch.float64
# Answers published with the generator (Random123, kat_vectors, philox4x32 with 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def _philox_in_integers(counter: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """The definition, in Python's own integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b % 2**32, (a >> 32) ^ c3 ^ k1, a % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "seed", "answer"), KNOWN)
def test_philox_gives_its_published_answers(counter, seed, answer):
    words = tuple(torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in philox(seed, words)) == answer


def test_a_number_is_made_as_documented():
    seed, step, sample, channel = 2**63 + 5, 4_000_003, 77, 2
    c = _philox_in_integers((step // 4, sample, channel, 0), seed)
    u = [(word + 0.5) / 2**32 for word in c]
    expected = math.sqrt(-2 * math.log(u[2])) * math.sin(2 * math.pi * u[3])
    found = normals(seed, step, 1, torch.tensor([sample]), 3)[0, 0, channel]
    assert step % 4 == 3 and abs(float(found) - expected) < 1e-13


def test_numbers_do_not_depend_on_order_block_or_companions():
    samples = torch.arange(6)
    block = normals(9, 3, 13, samples, 3)
    backwards = [normals(9, k, 1, samples, 3)[0] for k in reversed(range(3, 16))]
    assert torch.equal(block, torch.stack(backwards[::-1]))
    assert torch.equal(block[:, 4:5], normals(9, 3, 13, torch.tensor([4]), 3))
    assert torch.equal(block[..., :2], normals(9, 3, 13, samples, 2))
    assert not torch.equal(block, normals(10, 3, 13, samples, 3))
    assert not torch.equal(block, normals(9, 3, 13, samples, 3, AREA))


def test_compiled_numbers_are_those_of_torch(monkeypatch):
    arguments = (2**64 - 3, 5, 70, torch.tensor([0, 3, 2**32 - 1]).repeat(50), 3, 4)
    expected = brownian._by_torch(*arguments)
    if native.trusted(brownian._compared):
        found = native.fill(*arguments)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
        assert not torch.equal(native.fill(2**64 - 2, *arguments[1:]), found)
    numbers = torch.tensor([[7], [2**31 + 1]])
    made = brownian.couples(9, numbers, arguments[3], 3, 4)
    # Without a compiler torch's operations do the work.
    monkeypatch.setenv("RESIDUA_NATIVE", "0")
    assert not native.trusted(brownian._compared)
    assert torch.equal(normals(arguments[0], 20, 260, *arguments[3:]), expected)
    torch.testing.assert_close(brownian.couples(9, numbers, arguments[3], 3, 4), made)


def test_numbers_are_normal_and_independent():
    z = normals(1, 0, 64, torch.arange(500), 4)
    n = z.numel()
    # Moments within five standard errors.
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 5 * math.sqrt(spread / n)
    for first, second in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1])):
        assert abs(float((first * second).mean())) < 5 / math.sqrt(first.numel())
    ordered = z.flatten().sort().values
    uniform = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    gap = (uniform - (torch.arange(n, dtype=DOUBLE) + 0.5) / n).abs().max()
    assert float(gap) < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("source", [Counted(4), Plain(4)])
def test_increments_have_their_laws_and_are_the_same_backwards(source):
    lengths = torch.tensor([0.1, 0.4] * 40, dtype=DOUBLE)
    path = Increments(source, lengths, torch.zeros(300, 1, dtype=DOUBLE), 2, levy=True)
    forwards = [path.draw(k) for k in range(80)]
    backwards = [path.draw(k) for k in reversed(range(80))][::-1]
    assert all(torch.equal(a.w, b.w) for a, b in zip(forwards, backwards, strict=True))
    for offset, length in ((0, 0.1), (1, 0.4)):
        w = torch.stack([draw.w for draw in forwards[offset::2]])
        h = torch.stack([draw.h for draw in forwards[offset::2]])
        tolerance = 5 * math.sqrt(2 / w.numel())
        assert abs(float(w.var()) / length - 1) < tolerance
        assert abs(float(h.var()) / (length / 12) - 1) < tolerance
        assert abs(float((w * h).mean())) / length < tolerance


def test_a_coarse_grid_sees_the_path_of_a_fine_one():
    like = torch.zeros(3, 1, dtype=DOUBLE)
    fine = Increments(Counted(2), torch.full((12,), 0.25), like, 2, levy=True, area=True)
    coarse = Increments(Counted(2, parts=3), torch.full((4,), 0.75), like, 2, True, True)
    w = torch.stack([fine.draw(k).w for k in range(3, 6)])
    h = torch.stack([fine.draw(k).h for k in range(3, 6)])
    draw = coarse.draw(1)
    torch.testing.assert_close(draw.w, w.sum(0))
    integral = (0.25 * (w.cumsum(0) - w + w / 2 + h)).sum(0)
    torch.testing.assert_close(draw.h, integral / 0.75 - draw.w / 2)
    before = w.cumsum(0) - w
    ito = (before[..., :, None] * w[..., None, :]).sum(0)
    parts = sum(fine.draw(k).area for k in range(3, 6))
    torch.testing.assert_close(draw.area, 0.5 * (ito - ito.transpose(1, 2)) + parts)


@pytest.mark.parametrize("method", ["foster", "davie"])
def test_areas_have_the_moments_of_levy_areas(method):
    n, length = 40_000, 0.3
    z = torch.randn(4, n, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    w, h = z[0] * length**0.5, z[1] * (length / 12) ** 0.5
    normal = torch.stack((z[2], z[3]), dim=2)
    area = levy_area(w, h, length, normal, method)
    torch.testing.assert_close(area, -area.transpose(1, 2))
    assert abs(float(area[:, 0, 1].var()) / (length**2 / 4) - 1) < 0.04
    # Given the increments, the variance is h^2 / 12 + h (W_i^2 + W_j^2) / 12.
    square = (w**2).sum(1) / length
    large = square > 4
    expected = length**2 / 12 * (1 + square[large].mean())
    assert abs(float((area[large, 0, 1] ** 2).mean() / expected) - 1) < 0.1


def test_areas_of_foster_know_the_space_time_areas():
    """Against areas of fine paths, sorted by how large the space-time areas are."""
    n, parts = 4000, 64
    like = torch.zeros(n, 1, dtype=DOUBLE)
    path = Increments(Counted(3, parts), torch.ones(1), like, 2, area=True)
    draw = path.draw(0)
    rest = draw.area[:, 0, 1] - (draw.h[:, 0] * draw.w[:, 1] - draw.w[:, 0] * draw.h[:, 1])
    square = (draw.h**2).sum(1)
    large = square > 0.3
    foster = 1 / 20 + float(square[large].mean()) / 5
    found = float((rest[large] ** 2).mean())
    assert int(large.sum()) > 500
    assert abs(found / foster - 1) < 0.15
    # Davie's 1/12 does not look at them.
    assert abs(found * 12 - 1) > 0.3


@pytest.mark.parametrize("x", [0.0, 0.13, 0.5, 0.8, 1.0])
def test_a_bridge_gives_halves_with_the_right_covariances(x):
    n, length = 100_000, 0.7
    z = torch.randn(4, n, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    w, h = z[0] * length**0.5, z[1] * (length / 12) ** 0.5
    values = bridge(w, h, length, x, z[2], z[3])
    left, right = Draw(*values[:2]), Draw(*values[2:])
    whole = joined(left, right, x)
    torch.testing.assert_close(whole.w, w)
    torch.testing.assert_close(whole.h, h)
    found = torch.cov(torch.stack([value[:, 0] for value in values]))
    a, b = x * length, (1 - x) * length
    expected = torch.diag(torch.tensor([a, a / 12, b, b / 12], dtype=DOUBLE))
    assert float((found - expected).abs().max()) < 5 * math.sqrt(2 / n) * length


def test_an_interval_answers_the_same_again_and_consistently():
    path = BrownianInterval(-1.0, 2.0, 50, 3, seed=8, cache=8)
    questions = torch.rand(12, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    questions = (3 * questions - 1).sort(dim=1).values.tolist()
    first = [path(s, t) for s, t in questions]
    for (s, t), answer in reversed(list(zip(questions, first, strict=True))):
        again = path(s, t)
        assert torch.equal(again.w, answer.w) and torch.equal(again.h, answer.h)
        back = path(t, s)
        assert torch.equal(back.w, -answer.w) and torch.equal(back.h, answer.h)
        middle = 0.3 * s + 0.7 * t
        parts = joined(path(s, middle), path(middle, t), (middle - s) / (t - s))
        torch.testing.assert_close(parts.w, answer.w, rtol=0, atol=1e-14)
        torch.testing.assert_close(parts.h, answer.h, rtol=0, atol=1e-14)
    assert not torch.equal(path(0.0, 1.0).w, BrownianInterval(-1.0, 2.0, 50, 3, seed=9)(0.0, 1.0).w)


def test_many_questions_in_order_need_no_recursion():
    path = BrownianInterval(0.0, 1.0, 1, 1, seed=1, cache=8)
    times = torch.linspace(0, 1, 601, dtype=DOUBLE).tolist()
    forwards = [path(s, t).w for s, t in zip(times, times[1:], strict=False)]
    total = torch.stack(forwards).sum(0)
    torch.testing.assert_close(total, path(0.0, 1.0).w, rtol=0, atol=1e-12)
    assert torch.equal(path(times[0], times[1]).w, forwards[0])


@pytest.mark.parametrize("kind", ["interval", "tree"])
def test_paths_at_any_times_are_brownian(kind):
    n = 20_000
    times = [0.11, 0.37, 0.385, 0.9]
    if kind == "interval":
        path = BrownianInterval(0.0, 1.0, n, 1, seed=3)
        path(0.37, 0.9)
        draws = [path(s, t) for s, t in zip(times, times[1:], strict=False)]
    else:
        tree = BrownianTree(0.0, 1.0, n, 1, seed=3, depth=6)
        at = [torch.full((n,), t, dtype=DOUBLE) for t in times]
        draws = [tree(s, t) for s, t in zip(at, at[1:], strict=False)]
    lengths = torch.tensor(times, dtype=DOUBLE).diff()
    w = torch.cat([draw.w for draw in draws], dim=1).T / lengths.sqrt()[:, None]
    h = torch.cat([draw.h for draw in draws], dim=1).T / (lengths / 12).sqrt()[:, None]
    covariance = torch.cov(torch.cat((w, h)))
    assert float((covariance - torch.eye(6, dtype=DOUBLE)).abs().max()) < 5 * math.sqrt(2 / n)


def test_a_tree_gives_every_sample_its_own_time_and_no_companions():
    tree = BrownianTree(0.0, 2.0, 5, 2, seed=4)
    t = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.0], dtype=DOUBLE)
    w, area = tree.value(t)
    assert torch.equal(w[0], torch.zeros(2, dtype=DOUBLE))
    larger = BrownianTree(0.0, 2.0, 9, 2, seed=4)
    both = larger.value(torch.cat((t, t[:4])))
    assert torch.equal(both[0][:5], w) and torch.equal(both[1][:5], area)


def test_a_path_refuses_what_it_does_not_know():
    path = BrownianInterval(0.0, 1.0, 1, 1, seed=1)
    with pytest.raises(ConfigurationError, match=r"known from 0\.0 to 1\.0"):
        path(0.5, 1.5)
    with pytest.raises(ConfigurationError, match="positive length"):
        BrownianTree(1.0, 1.0, 1, 1, seed=1)
    with pytest.raises(ConfigurationError, match="64 bits"):
        Counted(-1)
