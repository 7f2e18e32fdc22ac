"""From a case file for a model of series to a checked `TrajectoryCase`; and back to a file.

Such a case has the parts `trajectories`, `model`, `training` and `run`, and may say
`kind: trajectory`. Every error names file, line and key. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .... import yaml_source
from ....errors import ConfigurationError
from ....execution.case import Runnable
from ....execution.options import NAME, check_device
from ....overrides import Override, locate
from ....typed import build, build_variant, nearest, plain
from .options import FitOptions, ModelOptions, TrajectoryOptions, TrajectoryRun

__all__ = ["SECTIONS", "TrajectoryCase", "is_trajectory_case", "load_case", "make_case"]

SECTIONS = ("kind", "trajectories", "model", "training", "run")


@dataclass(frozen=True)
class TrajectoryCase(Runnable):
    """Series, a model, its training and a way to run it, all checked.

    Attributes:
        trajectories: where the series come from.
        model: which.
        training: how.
        run: seed, precision, budget, output; `run.name` is always filled in.
        source: the file it came from.
    """

    trajectories: TrajectoryOptions
    model: ModelOptions
    training: FitOptions
    run: TrajectoryRun  # type: ignore[reportIncompatibleVariableOverride]
    source: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """First part of the run folder's name."""
        return self.run.name or "trajectory"

    def resolved(self) -> dict[str, Any]:
        """The case as plain values with every default spelled out; loads again to an equal case."""
        found: dict[str, Any] = {"kind": "trajectory"}
        found |= {name: plain(getattr(self, name)) for name in SECTIONS[1:]}
        if found["trajectories"]["file"] is not None:
            found["trajectories"]["file"] = os.path.abspath(found["trajectories"]["file"])
        return found

    def reread(self, path: Path) -> TrajectoryCase:
        """See `Runnable.reread`."""
        return load_case(path)


def is_trajectory_case(data: Any) -> bool:
    """Whether the plain value of a YAML file is such a case, good or bad."""
    return isinstance(data, Mapping) and (
        "trajectories" in data or data.get("kind") == "trajectory"
    )


def make_case(
    data: Mapping[str, Any], *, name: str = "trajectory", source: str = ""
) -> TrajectoryCase:
    """A case from plain values, as they would stand in a file.

    Args:
        data: sections by name.
        name: of the run, where `run.name` is not given.
        source: where it comes from.

    Raises:
        ConfigurationError: anything is not as it should be; the path tells which value.
    """
    _check_sections(data)
    case = TrajectoryCase(
        build(TrajectoryOptions, data["trajectories"], ("trajectories",)),
        build_variant(ModelOptions, data.get("model", "neural_ode"), ("model",)),
        build(FitOptions, data.get("training") or {}, ("training",)),
        build(TrajectoryRun, data.get("run") or {}, ("run",)),
        source,
    )
    return case if case.run.name else replace(case, run=replace(case.run, name=name))


def load_case(
    path: str | Path, overrides: Sequence[str] = (), *, to_run: bool = False
) -> TrajectoryCase:
    """Read a case file.

    Args:
        path: a YAML file.
        overrides: texts such as "model.width=16", applied in order.
        to_run: refuse also what this machine cannot run.

    Raises:
        ConfigurationError: anything is not as it should be.
    """
    source = yaml_source.load(Path(path))
    changes = [Override.parse(text) for text in overrides]
    try:
        data = source.data
        _check_sections(data)
        for change in changes:
            data = change.apply(data)
        stem = Path(path).stem
        name = stem if re.fullmatch(NAME, stem) else "trajectory"
        case = make_case(_placed(data, Path(path).parent), name=name, source=str(path))
        if to_run:
            check_device(case.run.device)
        return case
    except ConfigurationError as error:
        raise locate(error, source, changes) from None


def _placed(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The same with its file, which is written relative to the case, found from anywhere."""
    section = data.get("trajectories")
    if not isinstance(section, Mapping) or not isinstance(section.get("file"), str):
        return data
    return {**data, "trajectories": {**section, "file": str(folder / section["file"])}}


def _check_sections(data: Any) -> None:
    if not isinstance(data, Mapping):
        raise ConfigurationError(
            "", found=data, advice=f"write a mapping with the keys {', '.join(SECTIONS)}"
        )
    for key in data:
        if key not in SECTIONS:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(key,), advice=nearest(str(key), SECTIONS)
            )
    if data.get("kind", "trajectory") != "trajectory":
        raise ConfigurationError(
            "", path=("kind",), found=data["kind"], advice="write kind: trajectory"
        )
    if data.get("trajectories") is None:
        raise ConfigurationError(
            "the series are missing",
            path=("trajectories",),
            advice="write 'trajectories: {system: lotka_volterra}'",
        )
