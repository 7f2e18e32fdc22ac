"""DeepONet: a basis of functions (trunk) and its coefficients from the data (branch).

``G(u)(x) = sum_k b_k(u) t_k(x) + c``. The trunk is a network of the coordinates, or, in
POD-DeepONet, the principal modes of the solutions trained on, with their mean in place of c. The
branch sees the data at fixed sensors, the nodes of the grid it was trained on, so data of another
resolution are interpolated to it; the basis can be evaluated anywhere.

Sources: Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021); POD: Lu et al.,
CMAME 393 (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from .fno import coordinates
from .grids import Boundary
from .resampling import resampled

__all__ = ["DeepONet", "principal_modes"]


class DeepONet(nn.Module):
    """The operator; coefficients from a fixed sensor grid, values on any.

    Args:
        inputs: channels of the data.
        outputs: channels of the solution.
        sensors: nodes along each coordinate of the grid the branch reads.
        width: of the hidden layers.
        depth: hidden layers of branch and trunk.
        basis: functions for each output channel; with `modes`, as many as there are modes.
        boundary: where periodic, the trunk's coordinates are cosines and sines.
        generator: source of the initial weights.
        modes: principal modes of the solutions and their mean, shape (1 + basis, outputs,
            *sensors); None for a trunk that is trained.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        sensors: Sequence[int],
        width: int = 128,
        depth: int = 3,
        basis: int = 64,
        boundary: Boundary = "dirichlet",
        generator: torch.Generator,
        modes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.outputs = outputs
        self.periodic = boundary == "periodic"
        dimension = len(self.sensors)
        if modes is not None:
            basis = len(modes) - 1
            if modes.shape[1:] != (outputs, *self.sensors):
                raise ConfigurationError(
                    f"modes of shape {tuple(modes.shape)} do not fit {outputs} channels on a grid "
                    f"of {self.sensors}"
                )
        self.basis = basis
        self.modes: Tensor | None
        self.register_buffer("modes", modes)
        places = 1
        for n in self.sensors:
            places *= n
        # Principal modes serve all channels of the solution at once.
        count = basis if modes is not None else basis * outputs
        self.branch = perceptron([inputs * places, *[width] * depth, count], generator)
        self.trunk: nn.Sequential | None = None
        if modes is None:
            features = dimension * (2 if self.periodic else 1)
            self.trunk = perceptron([features, *[width] * depth, basis * outputs], generator)
            self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, data: Tensor) -> Tensor:
        """Shape (batch, inputs, *n) -> (batch, outputs, *n)."""
        size = tuple(data.shape[2:])
        seen = resampled(data, self.sensors, periodic=self.periodic)
        weights = self.branch(seen.flatten(1))
        if self.modes is not None:
            modes = resampled(self.modes, size, periodic=self.periodic, kind="cubic")
            return modes[0] + torch.einsum("bk,k...->b...", weights, modes[1:])
        assert self.trunk is not None
        places = coordinates(data[:1], periodic=self.periodic)[0].flatten(1).T
        if self.periodic:
            phase = 2 * torch.pi * places
            places = torch.cat([torch.cos(phase), torch.sin(phase)], dim=1)
        functions = self.trunk(places).unflatten(1, (self.outputs, self.basis))
        weights = weights.unflatten(1, (self.outputs, self.basis))
        values = torch.einsum("bok,pok->bop", weights, functions) / self.basis**0.5
        return (values + self.bias[:, None]).unflatten(2, size)


def perceptron(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Dense layers with gelu between, uniform as torch begins, from one source of numbers."""
    layers: list[nn.Module] = []
    for number, (start, end) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layer = nn.Linear(start, end)
        with torch.no_grad():
            for parameter in layer.parameters():
                draw = 2 * torch.rand(parameter.shape, generator=generator) - 1
                parameter.copy_(draw * start**-0.5)
        layers += [nn.GELU(), layer] if number else [layer]
    return nn.Sequential(*layers)


def principal_modes(solutions: Tensor, count: int) -> Tensor:
    """Mean and leading modes of solutions, for `DeepONet`.

    Args:
        solutions: shape (samples, outputs, *n).
        count: modes wanted; at most samples - 1.

    Returns:
        Shape (1 + count, outputs, *n): the mean, then the modes, each scaled by the standard
        deviation of its coefficient, so that the branch has numbers of order one to give.
    """
    mean = solutions.mean(0)
    centred = (solutions - mean).flatten(1)
    count = min(count, len(solutions) - 1)
    _, size, right = torch.linalg.svd(centred, full_matrices=False)
    scaled = size[:count, None] * right[:count] / len(solutions) ** 0.5
    return torch.cat([mean[None], scaled.unflatten(1, solutions.shape[1:])])
