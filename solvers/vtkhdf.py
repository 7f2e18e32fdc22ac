"""Values on a uniform grid as a VTKHDF file, which ParaView opens directly.

Follows the VTKHDF specification, version 2 (docs.vtk.org, "VTKHDF format specification"): a group
`/VTKHDF` of type ImageData, its arrays in `PointData`, and for a problem in time the group `Steps`
with the times and, for each array, where its steps begin. Readers want arrays of as many axes as
the image has axes of more than one point, the first space coordinate last: (y, x), or (step, y, x)
with steps. Without space coordinates (ordinary differential equations) time is the x axis.
Stored in single precision and compressed: the file is for looking; solution.h5 is for computing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from ..atomic import replacing

__all__ = ["write"]

VERSION = (2, 0)
MOST_AXES = 3


def write(
    path: str | Path,
    axes: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    *,
    time: str | None = None,
) -> Path:
    """Write one file, atomically.

    Args:
        path: file to write; by custom it ends in .vtkhdf.
        axes: for each coordinate, in the order of the arrays' axes, its uniform grid of at least
            two increasing values.
        arrays: values by name, each of the shape that the axes span.
        time: the coordinate that becomes steps.

    Returns:
        The path.

    Raises:
        ValueError: more than three space coordinates, an axis that is not uniform, a shape that
            does not fit.
        ResourceError: the file cannot be written.
    """
    space = [name for name in axes if name != time] or list(axes)
    steps = time if time in axes and time not in space else None
    if len(space) > MOST_AXES:
        raise ValueError(f"an image has at most {MOST_AXES} axes; found {', '.join(space)}")
    shape = tuple(len(axis) for axis in axes.values())
    order = ([steps] if steps else []) + space[::-1]
    transposed = [list(axes).index(name) for name in order]
    origin, spacing, extent = np.zeros(3), np.ones(3), np.zeros(6, dtype=np.int64)
    for position, name in enumerate(space):
        origin[position] = axes[name][0]
        spacing[position] = _step(name, axes[name])
        extent[2 * position + 1] = len(axes[name]) - 1
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = np.array(VERSION, dtype=np.int64)
        root.attrs.create("Type", np.bytes_("ImageData"))  # readers want fixed length and ASCII
        root.attrs["WholeExtent"] = extent
        root.attrs["Origin"] = origin
        root.attrs["Spacing"] = spacing
        root.attrs["Direction"] = np.eye(3).ravel()
        data = root.create_group("PointData")
        for name, values in arrays.items():
            if values.shape != shape:
                raise ValueError(f"{name}: found shape {values.shape}; the axes span {shape}")
            with np.errstate(over="ignore"):  # a diverged field may exceed single precision
                image = np.ascontiguousarray(values.transpose(transposed), dtype=np.float32)
            chunks = (1, *image.shape[1:]) if steps else image.shape
            data.create_dataset(
                name, data=image, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True
            )
        if steps:
            times = np.asarray(axes[steps], dtype=np.float64)
            group = root.create_group("Steps")
            group.attrs["NSteps"] = np.int64(len(times))
            group.create_dataset("Values", data=times)
            offsets = group.create_group("PointDataOffsets")
            for name in arrays:
                offsets.create_dataset(name, data=np.arange(len(times), dtype=np.int64))
    return Path(path)


def _step(name: str, axis: np.ndarray) -> float:
    """The spacing of a uniform axis."""
    if len(axis) < 2:
        raise ValueError(f"{name}: an axis of an image needs at least two points")
    steps = np.diff(axis)
    step = float(axis[-1] - axis[0]) / (len(axis) - 1)
    if step <= 0 or not np.allclose(steps, step, rtol=1e-6, atol=0):
        raise ValueError(f"{name}: an axis of an image must be uniform and increasing")
    return step
