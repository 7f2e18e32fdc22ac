"""Both loops of a composition as C, for bundles on a processor.

In torch's own operations a composition and its adjoint are some twenty passes over memory; written
out as C they are one each, and the compiler vectorises them. The source is made from the same
tables of monomials as the operations in `residua.engine.kernels`, compiled with the machine's C
compiler on first use (a fraction of a second for each algebra and precision; nothing is kept on
disk) and compared with them before it is trusted. Where there is no compiler, or the comparison
fails, torch's operations do the work and `record` is told.

A matrix of per-point outer products, the Jacobian of a dense layer, is compiled in the same way.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import record
from .formulas import Formula, composed, pulled

if TYPE_CHECKING:
    from ..kernels import Composition

__all__ = ["PROBE", "NativeLoops", "build", "compile_composition", "compile_outer", "suits"]

C_TYPES = {torch.float32: "float", torch.float64: "double"}
WORTHWHILE = 8192
"""Elements of a bundle from which on a compiled loop is used; below, calls cost most anyway."""
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
PARALLEL = 16384
"""Elements of a channel from which on threads share a loop."""
PROBE = (61, 2 + PARALLEL // 61)
"""Points and width of a bundle on which loops are compared: more than a loop that threads share
begins with, and no multiple of any vector."""
PATIENCE = 60.0
"""Seconds a compiler may take; one that takes longer is not asked again."""


EXPONENTIAL = """
static inline real exponential(real x)
{
    /* x = k ln 2 + r with |r| <= ln 2 / 2: adding MAGIC rounds to whole k and leaves it in the
       lowest bits, from where a shift makes it the exponent of 2^k. NaN stays NaN. */
    x = x > LIMIT ? LIMIT : x;
    x = x < -LIMIT ? -LIMIT : x;
    union { real number; bits pattern; } shifted = { x * (real)1.4426950408889634 + MAGIC }, power;
    const real k = shifted.number - MAGIC;
    const real r = (x - k * LN2_HIGH) - k * LN2_LOW;
    power.pattern = (shifted.pattern << MANTISSA) + ONE;
    real sum = 1;
    for (int m = TERMS; m > 0; m--) sum = 1 + sum * r * ((real)1 / m);
    return sum * power.number;
}
"""
PRELUDES = {
    "float": """
typedef float real; typedef unsigned int bits;
#define LIMIT 80.0f
#define MAGIC 12582912.0f
#define MANTISSA 23
#define ONE 0x3f800000u
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
#define TERMS 7
"""
    + EXPONENTIAL,
    "double": """
typedef double real; typedef unsigned long long bits;
#define LIMIT 700.0
#define MAGIC 6755399441055744.0
#define MANTISSA 52
#define ONE 0x3ff0000000000000ull
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define TERMS 13
"""
    + EXPONENTIAL,
}

_GIVEN_UP = "the compiler took too long"


def suits(bundle: Tensor) -> bool:
    """Whether a bundle is of a kind and size that compiled loops are for, and they are allowed."""
    fits = bundle.device.type == "cpu" and bundle.dtype in C_TYPES
    return fits and bundle.numel() >= WORTHWHILE and not record.forbidden()


class NativeLoops:
    """See `loops.Loops`.

    Args:
        library: compiled from `composition_source`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._compose = library.compose
        self._pull = library.pull
        for function, pointers in ((self._compose, 3), (self._pull, 5)):
            function.argtypes = [ctypes.c_long, ctypes.c_int, *[ctypes.c_void_p] * pointers]
            function.restype = None

    def compose(self, z: Tensor, out: Tensor, factors: Sequence[Tensor]) -> None:
        """See `loops.Loops`."""
        self._compose(
            z[0].numel(),
            torch.get_num_threads(),
            z.data_ptr(),
            out.data_ptr(),
            _addresses(factors),
        )

    def pull(
        self, z: Tensor, value: Tensor, adjoint: Tensor, result: Tensor, factors: Sequence[Tensor]
    ) -> None:
        """See `loops.Loops`."""
        self._pull(
            value.numel(),
            torch.get_num_threads(),
            z.data_ptr(),
            value.data_ptr(),
            adjoint.data_ptr(),
            result.data_ptr(),
            _addresses(factors),
        )


def _addresses(arrays: Sequence[Tensor]) -> ctypes.Array | None:
    if not arrays:
        return None
    return (ctypes.c_void_p * len(arrays))(*[array.data_ptr() for array in arrays])


def compile_composition(
    plan: Composition, dtype: torch.dtype, formula: Formula | None
) -> NativeLoops | None:
    """Loops for a composition; None where nothing can be compiled.

    Args:
        plan: the algebra's composition table.
        dtype: float32 or float64.
        formula: the scalar function; None where its values and derivatives come as arrays.
    """
    library = build(composition_source(plan, C_TYPES[dtype], formula))
    return None if library is None else NativeLoops(library)


