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
   Levy areas H, stream 2 for the start of a model, stream 3 for the Levy areas between channels.
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

The integers are exact. Logarithms, sines and cosines of two libraries may differ in the last bit,
so increments agree to about 1e-15.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....errors import ConfigurationError

__all__ = [
    "AREA",
    "INCREMENT",
    "LEVY",
    "START",
    "normals",
    "philox",
]

# Streams: what a number is drawn for, the last word of the counter.
INCREMENT, LEVY, START, AREA = range(4)

_WORD = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


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
    if not 0 <= seed < 1 << 64:
        raise ConfigurationError(
            "A seed is a whole number of 64 bits.", found=seed, advice="write 0 to 2^64 - 1"
        )
    device = samples.device
    low, high = first >> 2, (first + count + 3) >> 2
    blocks = torch.arange(low, high, device=device)[:, None, None]
    sample = samples.to(torch.int64)[None, :, None]
    channel = torch.arange(channels, device=device)[None, None]
    last = torch.full((1, 1, 1), stream, dtype=torch.int64, device=device)
    w0, w1, w2, w3 = philox(seed, (blocks, sample, channel, last))
    radius = torch.stack((w0, w2), dim=1).double().add_(0.5).mul_(2.0**-32)
    radius = radius.log_().mul_(-2.0).sqrt_()
    angle = torch.stack((w1, w3), dim=1).double().add_(0.5).mul_(2.0**-31 * math.pi)
    pairs = torch.stack((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=2)
    steps = pairs.flatten(0, 2)
    return steps[first - 4 * low :][:count]
