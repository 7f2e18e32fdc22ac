"""The normal numbers of `brownian` in compiled code, for processors.

In torch's operations a number takes some thirty passes over memory; in C they are made where they
are needed. The functions of `SOURCE` can be taken into other loops as they are. The library is
compiled on first use and compared with torch before it is trusted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ....engine.fused import record
from ....engine.fused.native import build

__all__ = ["SOURCE", "fill", "fill_at", "trusted"]

SOURCE = """
#include <math.h>
typedef unsigned int word;
typedef unsigned long long pattern;
typedef union { double number; pattern bits; } both;
#define TILE 64

/* Philox4x32-10 of TILE counters whose last words agree. */
static inline void philox_tile(
    const word *first, const word *sample, const word *channel, word stream, pattern seed,
    word out[4][TILE])
{
    for (int j = 0; j < TILE; j++) {
        word c0 = first[j], c1 = sample[j], c2 = channel[j], c3 = stream;
        word k0 = (word)seed, k1 = (word)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            const pattern a = (pattern)0xD2511F53u * c0, b = (pattern)0xCD9E8D57u * c2;
            c0 = (word)(b >> 32) ^ c1 ^ k0;
            c1 = (word)b;
            c2 = (word)(a >> 32) ^ c3 ^ k1;
            c3 = (word)a;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        out[0][j] = c0; out[1][j] = c1; out[2][j] = c2; out[3][j] = c3;
    }
}

/* (w + 1/2) / 2^32, exact: the bits of 2^52 + w are those of 2^52 with w put in. */
static inline double uniform(word w)
{
    const both x = { .bits = 0x4330000000000000ull | w };
    return (x.number - 4503599627370495.5) * 0x1p-32;
}

/* ln u of a normal positive number: u = 2^e m with m in [sqrt(1/2), sqrt(2)), and with
   f = (m - 1) / (m + 1), ln m = 2 (f + f^3 / 3 + f^5 / 5 + ...). */
static inline double logarithm(double u)
{
    both x = { .number = u };
    const pattern moved = x.bits + (0x3ff0000000000000ull - 0x3fe6a09e667f3bcdull);
    const both e = { .bits = 0x4330000000000000ull | (moved >> 52) };
    x.bits = (moved & 0x000fffffffffffffull) + 0x3fe6a09e667f3bcdull;
    const double f = (x.number - 1) / (x.number + 1), s = f * f;
    double sum = 1.0 / 23;
    for (int k = 21; k > 0; k -= 2) sum = sum * s + 1.0 / k;
    return (e.number - (4503599627370496.0 + 1023)) * 0.69314718055994530942 + 2 * f * sum;
}

/* Two normal numbers from two uniform ones. 4 v = q + rest with whole q, and sine and cosine of
   2 pi v are those of pi / 2 rest, up to their order and signs. */
static inline void box_muller(double u, double v, double *first, double *second)
{
    const double radius = sqrt(-2 * logarithm(u));
    const both q = { .number = 4 * v + 6755399441055744.0 };
    const double x = (4 * v - (q.number - 6755399441055744.0)) * 1.57079632679489661923;
    const double s = x * x;
    double sine = 1, cosine = 1;
    for (int k = 16; k > 1; k -= 2) sine = 1 - sine * s * (1.0 / (k * (k + 1)));
    for (int k = 17; k > 0; k -= 2) cosine = 1 - cosine * s * (1.0 / (k * (k + 1)));
    sine *= x;
    both a = { .number = q.bits & 1 ? sine : cosine }, b = { .number = q.bits & 1 ? cosine : sine };
    a.bits ^= ((q.bits + 1) & 2) << 62;
    b.bits ^= (q.bits & 2) << 62;
    *first = radius * a.number;
    *second = radius * b.number;
}

