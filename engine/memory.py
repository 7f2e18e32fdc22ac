"""How much memory an optimiser needs, told before anything is allocated; nothing here is torch."""

from __future__ import annotations

from ..errors import ResourceError

__all__ = ["free_memory", "require_jacobian", "require_state"]

UNKNOWN = 8 * 2**30
"""Bytes a Jacobian and its factors may have where the free memory is not known."""
COPIES = 4
"""Of all parameters, at least: themselves, their gradient, and two of an optimiser's state."""


def require_jacobian(rows: int, columns: int, item: int, allowed: float) -> None:
    """Refuse a Jacobian that does not fit with its factors.

    Args:
        rows: residuals.
        columns: parameters.
        item: bytes of a number.
        allowed: bytes that may be used.

    Raises:
        ResourceError: with the sizes, and what to use instead.
    """
    # Beside it a scaled one in residual space, or orthogonal factors once the damping is small; and
    # a normal matrix, its factor and one kept from an earlier step.
    size = item * (2 * rows * columns + 3 * min(rows, columns) ** 2)
    if size > allowed:
        raise ResourceError(
            f"the Jacobian of {rows} residuals by {columns} parameters and its factors need "
            f"{size / 2**30:.1f} GiB, and {allowed / 2**30:.1f} GiB may be used; use "
            "fewer points, a smaller network, or an optimiser without Jacobian (optimizer: lbfgs; "
            "spring needs one too, but of few points)"
        )


def require_state(parameters: int, item: int, allowed: float) -> None:
    """Refuse a network that does not fit with what any optimiser keeps of it.

    Raises:
        ResourceError: with the sizes.
    """
    size = COPIES * item * parameters
    if size > allowed:
        raise ResourceError(
            f"a network of {parameters} parameters, its gradient and the state of an optimiser "
            f"need {size / 2**30:.1f} GiB, and {allowed / 2**30:.1f} GiB may be used; use a "
            "smaller network (solver.network.width, solver.network.depth)"
        )


def free_memory() -> float:
    """Bytes that new work may take without swapping; a guess where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024.0 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return float(UNKNOWN)
