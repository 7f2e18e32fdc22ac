"""Physics-informed network, on the whole domain or in time windows.

Source: Raissi, Perdikaris & Karniadakis, J. Comput. Phys. 378 (2019).
"""

from __future__ import annotations

import torch

from ..config import Case
from .collocation import Collocation


class Pinn(Collocation):
    """Collocation without causal weights."""

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__(case, device, None)
