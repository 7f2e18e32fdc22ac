"""A dataset of a file by name."""

from __future__ import annotations

import h5py

from ..sources import Hdf5

__all__ = ["Getter"]


class Getter:
    """Called, gives the dataset; an object, so that it travels to other processes.

    Args:
        hdf5: the file.
        name: of the dataset in it.
    """

    def __init__(self, hdf5: Hdf5, name: str) -> None:
        self.hdf5, self.name = hdf5, name

    def __call__(self) -> h5py.Dataset:
        """The dataset of the file as it is open in this process."""
        return self.hdf5.dataset(self.name)
