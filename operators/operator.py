"""A trained operator: a function from fields to fields on grids of any resolution.

operator = residua.load_operator("runs/darcy-1f0c2a9b")
u = operator(a)  # NumPy (samples, channels, *nodes) -> (samples, channels, *nodes)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..atomic import replacing, write_atomic
from ..errors import ConfigurationError, DataError, ResiduaError
from ..execution.folder import configuration_in
from ..execution.summary import to_json
from ..execution.weights import Kind, read_header, read_weights, write_weights
from .build import Shape, build_model
from .case import OperatorCase, load_case
from .coarse import coarse_solutions
from .normalisation import Normalised
from .training import rollout

__all__ = ["KIND", "Operator", "load"]

KIND = Kind("residua-operator", 1, "an operator")
STORED = "operator.h5"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
ADVICE = "give the folder of a finished run of residua train"
CHUNK = 1 << 18
"""Nodes that are evaluated at once, all samples together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A trained map between functions.

    Attributes:
        case: the configuration it came from.
        model: the network, between fields in the user's units.
        shape: names and numbers of its channels, and the grid it was trained on.
        status: how training ended, as a sentence.
        history: records of training, as in metrics.jsonl.
        metadata: plain values of the summary.
    """

    case: OperatorCase
    model: Normalised
    shape: Shape
    status: str
    history: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, inputs: Any) -> NDArray[Any]:
        """Apply the operator.

        Args:
            inputs: shape (samples, channels, *nodes), or (channels, *nodes) for one sample, in
                units of the data; the channels are `shape.given`. Any number of nodes that the
                network can take, on the same domain.

        Returns:
            Fields of the channels `shape.outputs`, on the same nodes, in the precision of the
            model.

        Raises:
            ConfigurationError: another shape, or a grid that the network cannot take.
            DataError: a value is not finite.
        """
        fields, single = self.fields(inputs)
        with torch.no_grad():
            blocks = [self.model(block) for block in fields.split(self._block(fields))]
        found = torch.cat(blocks).cpu().numpy()
        return found[0] if single else found

    def rollout(self, inputs: Any, steps: int) -> NDArray[Any]:
        """Apply a step in time again and again.

        Args:
            inputs: what the first step takes, as for a call.
            steps: how many.

        Returns:
            The states after the first, shape (samples, steps, channels, *nodes).

        Raises:
            ConfigurationError: the operator is no step in time, no steps, or as for a call.
            DataError: a value is not finite.
        """
        if not self.steps:
            raise ConfigurationError(
                "this operator is no step in time", advice="train one with data: {map: steps}"
            )
        if steps < 1:
            raise ConfigurationError("", path=("steps",), found=steps, advice="write 1 or more")
        fields, single = self.fields(inputs)
        blocks = []
        for block in fields.split(self._block(fields)):
            states = list(rollout(self.model, block, steps, self.shape.static))
            blocks.append(torch.stack(states, 1).cpu())
        found = torch.cat(blocks).numpy()
        return found[0] if single else found

    @property
    def steps(self) -> bool:
        """Whether it leads from one instant to the next."""
        return self.shape.residual and self.metadata.get("map") == "steps"

    def refusal(self, size: Sequence[int]) -> str | None:
        """Why a grid of these nodes cannot be taken; None where it can."""
        if self.model.grid is None:
            return self.case.network.refusal(size)
        # Whatever comes is brought to the grid of the training.
        return None if min(size) >= 2 else "at least 2 nodes are needed along each coordinate"

    def _block(self, fields: Tensor) -> int:
        return max(1, CHUNK // max(1, fields[0, 0].numel()))

    def fields(self, inputs: Any) -> tuple[Tensor, bool]:
        """What the model takes for the inputs of a call, and whether they are of one sample.

        Raises:
            ConfigurationError: another shape, or a grid that the network cannot take.
            DataError: a value is not finite.
        """
        parameter = next(self.model.parameters())
        # Copied: torch takes no reversed or read-only arrays.
        fields = torch.from_numpy(np.array(inputs, dtype=np.float64)).to(parameter)
        dimension, names = len(self.shape.size), self.shape.given
        single = fields.ndim == dimension + 1
        fields = fields[None] if single else fields
        if fields.ndim != dimension + 2 or fields.shape[1] != len(names) or not len(fields):
            raise ConfigurationError(
                f"inputs: found shape {tuple(np.shape(inputs))}",
                advice=f"give (samples, {len(names)}, {'n, ' * dimension}), the channels being "
                f"{', '.join(names)}".replace(", )", ")"),
            )
        if reason := self.refusal(fields.shape[2:]):
            raise ConfigurationError(f"inputs: found shape {tuple(fields.shape)}", advice=reason)
        if not bool(fields.isfinite().all()):
            raise DataError("inputs: a value is not finite")
        if self.shape.coarse:
            solved = coarse_solutions(fields.cpu().numpy(), self.shape.coarse, self.shape.source)
            fields = torch.cat([fields, torch.from_numpy(solved).to(fields)], 1)
        return fields, single

    def save(self, folder: Path) -> None:
        """Write operator.h5 and summary.json into a run folder.

        Raises:
            ResourceError: something cannot be written.
        """
        attributes = {
            "status": self.status,
            "seed": self.case.run.seed,
            "case_identity": self.case.identity(),
            "map": self.metadata.get("map"),
        }
        tensors = {k: v.detach().cpu().numpy() for k, v in self.model.state_dict().items()}
        with replacing(folder / STORED) as temporary, h5py.File(temporary, "w") as file:
            KIND.mark(file, attributes)
            write_weights(file, tensors, self.shape.plain())
        write_atomic(folder / SUMMARY, to_json({"status": self.status, **self.metadata}))


def load(folder: str | Path) -> Operator:
    """The operator that a run left in its folder.

    Raises:
        DataError: a file of the folder is missing, damaged, or does not belong to the others.
    """
    folder = Path(folder)
    configuration, stored = configuration_in(folder, ADVICE), folder / STORED
    try:
        case = load_case(configuration)
    except ResiduaError as error:
        raise DataError(f"{configuration}: is no case for operators: {error}; {ADVICE}") from error
    attributes, architecture = read_header(stored, KIND)
    if attributes.get("case_identity") != case.identity():
        raise DataError(f"{stored}: was not made by {configuration.name} beside it; run it again")
    try:
        shape = Shape.read(architecture)
        model = build_model(case.network, shape, torch.Generator())
    except (ResiduaError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{stored}: its shape does not fit {configuration.name}: {error}") from None
    model = model.to(getattr(torch, case.run.dtype))
    state = model.state_dict()
    weights = read_weights(stored, KIND, {name: tuple(t.shape) for name, t in state.items()})
    for name, array in weights.items():
        state[name] = torch.from_numpy(array).to(state[name].dtype)
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    return Operator(
        case,
        model,
        shape,
        str(attributes.get("status", "")),
        _records(folder / METRICS),
        {**_summary(folder / SUMMARY), "map": attributes.get("map")},
    )


def _records(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
        return tuple(json.loads(line) for line in lines)
    except (OSError, ValueError, RecursionError):  # costs the history only
        return ()


def _summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
