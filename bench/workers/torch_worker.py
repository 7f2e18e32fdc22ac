"""Contenders of PyTorch: the engine, nested automatic differentiation, the floor, torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ...engine.fused import record
from ...engine.networks.embedding import Embedding
from ...engine.networks.mlp import Mlp
from ...engine.optimizers.gauss_newton import prepare
from ...engine.optimizers.least_squares import Factor, Iterated, Normal
from ...engine.replay import Recorder, recorder_for
from ...engine.residuals import PointSet, ResidualEngine, interior_term
from ...problems.problem import Problem
from .devices import Device, device_of
from .equations import RESIDUALS
from .protocol import Contender, Unavailable, main

__all__ = ["CONTENDERS", "NestedUnknown", "TorchContender", "about", "make"]

FEW = 64
"""Points of a warm-up."""
REPLAYED = 3
"""Evaluations on the same points after which the engine replays them."""
DAMPING = 1e-3
"""Of the Gauss-Newton iteration, relative to the scaled normal matrix."""


class TorchContender:
    """Weights and points on a device, and what all contenders of PyTorch share.

    Args:
        request: content of ``open``.
        on: the device, None for the one that is asked for.
    """

    def __init__(self, request: dict[str, Any], on: Device | None = None) -> None:
        torch.set_num_threads(request["threads"])
        self.request = request
        self.on = on or device_of(request["device"])
        self.on.clear()
        self.device = self.on.torch
        with np.load(request["data"]) as arrays:
            tensors = {k: torch.as_tensor(a, device=self.device) for k, a in arrays.items()}
        self.points = tensors.pop("points")
        count = len(tensors) // 2
        self.layers = [(tensors[f"weight{i}"], tensors[f"bias{i}"]) for i in range(count)]

    def warm(self) -> None:
        """See `Contender`."""
        self.compute(self.points[:FEW])
        self.on.watch()

    def step(self) -> None:
        """See `Contender`."""
        self.found = self.compute(self.points)
        self.on.finish()

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """What is timed, on some points."""
        raise NotImplementedError

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `Contender`."""
        loss, vector = self.found
        return float(loss), vector.detach().cpu().numpy()

    def device_peak(self) -> int | None:
        """See `Contender`."""
        return self.on.peak()

    def how(self) -> str | None:
        """See `Contender`."""
        return None


class EngineContender(TorchContender):
    """The residual engine on a network with the weights given.

    Args:
        request: content of ``open``.
        on: as in `TorchContender`.
        recorder: as in `ResidualEngine`.
    """

    def __init__(
        self,
        request: dict[str, Any],
        on: Device | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(request, on)
        self.recorder = recorder or recorder_for(self.device)

    @cached_property
    def engine(self) -> ResidualEngine:
        """Of the interior equations."""
        problem = Problem.from_mapping(self.request["problem"], name="timed")
        generator = torch.Generator().manual_seed(0)
        width = len(self.layers[0][1])
        embedding = Embedding(problem.bounds, periodic={}, generator=generator)
        depth = len(self.layers) - 1
        network = Mlp(embedding, 1, width=width, depth=depth, generator=generator)
        network.to(self.device, self.points.dtype)
        flat = [tensor for layer in self.layers for tensor in layer]
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), flat, strict=True):
                parameter.copy_(value)
        return ResidualEngine(problem, network, [interior_term(problem)], recorder=self.recorder)

    @cached_property
    def batches(self) -> dict[int, dict[str, PointSet]]:
        """By number of points; kept, as a training loop keeps them."""
        return {}

    def batch(self, points: Tensor) -> dict[str, PointSet]:
        """The points with equal weights."""
        if len(points) not in self.batches:
            n = len(points)
            self.batches[n] = {"interior": PointSet(points, points.new_full((n,), 1 / n))}
        return self.batches[len(points)]


class EngineStep(EngineContender):
    """Loss and gradient."""

    def warm(self) -> None:
        """See `Contender`; on a GPU the step is recorded, so that steps are those of training."""
        super().warm()
        for _ in range(REPLAYED if self.on.launches else 0):
            self.step()

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        return self.engine.loss_and_gradient(self.batch(points))

    def how(self) -> str | None:
        """See `Contender`."""
        replayed = self.engine.replayed
        graphs = "" if replayed is None else f"; CUDA graphs: {replayed.status}"
        return record.status() + graphs


