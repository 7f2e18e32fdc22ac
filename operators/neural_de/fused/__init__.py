"""Small systems integrated in compiled code, forwards and backwards."""

from __future__ import annotations

from .solve import available, solve_fused

__all__ = ["available", "solve_fused"]
