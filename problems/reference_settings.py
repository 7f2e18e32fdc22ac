"""What a problem may say under `reference`: the methods, and the settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..typed import build, nearest, option

__all__ = ["METHODS", "AutoReference", "ExactReference", "NoSettings", "read"]


@dataclass(frozen=True)
class AutoReference:
    """The automatic reference, see `references.Automatic`."""

    target: float = option(1e-9, "error bar to reach", low=1e-13, high=0.03)
    seconds: float = option(20.0, "time to spend", low=0.1, high=1e5)
    resolution: int | None = option(None, "fixed nodes per coordinate", low=8, high=4096)


@dataclass(frozen=True)
class ExactReference:
    """A solution given as formulas, see `references.Exact`."""

    exact: Mapping[str, float | str] = option(dict, "a formula for every field")

    def __post_init__(self) -> None:
        if not self.exact:
            raise ConfigurationError(
                "the exact solution is missing", advice="write {exact: {u: sin(x - t)}}"
            )


@dataclass(frozen=True)
class NoSettings:
    """A method that leaves nothing to choose."""


METHODS: Mapping[str, type] = {
    "auto": AutoReference,
    "exact": ExactReference,
    "cole_hopf": NoSettings,
    "none": NoSettings,
}


def read(spec: Mapping[str, Any]) -> Any:
    """The settings of `{method: ..., settings}`, checked.

    Raises:
        ConfigurationError: an unknown method, an unknown setting, or a value out of range; its path
            starts at "reference".
    """
    settings, path = dict(spec), ("reference",)
    method = settings.pop("method")
    if not isinstance(method, str) or method not in METHODS:
        advice = nearest(method, METHODS) if isinstance(method, str) else "write a method's name"
        raise ConfigurationError("", path=path, found=method, advice=advice)
    for key in settings:
        owners = [name for name, cls in METHODS.items() if key in cls.__dataclass_fields__]
        if owners and method not in owners:
            raise ConfigurationError(
                f"the method '{method}' has no setting '{key}'",
                path=(*path, key),
                advice=f"it belongs to: {', '.join(owners)}",
            )
    return build(METHODS[method], settings, path)