class EngineJacobian(EngineContender):
    """Residuals and their Jacobian by the engine, in memory used again as the optimisers do."""

    jacobian: Tensor | None = None

    def linearise(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals and Jacobian, rows scaled by the root of their weight 1/n."""
        residual, self.jacobian = self.engine.linearise(self.batch(points), out=self.jacobian)
        return residual, self.jacobian

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        return self.linearise(points)

    def result(self) -> tuple[float, np.ndarray] | None:
        """Both products with the Jacobian: by the residual, and by a fixed direction."""
        return _products(*self.found)


class EngineIteration(EngineJacobian):
    """The same, then the damped step by the optimiser's own normal equations."""

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        return _iteration(*self.linearise(points))

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `Contender`."""
        return TorchContender.result(self)


class EngineReuse(EngineJacobian):
    """The iteration as most are taken: by conjugate gradients on the factor of the step before.

    That step is made once, untimed, so that the factor belongs to another Jacobian.
    """

    @cached_property
    def factor(self) -> Factor:
        """Of the point where the step began; leaves the network where it ended."""
        residual, jacobian = self.linearise(self.points)
        system = Normal(jacobian, residual)
        system.damp(DAMPING)
        assert system.factor is not None
        parameters = self.engine.parameters
        vector_to_parameters(parameters_to_vector(parameters) + system.solve(), parameters)
        return Factor(system.scale, system.factor)

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        factor = self.factor
        residual, jacobian = self.linearise(points)
        system = Iterated(jacobian, residual, factor)
        system.damp(DAMPING)
        return residual @ residual, system.solve()

    def result(self) -> None:
        """Nothing: it is at another point than the others, and solves to a tenth."""


class Floor(EngineContender):
    """The hidden layers' matrix products alone, at the engine's shapes, and tanh once a layer.

    Arrays are allocated once, and are of the size of the engine's blocks, so that they stay in
    cache; nothing that computes the same derivatives with dense products can be faster. Where the
    engine's steps are replayed, so are these products.
    """

    @cached_property
    def arrays(self) -> tuple[list[Tensor], Tensor]:
        """Input, output, adjoint and its product, all of shape (rows, width); weight gradient."""
        width = len(self.layers[0][1])
        block = min(self.engine.block_size("interior"), len(self.points))
        rows = block * self.engine.algebra("interior").channels
        generator = torch.Generator().manual_seed(0)
        random = torch.rand(rows, width, generator=generator).to(self.points)
        return [random.clone() for _ in range(4)], self.points.new_zeros(width, width)

    launched: str | None = None

    @cached_property
    def launch(self) -> Callable[[], Any]:
        """Does the products for all points."""

        def products() -> None:
            self.products(len(self.points))

        if self.recorder is None:
            return products
        try:
            again = self.recorder.record(products)
            self.launched = "CUDA graphs: replayed"
            return again
        except Exception as error:  # see `replay.Replayed`
            self.launched = f"CUDA graphs: no: {error}"[:200]
            return products

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        if len(points) < len(self.points):
            self.products(len(points))
        else:
            self.launch()
        return 0.0, self.arrays[1]

    def products(self, points: int) -> None:
        """Those for some points."""
        (inputs, outputs, adjoint, pulled), gradient = self.arrays
        channels = self.engine.algebra("interior").channels
        block = len(inputs) // channels
        for start in range(0, points, block):
            n = min(block, points - start)
            rows = slice(0, n * channels)
            for weight, _ in self.layers[1:-1]:
                torch.mm(inputs[rows], weight.T, out=outputs[rows])
            for _ in self.layers[:-1]:
                torch.tanh(inputs[:n], out=outputs[:n])
            for weight, _ in self.layers[1:-1]:
                gradient.addmm_(adjoint[rows].T, inputs[rows])
                torch.mm(adjoint[rows], weight, out=pulled[rows])

    def result(self) -> tuple[float, np.ndarray] | None:
        """Nothing: it computes no gradient of anything."""
        return None

    def how(self) -> str | None:
        """See `Contender`."""
        return self.launched


class Nested(TorchContender):
    """Derivatives by torch.autograd.grad with create_graph, as a plain PINN program has them."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__(request)
        for layer in self.layers:
            for parameter in layer:
                parameter.requires_grad_()
        self.parameters = [parameter for layer in self.layers for parameter in layer]
        self.residual = RESIDUALS[request["equation"]]

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        points = points.detach().requires_grad_()
        unknown = NestedUnknown(_network(self.layers, points)[:, 0], points)
        loss = self.residual(unknown).square().mean()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


class NestedUnknown:
    """See `equations.Unknown`; a gradient serves all derivatives that begin with it.

    Args:
        values: shape (n,), in the graph of `points`.
        points: shape (n, coordinates).
    """

    def __init__(self, values: Tensor, points: Tensor) -> None:
        self.points = points
        self.known: dict[tuple[int, ...], Tensor] = {(): values}

    def value(self) -> Tensor:
        """See `equations.Unknown`."""
        return self.known[()]

    def d(self, *axes: int) -> Tensor:
        """See `equations.Unknown`."""
        if axes not in self.known:
            lower = axes[:-1]
            gradient = torch.autograd.grad(self.d(*lower).sum(), self.points, create_graph=True)[0]
            for axis, column in enumerate(gradient.unbind(1)):
                self.known[(*lower, axis)] = column
        return self.known[axes]

    def laplacian(self) -> Tensor:
        """See `equations.Unknown`."""
        axes = range(self.points.shape[1])
        return torch.stack([self.d(axis, axis) for axis in axes]).sum(0)

    def bilaplacian(self) -> Tensor:
        """See `equations.Unknown`."""
        return NestedUnknown(self.laplacian(), self.points).laplacian()


class FuncJacobian(TorchContender):
    """The same Jacobian by torch.func: vmap of jacrev of a residual that has nested grad in it."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__(request)
        if request["equation"] != "burgers":
            raise Unavailable("written for Burgers' equation only")
        self.parameters = tuple(parameter for layer in self.layers for parameter in layer)

    def linearise(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals and Jacobian, rows scaled by the root of their weight 1/n."""
        rows, values = vmap(jacrev(_burgers_at, has_aux=True), (None, 0))(self.parameters, points)
        scale = len(points) ** -0.5
        return scale * values, scale * torch.cat([row.flatten(1) for row in rows], dim=1)

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        return self.linearise(points)

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `EngineJacobian`."""
        return _products(*self.found)


class FuncIteration(FuncJacobian):
    """The same, then the damped step as in `EngineIteration`."""

    def compute(self, points: Tensor) -> tuple[Any, Any]:
        """See `TorchContender`."""
        return _iteration(*self.linearise(points))

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `Contender`."""
        return TorchContender.result(self)


def _network(layers: Sequence[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
    state = points
    for weight, bias in layers[:-1]:
        state = torch.tanh(torch.nn.functional.linear(state, weight, bias))
    return torch.nn.functional.linear(state, *layers[-1])


def _burgers_at(parameters: tuple[Tensor, ...], point: Tensor) -> tuple[Tensor, Tensor]:
    """Residual at one point, twice: as what is differentiated, and as what is kept."""
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))

    def u(x: Tensor) -> Tensor:
        return _network(layers, x)[0]

    slope = grad(u)(point)
    curvature = grad(lambda x: grad(u)(x)[0])(point)[0]
    residual = slope[1] + u(point) * slope[0] - 0.01 * curvature
    return residual, residual


def _iteration(residual: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    system = prepare("primal", DAMPING, jacobian, residual)
    system.damp(DAMPING)
    return residual @ residual, system.solve()


def _products(residual: Tensor, jacobian: Tensor) -> tuple[float, np.ndarray]:
    direction = torch.linspace(-1, 1, jacobian.shape[1]).to(jacobian)
    vector = torch.cat([jacobian.T @ residual, jacobian @ direction])
    return float(residual @ residual), vector.detach().cpu().numpy()


CONTENDERS: dict[str, type[TorchContender]] = {
    "residua": EngineStep,
    "nested": Nested,
    "floor": Floor,
    "residua jacobian": EngineJacobian,
    "residua iteration": EngineIteration,
    "residua reuse": EngineReuse,
    "torch.func jacobian": FuncJacobian,
    "torch.func iteration": FuncIteration,
}


def make(request: dict[str, Any]) -> Contender:
    """The contender that ``open`` asks for."""
    return CONTENDERS[request["contender"]](request)


def about() -> dict[str, str]:
    """Version, and the GPU if one is used."""
    found = {"torch": str(torch.__version__)}
    if torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found


if __name__ == "__main__":
    main(make, about)
