"""What fields are measured against: nested automatic differentiation, and rows of gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from residua.engine.networks.field import Field, NestedField, Record
from residua.engine.taylor import JetAlgebra, algebra_for


def up_to(order: int, dimension: int) -> JetAlgebra:
    """All partial derivatives to an order."""
    indices = itertools.product(range(order + 1), repeat=dimension)
    return algebra_for([index for index in indices if sum(index) <= order], dimension)


def inside(bounds: Sequence[tuple[float, float]], count: int = 9, seed: int = 5) -> Tensor:
    """Random points of a box, shape (count, coordinates)."""
    low, high = torch.tensor(bounds, dtype=torch.float64).T
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(
        count, len(bounds), generator=generator, dtype=torch.float64
    )


def shaken(field: Field, seed: int = 7, size: float = 0.3) -> Field:
    """The field with weights that no initialisation would give."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in field.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return field


def nested(field: Field, points: Tensor, algebra: JetAlgebra) -> Tensor:
    """The bundle by nested automatic differentiation of the values."""
    return NestedField(field).jet(points, algebra).detach()


def disagreement(
    field: Field, points: Tensor, algebra: JetAlgebra, slow: Tensor | None = None
) -> list[float]:
    """By channel, the largest difference from nested differentiation in units of the largest value.

    A channel that vanishes is measured by the largest of its order.
    """
    with torch.no_grad():
        fast = field.jet(points, algebra)
    slow = nested(field, points, algebra) if slow is None else slow
    order = [sum(channel[0][1]) for channel in algebra.parts]
    size = slow.abs().amax(dim=(1, 2))
    largest = [max(float(s) for s, o in zip(size, order, strict=True) if o == p) for p in order]
    return [
        float((fast[c] - slow[c]).abs().max())
        / (float(size[c]) if size[c] > 1e-12 * largest[c] else max(largest[c], 1e-300))
        for c in range(algebra.channels)
    ]


def rows_from_tape(
    values: Tensor, tape: list[Record], parameters: Sequence[nn.Parameter]
) -> Tensor:
    """Jacobian (points, parameters) of point-wise values by outer products of the layers."""
    adjoints = torch.autograd.grad(values.sum(), [r.outputs for r in tape], retain_graph=True)
    rows = {p: torch.zeros(len(values), p.numel(), dtype=values.dtype) for p in parameters}
    for record, adjoint in zip(tape, adjoints, strict=True):
        for parameter, block in record.rows(adjoint, len(values)):
            rows[parameter] += block
    return torch.cat([rows[p] for p in parameters], dim=1)


def rows_by_autograd(values: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The same by one backward pass for every point."""
    rows = []
    for value in values:
        gradients = torch.autograd.grad(
            value, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def wrong_from(order: int, rule: Callable) -> Callable:
    """A Taylor rule whose derivatives of that order are one per cent off."""

    def wrong(z: Tensor, highest: int) -> list[Tensor]:
        out = list(rule(z, highest))
        if highest >= order:
            out[order] = 1.01 * out[order]
        return out

    return wrong
