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
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.fit import Progress
from ..errors import ConfigurationError, DataError, DivergedError
from .losses import relative_h1, relative_l2
from .options import PhysicsOptions, TrainingOptions
from .physics import Residual
from .schedule import numbered, one_cycle, shuffled
from .symmetries import moved

__all__ = ["OperatorTrainer", "Pairs", "Trajectories", "fingerprint", "rollout"]


@dataclass
class Pairs:
    """Inputs and what the operator is to make of them.

    Attributes:
        inputs: shape (samples, channels, *n).
        outputs: shape (samples, channels, *n).
        periodic: by coordinate.
    """

    inputs: Tensor
    outputs: Tensor
    periodic: Sequence[bool]

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, which: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Inputs, and the outputs of one application."""
        return self.inputs[which], [self.outputs[which]]


@dataclass
class Trajectories:
    """States at equal intervals of time; the operator makes the next of one, or of a few.

    Attributes:
        states: shape (samples, times, channels, *n).
        periodic: by coordinate.
        unrolled: states after the first ones that are trained on.
        history: states that the next is made of, as channels, the last of them last.
        static: what does not depend on time, as channels before them, shape (samples, more, *n).
    """

    states: Tensor
    periodic: Sequence[bool]
    unrolled: int = 1
    history: int = 1
    static: Tensor | None = None
    starts: int = field(init=False)

    def __post_init__(self) -> None:
        self.starts = self.states.shape[1] - self.unrolled - self.history + 1
        if self.starts < 1:
            raise ConfigurationError(
                f"{self.states.shape[1]} instants do not hold {self.unrolled} applications to "
                f"{self.history} of them",
                path=("training", "unrolled"),
                found=self.unrolled,
                advice=f"write a number up to {self.states.shape[1] - self.history}",
            )

    def __len__(self) -> int:
        return len(self.states) * self.starts

    def batch(self, which: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the operator takes first, and the states after it."""
        sample, start = which // self.starts, which % self.starts
        parts = [] if self.static is None else [self.static[sample]]
        parts += [self.states[sample, start + k] for k in range(self.history)]
        first = start + self.history
        return torch.cat(parts, 1), [self.states[sample, first + k] for k in range(self.unrolled)]


