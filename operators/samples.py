"""The data of a case as it wants them: fields chosen, thinned to a resolution, split by use.

Nothing here imports torch: what is wrong with a file or with what is asked of it must be reported
before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import ConfigurationError
from ..typed import nearest
from .datasets.dataset import Dataset, Slot, refuse_leaks
from .datasets.readers import open as open_file
from .options import DataOptions, FnoOptions, NetworkOptions, TrainingOptions

__all__ = [
    "Part", "Samples", "check_network", "check_symmetries", "open_part", "open_samples", "thinned",
]  # fmt: skip

Boundary = Literal["dirichlet", "neumann", "periodic"]
BOUNDARIES = ("dirichlet", "neumann", "periodic")
FOUND_IN_ALL = 2
"""Instants of data that are one input and one output."""


@dataclass(frozen=True)
class Part:
    """Some samples of a file, and what of them is learnt.

    Attributes:
        data: the samples.
        steps: whether the map is from one instant to the next.
        history: instants that a step is made of.
        boundary: what lies outside the grid.
    """

    data: Dataset
    steps: bool
    history: int
    boundary: Boundary

    def __len__(self) -> int:
        return len(self.data)

    @property
    def static(self) -> tuple[Slot, ...]:
        """Inputs of a step that do not depend on time."""
        return tuple(slot for slot in self.data.input_slots if slot.source.times is None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input channels, in the order that the operator takes them."""
        if not self.steps:
            return self.data.input_channels
        states = [slot.name for slot in self.data.state_slots]
        return (*(slot.name for slot in self.static), *(states * self.history))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output channels."""
        if not self.steps:
            return self.data.output_channels
        return tuple(slot.name for slot in self.data.state_slots)

    @property
    def size(self) -> tuple[int, ...]:
        """Nodes along each coordinate."""
        return tuple(len(nodes) for nodes in self.data.grid.values())

    @property
    def periodic(self) -> tuple[bool, ...]:
        """By coordinate."""
        return tuple(self.boundary == "periodic" for _ in self.size)

    def of(self, data: Dataset) -> Part:
        """The same of other samples."""
        return dataclasses.replace(self, data=data)


@dataclass(frozen=True)
class Samples:
    """The data of a case by their use.

    Attributes:
        train: samples that are trained on.
        validation: samples that are watched; None where there are none.
        test: samples that are reported.
        notes: what a person should know.
    """

    train: Part
    validation: Part | None
    test: Part
    notes: tuple[str, ...] = ()


def open_samples(options: DataOptions) -> Samples:
    """Open the files of a case and check everything that can be checked without reading it all.

    Raises:
        ConfigurationError: the case asks for what the file does not hold; paths start with `data`.
        DataError: the file is none that is known, or splits share a sample.
    """
    splits = dict(options.splits or {})
    apart = options.test_file is not None
    test_rows = {options.test: splits.pop(options.test)} if apart and options.test in splits else {}
    try:
        whole = open_part(options, Path(options.file), splits)
        data = whole.data
        train = data.split(_known(data, options.train, "train"))
        if options.samples is not None and options.samples > len(train):
            raise ConfigurationError(
                f"the split '{options.train}' holds {len(train)} samples",
                path=("samples",),
                found=options.samples,
                advice=f"write a number up to {len(train)}",
            )
        train = train.select(slice(options.samples))
        validation, notes = None, list(data.notes)
        if options.validation in data.splits:
            validation = whole.of(data.split(str(options.validation)))
        elif options.validation is not None:
            notes.append(f"there is no split '{options.validation}': nothing is watched")
        if not apart:
            test = data.split(_known(data, options.test, "test"))
        else:
            other = open_part(options, Path(str(options.test_file)), test_rows)
            test = other.data
            if options.test in test.splits:
                test = test.split(options.test)
            _same_fields(whole, other.of(test))
            notes += [f"of the test, {note}" for note in test.notes if note not in notes]
            refuse_leaks({"train": train, "test": test})
        for name, found in (("train", train), ("test", test)):
            if not len(found):
                raise ConfigurationError("the split has no samples", path=(name,))
    except ConfigurationError as error:
        raise (error if error.file else error.under("data")) from None
    return Samples(whole.of(train), validation, whole.of(test), tuple(notes))


def open_part(
    options: DataOptions, path: Path, splits: Mapping[str, Sequence[int]] | None = None
) -> Part:
    """All samples of a file, with the fields and the resolution of a case.

    Args:
        options: of the case.
        path: the file; its own outputs and axes are those of `options`.
        splits: first sample and end by name; empty for those of the file.

    Raises:
        ConfigurationError: paths are relative to the section `data`.
        DataError: the file is none that is known.
    """
    axes = None if options.axes is None else (options.axes[0], options.axes[-1])
    data = open_file(path, outputs=options.outputs_file, axes=axes)
    for name, (first, end) in (splits or {}).items():
        if end > data.samples:
            raise ConfigurationError(
                f"{path} holds {data.samples} samples",
                path=("splits", name),
                found=[first, end],
                advice=f"write an end up to {data.samples}; where samples lie along another axis, "
                "write data.axes",
            )
    if splits:
        data = data.with_splits({name: tuple(ends) for name, ends in splits.items()})
    steps = options.map == "steps"
    if options.map == "auto":
        steps = data.times is not None and len(data.times) > FOUND_IN_ALL
    if steps:
        _check_instants(data, options.history)
    elif options.history != 1:
        raise ConfigurationError(
            "only a step in time has a history",
            path=("history",),
            found=options.history,
            advice="write history: 1, or map: steps",
        )
    data = _chosen(data, options, steps)
    data = dataclasses.replace(data, notes=(*data.notes, *_uneven(data)))
    if options.resolution is not None:
        data = thinned(data, options.resolution)
    return Part(data, steps, options.history, _boundary(data, options.boundary))


def check_network(network: NetworkOptions, samples: Samples) -> None:
    """Refuse a grid that the network cannot take, before it is trained for nothing.

    Raises:
        ConfigurationError: with the sizes that it can.
    """
    # Other networks bring a test to the grid of their training.
    tested = (samples.test,) if isinstance(network, FnoOptions) else ()
    for part in (samples.train, *tested):
        if reason := network.refusal(part.size):
            raise ConfigurationError(
                f"a grid of {part.size} nodes is too small for {network.name}: {reason}",
                path=("network",),
                advice="change the network, or data.resolution",
            )


VALID: Mapping[str, Sequence[str]] = {
    "darcy": ("square",),
    "darcy_rough": ("square",),
    "darcy_multiscale": ("square",),
    "burgers": ("shifts", "odd_mirror"),
    "advection": ("shifts",),
    "helmholtz": (),
    "navier_stokes": (),
}
"""Symmetries that equations of this suite's generators have; of others the person knows."""


