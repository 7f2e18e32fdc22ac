"""A training by DeepXDE that stops between iterations to report, to be copied, or to begin again.

DeepXDE's own loops run as its users run them: one `compile` and one `train` for each optimiser. A
callback holds them up whenever the iterations that were asked for are made. Nothing is evaluated
for a report: the losses are those of the last evaluation that the optimiser made.

Where the inner runs of L-BFGS are cut does not change what it computes, because torch's optimiser
keeps its memory from one to the next; DeepXDE cuts after 1000 iterations, the session after so many
as fit the time that was asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import deepxde
import numpy as np
import torch
from torch import Tensor

from ...config import Case
from ...execution.summary import peak_memory_mib
from . import translation as translate
from .options import SAMPLERS, DeepxdeAdam, DeepxdeLbfgs, DeepxdeOptions

__all__ = ["Begin", "Link", "Session"]

dde: Any = deepxde  # it declares no types, and what checkers guess is wrong

WEIGHTS = "weights.pt"
FIRST_RUN = 5
"""Iterations of the first inner run of L-BFGS, before its speed is known."""
LONGEST_RUN = 1000
"""DeepXDE's own length of an inner run."""
SHORTEST_RUN = 2
"""DeepXDE takes an inner run of one iteration for convergence."""
EVALUATIONS = 25
"""Evaluations allowed for an iteration in an inner run: as many as a line search may need."""
SOFTENED = 0.5
"""Factor of the step size after a divergence."""


class Link(Protocol):
    """The other side of the conversation."""

    def receive(self) -> dict[str, Any]:
        """The next command; waits for it."""
        ...

    def send(self, event: str, **content: Any) -> None:
        """Answer."""
        ...


class Begin(Exception):
    """The command to begin anew, from a state or from nothing."""

    def __init__(self, command: dict[str, Any]) -> None:
        super().__init__()
        self.command = command


