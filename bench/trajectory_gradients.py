"""Gradients of an integration: how far from autograd through the steps, and in how much memory.

Bytes are those of every storage that is alive, whoever holds it. What autograd's hooks for saved
tensors see is less: an adjoint that is an `autograd.Function` may keep what it likes in its
context.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..operators.neural_de import (
    ODE,
    PID,
    Backsolve,
    Checkpointed,
    Constant,
    Direct,
    Dopri5,
    Interpolated,
    McCallumFoster,
    Midpoint,
    Reversible,
    integrate,
)

__all__ = ["Alive", "gradient_table"]


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is entered that are still alive.

    Attributes:
        now: bytes alive.
        most: the largest `now` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Run an operation and look at what it made; what it was given was there before."""
        # A tensor of Python's numbers is made before it is handed to its first operation.
        fresh = func is torch.ops.aten.lift_fresh.default
        for given in () if fresh else tree_leaves(args):
            if isinstance(given, Tensor):
                self._add(given.untyped_storage(), made=False)
        found = func(*args, **(kwargs or {}))
        for new in (found,) if isinstance(found, Tensor) else tree_leaves(found):
            if isinstance(new, Tensor):
                self._add(new.untyped_storage(), made=True)
        return found

    def _add(self, storage: Any, *, made: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


class _Problem:
    """A small network in the plane, 8 samples, float64, from 0 to 1."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        with torch.no_grad():
            for p in self.field.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        self.start = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(8, 2)
        self.leaves = [self.start.requires_grad_(), *self.field.parameters()]
        self.term = ODE(_Timeless(self.field))

    def loss(self, adjoint: Any, stepper: Any, controller: Any) -> Tensor:
        """A sum of squares over states at three times."""
        states = integrate(
            self.term, self.start, [0.0, 0.4, 1.0], stepper=stepper, controller=controller,
            adjoint=adjoint, max_steps=1 << 20, path="eager",
        ).states  # fmt: skip
        return states.square().sum()

    def gradient(self, *how: Any) -> Tensor:
        """By start and weights, in one vector."""
        found = torch.autograd.grad(self.loss(*how), self.leaves)
        return torch.cat([g.flatten() for g in found])


class _Timeless(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.network(y)


def _distance(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def gradient_table(steps: Sequence[int] = (1000, 10_000)) -> dict[str, dict[str, Any]]:
    """Every adjoint: error of its gradient and bytes, by the number of constant steps.

    Steps are those of the midpoint rule. Two adjoints solve an equation of their own; their error
    is that at tolerances of 1e-10, by steps of Dormand and Prince. That of the others is the
    largest over the numbers of steps.

    Returns:
        by name of the adjoint: ``error``, distance of its gradient from that of autograd through
        the same forward steps, by the norm of the latter, float64; ``saved_bytes``, by number of
        steps, alive between the way there and the way back; ``most_bytes``, most alive at once.
    """
    problem, midpoint = _Problem(), Midpoint()
    rows: dict[str, tuple[Any, Any]] = {
        "direct": (Direct(), midpoint),
        "checkpointed": (Checkpointed(), midpoint),
        "backsolve": (Backsolve(), midpoint),
        "interpolated": (Interpolated(), midpoint),
        "reversible": (Reversible(), McCallumFoster(midpoint)),
    }
    table: dict[str, dict[str, Any]] = {}
    tight = (Dopri5(), PID(1e-10, 1e-10))
    for name, (adjoint, stepper) in rows.items():
        row: dict[str, Any] = {"error": 0.0, "saved_bytes": {}, "most_bytes": {}}
        for count in steps:
            how = stepper, Constant(1 / count)
            with Alive() as alive:
                loss = problem.loss(adjoint, *how)
                row["saved_bytes"][count] = alive.now
                parts = torch.autograd.grad(loss, problem.leaves)
                row["most_bytes"][count] = alive.most
            if name in ("checkpointed", "reversible"):
                found = torch.cat([g.flatten() for g in parts])
                row["error"] = max(row["error"], _distance(found, problem.gradient(Direct(), *how)))
        if name in ("backsolve", "interpolated"):
            true = problem.gradient(Direct(), *tight)
            row["error"] = _distance(problem.gradient(adjoint, *tight), true)
        table[name] = row
    return table