def fingerprint(data: Pairs | Trajectories) -> str:
    """Of the numbers that are trained on, and their shapes."""
    found = hashlib.sha256(str(data.periodic).encode())
    for name in ("inputs", "outputs", "states", "static"):
        value = getattr(data, name, None)
        if value is not None:
            found.update(str(tuple(value.shape)).encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class OperatorTrainer:
    """Trainer of `residua.engine.fit`.

    Args:
        model: the operator; takes and gives fields in the user's units.
        data: on the device and in the precision of the model, or moved batch by batch.
        schedule: how.
        seed: of the order of the data.
        budget: seconds of the whole training, over which the learning rate rises and falls where
            they end before its epochs; None for no limit.
        steps: of the whole training where neither epochs nor budget tell its end.
        physics: how much the equation teaches; None where it does not.
        residual: of that equation.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Pairs | Trajectories,
        schedule: TrainingOptions,
        *,
        seed: int = 0,
        budget: float | None = None,
        steps: int | None = None,
        physics: PhysicsOptions | None = None,
        residual: Residual | None = None,
    ) -> None:
        self.model = model
        self.physics, self.residual = physics, residual
        self.data = data
        self.schedule = schedule
        self.seed = seed
        self.budget = budget
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
        self.steps = steps if schedule.epochs is None else schedule.epochs * self.per_epoch
        self.done = 0
        self.spent = 0.0
        self.caution = 1.0
        self.fingerprint = fingerprint(data)

    @property
    def place(self) -> float:
        """Part of the training that is over, 0 to 1, by steps or by time."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(self.done / max(self.steps - 1, 1))
        if self.budget is not None:
            shares.append(self.spent / self.budget)
        return min(max(shares), 1.0)

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return (
            self.caution
            * self.schedule.learning_rate
            * one_cycle(self.place, self.schedule.warm_up)
        )

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch, shuffled by seed and number."""
        return shuffled(len(self.data), self.seed, epoch)

    def step(self, seconds_left: float) -> Progress:
        """One mini-batch."""
        if self.budget is not None and math.isfinite(seconds_left):
            self.spent = self.budget - seconds_left
        epoch, place = divmod(self.done, self.per_epoch)
        start = place * self.schedule.batch
        which = self.order(epoch)[start : start + self.schedule.batch]
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.model.train()
        loss = self._loss(*self._moved(*self.data.batch(which)))
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
            extra=f"epoch {epoch + 1}"
            + (f" of {self.schedule.epochs}" if self.schedule.epochs else ""),
            done=self.steps is not None and self.done >= self.steps,
        )

    def _moved(self, state: Tensor, targets: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A batch moved by symmetries, drawn from the seed and the number of the step alone."""
        if not self.schedule.symmetries:
            return state, targets
        generator = numbered(self.seed, self.done)
        state, *targets = moved(
            [state, *targets],
            self.schedule.symmetries,
            periodic=self.data.periodic[0],
            generator=generator,
        )
        return state, targets

    def _loss(self, state: Tensor, targets: Sequence[Tensor]) -> Tensor:
        reference = next(self.model.parameters())
        state = state.to(reference)
        errors = []
        for number, target in enumerate(targets):
            last = number + 1 == len(targets)
            if self.schedule.pushforward and not last:
                with torch.no_grad():
                    found = self._applied(state)
            else:
                found = self._applied(state)
                errors.append(self._error(state, found, target.to(reference)))
            if not last:
                state = advanced(state, found, self._kept)
        return torch.stack(errors).mean()

    def _applied(self, state: Tensor) -> Tensor:
        if not self.schedule.mixed_precision:
            return self.model(state)
        # bfloat16 has the range of float32, so that small gradients need no scaling.
        with torch.autocast(state.device.type, torch.bfloat16):
            return self.model(state).to(state.dtype)

    @property
    def _kept(self) -> int:
        static = getattr(self.data, "static", None)
        return 0 if static is None else static.shape[1]

    def _error(self, state: Tensor, found: Tensor, true: Tensor) -> Tensor:
        """Of one application: from the truth, from the equation, or both by their weights."""
        if self.physics is None or self.residual is None:
            return self._distance(found, true)
        parts = []
        if self.physics.data > 0:
            parts.append(self.physics.data * self._distance(found, true))
        if self.physics.weight > 0:
            parts.append(self.physics.weight * self.residual(state, found).mean())
        return torch.stack(parts).sum()

    def _distance(self, found: Tensor, true: Tensor) -> Tensor:
        if self.schedule.loss == "relative_h1":
            return relative_h1(found, true, self.data.periodic).mean()
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
            "spent": self.spent,
        }
        return {**copy.deepcopy(state), "data": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            DataError: it was trained on other numbers.
        """
        if state.get("data") != self.fingerprint:
            raise DataError(
                "the data are not those the run began with: its file has changed since; put the "
                "old one back, or begin anew with --overwrite"
            )
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])
        self.caution = float(state["caution"])
        self.spent = float(state["spent"])


def advanced(state: Tensor, found: Tensor, static: int) -> Tensor:
    """What the operator takes next: static channels kept, the oldest instant replaced by the new.

    Args:
        state: what it took, shape (batch, channels, *n).
        found: what it gave.
        static: channels that do not depend on time, the first ones.
    """
    return torch.cat([state[:, :static], state[:, static + found.shape[1] :], found], 1)


@torch.no_grad()
def rollout(model: nn.Module, state: Tensor, steps: int, static: int = 0) -> Iterator[Tensor]:
    """The states after the first ones, each made of those before; shape (batch, channels, *n).

    Args:
        model: the operator.
        state: what it takes first.
        steps: how many.
        static: channels of `state` that do not depend on time, the first ones.
    """
    for _ in range(steps):
        found = model(state)
        yield found
        state = advanced(state, found, static)
