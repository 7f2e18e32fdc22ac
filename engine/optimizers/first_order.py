"""Adam and L-BFGS on a scalar loss, in the form the training loop drives: one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DivergedError


class LossOptimizer:
    """torch's Adam, or its L-BFGS with a strong-Wolfe line search, one step at a time.

    L-BFGS runs without its own stopping tests: they compare with absolute thresholds made for
    float32 and
    end a float64 run early.

    Args:
        parameters: what is trained.
        loss: the scalar to be lowered, in the autograd graph.
        kind: ``"adam"`` or ``"lbfgs"``.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[], Tensor],
        *,
        kind: str,
        learning_rate: float = 1e-3,
    ) -> None:
        self.parameters = list(parameters)
        self.loss = loss
        self.optimizer: torch.optim.Optimizer
        if kind == "adam":
            self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        else:
            self.optimizer = torch.optim.LBFGS(
                self.parameters,
                max_iter=1,
                max_eval=25,
                history_size=100,
                tolerance_grad=0.0,
                tolerance_change=0.0,
                line_search_fn="strong_wolfe",
            )
        self.stalled = False

    def step(self) -> float:
        """One step.

        Returns:
            The loss before the step.

        Raises:
            DivergedError: loss or gradient is not finite; the parameters were not moved.
        """
        start = [p.detach().clone() for p in self.parameters]

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            value = self.loss()
            value.backward()
            squares = [p.grad.square().sum() for p in self.parameters if p.grad is not None]
            if not bool(torch.isfinite(value) & torch.isfinite(torch.stack(squares).sum())):
                raise DivergedError("the loss or its gradient is not finite")
            return value

        try:
            value = float(torch.as_tensor(self.optimizer.step(closure)).detach())  # type: ignore[arg-type]
        except DivergedError:
            with torch.no_grad():
                for parameter, old in zip(self.parameters, start, strict=True):
                    parameter.copy_(old)
            raise
        self.stalled = all(
            torch.equal(p, old) for p, old in zip(self.parameters, start, strict=True)
        )
        return value

    def soften(self) -> None:
        """After a divergence: half the learning rate, no memory of curvature."""
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.optimizer.load_state_dict(state)
