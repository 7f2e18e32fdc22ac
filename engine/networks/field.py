"""What a field is: a point-wise map that can also be evaluated in a Taylor algebra."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..kernels import affine, outer_products
from ..stack import Pass
from ..taylor import JetAlgebra, MultiIndex, value_algebra

Claim = Callable[[nn.Parameter], Tensor | None]
"""Columns of a Jacobian that belong to a parameter, shape (points, parameter size), for the caller
to fill; None where something is in them already."""


class Record(Protocol):
    """A part of a network whose parameter Jacobian follows from the adjoint of its output."""

    @property
    def outputs(self) -> Tensor:
        """Output bundle, in the autograd graph."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """The parameters it accounts for."""
        ...

    def rows(
        self, adjoint: Tensor, points: int, claim: Claim | None = None
    ) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """Rows of the Jacobian of a point-wise scalar.

        Args:
            adjoint: derivative of each point's scalar by `outputs`.
            points: number of points, each of which may occur in several copies.
            claim: columns that can be claimed may be written where they belong.

        Returns:
            Parameters with shape (points, parameter size) each; to be added up.
        """
        ...


@dataclass
class LayerRecord:
    """One use of a linear layer: input and output bundle, both in the autograd graph."""

    layer: Linear
    inputs: Tensor
    outputs: Tensor

    def parameters(self) -> Iterable[nn.Parameter]:
        """See `Record`."""
        return self.layer.parameters()

    def rows(
        self, adjoint: Tensor, points: int, claim: Claim | None = None
    ) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """See `Record`."""
        return self.layer.jacobian(self.inputs.detach(), adjoint, points, claim).items()


class ChainRecord:
    """One use of a chain of layers, which goes through its adjoints itself.

    Args:
        layers: of the chain.
        run: its pass, not evaluated yet.
    """

    def __init__(self, layers: Sequence[Linear], run: Pass) -> None:
        self.layers = layers
        self.run = run
        with torch.no_grad():
            out = run.forward()
        self.outputs = out.requires_grad_()

    def parameters(self) -> Iterable[nn.Parameter]:
        """See `Record`."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def rows(
        self, adjoint: Tensor, points: int, claim: Claim | None = None
    ) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """See `Record`."""
        found: list[tuple[nn.Parameter, Tensor]] = []

        def visit(number: int, inputs: Tensor, adjoint: Tensor) -> None:
            layer = self.layers[number]
            found.extend(layer.jacobian(inputs, adjoint, points, claim).items())

        with torch.no_grad():
            self.run.backward(adjoint, visit)
        return found


@dataclass
class Context:
    """What travels beside an evaluation.

    Attributes:
        tape: when a list, layers append a `Record`; per-point parameter Jacobians are read off it
            (an outer product of a layer's input with the derivative by its output, point by point).
        cache: when a dict, parts that do not depend on trained parameters are kept in it. A cache
            belongs to
            one set of points and must be dropped with it.
        background: bundle of the known part of an ansatz at these points, for a network that takes
            it as an input.
    """

    tape: list[Record] | None = None
    cache: dict[tuple[object, JetAlgebra, str], Tensor] | None = field(default=None)
    background: Tensor | None = None

    def constant(self, owner: object, algebra: JetAlgebra, tag: str, compute) -> Tensor:
        """Result of ``compute()``, kept for the life of the cache."""
        if self.cache is None:
            return compute()
        key = (owner, algebra, tag)  # not its id, which another field may get once it is gone
        if key not in self.cache:
            with torch.no_grad():
                self.cache[key] = compute()
        return self.cache[key]


class Field(nn.Module, ABC):
    """A map from points to channel values; output row i depends on input row i only.

    Attributes:
        steady: at the same points the same operations are done, whatever the parameters, but for
            constants of the context; and no tensor is made of numbers on the way.
    """

    steady: ClassVar[bool] = False

    @abstractmethod
    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """Taylor coefficients of the field.

        Args:
            points: shape (points, coordinates).
            algebra: which coefficients to carry.
            context: tape and cache of this evaluation.

        Returns:
            Shape (channels of the algebra, points, fields).
        """

    def forward(self, points: Tensor) -> Tensor:
        """Values at points: (points, coordinates) -> (points, fields)."""
        return self.jet(points, value_algebra(points.shape[-1]))[0]


