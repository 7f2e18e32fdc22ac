"""One front for what is compiled: C on a processor, Triton on a GPU.

Both are made from the same expressions (`formulas`), are compared with torch's operations before
they are trusted (`residua.engine.kernels`), and give way to them aloud (`record`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from . import native, triton_kernels
from .formulas import Formula

if TYPE_CHECKING:
    from ..kernels import Composition

__all__ = ["Kind", "Loops", "compile_composition", "kind_of"]


class Loops(Protocol):
    """A composition and its adjoint, each as one loop over the elements of a channel.

    All arrays are contiguous; the factors have the shape of a channel.
    """

    def compose(self, z: Tensor, out: Tensor, factors: Sequence[Tensor]) -> None:
        """See `kernels.compose_into`; of a function given by arrays ``out[0]`` is there already."""
        ...

    def pull(
        self, z: Tensor, value: Tensor, adjoint: Tensor, result: Tensor, factors: Sequence[Tensor]
    ) -> None:
        """See `kernels.pull_into`."""
        ...


class Kind(NamedTuple):
    """Bundles that share one compilation.

    Attributes:
        by: ``native`` or ``triton``.
        dtype: float32 or float64.
        device: where they lie.
        variant: what else the compiled code depends on.
        probe: points and width of a bundle of this kind, on which it should be compared.
    """

    by: str
    dtype: torch.dtype
    device: torch.device
    variant: Hashable
    probe: tuple[int, int]


def kind_of(bundle: Tensor) -> Kind | None:
    """What is compiled for bundles like this one; None where torch's operations are to be used."""
    if triton_kernels.suits(bundle):
        variant = triton_kernels.variant(bundle)
        probe = triton_kernels.PROBES[variant]
        return Kind("triton", bundle.dtype, bundle.device, variant, probe)
    if native.suits(bundle):
        return Kind("native", bundle.dtype, bundle.device, None, native.PROBE)
    return None


def compile_composition(plan: Composition, kind: Kind, formula: Formula | None) -> Loops | None:
    """Loops for a composition; None where nothing can be compiled, which `record` has been told.

    Args:
        plan: the algebra's composition table.
        kind: of bundle.
        formula: the scalar function; None where its values and derivatives come as arrays.
    """
    if kind.by == "triton":
        return triton_kernels.compile_composition(
            plan, kind.dtype, kind.device, kind.probe, formula
        )
    return native.compile_composition(plan, kind.dtype, formula)