def check_symmetries(training: TrainingOptions, network: NetworkOptions, part: Part) -> None:
    """Refuse what the equation or the domain of some data does not have.

    Raises:
        ConfigurationError: the family is known to lack it, the grid is no square, closes on itself
            nowhere or is no line, input and output are different fields, or the network's basis
            is that of the solutions as they lie.
    """
    square = len(part.size) == 2 and len(set(part.size)) == 1
    square = square and np.allclose(part.data.spacing, part.data.spacing[0], rtol=1e-6)
    same = set(part.inputs) == set(part.outputs) and not part.static
    wrong = {
        "square": (not square, "a square, with equal nodes"),
        "shifts": (not all(part.periodic), "a domain that closes on itself"),
        "odd_mirror": (len(part.size) != 1 or not same, "a line, and one field in and out"),
    }
    family = _family(part)
    for number, name in enumerate(training.symmetries):
        refused, needs = wrong[name]
        path = ("training", "symmetries", number)
        if refused:
            raise ConfigurationError(
                f"this symmetry needs {needs}; the data have {part.size} nodes, {part.boundary}",
                path=path, found=name, advice="remove it",
            )  # fmt: skip
        if name not in VALID.get(family, (name,)):
            raise ConfigurationError(
                f"the equation of {family} does not have it", path=path, found=name,
                advice="remove it",
            )  # fmt: skip
    if training.symmetries and getattr(network, "pod", False):
        raise ConfigurationError(
            "the basis is that of the solutions as they lie, not moved",
            path=("training", "symmetries"), advice="leave it out, or write network.pod: false",
        )  # fmt: skip


def _family(part: Part) -> str:
    """Of the generator that made the data; empty where it is not known."""
    text = part.data.attributes.get("request")
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return ""
    return str(found.get("family", "")) if isinstance(found, dict) else ""


