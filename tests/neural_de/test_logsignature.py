"""Log-signatures to depth two: areas in closed form, Chen's identity, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from residua.errors import ConfigurationError
from residua.operators.neural_de.controlled.logsignature import (
    area_matrix,
    chen,
    log_signature,
    size,
    windows,
)

DOUBLE = torch.float64


def walk(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


def tensors(increments: Tensor) -> tuple[Tensor, Tensor]:
    """Signature to depth two, segment by segment: the product of the exponentials of segments."""
    first = torch.zeros_like(increments[0])
    second = torch.zeros(len(first), len(first), dtype=DOUBLE)
    for segment in increments:
        second = second + torch.outer(first, segment) + torch.outer(segment, segment) / 2
        first = first + segment
    return first, second


def test_it_is_the_logarithm_of_the_signature():
    increments = walk(20, 4)
    first, second = tensors(increments)
    logarithm = second - torch.outer(first, first) / 2
    found = log_signature(increments)
    assert len(found) == size(4) == 10
    torch.testing.assert_close(found[:4], first)
    torch.testing.assert_close(area_matrix(found[4:], 4), logarithm)
    assert not torch.allclose(area_matrix(found[4:], 4), -logarithm)
    torch.testing.assert_close(log_signature(increments, 1), first)


def test_area_of_a_circle_has_the_sign_of_the_turn():
    angle = torch.linspace(0, 2 * math.pi, 2001, dtype=DOUBLE)
    circle = 1.5 * torch.stack((angle.cos(), angle.sin()), 1)
    found = log_signature(circle.diff(dim=0))
    torch.testing.assert_close(found[:2], torch.zeros(2, dtype=DOUBLE), atol=1e-12, rtol=0)
    assert float(found[2]) == pytest.approx(math.pi * 1.5**2, rel=1e-5)
    assert float(log_signature(circle.flip(0).diff(dim=0))[2]) == pytest.approx(-float(found[2]))


def test_chens_identity():
    increments = walk(3, 30, 4)
    first, second = log_signature(increments[:, :11]), log_signature(increments[:, 11:])
    whole = log_signature(increments)
    torch.testing.assert_close(chen(first, second, 4), whole)
    # In the wrong order, or without the bracket, it is not the whole.
    assert (chen(second, first, 4) - whole).abs().max() > 0.1
    assert (first + second - whole).abs().max() > 0.1
    torch.testing.assert_close(chen(first[:, :4], second[:, :4], 4), whole[:, :4])
    third = log_signature(walk(3, 5, 4))
    torch.testing.assert_close(
        chen(chen(first, second, 4), third, 4), chen(first, chen(second, third, 4), 4)
    )


def test_speed_and_origin_do_not_matter_and_the_way_back_undoes_it():
    increments = walk(12, 3)
    whole = log_signature(increments)
    halves = (increments / 2).repeat_interleave(2, dim=0)
    torch.testing.assert_close(log_signature(halves), whole)
    back = log_signature(-increments.flip(0))
    torch.testing.assert_close(back, -whole)
    torch.testing.assert_close(chen(whole, back, 3), torch.zeros(6, dtype=DOUBLE))
    scale = torch.tensor([2.0, -1.0, 0.5], dtype=DOUBLE)
    scaled = log_signature(increments * scale)
    pairs = torch.stack((scale[0] * scale[1], scale[0] * scale[2], scale[1] * scale[2]))
    torch.testing.assert_close(scaled, torch.cat((whole[:3] * scale, whole[3:] * pairs)))


@pytest.mark.parametrize("length", [1, 4, 6, 100])
def test_windows_add_up_to_the_whole(length):
    values = walk(2, 23, 3)
    found = windows(values, length)
    assert found.shape == (2, math.ceil(22 / length), 6)
    total = found[:, 0]
    for number in range(1, found.shape[1]):
        total = chen(total, found[:, number], 3)
    torch.testing.assert_close(total, log_signature(values.diff(dim=1)))
    start = (found.shape[1] - 1) * length
    torch.testing.assert_close(found[:, -1], log_signature(values[:, start:].diff(dim=1)))
    if length == 1:
        assert not found[..., 3:].any()


def test_gradients():
    values = walk(1, 7, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: windows(x, 3), values)


def test_wrong_depth_and_window():
    with pytest.raises(ConfigurationError, match="depth 1 or 2"):
        log_signature(walk(5, 2), 3)
    with pytest.raises(ConfigurationError, match="one interval"):
        windows(walk(1, 5, 2), 0)
