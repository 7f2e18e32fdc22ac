"""Causal training in time windows (Wang, Sankaran & Perdikaris, arXiv 2203.07404; CMAME 421, 2024).

The causal weighting is covered by a patent of the University of Pennsylvania; see
`residua.engine.weighting`.
Time windows, hard hand-over and Gauss-Newton do not depend on it: the backend ``pinn`` has them
without.
"""

from __future__ import annotations

import torch

from ..config import Case
from .collocation import Collocation
from .options import CausalOptions


class Causal(Collocation):
    """Collocation in time windows with causal weights."""

    def __init__(self, case: Case, device: torch.device) -> None:
        options = case.solver
        assert isinstance(options, CausalOptions)
        super().__init__(case, device, options.causal)
