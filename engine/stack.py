"""A chain of dense layers on Taylor bundles, forward and backward in arrays that are used again.

What a general graph of layers would do, without its memory: the bundles of a block of points live
in one set of arrays per block in flight, every update is in place, and the backward pass hands each
layer's input and adjoint to a visitor. The visitor makes a gradient of them (their product summed
over the points) or rows of a Jacobian (their product point by point).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .kernels import (
    Composition,
    ScalarRule,
    Scratch,
    affine,
    compose,
    compose_into,
    pull_into,
)

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight (outputs, inputs) and bias (outputs,) of each layer; the last one has no activation."""

Visitor = Callable[[int, Tensor, Tensor], None]
"""Called with a layer's number, its input bundle and the adjoint of its output bundle."""


KEPT = 8
"""Shapes whose arrays are kept: those of the blocks of a few terms."""


class Workspace:
    """Sets of arrays that passes borrow and give back.

    Only the shapes used last are kept: points that are evaluated once and again, by the thousand or
    by the dozen, would each leave their arrays behind.
    """

    def __init__(self) -> None:
        self._free: dict[tuple, list[_Arrays]] = {}

    def borrow(self, shape: tuple[int, int, int], layers: int, like: Tensor) -> _Arrays:
        """Arrays for bundles of a shape, new ones where all are in use."""
        key = (shape, layers, like.dtype, like.device)
        kept = self._free.get(key)
        return kept.pop() if kept else _Arrays(key, shape, layers, like)

    def give_back(self, arrays: _Arrays) -> None:
        """They may be borrowed again."""
        self._free[arrays.key] = [*self._free.pop(arrays.key, ()), arrays]
        while len(self._free) > KEPT:
            del self._free[next(iter(self._free))]

    def clear(self) -> None:
        """Free what is not in use."""
        self._free.clear()

    def __deepcopy__(self, memo: object) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple[type, tuple]:
        return (Workspace, ())


@contextlib.contextmanager
def fresh_workspaces(module: nn.Module) -> Iterator[None]:
    """Let all parts of a module borrow from new workspaces, which end with the block.

    What a CUDA graph writes to has to be allocated while it is recorded: other memory may be given
    to others afterwards. The arrays of the old workspaces are freed, for two sets of them would be
    twice the memory.
    """
    attributes = [vars(m) for m in module.modules() if "_workspace" in vars(m)]
    kept = [found["_workspace"] for found in attributes]
    for found in attributes:
        found["_workspace"].clear()
        found["_workspace"] = Workspace()
    try:
        yield
    finally:
        for found, workspace in zip(attributes, kept, strict=True):
            found["_workspace"] = workspace


class _Arrays:
    """Input and output of every activation, two adjoints, scratch."""

    def __init__(self, key: tuple, shape: tuple[int, int, int], layers: int, like: Tensor) -> None:
        self.key = key
        self.before = [like.new_empty(shape) for _ in range(layers)]
        self.after = [like.new_empty(shape) for _ in range(layers)]
        self.adjoints = (like.new_empty(shape), like.new_empty(shape))
        self.scratch = Scratch(self.before[0][0])


class Pass:
    """One evaluation of a chain; holds what its backward passes need until it is dropped.

    Args:
        plan: the algebra's composition table.
        rule: activation.
        layers: hidden layers of one width, then the read-out.
        features: input bundle, shape (channels, points, features).
        workspace: where the arrays come from.
    """

    def __init__(
        self,
        plan: Composition,
        rule: ScalarRule,
        layers: Layers,
        features: Tensor,
        workspace: Workspace,
    ) -> None:
        self.plan, self.rule, self.layers, self.features = plan, rule, layers, features
        channels, points, _ = features.shape
        width = len(layers[0][1])
        self.workspace = workspace
        self.arrays = workspace.borrow((channels, points, width), len(layers) - 1, features)

    def __del__(self) -> None:
        if hasattr(self, "arrays"):
            self.workspace.give_back(self.arrays)

    def forward(self) -> Tensor:
        """The output bundle, shape (channels, points, outputs), new memory."""
        state = self.features
        arrays = self.arrays
        for (weight, bias), before, after in zip(
            self.layers[:-1], arrays.before, arrays.after, strict=True
        ):
            torch.mm(state.flatten(0, 1), weight.T, out=before.flatten(0, 1))
            before[0] += bias
            compose_into(self.plan, self.rule, before, after, arrays.scratch)
            state = after
        weight, bias = self.layers[-1]
        out = torch.mm(state.flatten(0, 1), weight.T).unflatten(0, state.shape[:2])
        out[0] += bias
        return out

    def backward(self, adjoint: Tensor, visit: Visitor) -> None:
        """Visit the layers from the last to the first.

        Args:
            adjoint: derivative of a number by the output bundle.
            visit: what it is given is only valid during the call.
        """
        arrays = self.arrays
        after, before = arrays.adjoints
        last = len(self.layers) - 1
        for number in range(last, -1, -1):
            state = arrays.after[number - 1] if number else self.features
            visit(number, state, adjoint)
            if number:
                _times(adjoint.flatten(0, 1), self.layers[number][0], after.flatten(0, 1))
                pull_into(
                    self.plan,
                    self.rule,
                    arrays.before[number - 1],
                    state[0],
                    after,
                    before,
                    arrays.scratch,
                )
                adjoint = before


