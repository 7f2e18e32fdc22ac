"""Brownian paths that can be asked at any times.

`BrownianInterval` is for times that all samples share: a binary tree of intervals that grows with
the questions (Kidger, Foster, Li and Lyons, "Efficient and accurate gradients for neural SDEs",
arXiv 2105.13493, section 4). `BrownianTree` is for samples at times of their own: a tree of halves
down to a fixed depth of which nothing is stored (Li, Wong, Chen and Duvenaud, "Scalable gradients
for stochastic differential equations", arXiv 2001.01328, section 4; with Levy areas as in Jelincic,
Foster and Kidger, "Single-seed generation of Brownian paths and integrals", arXiv 2405.06464).
Both carry the space-time Levy area.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from ....errors import ConfigurationError
from .brownian import TREE, couples
from .levy import Draw, bridge, joined

__all__ = ["BrownianInterval", "BrownianTree"]

_GRAIN = 32
"""Intervals longer than this many first questions are halved before they are split where asked."""


class _Node:
    """An interval of the tree. `key` is the seed of the numbers by which it is split."""

    __slots__ = ("start", "end", "key", "parent", "children", "split")

    def __init__(self, start: float, end: float, key: int, parent: _Node | None) -> None:
        self.start, self.end, self.key, self.parent = start, end, key, parent
        self.children: tuple[_Node, _Node] | None = None
        self.split = start

    def divide(self, where: float) -> None:
        """Split here; the children have keys drawn from that of the parent."""
        self.split = where
        left, right = _mixed(2 * self.key + 1), _mixed(2 * self.key + 2)
        self.children = _Node(self.start, where, left, self), _Node(where, self.end, right, self)


class BrownianInterval:
    """A Brownian path on an interval; all samples are asked at the same times.

    Asked again, or in another order, the same question has the same answer to the last bit, and
    ``W(s, u) = W(s, t) + W(t, u)`` to rounding, in float64. Which path a seed stands for depends on
    the questions asked before. Neighbouring questions cost about one split.

    Args:
        start: of the interval.
        end: of the interval, later.
        batch: samples.
        channels: Brownian motions of a sample.
        seed: from 0 to 2^64 - 1.
        dtype: of the answers; the tree is in float64.
        device: of the answers.
        cache: intervals whose values are kept, at least 2; others are drawn again when needed.

    Raises:
        ConfigurationError: the interval is empty.
    """

    def __init__(
        self,
        start: float,
        end: float,
        batch: int,
        channels: int,
        seed: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        cache: int = 128,
    ) -> None:
        _check_interval(start, end)
        self.start, self.end = float(start), float(end)
        self._dtype = dtype
        self._samples = torch.arange(batch, device=device)
        self._channels = channels
        self._root = _Node(self.start, self.end, seed, None)
        self._near = self._root
        self._grain = 0.0
        self._cache: OrderedDict[int, tuple[_Node, Draw]] = OrderedDict()
        self._most = max(cache, 2)
        first, second = self._pair(_mixed(seed ^ 0x5851F42D4C957F2D))
        length = self.end - self.start
        self._whole = Draw(first * length**0.5, second * (length / 12) ** 0.5)

    def __call__(self, s: float, t: float) -> Draw:
        """The path from s to t; t may be the earlier one.

        Returns:
            increment W(t) - W(s) and space-time Levy area, both (batch, channels).

        Raises:
            ConfigurationError: a time is outside of the interval.
        """
        low, high = min(s, t), max(s, t)
        if low < self.start or high > self.end:
            raise ConfigurationError(
                f"The Brownian path is known from {self.start} to {self.end}.",
                found=(s, t),
                advice="make the interval as long as the integration",
            )
        if low == high:
            zero = torch.zeros_like(self._whole.w, dtype=self._dtype)
            return Draw(zero, zero)
        if self._grain == 0.0:
            self._grain = _GRAIN * (high - low)
        found = None
        for node in self._cover(low, high):
            value = self._value(node)
            if found is None:
                found = value
            else:
                found = joined(found, value, (node.start - low) / (node.end - low))
        assert found is not None and found.h is not None
        w = found.w if s <= t else -found.w
        return Draw(w.to(self._dtype), found.h.to(self._dtype))

    def draw(self, k: int, s: float, t: float) -> Draw:
        """See `brownian.Noise`; the number of the step is not looked at."""
        return self(s, t)

    def _cover(self, low: float, high: float) -> list[_Node]:
        """The fewest intervals of the tree that make up [low, high], from left to right."""
        self._boundary(low)
        self._boundary(high)
        node = self._near
        while node.parent is not None and not (node.start <= low and node.end >= high):
            node = node.parent
        cover, stack = [], [node]
        while stack:
            node = stack.pop()
            if low <= node.start and node.end <= high:
                cover.append(node)
            elif node.children is not None:
                left, right = node.children
                if high > node.split:
                    stack.append(right)
                if low < node.split:
                    stack.append(left)
        self._near = cover[-1]
        return cover

    def _boundary(self, time: float) -> None:
        """Split intervals until the time is an end of one."""
        node = self._near
        while node.parent is not None and not node.start <= time <= node.end:
            node = node.parent
        while node.start < time < node.end:
            if node.children is None:
                middle = 0.5 * (node.start + node.end)
                node.divide(middle if node.end - node.start > self._grain else time)
            assert node.children is not None
            node = node.children[0] if time <= node.split else node.children[1]
        self._near = node

    def _value(self, node: _Node) -> Draw:
        """Values of an interval, from the nearest ancestor that is kept."""
        missing = []
        held: Draw | None = None
        while held is None:
            if node.parent is None:
                held = self._whole
            elif id(node) in self._cache:
                self._cache.move_to_end(id(node))
                held = self._cache[id(node)][1]
            else:
                missing.append(node)
                node = node.parent
        for child in reversed(missing):
            held = self._split(child, held)
        return held

    def _split(self, child: _Node, whole: Draw) -> Draw:
        """Values of an interval whose parent's are `whole`; both halves are kept."""
        parent = child.parent
        assert parent is not None and parent.children is not None and whole.h is not None
        length = parent.end - parent.start
        x = (parent.split - parent.start) / length
        values = bridge(whole.w, whole.h, length, x, *self._pair(parent.key))
        halves = Draw(*values[:2]), Draw(*values[2:])
        for node, value in zip(parent.children, halves, strict=True):
            self._cache[id(node)] = (node, value)
        while len(self._cache) > self._most:
            self._cache.popitem(last=False)
        return halves[child is parent.children[1]]

    def _pair(self, key: int) -> tuple[Tensor, Tensor]:
        return couples(key, 0, self._samples, self._channels, TREE)


