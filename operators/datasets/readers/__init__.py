"""Files of other programs, and our own, as a `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from ....errors import ConfigurationError
from ..dataset import Dataset
from ..sources import Hdf5, refuse
from . import pdebench, well
from .plain import Axes, read_mat, read_npy

__all__ = ["open"]

_KNOWN = (
    "known are the layouts of Residua and The Well (groups 'dimensions' and 't0_fields'), PDEBench "
    "('tensor' with 'x-coordinate', 'velocity', or groups 0000, 0001, ...), FNO (.mat with 'coeff' "
    "and 'sol' or 'a' and 'u') and pairs of .npy files"
)
_AXES = ("sample", "t", "x", "y", "z", "channel")


def open(
    path: str | Path,
    *,
    outputs: str | Path | None = None,
    axes: str | tuple[str, str] | None = None,
    splits: Mapping[str, Any] | None = None,
) -> Dataset:
    """Open a file of any known layout; its numbers are read when they are asked for.

    Args:
        path: the file.
        outputs: the file of outputs, where `path` is a .npy file of inputs.
        axes: order of the axes in .npy and .mat files, such as "x y sample", or one text for inputs
            and one for outputs; out of sample, t, x, y, z, channel.
        splits: in place of those stored: (first, end) or numbers of samples, by name.

    Raises:
        DataError: no such file, an unknown layout, or contents that do not fit together.
        ConfigurationError: splits that overlap, or axes that are none.
    """
    path = Path(path)
    if not path.is_file():
        refuse(path, "", "there is no such file", "check the path")
    named = None if axes is None else _axes(axes)
    with path.open("rb") as file:
        head = file.read(128)
    if head.startswith(b"\x93NUMPY"):
        found = read_npy(path, None if outputs is None else Path(outputs), named)
    elif head.startswith((b"MATLAB 5.0", b"MATLAB 7.3")):
        found = read_mat(path, named)
    elif h5py.is_hdf5(path):
        found = _hdf5(path)
    else:
        refuse(path, "", "is of an unknown kind", _KNOWN)
    return found if splits is None else found.with_splits(splits)


def _hdf5(path: Path) -> Dataset:
    hdf5 = Hdf5(path)
    for reader in (well, pdebench):
        if reader.holds(hdf5.file):
            return reader.read(hdf5)
    if path.suffix == ".mat":  # version 7.3 without its header
        return read_mat(path, None)
    held = ", ".join(sorted(hdf5.file)[:12]) or "nothing"
    refuse(path, "", f"holds {held}: an unknown layout", _KNOWN)


def _axes(text: str | tuple[str, str]) -> Axes:
    pair = (text, text) if isinstance(text, str) else text
    found = [tuple(part.split()) for part in pair]
    for names in found:
        wrong = [n for n in names if n not in _AXES]
        if wrong or "sample" not in names or len(set(names)) < len(names):
            raise ConfigurationError(
                "--axes: not an order of axes",
                found=" ".join(names),
                advice=f"write sample and others of {', '.join(_AXES)}, each once",
            )
    return Axes(*found)
