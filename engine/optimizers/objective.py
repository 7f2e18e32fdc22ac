"""What a general optimiser lowers: a value and a flat gradient at the present parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...errors import DivergedError

Objective: TypeAlias = Callable[[], tuple[float, Tensor]]
"""``() -> (value, gradient)``: the gradient is detached, of shape (P,), in the order and the dtype
of the parameters."""


def objective_of(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> Objective:
    """Make an objective of any scalar in the autograd graph.

    Args:
        loss: ``() -> scalar`` at the present parameters.
        parameters: by which it is differentiated; one that it does not feel has gradient zero.

    Returns:
        The objective. It raises ValueError where the loss is no scalar or has no graph.
    """
    trained = list(parameters)

    def objective() -> tuple[float, Tensor]:
        with torch.enable_grad():
            value = loss()
        if value.numel() != 1:
            raise ValueError(
                f"the loss has shape {tuple(value.shape)}; return a scalar, such as its mean"
            )
        if not value.requires_grad:
            raise ValueError("the loss does not depend on a parameter through the autograd graph")
        gradients = torch.autograd.grad(value, trained, allow_unused=True)
        flat = [
            p.new_zeros(p.numel()) if g is None else g.reshape(-1)
            for p, g in zip(trained, gradients, strict=True)
        ]
        return float(value.detach()), torch.cat(flat).detach()

    return objective


def evaluate(objective: Objective) -> tuple[float, Tensor]:
    """Value and gradient of an objective.

    Raises:
        DivergedError: one of them is not finite.
    """
    value, gradient = objective()
    if not math.isfinite(value) or not bool(torch.isfinite(gradient).all()):
        raise DivergedError("the loss or its gradient is not finite")
    return value, gradient


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """A copy of the parameters in one vector of shape (P,)."""
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def split(vector: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Views of a flat vector in the shapes of the parameters."""
    pieces = vector.split([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


def assign(vector: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Write a flat vector into the parameters; they share no memory with it afterwards."""
    with torch.no_grad():
        for parameter, piece in zip(parameters, split(vector, parameters), strict=True):
            parameter.copy_(piece)
