"""A data set as a program sees it, whatever file it lies in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError, DataError
from ...typed import nearest
from .layout import digest
from .sources import Source, refuse
from .splits import check_digests, check_disjoint

__all__ = ["Dataset", "Lazy", "Slot", "refuse_leaks"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

_BLOCK = 64
"""Samples read at once where all are gone through."""


@dataclass(frozen=True)
class Slot:
    """A channel: a source, and the instant it is taken at where it depends on time."""

    name: str
    source: Source
    instant: int | None = None


class Lazy:
    """Channels of samples as one array that is read when it is indexed.

    Indexing by a number, a slice or a list of numbers along the first axis gives a NumPy array.

    Args:
        slots: the channels.
        rows: numbers of the samples in the file.
        stride: nodes of the file from one to the next, by coordinate.
        timed: whether all instants are read, as an axis after that of samples.
    """

    def __init__(self, slots: Sequence[Slot], rows: Rows, stride: int, *, timed: bool) -> None:
        self.slots, self.rows, self.stride, self.timed = tuple(slots), rows, stride, timed

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, [times,] channels, *nodes)."""
        first = self.slots[0].source
        space = tuple(-(-n // self.stride) for n in first.space)
        times = (first.times or 1,) if self.timed else ()
        return (len(self.rows), *times, len(self.slots), *space)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: float32 or float64."""
        kinds = [np.result_type(slot.source.dtype, np.float32) for slot in self.slots]
        return np.result_type(*kinds)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> NDArray[Any]:
        """Read samples; shape as `shape`, without the first axis for a single number."""
        single = isinstance(index, int | np.integer)
        if isinstance(index, int | np.integer) and not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, and {index} is none of them")
        rows = self.rows[[int(index)] if isinstance(index, int | np.integer) else index]
        shape = (len(rows), *self.shape[1:])
        values = np.empty(shape, dtype=self.dtype)
        if len(rows):
            distinct, back = np.unique(rows, return_inverse=True)
            for channel, slot in enumerate(self.slots):
                place = (slice(None),) * (1 + self.timed) + (channel,)
                values[place] = self._channel(slot, distinct)[back]
        return values[0] if single else values

    def _channel(self, slot: Slot, rows: Rows) -> NDArray[Any]:
        thin = (slice(None, None, self.stride),) * len(slot.source.space)
        if slot.source.times is None:
            return slot.source.read(rows)[(slice(None), *thin)]
        if self.timed:
            return slot.source.read(rows)[(slice(None), slice(None), *thin)]
        instant = (slot.instant or 0) % slot.source.times
        return slot.source.read(rows, slice(instant, instant + 1))[(slice(None), 0, *thin)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Everything; NumPy asks by this name."""
        values = self[:]
        return values if dtype is None else values.astype(dtype)


@dataclass(frozen=True)
class Dataset:
    """Samples of input and output functions on a common grid, or of states in time.

    Attributes:
        path: the file.
        layout: what kind of file it is, in words.
        grid: nodes by space coordinate.
        boundary: periodic, dirichlet, neumann, wall, open or unknown, by space coordinate.
        input_slots: channels of the inputs.
        output_slots: channels of the outputs.
        state_slots: channels that depend on time; none for a steady problem.
        times: instants, shape (t,); None for a steady problem.
        scalars: numbers of the samples, shape (samples,), by name; of this selection.
        constants: numbers shared by all samples.
        splits: numbers of samples in the file, by name.
        attributes: what the file says about itself: settings, seed, versions, error bar.
        rows: the samples selected.
        stride: nodes of the file from one to the next.
        digests: hash of each sample's input where the file has them, shape (all samples, 32).
        notes: what a person should know about how the file was read.
    """

    path: Path
    layout: str
    grid: Mapping[str, Array]
    boundary: Mapping[str, str]
    input_slots: tuple[Slot, ...]
    output_slots: tuple[Slot, ...]
    state_slots: tuple[Slot, ...] = ()
    times: Array | None = None
    scalars: Mapping[str, Array] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    splits: Mapping[str, Rows] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    stride: int = 1
    digests: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for slot in (*self.input_slots, *self.output_slots, *self.state_slots):
            self._check(slot.source)
        for name, rows in self.splits.items():
            if len(rows) and not (rows.min() >= 0 and rows.max() < self.samples):
                refuse(
                    self.path,
                    f"splits/{name}",
                    f"names sample {int(rows.max())} of {self.samples}",
                    "give numbers of samples that there are",
                )
        check_disjoint(self.splits)

    def _check(self, source: Source) -> None:
        """That every source has the axes of the whole, in their order."""
        first = self.input_slots[0].source
        wanted = tuple(len(nodes) for nodes in self.grid.values())
        if source.samples != first.samples:
            refuse(
                self.path,
                source.name,
                f"has {source.samples} samples where '{first.name}' has {first.samples}",
                "store axes as (sample, [t,] coordinates) in both, or name them by axes='...'",
            )
        # `grid` is that of the file thinned by the stride.
        space = tuple(-(-n // self.stride) for n in source.space)
        if space != wanted:
            names = ", ".join(self.grid)
            swapped = sorted(space) == sorted(wanted)
            refuse(
                self.path,
                source.name,
                f"has {space} nodes along ({names}) where the grid has {wanted}"
                + (": its axes are in another order" if swapped else ""),
                f"store its axes in the order (sample, [t,] {names})",
            )
        if source.times is not None and self.times is not None and source.times != len(self.times):
            refuse(
                self.path,
                source.name,
                f"has {source.times} instants where the axis of time has {len(self.times)}",
                "store one number for each instant",
            )

    @property
    def samples(self) -> int:
        """Samples in the file, selected or not."""
        return self.input_slots[0].source.samples

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def inputs(self) -> Lazy:
        """Shape (samples, channels, *nodes); the first instant of what depends on time."""
        return Lazy(self.input_slots, self.rows, self.stride, timed=False)

    @property
    def outputs(self) -> Lazy:
        """Shape (samples, channels, *nodes); the last instant of what depends on time."""
        return Lazy(self.output_slots, self.rows, self.stride, timed=False)

    @property
    def states(self) -> Lazy:
        """Shape (samples, times, channels, *nodes).

        Raises:
            ConfigurationError: nothing depends on time.
        """
        if not self.state_slots:
            raise ConfigurationError(
                f"{self.path} holds no states in time", advice="use inputs and outputs"
            )
        return Lazy(self.state_slots, self.rows, self.stride, timed=True)

    @property
    def input_channels(self) -> tuple[str, ...]:
        """Names."""
        return tuple(slot.name for slot in self.input_slots)

    @property
    def output_channels(self) -> tuple[str, ...]:
        """Names."""
        return tuple(slot.name for slot in self.output_slots)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between nodes, by coordinate."""
        return tuple(float(nodes[1] - nodes[0]) for nodes in self.grid.values())

    @property
    def periodic(self) -> tuple[bool, ...]:
        """By coordinate."""
        return tuple(kind == "periodic" for kind in self.boundary.values())

    def select(self, rows: Sequence[int] | Rows | slice) -> Dataset:
        """Some of the samples, by their place in this selection."""
        chosen = np.arange(len(self))[
            rows if isinstance(rows, slice) else np.asarray(rows, np.int64)
        ]
        return dataclasses.replace(
            self,
            rows=self.rows[chosen],
            scalars={name: values[chosen] for name, values in self.scalars.items()},
        )

    def split(self, name: str) -> Dataset:
        """The samples of a split.

        The first call compares the inputs of all splits, by the hashes in the file or by reading
        them.

        Raises:
            ConfigurationError: there is no such split.
            DataError: two splits share an input.
        """
        if name not in self.splits:
            known = self.splits
            advice = nearest(name, known) if known else "give splits={'train': (0, 1000), ...}"
            raise ConfigurationError(f"{self.path} has no split '{name}'", advice=advice)
        _ = self._separate
        place = {int(row): number for number, row in enumerate(self.rows)}
        return self.select([place[int(r)] for r in self.splits[name] if int(r) in place])

    @cached_property
    def _separate(self) -> bool:
        marks = {name: self._marks(rows) for name, rows in self.splits.items()}
        check_digests(marks)
        return True

    def _marks(self, rows: Rows) -> list[tuple[str, bytes]]:
        """Where each sample lies, and the hash of its input on all nodes of the file."""
        if self.digests is not None:
            return [(f"sample {int(r)} of {self.path}", self.digests[r].tobytes()) for r in rows]
        whole = Lazy(self.input_slots, rows, 1, timed=False)
        found = []
        for start in range(0, len(rows), _BLOCK):
            for row, values in zip(rows[start : start + _BLOCK], whole[start : start + _BLOCK],
                                   strict=True):  # fmt: skip
                found.append((f"sample {int(row)} of {self.path}", digest([values]).tobytes()))
        return found

    def subsample(self, stride: int) -> Dataset:
        """Every stride-th node, both ends of an interval and the period of a ring kept.

        Raises:
            ConfigurationError: the stride does not divide the grid.
        """
        grid = {}
        for name, nodes in self.grid.items():
            cells = len(nodes) if self.boundary[name] == "periodic" else len(nodes) - 1
            if self.boundary[name] in ("unknown", "open"):
                cells = stride if stride >= 1 else 1
            if stride < 1 or cells % stride:
                fit = [k for k in range(1, cells // 2 + 1) if cells % k == 0]
                raise ConfigurationError(
                    f"a stride of {stride} does not divide the {cells} steps of {len(nodes)} "
                    f"{self.boundary[name]} nodes along {name}",
                    advice=f"write one of {', '.join(map(str, fit))}",
                )
            grid[name] = nodes[::stride]
        return dataclasses.replace(self, grid=grid, stride=self.stride * stride)

    def with_splits(self, splits: Mapping[str, Any]) -> Dataset:
        """The same with other splits: (first, end), a slice, or numbers of samples, by name.

        Raises:
            ConfigurationError: two splits share a sample, or name one that is not there.
        """
        found = {}
        for name, value in splits.items():
            if isinstance(value, tuple) and len(value) == 2:
                value = slice(*value)
            if isinstance(value, slice):
                if not 0 <= (value.start or 0) < (value.stop or self.samples) <= self.samples:
                    raise ConfigurationError(
                        f"split '{name}': no such samples",
                        found=value,
                        advice=f"there are 0 to {self.samples}",
                    )
                value = np.arange(self.samples)[value]
            found[name] = np.asarray(value, dtype=np.int64)
            if len(found[name]) and not 0 <= found[name].min() <= found[name].max() < self.samples:
                raise ConfigurationError(
                    f"split '{name}' names samples that are not there",
                    advice=f"there are 0 to {self.samples - 1}",
                )
        return dataclasses.replace(self, splits=found)


def refuse_leaks(splits: Mapping[str, Dataset]) -> None:
    """Refuse data sets, from one file or several, that share an input.

    Samples of one family, seed and number are the same functions, on whatever grid and with
    whatever parameters they were generated: those of two files are refused too.

    Args:
        splits: by what they are used for.

    Raises:
        DataError: with the first input that two of them share.
    """
    drawn: dict[tuple[Any, ...], tuple[str, Path]] = {}
    for name, data in splits.items():
        origin = _origin(data)
        for row in data.rows.tolist() if origin else ():
            other, path = drawn.setdefault((origin, row), (name, data.path))
            if other != name and path != data.path:
                raise DataError(
                    f"sample {row} of {data.path}, for '{name}', is drawn from the same random "
                    f"numbers as that of {path}, for '{other}'; generate one of them with another "
                    "--seed"
                )
    marks = {}
    mixed = len({data.digests is None for data in splits.values()}) > 1
    for name, data in splits.items():
        # Hashes of the file are over numbers as stored, others over what is read.
        plain = dataclasses.replace(data, digests=None) if mixed else data
        marks[name] = plain._marks(data.rows)
    if len({data.path for data in splits.values()}) == 1:
        for name, data in splits.items():
            if len(set(data.rows.tolist())) < len(data):
                raise DataError(f"{data.path}: '{name}' holds a sample twice; take it once")
    check_digests(marks)


def _origin(data: Dataset) -> tuple[str, int] | None:
    """Family and seed of a file that `residua data generate` made."""
    text = data.attributes.get("request")
    try:
        found = json.loads(text) if isinstance(text, str) else {}
        return str(found["family"]), int(found["seed"])
    except (ValueError, TypeError, KeyError):
        return None
