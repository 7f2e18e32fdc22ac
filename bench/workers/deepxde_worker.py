"""DeepXDE (PyTorch) as a contender: its own model, data and gradients, its own train step.

Timed is what its `train_step` does for every iteration but the update of the weights.
"""

from __future__ import annotations

from typing import Any

import deepxde
import numpy as np
import torch
from torch import Tensor

from .equations import RESIDUALS
from .protocol import Contender, main
from .torch_worker import FEW, TorchContender

__all__ = ["make"]

dde: Any = deepxde  # it declares no types


class DeepxdeContender(TorchContender):
    """See the module."""

    def __init__(self, request: dict[str, Any]) -> None:
        if request["device"] == "cpu":  # importing it has taken what accelerator it found
            torch.set_default_device("cpu")
        dde.config.set_default_float(request["dtype"])
        super().__init__(request)
        width = len(self.layers[0][1])
        dimension = self.points.shape[1]
        sizes = [dimension, *[width] * (len(self.layers) - 1), 1]
        self.net = dde.nn.FNN(sizes, "tanh", "Glorot normal")
        with torch.no_grad():
            for linear, (weight, bias) in zip(self.net.linears, self.layers, strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        self.models = {n: self._model(n) for n in (FEW, len(self.points))}

    def _model(self, count: int) -> tuple[Any, tuple[Any, ...]]:
        """A model on the first points, and what its `train_step` would be given."""
        residual = RESIDUALS[self.request["equation"]]

        def pde(x: Tensor, y: Tensor) -> Tensor:
            return residual(_Unknown(y, x))

        dimension = self.points.shape[1]
        box = dde.geometry.Hypercube([-1] * dimension, [1] * dimension)
        anchors = self.points[:count].cpu().numpy()
        data = dde.data.PDE(box, pde, [], num_domain=0, anchors=anchors)
        model = dde.Model(data, self.net)
        model.compile("adam", lr=1e-3, verbose=0)
        return model, data.train_next_batch()

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        model, batch = self.models[len(points)]
        losses = model.outputs_losses_train(*batch)[1]
        total = torch.sum(losses)
        model.opt.zero_grad()
        total.backward()
        return total.detach(), None

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `Contender`."""
        # A parameter that no derivative reaches, such as the last bias, has no gradient.
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.net.parameters()
        ]
        vector = torch.cat([gradient.flatten() for gradient in gradients])
        return float(self.found[0]), vector.cpu().numpy()


class _Unknown:
    """See `equations.Unknown`."""

    def __init__(self, values: Tensor, points: Tensor) -> None:
        self.values, self.points = values, points

    def value(self) -> Tensor:
        return self.values

    def d(self, *axes: int) -> Tensor:
        if len(axes) == 1:
            return dde.grad.jacobian(self.values, self.points, i=0, j=axes[0])
        value = dde.grad.hessian(self.values, self.points, i=axes[0], j=axes[1])
        for axis in axes[2:]:
            value = dde.grad.jacobian(value, self.points, i=0, j=axis)
        return value

    def laplacian(self) -> Tensor:
        total = self.d(0, 0)
        for axis in range(1, self.points.shape[1]):
            total = total + self.d(axis, axis)
        return total

    def bilaplacian(self) -> Tensor:
        return _Unknown(self.laplacian(), self.points).laplacian()


def make(request: dict[str, Any]) -> Contender:
    """The contender that ``open`` asks for."""
    return DeepxdeContender(request)


if __name__ == "__main__":
    main(make, lambda: {"deepxde": dde.__version__})
