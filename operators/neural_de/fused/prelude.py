"""What the compiled code begins with: vectors of samples, and functions of them.

GCC and Clang know vectors as a type, with all arithmetic; comparisons give whole numbers of the
same width, -1 where true. Functions that the suite does not write out call the C library lane by
lane.
"""

from __future__ import annotations

import torch

__all__ = ["LANES", "prelude"]

BYTES = 32
"""Of a vector: what a processor of ten years ago takes at once."""
LANES = {torch.float32: BYTES // 4, torch.float64: BYTES // 8}
TYPES = {torch.float32: ("float", "int", "f"), torch.float64: ("double", "long long", "")}
CALLED = ("log", "log1p", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "erf", "sqrt")
NUMBERS = {
    torch.float32: "80.0f, 12582912.0f, 23, 0x3f800000, 0.693359375f, -2.12194440e-4f, 7",
    torch.float64: (
        "700.0, 6755399441055744.0, 52, 0x3ff0000000000000ll, 6.93147180369123816490e-01, "
        "1.90821492927058770002e-10, 13"
    ),
}

TEXT = """
#include <math.h>
#include <stdlib.h>
#include <string.h>
typedef {real} real;
typedef {whole} whole;
typedef real vec __attribute__((vector_size({bytes}), aligned({bytes})));
typedef whole mask __attribute__((vector_size({bytes}), aligned({bytes})));
typedef double dvec __attribute__((vector_size({lanes} * 8), aligned({lanes} * 8)));
typedef long long dmask __attribute__((vector_size({lanes} * 8), aligned({lanes} * 8)));
#define LANES {lanes}
#define SPLAT(s) ((vec){{0}} + (real)(s))
#define DSPLAT(s) ((dvec){{0}} + (double)(s))

static inline vec select_(mask m, vec a, vec b)
{{ return (vec)((m & (mask)a) | (~m & (mask)b)); }}
static inline dvec dselect(dmask m, dvec a, dvec b)
{{ return (dvec)((m & (dmask)a) | (~m & (dmask)b)); }}
static inline vec mask_(mask m) {{ return select_(m, SPLAT(1), SPLAT(0)); }}

/* e^x = 2^k e^r, |r| <= ln 2 / 2: adding MAGIC rounds to whole k and leaves it in the lowest bits,
   from where a shift makes it the exponent. */
static inline vec exponential_(vec x, real limit, real magic, int mantissa, whole one,
                               real high, real low, int terms)
{{
    const vec bound = SPLAT(limit);
    const mask over = x > bound;
    x = select_(over, bound, x);
    x = select_(x < -bound, -bound, x);
    const vec shifted = x * (real)1.4426950408889634 + magic;
    const vec k = shifted - magic;
    const vec r = (x - k * high) - k * low;
    const vec power = (vec)(((mask)shifted << mantissa) + one);
    vec sum = SPLAT(1);
    for (int m = terms; m > 0; m--) sum = SPLAT(1) + sum * r * ((real)1 / m);
    return select_(over, SPLAT(INFINITY), sum * power);
}}
static inline vec exponential(vec x) {{ return exponential_(x, {numbers}); }}
static inline vec hyperbolic(vec x)
{{
    const mask negative = x < SPLAT(0);
    const vec size = select_(negative, -x, x);
    const vec e = exponential(size * (real)-2);
    vec found = (SPLAT(1) - e) / (SPLAT(1) + e);
    /* Near zero the difference above loses digits: a series of odd powers instead. */
    const vec s = size * size;
    const vec series = size * (SPLAT(1) + s * ((real)(-1.0 / 3) + s * ((real)(2.0 / 15)
        + s * ((real)(-17.0 / 315) + s * ((real)(62.0 / 2835) + s * ((real)(-1382.0 / 155925)
        + s * ((real)(21844.0 / 6081075) + s * (real)(-929569.0 / 638512875))))))));
    found = select_(size < SPLAT(0.08), series, found);
    return select_(negative, -found, found);
}}
static inline vec lanes_pow(vec x, vec y)
{{ vec r; for (int l = 0; l < LANES; l++) r[l] = pow{suffix}(x[l], y[l]); return r; }}
"""
ONE = """static inline vec lanes_{name}(vec x)
{{ vec r; for (int l = 0; l < LANES; l++) r[l] = {name}{suffix}(x[l]); return r; }}
"""


def prelude(dtype: torch.dtype) -> str:
    """The text for a dtype."""
    real, whole, suffix = TYPES[dtype]
    text = TEXT.format(
        real=real, whole=whole, bytes=BYTES, lanes=LANES[dtype], suffix=suffix,
        numbers=NUMBERS[dtype],
    )  # fmt: skip
    return text + "".join(ONE.format(name=name, suffix=suffix) for name in CALLED)
