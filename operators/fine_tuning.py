"""After training: lower the residual of the equation on the very samples that are asked for.

Every sample gets weights of its own, which begin as the trained ones; no solution is looked at. Of
a step in time the residuals along the operator's own rollout are lowered together, each step's by
itself: what it begins with is taken as given.

Source: Li et al., "Physics-informed neural operator", 2024, section 3.3.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .normalisation import Normalised
from .operator import Operator
from .physics import Residual
from .training import advanced

__all__ = ["Tuned", "fine_tune"]

LAST_RATE = 0.01
"""Of the learning rate at the end, in parts of the highest; it falls along a cosine."""


@dataclass(frozen=True)
class Tuned:
    """An operator for one sample.

    Attributes:
        operator: with the weights of the smallest residual that was seen.
        before: residual of the trained operator.
        after: the smallest.
    """

    operator: Operator
    before: float
    after: float


def fine_tune(
    operator: Operator,
    inputs: object,
    residual: Residual,
    *,
    steps: int,
    learning_rate: float,
    instants: int = 1,
) -> Tuned:
    """Fit an operator to the equation at one sample, by Adam.

    Args:
        operator: trained; it stays as it is.
        inputs: of one call, shape (channels, *n).
        residual: of the equation.
        steps: of the optimiser.
        learning_rate: at its highest.
        instants: that are predicted, where the operator is a step in time.

    Raises:
        ConfigurationError: inputs of another shape.
        DataError: they are not finite.
    """
    fields, _ = operator.fields(inputs)
    model = copy.deepcopy(operator.model).requires_grad_(True)
    static = operator.shape.static
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    best: tuple[float, dict[str, Tensor]] | None = None
    before = math.nan
    for number in range(steps + 1):
        part = number / max(steps, 1)
        weight = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * part)) / 2
        optimizer.param_groups[0]["lr"] = learning_rate * weight
        sizes = [s.mean() for s in _residuals(model, fields, residual, instants, static)]
        loss = torch.stack(sizes).mean()
        value = float(loss.detach())
        before = value if number == 0 else before
        if not math.isfinite(value):
            break
        if best is None or value < best[0]:
            best = value, copy.deepcopy(model.state_dict())
        if number < steps:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    after, weights = best or (before, operator.model.state_dict())
    model.load_state_dict(weights)
    return Tuned(dataclasses.replace(operator, model=model.requires_grad_(False)), before, after)


def _residuals(
    model: Normalised | nn.Module, state: Tensor, residual: Residual, instants: int, static: int
) -> Iterator[Tensor]:
    """Of each application, the ones before it taken as given."""
    for number in range(instants):
        found = model(state)
        yield residual(state, found)
        if number + 1 < instants:
            state = advanced(state, found.detach(), static)
