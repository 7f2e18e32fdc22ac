"""The plain MgNO that ours is timed against is the same operator."""

from __future__ import annotations

import pytest
import torch

from residua.bench.mgno_speed import line, pair
from residua.operators.losses import relative_l2

SETTINGS = {"depth": 2, "smoothings": (1, 2, 1)}


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("size", [(16, 16), (17, 12)])
def test_same_weights_give_same_values_and_gradients(boundary, size):
    ours, plain = (model.double() for model in pair(5, boundary, **SETTINGS))
    data = torch.randn(3, 1, *size, dtype=torch.float64)
    assert torch.allclose(ours(data), plain(data), rtol=1e-10, atol=1e-12)
    sizes = []
    for model in (ours, plain):
        relative_l2(model(data), data).mean().backward()
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        sizes.append(float(torch.stack(squares).sum()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-9)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())
    # Wrong twin: with another condition at the walls the values differ.
    other = {"dirichlet": "periodic", "neumann": "dirichlet", "periodic": "neumann"}[boundary]
    wrong = pair(5, other, **SETTINGS)[1].double()
    assert not torch.allclose(ours(data), wrong(data), rtol=1e-3)


def test_a_row_in_words():
    row = {
        "nodes": 64, "width": 24, "batch": 8, "boundary": "dirichlet", "error": None,
        "times": {"residua": [0.8, 0.9], "plain": [1.6, 1.7]},
        "ratio": {"minimum": 0.5, "median": 0.51}, "disagreement": 0.0,
    }  # fmt: skip
    assert "100.0 ms a sample, plain 200.0 ms, ratio 0.50" in line(row)
    assert "do not agree" in line({**row, "error": "the two do not agree", "disagreement": 0.1})
