"""What is integrated: the right-hand side of a differential equation, and how it is split.

A field is any callable ``f(t, y)`` with t of shape (batch,) and y of shape (batch, d). Each row is
a sample at a time of its own, and rows do not influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError

__all__ = ["ODE", "SDE", "Field", "Separable", "SplitODE", "Term", "modules_of", "parameters_of"]

Field: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Noise: TypeAlias = Literal["diagonal", "additive", "general"]
Calculus: TypeAlias = Literal["ito", "stratonovich"]


class Term:
    """A right-hand side. Calling it gives dy/dt, whatever it is split into.

    Attributes:
        fields: the callables it is made of.
    """

    fields: tuple[Field, ...] = ()

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope dy/dt, shape (batch, d), at times t (batch,) and states y (batch, d)."""
        raise NotImplementedError


class ODE(Term):
    """``dy/dt = field(t, y)``."""

    def __init__(self, field: Field) -> None:
        self.field = _callable("field", field)
        self.fields = (self.field,)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope dy/dt."""
        return self.field(t, y)


class SplitODE(Term):
    """``dy/dt = explicit(t, y) + implicit(t, y)``; an IMEX stepper treats the second implicitly."""

    def __init__(self, explicit: Field, implicit: Field) -> None:
        self.explicit = _callable("explicit", explicit)
        self.implicit = _callable("implicit", implicit)
        self.fields = (self.explicit, self.implicit)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope dy/dt."""
        return self.explicit(t, y) + self.implicit(t, y)


class Separable(Term):
    """``dq/dt = velocity(t, p)`` and ``dp/dt = force(t, q)``, with y = [q | p] in halves.

    The equations of a Hamiltonian T(p) + V(q) have this form, with velocity = T' and force = -V'.
    """

    def __init__(self, velocity: Field, force: Field) -> None:
        self.velocity = _callable("velocity", velocity)
        self.force = _callable("force", force)
        self.fields = (self.velocity, self.force)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope dy/dt."""
        q, p = halves(y)
        return torch.cat((self.velocity(t, p), self.force(t, q)), dim=1)


class SDE(Term):
    """``dy = drift(t, y) dt + diffusion(t, y) dW``.

    Args:
        drift: (batch, d).
        diffusion: (batch, d) if the noise is diagonal, else (batch, d, channels).
        noise: "diagonal", each component has a Brownian motion of its own; "additive", the
            diffusion does not depend on y; "general".
        calculus: in which sense the integral is meant.
        channels: Brownian motions; None means as many as there are components (diagonal noise).

    Raises:
        ConfigurationError: an unknown noise or calculus, or channels missing.
    """

    def __init__(
        self,
        drift: Field,
        diffusion: Field,
        noise: Noise = "diagonal",
        calculus: Calculus = "ito",
        channels: int | None = None,
    ) -> None:
        if noise not in ("diagonal", "additive", "general"):
            raise ConfigurationError(
                "Unknown noise.", found=noise, advice='write "diagonal", "additive" or "general"'
            )
        if calculus not in ("ito", "stratonovich"):
            raise ConfigurationError(
                "Unknown calculus.", found=calculus, advice='write "ito" or "stratonovich"'
            )
        if noise != "diagonal" and channels is None:
            raise ConfigurationError(
                f"{noise.capitalize()} noise needs its number of Brownian motions.",
                advice="give channels",
            )
        self.drift = _callable("drift", drift)
        self.diffusion = _callable("diffusion", diffusion)
        self.noise: Noise = noise
        self.calculus: Calculus = calculus
        self.channels = channels
        self.fields = (self.drift, self.diffusion)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift alone."""
        return self.drift(t, y)


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and momenta of a state [q | p].

    Raises:
        ConfigurationError: the state has an odd number of components.
    """
    if y.shape[1] % 2:
        raise ConfigurationError(
            "A separable system has as many positions as momenta.",
            found=y.shape[1],
            advice="give a state [q | p] with an even number of components",
        )
    q, p = y.chunk(2, dim=1)
    return q, p


def parameters_of(term: Term | Any) -> list[Tensor]:
    """Parameters that require a gradient, each once, of the modules among the fields of a term.

    A field that is a bound method counts as the module it belongs to. Tensors that a plain function
    holds in its closure cannot be seen from here.
    """
    seen: dict[int, Tensor] = {}
    for module in modules_of(term):
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen[id(parameter)] = parameter
    return list(seen.values())


def modules_of(term: Term | Any) -> list[nn.Module]:
    """The modules among the fields of a term, each once."""
    found = {id(module): module for module in _modules(getattr(term, "fields", (term,)))}
    return list(found.values())


def _modules(fields: tuple[Any, ...]) -> Iterator[nn.Module]:
    for field in fields:
        owner = field if isinstance(field, (nn.Module, Term)) else getattr(field, "__self__", None)
        if isinstance(owner, nn.Module):
            yield owner
        elif isinstance(owner, Term):
            yield from _modules(owner.fields)


def _callable(name: str, field: Field) -> Field:
    if not callable(field):
        raise ConfigurationError(
            f"The {name} is not callable.", found=field, advice="give a function f(t, y)"
        )
    return field
