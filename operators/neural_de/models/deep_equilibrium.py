"""Deep equilibrium models: the output of a layer that has been applied until nothing changes.

The hidden state solves z = f(z, x), whatever the depth that takes, and is differentiated by the
implicit function theorem (`fixed_points`), so that memory is that of one layer. What keeps the
equation easy to solve during training is a penalty on the Jacobian df/dz at the solution, estimated
with one random vector.

Sources: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019; Bai, Koltun and Kolter,
"Stabilizing equilibrium models by Jacobian regularization", ICML 2021.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....errors import ConfigurationError, DataError
from ..fixed_points import Equilibrium, FixedPointOptions, fixed_point

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["DeepEquilibrium", "EquilibriumCell"]


class EquilibriumCell(nn.Module):
    """f(z, x) = tanh(V silu(W z + U x + b) + X x + c).

    Args:
        inputs: components of x.
        hidden: components of z.
        width: of the layer between; None means 2 hidden.
        gain: standard deviation of the first weights W and V, relative to 1 / sqrt(inputs of each):
            small enough that f contracts before it has learnt anything.
        generator: source of the first weights.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        width: int | None = None,
        *,
        gain: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = 2 * hidden if width is None else width
        self.inner = nn.Linear(hidden, width, bias=False)
        self.outer = nn.Linear(width, hidden, bias=False)
        self.injected = nn.Linear(inputs, width)
        self.driven = nn.Linear(inputs, hidden)
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                deviation = gain / math.sqrt(layer.in_features)
                layer.weight.normal_(0.0, deviation, generator=generator)
            for layer in (self.injected, self.driven):
                layer.weight.normal_(0.0, 1 / math.sqrt(inputs), generator=generator)
                layer.bias.zero_()

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Shapes (batch, hidden) and (batch, inputs) -> (batch, hidden)."""
        between = functional.silu(self.inner(z) + self.injected(x))
        return torch.tanh(self.outer(between) + self.driven(x))


class DeepEquilibrium(nn.Module):
    """A linear readout of the equilibrium of a cell that is driven by the input.

    On series without labels it learns the map from the first values to the last: where a system
    comes to rest, for instance. On labelled ones it classifies; the input is then all values, with
    zeros for those missing, beside marks of which are there.

    Args:
        inputs: components of x.
        outputs: components of the output; of labelled series the number of classes.
        hidden: components of the equilibrium.
        regularisation: weight of the penalty |J|^2 / hidden in the loss.
        solver: how the equilibrium is found.
        cell: f(z, x); an `EquilibriumCell` unless given.
        generator: source of the first weights.

    Raises:
        ConfigurationError: a size is not positive, or the regularisation is negative.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 32,
        *,
        regularisation: float = 0.1,
        solver: FixedPointOptions | None = None,
        cell: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, outputs, hidden) < 1:
            raise ConfigurationError(
                "A layer has at least one component.", found=(inputs, outputs, hidden)
            )
        if regularisation < 0:
            raise ConfigurationError(
                "The penalty on the Jacobian has a weight that is not negative.",
                found=regularisation,
            )
        self.inputs = inputs
        self.hidden = hidden
        self.regularisation = regularisation
        self.solver = solver or FixedPointOptions(tolerance=1e-5, limit=100)
        self.cell = cell or EquilibriumCell(inputs, hidden, generator=generator)
        self.readout = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.readout.weight.normal_(0.0, 1 / math.sqrt(hidden), generator=generator)
            self.readout.bias.zero_()

    def equilibrium(self, x: Tensor) -> Equilibrium:
        """The hidden state of inputs (batch, inputs), shape (batch, hidden)."""
        how = self.solver
        return fixed_point(
            lambda z: self.cell(z, x),
            x.new_zeros(len(x), self.hidden),
            how.method,
            how.tolerance,
            limit=how.limit,
            memory=how.memory,
            damping=how.damping,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, inputs) -> (batch, outputs)."""
        return self.readout(self.equilibrium(x).state)

    def penalty(self, x: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An unbiased estimate of the mean of |df/dz|^2 / hidden over a batch.

        With e of independent standard normal components, E |J^T e|^2 = |J|^2 (Frobenius).

        Args:
            x: shape (batch, inputs).
            z: shape (batch, hidden), where the Jacobian is taken.
            generator: source of e.
        """
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        noise = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
        product = torch.autograd.grad(self.cell(z, x), z, noise, create_graph=True)[0]
        return product.square().sum(1).mean() / self.hidden

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Mean squared error, or cross entropy of labels, and the penalty.

        Args:
            batch: series to learn from.
            generator: source of the vector of the penalty.
        """
        x, wanted = self.pairs(batch)
        state = self.equilibrium(x).state
        found = self.readout(state)
        if batch.labels is None:
            error = functional.mse_loss(found, wanted)
        else:
            error = functional.cross_entropy(found, wanted)
        if self.regularisation == 0:
            return error
        return error + self.regularisation * self.penalty(x, state, generator)

    @torch.no_grad()
    def evaluate(self, series: Series) -> dict[str, float]:
        """Relative L2 error of the last values, or accuracy; and how the solver fared."""
        x, wanted = self.pairs(series)
        rest = self.equilibrium(x)
        found = self.readout(rest.state)
        figures = {
            "iterations": float(rest.iterations.double().mean()),
            "converged": float(rest.converged.double().mean()),
        }
        if series.labels is None:
            error = torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)
            return {"relative_l2": float(error), **figures}
        return {"accuracy": float((found.argmax(1) == wanted).double().mean()), **figures}

    def pairs(self, series: Series) -> tuple[Tensor, Tensor]:
        """Inputs (batch, inputs) and what is wanted of them, (batch, outputs) or labels (batch,).

        Raises:
            DataError: the series do not have the size of the input, or lack a first or last value.
        """
        dtype = self.readout.weight.dtype
        values = series.values.to(dtype)
        if series.labels is None:
            rows = torch.arange(len(values), device=values.device)
            x, wanted = values[:, 0], values[rows, series.lengths - 1]
            if bool(torch.isnan(x).any()) or bool(torch.isnan(wanted).any()):
                raise DataError("The first or the last value of a series is missing.")
        else:
            missing = torch.isnan(values)
            marks = (~missing).to(dtype)
            x = torch.cat((values.nan_to_num(0.0), marks), dim=2).flatten(1)
            wanted = series.labels.long()
        if x.shape[1] != self.inputs:
            raise DataError(f"The series make {x.shape[1]} inputs, the model has {self.inputs}.")
        return x, wanted
