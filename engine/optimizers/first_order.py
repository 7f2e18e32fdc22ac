"""Adam, in the form the training loop drives: one step at a time.

Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015; torch's own is used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .objective import Objective, evaluate, split


class Adam:
    """torch's Adam on an objective.

    Args:
        parameters: what is trained.
        objective: value and flat gradient at the present parameters.
        learning_rate: size of a step, per parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        *,
        learning_rate: float = 1e-3,
    ) -> None:
        self.parameters = list(parameters)
        self.objective = objective
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.stalled = False

    def step(self) -> float:
        """One step.

        Returns:
            The loss before the step.

        Raises:
            DivergedError: loss or gradient is not finite; the parameters were not moved.
        """
        value, gradient = evaluate(self.objective)
        start = [p.detach().clone() for p in self.parameters]
        for parameter, piece in zip(self.parameters, split(gradient, self.parameters), strict=True):
            parameter.grad = piece
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.stalled = all(
            torch.equal(p, old) for p, old in zip(self.parameters, start, strict=True)
        )
        return value

    def soften(self) -> None:
        """After a divergence: half the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5

    def renew(self) -> None:
        """The objective has changed: nothing to do, the averages forget by themselves."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return {"adam": self.optimizer.state_dict(), "stalled": self.stalled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        # torch's own would go on in the tensors it is given.
        self.optimizer.load_state_dict(copy.deepcopy(state["adam"]))
        self.stalled = bool(state["stalled"])
