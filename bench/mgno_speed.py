"""`residua bench mgno`: a training step of MgNO against a plain implementation of its paper.

Both hold the same weights; before anything is timed they must give the same loss and gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..operators.losses import relative_l2
from ..operators.networks.grids import Boundary
from ..operators.networks.mgno import MgNO
from .machine import commit, machine
from .published_mgno import PublishedMgNO
from .timing import interleaved, ratio

__all__ = ["ROWS", "benchmark", "line", "pair"]

ROWS: Sequence[tuple[int, int, int, Boundary]] = (
    (64, 24, 8, "dirichlet"),
    (64, 24, 20, "dirichlet"),
    (64, 12, 20, "dirichlet"),
    (128, 24, 4, "dirichlet"),
    (64, 24, 8, "periodic"),
)
"""Nodes per side, width, batch, boundary; four layers of five levels."""
REPETITIONS, ROW_SECONDS = 7, 60.0
TOLERANCE = 1e-4
MUST, AIM = 1.0, 0.5


def pair(width: int, boundary: Boundary, **settings: Any) -> tuple[MgNO, PublishedMgNO]:
    """The library's operator and the plain one with the same weights."""
    generator = torch.Generator().manual_seed(0)
    ours = MgNO(1, 1, width=width, boundary=boundary, generator=generator, **settings)
    return ours, PublishedMgNO(ours, boundary)


def benchmark(
    *, threads: int | None = None, say: Callable[[dict[str, Any]], None] = lambda row: None
) -> dict[str, Any]:
    """Time all rows, both contenders in turns.

    Args:
        threads: of the processor; all by default.
        say: called with every row when it is done.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        rows = []
        for row in ROWS:
            rows.append(_measured(*row))
            say(rows[-1])
    finally:
        torch.set_num_threads(before)
    return {
        "benchmark": "mgno", "rows": rows, "must": MUST, "aim": AIM, "machine": machine(),
        "commit": commit(), "threads": threads or before, "torch": torch.__version__,
    }  # fmt: skip


def _measured(n: int, width: int, batch: int, boundary: Boundary) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    data, true = torch.randn(2, batch, 1, n, n, generator=generator)
    ours, plain = pair(width, boundary)
    models = {"residua": ours, "plain": plain}
    apart = _disagreement(ours, plain, data, true)
    times = interleaved(
        {name: _clock(model, data, true) for name, model in models.items()},
        REPETITIONS,
        limit=ROW_SECONDS,
    )
    return {
        "nodes": n, "width": width, "batch": batch, "boundary": boundary, "times": times,
        "ratio": ratio(times["residua"], times["plain"]), "disagreement": apart,
        "error": None if apart < TOLERANCE else "the two do not agree",
    }  # fmt: skip


def _clock(model: nn.Module, data: Tensor, true: Tensor) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter()
        _step(model, data, true)
        return time.perf_counter() - began

    once()
    return once


def _step(model: nn.Module, data: Tensor, true: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss = relative_l2(model(data), true).mean()
    loss.backward()
    return loss.detach()


def _disagreement(ours: nn.Module, plain: nn.Module, data: Tensor, true: Tensor) -> float:
    """Largest relative difference of loss and size of the gradient."""
    found = []
    for model in (ours, plain):
        loss = float(_step(model, data, true))
        squares = [float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None]
        found.append((loss, math.sqrt(sum(squares))))
    return max(abs(a - b) / abs(b) for a, b in zip(*found, strict=True))


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    name = f"{row['nodes']}^2, width {row['width']}, batch {row['batch']}, {row['boundary']}"
    if row["error"]:
        return f"{name}: {row['error']} ({row['disagreement']:.1e})"
    ours, plain = (1e3 * min(row["times"][k]) / row["batch"] for k in ("residua", "plain"))
    return (
        f"{name}: {ours:.1f} ms a sample, plain {plain:.1f} ms, ratio "
        f"{row['ratio']['minimum']:.2f} (median {row['ratio']['median']:.2f})"
    )