def composition_source(plan: Composition, real: str, formula: Formula | None) -> str:
    """C source of both loops: ``out_k = s_1 z_k + sum_m s_m P_km``, and its adjoint."""
    channels = range(1, plan.channels)

    def scalars(highest: int) -> list[str]:
        if formula is None:
            return [f"const real s{m} = f{m}[i];" for m in range(1, highest + 1)]
        return [f"const real s{m} = {formula.factors[m - 1]};" for m in range(1, highest + 1)]

    def pointers(highest: int) -> list[str]:
        if formula is not None:
            return []
        return [f"const real *restrict f{m} = f[{m - 1}];" for m in range(1, highest + 1)]

    forward = [f"const real z{k} = z[{k} * n + i];" for k in channels]
    if formula is not None:
        forward += [f"const real z0 = z[i], s = {formula.value};", "out[i] = s;"]
    forward += scalars(plan.order)
    forward += [f"out[{k} * n + i] = {expression};" for k, expression in composed(plan)]

    backward = [f"const real z{k} = z[{k} * n + i];" for k in channels]
    backward += [f"const real a{k} = a[{k} * n + i];" for k in range(plan.channels)]
    backward += scalars(plan.order + 1)
    backward += [f"r[{j} * n + i] = {expression};" for j, expression in pulled(plan)]

    return "\n".join(
        [
            PRELUDES[real],
            "void compose(long n, int threads, const real *restrict z, real *restrict out,",
            "             const real *const *f)",
            *_loop(pointers(plan.order), forward),
            "void pull(long n, int threads, const real *restrict z, const real *restrict value,",
            "          const real *restrict a, real *restrict r, const real *const *f)",
            *_loop(pointers(plan.order + 1), ["const real s = value[i];", *backward]),
        ]
    )


def _loop(before: Sequence[str], body: Sequence[str]) -> list[str]:
    return [
        "{",
        *before,
        f"#pragma omp parallel for simd if(parallel: n > {PARALLEL}) num_threads(threads)",
        "for (long i = 0; i < n; i++) {",
        *body,
        "}",
        "}",
    ]


@lru_cache(maxsize=256)
def compile_outer(
    channels: int, outputs: int, inputs: int, dtype: torch.dtype
) -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """Loop that writes, for every point, the sum over channels of outer products.

    Args:
        channels: summed over.
        outputs: width of the left factor.
        inputs: width of the right factor.
        dtype: float32 or float64.

    Returns:
        ``(left, right, target)`` of shapes (channels, points, outputs), (channels, points, inputs)
        and (points, outputs * inputs); the first two contiguous, `target` with unit stride along
        its rows. None where nothing can be compiled.
    """
    total = " + ".join(f"l{c} * r[{c} * n * {inputs} + i]" for c in range(channels))
    library = build(
        "\n".join(
            [
                f"typedef {C_TYPES[dtype]} real;",
                "void outer(long n, int threads, const real *restrict left,",
                "           const real *restrict right,",
                "           real *restrict target, long stride)",
                "{",
                "#pragma omp parallel for if(n > 64) num_threads(threads)",
                "for (long p = 0; p < n; p++) {",
                f"const real *restrict r = right + p * {inputs};",
                f"for (long o = 0; o < {outputs}; o++) {{",
                f"real *restrict t = target + p * stride + o * {inputs};",
                *(
                    f"const real l{c} = left[{c} * n * {outputs} + p * {outputs} + o];"
                    for c in range(channels)
                ),
                "#pragma omp simd",
                f"for (long i = 0; i < {inputs}; i++) t[i] = {total};",
                "}",
                "}",
                "}",
            ]
        )
    )
    if library is None:
        return None
    function = library.outer
    function.argtypes = [ctypes.c_long, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_long]
    function.restype = None

    def outer(left: Tensor, right: Tensor, target: Tensor) -> None:
        function(
            left.shape[1],
            torch.get_num_threads(),
            left.data_ptr(),
            right.data_ptr(),
            target.data_ptr(),
            target.stride(0),
        )

    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(
            (channels, 70, width), generator=generator, dtype=torch.float64, device="cpu"
        ).to(dtype)
        for width in (outputs, inputs)
    )
    found = left.new_zeros(70, outputs * inputs)
    outer(left, right, found)
    expected = torch.bmm(left.permute(1, 2, 0), right.permute(1, 0, 2)).flatten(1)
    allowed = 1e3 * torch.finfo(dtype).eps * expected.abs().amax()
    if not bool((found - expected).abs().amax() <= allowed):  # NaN too
        record.distrust("the Jacobian of a layer")
        return None
    return outer


@lru_cache(maxsize=1)
def _compiler() -> tuple[str, ...] | None:
    """The command, with the arguments that CC may give it."""
    if os.name == "nt":
        record.tell("no C compiler is looked for on Windows", aloud=False)
        return None
    named = shlex.split(os.environ.get("CC", ""))
    if named and shutil.which(named[0]) is None:
        record.tell(f"CC is '{named[0]}', which is no command")
        return None
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return tuple(command)
    record.tell("no C compiler was found", aloud=False)
    return None


def build(source: str) -> ctypes.CDLL | None:
    """The loaded library; its files are gone when this returns."""
    compiler = _compiler()
    if compiler is None or record.told(_GIVEN_UP):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="residua-native-") as folder:
            library = _compiled(compiler, source, Path(folder))
    except subprocess.TimeoutExpired:
        record.tell(_GIVEN_UP)
        return None
    except OSError as error:  # no room, no permission, or a folder from which nothing is loaded
        record.tell(f"nothing can be compiled: {error}")
        return None
    if library is not None:
        record.built(f"loops compiled by {Path(compiler[0]).name}")
    return library


def _compiled(compiler: Sequence[str], source: str, folder: Path) -> ctypes.CDLL | None:
    path, target = folder / "loops.c", folder / "loops.so"
    path.write_text(source, "utf-8")
    command = [*compiler, *FLAGS, "-shared", "-fPIC", str(path), "-o", str(target)]
    # torch's own OpenMP library is loaded already and is found by its name; where the compiler has
    # no OpenMP, one thread does the work.
    errors = ""
    for flags in (["-fopenmp"], ["-fopenmp-simd"], []):
        done = subprocess.run(
            [*command, *flags],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode == 0:
            return ctypes.CDLL(str(target))
        errors = done.stderr.strip()
    last = errors.splitlines()[-1] if errors else "it said nothing"
    record.tell(f"{compiler[0]} failed: {last}")
    return None
