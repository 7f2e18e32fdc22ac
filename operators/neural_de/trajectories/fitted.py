"""A trained model of series: NumPy in, NumPy out, written and read.

model = residua.load_trajectory_model("runs/prey-1f0c2a9b")
states = model.predict(times, starts)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ....atomic import replacing, write_atomic
from ....errors import ConfigurationError, DataError, ResiduaError
from ....execution.folder import configuration_in
from ....execution.summary import to_json
from ....execution.weights import Kind, read_header, read_weights, write_weights
from ..registry import build_model
from .case import TrajectoryCase, load_case
from .series import Series

__all__ = ["KIND", "TrajectoryModel", "load"]

KIND = Kind("residua-trajectory-model", 1, "a model of series")
STORED = "model.h5"
SUMMARY = "summary.json"
ADVICE = "give the folder of a finished run of residua train"


@dataclasses.dataclass(frozen=True, eq=False)
class TrajectoryModel:
    """A model that was trained.

    Attributes:
        case: the configuration it came from.
        model: the module.
        channels: of the series.
        classes: of the series; None without labels.
        status: how training ended, as a sentence.
        metadata: plain values of the summary.
    """

    case: TrajectoryCase
    model: nn.Module
    channels: int
    classes: int | None
    status: str
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def predict(self, times: Any, values: Any) -> NDArray[Any]:
        """What the model says of series.

        Args:
            times: shape (n,), or (batch, n).
            values: shape (batch, n, channels), NaN where nothing is known, or (batch, channels):
                the first values.

        Returns:
            What the model's own `predict` gives: states (batch, n, channels), or the share of each
            class (batch, classes).

        Raises:
            ConfigurationError: the model generates series instead; see `sample`.
            DataError: shapes do not fit.
        """
        if not hasattr(self.model, "predict"):
            raise ConfigurationError(
                f"{self.case.model.name} predicts nothing", advice="call sample(times, count)"
            )
        times = np.asarray(times, np.float64)
        values = np.asarray(values, np.float64)
        if values.ndim == 2:
            whole = np.full((len(values), times.shape[-1], values.shape[1]), np.nan)
            whole[:, 0] = values
            values = whole
        times = np.broadcast_to(times, values.shape[:2]) if times.ndim == 1 else times
        if values.ndim != 3 or values.shape[2] != self.channels:
            raise DataError(f"values: found shape {values.shape}; give (batch, n, {self.channels})")
        series = Series(
            torch.from_numpy(times.copy()), torch.from_numpy(values.copy()),
            torch.full((len(values),), values.shape[1]),
        )  # fmt: skip
        with torch.no_grad():
            return self.model.predict(series).cpu().numpy()  # type: ignore[operator]

    def sample(self, times: Any, count: int, seed: int = 0) -> NDArray[Any]:
        """Series that a generative model makes, shape (count, n, channels).

        Raises:
            ConfigurationError: the model predicts instead; see `predict`.
        """
        if not hasattr(self.model, "sample"):
            raise ConfigurationError(
                f"{self.case.model.name} generates nothing", advice="call predict(times, values)"
            )
        generator = torch.Generator().manual_seed(seed)
        grid = torch.as_tensor(np.asarray(times, np.float64))
        with torch.no_grad():
            found = self.model.sample(grid, count, generator)  # type: ignore[operator]
        return found.cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write model.h5 and summary.json into a run folder.

        Raises:
            ResourceError: something cannot be written.
        """
        attributes = {
            "status": self.status,
            "seed": self.case.run.seed,
            "case_identity": self.case.identity(),
        }
        tensors = {k: v.detach().cpu().numpy() for k, v in self.model.state_dict().items()}
        with replacing(folder / STORED) as temporary, h5py.File(temporary, "w") as file:
            KIND.mark(file, attributes)
            write_weights(file, tensors, {"channels": self.channels, "classes": self.classes})
        write_atomic(folder / SUMMARY, to_json({"status": self.status, **self.metadata}))


def load(folder: str | Path) -> TrajectoryModel:
    """The model that a run left in its folder.

    Raises:
        DataError: a file of the folder is missing, damaged, or does not belong to the others.
    """
    folder = Path(folder)
    configuration, stored = configuration_in(folder, ADVICE), folder / STORED
    try:
        case = load_case(configuration)
    except ResiduaError as error:
        raise DataError(f"{configuration}: is no case for series: {error}; {ADVICE}") from error
    attributes, shape = read_header(stored, KIND)
    if attributes.get("case_identity") != case.identity():
        raise DataError(f"{stored}: was not made by {configuration.name} beside it; run it again")
    try:
        channels, classes = int(shape["channels"]), shape["classes"]
        model = build_model(
            case.model, channels, classes, getattr(torch, case.run.dtype), case.run.seed
        )
    except (ResiduaError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{stored}: its shape does not fit {configuration.name}: {error}") from None
    state = model.state_dict()
    weights = read_weights(stored, KIND, {name: tuple(t.shape) for name, t in state.items()})
    for name, array in weights.items():
        state[name] = torch.from_numpy(array).to(state[name].dtype)
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    return TrajectoryModel(case, model, channels, classes, str(attributes.get("status", "")))
