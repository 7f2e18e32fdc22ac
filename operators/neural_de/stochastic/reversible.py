"""Gradients of the reversible Heun scheme in constant memory.

The steps are run backwards by their algebraic inverse, and each is differentiated on its own: one
evaluation of the fields with its gradient a step (Kidger, Foster, Li and Lyons, arXiv 2105.13493,
algorithm 2). The gradient is that of the steps that were taken, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....errors import ConfigurationError
from ..terms import SDE, parameters_of
from .brownian import Noise
from .problem import Grid, StochasticProblem
from .steppers import Memory, ReversibleHeun, averaged, kicked, moved

__all__ = ["ReversibleAdjoint", "run"]


@dataclass(frozen=True)
class ReversibleAdjoint:
    """Exact gradients of `ReversibleHeun`, fixed steps, in memory that does not grow with them.

    Gradients go to the start and to the parameters of the modules among the fields; a field that
    depends on other tensors that require a gradient is refused.
    """


def run(
    problem: StochasticProblem,
    grid: Grid,
    noise: Noise,
    visit: Callable[[int, Tensor], None],
) -> tuple[Tensor, Memory]:
    """All steps of the grid; `visit` gets the state after each that ends at a time asked for."""
    sde, stepper, y = problem.sde, problem.stepper, problem.start
    times = grid.times(y)
    bounds = grid.starts.tolist()
    bounds.append(float(problem.times[-1]))
    first = torch.full((len(y),), bounds[0], dtype=y.dtype, device=y.device)
    memory = stepper.begin(sde, first, y)
    wanted = set(grid.columns)
    for k, (t, h) in enumerate(zip(times, grid.lengths, strict=True)):
        draw = noise.draw(k, bounds[k], bounds[k + 1])
        y, memory = stepper.step(sde, t, h, y, draw, memory)
        if k + 1 in wanted:
            visit(k + 1, y)
    return y, memory


def solve(problem: StochasticProblem, grid: Grid, noise: Noise) -> list[Tensor]:
    """States at all times but the first, each (batch, d), with gradients by reversal.

    Raises:
        ConfigurationError: the stepper cannot be reversed, or a field depends on tensors that
            gradients would not reach.
    """
    if not isinstance(problem.stepper, ReversibleHeun):
        raise ConfigurationError(
            f"{problem.stepper!r} cannot be run backwards.", advice="choose ReversibleHeun()"
        )
    parameters = parameters_of(problem.sde)
    _check_leaves(problem, parameters)
    return list(_Reversed.apply(problem, grid, noise, problem.start, *parameters))  # pyright: ignore


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: StochasticProblem,
        grid: Grid,
        noise: Noise,
        start: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        states: list[Tensor] = []
        _, memory = run(problem, grid, noise, lambda _, y: states.append(y))
        ctx.problem, ctx.grid, ctx.noise = problem, grid, noise
        ctx.save_for_backward(states[-1], *memory, *parameters)
        return tuple(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore
        state, z, f, g, *parameters = ctx.saved_tensors
        start, found = _backwards(
            ctx.problem, ctx.grid, ctx.noise, state, (z, f, g), parameters, gradients
        )
        return None, None, None, start, *found


def _backwards(
    problem: StochasticProblem,
    grid: Grid,
    noise: Noise,
    y: Tensor,
    memory: Memory,
    parameters: list[Tensor],
    gradients: tuple[Tensor | None, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """Adjoints of the start and of the parameters."""
    sde = problem.sde
    z = memory[0]
    total: list[Tensor | None] = [None] * len(parameters)
    arriving = dict(zip(grid.columns, gradients, strict=True))
    bounds = [*grid.starts.tolist(), float(problem.times[-1])]
    end = torch.full((len(y),), bounds[-1], dtype=y.dtype, device=y.device)
    fields = _Fields(sde, end, z, parameters)
    adjoint = torch.zeros_like(y)
    adjoint_z, drift, diffusion = torch.zeros_like(y), torch.zeros_like(y), None
    for k, t in zip(reversed(range(len(grid))), grid.times(y, backwards=True), strict=True):
        h, w = grid.lengths[k], noise.draw(k, bounds[k], bounds[k + 1]).w
        here = arriving.get(k + 1)
        if here is not None:
            adjoint = adjoint + here
        # y1 = y0 + 1/2 (f0 + f1) h + 1/2 (g0 + g1) W
        drift = torch.add(drift, adjoint, alpha=0.5 * h)
        half = 0.5 * _spread(adjoint, w, fields.g)
        diffusion = half if diffusion is None else diffusion + half
        # f1, g1 = fields(t1, z1)
        adjoint_z = adjoint_z + fields.pull(drift, diffusion, total)
        # The step, undone: z0 = 2 y1 - z1 - f1 h - g1 W
        f1, g1 = fields.f.detach(), fields.g.detach()
        z = kicked(sde, moved(torch.add(2 * y, z, alpha=-1), f1, -h), g1, -w)
        fields = _Fields(sde, t, z, parameters)
        y = averaged(sde, y, (fields.f.detach(), f1), (fields.g.detach(), g1), -h, -w)
        # z1 = 2 y0 - z0 + f0 h + g0 W
        drift = h * torch.add(adjoint_z, adjoint, alpha=0.5)
        diffusion = half + _spread(adjoint_z, w, fields.g)
        adjoint = torch.add(adjoint, adjoint_z, alpha=2.0)
        adjoint_z = -adjoint_z
    # At the start z is y.
    assert diffusion is not None
    adjoint = adjoint + adjoint_z + fields.pull(drift, diffusion, total)
    return adjoint, total


class _Fields:
    """Drift and diffusion at one point, with their gradient."""

    def __init__(self, sde: SDE, t: Tensor, z: Tensor, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        with torch.enable_grad():
            self._z = z.detach().requires_grad_()
            self.f, self.g = sde.drift(t, self._z), sde.diffusion(t, self._z)

    def pull(self, drift: Tensor, diffusion: Tensor, total: list[Tensor | None]) -> Tensor:
        """Adjoint of z; those of the parameters are added to `total`."""
        pairs = [(self.f, drift), (self.g, diffusion)]
        pairs = [(value, adjoint) for value, adjoint in pairs if value.requires_grad]
        if not pairs:
            return torch.zeros_like(self._z)
        found = torch.autograd.grad(
            [value for value, _ in pairs],
            [self._z, *self._parameters],
            [adjoint for _, adjoint in pairs],
            allow_unused=True,
        )
        for i, gradient in enumerate(found[1:]):
            if gradient is not None:
                before = total[i]
                total[i] = gradient if before is None else before + gradient
        return torch.zeros_like(self._z) if found[0] is None else found[0]


def _spread(adjoint: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """Adjoint of g where the adjoint (batch, d) of ``g W`` is given."""
    return adjoint * w if g.dim() == 2 else adjoint[:, :, None] * w[:, None]


def _check_leaves(problem: StochasticProblem, parameters: list[Tensor]) -> None:
    """Refuse fields whose graph leads to tensors that are no parameters of theirs."""
    y = problem.start.detach()
    t = problem.times[:1].to(y.dtype).expand(len(y))
    known = {id(parameter) for parameter in parameters}
    with torch.enable_grad():
        values = problem.sde.drift(t, y), problem.sde.diffusion(t, y)
    stack = [value.grad_fn for value in values if value.grad_fn is not None]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise ConfigurationError(
                "A field depends on a tensor that requires a gradient and is no parameter of it.",
                found=tuple(leaf.shape),
                advice="make the field an nn.Module that holds it, or choose adjoint=Direct()",
            )
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
