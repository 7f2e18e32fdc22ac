"""Networks side by side: each answers for some of the fields, and they share no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..taylor import JetAlgebra
from .field import Context, Field


class Branches(Field):
    """Fields of several networks, one after the other.

    Args:
        networks: in the order of the fields they answer for.
    """

    steady = True

    def __init__(self, networks: Sequence[Field]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        parts = [cast(Field, n).jet(points, algebra, context) for n in self.networks]
        return torch.cat(parts, dim=2)
