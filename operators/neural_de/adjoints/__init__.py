"""How gradients of an integration are had."""

from __future__ import annotations

from .checkpointed import Checkpointed
from .continuous import Backsolve, Interpolated
from .direct import Direct
from .reversible import McCallumFoster, Reversible

__all__ = ["Backsolve", "Checkpointed", "Direct", "Interpolated", "McCallumFoster", "Reversible"]
