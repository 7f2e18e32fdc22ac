"""Known steps driven by a perceptron, with a derivative written out by hand.

On small systems autograd spends its time in bookkeeping: each evaluation of the field leaves a
dozen nodes, and gradients of the weights are added up one evaluation at a time. Here a whole
solution is one node. Its way back takes the evaluations in blocks, latest first: what does not
depend on the gradient is computed for a block at once, and the gradients of the weights follow from
one product of matrices a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tableaus import Tableau

__all__ = ["march_perceptron"]

BLOCK = 1 << 15
"""Numbers in the largest tensor of a block: they stay in the cache, and memory is reused."""


def march_perceptron(
    layers: Sequence[tuple[Tensor, Tensor]],
    slopes: Tensor,
    start: Tensor,
    tableau: Tableau,
    every: int | None = None,
) -> Tensor:
    """`equation.march` of ``tanh(layers(z)) slope`` with SiLU between the layers.

    Args:
        layers: weights (outputs, inputs) and biases (outputs,); the last has as many outputs as
            a matrix (h, channels) has entries, row by row.
        slopes: shape (stages, steps, batch, channels), times the length of the step.
        start: shape (batch, h).
        tableau: of an explicit method.
        every: keep the states after so many steps; None keeps the last alone.

    Returns:
        shape (batch, h), or (batch, 1 + steps / every, h). Differentiable once.
    """
    flat = [tensor for layer in layers for tensor in layer]
    return _March.apply(slopes, start, tableau, every, *flat)  # pyright: ignore[reportReturnType]


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        slopes, y, tableau, every, *flat = arguments
        weights, biases = flat[0::2], flat[1::2]
        batch, channels = slopes.shape[2:]
        turned = [weight.T for weight in weights]
        inputs = [step.unbind(0) for step in slopes.transpose(0, 1)[..., None].unbind(0)]
        # Of every evaluation the state, the sums of the hidden layers, and the matrix.
        record: list[list[Tensor]] = []
        kept = [y]
        for number, step in enumerate(inputs, start=1):
            changes: list[Tensor] = []
            state = y
            for column, row in zip(step, tableau.matrix, strict=True):
                seen, value = [state], state
                for weight, bias in zip(turned[:-1], biases[:-1], strict=True):
                    seen.append(torch.addmm(bias, value, weight))
                    value = F.silu(seen[-1])
                seen.append(torch.addmm(biases[-1], value, turned[-1]).tanh_())
                record.append(seen)
                matrix = seen[-1].view(batch, -1, channels)
                changes.append(torch.bmm(matrix, column).squeeze(2))
                state = y
                for change, factor in zip(changes, row, strict=True):
                    if factor != 0:
                        state = torch.add(state, change, alpha=factor)
            y = state
            if every is not None and number % every == 0:
                kept.append(y)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(slopes, *weights)
            ctx.tableau, ctx.every, ctx.record = tableau, every, record
        return y.clone() if every is None else torch.stack(kept, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slopes, *weights = ctx.saved_tensors
        stages, steps, batch, channels = slopes.shape
        back = _Back(weights, ctx.tableau.matrix)
        inputs = slopes.transpose(0, 1).reshape(-1, 1, channels)
        size = max(1, BLOCK // (stages * max(seen.numel() for seen in ctx.record[0])))
        y, every = gradient, ctx.every
        if every is not None:
            y = torch.zeros_like(gradient[:, 0])
        driven: list[Tensor] = []
        for end in range(steps, 0, -size):
            first = max(end - size, 0)
            block = ctx.record[first * stages : end * stages]
            back.enter(block, inputs[first * stages * batch : end * stages * batch])
            for number in range(end, first, -1):
                if every is not None and number % every == 0:
                    y = y + gradient[:, number // every]
                y = back.step(y)
            change = back.leave()
            if ctx.needs_input_grad[0]:
                driven.append(torch.bmm(change[:, None], back.matrices).squeeze(1))
        if every is not None:
            y = y + gradient[:, 0]
        by_slopes = None
        if driven:
            by_slopes = torch.cat(driven[::-1]).view(steps, stages, batch, channels)
            by_slopes = by_slopes.transpose(0, 1)
        return by_slopes, y, None, None, *back.gradients()


class _Back:
    """The way back through blocks of evaluations; gradients of weights are gathered.

    Args:
        weights: of the layers.
        rows: of the tableau.
    """

    def __init__(self, weights: Sequence[Tensor], rows: Sequence[Sequence[float]]) -> None:
        self.weights, self.rows = weights, rows
        self.by_weights = [torch.zeros_like(weight) for weight in weights]
        self.by_biases = [torch.zeros_like(weight[:, 0]) for weight in weights]

    def enter(self, block: list[list[Tensor]], inputs: Tensor) -> None:
        """Compute what a block needs; inputs are (evaluations * batch, 1, channels)."""
        batch = len(block[0][0])
        states, *sums, matrices = [torch.cat(parts) for parts in zip(*block, strict=True)]
        self.matrices = matrices.view(len(matrices), -1, inputs.shape[2])
        bends = torch.addcmul(inputs, self.matrices * self.matrices, inputs, value=-1)
        self.bends = bends.split(batch)
        self.values, self.rates = [states], []
        for found in sums:
            gate = found.sigmoid()
            self.values.append(found * gate)
            self.rates.append(torch.addcmul(gate, self.values[-1], 1 - gate).split(batch))
        self.deltas: list[list[Tensor]] = [[] for _ in self.weights]
        self.changes: list[Tensor] = []
        self.evaluation = len(block)

    def step(self, y: Tensor) -> Tensor:
        """From the gradient by the state at the end of a step to that at its start."""
        last = len(self.rows) - 1
        total, made = y, [y] * last  # by the states that the rows make before the last
        for stage in range(last, -1, -1):
            self.evaluation -= 1
            change = y * self.rows[last][stage]
            for later in range(stage, last):
                if self.rows[later][stage] != 0:
                    change = torch.add(change, made[later], alpha=self.rows[later][stage])
            back = self._evaluation(change)
            if stage > 0:
                made[stage - 1] = back
            total = total + back
        return total

    def _evaluation(self, change: Tensor) -> Tensor:
        """From the gradient by a change to that by the state it was evaluated at."""
        self.changes.append(change)
        back = (change[:, :, None] * self.bends[self.evaluation]).flatten(1)
        self.deltas[-1].append(back)
        back = back @ self.weights[-1]
        for layer in range(len(self.rates) - 1, -1, -1):
            back = back * self.rates[layer][self.evaluation]
            self.deltas[layer].append(back)
            back = back @ self.weights[layer]
        return back

    def leave(self) -> Tensor:
        """Gather the gradients of a block; by its changes, (evaluations * batch, h)."""
        for layer, value in enumerate(self.values):
            delta = torch.cat(self.deltas[layer][::-1])
            self.by_weights[layer].addmm_(delta.T, value)
            self.by_biases[layer].add_(delta.sum(0))
        return torch.cat(self.changes[::-1])

    def gradients(self) -> list[Tensor]:
        """By weights and biases in turn."""
        pairs = zip(self.by_weights, self.by_biases, strict=True)
        return [tensor for pair in pairs for tensor in pair]
