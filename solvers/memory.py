"""Whether a case can fit into memory at all, from its settings alone: before torch is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.memory import free_memory, require_jacobian, require_state
from ..execution.options import gpu_present
from .options import GaussNewton, SolverOptions, Spring

if TYPE_CHECKING:
    from ..config import Case

__all__ = ["check_memory"]


def check_memory(case: Case) -> None:
    """Refuse what is too large even if every symmetry and hard condition makes it smaller.

    The sizes are lower bounds: the trainer counts again, exactly, once it exists. Nothing is said
    of a GPU, whose memory only torch knows.

    Raises:
        ResourceError: with the sizes, and what to use instead.
    """
    solver = case.solver
    on_gpu = case.run.device == "cuda" or (case.run.device == "auto" and gpu_present())
    if on_gpu or not isinstance(solver, SolverOptions):
        return
    network, item = solver.network, 4 if case.run.dtype == "float32" else 8
    hidden = (network.depth - 1) * network.width * (network.width + 1)
    readout = (network.width + 1) * len(case.problem.fields)
    columns = hidden + 2 * network.width + readout
    rows = solver.points.interior * len(case.problem.equations)
    free = free_memory()
    require_state(columns, item, free)
    for stage in solver.optimizer:
        if isinstance(stage, GaussNewton | Spring):
            projected = isinstance(stage, GaussNewton) and stage.variable_projection
            linear = readout if projected else 0
            require_jacobian(rows, columns, item, free, form=stage.solver, linear=linear)
