"""Integration with constant steps as a module: nothing is decided while it runs.

The steps are laid out when the module is made. A call is arithmetic on tensors alone: it asks the
device nothing, so that `torch.compile` turns it into one graph and a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .controllers import Constant
from .explicit import RK4
from .plan import Plan, Points, Selection, lockstep, replay
from .problem import Problem
from .steppers import Stepper
from .terms import Term, modules_of

__all__ = ["Flow"]


class Flow(nn.Module):
    """States at given times as a function of the start, by steps of constant length.

    Numbers that go wrong are not looked for; `integrate` does. Autograd goes through all steps.

    Args:
        term: right-hand side; the modules among its fields become submodules.
        times: shape (n,), monotonic; the first is the start.
        controller: the steps.
        stepper: rule of a step; RK4 unless given.

    Raises:
        ConfigurationError: the arguments do not fit together.
    """

    def __init__(
        self,
        term: Term,
        times: Tensor | Sequence[float],
        controller: Constant,
        stepper: Stepper | None = None,
    ) -> None:
        super().__init__()
        self.term: Term = term
        self.stepper: Stepper = stepper or RK4()
        self.fields = nn.ModuleList(modules_of(term))
        example = torch.zeros(1, 1, dtype=torch.float64)
        problem = Problem(term, example, times, self.stepper, controller)  # pyright: ignore[reportArgumentType]
        plan, points = lockstep(problem)
        self.fresh = [again is not None for again in plan.refresh]
        # By step, the fractions at which states are wanted; None is the end.
        self.wanted = {
            number: [None if s.theta is None else float(s.theta) for s in selections]
            for number, selections in points.at.items()
        }
        self.starts: Tensor
        self.steps: Tensor
        self.register_buffer("starts", plan.starts[:, 0].clone(), persistent=False)
        self.register_buffer("steps", plan.steps[:, 0].clone(), persistent=False)

    def forward(self, start: Tensor) -> Tensor:
        """States (batch, n, d) at the times, from start (batch, d)."""
        batch = len(start)
        every = torch.ones(batch, dtype=torch.bool, device=start.device)
        plan = Plan(
            self.starts[:, None].expand(-1, batch),
            self.steps[:, None].expand(-1, batch),
            [every if again else None for again in self.fresh],
        )
        _, _, values = replay(self, plan, self._points(start), start)
        return torch.stack([start, *(states for _, states in values)], dim=1)

    def _points(self, start: Tensor) -> Points:
        points, nowhere = Points(0), torch.zeros(0, dtype=torch.int64, device=start.device)
        for number, fractions in self.wanted.items():
            for fraction in fractions:
                theta = None
                if fraction is not None:
                    theta = self.starts.new_full((len(start),), fraction)
                points.add(number, Selection(nowhere, None, theta))
        return points

    def _apply(self, fn: Any, recurse: bool = True) -> Flow:
        """Move and convert, but keep the times in float64: in float32 steps would be lost."""
        starts, steps = self.starts, self.steps
        super()._apply(fn, recurse)
        device = self.starts.device
        self.starts, self.steps = starts.to(device), steps.to(device)
        return self
