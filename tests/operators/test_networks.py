"""Neural operators: what their structure promises, before any training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from residua.errors import ConfigurationError
from residua.operators.networks.deeponet import DeepONet, principal_modes
from residua.operators.networks.fno import FNO, SpectralConvolution
from residua.operators.networks.grids import BOUNDARIES, Prolongation, Stencil, coarsened
from residua.operators.networks.mgno import MgNO, VCycle
from residua.operators.networks.resampling import resampled
from residua.operators.networks.unet import UNet
from residua.operators.normalisation import Normalised

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def of_every_kind(boundary: str, dimension: int) -> dict[str, torch.nn.Module]:
    common = {"boundary": boundary, "dimension": dimension, "generator": seeded()}
    trunk = DeepONet(
        2, 3, sensors=[16] * dimension, width=8, basis=4, boundary=boundary, generator=seeded()
    )
    return {
        "mgno": MgNO(2, 3, width=5, depth=2, smoothings=(1, 1, 2), **common).double(),
        "fno": FNO(2, 3, width=6, depth=2, modes=4, **common).double(),
        "unet": UNet(2, 3, width=8, levels=3, **common).double(),
        "deeponet": trunk.double(),
    }


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("name", ["mgno", "fno", "unet", "deeponet"])
def test_any_resolution_goes_through(name: str, boundary: str, dimension: int) -> None:
    network = of_every_kind(boundary, dimension)[name]
    for size in ((16, 16), (17, 12), (9, 30)):
        found = network(fields(2, 2, *size[:dimension]))
        assert found.shape == (2, 3, *size[:dimension])
        assert found.isfinite().all()


@pytest.mark.parametrize("name", ["mgno", "fno", "unet"])
def test_periodic_operators_commute_with_shifts(name: str) -> None:
    """By the coarsest grid's spacing, where coordinates are no input."""
    network = of_every_kind("periodic", 2)[name]
    if isinstance(network, FNO):
        with torch.no_grad():
            network.lift.weight[:, 2:] = 0
    data = fields(1, 2, 16, 32)
    moved = network(data.roll((4, 8), (2, 3)))
    assert torch.allclose(moved, network(data).roll((4, 8), (2, 3)), rtol=0, atol=1e-12)
    walls = of_every_kind("dirichlet", 2)[name]
    moved = walls(data.roll((4, 8), (2, 3)))
    assert not torch.allclose(moved, walls(data).roll((4, 8), (2, 3)), rtol=0, atol=1e-4)


def reflected(field: Tensor) -> Tensor:
    """The even, periodic continuation of a field on nodes 0..n-1."""
    return torch.cat([field, field.flip(2)[:, :, 1:-1]], dim=2)


def test_neumann_stencils_are_periodic_ones_of_the_mirrored_field() -> None:
    """With symmetric weights, on one line: restriction and prolongation too."""
    data = fields(1, 2, 9)
    parts = {}
    for boundary in ("neumann", "periodic"):
        common = {"boundary": boundary, "dimension": 1}
        parts[boundary] = [
            Stencil(2, 2, generator=seeded(3), **common),
            Stencil(2, 2, generator=seeded(4), stride=2, **common),
            Prolongation(2, generator=seeded(5), **common),
        ]
        for part in parts[boundary]:
            part.double()
            with torch.no_grad():
                part.weight.copy_((part.weight + part.weight.flip(2)) / 2)
    smooth, restrict, prolong = parts["neumann"]
    around, restrict_around, prolong_around = parts["periodic"]
    whole = reflected(data)
    assert whole.shape[2] == 16
    assert torch.allclose(reflected(smooth(data)), around(whole), atol=1e-13)
    coarse, coarse_whole = restrict(data), restrict_around(whole)
    assert torch.allclose(reflected(coarse), coarse_whole, atol=1e-13)
    fine = prolong(coarse, [9])
    assert torch.allclose(reflected(fine), prolong_around(coarse_whole, [16]), atol=1e-13)
    zero = Prolongation(2, boundary="dirichlet", dimension=1, generator=seeded(5)).double()
    zero.load_state_dict(prolong.state_dict())
    assert torch.allclose(zero(coarse, [9])[..., 1:-1], fine[..., 1:-1], atol=1e-13)
    assert not torch.allclose(zero(coarse, [10])[..., -1:], prolong(coarse, [10])[..., -1:])


