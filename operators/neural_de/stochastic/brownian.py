"""Brownian increments on a grid, each found from its index alone.

Increment k of a grid depends on the seed, on k, on the sample and on the channel, and on nothing
else: not on the increments drawn before, not on the samples beside it, not on the device. So a
path costs no memory, is the same when it is run through backwards, and a run in compiled code can
draw the same one. The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random
numbers: as easy as 1, 2, 3", SC 2011), which enciphers a counter.

How a number is made, so that other code can make the same one:

1. Key: ``k0 = seed mod 2^32``, ``k1 = seed / 2^32`` (seed is unsigned, of 64 bits).
2. Counter: ``(c0, c1, c2, c3) = (step / 4, sample, channel, stream)``, unsigned, of 32 bits each;
   ``step / 4`` is rounded down. Stream 0 is for the increments W, stream 1 for the space-time
   Levy areas H, stream 2 for the start of a model, stream 3 for the Levy areas between channels
   (channel ``i n + j`` for the pair i < j of n), stream 4 for `BrownianInterval` and
   `BrownianTree`.
3. Ten rounds, each ``(c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1,
   lo(M0 c0))`` with hi and lo the halves of the product of 64 bits, followed by
   ``k0 += W0, k1 += W1`` modulo 2^32. ``M0 = 0xD2511F53``, ``M1 = 0xCD9E8D57``,
   ``W0 = 0x9E3779B9``, ``W1 = 0xBB67AE85``.
4. Uniform numbers: ``u_i = (c_i + 0.5) * 2^-32`` in float64, exact, inside (0, 1).
5. Normal numbers (Box and Muller), in float64:
   ``r = sqrt(-2 ln u0)``, ``z0 = r cos(2 pi u1)``, ``z1 = r sin(2 pi u1)``, and the same of u2 and
   u3 for z2 and z3. Step ``4 q + i`` takes z_i: four steps share one counter.
6. ``dW = sqrt(|h|) z`` and ``H = sqrt(|h| / 12) z``, in float64, then rounded to the dtype of the
   state.

The integers are exact. Logarithms, sines and cosines of two libraries may differ in the last bits,
so increments agree to about 1e-15. On a processor with a C compiler `native` makes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ....errors import ConfigurationError
from . import native
from .levy import Draw, levy_area, merged

__all__ = [
    "AREA",
    "INCREMENT",
    "LEVY",
    "START",
    "TREE",
    "Counted",
    "Increments",
    "Noise",
    "Plain",
    "couples",
    "normals",
    "pair",
    "philox",
]

# Streams: what a number is drawn for, the last word of the counter.
INCREMENT, LEVY, START, AREA, TREE = range(5)

_WORD = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_BLOCK = 1 << 16
"""Normal numbers drawn at once: enough that the calls of torch cost little, few enough to stay in
cache."""


def philox(
    seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of counters.

    Args:
        seed: from 0 to 2^64 - 1.
        counter: four words, int64 with values below 2^32, of shapes that broadcast.

    Returns:
        four words, int64 with values below 2^32.
    """
    k0, k1 = seed & _WORD, seed >> 32
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        # The product of 64 bits wraps into the sign; the mask after the shift brings it back.
        first, second = c0 * _M0, c2 * _M1
        c0 = (second >> 32 & _WORD) ^ (c1 ^ k0)
        c2 = (first >> 32 & _WORD) ^ (c3 ^ k1)
        c1, c3 = second & _WORD, first & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


def normals(
    seed: int, first: int, count: int, samples: Tensor, channels: int, stream: int = INCREMENT
) -> Tensor:
    """Standard normal numbers of steps first to first + count - 1.

    Args:
        seed: from 0 to 2^64 - 1.
        first: index of the first step, from 0.
        count: how many steps.
        samples: shape (batch,), int64, numbers of the samples, from 0 to 2^32 - 1.
        channels: how many Brownian motions a sample has.
        stream: what they are for.

    Returns:
        shape (count, batch, channels), float64, on the device of samples.

    Raises:
        ConfigurationError: the seed is not a number of 64 bits.
    """
    _check_seed(seed)
    low, high = first >> 2, (first + count + 3) >> 2
    if samples.device.type == "cpu" and native.trusted(_compared):
        steps = native.fill(seed, low, high, samples, channels, stream)
    else:
        steps = _by_torch(seed, low, high, samples, channels, stream)
    return steps[first - 4 * low :][:count]


