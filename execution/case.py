"""What every case file comes to: a description of a run that can be written down and kept."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import yaml_source

if TYPE_CHECKING:
    from .options import RunOptions

__all__ = ["KEPT", "Runnable"]

KEPT = ("seed", "dtype")
"""Of the section `run`: what a resumed run may not change."""


class Runnable(ABC):
    """A checked case: what is computed, by which method, and its section `run`."""

    run: RunOptions

    @property
    @abstractmethod
    def name(self) -> str:
        """First part of the run folder's name."""

    @abstractmethod
    def resolved(self) -> dict[str, Any]:
        """The case as plain values with every default spelled out; loads again to an equal case."""

    @abstractmethod
    def reread(self, path: Path) -> Runnable:
        """A case of the same kind from a configuration that a run left.

        Raises:
            ConfigurationError: it is none.
        """

    def text(self) -> str:
        """`resolved` as the YAML text of config.resolved.yaml."""
        return yaml_source.dump(self.resolved())

    def files(self) -> Mapping[str, str]:
        """Files that `text` names, relative to its own: their paths and texts."""
        return {}

    @cached_property
    def _digest(self) -> str:
        canonical = json.dumps(
            self.resolved(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def identity(self) -> str:
        """The same of what a resumed run may not change: not budget, steps, accuracy or device."""
        resolved = self.resolved()
        resolved["run"] = {key: resolved["run"][key] for key in KEPT}
        canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 of the resolved configuration, in hexadecimal."""
        return self._digest

    @property
    def folder(self) -> Path:
        """Where the run is kept unless the command line says otherwise."""
        if self.run.out:
            return Path(self.run.out)
        return Path("runs") / f"{self.name}-{self.digest()[:8]}"
