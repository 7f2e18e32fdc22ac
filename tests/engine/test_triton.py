"""Triton kernels against torch's operations, by Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import logging
import math
import sys

import pytest
import torch

from residua.engine.fused import record, triton_kernels
from residua.engine.kernels import Composition, Scratch, compose_in_graph, compose_into, pull_into
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.mlp import Mlp
from residua.engine.taylor import ACTIVATIONS, JetAlgebra, algebra_for, composition

ALGEBRAS = {
    "order 2": algebra_for([(2, 0), (0, 1)], 2),
    "order 3": algebra_for([(3, 0), (0, 1)], 2),
    "order 4, mixed": algebra_for([(4, 0), (2, 2)], 2),
    "Laplacian, d = 10": algebra_for([], 10, laplacian=tuple(range(10))),
    "bilaplacian": algebra_for([(0, 0, 1)], 3, biharmonic=(0, 1)),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(triton_kernels.INTERPRETED, "1")
    monkeypatch.setattr(record, "_told", set())
    monkeypatch.setattr(record, "_built", {})


@pytest.fixture
def triton() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested here")


def fresh(algebra: JetAlgebra) -> Composition:
    """A plan for which nothing has been compiled yet."""
    plan = composition(algebra)
    return Composition(plan.channels, plan.order, plan.polynomials, plan.gradients)


def both_ways(plan: Composition, activation: str, dtype: torch.dtype, width: int) -> list[float]:
    """Relative errors of (composed, adjoint), against torch's own graph in float64."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, plan.channels, 80, width)
    z, adjoint = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    rule, out, pulled = ACTIVATIONS[activation], torch.empty_like(z), torch.empty_like(z)
    compose_into(plan, rule, z, out, Scratch(z[0]))
    pull_into(plan, rule, z, out[0], adjoint, pulled, Scratch(z[0]))
    exact = z.double().requires_grad_()
    graph = compose_in_graph(plan, rule, exact)
    wanted = torch.autograd.grad(graph, exact, adjoint.double())[0]
    pairs = ((out, graph.detach()), (pulled, wanted))
    return [float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs]


def kinds(plan: Composition) -> list[tuple[str, object]]:
    """What the plan's loops were compiled by, and for which variant."""
    return [(kind.by, kind.variant) for (_, kind), loops in plan.loops.items() if loops]


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALGEBRAS)
def test_kernels_compute_the_composition_and_its_adjoint(name, dtype):
    for activation in ("tanh", "sin"):
        plan = fresh(ALGEBRAS[name])
        assert max(both_ways(plan, activation, dtype, 5)) < 100 * torch.finfo(dtype).eps
        assert kinds(plan) == [("triton", True)]
    assert record.status() == "Triton kernels"


@pytest.mark.usefixtures("triton")
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy, interpreting
def test_the_tanh_of_a_kernel_saturates_and_keeps_what_is_not_a_number():
    plan = fresh(algebra_for([(1,)], 1))
    place = torch.tensor([-1e30, -400.0, -20.0, 0.0, 20.0, 400.0, 1e30, math.nan])
    z = torch.stack([place, torch.ones_like(place)])[:, :, None].double()
    out = torch.empty_like(z)
    compose_into(plan, ACTIVATIONS["tanh"], z, out, Scratch(z[0]))
    assert kinds(plan) == [("triton", False)]
    assert torch.allclose(out[0], torch.tanh(z[0]), atol=1e-15, equal_nan=True)
    assert out[:, :7].isfinite().all() and out[:, 7].isnan().all()


@pytest.mark.usefixtures("triton")
def test_numbers_of_elements_that_are_not_aligned_are_another_variant(monkeypatch):
    plan = fresh(ALGEBRAS["order 2"])
    monkeypatch.setattr(triton_kernels, "ALIGNED", 64)
    assert max(both_ways(plan, "tanh", torch.float64, 4)) < 1e-13
    assert max(both_ways(plan, "tanh", torch.float64, 5)) < 1e-13
    assert kinds(plan) == [("triton", True), ("triton", False)]


def step(algebra: JetAlgebra, dtype: torch.dtype) -> torch.Tensor:
    """Loss and gradient of a small network, in one vector."""
    generator = torch.Generator().manual_seed(3)
    dimension = algebra.dimension
    embedding = Embedding([(-1.0, 1.0)] * dimension, periodic={}, generator=generator)
    network = Mlp(embedding, 1, width=8, depth=3, generator=generator).to(dtype)
    points = torch.rand(70, dimension, generator=generator, dtype=torch.float64).to(dtype)
    loss = network.jet(points, algebra).square().mean()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([loss.detach()[None], *(gradient.flatten() for gradient in gradients)])


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALGEBRAS)
def test_a_network_has_the_loss_and_gradient_it_has_with_torch(name, dtype, monkeypatch):
    composition.cache_clear()
    found = step(ALGEBRAS[name], dtype)
    assert record.status() == "Triton kernels"
    composition.cache_clear()
    monkeypatch.setenv(record.SWITCH, "0")
    expected = step(ALGEBRAS[name], dtype)
    assert "RESIDUA_NATIVE is 0" in record.status()
    composition.cache_clear()
    assert (found - expected).norm() <= 100 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("wrong", ["s1 * z1", "s1 * a1", "2 * s2 *"])
def test_a_kernel_that_computes_something_else_is_not_used(wrong, monkeypatch, caplog):
    right = triton_kernels.source
    monkeypatch.setattr(
        triton_kernels,
        "source",
        lambda *arguments: right(*arguments).replace(wrong, f"1.001 * {wrong}"),
    )
    plan = fresh(ALGEBRAS["order 2"])
    with caplog.at_level(logging.WARNING):
        assert max(both_ways(plan, "tanh", torch.float64, 5)) < 1e-13
    assert "compiled wrongly" in caplog.text and kinds(plan) == []
    assert "compiled wrongly" in record.status()


@pytest.mark.usefixtures("triton")
def test_a_kernel_that_does_not_compile_is_not_used(monkeypatch, caplog):
    right = triton_kernels.source
    monkeypatch.setattr(
        triton_kernels, "source", lambda *arguments: right(*arguments).replace("tl.exp", "tl.nope")
    )
    plan = fresh(ALGEBRAS["order 2"])
    with caplog.at_level(logging.WARNING):
        assert max(both_ways(plan, "tanh", torch.float64, 5)) < 1e-13
    assert "Triton failed" in caplog.text and "nope" in record.status() and kinds(plan) == []


def test_without_triton_torch_does_the_work_and_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_kernels._triton.cache_clear()
    plan = fresh(ALGEBRAS["order 2"])
    with caplog.at_level(logging.WARNING):
        assert max(both_ways(plan, "tanh", torch.float64, 5)) < 1e-13
    triton_kernels._triton.cache_clear()
    assert "Triton cannot be imported" in caplog.text and kinds(plan) == []


def test_no_offset_in_a_kernel_is_larger_than_a_channel():
    """``k * n`` in 32 bits would overflow for large bundles."""
    text = triton_kernels.source(composition(ALGEBRAS["order 2"]), None)
    assert "* n" not in text and ".to(tl.int64)" in text
