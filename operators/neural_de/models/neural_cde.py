"""Models that read a series as the control of a differential equation, and the plain one of them.

A state starts from what is first seen, moves by ``dz = f(z) dX`` with the series as the path X, and
is read at the end (Kidger, Morrill, Foster and Lyons, "Neural controlled differential equations for
irregular time series", arXiv 2005.08926).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import ConfigurationError
from ....typed import nearest
from ..controlled.equation import solve_controlled
from ..controlled.paths import Hermite, Linear, Path, Rectilinear
from ..controlled.perceptron import march_perceptron
from ..explicit import RK4, ExplicitRungeKutta, Heun, Midpoint
from .labelled import Labelled

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["Driven", "MatrixField", "NeuralCDE"]

Interpolation = Literal["hermite", "linear", "rectilinear"]
Steps = Literal["midpoint", "heun", "rk4"]

PATHS: dict[str, type[Hermite] | type[Linear] | type[Rectilinear]] = {
    "hermite": Hermite,
    "linear": Linear,
    "rectilinear": Rectilinear,
}
STEPPERS: dict[str, Callable[[], ExplicitRungeKutta]] = {
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
}


class MatrixField(nn.Module):
    """A network from a state to a matrix, bounded by a last tanh so that the state cannot explode.

    Args:
        hidden: components of the state.
        channels: columns of the matrix.
        width: of the hidden layers.
        depth: hidden layers, with SiLU: smooth, as log-ODEs differentiate them.
    """

    def __init__(self, hidden: int, channels: int, width: int, depth: int = 1) -> None:
        super().__init__()
        self.shape = (hidden, channels)
        sizes = [hidden] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.last = nn.Linear(sizes[-1], hidden * channels)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Matrices (batch, hidden, channels) at z (batch, hidden); t is not looked at."""
        for layer in self.layers:
            z = F.silu(layer(z))
        return self.last(z).tanh().unflatten(1, self.shape)

    def march(
        self, slopes: Tensor, start: Tensor, stepper: ExplicitRungeKutta, every: int | None
    ) -> Tensor:
        """Steps of ``dz = self(z) dX`` whose derivative is written out (see `equation.march`).

        They can be differentiated once. For more, hand on a function that calls this module.
        """
        layers = [(layer.weight, layer.bias) for layer in (*self.layers, self.last)]
        if slopes.shape[3] != self.shape[1] or start.shape[1] != self.shape[0]:
            raise ConfigurationError(
                "The field of a controlled equation does not fit its path.",
                found=self.shape,
                advice=f"make one for {start.shape[1]} components and {slopes.shape[3]} channels",
            )
        return march_perceptron(layers, slopes, start, stepper.tableau, every)  # pyright: ignore[reportArgumentType]

    def linearised(self, t: Tensor, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The matrix, and its derivative, column j along direction j (see `bracketed`)."""
        weights: list[Tensor] = []
        slopes: list[Tensor] = []
        for layer in self.layers:
            before = layer(z)
            gate = before.sigmoid()
            z = before * gate
            weights.append(cast(Tensor, layer.weight))
            slopes.append(gate + z * (1 - gate))
        matrix = self.last(z).tanh().unflatten(1, self.shape)
        last = self.last.weight.unflatten(0, self.shape)

        def push(directions: Tensor) -> Tensor:
            for weight, slope in zip(weights, slopes, strict=True):
                directions = F.linear(directions, weight) * slope[:, None]
            change = torch.einsum("bcw,hcw->bhc", directions, last)
            return torch.linalg.vecdot(change, 1 - matrix * matrix)

        return matrix, push


class Driven(Labelled):
    """A series to classes or to a number, by a controlled equation that a subclass solves.

    Args:
        channels: of the series.
        classes: number of classes, told by the labels of a series; None for a number, which is
            then the label.
        field: its matrix field, which `terminal` integrates.
        hidden: components of the state.
        path: how observations are interpolated.
        counts: whether observations are counted in channels of the path.
        solver: rule of a step.

    Raises:
        ConfigurationError: a word is unknown.
    """

    count_unit: Tensor

    def __init__(
        self,
        channels: int,
        classes: int | None,
        field: Callable[[int], MatrixField],
        hidden: int,
        path: str,
        counts: bool,
        solver: str,
    ) -> None:
        super().__init__(channels, classes)
        for word, known in ((path, PATHS), (solver, STEPPERS)):
            if word not in known:
                raise ConfigurationError(
                    "Controlled equations know no such word.",
                    found=word,
                    advice=nearest(word, known),
                )
        self.path, self.counts = path, counts
        self.solver = STEPPERS[solver]()
        inputs = 1 + channels * (2 if counts else 1)
        self.first = nn.Linear(inputs, hidden)
        self.field = field(inputs)
        self.last = nn.Linear(hidden, classes or 1)
        self.register_buffer("count_unit", torch.tensor(1.0))

    @torch.no_grad()
    def standardise(self, series: Series) -> Any:
        """Take origin and unit of values, time, counts and numeric labels from the data."""
        super().standardise(series)
        seen = series.known.sum(1).max()
        self.count_unit.copy_(seen.clamp(min=1))
        return self

    def control(self, series: Series) -> Path:
        """The path of time, values and, where they are asked for, counts, in the model's units."""
        values = (series.values.to(self.shift) - self.shift) / self.scale
        # Times stay in double precision: knots may lie close together.
        clock = self.clock.to(series.times)
        times = (series.times - clock[0]) / clock[1]
        counts = float(self.count_unit) if self.counts else None
        return PATHS[self.path](times, values, series.lengths, counts=counts)

    def terminal(self, path: Path, start: Tensor) -> Tensor:
        """The state at the end of a path, (batch, hidden), from that at its start."""
        raise NotImplementedError

    def forward(self, series: Series) -> Tensor:
        """Logits (batch, classes), or numbers (batch, 1) in units of the labels' deviation."""
        path = self.control(series)
        return self.last(self.terminal(path, self.first(path.pieces[:, 0, 0])))


class NeuralCDE(Driven):
    """A neural controlled differential equation, integrated from observation to observation.

    Args:
        channels: of the series.
        classes: number of classes; None for a number.
        hidden: components of the state.
        width: of the hidden layers of the field.
        depth: hidden layers of the field.
        path: "hermite", "linear", or "rectilinear" for series that are read as they arrive.
        counts: whether observations are counted in channels of the path: for series in which it
            matters when something is measured.
        solver: "midpoint", "heun" or "rk4".
        substeps: steps between two observations.
    """

    def __init__(
        self,
        channels: int,
        classes: int | None = None,
        hidden: int = 8,
        width: int = 64,
        depth: int = 1,
        path: Interpolation = "hermite",
        counts: bool = False,
        solver: Steps = "midpoint",
        substeps: int = 1,
    ) -> None:
        super().__init__(
            channels, classes, lambda inputs: MatrixField(hidden, inputs, width, depth),
            hidden, path, counts, solver,
        )  # fmt: skip
        self.substeps = substeps

    def terminal(self, path: Path, start: Tensor) -> Tensor:
        """The state at the end of a path."""
        return solve_controlled(
            self.field, path, start, stepper=self.solver, substeps=self.substeps
        )
