"""Backends that turn an equation into a solution; they need no data.

`BACKENDS` names them without importing them: the class is loaded on first use, so that listing
backends or refusing a case file does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Union

from . import accepts, options
from .deepxde.options import DeepxdeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..problems.problem import Problem

__all__ = ["BACKENDS", "Backend", "any_options"]


@dataclass(frozen=True)
class Backend:
    """One entry of the registry.

    Attributes:
        name: what a case file writes under `solver.name`.
        title: one line for lists.
        module: module of this package that holds the class.
        attribute: name of the class in it.
        options: its settings, a subclass of `options.BackendOptions`.
        accepts: None if the backend can solve the problem, else the reason why not, as a sentence.
    """

    name: str
    title: str
    module: str
    attribute: str
    options: type
    accepts: Callable[[Problem], str | None]

    def load(self) -> Any:
        """The solver class itself; imports torch."""
        return getattr(import_module(f".{self.module}", __package__), self.attribute)


BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "pinn",
            "network on the whole domain, or in time windows",
            "pinn",
            "Pinn",
            options.PinnOptions,
            accepts.pinn,
        ),
        Backend(
            "causal",
            "the same with causal weights in time",
            "causal",
            "Causal",
            options.CausalOptions,
            accepts.causal,
        ),
        Backend(
            "gaussians",
            "Gaussians that move to where the solution changes",
            "gaussians",
            "PhysicsInformedGaussians",
            options.GaussiansOptions,
            accepts.gaussians,
        ),
        Backend(
            "lagrangian",
            "networks along characteristics, for what is carried",
            "lagrangian",
            "LagrangianPinn",
            options.LagrangianOptions,
            accepts.lagrangian,
        ),
        Backend(
            "deepxde",
            "DeepXDE with its documented settings, in a process of its own",
            "deepxde.trainer",
            "Deepxde",
            DeepxdeOptions,
            accepts.deepxde,
        ),
    )
}


def any_options() -> Any:
    """Union of the settings of all backends, as `residua.typed` reads and describes it."""
    return Union[tuple(backend.options for backend in BACKENDS.values())]  # noqa: UP007
