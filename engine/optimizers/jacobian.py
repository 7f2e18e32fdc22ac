"""Closures for the least-squares optimisers from any torch module, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from ...errors import ConfigurationError
from .least_squares import require_memory


class LeastSquares(NamedTuple):
    """What `GaussNewton` and its kin are built from: ``GaussNewton(*least_squares(...))``."""

    parameters: list[nn.Parameter]
    residuals: Callable[[], Tensor]
    linearise: Callable[[], tuple[Tensor, Tensor]]


def least_squares(
    module: nn.Module,
    residuals: Callable[[Callable[..., Tensor]], Tensor],
    *,
    chunk: int | None = None,
) -> LeastSquares:
    """Residuals of a module, and their Jacobian by `torch.func`.

    The general way, for modules without Taylor rules; where there are some,
    `residua.engine.residuals` finds the same Jacobian many times faster.

    Args:
        module: what is trained: its parameters that require a gradient.
        residuals: ``function -> r``, shape (m,), where ``function`` is called like the module. May
            differentiate it by its inputs with `torch.func`.
        chunk: rows of the Jacobian that are found together; None for all. Fewer take less memory.

    Returns:
        Parameters and closures; ``linearise()`` gives ``(r, J)`` of shapes (m,) and (m, P).
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def values(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        found = residuals(lambda *args, **kw: functional_call(module, parameters, args, kw))
        if found.ndim != 1:
            raise ConfigurationError(
                f"residuals of shape {tuple(found.shape)} are no sum of squares: a vector of shape "
                "(m,) is needed",
                advice="return the residuals themselves, flattened, not their loss",
            )
        return found, found

    def plain() -> Tensor:
        with torch.no_grad():
            return values({name: p.detach() for name, p in named.items()})[0]

    def linearise() -> tuple[Tensor, Tensor]:
        detached = {name: p.detach() for name, p in named.items()}
        first = next(iter(detached.values()))
        rows = len(plain())
        require_memory(rows, sum(p.numel() for p in named.values()), first.dtype, first.device)
        blocks, r = jacrev(values, has_aux=True, chunk_size=chunk)(detached)
        return r.detach(), torch.cat([blocks[name].flatten(1) for name in named], dim=1).detach()

    return LeastSquares(list(named.values()), plain, linearise)
