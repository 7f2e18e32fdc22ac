"""Both loops of a composition as Triton kernels, for bundles on a GPU.

A bundle is read once and written once, however many products its algebra has; torch's operations
take some twenty passes and as many launches. The source comes from the same expressions as the C
loops (`formulas`) and keeps to what every Triton 3 has: loads, stores, arithmetic, ``exp``.

Triton comes with torch's builds for CUDA; it is no dependency. Without it, or where it fails,
torch's operations do the work and `record` is told.

Never run on a GPU: the kernels have been compared with torch's operations on a processor, through
Triton's interpreter (``TRITON_INTERPRET=1``), which is also how the tests run them. Without a GPU
Triton 3.6 and 3.9 compile them for compute capability 9.0, with no register spilt in up to 25
channels of order 4. Before they are used they are launched once, where failure is caught, and then
compared with torch's operations on that GPU.
"""

from __future__ import annotations

import itertools
import linecache
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import record
from .formulas import Formula, composed, pulled

if TYPE_CHECKING:
    from ..kernels import Composition

__all__ = ["PROBES", "TritonLoops", "compile_composition", "source", "suits", "variant"]

DTYPES = (torch.float32, torch.float64)
BLOCK, SMALL_BLOCK = 256, 128
"""Elements of a channel for one program: two or one for each thread of four warps."""
FEW = 12
"""Channels up to which a thread holds two elements of all of them, and of their adjoints."""
ALIGNED = 16
"""Triton compiles one code for numbers of elements divisible by this, another for all others."""
PROBES = {True: (50, 16), False: (61, 13)}
"""By variant: points and width that are no whole number of blocks."""
INTERPRETED = "TRITON_INTERPRET"
"""Triton's own environment variable; 1 runs kernels on a processor, slowly."""

_numbers = itertools.count()


def suits(bundle: Tensor) -> bool:
    """Whether a bundle is of a kind that kernels are for, and they are allowed."""
    fits = bundle.device.type == "cuda" or os.environ.get(INTERPRETED) == "1"
    return fits and bundle.dtype in DTYPES and not record.forbidden()


def variant(bundle: Tensor) -> bool:
    """Whether a channel's elements are a multiple of `ALIGNED`."""
    return bundle[0].numel() % ALIGNED == 0


