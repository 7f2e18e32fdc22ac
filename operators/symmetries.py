"""Symmetries of an equation, by which every sample stands for others that need not be solved.

Where turning the data turns the solution, an operator that is shown samples turned at random learns
from as many as there are turns. What holds is for the person to say: of the library's families
Darcy flow has the symmetries of the square (constant source, the same condition on all sides), and
Burgers' equation on a ring the shifts and the odd mirror, u(x) to -u(-x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .options import Symmetry

__all__ = ["moved"]


def moved(
    fields: Sequence[Tensor],
    symmetries: Sequence[Symmetry],
    *,
    periodic: bool,
    generator: torch.Generator,
) -> list[Tensor]:
    """Fields of the same samples, moved by the same draw of symmetries for each sample.

    Args:
        fields: each of shape (batch, channels, *n), scalars at every node.
        symmetries: those of the equation.
        periodic: whether the first node comes again after the last.
        generator: of the draws, on the CPU.
    """
    rows = []
    for number in range(len(fields[0])):
        sample = [field[number] for field in fields]
        if "square" in symmetries:
            turns, mirror = torch.randint(4, (1,), generator=generator).item(), _coin(generator)
            sample = [torch.rot90(field, int(turns), (1, 2)) for field in sample]
            if mirror:
                sample = [field.transpose(1, 2) for field in sample]
        if "odd_mirror" in symmetries and _coin(generator):
            sample = [-field.flip(1) for field in sample]
            if periodic:  # node 0 is its own mirror image
                sample = [field.roll(1, 1) for field in sample]
        if "shifts" in symmetries:
            axes = tuple(range(1, sample[0].ndim))
            steps = [
                int(torch.randint(sample[0].shape[a], (1,), generator=generator)) for a in axes
            ]
            sample = [field.roll(steps, axes) for field in sample]
        rows.append(sample)
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _coin(generator: torch.Generator) -> bool:
    return bool(torch.randint(2, (1,), generator=generator))
