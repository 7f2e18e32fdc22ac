"""How gradients of an integration are had."""

from __future__ import annotations

from .direct import Direct

__all__ = ["Direct"]
