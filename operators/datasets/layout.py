"""The layout of a data set: what one is, before any file; and how it is written to HDF5.

The groups are those of The Well's specification (docs/data_format.md of PolymathicAI/the_well),
with attributes and the group `splits` on top; docs/datasets.md has the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ...atomic import replacing

__all__ = ["LAYOUT", "Description", "Field", "Sample", "digest", "write"]

Array = NDArray[np.float64]

LAYOUT = 1
"""Version of the layout, stored as the root attribute `residua_layout`."""
# The Well knows three kinds of boundary.
_GEOMETRY = {"periodic": "PERIODIC", "dirichlet": "WALL", "neumann": "WALL", "wall": "WALL"}


@dataclass(frozen=True)
class Field:
    """A stored function of space, and of time where `timed`.

    Attributes:
        role: input, output, or state: a function of time, whose first instant is an input and
            whose last is an output.
    """

    name: str
    role: Literal["input", "output", "state"]

    @property
    def timed(self) -> bool:
        """Whether there is an axis of time."""
        return self.role == "state"


@dataclass(frozen=True)
class Sample:
    """One sample: fields by name, shape ([times,] n_1, ...), and numbers by name."""

    fields: Mapping[str, Array]
    scalars: Mapping[str, float]


@dataclass(frozen=True)
class Description:
    """What all samples of a data set share.

    Attributes:
        family: name of the generator.
        equation: the equation and its conditions, in words.
        law: what is random, and how.
        error_bar: how the number stored as `error_bar` of each sample was found.
        grid: nodes by space coordinate, in the order of the axes.
        boundary: periodic, dirichlet, neumann or wall (anything else), by space coordinate.
        fields: what is stored.
        times: instants of states, shape (t,); None without states.
        constants: numbers shared by all samples.
        scalars: names of the numbers that each sample has.
    """

    family: str
    equation: str
    law: str
    error_bar: str
    grid: Mapping[str, Array]
    boundary: Mapping[str, str]
    fields: tuple[Field, ...]
    times: Array | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    scalars: tuple[str, ...] = ("error_bar",)

    def shape(self, stored: Field) -> tuple[int, ...]:
        """Of one sample of a field."""
        space = tuple(len(nodes) for nodes in self.grid.values())
        assert not stored.timed or self.times is not None
        return (len(self.times), *space) if stored.timed else space  # type: ignore[arg-type]


def digest(parts: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """SHA-256 of the inputs of one sample, shape (32,): arrays one after the other, as stored."""
    content = hashlib.sha256()
    for part in parts:
        part = np.ascontiguousarray(part)
        content.update(f"{part.dtype.kind}{part.itemsize}{part.shape}".encode())
        content.update(part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes())
    return np.frombuffer(content.digest(), dtype=np.uint8)


def write(
    path: Path,
    description: Description,
    samples: int,
    sample: Callable[[int], Sample],
    *,
    splits: Mapping[str, NDArray[np.int64]],
    provenance: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Write a data set; the file appears whole or not at all.

    The bytes depend on the arguments alone: no times, no order of arrival.

    Args:
        path: the file.
        description: what all samples share.
        samples: how many there are.
        sample: the sample of a number.
        splits: numbers of samples by name.
        provenance: settings, seed, versions: plain values, stored as attributes.
        dtype: of the fields.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        _header(file, description, samples, provenance)
        _geometry(file, description)
        numbers = file.create_group("scalars")
        columns: dict[str, list[float]] = {name: [] for name in description.scalars}
        stored: dict[str, h5py.Dataset] = {}
        group = file.create_group("t0_fields")
        group.attrs["field_names"] = _texts([f.name for f in description.fields])
        for member in description.fields:
            shape = description.shape(member)
            made = group.create_dataset(member.name, (samples, *shape), dtype, chunks=(1, *shape))
            made.attrs["dim_varying"] = np.ones(len(description.grid), dtype=bool)
            made.attrs["sample_varying"], made.attrs["time_varying"] = True, member.timed
            made.attrs["role"] = member.role
            stored[member.name] = made
        for empty in ("t1_fields", "t2_fields"):
            file.create_group(empty).attrs["field_names"] = _texts([])
        marks = np.empty((samples, 32), dtype=np.uint8)
        for number in range(samples):
            found = sample(number)
            for name, dataset in stored.items():
                dataset[number] = found.fields[name].astype(dtype)
            for name, column in columns.items():
                column.append(float(found.scalars[name]))
            marks[number] = digest(
                [found.fields[f.name].astype(dtype) if not f.timed
                 else found.fields[f.name][0].astype(dtype)
                 for f in description.fields if f.role != "output"]
                + [np.array([found.scalars[n] for n in columns if n != "error_bar"])]
            )  # fmt: skip
        numbers.attrs["field_names"] = _texts([*description.constants, *columns])
        for name, value in description.constants.items():
            _scalar(numbers, name, np.array([value]), varying=False)
        for name, column in columns.items():
            _scalar(numbers, name, np.array(column), varying=True)
        parts = file.create_group("splits")
        for name, rows in splits.items():
            parts[name] = np.asarray(rows, dtype=np.int64)
        parts["digests"] = marks


def _header(
    file: h5py.File, description: Description, samples: int, provenance: Mapping[str, Any]
) -> None:
    file.attrs["dataset_name"] = description.family
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = len(description.grid)
    file.attrs["n_trajectories"] = samples
    file.attrs["simulation_parameters"] = _texts(list(description.constants))
    for name, value in description.constants.items():
        file.attrs[name] = value
    file.attrs["residua_layout"] = LAYOUT
    for name in ("equation", "law", "error_bar"):
        file.attrs[name] = getattr(description, name)
    for name, value in provenance.items():
        plain = isinstance(value, str | int | float)
        file.attrs[name] = value if plain else json.dumps(value, sort_keys=True)


def _geometry(file: h5py.File, description: Description) -> None:
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = _texts(list(description.grid))
    times = np.zeros(1) if description.times is None else description.times
    made = dimensions.create_dataset("time", data=times)
    made.attrs["sample_varying"] = False
    for name, nodes in description.grid.items():
        made = dimensions.create_dataset(name, data=nodes)
        made.attrs["sample_varying"], made.attrs["time_varying"] = False, False
    conditions = file.create_group("boundary_conditions")
    for name, kind in description.boundary.items():
        group = conditions.create_group(f"{name}_boundary")
        group.attrs["associated_dims"] = _texts([name])
        group.attrs["associated_fields"] = _texts([])
        group.attrs["bc_type"] = _GEOMETRY[kind]
        group.attrs["condition"] = kind
        group.attrs["sample_varying"], group.attrs["time_varying"] = False, False
        mask = np.zeros(len(description.grid[name]), dtype=bool)
        mask[[0, -1]] = True
        group["mask"], group["values"] = mask, np.zeros(0, dtype="float32")


def _scalar(group: h5py.Group, name: str, values: Array, *, varying: bool) -> None:
    made = group.create_dataset(name, data=values)
    made.attrs["sample_varying"], made.attrs["time_varying"] = varying, False


def _texts(names: Sequence[str]) -> NDArray[Any]:
    return np.array(list(names), dtype=h5py.string_dtype())
