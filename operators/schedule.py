"""How the learning rate goes over a training, and in which order samples come.

Both depend on seed and number alone, so that a resumed training does what the uninterrupted one
would have done.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["numbered", "one_cycle", "shuffled"]


def one_cycle(place: float, warm_up: float) -> float:
    """Learning rate in parts of its highest: from a tenth up and down to a thousandth, by cosines.

    Args:
        place: part of the training that is over, 0 to 1.
        warm_up: part in which it rises.
    """
    low = 0.1 if place < warm_up else 1e-3
    part = place / warm_up if place < warm_up else 1 - (place - warm_up) / max(1 - warm_up, 1e-12)
    return low + (1 - low) * (1 - math.cos(math.pi * part)) / 2


def numbered(seed: int, number: int) -> torch.Generator:
    """A source of random numbers for a step or an epoch, on the CPU."""
    # Torch takes no seed of more than 64 bits.
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The samples of an epoch in their order."""
    return torch.randperm(count, generator=numbered(seed, epoch))