class Linear(nn.Module):
    """Affine layer on bundles, optionally with random weight factorisation.

    A linear map acts on every Taylor coefficient alike; the bias touches the value only. With
    ``factorised`` the weight is ``diag(exp(s)) V``: both factors are trained (Wang et al., "Random
    weight
    factorization improves the training of continuous neural representations", arXiv 2210.01274);
    the scale is
    kept as its logarithm so that it stays positive.

    Initialisation: Glorot normal, bias uniform within ``1/sqrt(inputs)``; factorised ``s ~ N(1/2,
    0.1)`` with V rescaled so that the product
    is the Glorot draw.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        generator: torch.Generator,
        factorised: bool = False,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        scale = gain * math.sqrt(2.0 / (inputs + outputs))
        weight = scale * torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        self.scale: nn.Parameter | None = None
        if factorised:
            logarithm = 0.5 + 0.1 * torch.randn(outputs, generator=generator, dtype=torch.float64)
            weight = weight / torch.exp(logarithm)[:, None]
            self.scale = nn.Parameter(logarithm)
        self.weight = nn.Parameter(weight)
        self.bias: nn.Parameter | None = None
        if bias:
            # Not zero: a tanh network without biases is odd, and its even part would vanish.
            start = torch.rand(outputs, generator=generator, dtype=torch.float64)
            self.bias = nn.Parameter((2 * start - 1) / math.sqrt(inputs))

    def effective_weight(self) -> Tensor:
        """The matrix that multiplies the input, shape (outputs, inputs)."""
        if self.scale is None:
            return self.weight
        return torch.exp(self.scale)[:, None] * self.weight

    def forward(self, bundle: Tensor, context: Context | None = None) -> Tensor:
        """Shape (channels, points, inputs) -> (channels, points, outputs)."""
        outputs = affine(bundle, self.effective_weight(), self.bias)
        if context is not None and context.tape is not None:
            context.tape.append(LayerRecord(self, bundle, outputs))
        return outputs

    def jacobian(
        self, inputs: Tensor, adjoint: Tensor, points: int, claim: Claim | None = None
    ) -> dict[nn.Parameter, Tensor]:
        """Rows of the parameter Jacobian of a point-wise scalar.

        Args:
            inputs: input bundle, shape (channels, copies * points, inputs).
            adjoint: derivative of each point's scalar by this layer's output, (channels, copies *
                points, outputs).
            points: number of points; a point that was evaluated in several copies (reflections,
                pairs of
                periodic faces) gets the sum over its copies.
            claim: asked for the columns of the weight.

        Returns:
            Parameter to (points, parameter size), without what was claimed.
        """
        left = adjoint.unflatten(1, (-1, points)).flatten(0, 1)
        right = inputs.unflatten(1, (-1, points)).flatten(0, 1)
        rows: dict[nn.Parameter, Tensor] = {}
        columns = claim(self.weight) if claim is not None and self.scale is None else None
        by_weight = outer_products(left, right, columns)
        if self.scale is not None:
            rows[self.scale] = (by_weight * self.effective_weight()).sum(-1)
            by_weight = torch.exp(self.scale)[:, None] * by_weight
        if columns is None:
            rows[self.weight] = by_weight.flatten(1)
        if self.bias is not None:
            rows[self.bias] = adjoint[0].unflatten(0, (-1, points)).sum(0)
        return rows


class NestedField(Field):
    """Any point-wise torch module as a field, its derivatives by nested automatic differentiation.

    The fallback for networks without Taylor rules, and the oracle the rules are tested against.
    Works in algebras of any order; cost grows exponentially with it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`; differentiates channel by channel, lower orders reused."""
        if algebra.order == 0:
            return self.module(points).unsqueeze(0)
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            value = self.module(points)
            known = {algebra.indices[0]: value}

            def slope(lower: MultiIndex, axis: int) -> Tensor:
                columns = [
                    torch.autograd.grad(
                        known[lower][:, c].sum(), points, create_graph=True, materialize_grads=True
                    )[0][:, axis]
                    for c in range(value.shape[1])
                ]
                return torch.stack(columns, dim=1)

            def coefficient(index: MultiIndex) -> Tensor:
                for axis, order in enumerate(index):
                    for reached in range(1, order + 1):
                        place = (*index[:axis], reached, *(0 for _ in index[axis + 1 :]))
                        if place not in known:
                            lower = (*index[:axis], reached - 1, *(0 for _ in index[axis + 1 :]))
                            known[place] = slope(lower, axis)
                return known[index] / math.prod(math.factorial(order) for order in index)

            return algebra.assemble(coefficient)