class Session:
    """One training.

    Args:
        case: what is solved and how.
        folder: where tensors are exchanged.
        link: gives the commands, takes the answers.
        command: the one it begins with: `state` names a file or is null, `softened` counts
            divergences.
    """

    def __init__(self, case: Case, folder: Path, link: Link, command: dict[str, Any]) -> None:
        assert isinstance(case.solver, DeepxdeOptions)
        self.options = case.solver
        self.folder = folder
        self.link = link
        self.softening = SOFTENED ** int(command["softened"])
        dde.grad.clear()
        translate.configure(case)
        self.translation = translate.Translation(case.problem)
        self.data = translate.training_data(self.translation, self.options)
        network = self.options.network
        sizes = [len(case.problem.coordinates), *[network.width] * network.depth]
        self.net = dde.nn.FNN(
            [*sizes, len(case.problem.fields)], network.activation, "Glorot normal"
        )
        self.model = dde.Model(self.data, self.net)
        self.weights = translate.loss_weights(self.translation, self.options.weights)
        self.terms = translate.term_names(self.translation)
        self.stage = 0
        self.stage_steps = 0
        self.since_resampling = 0
        self.reported = 0  # iterations made since the last report
        self.losses: list[Tensor] = []
        self._listen()
        self._left = 0.0  # iterations still to make before the next report
        self._deadline = 0.0
        self._waiting = False  # a command to advance has not been answered
        self._optimizer_state: dict[str, Any] | None = None
        if command["state"] is not None:
            self._restore(torch.load(folder / command["state"], weights_only=True))
        self._save_weights()
        link.send("begun", settings=self._settings(), weights=WEIGHTS)

    def _listen(self) -> None:
        """Keep the losses of every evaluation."""
        evaluate = self.data.losses_train

        def listening(*arguments: Any, **more: Any) -> Any:
            losses = evaluate(*arguments, **more)
            self.losses = [loss.detach() for loss in losses]
            return losses

        self.data.losses_train = listening

    def run(self) -> None:
        """Train through the stages; never returns, but raises `Begin` when asked to."""
        while self.stage < len(self.options.optimizer):
            stage = self.options.optimizer[self.stage]
            if isinstance(stage, DeepxdeAdam):
                self._adam(stage)
            else:
                self._lbfgs(stage)
            self.stage += 1
            self.stage_steps = self.since_resampling = 0
            self.model.opt = None
            self.report(stage.name)
        while True:
            self.wait()  # for the state to be asked for, or the end
            self.report("")

    # The conversation
    # ------------------------------------------------------------------------------------

    def made(self, steps: int, name: str, *, last: bool) -> None:
        """Count iterations; report where as many as were asked for are made.

        Args:
            steps: iterations made.
            name: of the optimiser.
            last: the stage ends here, and `run` will report.
        """
        self.stage_steps += steps
        self.reported += steps
        self._left -= steps
        if not last and (self._left <= 0 or time.monotonic() >= self._deadline):
            self.report(name)
            self.wait()

    def wait(self) -> None:
        """Do as told until told to advance."""
        while not self._waiting:
            command = self.link.receive()
            if command["do"] == "begin":
                raise Begin(command)
            if command["do"] == "state":
                torch.save(self._state(), self.folder / command["file"])
                self.link.send("state", file=command["file"])
            else:
                seconds, steps = command["seconds"], command["steps"]
                self._deadline = math.inf if seconds is None else time.monotonic() + seconds
                self._left = math.inf if steps is None else steps
                self._waiting = True

    def report(self, name: str) -> None:
        """Answer the command to advance."""
        losses = [
            weight * float(loss) for weight, loss in zip(self.weights, self.losses, strict=True)
        ]
        by_term: dict[str, float] = {}
        for term, loss in zip(self.terms, losses, strict=True):
            by_term[term] = by_term.get(term, 0.0) + loss
        self._save_weights()
        self.link.send(
            "progress",
            steps=self.reported,
            loss=sum(losses),
            losses=by_term,
            stage=name,
            done=self.stage >= len(self.options.optimizer),
            weights=WEIGHTS,
            peak_memory_mib=peak_memory_mib(),
        )
        self.reported = 0
        self._waiting = False

    def run_length(self, per_step: float | None) -> int:
        """Iterations of the next inner run of L-BFGS, at so many seconds for each."""
        length = FIRST_RUN if per_step is None else LONGEST_RUN
        if per_step is not None and math.isfinite(self._deadline):
            length = min(length, (self._deadline - time.monotonic()) / per_step)
        return max(SHORTEST_RUN, int(min(length, self._left)))

    # Stages
    # ------------------------------------------------------------------------------------

    def _adam(self, stage: DeepxdeAdam) -> None:
        rate = self.softening * stage.learning_rate
        self.model.compile("adam", lr=rate, loss_weights=self._given, verbose=0)
        self._load_optimizer(rate)
        callbacks: list[Any] = []
        if every := self.options.points.resample_every:
            # Not the points of the conditions: DeepXDE keeps their targets by the identity of an
            # array, and would compare new points with old values.
            resampler = dde.callbacks.PDEPointResampler(every, pde_points=True, bc_points=False)
            resampler.epochs_since_last_resample = self.since_resampling
            callbacks.append(resampler)
        callbacks.append(_AdamGate(self, stage.steps, callbacks[0] if callbacks else None))
        left = stage.steps - self.stage_steps
        # Losses are not printed, so they are not evaluated for it either.
        self.model.train(left, display_every=left + 1, callbacks=callbacks, verbose=0)

    def _lbfgs(self, stage: DeepxdeLbfgs) -> None:
        dde.optimizers.set_LBFGS_options(maxiter=stage.steps)
        self.model.compile("L-BFGS", loss_weights=self._given, verbose=0)
        self._load_optimizer(self.softening)
        self.model.train(callbacks=[_LbfgsGate(self, stage.steps)], verbose=0)

    @property
    def _given(self) -> list[float] | None:
        return None if set(self.weights) == {1.0} else self.weights

    def _load_optimizer(self, rate: float) -> None:
        if self._optimizer_state is not None:
            self.model.opt.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        for group in self.model.opt.param_groups:
            group["lr"] = rate

    # State
    # ------------------------------------------------------------------------------------

    def _save_weights(self) -> None:
        weights = {name: tensor.cpu() for name, tensor in self.net.state_dict().items()}
        torch.save(weights, self.folder / WEIGHTS)

    def _state(self) -> dict[str, Any]:
        """Everything that a training in another process needs to go on."""
        random: Any = np.random.get_state()
        name, keys, position, has_gauss, gauss = random
        optimizer = self._optimizer_state
        if self.model.opt is not None:
            optimizer = self.model.opt.state_dict()
        return {
            "stage": self.stage,
            "stage_steps": self.stage_steps,
            "since_resampling": self.since_resampling,
            "weights": {name: value.cpu() for name, value in self.net.state_dict().items()},
            "optimizer": _on_cpu(optimizer),
            "points": torch.as_tensor(self.data.train_x_all, device="cpu"),
            "condition_points": torch.as_tensor(self.data.train_x_bc, device="cpu"),
            "random": {
                "name": str(name),
                "keys": torch.as_tensor(keys.astype(np.int64), device="cpu"),
                "position": int(position),
                "has_gauss": int(has_gauss),
                "gauss": float(gauss),
            },
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.stage = int(state["stage"])
        self.stage_steps = int(state["stage_steps"])
        self.since_resampling = int(state["since_resampling"])
        self.net.load_state_dict(state["weights"])
        self._optimizer_state = state["optimizer"]
        data = self.data
        data.train_x, data.train_y, data.train_aux_vars = None, None, None
        data.train_x_all = state["points"].cpu().numpy()
        data.train_x_bc = state["condition_points"].cpu().numpy()
        data.train_next_batch()
        data.test_x = data.train_x
        random = state["random"]
        keys = random["keys"].cpu().numpy().astype(np.uint32)
        place = (random["position"], random["has_gauss"], random["gauss"])
        np.random.set_state((random["name"], keys, *place))

    def _settings(self) -> dict[str, Any]:
        """What DeepXDE was told, for the summary."""
        options = dde.optimizers.config.LBFGS_options
        stages = []
        for stage in self.options.optimizer:
            if isinstance(stage, DeepxdeAdam):
                stages.append(f"adam, lr {stage.learning_rate:g}, {stage.steps} iterations")
            else:
                named = ", ".join(f"{key} {options[key]:g}" for key in ("maxcor", "ftol", "gtol"))
                stages.append(f"L-BFGS, {named}, maxiter {stage.steps}")
        conditions = [
            f"{type(constraint.object).__name__.strip('_')}: {constraint.says} ({count} points)"
            for constraint, count in zip(
                self.translation.constraints, self.data.num_bcs, strict=True
            )
        ]
        network = self.options.network
        layers = f"{network.depth} x {network.width} {network.activation}"
        return {
            "version": dde.__version__,
            "backend": dde.backend.backend_name,
            "float": dde.config.default_float(),
            "network": f"FNN, {layers}, Glorot normal",
            "geometry": self.translation.shape,
            "distribution": SAMPLERS[self.options.points.sampler],
            "points": len(self.data.train_x_all),
            "conditions": conditions,
            "optimizers": stages,
        }


class _AdamGate(dde.callbacks.Callback):
    """Holds up Adam where the session has something to say."""

    def __init__(self, session: Session, steps: int, resampler: Any) -> None:
        super().__init__()
        self.session = session
        self.steps = steps
        self.resampler = resampler

    def on_train_begin(self) -> None:
        self.session.wait()

    def on_epoch_end(self) -> None:
        if self.resampler is not None:
            self.session.since_resampling = self.resampler.epochs_since_last_resample
        last = self.session.stage_steps + 1 >= self.steps
        self.session.made(1, "adam", last=last)


class _LbfgsGate(dde.callbacks.Callback):
    """Chooses the length of the inner runs of L-BFGS, and holds it up between them."""

    def __init__(self, session: Session, steps: int) -> None:
        super().__init__()
        self.session = session
        self.steps = steps
        self.per_step: float | None = None
        self.began = 0.0

    def on_train_begin(self) -> None:
        self.session.wait()

    def on_epoch_begin(self) -> None:
        left = self.steps - self.session.stage_steps
        length = min(self.session.run_length(self.per_step), max(left, SHORTEST_RUN))
        for group in self.model.opt.param_groups:
            group["max_iter"] = length
            group["max_eval"] = EVALUATIONS * length
        self.began = time.monotonic()

    def on_epoch_end(self) -> None:
        self._count()

    def on_train_end(self) -> None:
        # After the last inner run, found to have converged, DeepXDE does not call on_epoch_end.
        self.session.reported += self._new()

    def _count(self) -> None:
        made = self._new()
        if made == 0:  # the gradient is below its tolerance, and DeepXDE would try for ever
            self.model.stop_training = True
        else:
            self.per_step = (time.monotonic() - self.began) / made
        last = made == 0 or self.session.stage_steps + made >= self.steps
        self.session.made(made, "lbfgs", last=last)

    def _new(self) -> int:
        """Iterations since they were last counted."""
        state = next(iter(self.model.opt.state.values()), {})
        return int(state.get("n_iter", 0)) - self.session.stage_steps


def _on_cpu(state: Any) -> Any:
    """A copy of an optimiser's state whose tensors share nothing with it."""
    convert: Callable[[Any], Any] = _on_cpu
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: convert(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [convert(value) for value in state]
    return state
