"""Data for operators: generators with error bars, one documented layout, readers of others.

    from residua.operators import datasets

    data = datasets.open("darcy.h5")
    train = data.split("train")
    train.inputs[:8]  # NumPy array (8, channels, *nodes), read now

Nothing here needs torch, and nothing is imported before it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .darcy import coarse_floor
    from .dataset import Dataset, refuse_leaks
    from .generation import Request, generate
    from .readers import open

__all__ = ["Dataset", "Request", "coarse_floor", "generate", "open", "refuse_leaks"]

_HOMES = {
    "Dataset": ".dataset",
    "Request": ".generation",
    "coarse_floor": ".darcy",
    "generate": ".generation",
    "open": ".readers",
    "refuse_leaks": ".dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
