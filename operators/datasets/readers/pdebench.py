"""The layouts of PDEBench: one array for all samples, and one group for each.

Written from its description (Takamoto et al., "PDEBench", NeurIPS 2022) and the names of datasets
in its files. Coordinates are centres of cells.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..dataset import Dataset, Slot
from ..sources import Hdf5, Joined, Stored, refuse
from .getter import Getter

__all__ = ["holds", "read"]

Array = NDArray[np.float64]

_FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
_SPACE = ("x", "y", "z")
_SEED = re.compile(r"\d{4,}")


def holds(file: h5py.File) -> bool:
    """Whether a file has one of these layouts."""
    return any(kind(file) for kind in (_is_array, _is_incompressible, _is_groups))


def read(hdf5: Hdf5) -> Dataset:
    """Open a file of one of these layouts.

    Raises:
        DataError: shapes and coordinates do not fit together.
    """
    if _is_array(hdf5.file):
        return _arrays(hdf5)
    return _incompressible(hdf5) if _is_incompressible(hdf5.file) else _groups(hdf5)


def _is_array(file: h5py.File) -> bool:
    return "x-coordinate" in file and ("tensor" in file or "density" in file)


def _is_incompressible(file: h5py.File) -> bool:
    return "velocity" in file and isinstance(file["velocity"], h5py.Dataset)


def _is_groups(file: h5py.File) -> bool:
    seeds = [name for name in file if _SEED.fullmatch(str(name))]
    return bool(seeds) and isinstance(file[seeds[0]], h5py.Group) and "data" in file[seeds[0]]


def _arrays(hdf5: Hdf5) -> Dataset:
    file, notes = hdf5.file, []
    space = tuple(c for c in _SPACE if f"{c}-coordinate" in file)
    grid = {c: _coordinate(hdf5, f"{c}-coordinate") for c in space}
    steady = "nu" in file
    times = None
    if not steady:
        times = _coordinate(hdf5, "t-coordinate")
    names = ["nu", "tensor"] if steady else [n for n in _FLOW if n in file] or ["tensor"]
    axes: tuple[str, ...] = ("sample", *space) if steady else ("sample", "t", *space)
    if times is not None:
        stored = hdf5.dataset(names[0]).shape
        # Edges of intervals in time are stored with some files, one more than there are instants.
        if len(stored) == len(axes) and len(times) == stored[1] + 1:
            times = times[:-1]
            notes.append("the last entry of 't-coordinate' belongs to no state and is left out")
    sizes = {**{c: len(nodes) for c, nodes in grid.items()}}
    if times is not None:
        sizes["t"] = len(times)
    slots = []
    for name in names:
        own = ("sample", "one", *space) if steady and name == "tensor" else axes
        _check_order(hdf5, name, own, sizes)
        picked = {"one": 0} if "one" in own else {}
        slots.append(Slot(name, Stored(hdf5.path, name, Getter(hdf5, name), own, picked)))
    if steady:
        inputs, outputs, states = slots[:1], slots[1:], []
        kind = "dirichlet"
    else:
        inputs = [Slot(s.name, s.source, 0) for s in slots]
        outputs = [Slot(s.name, s.source, -1) for s in slots]
        states = slots
        kind = _boundary_of(hdf5, scalar=names == ["tensor"])
    return _made(hdf5, "PDEBench, one array", grid, kind, (inputs, outputs, states), times, notes)


def _check_order(hdf5: Hdf5, name: str, axes: Sequence[str], sizes: dict[str, int]) -> None:
    """Compare the axes with the coordinates, and say which order they are in instead."""
    shape = hdf5.dataset(name).shape
    if len(shape) != len(axes):
        return  # `Stored` says so
    if all(sizes.get(a, n) == n for a, n in zip(axes, shape, strict=True)):
        return
    expected = ", ".join(f"{a}: {sizes[a]}" if a in sizes else a for a in axes)
    for order in itertools.permutations(range(len(axes))):
        if all(sizes.get(axes[k], shape[p]) == shape[p] for p, k in enumerate(order)):
            found = ", ".join(axes[k] for k in order)
            back = tuple(order.index(k) for k in range(len(axes)))
            refuse(
                hdf5.path,
                name,
                f"has shape {shape}, whose axes look like ({found})",
                f"store them as ({expected}), by numpy.transpose(data, {back})",
            )
    refuse(
        hdf5.path, name, f"has shape {shape}, which does not fit the coordinates",
        f"store axes as ({expected})",
    )  # fmt: skip


def _boundary_of(hdf5: Hdf5, *, scalar: bool) -> str:
    # Advection, Burgers and reaction-diffusion in one dimension are periodic throughout; flows say
    # it in the name of the file only.
    name = hdf5.path.name.lower()
    if scalar or "periodic" in name:
        return "periodic"
    return "open" if "trans" in name else "unknown"


def _incompressible(hdf5: Hdf5) -> Dataset:
    shape = hdf5.dataset("velocity").shape
    if len(shape) < 4 or shape[-1] != len(shape) - 3:
        refuse(
            hdf5.path,
            "velocity",
            f"has shape {shape}",
            "store axes as (sample, t, x, y, component)",
        )
    space = _SPACE[: shape[-1]]
    grid = {c: (np.arange(n) + 0.5) / n for c, n in zip(space, shape[2:-1], strict=True)}
    times = np.arange(shape[1], dtype=float)
    if "t" in hdf5.file:
        stored = np.asarray(hdf5.dataset("t")[()], dtype=float)
        times = (stored[0] if stored.ndim == 2 else stored)[: shape[1]]
    axes = ("sample", "t", *space, "component")
    inputs, states = [], []
    for name, own in (("force", ("sample", *space, "component")), ("velocity", axes),
                      ("particles", axes)):  # fmt: skip
        if name not in hdf5.file:
            continue
        for k in range(hdf5.dataset(name).shape[-1]):
            source = Stored(hdf5.path, name, Getter(hdf5, name), own, {"component": k})
            channel = name if name == "particles" else f"{name}_{space[k]}"
            (states if "t" in own else inputs).append(Slot(channel, source))
    inputs += [Slot(s.name, s.source, 0) for s in states]
    outputs = [Slot(s.name, s.source, -1) for s in states]
    notes = ["the file has no coordinates: centres of cells of the unit box are taken"]
    return _made(
        hdf5, "PDEBench, incompressible flow", grid, "wall", (inputs, outputs, states), times, notes
    )


def _groups(hdf5: Hdf5) -> Dataset:
    seeds = sorted(name for name in hdf5.file if _SEED.fullmatch(str(name)))
    first = seeds[0]
    space = tuple(c for c in _SPACE if f"{first}/grid/{c}" in hdf5.file)
    if not space:
        refuse(hdf5.path, f"{first}/grid", "has no coordinates", "store grid/x and grid/t")
    grid = {c: _coordinate(hdf5, f"{first}/grid/{c}") for c in space}
    times = _coordinate(hdf5, f"{first}/grid/t")
    axes = ("t", *space, "channel")
    sizes = {**{c: len(nodes) for c, nodes in grid.items()}, "t": len(times)}
    _check_order(hdf5, f"{first}/data", axes, sizes)
    channels = hdf5.dataset(f"{first}/data").shape[-1]
    states = []
    for k in range(channels):
        parts = [
            Stored(hdf5.path, f"{s}/data", Getter(hdf5, f"{s}/data"), axes, {"channel": k})
            for s in seeds
        ]
        states.append(Slot(f"u{k}" if channels > 1 else "u", Joined(parts)))
    inputs = [Slot(s.name, s.source, 0) for s in states]
    outputs = [Slot(s.name, s.source, -1) for s in states]
    layout = "PDEBench, a group for each sample"
    return _made(hdf5, layout, grid, "unknown", (inputs, outputs, states), times, [])


def _made(
    hdf5: Hdf5,
    layout: str,
    grid: dict[str, Array],
    boundary: str,
    slots: tuple[list[Slot], list[Slot], list[Slot]],
    times: Array | None,
    notes: list[str],
) -> Dataset:
    inputs, outputs, states = slots
    numbers = {
        name: float(value)
        for name, value in hdf5.file.attrs.items()
        if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiu"
    }
    return Dataset(
        hdf5.path,
        layout,
        grid,
        dict.fromkeys(grid, boundary),
        tuple(inputs),
        tuple(outputs),
        tuple(states),
        times,
        constants=numbers,
        rows=np.arange(inputs[0].source.samples),
        attributes={name: _text(value) for name, value in hdf5.file.attrs.items()},
        notes=tuple(notes),
    )


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _coordinate(hdf5: Hdf5, name: str) -> Array:
    values = np.asarray(hdf5.dataset(name)[()], dtype=float).ravel()
    if len(values) < 2 or not (np.diff(values) > 0).all():
        refuse(hdf5.path, name, "does not increase", "store the coordinate in increasing order")
    return values