/* Four rows of TILE normal numbers, one column a counter. */
static inline void normal_tile(
    const word *first, const word *sample, const word *channel, word stream, pattern seed,
    double z[4][TILE])
{
    word words[4][TILE];
    philox_tile(first, sample, channel, stream, seed, words);
    for (int half = 0; half < 4; half += 2)
        for (int i = 0; i < TILE; i++)
            box_muller(
                uniform(words[half][i]), uniform(words[half + 1][i]), &z[half][i], &z[half + 1][i]);
}

/* Normal numbers of four steps a block, rows of n, for n pairs of sample and channel; the first
   words of counters are first + block, or given one by one for a single block. */
void fill(
    long blocks, long first, const word *firsts, long n, const word *sample, const word *channel,
    word stream, pattern seed, double *out)
{
    for (long block = 0; block < blocks; block++)
        for (long j = 0; j < n; j += TILE) {
            word same[TILE];
            double z[4][TILE];
            for (int i = 0; i < TILE; i++) same[i] = firsts ? firsts[j + i] : (word)(first + block);
            normal_tile(same, sample + j, channel + j, stream, seed, z);
            const long rest = n - j < TILE ? n - j : TILE;
            for (int step = 0; step < 4; step++)
                for (long i = 0; i < rest; i++) out[(4 * block + step) * n + j + i] = z[step][i];
        }
}
"""

_TILE = 64


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    library = build(SOURCE)
    if library is not None:
        long, word, pointer = ctypes.c_long, ctypes.c_uint32, ctypes.c_void_p
        library.fill.argtypes = [
            long, long, pointer, long, pointer, pointer, word, ctypes.c_uint64, pointer
        ]  # fmt: skip
        library.fill.restype = None
    return library


_trust: list[bool] = []


def trusted(reference: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    """Whether compiled numbers are to be had; asked once.

    Args:
        reference: gives numbers by torch's operations and by `fill`, to be compared.
    """
    if record.forbidden():
        return False
    if not _trust:
        found = _library() is not None
        if found:
            expected, made = reference()
            found = bool((expected - made).abs().max() < 1e-12)
            if not found:
                record.distrust("normal numbers")
        _trust.append(found)
    return _trust[0]


def fill(seed: int, low: int, high: int, samples: Tensor, channels: int, stream: int) -> Tensor:
    """Normal numbers of the steps 4 low to 4 high - 1, as by torch's operations.

    Returns:
        shape (4 (high - low), batch, channels), float64.
    """
    sample = samples.to(torch.int64).repeat_interleave(channels)
    channel = torch.arange(channels).repeat(len(samples))
    found = torch.empty(4 * (high - low), len(samples), channels, dtype=torch.float64)
    _call(seed, high - low, low, None, sample, channel, stream, found)
    return found


def fill_at(seed: int, numbers: Tensor, sample: Tensor, channel: Tensor, stream: int) -> Tensor:
    """The four normal numbers of each counter; words of counters broadcast.

    Returns:
        shape (4, ...), float64.
    """
    words = torch.broadcast_tensors(numbers, sample, channel)
    found = torch.empty(4, *words[0].shape, dtype=torch.float64)
    first, sample, channel = (word.flatten() for word in words)
    _call(seed, 1, 0, first, sample, channel, stream, found)
    return found


def _call(
    seed: int,
    blocks: int,
    low: int,
    first: Tensor | None,
    sample: Tensor,
    channel: Tensor,
    stream: int,
    found: Tensor,
) -> None:
    library = _library()
    assert library is not None
    count = len(sample)
    words = [_words(x) for x in (sample, channel)]
    firsts = None if first is None else _words(first)
    library.fill(
        blocks,
        low,
        None if firsts is None else firsts.data_ptr(),
        count,
        *(x.data_ptr() for x in words),
        stream,
        seed,
        found.data_ptr(),
    )


def _words(values: Tensor) -> Tensor:
    """Words of 32 bits, padded to whole tiles: those without a sign have the bits of those with."""
    return F.pad(values, (0, -len(values) % _TILE)).to(torch.int32)