class TritonLoops:
    """See `loops.Loops`.

    Args:
        functions: ``compose`` and ``pull`` of `source`.
        block: elements for one program.
    """

    def __init__(self, functions: dict[str, Any], block: int) -> None:
        self._functions = functions
        self._block = block

    def compose(self, z: Tensor, out: Tensor, factors: Sequence[Tensor]) -> None:
        """See `loops.Loops`."""
        self._launch("compose", z[0].numel(), z, out, *factors)

    def pull(
        self, z: Tensor, value: Tensor, adjoint: Tensor, result: Tensor, factors: Sequence[Tensor]
    ) -> None:
        """See `loops.Loops`."""
        self._launch("pull", value.numel(), z, value, adjoint, result, *factors)

    def _launch(self, name: str, count: int, *arrays: Tensor) -> None:
        grid = (-(-count // self._block),)
        device = arrays[0].device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            self._functions[name][grid](*arrays, count, BLOCK=self._block)
            return
        with torch.cuda.device(device):  # Triton launches on the current one
            self._functions[name][grid](*arrays, count, BLOCK=self._block)


def compile_composition(
    plan: Composition,
    dtype: torch.dtype,
    device: torch.device,
    probe: tuple[int, int],
    formula: Formula | None,
) -> TritonLoops | None:
    """Kernels for a composition; None where they cannot be had.

    Args:
        plan: the algebra's composition table.
        dtype: float32 or float64.
        device: where the bundles are.
        probe: points and width of one of them.
        formula: the scalar function; None where its values and derivatives come as arrays.
    """
    triton = _triton()
    if triton is None:
        return None
    loops = TritonLoops(
        _functions(source(plan, formula), triton), BLOCK if plan.channels <= FEW else SMALL_BLOCK
    )
    z = torch.zeros(plan.channels, *probe, dtype=dtype, device=device)
    factors = [] if formula is not None else [torch.zeros_like(z[0])] * (plan.order + 1)
    try:
        # Triton compiles when it first launches, and what can go wrong then has no common class.
        loops.compose(z, torch.empty_like(z), factors[: plan.order])
        loops.pull(z, z[0], z, torch.empty_like(z), factors)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        said = str(error).strip().splitlines()
        record.tell(f"Triton failed: {type(error).__name__}: {said[-1] if said else ''}"[:200])
        return None
    record.built("Triton kernels")
    return loops


@lru_cache(maxsize=1)
def _triton() -> Any:
    """The package; None where there is none."""
    try:
        import triton  # pyright: ignore[reportMissingImports] - comes with torch for CUDA
        import triton.language  # pyright: ignore[reportMissingImports]
    except Exception as error:  # not installed, or for another torch or driver
        record.tell(f"Triton cannot be imported: {type(error).__name__}: {error}"[:200])
        return None
    return triton


def source(plan: Composition, formula: Formula | None) -> str:
    """Python source of the kernels; their arguments are those of the C loops.

    Pointers move on from channel to channel, so that no offset is larger than a channel and none
    has to fit 32 bits.
    """

    def arrays(highest: int) -> list[str]:
        return [] if formula is not None else [f"f{m}" for m in range(1, highest + 1)]

    def scalars(highest: int) -> list[str]:
        if formula is None:
            return [f"s{m} = {_load(f'f{m} + i')}" for m in range(1, highest + 1)]
        return [f"s{m} = {formula.factors[m - 1]}" for m in range(1, highest + 1)]

    z = _channels("z", plan.channels)
    value = []
    if formula is not None:
        value = [f"z0 = {_load('z + i')}", f"s = {formula.value}"]
        value += ["tl.store(out + i, s, mask=inside)"]
    compose = [*value, *z, *scalars(plan.order), "p = out + i"]
    for _, expression in composed(plan):
        compose += ["p += n", f"tl.store(p, {expression}, mask=inside)"]
    pull = [f"s = {_load('value + i')}", *scalars(plan.order + 1)]
    pull += [f"a0 = {_load('a + i')}", *_channels("a", plan.channels), *z, "p = r + i"]
    for j, expression in pulled(plan):
        pull += ["p += n"] if j else []
        pull += [f"tl.store(p, {expression}, mask=inside)"]
    lines = [
        *_kernel("compose", ["z", "out", *arrays(plan.order)], compose),
        *_kernel("pull", ["z", "value", "a", "r", *arrays(plan.order + 1)], pull),
    ]
    return "\n".join(lines).replace("exponential(", "tl.exp(")


def _kernel(name: str, arrays: Sequence[str], body: Sequence[str]) -> list[str]:
    inside = [
        "i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "inside = i < n",
        *body,
    ]
    return [
        "@triton.jit",
        f"def {name}({', '.join(arrays)}, n, BLOCK: tl.constexpr):",
        *(f"    {line}" for line in inside),
        "",
    ]


def _channels(name: str, channels: int) -> list[str]:
    """Load all but the first."""
    lines = [f"p = {name} + i"]
    for k in range(1, channels):
        lines += ["p += n", f"{name}{k} = {_load('p')}"]
    return lines


def _load(pointer: str) -> str:
    return f"tl.load({pointer}, mask=inside, other=0)"


def _functions(text: str, triton: Any) -> dict[str, Callable[..., Any]]:
    """The kernels of a source, which is our own: `source` makes it of whole numbers and names."""
    name = f"<residua kernels {next(_numbers)}>"
    # Triton reads the source of a function again, where Python looks for it.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {
        "__name__": __name__,
        "triton": triton,
        "tl": triton.language,
    }
    exec(compile(text, name, "exec"), namespace)
    return {key: namespace[key] for key in ("compose", "pull")}
