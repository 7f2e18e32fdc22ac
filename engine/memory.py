"""How much memory an optimiser needs, told before anything is allocated; nothing here is torch."""

from __future__ import annotations

from ..errors import ResourceError

__all__ = ["free_memory", "require_jacobian", "require_state"]

UNKNOWN = 8 * 2**30
"""Bytes a Jacobian and its factors may have where the free memory is not known."""
COPIES = 4
"""Of all parameters, at least: themselves, their gradient, and two of an optimiser's state."""


NEEDS = {"primal": (1, 4), "dual": (3, 4), "randomised": (3, 14)}
"""By form, Jacobians and squares of its shorter side that a step holds at most, as measured."""
MOST_NEEDED = (3, 6)
"""The same of orthogonal factors, which ``auto`` comes to once the damping is small."""


def require_jacobian(
    rows: int, columns: int, item: int, allowed: float, *, form: str = "auto", linear: int = 0
) -> None:
    """Refuse a Jacobian that does not fit with its factors.

    Args:
        rows: residuals.
        columns: parameters.
        item: bytes of a number.
        allowed: bytes that may be used.
        form: how a step is found, see `optimizers.least_squares`.
        linear: parameters that are projected out (`variable_projection`); 0 for none.

    Raises:
        ResourceError: with the sizes, and what to use instead.
    """
    rest = columns - linear
    side = {"primal": rest, "dual": rows}.get(form, min(rows, rest))
    copies, squares = NEEDS.get(form, MOST_NEEDED)
    count = copies * rows * columns + squares * side**2
    instead = "fewer points, a smaller network, "
    if linear:
        # The Jacobian; the projected one and its basis, and factors of it; and while a trial is
        # projected the singular vectors of the linear columns and what they are computed in.
        count = rows * (2 * columns + rest + max(5 * linear, columns))
        count += squares * side**2 + 2 * linear * rest + 8 * linear**2
        instead += "no variable_projection, "
    size = item * count
    if size > allowed:
        raise ResourceError(
            f"the Jacobian of {rows} residuals by {columns} parameters and its factors need "
            f"{size / 2**30:.1f} GiB, and {allowed / 2**30:.1f} GiB may be used; use "
            f"{instead}or an optimiser without Jacobian (optimizer: lbfgs; "
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
