"""Systems whose solutions are known, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass
class Known:
    """A field and its solution from time 0."""

    field: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    exact: Callable[[Tensor], Tensor]  # times (n,) to states (batch, n, d)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def forced() -> Known:
    """Nonlinear, not autonomous: y = r (cos a, sin a), a' = 1 + cos t, r' = (r - r^3) / 8."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        square = (y**2).sum(1, keepdim=True)
        turn = (1 + t.cos())[:, None] * torch.stack((-y[:, 1], y[:, 0]), dim=1)
        return turn + y * (1 - square) / 8

    radius = torch.tensor([0.3, 0.8, 1.7], dtype=torch.float64)
    angle = torch.tensor([0.1, 2.0, -1.0], dtype=torch.float64)

    def exact(times: Tensor) -> Tensor:
        grown = torch.exp(times / 4)[None]
        r2 = radius[:, None] ** 2
        r = (r2 * grown / (1 + r2 * (grown - 1))).sqrt()
        a = angle[:, None] + times + times.sin()
        return torch.stack((r * a.cos(), r * a.sin()), dim=2)

    return Known(field, exact(torch.zeros(1, dtype=torch.float64))[:, 0], exact)
