"""A field and its loops as a compiled library, compared with torch before it is trusted."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ....engine.fused.native import build
from ..tableaus import Tableau
from . import loops
from .code import function
from .prelude import LANES, prelude
from .tracing import Field, Trace, Untraceable, adjoint_of, trace

__all__ = ["Compiled", "Controller", "Tape", "compiled"]

ROWS = 2 * max(LANES.values()) + 3
"""On which a field is compared: several blocks, the last not full."""


class Controller(ctypes.Structure):
    """See `controller` in the C text."""

    _fields_ = [
        (name, ctypes.c_double)
        for name in (
            "rtol", "atol", "p", "i", "d", "safety", "shrink", "grow", "smallest", "largest",
            "first", "sign", "end", "order",
        )
    ]  # fmt: skip


class Tape(ctypes.Structure):
    """See `tape` in the C text."""

    _fields_ = [
        ("capacity", ctypes.c_long),
        *(
            (name, ctypes.c_void_p)
            for name in ("starts", "steps", "states", "slopes", "which", "theta")
        ),
    ]


@dataclass
class Compiled:
    """A library for a field.

    Attributes:
        trace: of the field.
        library: its functions.
        wanted: which constants have derivatives.
        sizes: numbers of elements of these.
        gradient: whether there is a way back.
        capacity: accepted steps of a sample that room was last made for.
    """

    trace: Trace
    library: ctypes.CDLL
    wanted: tuple[bool, ...]
    sizes: tuple[int, ...]
    gradient: bool
    capacity: int = 64

    def pointers(self, constants: Sequence[Tensor]) -> Any:
        """Addresses of constants, which have to stay alive."""
        return (ctypes.c_void_p * max(len(constants), 1))(*[c.data_ptr() for c in constants])

    def constants(self) -> tuple[Tensor, ...]:
        """Values now, in the dtype of the state and one after the other in memory."""
        return tuple(c.to(self.trace.dtype).contiguous() for c in self.trace.constants())

    def slopes(self, t: Tensor, y: Tensor, constants: Sequence[Tensor]) -> Tensor:
        """The compiled field at t (batch,) and y (batch, d)."""
        y, t = y.detach().contiguous(), t.detach().contiguous()
        found = torch.empty_like(y)
        self.library.probe(
            len(y), t.data_ptr(), y.data_ptr(), self.pointers(constants), found.data_ptr()
        )
        return found


def compiled(field: Field, start: Tensor, tableau: Tableau, gradient: bool) -> Compiled:
    """Trace and compile a field.

    Args:
        field: of torch operations.
        start: shape (batch, d).
        tableau: of the method.
        gradient: whether derivatives are wanted.

    Raises:
        Untraceable: it cannot be had; the text says why.
    """
    found = trace(field, start)
    with torch.enable_grad():
        constants = found.constants()
    dimension = found.dimension
    shapes = [(1,), (1, dimension), *found.shapes]
    text = [
        prelude(start.dtype),
        function(found.graph, "field", shapes, ["t", "y"], ["out"], [False]),
    ]
    wanted = tuple(gradient and c.requires_grad for c in constants)
    sizes = None
    if gradient:
        adjoint = adjoint_of(found, [c.detach() for c in constants], wanted)
        sizes = tuple(c.numel() for c, w in zip(constants, wanted, strict=True) if w)
        outputs = ["by_y", *(f"by_{k}" for k in range(len(sizes)))]
        text.append(
            function(
                adjoint, "product", [(1,), (1, dimension), (1, dimension), *found.shapes],
                ["t", "y", "v"], outputs, [False] + [True] * len(sizes),
            )
        )  # fmt: skip
    text.append(loops.source(tableau, dimension, sizes))
    library = _library("\n".join(text))
    if library is None:
        raise Untraceable("there is no C compiler, or it failed")
    result = Compiled(found, library, wanted, sizes or (), gradient)
    _compare(result, field, start)
    return result


@lru_cache(maxsize=64)
def _library(text: str) -> ctypes.CDLL | None:
    """By its text: the same structure with other parameters is the same library."""
    library = build(text)
    if library is None:
        return None
    for name in ("adaptive", "known", "backward", "probe"):
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_int if name == "adaptive" else None
    pointer, long, whole = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.adaptive.argtypes = [
        long, whole, pointer, pointer, long, pointer, long, *[pointer] * 6
    ]  # fmt: skip
    library.known.argtypes = [
        long, whole, pointer, long, pointer, pointer, long, *[pointer] * 6
    ]  # fmt: skip
    library.probe.argtypes = [long, *[pointer] * 4]
    if hasattr(library, "backward"):
        library.backward.argtypes = [long, whole, long, long, whole, *[pointer] * 11]
    return library


def _compare(found: Compiled, field: Field, start: Tensor) -> None:
    """Compare field and derivative with torch on points near the start.

    Raises:
        Untraceable: they differ, or rows of the field influence each other.
    """
    generator = torch.Generator().manual_seed(0)
    rows = start.detach()[torch.arange(ROWS) % len(start)]
    rows = rows + 0.1 * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    t = torch.rand(ROWS, generator=generator, dtype=rows.dtype)
    with torch.no_grad():
        constants = found.constants()
        try:
            expected = field(t, rows)
        except Exception:
            raise Untraceable("the field takes no other number of rows") from None
    if not agree(found.slopes(t, rows, constants), expected):
        raise Untraceable("the compiled field and torch's do not agree")


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two slopes are the same up to rounding; where one is not finite, nor is the other."""
    if found.shape != expected.shape:
        return False
    expected = expected.detach()
    apart, size = torch.stack(((found - expected).abs().amax(), expected.abs().amax())).tolist()
    if apart <= 2e3 * torch.finfo(expected.dtype).eps * max(size, 1e-30):
        return True
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    found, expected = found[finite], expected[finite]
    if found.numel() == 0:
        return True
    allowed = 2e3 * torch.finfo(expected.dtype).eps * expected.abs().amax().clamp(min=1e-30)
    return bool((found - expected).abs().amax() <= allowed)
