"""Controlled equations that pass many observations in one step, by log-signatures.

`NeuralRDE` (arXiv 2009.08295) has a network for the increments and areas alike; `LogNCDE` (arXiv
2402.18512) takes the brackets of its vector fields, as the log-ODE method has it.
"""

from __future__ import annotations

from torch import Tensor

from ..controlled.log_ode import solve_log_ode
from ..controlled.logsignature import size
from ..controlled.paths import Path
from .neural_cde import Driven, Interpolation, MatrixField, Steps

__all__ = ["LogNCDE", "NeuralRDE"]


class NeuralRDE(Driven):
    """A neural rough differential equation.

    Args:
        channels: of the series.
        classes: number of classes; None for a number.
        hidden: components of the state.
        width: of the hidden layers of the field.
        depth: hidden layers of the field.
        window: observations that one step passes.
        signature: depth of the log-signatures, 1 or 2.
        path: how observations are interpolated; between the knots of "hermite" straight lines are
            taken too, as log-signatures are those of such lines.
        counts: whether observations are counted in channels of the path.
        solver: "midpoint", "heun" or "rk4".
        substeps: steps in a window.
    """

    brackets = False

    def __init__(
        self,
        channels: int,
        classes: int | None = None,
        hidden: int = 8,
        width: int = 64,
        depth: int = 1,
        window: int = 8,
        signature: int = 2,
        path: Interpolation = "linear",
        counts: bool = False,
        solver: Steps = "heun",
        substeps: int = 1,
    ) -> None:
        def field(inputs: int) -> MatrixField:
            columns = inputs if self.brackets else size(inputs, signature)
            return MatrixField(hidden, columns, width, depth)

        super().__init__(channels, classes, field, hidden, path, counts, solver)
        self.window, self.signature, self.substeps = window, signature, substeps

    def terminal(self, path: Path, start: Tensor) -> Tensor:
        """The state at the end of a path."""
        return solve_log_ode(
            self.field, path, start, window=self.window, depth=self.signature,
            brackets=self.brackets, stepper=self.solver, substeps=self.substeps,
        )  # fmt: skip


class LogNCDE(NeuralRDE):
    """A log neural controlled differential equation: a `NeuralRDE` with the true brackets.

    Its field has a column for each channel of the path alone; what area does to the state follows
    from how the vector fields of two channels fail to commute.
    """

    brackets = True
