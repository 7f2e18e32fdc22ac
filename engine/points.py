"""Points at which residuals are evaluated, in blocks, with what is constant on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["PointSet"]


@dataclass
class PointSet:
    """Collocation points of one term, in blocks.

    Attributes:
        points: shape (n, coordinates).
        weights: weight of each point's squared residuals in the loss, shape (n,); their sum is the
            term's
            weight. Equal weights ``1/n`` give the mean square.
        targets: for ``handover``, the values to match, shape (n, residuals).
    """

    points: Tensor
    weights: Tensor
    targets: Tensor | None = None
    _blocks: dict[int, list[tuple[slice, dict]]] = field(init=False, default_factory=dict)

    def blocks(self, size: int) -> list[tuple[slice, dict]]:
        """Consecutive, nearly equal blocks of at most a size.

        Each comes with a store for what is constant on its points.
        """
        if size not in self._blocks:
            n = len(self.points)
            equal = math.ceil(n / max(math.ceil(n / size), 1))
            equal += 1 - equal % 2  # see `residuals.ResidualEngine.block_size`
            self._blocks[size] = [(slice(i, min(i + equal, n)), {}) for i in range(0, n, equal)]
        return self._blocks[size]

    def places(self) -> list[Tensor]:
        """Points and, where there are any, targets."""
        return [self.points, *(() if self.targets is None else (self.targets,))]

    def tensors(self) -> list[Tensor]:
        """Points, weights and, where there are any, targets."""
        return [self.points, self.weights, *(() if self.targets is None else (self.targets,))]

    def clone(self) -> PointSet:
        """The same in other memory, constants that were computed on the points included."""
        copied = PointSet(*(tensor.clone() for tensor in self.tensors()))
        copied._blocks = {
            size: [(where, {k: v.clone() for k, v in cache.items()}) for where, cache in blocks]
            for size, blocks in self._blocks.items()
        }
        return copied

    def take_over(self, other: PointSet) -> bool:
        """Write another set of the same shape into the memory of this one.

        Returns:
            False, with this set spoilt, where the other has computed other constants.
        """
        pairs = list(zip(self.tensors(), other.tensors(), strict=True))
        for size, blocks in self._blocks.items():
            mine = [cache for _, cache in blocks]
            theirs = [cache for _, cache in other._blocks.get(size, ())]
            if [cache.keys() for cache in mine] != [cache.keys() for cache in theirs]:
                return False
            pairs += [(a[key], b[key]) for a, b in zip(mine, theirs, strict=True) for key in a]
        if any(a.shape != b.shape for a, b in pairs):
            return False
        for a, b in pairs:
            a.copy_(b)
        return True