def _times(adjoint: Tensor, weight: Tensor, out: Tensor) -> None:
    """``adjoint @ weight``; an outer product needs no matrix product."""
    if len(weight) == 1:
        torch.mul(adjoint, weight, out=out)
    else:
        torch.mm(adjoint, weight, out=out)


NARROW = 8
"""Up to so many columns, matrix-vector products beat a matrix product over all points."""


def weight_gradient(inputs: Tensor, adjoint: Tensor) -> Tensor:
    """Sum over channels and points of adjoint times input, shape (outputs, inputs)."""
    left, right = adjoint.flatten(0, 1), inputs.flatten(0, 1)
    if left.shape[1] == 1:
        return torch.mv(right.T, left[:, 0])[None]
    if right.shape[1] <= NARROW:
        columns = right.T.contiguous()
        return torch.stack([torch.mv(left.T, column) for column in columns], dim=1)
    return torch.mm(left.T, right)


def evaluate(
    plan: Composition, rule: ScalarRule, layers: Layers, features: Tensor, workspace: Workspace
) -> Tensor:
    """The chain as one node of torch's graph, differentiable once by its weights.

    Args:
        plan: the algebra's composition table.
        rule: activation.
        layers: hidden layers of one width, then the read-out.
        features: input bundle; is not differentiated.
        workspace: where the arrays come from.

    Returns:
        Shape (channels, points, outputs).
    """
    flat = [tensor for layer in layers for tensor in layer]
    return _Chain.apply(plan, rule, features, workspace, *flat)  # type: ignore[return-value]


class _Chain(Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Composition,
        rule: ScalarRule,
        features: Tensor,
        workspace: Workspace,
        *flat: Tensor,
    ) -> Tensor:
        layers = list(zip(flat[::2], flat[1::2], strict=True))
        run = Pass(plan, rule, layers, features, workspace)
        out = run.forward()
        if any(ctx.needs_input_grad[4:]):
            ctx.run = run
            ctx.save_for_backward(*flat)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (adjoint,) = grad_outputs
        weights = ctx.saved_tensors  # refuses weights that were changed in place meanwhile
        if torch.is_grad_enabled():
            return None, None, None, None, *_in_graph(ctx.run, weights, adjoint)
        gradients: list[Tensor | None] = [None] * (2 * len(ctx.run.layers))
        needed = ctx.needs_input_grad[4:]

        def visit(number: int, inputs: Tensor, adjoint: Tensor) -> None:
            if needed[2 * number]:
                gradients[2 * number] = weight_gradient(inputs, adjoint)
            if needed[2 * number + 1]:
                gradients[2 * number + 1] = adjoint[0].sum(0)

        ctx.run.backward(adjoint, visit)
        return None, None, None, None, *gradients


def _in_graph(run: Pass, flat: Sequence[Tensor], adjoint: Tensor) -> Sequence[Tensor | None]:
    """Gradients that can be differentiated again."""
    state = run.features
    layers = list(zip(flat[::2], flat[1::2], strict=True))
    for weight, bias in layers[:-1]:
        state = compose(run.plan, run.rule, affine(state, weight, bias))
    out = affine(state, *layers[-1])
    wanted = [tensor for tensor in flat if tensor.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, adjoint, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in flat]
