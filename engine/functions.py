"""The functions of the equation language on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from ..problems.given import GIVEN
from .given import given


def _tensor(value: object) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)


def _lift(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda value: function(_tensor(value))


def _extreme(pairwise: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def combined(*values: object) -> Tensor:
        tensors = [_tensor(value) for value in values]
        dtype = next((t.dtype for t in tensors if t.dim()), tensors[0].dtype)
        return reduce(pairwise, (t.to(dtype) for t in tensors))

    return combined


def _where(condition: object, if_true: object, if_false: object) -> Tensor:
    chosen = [if_true, if_false]
    dtype = next((v.dtype for v in chosen if isinstance(v, Tensor)), torch.float64)
    mask = condition if isinstance(condition, Tensor) else torch.as_tensor(condition)
    # Filled, not copied, on the device: a CUDA graph records no copy from the processor.
    left, right = (
        v.to(mask.device, dtype)
        if isinstance(v, Tensor)
        else torch.full((), float(v), dtype=dtype, device=mask.device)  # type: ignore[arg-type]
        for v in chosen
    )
    return torch.where(mask, left, right)


TORCH: Mapping[str, Callable] = {
    **{
        name: _lift(getattr(torch, name))
        for name in (
            "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
            "exp", "log", "sqrt", "abs", "sign", "erf",
        )
    },
    "sech": lambda value: 1 / torch.cosh(_tensor(value)),
    "min": _extreme(torch.minimum),
    "max": _extreme(torch.maximum),
    "where": _where,
    GIVEN: given,
}  # fmt: skip
"""Function name of the equation language to its tensor counterpart."""
