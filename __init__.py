"""Residua: solve differential equations, each answer with an error you can believe.

    import residua
    solution = residua.solve("burgers")
    values = solution(points)

Attributes are loaded on first use, so that `import residua` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import load, load_operator, load_trajectory_model, problem, solve, train
    from .config import Case, load_case, make_case
    from .errors import ConfigurationError, ResiduaError
    from .problems.problem import Problem

    __version__: str

__all__ = [
    "Case",
    "ConfigurationError",
    "Problem",
    "ResiduaError",
    "__version__",
    "load",
    "load_case",
    "load_operator",
    "load_trajectory_model",
    "make_case",
    "problem",
    "solve",
    "train",
]

_HOMES = {
    "Case": ".config",
    "ConfigurationError": ".errors",
    "Problem": ".problems.problem",
    "ResiduaError": ".errors",
    "load": ".api",
    "load_case": ".config",
    "load_operator": ".api",
    "load_trajectory_model": ".api",
    "make_case": ".config",
    "problem": ".api",
    "solve": ".api",
    "train": ".api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("residua")
        except PackageNotFoundError:  # used from a source tree that was not installed
            return "0+unknown"
    if name not in _HOMES:
        raise AttributeError(f"module 'residua' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
