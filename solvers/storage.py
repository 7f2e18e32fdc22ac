"""solution.h5: values on a grid, the reference beside them, and the weights of the network.

    /                     attributes: problem, title, equations, solver, status, seed, ...
    /coordinates/x        uniform grid of each coordinate (also attached as dimension scales)
    /fields/u             values, one axis for each coordinate in declared order
    /reference/u          the reference on the same grid; attribute relative_l2_error_bar
    /error/u              fields/u - reference/u; attribute relative_l2 (by quadrature)
    /network              attribute architecture (JSON); one dataset for each tensor of the network

Plain HDF5 that any tool reads; every array carries a Fletcher-32 checksum. Reading trusts nothing:
no links that lead elsewhere, no data in other files, no filters but the ones written here, and
shapes are compared with what is expected before anything is allocated. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..atomic import replacing
from ..errors import DataError

__all__ = ["Contents", "read_header", "read_weights", "write"]

FORMAT = "residua-solution"
VERSION = 1
AGAIN = "run the case again"
MAX_ATTRIBUTE = 1 << 16  # characters
MAX_TENSORS = 100_000

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_KINDS = "fiub"


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
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        for name, value in contents.attributes.items():
            if value is not None:
                file.attrs[name] = value
        scales = file.create_group("coordinates")
        for position, (name, axis) in enumerate(contents.axes.items()):
            dataset = _put(scales, name, axis, contents.descriptions)
            dataset.attrs["axis"] = position
            dataset.make_scale(name)
        for name, values in contents.fields.items():
            arrays = [_put(file.require_group("fields"), name, values, contents.descriptions)]
            if name in contents.reference:
                true = contents.reference[name]
                group = file.require_group("reference")
                arrays.append(_put(group, name, true, contents.descriptions))
                arrays[-1].attrs["relative_l2_error_bar"] = contents.error_bar.get(name, np.nan)
                group = file.require_group("error")
                arrays.append(_put(group, name, values - true, contents.descriptions))
                arrays[-1].attrs["relative_l2"] = contents.relative_l2.get(name, np.nan)
            for array in arrays:
                for position, axis in enumerate(contents.axes):
                    array.dims[position].attach_scale(scales[axis])
        network = file.create_group("network")
        network.attrs["architecture"] = json.dumps(contents.architecture, allow_nan=False)
        for name, values in contents.network.items():
            _put(network, name, values)
    return Path(path)


def _put(
    group: h5py.Group, name: str, values: np.ndarray, descriptions: Mapping[str, str] | None = None
) -> h5py.Dataset:
    # HDF5 checksums chunks, and neither a scalar nor an empty array has any.
    whole = values.ndim > 0 and values.size > 0
    options: dict[str, Any] = {}
    if whole:
        options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    dataset = group.create_dataset(name, data=values, **options)
    if descriptions is not None:
        dataset.attrs["units"] = "1"  # equations are stated without units
        dataset.attrs["description"] = descriptions.get(name, name)
    return dataset


def read_header(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes of the run and the architecture of its network.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    with _opened(path) as file:
        attributes = {
            str(name): value.item() if isinstance(value, np.generic) else value
            for name, value in file.attrs.items()
            if np.size(value) <= MAX_ATTRIBUTE
        }
        text = _group(file, "network", path).attrs.get("architecture")
        if not isinstance(text, str):
            raise DataError(f"{path}: holds no architecture of a network; {AGAIN}")
        try:
            architecture = json.loads(text)
        except (ValueError, RecursionError):
            architecture = None
        if not isinstance(architecture, dict):
            raise DataError(f"{path}: the architecture of the network is not JSON; {AGAIN}")
    return attributes, architecture


def read_weights(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of a network.

    Args:
        path: solution.h5.
        shapes: the shape of every tensor the network has.

    Raises:
        DataError: a tensor is missing, unexpected, damaged, of the wrong shape or not finite.
    """
    with _opened(path) as file:
        group = _group(file, "network", path)
        if len(group) > MAX_TENSORS:
            raise DataError(f"{path}: holds {len(group)} tensors; expected {len(shapes)}")
        for name in group:
            if name not in shapes:
                raise DataError(f"{path}: tensor '{name}' is not part of the configured network")
        return {name: _tensor(group, name, shape, path) for name, shape in shapes.items()}


@contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give the folder of a finished run")
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path}: is HDF5, but not a solution of Residua")
            version = file.attrs.get("version")
            if version != VERSION:
                raise DataError(f"{path}: has format version {version}; only {VERSION} is read")
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        cause = _cause(path, error)
        raise DataError(f"{path}: {cause}; restore the file or {AGAIN}") from error


def _cause(path: Path, error: Exception) -> str:
    """HDF5's message in the words of a person."""
    text = str(error)
    if path.stat().st_size == 0:
        return "is empty"
    if "file signature not found" in text:
        return "is not an HDF5 file"
    if "truncated" in text or "eof" in text.lower():
        return "is truncated"
    if "checksum" in text.lower() or "filter returned failure" in text:
        return "is damaged (a checksum does not match)"
    if isinstance(error, PermissionError):
        return "may not be read"
    return f"cannot be read ({text.splitlines()[0][:120] if text else type(error).__name__})"


def _member(group: h5py.Group, name: str, path: str | Path) -> Any:
    link = group.get(name, getlink=True)
    if link is None:
        raise DataError(f"{path}: '{name}' is missing from {group.name}; {AGAIN}")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{path}: '{name}' is a link that leads elsewhere; links are not followed")
    return group[name]


def _group(file: h5py.File, name: str, path: str | Path) -> h5py.Group:
    found = _member(file, name, path)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{path}: '{name}' is not a group")
    return found


def _tensor(group: h5py.Group, name: str, shape: tuple[int, ...], path: str | Path) -> np.ndarray:
    found = _member(group, name, path)
    place = f"{path}: tensor '{name}'"
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{place} is not an array")
    if found.external or found.is_virtual:
        raise DataError(f"{place} keeps its values in another file; only its own are read")
    settings = found.id.get_create_plist()
    if any(settings.get_filter(i)[0] not in _FILTERS for i in range(settings.get_nfilters())):
        raise DataError(f"{place} is stored through an unknown filter")
    if found.shape != shape:
        raise DataError(f"{place} has shape {found.shape}; the configured network has {shape}")
    if found.chunks is not None and any(c > n for c, n in zip(found.chunks, shape, strict=True)):
        raise DataError(f"{place} is stored in blocks larger than itself")
    if found.dtype.kind not in _KINDS:
        raise DataError(f"{place} holds {found.dtype}; expected numbers")
    values = np.asarray(found[()])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{place} holds values that are not finite")
    return values