def test_a_prolongation_is_the_transpose_of_its_restriction() -> None:
    restrict = Stencil(
        2, 3, boundary="dirichlet", dimension=2, generator=seeded(), stride=2
    ).double()
    for size in ((9, 9), (8, 9), (8, 6)):
        fine, coarse = fields(1, 2, *size), fields(1, 3, *coarsened(size), seed=2)
        prolong = Prolongation(3, boundary="dirichlet", dimension=2, generator=seeded())
        prolong.weight = restrict.weight
        with torch.no_grad():
            left, right = (restrict(fine) * coarse).sum(), (fine * prolong(coarse, size)).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_a_prolongation_with_the_weights_of_interpolation_is_exact_for_lines() -> None:
    for boundary in ("neumann", "dirichlet"):
        prolong = Prolongation(1, boundary=boundary, dimension=1, generator=seeded()).double()
        with torch.no_grad():
            prolong.weight.copy_(torch.tensor([[[0.5, 1.0, 0.5]]], dtype=DOUBLE))
        line = torch.linspace(0, 1, 5, dtype=DOUBLE)[None, None]
        assert torch.allclose(prolong(line, [9])[0, 0], torch.linspace(0, 1, 9, dtype=DOUBLE))
    with pytest.raises(ConfigurationError, match="coarse grid"):
        prolong(line, [11])


def test_a_v_cycle_is_linear() -> None:
    cycle = VCycle(2, 3, (1, 2, 2), boundary="neumann", dimension=2, generator=seeded()).double()
    one, other = fields(1, 2, 13, 8), fields(1, 2, 13, 8, seed=2)
    both = cycle(2 * one - 3 * other)
    assert torch.allclose(both, 2 * cycle(one) - 3 * cycle(other), atol=1e-12)


def test_the_cycle_holds_damped_jacobi() -> None:
    """On one level, for ``-u'' = f`` and u = 0 beyond both ends, against the same with a matrix."""
    n, sweeps = 15, 40
    cycle = VCycle(1, 1, [sweeps], boundary="dirichlet", dimension=1, generator=seeded()).double()
    with torch.no_grad():
        for smoother in cycle.smoothers[0]:
            smoother.weight.copy_(torch.tensor([[[0, 1 / 3, 0]]], dtype=DOUBLE))
        for system in cycle.systems[0]:
            system.weight.copy_(torch.tensor([[[-1.0, 2.0, -1.0]]]))
    side = torch.diag(torch.ones(n - 1, dtype=DOUBLE), 1)
    matrix = 2 * torch.eye(n, dtype=DOUBLE) - side - side.T
    f, u = fields(n), torch.zeros(n, dtype=DOUBLE)
    for _ in range(sweeps):
        u = u + (f - matrix @ u) / 3
    assert torch.allclose(cycle(f[None, None])[0, 0], u, atol=1e-12)


def test_small_grids_use_fewer_levels() -> None:
    cycle = VCycle(1, 1, (1, 1, 1, 2), boundary="neumann", dimension=2, generator=seeded())
    assert [cycle._depth(size) for size in ((64, 64), (16, 5), (4, 9), (3, 3), (2, 2))] == [
        4, 3, 2, 2, 1,
    ]  # fmt: skip


def test_a_spectral_convolution_is_the_same_map_at_every_resolution() -> None:
    layer = SpectralConvolution(2, 3, dimension=1, generator=seeded()).double()

    def wave(n: int) -> Tensor:
        x = torch.arange(n, dtype=DOUBLE) / n
        return torch.stack([torch.cos(2 * math.pi * x), torch.sin(4 * math.pi * x) + 0.3])[None]

    fine, coarse = layer(wave(48)), layer(wave(12))
    assert torch.allclose(fine[..., ::4], coarse, atol=1e-13)
    high = layer(torch.cos(10 * math.pi * torch.arange(48, dtype=DOUBLE) / 48).expand(1, 2, 48))
    assert high.abs().max() < 1e-14  # the fifth mode is dropped


def test_modes_that_a_coarse_grid_lacks_leave_the_others_alone() -> None:
    """Of negative wave numbers too: the weights of mode -2 are those of -2 on every grid."""
    layer = SpectralConvolution(1, 4, dimension=2, generator=seeded()).double()

    def wave(n: int, mode: int) -> Tensor:
        x = torch.arange(n, dtype=DOUBLE) / n
        return torch.cos(2 * math.pi * (mode * x[:, None] + x[None]))[None, None]

    for mode in (1, -1, -2):
        fine, coarse = layer(wave(12, mode)), layer(wave(6, mode))
        assert torch.allclose(fine[..., ::2, ::2], coarse, atol=1e-13)
    assert not torch.allclose(layer(wave(12, -2)), layer(wave(12, 2)), atol=1e-3)


