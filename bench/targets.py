"""What is asked of the engine, and whether a table meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TARGETS", "Target", "Verdict", "judge"]

RowData = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One line of the table of goals.

    Attributes:
        what: in words.
        measure: the figure of a row; None for a row it does not concern or that has none.
        must: bound that every row has to keep.
        aim: bound that every row should keep.
        above: figures have to be above the bounds, not below.
    """

    what: str
    measure: Callable[[RowData], float | None]
    must: float
    aim: float
    above: bool = False

    def keeps(self, value: float, bound: float) -> bool:
        """Whether a figure keeps a bound."""
        return value >= bound if self.above else value <= bound


@dataclass(frozen=True)
class Verdict:
    """How a table stands to a target.

    Attributes:
        target: which.
        worst: the figure furthest from the aim; None where no row has one.
        best: the one nearest to it, or furthest beyond.
        where: name of the row with the worst.
        met: ``aim``, ``must``, ``no`` or ``not measured``.
    """

    target: Target
    worst: float | None
    best: float | None
    where: str
    met: str


def time_against(*names: str, orders: Sequence[int] = (2, 3, 4)) -> Callable[[RowData], Any]:
    """Our time over that of the fastest of some contenders."""

    def measure(row: RowData) -> float | None:
        if row["kind"] != "step" or row["order"] not in orders:
            return None
        found = [row["ratios"][name]["minimum"] for name in names if name in row["ratios"]]
        return max(found, default=None)

    return measure


def _memory(row: RowData) -> float | None:
    if row["equation"] != "laplacian-10" or "nested" not in row["ratios"]:
        return None
    return row["ratios"]["nested"].get("memory")


def _floor(row: RowData) -> float | None:
    if row["kind"] != "step" or row["order"] != 2 or row["width"] not in (64, 128):
        return None
    found = row["ratios"].get("floor")
    return None if found is None else 1 / found["minimum"]


def _ratio(name: str) -> Callable[[RowData], float | None]:
    def measure(row: RowData) -> float | None:
        found = row["ratios"].get(name)
        return None if found is None else found["minimum"]

    return measure


JAX = ("jax nested", "jax forward", "jax jet")
TARGETS = (
    Target("time / DeepXDE, order 2", time_against("deepxde", orders=[2]), 0.7, 0.45),
    Target("time / nested autograd, order 2", time_against("nested", orders=[2]), 0.95, 0.65),
    Target("time / nested autograd, order 3", time_against("nested", orders=[3]), 2 / 3, 0.4),
    Target("time / nested autograd, order 4", time_against("nested", orders=[4]), 0.5, 0.25),
    Target("time / JAX jit, best of nested, forward, jet", time_against(*JAX), 0.6, 1 / 3),
    Target("memory / nested, Laplacian d = 10", _memory, 0.5, 0.25),
    Target("fraction of the floor, widths 64, 128, order 2", _floor, 0.6, 0.8, above=True),
    Target("Gauss-Newton iteration / torch.func", _ratio("torch.func iteration"), 0.25, 0.1),
    # A new normal matrix and its factor take both the same time; this is what is left.
    Target("its Jacobian alone / torch.func", _ratio("torch.func jacobian"), 0.25, 0.1),
)
ON_CUDA = (Target("time / nested autograd on the GPU", time_against("nested"), 1.0, 0.2),)
"""Recorded beside the others on a GPU: five times as fast is the aim."""


def judge(rows: Sequence[RowData], device: str) -> list[Verdict]:
    """Every target, by its worst row."""
    targets = TARGETS if device == "cpu" else (*TARGETS, *ON_CUDA)
    return [_verdict(target, rows) for target in targets]


def _verdict(target: Target, rows: Sequence[RowData]) -> Verdict:
    found = [(value, row["name"]) for row in rows if (value := target.measure(row)) is not None]
    if not found:
        return Verdict(target, None, None, "", "not measured")
    found.sort(reverse=not target.above)
    worst, where = found[0]
    met = "no"
    if target.keeps(worst, target.must):
        met = "aim" if target.keeps(worst, target.aim) else "must"
    return Verdict(target, worst, found[-1][0], where, met)