def _by_torch(
    seed: int, low: int, high: int, samples: Tensor, channels: int, stream: int
) -> Tensor:
    """Numbers of steps 4 low to 4 high - 1 by torch's operations."""
    device = samples.device
    blocks = torch.arange(low, high, device=device)[:, None, None]
    sample = samples.to(torch.int64)[None, :, None]
    channel = torch.arange(channels, device=device)[None, None]
    last = torch.full((1, 1, 1), stream, dtype=torch.int64, device=device)
    w0, w1, w2, w3 = philox(seed, (blocks, sample, channel, last))
    pairs = pair(torch.stack((w0, w2), dim=1), torch.stack((w1, w3), dim=1))
    return torch.stack(pairs, dim=2).flatten(0, 2)


def _compared() -> tuple[Tensor, Tensor]:
    """Numbers both ways, of more than one tile and with words that use all bits."""
    arguments = (0xFEDCBA9876543210, 2**30 - 3, 2**30 + 3, torch.arange(67) + 2**32 - 70, 3, 1)
    return _by_torch(*arguments), native.fill(*arguments)


def pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers, float64, from two words of Philox (Box and Muller)."""
    radius = first.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = second.double().add_(0.5).mul_(2.0**-31 * math.pi)
    return angle.cos().mul_(radius), angle.sin_().mul_(radius)


def couples(
    key: int, number: Tensor | int, samples: Tensor, channels: int, stream: int
) -> tuple[Tensor, Tensor]:
    """Two normal numbers for each number, sample and channel; two channels share a counter.

    Args:
        key: from 0 to 2^64 - 1.
        number: first word of the counter; of shape (...,) or (..., batch).
        samples: shape (batch,).
        channels: how many.
        stream: last word of the counter.

    Returns:
        two of shape (..., batch, channels), float64.
    """
    number = torch.as_tensor(number, device=samples.device)[..., None]
    shared = torch.arange((channels + 1) // 2, device=samples.device)
    if samples.device.type == "cpu" and native.trusted(_compared):
        z = native.fill_at(key, number, samples[:, None], shared, stream)
        first, second = z[0::2], z[1::2]
    else:
        last = torch.full((1,), stream, dtype=torch.int64, device=samples.device)
        words = torch.stack(philox(key, (number, samples[:, None], shared, last)))
        first, second = pair(words[0::2], words[1::2])
    return (
        first.movedim(0, -1).flatten(-2)[..., :channels],
        second.movedim(0, -1).flatten(-2)[..., :channels],
    )


@dataclass(frozen=True)
class Counted:
    """Normal numbers by counter: what ``noise=seed`` means.

    Args:
        seed: from 0 to 2^64 - 1.
        parts: each step is made of this many steps of the grid that is as many times as fine, so
            that solutions with different steps see the same path.
        samples: shape (batch,), numbers of the samples; None counts the rows.
    """

    seed: int
    parts: int = 1
    samples: Tensor | None = None

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if self.parts < 1:
            raise ConfigurationError("A step has at least one part.", found=self.parts)

    def numbers(
        self, first: int, count: int, like: Tensor, channels: int, stream: int, align: int
    ) -> Tensor:
        """Standard normal numbers, shape (count, batch, channels), float64; `like` has a batch."""
        samples = self.samples
        if samples is None:
            samples = torch.arange(len(like), device=like.device)
        return normals(self.seed, first, count, samples.to(like.device), channels, stream)


@dataclass(frozen=True)
class Plain:
    """Normal numbers of torch's own generator: faster than `Counted` without compiled code.

    They depend on the whole batch and on the device; a path can still be run through backwards.

    Args:
        seed: of the generator.
        parts: see `Counted`.
    """

    seed: int
    parts: int = 1

    def numbers(
        self, first: int, count: int, like: Tensor, channels: int, stream: int, align: int
    ) -> Tensor:
        """Standard normal numbers, shape (count, batch, channels), in the dtype of `like`."""
        generator = torch.Generator(like.device)
        # Blocks have seeds of their own, so that they can be drawn in any order.
        generator.manual_seed(
            (self.seed * 0x9E3779B97F4A7C15 + first // align * 8 + stream) % 2**63
        )
        return torch.randn(
            (count, len(like), channels),
            generator=generator,
            dtype=like.dtype,
            device=like.device,
        )


class Noise(Protocol):
    """A Brownian path as the loop of an integration sees it."""

    def draw(self, k: int, s: float, t: float) -> Draw:
        """The path over step k of the grid, from s to t."""
        ...


class Increments:
    """The path over the steps of a grid that is known beforehand.

    Steps are drawn in blocks, of which one is kept: running through them in either direction draws
    each once.

    Args:
        source: where normal numbers come from.
        lengths: shape (steps,), float64, of the steps; signs do not matter.
        like: shape (batch, d), gives batch, dtype and device.
        channels: Brownian motions of a sample.
        levy: whether space-time Levy areas are wanted.
        area: whether Levy areas between channels are wanted.
    """

    def __init__(
        self,
        source: Counted | Plain,
        lengths: Tensor,
        like: Tensor,
        channels: int,
        levy: bool = False,
        area: bool = False,
    ) -> None:
        self._source = source
        self._lengths = lengths.abs().to("cpu", torch.float64)
        self._like = like.detach()
        self._channels = channels
        self._levy, self._area = levy, area
        each = max(len(like) * channels * source.parts, 1)
        self._size = 4 * min(max(_BLOCK // (4 * each), 1), 64)
        self._held = -1
        self._draws: list[Draw] = []

    def draw(self, k: int, s: float = 0.0, t: float = 0.0) -> Draw:
        """See `Noise`; the times are not looked at."""
        block, place = divmod(k, self._size)
        if block != self._held:
            self._draws = self._block(block)
            self._held = block
        return self._draws[place]

    @property
    def size(self) -> int:
        """Steps of a block."""
        return self._size

    def increments(self, block: int) -> Tensor:
        """Increments over the steps of a block, shape (steps, batch, channels)."""
        return self._whole(block).w.to(self._like.dtype).contiguous()

    def _whole(self, block: int) -> Draw:
        """What is known of the steps of a block, side by side."""
        first = block * self._size
        lengths = self._lengths[first : first + self._size].to(self._like.device)
        fine = (lengths / self._source.parts).repeat_interleave(self._source.parts)[:, None, None]
        w = self._normal(first, len(lengths), INCREMENT).mul(fine.sqrt())
        h = area = None
        if self._levy or self._area:
            h = self._normal(first, len(lengths), LEVY).mul((fine / 12).sqrt())
        if self._area:
            n = self._channels
            normal = self._normal(first, len(lengths), AREA, n * n).unflatten(-1, (n, n))
            assert h is not None
            area = levy_area(w, h, fine, normal)
        return merged(Draw(w, h, area), self._source.parts)

    def _block(self, block: int) -> list[Draw]:
        whole = self._whole(block)
        steps = [
            None if value is None else value.to(self._like.dtype).unbind(0)
            for value in (whole.w, whole.h, whole.area)
        ]
        return [
            Draw(*(None if value is None else value[i] for value in steps))  # type: ignore[arg-type]
            for i in range(len(whole.w))
        ]

    def _normal(self, first: int, count: int, stream: int, channels: int | None = None) -> Tensor:
        parts = self._source.parts
        channels = channels or self._channels
        return self._source.numbers(
            first * parts, count * parts, self._like, channels, stream, self._size * parts
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ConfigurationError(
            "A seed is a whole number of 64 bits.", found=seed, advice="write 0 to 2^64 - 1"
        )
