"""The layout of The Well, and the same with our attributes and splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ....errors import ConfigurationError
from ..dataset import Dataset, Slot
from ..layout import LAYOUT
from ..sources import Hdf5, Stored, refuse
from ..splits import SHARES, check_disjoint
from .getter import Getter

__all__ = ["holds", "read"]

_KINDS = {"PERIODIC": "periodic", "WALL": "wall", "OPEN": "open"}
_COMPONENTS = "xyz"


def holds(file: h5py.File) -> bool:
    """Whether a file has this layout."""
    return "dimensions" in file and any(f"t{k}_fields" in file for k in range(3))


def read(hdf5: Hdf5) -> Dataset:
    """Open a file of this layout.

    Raises:
        DataError: something that the layout asks for is missing or does not fit.
    """
    file, path = hdf5.file, hdf5.path
    version = file.attrs.get("residua_layout")
    if version is not None and version != LAYOUT:
        refuse(path, "", f"has layout {version}", f"this version reads layout {LAYOUT}")
    names = _names(hdf5, file["dimensions"], "spatial_dims", "dimensions")
    grid = {name: _vector(hdf5, f"dimensions/{name}") for name in names}
    samples = int(file.attrs.get("n_trajectories", -1))
    notes: list[str] = []
    slots, states = _slots(hdf5, tuple(grid), samples, notes)
    if states:
        inputs = [s for s, role in slots if role == "input"]
        inputs += [Slot(s.name, s.source, 0) for s in states]
        outputs = [Slot(s.name, s.source, -1) for s in states]
    else:
        inputs = [s for s, role in slots if role == "input"]
        outputs = [s for s, role in slots if role == "output"]
        if not outputs and len(inputs) > 1:
            outputs = [inputs.pop()]
            notes.append(f"nothing says what is an output; '{outputs[0].name}' is taken to be one")
    if not inputs or not outputs:
        refuse(path, "t0_fields", "holds no input and output", "store fields, or states in time")
    scalars, constants = _scalars(hdf5, samples)
    count = inputs[0].source.samples
    splits = _splits(hdf5)
    marks = hdf5.dataset("splits/digests")[()] if "splits/digests" in file else None
    if marks is not None and marks.shape != (count, 32):
        refuse(path, "splits/digests", f"has shape {marks.shape}", f"store ({count}, 32) bytes")
    times = _vector(hdf5, "dimensions/time") if states else None
    return Dataset(
        path,
        "Residua" if version is not None else "The Well",
        grid,
        {name: _boundary(hdf5, name) for name in grid},
        tuple(inputs),
        tuple(outputs),
        tuple(states),
        times,
        scalars,
        constants,
        splits,
        {name: _plain(value) for name, value in file.attrs.items()},
        np.arange(count),
        digests=marks,
        notes=tuple(notes),
    )


def _splits(hdf5: Hdf5) -> dict[str, Any]:
    """Numbers of samples by name, in the order in which a person names them."""
    held = [str(name) for name in hdf5.file.get("splits", ()) if name != "digests"]
    usual = [name for name in SHARES if name in held]
    names = usual + sorted(set(held) - set(usual))
    found = {name: hdf5.dataset(f"splits/{name}")[()] for name in names}
    try:
        check_disjoint(found)
    except ConfigurationError as error:
        refuse(hdf5.path, "splits", error.message, "write splits that share no sample")
    return found


def _slots(
    hdf5: Hdf5, space: tuple[str, ...], samples: int, notes: list[str]
) -> tuple[list[tuple[Slot, str]], list[Slot]]:
    """Channels without time and their roles, and channels with time."""
    still, states = [], []
    for rank in range(3):
        group = hdf5.file.get(f"t{rank}_fields")
        if group is None:
            continue
        for name in _names(hdf5, group, "field_names", f"t{rank}_fields"):
            full = f"t{rank}_fields/{name}"
            dataset = hdf5.dataset(full)
            varying = np.atleast_1d(dataset.attrs.get("dim_varying", np.ones(len(space), bool)))
            if not varying.all():
                notes.append(f"'{name}' does not vary along all coordinates and is left out")
                continue
            axes = ["sample"] if dataset.attrs.get("sample_varying", True) else []
            axes += ["t"] if dataset.attrs.get("time_varying", True) else []
            axes += [*space, *(f"component {k}" for k in range(rank))]
            sizes = dict(zip(axes, dataset.shape, strict=False))
            if sizes.get("sample", samples) != samples:
                refuse(
                    hdf5.path,
                    full,
                    f"has {sizes['sample']} samples where n_trajectories is {samples}",
                    f"store axes as ({', '.join(axes)})",
                )
            for picked, channel in _components(name, rank, len(space)):
                source = Stored(hdf5.path, full, Getter(hdf5, full), axes, picked, max(samples, 1))
                slot = Slot(channel, source)
                if source.times is None:
                    still.append((slot, str(dataset.attrs.get("role", "input"))))
                else:
                    states.append(slot)
    return still, states


def _components(name: str, rank: int, dimensions: int) -> Iterator[tuple[dict[str, int], str]]:
    for index in np.ndindex(*(dimensions,) * rank):
        marks = "".join(_COMPONENTS[i] for i in index)
        picked = {f"component {k}": i for k, i in enumerate(index)}
        yield picked, f"{name}_{marks}" if marks else name


def _scalars(hdf5: Hdf5, samples: int) -> tuple[dict[str, Any], dict[str, float]]:
    varying, constant = {}, {}
    group = hdf5.file.get("scalars")
    for name in group if group is not None else ():
        dataset = hdf5.dataset(f"scalars/{name}")
        if dataset.attrs.get("time_varying", False) or dataset.dtype.kind not in "fiu":
            continue
        values = np.atleast_1d(dataset[()]).astype(float)
        if dataset.attrs.get("sample_varying", False):
            if values.shape != (samples,):
                refuse(hdf5.path, f"scalars/{name}", f"has shape {values.shape}",
                       f"store one number for each of {samples} samples")  # fmt: skip
            varying[name] = values
        elif values.size == 1:
            constant[name] = float(values.ravel()[0])
    return varying, constant


def _boundary(hdf5: Hdf5, coordinate: str) -> str:
    conditions: Any = hdf5.file.get("boundary_conditions", {})
    for name in conditions:
        attributes = conditions[name].attrs
        along = [_plain(v) for v in np.atleast_1d(attributes.get("associated_dims", []))]
        if coordinate in along:
            if "condition" in attributes:
                return str(attributes["condition"])
            return _KINDS.get(str(_plain(attributes.get("bc_type", ""))).upper(), "unknown")
    return "unknown"


def _vector(hdf5: Hdf5, name: str) -> Any:
    values = np.asarray(hdf5.dataset(name)[()], dtype=float)
    if values.ndim == 2:  # times that differ by sample: those of the first
        values = values[0]
    if values.ndim != 1:
        refuse(hdf5.path, name, f"has {values.ndim} axes", "store nodes along one axis")
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        refuse(hdf5.path, name, "does not increase", "store nodes in increasing order")
    return values


def _names(hdf5: Hdf5, group: Any, attribute: str, place: str) -> list[str]:
    if attribute not in group.attrs:
        refuse(hdf5.path, place, f"has no attribute '{attribute}'", "list the names it holds there")
    return [str(_plain(v)) for v in np.atleast_1d(group.attrs[attribute])]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
