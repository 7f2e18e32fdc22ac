"""Tensors of a network in HDF5, beside whatever else a file holds; read with care.

    /                     attributes: format, version, and those of the run
    /network              attribute architecture (JSON); one dataset for each tensor of the network

Reading trusts nothing: no links that lead elsewhere, no data in other files, no filters but the
ones written here, and shapes are compared with what is expected before anything is allocated.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import DataError

__all__ = ["Kind", "put", "read_header", "read_weights", "write_weights"]

AGAIN = "run the case again"
MAX_ATTRIBUTE = 1 << 16  # characters
MAX_TENSORS = 100_000

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_KINDS = "fiub"


@dataclass(frozen=True)
class Kind:
    """What a file is, as its attributes `format` and `version` say.

    Attributes:
        format: name.
        version: of the layout.
        noun: what it holds, in words, with its article.
    """

    format: str
    version: int
    noun: str

    def mark(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        """Write the attributes of a new file."""
        file.attrs["format"] = self.format
        file.attrs["version"] = self.version
        for name, value in attributes.items():
            if value is not None:
                file.attrs[name] = value


def write_weights(
    file: h5py.File, tensors: Mapping[str, np.ndarray], architecture: Mapping[str, Any]
) -> None:
    """Write the group `network`.

    Args:
        file: open for writing.
        tensors: by name.
        architecture: what rebuilds the network, as plain JSON values.
    """
    network = file.create_group("network")
    network.attrs["architecture"] = json.dumps(architecture, allow_nan=False)
    for name, values in tensors.items():
        put(network, name, values)


def put(
    group: h5py.Group, name: str, values: np.ndarray, descriptions: Mapping[str, str] | None = None
) -> h5py.Dataset:
    """Store an array, compressed and with checksums."""
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


def read_header(path: str | Path, kind: Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes of the run and the architecture of its network.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    with _opened(path, kind) as file:
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


def read_weights(
    path: str | Path, kind: Kind, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The tensors of a network.

    Args:
        path: the file.
        kind: what it has to be.
        shapes: the shape of every tensor the network has.

    Raises:
        DataError: a tensor is missing, unexpected, damaged, of the wrong shape or not finite.
    """
    with _opened(path, kind) as file:
        group = _group(file, "network", path)
        if len(group) > MAX_TENSORS:
            raise DataError(f"{path}: holds {len(group)} tensors; expected {len(shapes)}")
        for name in group:
            if name not in shapes:
                raise DataError(f"{path}: tensor '{name}' is not part of the configured network")
        return {name: _tensor(group, name, shape, path) for name, shape in shapes.items()}


@contextmanager
def _opened(path: str | Path, kind: Kind) -> Iterator[h5py.File]:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give the folder of a finished run")
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != kind.format:
                raise DataError(f"{path}: is HDF5, but not {kind.noun} of Residua")
            version = file.attrs.get("version")
            if version != kind.version:
                raise DataError(
                    f"{path}: has format version {version}; only {kind.version} is read"
                )
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
