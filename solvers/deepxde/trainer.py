"""The backend `deepxde`: another program solves the problem, in the same loop and report.

DeepXDE trains in a process of its own (`process`, `worker`). A step of the loop is as many of its
iterations as fit half a second; the weights come back with each, and are put into a network of
ours, so that errors, figures, files and derivatives need no DeepXDE.

A stopped run goes on from the worker's whole state: weights, memory of the optimiser, points and
random numbers. On the CPU Adam then repeats an uninterrupted run bit for bit, and L-BFGS up to the
iterations after which DeepXDE looks whether it has converged, which an interruption shifts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import Case
from ...engine import sampling
from ...engine.fit import Progress
from ...engine.networks.embedding import Embedding
from ...engine.networks.field import Field
from ...engine.networks.mlp import Mlp
from ...engine.residuals import PointSet, ResidualEngine, interior_term
from ..trainer import Present
from .options import DeepxdeLbfgs, DeepxdeOptions
from .process import Worker

__all__ = ["Deepxde"]

PACE = 0.5
"""Seconds between reports."""
COPIED = 1e7
"""Bytes of the worker's state for a second between reports, so that copying takes a small share: it
goes through a file and back at some 200 MB/s."""
STEPS = 100
"""Iterations between reports of a run that repeats exactly."""
FRESH_POINTS = 4096
"""Points on which the residual is looked at in the end."""


class Deepxde:
    """Trainer of a case; see `residua.solvers.trainer.SolverTrainer`.

    Args:
        case: what is solved and how.
        device: where.

    Raises:
        ConfigurationError: DeepXDE is not installed.
        ResourceError: its process could not be started.
    """

    windows = 1
    reached = 1

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case = case
        self.problem = case.problem
        self.options = _options(case)
        self.device = device
        self.dtype = torch.float32 if case.run.dtype == "float32" else torch.float64
        self.notes: list[str] = []
        lbfgs = any(isinstance(stage, DeepxdeLbfgs) for stage in self.options.optimizer)
        if lbfgs and case.run.dtype == "float32":
            self.notes.append("L-BFGS stops early in float32; DeepXDE too advises float64")
        self.field = self.rebuild(case, self.architecture).to(device)
        self.iterations = 0
        self.softened = 0
        self.settings: dict[str, Any] = {}
        self.peak: float | None = None
        # The worker's state to begin from; afterwards it is kept by the worker alone.
        self._pending: dict[str, Any] | None = None
        self._begun = False
        self._pace = PACE
        self.worker = Worker(
            case.text(),
            {
                "device": device.type,
                "threads": case.run.threads or torch.get_num_threads(),
                "deterministic": case.run.deterministic,
            },
            case.files(),
        )

    # What the loop asks
    # ------------------------------------------------------------------------------------

    def step(self, seconds_left: float) -> Progress:
        """A few iterations; see `residua.engine.fit.Trainer`."""
        self._begin()
        left = math.inf if self.case.run.steps is None else self.case.run.steps - self.iterations
        seconds: float | None = min(self._pace, max(seconds_left, 0.0))
        if self.case.run.deterministic:
            left, seconds = min(left, STEPS), None
        steps = None if math.isinf(left) else left
        answer = self.worker.ask("advance", "progress", seconds=seconds, steps=steps)
        self._show(self.worker.tensors(answer["weights"]))
        self.iterations += answer["steps"]
        self.peak = answer["peak_memory_mib"]
        return Progress(
            answer["loss"], answer["losses"], answer["stage"], answer["done"], answer["steps"]
        )

    def soften(self) -> None:
        """Half the step size, from the next `load_state_dict` or beginning on."""
        self.softened += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "iterations": self.iterations,
            "softened": self.softened,
            "settings": dict(self.settings),
            "peak_memory_mib": self.peak,
            "worker": self._worker_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; the worker begins again from it at the next step."""
        self._show(state["worker"]["weights"])
        self.iterations = int(state["iterations"])
        self.softened = int(state["softened"])
        self.settings = dict(state["settings"])
        self.peak = state["peak_memory_mib"]
        self._pending = state["worker"]
        self._begun = False

    # What the run asks
    # ------------------------------------------------------------------------------------

    @property
    def architecture(self) -> dict[str, Any]:
        """See `SolverTrainer.architecture`."""
        return {"network": "fnn"}

    @property
    def present(self) -> Present:
        """The whole domain."""
        return Present(0, self.problem.bounds, self.field)

    @property
    def parameter_count(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.field.parameters())

    @property
    def residual_count(self) -> int:
        """Of the equations; about that many, for DeepXDE counts points of faces among them."""
        return self.options.points.interior * len(self.problem.equations)

    def residuals(self) -> list[dict[str, float]]:
        """See `SolverTrainer.residuals`; both by the engine of Residua."""
        trained = self._worker_state()["points"]
        seed = (self.case.run.seed, 0, 3_000, 0)
        fresh = sampling.interior(self.problem.bounds, FRESH_POINTS, "sobol", seed)
        place = torch.argsort(torch.tensor(_order(self.case)))
        return [
            {
                "training": self._residual(trained[:, place]),
                "fresh": self._residual(torch.as_tensor(np.array(fresh))),
            }
        ]

    def report(self) -> dict[str, Any]:
        """What DeepXDE was told, and the memory of its process."""
        peak = {} if self.peak is None else {"peak_memory_mib": self.peak}
        return {"deepxde": self.settings, **peak}

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

    @staticmethod
    def rebuild(case: Case, architecture: Mapping[str, Any]) -> Field:
        """DeepXDE's network as a field: the raw coordinates, in declared order, are its features.

        Raises:
            ValueError: it is none of this backend's.
        """
        if architecture.get("network") != "fnn":
            raise ValueError(f"network: found {architecture.get('network')!r}, not 'fnn'")
        network = _options(case).network
        # On [-1, 1] the scaling of the embedding is the identity.
        embedding = Embedding(
            [(-1.0, 1.0)] * len(case.problem.coordinates),
            periodic={},
            generator=torch.Generator(),
        )
        field = Mlp(
            embedding,
            len(case.problem.fields),
            width=network.width,
            depth=network.depth,
            activation=network.activation,
            generator=torch.Generator().manual_seed(case.run.seed),
        )
        field.to(torch.float32 if case.run.dtype == "float32" else torch.float64)
        return field.requires_grad_(False)

    # The worker
    # ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._begun:
            return
        name = None
        if self._pending is not None:
            name = "begin.pt"
            torch.save(self._pending, self.worker.folder / name)
        answer = self.worker.ask("begin", "begun", state=name, softened=self.softened)
        self.settings = answer["settings"]
        self._show(self.worker.tensors(answer["weights"]))
        self._begun, self._pending = True, None

    def _worker_state(self) -> dict[str, Any]:
        if self._pending is not None:
            return self._pending
        self._begin()
        answer = self.worker.ask("state", "state", file="state.pt")
        size = (self.worker.folder / answer["file"]).stat().st_size
        self._pace = max(PACE, size / COPIED)
        return self.worker.tensors(answer["file"])

    def _show(self, weights: Mapping[str, Tensor]) -> None:
        """Put DeepXDE's weights into the field."""
        self.field.load_state_dict(_native(weights, _order(self.case)))

    def _residual(self, points: Tensor) -> float:
        points = points.to(self.device, self.dtype)
        weights = torch.ones(len(points), dtype=self.dtype, device=self.device)
        engine = ResidualEngine(self.problem, self.field, [interior_term(self.problem)])
        with torch.no_grad():
            found = engine.residuals({"interior": PointSet(points, weights)})["interior"]
        return float(found.double().square().mean().sqrt())


def _options(case: Case) -> DeepxdeOptions:
    assert isinstance(case.solver, DeepxdeOptions), f"{case.solver.name} is another backend"
    return case.solver


def _order(case: Case) -> list[int]:
    """Declared place of each column of DeepXDE's points: time is last."""
    names = case.problem.coordinates
    return sorted(range(len(names)), key=lambda place: names[place] == case.problem.time)


def _native(weights: Mapping[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """Weights of DeepXDE's FNN under the names of our `Mlp`, the inputs in declared order."""
    last = max(int(name.split(".")[1]) for name in weights)
    found = {}
    for name, value in weights.items():
        _, number, kind = name.split(".")
        if name == "linears.0.weight":
            columns, value = value, torch.empty_like(value)
            value[:, order] = columns
        place = "readout" if int(number) == last else f"hidden.{number}"
        found[f"{place}.{kind}"] = value
    return found
