"""From a case file for operators to a checked `OperatorCase`; and back to a file.

Such a case has the parts `data` (a file and what of it is learnt), `network`, `training`, `run`
and, where an equation is to teach too, `physics`. Every error names file, line and key, and says
what to write. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import yaml_source
from ..errors import ConfigurationError
from ..execution.case import Runnable
from ..execution.options import NAME, check_device
from ..overrides import Override, locate
from ..typed import build, build_variant, nearest, plain
from .coarse import check_coarse
from .laws import law_of
from .options import DataOptions, NetworkOptions, OperatorRun, PhysicsOptions, TrainingOptions
from .samples import check_network, check_symmetries, open_samples

__all__ = ["OperatorCase", "SECTIONS", "is_operator_case", "load_case", "make_case"]

SECTIONS = ("data", "network", "training", "run", "physics")
FILES = ("file", "outputs_file", "test_file")


@dataclass(frozen=True)
class OperatorCase(Runnable):
    """Data, a network, its training and a way to run it, all checked.

    Attributes:
        data: what is learnt; paths are relative to where the program runs, or absolute.
        network: which operator.
        training: how.
        run: seed, precision, budget, output; `run.name` is always filled in.
        source: the file it came from.
        physics: the equation that teaches too; None where only the data do.
    """

    data: DataOptions
    network: NetworkOptions
    training: TrainingOptions
    run: OperatorRun  # type: ignore[reportIncompatibleVariableOverride]
    source: str = field(default="", compare=False)
    physics: PhysicsOptions | None = None

    @property
    def name(self) -> str:
        """First part of the run folder's name."""
        return self.run.name or "operator"

    def resolved(self) -> dict[str, Any]:
        """The case as plain values with every default spelled out; loads again to an equal case."""
        parts = {name: getattr(self, name) for name in SECTIONS}
        found = {name: plain(part) for name, part in parts.items() if part is not None}
        for key in FILES:
            if found["data"][key] is not None:
                found["data"][key] = os.path.abspath(found["data"][key])
        return found

    def reread(self, path: Path) -> OperatorCase:
        """See `Runnable.reread`."""
        return load_case(path)


def is_operator_case(data: Any) -> bool:
    """Whether the plain value of a YAML file is a case for operators, good or bad."""
    return isinstance(data, Mapping) and "data" in data and "problem" not in data


def make_case(data: Mapping[str, Any], *, name: str = "operator", source: str = "") -> OperatorCase:
    """A case from plain values, as they would stand in a file.

    Args:
        data: sections by name.
        name: of the run, where `run.name` is not given.
        source: where it comes from.

    Raises:
        ConfigurationError: anything is not as it should be; the path tells which value.
    """
    _check_sections(data)
    network, physics = data.get("network", "mgno"), data.get("physics")
    case = OperatorCase(
        build(DataOptions, data["data"], ("data",)),
        build_variant(NetworkOptions, network, ("network",)),
        build(TrainingOptions, data.get("training") or {}, ("training",)),
        build(OperatorRun, data.get("run") or {}, ("run",)),
        source,
        None if physics is None else build(PhysicsOptions, physics, ("physics",)),
    )
    if case.run.name is None:
        case = replace(case, run=replace(case.run, name=name))
    if case.training.mixed_precision and case.run.dtype == "float64":
        raise ConfigurationError(
            "bfloat16 beside float64 saves nothing",
            path=("training", "mixed_precision"),
            advice="write 'run: {dtype: float32}', or leave mixed_precision out",
        )
    if case.training.epochs is None and case.run.budget is None and case.run.steps is None:
        raise ConfigurationError(
            "without epochs the training needs another end",
            path=("training", "epochs"),
            advice="write 'run: {budget: 10 min}', or a number of epochs",
        )
    return case


def load_case(
    path: str | Path, overrides: Sequence[str] = (), *, to_run: bool = False
) -> OperatorCase:
    """Read a case file.

    Args:
        path: a YAML file.
        overrides: texts such as "network.width=16", applied in order.
        to_run: refuse also what this machine cannot run, and data that do not fit.

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
        name = stem if re.fullmatch(NAME, stem) else "operator"
        case = make_case(_placed(data, Path(path).parent), name=name, source=str(path))
        if to_run:
            check_device(case.run.device)
            samples = open_samples(case.data)
            check_network(case.network, samples)
            check_symmetries(case.training, case.network, samples.train)
            check_coarse(case.data.coarse, samples)
            if case.physics is not None:
                law_of(case.physics, samples.train)
        return case
    except ConfigurationError as error:
        raise locate(error, source, changes) from None


def _placed(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The same with files, which are written relative to the case, found from anywhere."""
    section = data.get("data")
    if not isinstance(section, Mapping):
        return data
    found = {
        key: str(folder / section[key])
        for key in FILES
        if isinstance(section.get(key), str) and section[key]
    }
    return {**data, "data": {**section, **found}}


def _check_sections(data: Any) -> None:
    if not isinstance(data, Mapping):
        raise ConfigurationError(
            "", found=data, advice=f"write a mapping with the keys {', '.join(SECTIONS)}"
        )
    if "problem" in data:
        raise ConfigurationError(
            "this is a case that is solved, not one that is learnt from data",
            path=("problem",),
            advice="run it by: residua solve",
        )
    for key in data:
        if key not in SECTIONS:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(key,), advice=nearest(str(key), SECTIONS)
            )
    if data.get("data") is None:
        raise ConfigurationError(
            "the data are missing", path=("data",), advice="write 'data: {file: darcy_64.h5}'"
        )
