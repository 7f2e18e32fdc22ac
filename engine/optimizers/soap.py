"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", 2024, arXiv 2409.11321;
for physics-informed networks, Wang et al., arXiv 2502.00604.

For a matrix of parameters with gradient G, averages of ``G G^T`` and ``G^T G`` have eigenvectors
``Q_l`` and ``Q_r``. In that basis, ``Q_l^T G Q_r``, the curvature is nearly diagonal, and there
Adam divides by the root of the mean square. The basis follows the averages by one step of
orthogonal iteration, ``Q <- qr(A Q)``, instead of a new eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .objective import Objective, evaluate, split

LARGEST_SIDE = 4096
"""A side longer than this keeps its own basis: its eigenvectors would cost more than they bring."""


class Soap:
    """SOAP without weight decay.

    A vector of n numbers is a matrix of shape (n, 1); a tensor of more than two axes one with its
    first axis as rows. The first gradient only sets the basis: in it, that gradient is diagonal,
    and dividing by its own size would be a step of pure signs.

    Args:
        parameters: what is trained.
        objective: value and flat gradient at the present parameters.
        learning_rate: size of a step, per entry in the eigenbasis.
        beta1: share of the mean gradient that is kept in a step.
        beta2: share of the mean square and of the preconditioner that is kept in a step.
        epsilon: added to the root of the mean square.
        refresh: steps between two orthogonal iterations.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        *,
        learning_rate: float = 1e-3,
        beta1: float = 0.99,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        refresh: int = 2,
    ) -> None:
        self.parameters = list(parameters)
        self.objective = objective
        self.learning_rate = learning_rate
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.refresh = refresh
        self.steps = -1
        self.members = [_Member(_as_matrix(p.detach())) for p in self.parameters]
        self.stalled = False

    def step(self) -> float:
        """One step; the first one only looks.

        Returns:
            The loss before the step.

        Raises:
            DivergedError: loss or gradient is not finite; the parameters were not moved.
        """
        value, gradient = evaluate(self.objective)
        pieces = split(gradient, self.parameters)
        matrices = [_as_matrix(piece) for piece in pieces]
        self.steps += 1
        self.stalled = False
        if self.steps == 0:
            for member, matrix in zip(self.members, matrices, strict=True):
                member.begin(matrix)
            return value
        scale = self.learning_rate / (1 - self.beta1**self.steps)
        spread = 1 / (1 - self.beta2**self.steps)
        moved = False
        for parameter, member, matrix in zip(self.parameters, self.members, matrices, strict=True):
            update = member.direction(matrix, self.beta1, self.beta2, self.epsilon, spread)
            before = parameter.detach().clone()
            with torch.no_grad():
                parameter.sub_(update.view(parameter.shape), alpha=scale)
            moved = moved or not torch.equal(before, parameter)
            member.observe(matrix, self.beta2)
            if self.steps % self.refresh == 0:
                member.turn()
        self.stalled = not moved
        return value

    def soften(self) -> None:
        """After a divergence: half the learning rate."""
        self.learning_rate *= 0.5

    def renew(self) -> None:
        """The objective has changed: nothing to do, the averages forget by themselves."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "stalled": self.stalled,
            "members": [member.state_dict() for member in self.members],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.steps = int(state["steps"])
        self.learning_rate = float(state["learning_rate"])
        self.stalled = bool(state["stalled"])
        for member, own in zip(self.members, state["members"], strict=True):
            member.load_state_dict(own)


class _Member:
    """The averages that belong to one matrix of shape (m, n).

    Attributes:
        mean: average gradient, in the parameters' own basis.
        square: average square of the gradient, in the eigenbasis.
        averages: of ``G G^T`` and ``G^T G``; None for a side that keeps its own basis.
        bases: their eigenvectors as columns.
    """

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)
        self.averages: list[Tensor | None] = [
            like.new_zeros(side, side) if 1 < side <= LARGEST_SIDE else None for side in like.shape
        ]
        self.bases: list[Tensor | None] = [
            None if average is None else torch.eye(len(average), dtype=like.dtype).to(like.device)
            for average in self.averages
        ]

    def begin(self, gradient: Tensor) -> None:
        """Take averages and bases from the first gradient."""
        self.observe(gradient, 0.0)
        for side, average in enumerate(self.averages):
            if average is not None:
                self.bases[side] = torch.linalg.eigh(average)[1].flip(1)

    def observe(self, gradient: Tensor, kept: float) -> None:
        """Add a gradient to the averages of both sides."""
        for average, rows in zip(self.averages, (gradient, gradient.T), strict=True):
            if average is not None:
                average.addmm_(rows, rows.T, beta=kept, alpha=1 - kept)

    def direction(
        self, gradient: Tensor, beta1: float, beta2: float, epsilon: float, spread: float
    ) -> Tensor:
        """Adam's direction, without the correction of the mean, in the parameters' own basis.

        Args:
            gradient: shape (m, n).
            beta1: see `Soap`.
            beta2: see `Soap`.
            epsilon: see `Soap`.
            spread: corrects the mean square for its start at zero.
        """
        turned = self._into(gradient)
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        root = (self.square * spread).sqrt_().add_(epsilon)
        return self._back(self._into(self.mean) / root)

    def turn(self) -> None:
        """One orthogonal iteration of each basis.

        Its columns come in the order of their share of the average, which is the order that the
        iteration converges to; the mean squares move along with them.
        """
        for side, (average, basis) in enumerate(zip(self.averages, self.bases, strict=True)):
            if average is None or basis is None:
                continue
            ahead = average @ basis
            order = (basis * ahead).sum(0).argsort(descending=True, stable=True)
            self.square = self.square.index_select(side, order)
            self.bases[side] = torch.linalg.qr(ahead[:, order])[0]

    def _into(self, matrix: Tensor) -> Tensor:
        left, right = self.bases
        matrix = matrix if left is None else left.T @ matrix
        return matrix if right is None else matrix @ right

    def _back(self, matrix: Tensor) -> Tensor:
        left, right = self.bases
        matrix = matrix if left is None else left @ matrix
        return matrix if right is None else matrix @ right.T

    def state_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "square": self.square,
            "averages": list(self.averages),
            "bases": list(self.bases),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.square = state["square"].to(self.square, copy=True)
        for own, stored in ((self.averages, state["averages"]), (self.bases, state["bases"])):
            for side, tensor in enumerate(stored):
                own[side] = None if tensor is None else tensor.to(self.square, copy=True)


def _as_matrix(tensor: Tensor) -> Tensor:
    """A view with two axes."""
    if tensor.ndim < 2:
        return tensor.reshape(-1, 1)
    return tensor.flatten(1)
