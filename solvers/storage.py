"""solution.h5: values on a grid, the reference beside them, and the weights of the network.

    /                     attributes: problem, title, equations, solver, status, seed, ...
    /coordinates/x        uniform grid of each coordinate (also attached as dimension scales)
    /fields/u             values, one axis for each coordinate in declared order
    /reference/u          the reference on the same grid; attribute relative_l2_error_bar
    /error/u              fields/u - reference/u; attribute relative_l2 (by quadrature)
    /network              attribute architecture (JSON); one dataset for each tensor of the network

Plain HDF5 that any tool reads; every array carries a Fletcher-32 checksum. The group `network`, and
how it is read, is that of `execution.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..atomic import replacing
from ..execution.weights import Kind, put, write_weights

__all__ = ["KIND", "Contents", "write"]

KIND = Kind("residua-solution", 1, "a solution")


@dataclass(frozen=True)
class Contents:
    """What one file holds.

    Attributes:
        attributes: texts, numbers and lists of texts about the run.
        axes: grid of each coordinate, in declared order.
        fields: values by field, each of the shape that the axes span.
        reference: the same of the reference; empty without one.
        relative_l2: error by field, as measured by quadrature; empty without a reference.
        error_bar: relative L2 error of the reference by field.
        network: tensors by name.
        architecture: what rebuilds the network, as plain JSON values.
        descriptions: one sentence by coordinate or field.
    """

    attributes: Mapping[str, Any]
    axes: Mapping[str, np.ndarray]
    fields: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray] = field(default_factory=dict)
    relative_l2: Mapping[str, float] = field(default_factory=dict)
    error_bar: Mapping[str, float] = field(default_factory=dict)
    network: Mapping[str, np.ndarray] = field(default_factory=dict)
    architecture: Mapping[str, Any] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)


def write(path: str | Path, contents: Contents) -> Path:
    """Write one file, atomically.

    Raises:
        ResourceError: the file cannot be written.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        KIND.mark(file, contents.attributes)
        scales = file.create_group("coordinates")
        for position, (name, axis) in enumerate(contents.axes.items()):
            dataset = put(scales, name, axis, contents.descriptions)
            dataset.attrs["axis"] = position
            dataset.make_scale(name)
        for name, values in contents.fields.items():
            arrays = [put(file.require_group("fields"), name, values, contents.descriptions)]
            if name in contents.reference:
                true = contents.reference[name]
                group = file.require_group("reference")
                arrays.append(put(group, name, true, contents.descriptions))
                arrays[-1].attrs["relative_l2_error_bar"] = contents.error_bar.get(name, np.nan)
                group = file.require_group("error")
                arrays.append(put(group, name, values - true, contents.descriptions))
                arrays[-1].attrs["relative_l2"] = contents.relative_l2.get(name, np.nan)
            for array in arrays:
                for position, axis in enumerate(contents.axes):
                    array.dims[position].attach_scale(scales[axis])
        write_weights(file, contents.network, contents.architecture)
    return Path(path)
