"""What does the element-wise work in this process, and why nothing faster does."""

from __future__ import annotations

import logging
import os

__all__ = ["SWITCH", "built", "distrust", "forbidden", "status", "tell", "told"]

log = logging.getLogger(__name__)

SWITCH = "RESIDUA_NATIVE"
"""Environment variable; 0 keeps to torch's operations."""

_built: dict[str, None] = {}
_told: set[str] = set()


def forbidden() -> bool:
    """Whether the environment keeps to torch's operations."""
    if os.environ.get(SWITCH) != "0":
        return False
    tell(f"{SWITCH} is 0", aloud=False)
    return True


def built(what: str) -> None:
    """Say what has been compiled, such as ``loops compiled by cc``."""
    _built[what] = None


def tell(reason: str, *, aloud: bool = True) -> None:
    """Say why torch's operations do the work, once."""
    if reason not in _told:
        _told.add(reason)
        if aloud:
            log.warning("element-wise work is left to torch, which is slower: %s", reason)


def told(reason: str) -> bool:
    """Whether that was a reason already."""
    return reason in _told


def distrust(what: str) -> None:
    """Say that a compiled loop gave other numbers than torch's operations."""
    tell(f"{what} compiled wrongly")


def status() -> str:
    """What has done the element-wise work so far, for records of a run."""
    what = " and ".join(_built) or "torch operations"
    return what + "".join(f"; torch operations where {reason}" for reason in sorted(_told))
