"""The generators by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ...errors import ConfigurationError
from ...problems import registry
from ...typed import build, nearest
from .darcy import Darcy, Multiscale, Rough
from .helmholtz import Helmholtz
from .layout import Description, Sample
from .library import LibraryProblem
from .navier_stokes import NavierStokes
from .transport import Advection, Burgers

__all__ = ["FAMILIES", "LIBRARY", "Family", "family"]

LIBRARY = "library/"
"""Before the name of a problem of the library that a family here has too."""


class Family(Protocol):
    """A law of random inputs and a classical solver for the outputs, with its settings."""

    def describe(self, name: str, resolution: int) -> Description:
        """What all samples share.

        Args:
            name: what the person called the family.
            resolution: stored nodes per space coordinate.

        Raises:
            ConfigurationError: settings and resolution do not fit together.
        """
        ...

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """One sample, a function of the numbers that the generator gives and of nothing else."""
        ...


FAMILIES: Mapping[str, type] = {
    "darcy": Darcy,
    "darcy_rough": Rough,
    "darcy_multiscale": Multiscale,
    "burgers": Burgers,
    "advection": Advection,
    "navier_stokes": NavierStokes,
    "helmholtz": Helmholtz,
}


def family(name: str, settings: Mapping[str, Any]) -> Family:
    """The generator of a name.

    Args:
        name: of a family, or of a problem of the library.
        settings: by name, as a person writes them.

    Raises:
        ConfigurationError: an unknown name or setting, or a value out of range.
    """
    if name in FAMILIES:
        return build(FAMILIES[name], settings)
    plain = name.removeprefix(LIBRARY)
    if plain not in registry.names():
        known = [*FAMILIES, *(n for n in registry.names() if n not in FAMILIES)]
        raise ConfigurationError(f"unknown family '{name}'", advice=nearest(name, known))
    return LibraryProblem.of(plain, settings)