class BrownianTree:
    """A Brownian path on an interval; every sample is asked at a time of its own.

    The value at a time follows from the seed, the sample and the time alone: the interval is halved
    `depth` times towards the time, and the last cell is split at it. Times of one cell, closer than
    ``(end - start) / 2^depth``, see too much alike.

    Args:
        start: of the interval.
        end: of the interval, later.
        batch: samples.
        channels: Brownian motions of a sample.
        seed: from 0 to 2^64 - 1.
        depth: halvings, at most 30.
        dtype: of what `draw` gives; otherwise answers are in float64.
        device: of the answers.

    Raises:
        ConfigurationError: the interval is empty, or the depth is out of range.
    """

    def __init__(
        self,
        start: float,
        end: float,
        batch: int,
        channels: int,
        seed: int,
        depth: int = 20,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_interval(start, end)
        if not 1 <= depth <= 30:
            raise ConfigurationError("The depth of a tree is from 1 to 30.", found=depth)
        self.start, self.end, self.depth, self._seed = float(start), float(end), depth, seed
        self._dtype = dtype
        self.resolution = (self.end - self.start) / 2**depth
        self._samples = torch.arange(batch, device=device)
        self._channels = channels
        self._levels = torch.arange(depth + 1, device=device)[:, None]

    def __call__(self, s: Tensor, t: Tensor) -> Draw:
        """The path from s to t (batch,); increments and Levy areas (batch, channels), float64."""
        return self.between(self.value(s), self.value(t), s, t)

    def draw(self, k: int, s: float, t: float) -> Draw:
        """See `brownian.Noise`; the number of the step is not looked at."""
        ends = torch.tensor((s, t), dtype=torch.float64, device=self._samples.device)
        found = self(*ends[:, None].expand(2, len(self._samples)))
        assert found.h is not None
        return Draw(found.w.to(self._dtype), found.h.to(self._dtype))

    def value(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """W(t) - W(start) and its integral from start to t (batch,), both (batch, channels)."""
        unit = ((t.double() - self.start) / (self.end - self.start)).clamp(0, 1)
        # The end itself belongs to the last cell.
        index = (unit * 2**self.depth).long().clamp(max=2**self.depth - 1)
        path = index >> (self.depth - self._levels)
        nodes = torch.cat((torch.zeros_like(path[:1]), (1 << self._levels) + path))
        first, second = couples(self._seed, nodes, self._samples, self._channels, TREE)
        length = self.end - self.start
        w, h = first[0] * length**0.5, second[0] * (length / 12) ** 0.5
        edge, area = torch.zeros_like(w), torch.zeros_like(w)
        bits = (path[1:] & 1).bool()[..., None]
        for level in range(self.depth):
            left, left_h, right, right_h = bridge(
                w, h, length, 0.5, first[level + 1], second[level + 1]
            )
            length *= 0.5
            up = bits[level]
            area = area + torch.where(up, length * (edge + 0.5 * left + left_h), 0.0)
            edge = edge + torch.where(up, left, 0.0)
            w, h = torch.where(up, right, left), torch.where(up, right_h, left_h)
        x = (unit * 2**self.depth - index)[:, None]
        left, left_h, _, _ = bridge(w, h, length, x, first[-1], second[-1])
        area = area + x * length * (edge + 0.5 * left + left_h)
        return edge + left, area

    def between(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], s: Tensor, t: Tensor
    ) -> Draw:
        """The path from s to t (batch,) given its values there."""
        w = second[0] - first[0]
        length = (t - s).double()[:, None]
        rest = length == 0
        mean = (second[1] - first[1]) / torch.where(rest, 1.0, length) - first[0]
        return Draw(w, torch.where(rest, 0.0, mean - 0.5 * w))


def _check_interval(start: float, end: float) -> None:
    if not start < end:
        raise ConfigurationError(
            "A Brownian path needs an interval of positive length.",
            found=(start, end),
            advice="give start < end, also for an integration backward in time",
        )


def _mixed(x: int) -> int:
    """A number of 64 bits that looks random (the finaliser of SplitMix64)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31
