"""Samples moved by the symmetries of an equation are samples of it."""

from __future__ import annotations

import pytest
import torch

from residua.operators.symmetries import moved

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_turns_of_the_square_commute_with_the_laplacian():
    """Wrong twin: a turned field beside the Laplacian of another turn."""
    u = torch.randn(40, 1, 9, 9, generator=generator(), dtype=DOUBLE)

    def laplacian(u):
        inner = u[..., 1:-1, 1:-1]
        around = u[..., 2:, 1:-1] + u[..., :-2, 1:-1] + u[..., 1:-1, 2:] + u[..., 1:-1, :-2]
        return around - 4 * inner

    turned, image = moved([u, laplacian(u)], ["square"], periodic=False, generator=generator(1))
    assert torch.allclose(laplacian(turned), image, atol=1e-13)
    other, _ = moved([u, u], ["square"], periodic=False, generator=generator(2))
    assert not torch.allclose(laplacian(other), image)
    # All eight come about, and nothing else.
    numbered = torch.arange(9.0).reshape(1, 1, 3, 3).expand(400, 1, 3, 3)
    (found,) = moved([numbered], ["square"], periodic=False, generator=generator(3))
    assert len({tuple(field.flatten().tolist()) for field in found}) == 8


def test_burgers_keeps_its_form_under_shifts_and_the_odd_mirror():
    """u u_x by a central difference on a ring; the plain mirror without the sign does not do."""
    u = torch.randn(60, 1, 16, generator=generator(), dtype=DOUBLE)

    def transport(u):
        return u * (u.roll(-1, 2) - u.roll(1, 2))

    for names in (["odd_mirror"], ["shifts"], ["odd_mirror", "shifts"]):
        seen, image = moved([u, transport(u)], names, periodic=True, generator=generator(4))
        assert torch.allclose(transport(seen), image, atol=1e-13)
        assert not torch.equal(seen, u)
    # Wrong twin: the plain mirror, through the comparison that the odd one passes.
    plain = u.flip(2).roll(1, 2)
    assert not torch.allclose(transport(plain), transport(u).flip(2).roll(1, 2))


def test_node_zero_of_a_ring_is_its_own_image():
    n = 12
    wave = torch.sin(2 * torch.pi * torch.arange(n, dtype=DOUBLE) / n).expand(20, 1, n)
    (seen,) = moved([wave], ["odd_mirror"], periodic=True, generator=generator())
    assert torch.allclose(seen, wave, atol=1e-14)
    (wrong,) = moved([wave], ["odd_mirror"], periodic=False, generator=generator())
    assert not torch.allclose(wrong, wave, atol=1e-2)


@pytest.mark.parametrize("names", [["square"], ["shifts"]])
def test_the_same_draw_gives_the_same_fields(names):
    u = torch.randn(6, 2, 8, 8, generator=generator())
    one, other = (moved([u, u], names, periodic=True, generator=generator(5)) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[0], one[1])