def thinned(data: Dataset, resolution: int) -> Dataset:
    """Every so many nodes, so that `resolution` are left along the first coordinate.

    Raises:
        ConfigurationError: the nodes of the file do not contain so many; lists those they do.
    """
    (name, nodes), *_ = data.grid.items()
    count = len(nodes)
    kind = data.boundary[name]
    # A ring has as many steps as nodes; of what is unknown either may be meant.
    rings = {"periodic": (True,), "unknown": (False, True), "open": (False, True)}
    possible: dict[int, int] = {}
    for ring in rings.get(kind, (False,)):
        cells = count if ring else count - 1
        for stride in range(1, cells // 2 + 1):
            if cells % stride == 0:
                possible.setdefault(cells // stride + (not ring), stride)
    if resolution not in possible:
        shown = ", ".join(str(n) for n in sorted(possible)[-12:])
        raise ConfigurationError(
            f"the {count} nodes of {data.path} along {name} do not contain so many equal steps",
            path=("resolution",),
            found=resolution,
            advice=f"write one of {shown}",
        )
    return data.subsample(possible[resolution])


def _known(data: Dataset, name: str, use: str) -> str:
    """The name of a split that there is."""
    if name in data.splits:
        return name
    advice = "write 'splits: {train: [0, 1000], test: [1000, 1200]}' under data"
    if data.splits:
        advice = nearest(name, data.splits)
    raise ConfigurationError(f"{data.path} has no split '{name}'", path=(use,), advice=advice)


def _check_instants(data: Dataset, history: int) -> None:
    count = 0 if data.times is None else len(data.times)
    if count == 0:
        raise ConfigurationError(
            f"{data.path} holds no states in time", path=("map",), advice="write map: pairs"
        )
    if count <= history:
        raise ConfigurationError(
            f"{data.path} holds {count} instants",
            path=("history",),
            found=history,
            advice=f"write a number below {count}",
        )
    assert data.times is not None
    apart = np.diff(data.times)
    if not np.allclose(apart, apart[0], rtol=1e-3):
        raise ConfigurationError(
            f"the instants of {data.path} are not equally far apart, so that no one step leads "
            "from each to the next",
            path=("map",),
            advice="write map: pairs",
        )


def _uneven(data: Dataset) -> Iterator[str]:
    """A note for each coordinate whose nodes are not equally far apart."""
    for name, nodes in data.grid.items():
        apart = np.diff(nodes)
        if not np.allclose(apart, apart[0], rtol=1e-3):
            yield (
                f"nodes of {data.path} along {name} are not equally far apart, as networks and "
                "losses take them to be"
            )


def _chosen(data: Dataset, options: DataOptions, steps: bool) -> Dataset:
    """The same with the fields that are asked for."""
    changes: dict[str, Any] = {}
    if steps:
        states = _picked(data.state_slots, options.outputs, "outputs")
        static = [slot for slot in data.input_slots if slot.source.times is None]
        picked = _picked(tuple(static), options.inputs, "inputs")
        first = [slot for slot in data.input_slots if slot.name in {s.name for s in states}]
        timed = [slot for slot in first if slot.source.times is not None]
        changes = {"state_slots": states, "input_slots": (*picked, *timed)}
        changes["output_slots"] = _picked(data.output_slots, [s.name for s in states], "outputs")
    else:
        changes["input_slots"] = _picked(data.input_slots, options.inputs, "inputs")
        changes["output_slots"] = _picked(data.output_slots, options.outputs, "outputs")
    return dataclasses.replace(data, **changes)


def _picked(slots: tuple[Slot, ...], names: Sequence[str] | None, key: str) -> tuple[Slot, ...]:
    if names is None:
        return slots
    by_name = {slot.name: slot for slot in slots}
    for position, name in enumerate(names):
        if name not in by_name:
            raise ConfigurationError(
                "the file has no such field",
                path=(key, position),
                found=name,
                advice=nearest(name, by_name),
            )
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            "", path=(key,), found=list(names), advice="name at least one field, each once"
        )
    return tuple(by_name[name] for name in names)


def _boundary(data: Dataset, asked: str) -> Boundary:
    found = set(data.boundary.values())
    if asked != "auto":
        said = {kind for kind in found if kind in BOUNDARIES}
        if said and ("periodic" in said) != (asked == "periodic"):
            raise ConfigurationError(
                f"{data.path} says {', '.join(sorted(said))}: its last node is "
                + ("a neighbour of" if "periodic" in said else "not beside") + " the first",
                path=("boundary",), found=asked, advice="write boundary: auto",
            )  # fmt: skip
        return asked  # type: ignore[return-value]
    if len(found) == 1 and (kind := found.pop()) in BOUNDARIES:
        return kind  # type: ignore[return-value]
    said = ", ".join(f"{name}: {kind}" for name, kind in data.boundary.items())
    raise ConfigurationError(
        f"{data.path} does not say one condition for all sides ({said})",
        path=("boundary",),
        advice=f"write boundary: {', '.join(BOUNDARIES[:-1])} or {BOUNDARIES[-1]}, for what is "
        "nearest",
    )


def _same_fields(one: Part, other: Part) -> None:
    """Refuse a test of other fields or another grid."""
    if (one.inputs, one.outputs) != (other.inputs, other.outputs):
        raise ConfigurationError(
            f"{other.data.path} holds {', '.join(other.inputs)} and {', '.join(other.outputs)} "
            f"where {one.data.path} holds {', '.join(one.inputs)} and {', '.join(one.outputs)}",
            path=("test_file",),
            advice="name the fields by inputs and outputs, or give another file",
        )
    if len(one.size) != len(other.size):
        raise ConfigurationError(
            f"{other.data.path} has {len(other.size)} coordinates, not {len(one.size)}",
            path=("test_file",),
        )
    if one.boundary != other.boundary:
        raise ConfigurationError(
            f"{other.data.path} is {other.boundary} where {one.data.path} is {one.boundary}",
            path=("test_file",),
            advice="give another file, or write data.boundary for both",
        )