def test_a_continued_domain_is_as_long_on_every_grid() -> None:
    """One layer's convolution alone: what is left is the jump to the zeros, of first order."""
    network = FNO(1, 1, width=4, depth=1, modes=6, dimension=1, generator=seeded()).double()
    with torch.no_grad():
        network.mixers[0].weight.zero_()
        network.convolutions[0].weight.mul_(100)

    def values(n: int, cells: int) -> Tensor:
        x = torch.linspace(0, 1, n, dtype=DOUBLE)
        return network(torch.sin(math.pi * x)[None, None])[..., :: (n - 1) // cells]

    with torch.no_grad():
        true = values(1793, 7)
        apart = [float((values(n, 7) - true).norm() / true.norm()) for n in (29, 57, 113)]
    # Wrong twin: continued by a part of the nodes instead of the length, 0.17, 0.11 and 0.055.
    assert apart[0] < 0.1 and apart[1] < 0.05 and apart[2] < 0.025


def test_periodic_data_are_resampled_around_the_ring() -> None:
    def wave(n: int) -> Tensor:
        return torch.cos(2 * math.pi * torch.arange(n, dtype=DOUBLE) / n)[None, None]

    around = resampled(wave(16), [64], periodic=True)
    assert (around - wave(64)).abs().max() < 0.02  # (2 pi / 16)^2 / 8
    assert torch.allclose(around[..., ::4], wave(16), atol=1e-14)
    # Wrong twin: as if the last node were the end of the domain.
    assert (resampled(wave(16), [64], periodic=False) - wave(64)).abs().max() > 0.1
    line = torch.linspace(0, 1, 9, dtype=DOUBLE)[None, None]
    assert torch.allclose(resampled(line, [21], periodic=False)[0, 0],
                          torch.linspace(0, 1, 21, dtype=DOUBLE))  # fmt: skip


def test_splines_are_of_fourth_order_and_lines_of_second() -> None:
    def wave(n: int) -> Tensor:
        x = torch.linspace(0, 1, n, dtype=DOUBLE)
        return torch.sin(3 * x)[:, None].mul(torch.exp(x))[None, None]

    for kind, order in (("linear", 2), ("cubic", 4)):
        errors = [
            float(
                (resampled(wave(n), [301, 301], periodic=False, kind=kind) - wave(301)).abs().max()
            )
            for n in (33, 65)
        ]
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.5


def test_stencils_on_a_finer_grid_give_the_same_function() -> None:
    """On nested nodes the answer is the trained grid's; stencils left to themselves differ."""
    network = MgNO(1, 1, width=4, depth=2, smoothings=(1, 2), generator=seeded(3)).double()
    anchored = Normalised(network, 1, 1, grid=(17, 17)).double()
    alone = Normalised(network, 1, 1).double()
    x = torch.linspace(0, 1, 33, dtype=DOUBLE)
    fine = torch.sin(4 * x)[:, None].mul(1 + x * x)[None, None]
    coarse = fine[..., ::2, ::2]
    with torch.no_grad():
        true = anchored(coarse)
        assert torch.equal(true, alone(coarse))
        found = anchored(fine)[..., ::2, ::2]
        wrong = alone(fine)[..., ::2, ::2]
    assert (found - true).norm() < 1e-2 * true.norm()
    assert (wrong - true).norm() > 0.1 * true.norm()


def test_principal_modes_hold_what_they_were_made_from() -> None:
    generator = seeded(7)
    shapes = torch.randn(3, 2, 8, 8, generator=generator, dtype=DOUBLE)
    amounts = torch.randn(20, 3, generator=generator, dtype=DOUBLE)
    solutions = 5 + torch.einsum("sk,k...->s...", amounts, shapes)
    modes = principal_modes(solutions, 3)
    network = DeepONet(1, 2, sensors=[8, 8], width=8, generator=seeded(), modes=modes).double()
    centred = (solutions - modes[0]).flatten(1)
    flat = modes[1:].flatten(1)
    coefficients = torch.linalg.lstsq(flat.T, centred.T).solution.T
    assert torch.allclose(coefficients @ flat, centred, atol=1e-11)
    assert torch.allclose(coefficients.square().mean(0), torch.ones(3, dtype=DOUBLE))
    assert network(fields(4, 1, 8, 8)).shape == (4, 2, 8, 8)
    assert network(fields(4, 1, 15, 8)).shape == (4, 2, 15, 8)
    two = principal_modes(solutions, 2)[1:].flatten(1)
    left = centred - torch.linalg.lstsq(two.T, centred.T).solution.T @ two
    assert left.abs().max() > 1e-3
    with pytest.raises(ConfigurationError, match="do not fit"):
        DeepONet(1, 1, sensors=[8, 8], generator=seeded(), modes=modes)
