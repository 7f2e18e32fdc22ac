"""Training of an operator on pairs of fields, one mini-batch a step, in the suite's one loop.

AdamW with a one-cycle schedule, clipped gradients and an exponential average of the weights, which
is what is evaluated. Every batch is drawn from the seed and the number of its step alone, so that a
resumed training sees what the uninterrupted one would have seen.

For steps in time the data are trajectories, and the operator is applied to its own output
`unrolled` times; with `pushforward` only the last application is differentiated, so that it learns
to bear the errors of those before (Brandstetter, Worrall and Welling, ICLR 2022).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..engine.fit import Progress
from ..errors import DivergedError
from .losses import relative_h1, relative_l2

__all__ = ["OperatorTrainer", "Pairs", "Schedule", "Trajectories", "rollout"]


@dataclass(frozen=True)
class Schedule:
    """How the weights are moved.

    Attributes:
        epochs: passes over the data.
        batch: samples a step.
        learning_rate: at its highest, after `warm_up` of all steps; from a tenth of it, and down
            to a thousandth, along cosines (Smith and Topin, "Super-convergence", 2019).
        warm_up: part of all steps.
        weight_decay: of AdamW.
        clip: longest gradient, all weights together.
        average: what the average of the weights keeps of itself each step, once it has seen enough
            of them.
        loss: relative error in the norm of values, or of values and slopes.
        unrolled: applications of the operator in a step.
        pushforward: whether only the last of them is differentiated.
        seed: of the order of the data.
    """

    epochs: int = 100
    batch: int = 20
    learning_rate: float = 1e-3
    warm_up: float = 0.2
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.999
    loss: Literal["l2", "h1"] = "l2"
    unrolled: int = 1
    pushforward: bool = False
    seed: int = 0


@dataclass
class Pairs:
    """Inputs and what the operator is to make of them.

    Attributes:
        inputs: shape (samples, channels, *n).
        outputs: shape (samples, channels, *n).
        spacing: between nodes, by coordinate.
        periodic: by coordinate.
    """

    inputs: Tensor
    outputs: Tensor
    spacing: Sequence[float]
    periodic: Sequence[bool]

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, which: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Inputs, and the outputs of one application."""
        return self.inputs[which], [self.outputs[which]]


@dataclass
class Trajectories:
    """States at equal intervals of time; the operator makes the next of one.

    Attributes:
        states: shape (samples, times, channels, *n).
        spacing: between nodes, by coordinate.
        periodic: by coordinate.
        unrolled: states after the first of a sample that is trained on.
    """

    states: Tensor
    spacing: Sequence[float]
    periodic: Sequence[bool]
    unrolled: int = 1
    starts: int = field(init=False)

    def __post_init__(self) -> None:
        self.starts = self.states.shape[1] - self.unrolled
        if self.starts < 1:
            raise ValueError(
                f"{self.states.shape[1]} instants do not hold {self.unrolled} applications"
            )

    def __len__(self) -> int:
        return len(self.states) * self.starts

    def batch(self, which: Tensor) -> tuple[Tensor, list[Tensor]]:
        """First states, and those after it."""
        sample, start = which // self.starts, which % self.starts
        later = [self.states[sample, start + k] for k in range(1, self.unrolled + 1)]
        return self.states[sample, start], later


class OperatorTrainer:
    """Trainer of `residua.engine.fit`.

    Args:
        model: the operator; takes and gives fields in the user's units.
        data: on the device and in the precision of the model, or moved batch by batch.
        schedule: how.
    """

    def __init__(self, model: nn.Module, data: Pairs | Trajectories, schedule: Schedule) -> None:
        self.model = model
        self.data = data
        self.schedule = schedule
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": schedule.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=schedule.learning_rate,
        )
        self.per_epoch = math.ceil(len(data) / schedule.batch)
        self.steps = schedule.epochs * self.per_epoch
        self.done = 0
        self.caution = 1.0

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        place = self.done / max(self.steps - 1, 1)
        rise = self.schedule.warm_up
        low, high = (0.1, 1.0) if place < rise else (1e-3, 1.0)
        part = place / rise if place < rise else 1 - (place - rise) / max(1 - rise, 1e-12)
        weight = (1 - math.cos(math.pi * part)) / 2
        return self.caution * self.schedule.learning_rate * (low + (high - low) * weight)

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch, shuffled by seed and number."""
        generator = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.data), generator=generator)

    def step(self, seconds_left: float) -> Progress:
        """One mini-batch."""
        epoch, place = divmod(self.done, self.per_epoch)
        start = place * self.schedule.batch
        which = self.order(epoch)[start : start + self.schedule.batch]
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.model.train()
        loss = self._loss(*self.data.batch(which))
        if not bool(loss.isfinite()):
            raise DivergedError("the loss is not finite")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        size = nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        if not bool(size.isfinite()):
            raise DivergedError("a gradient is not finite")
        self.optimizer.step()
        self.done += 1
        self._average()
        return Progress(
            float(loss.detach()),
            extra=f"epoch {epoch + 1} of {self.schedule.epochs}",
            done=self.done >= self.steps,
        )

    def _loss(self, state: Tensor, targets: Sequence[Tensor]) -> Tensor:
        reference = next(self.model.parameters())
        state = state.to(reference)
        errors = []
        for number, target in enumerate(targets):
            last = number + 1 == len(targets)
            if self.schedule.pushforward and not last:
                with torch.no_grad():
                    state = self.model(state)
                continue
            state = self.model(state)
            errors.append(self._error(state, target.to(reference)))
        return torch.stack(errors).mean()

    def _error(self, found: Tensor, true: Tensor) -> Tensor:
        if self.schedule.loss == "h1":
            return relative_h1(found, true, self.data.spacing, self.data.periodic).mean()
        return relative_l2(found, true).mean()

    @torch.no_grad()
    def _average(self) -> None:
        # At first the average follows closely: the weights it begins with are random.
        keep = min(self.schedule.average, (1 + self.done) / (10 + self.done))
        for mean, now in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
        for mean, now in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)

    def soften(self) -> None:
        """After a divergence: half the learning rate."""
        self.caution /= 2

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "caution": self.caution,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])
        self.caution = float(state["caution"])


@torch.no_grad()
def rollout(model: nn.Module, state: Tensor, steps: int) -> Iterator[Tensor]:
    """The states after the first, each made of the one before; shape (batch, channels, *n)."""
    for _ in range(steps):
        state = model(state)
        yield state
