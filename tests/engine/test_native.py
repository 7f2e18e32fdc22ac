"""Compiled loops against torch's operations, and what happens where they cannot be had."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import threading

import pytest
import torch

from residua.engine import kernels
from residua.engine.fused import native, record
from residua.engine.fused.loops import kind_of
from residua.engine.kernels import Composition, Scratch, compose_in_graph, compose_into, pull_into
from residua.engine.taylor import ACTIVATIONS, JetAlgebra, algebra_for, composition

ALGEBRAS = {
    "one first derivative": algebra_for([(1,)], 1),
    "Burgers": algebra_for([(2, 0), (0, 1)], 2),
    "mixed, order 4": algebra_for([(4, 0), (2, 2), (0, 4)], 2),
    "collapsed": algebra_for([(0, 0, 1)], 3, (0, 1)),
}
needs_compiler = pytest.mark.skipif(native._compiler() is None, reason="no C compiler")


def fresh(algebra: JetAlgebra) -> Composition:
    """A plan for which nothing has been compiled yet."""
    plan = composition(algebra)
    return Composition(plan.channels, plan.order, plan.polynomials, plan.gradients)


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "WORTHWHILE", 1)
    monkeypatch.setattr(record, "_told", set())
    monkeypatch.setattr(record, "_built", {})


def both_ways(plan: Composition, activation: str, dtype: torch.dtype) -> tuple[list, list]:
    """(composed, adjoint) by `compose_into` and `pull_into`, and by torch's own graph."""
    generator = torch.Generator().manual_seed(1)
    z, adjoint = torch.randn(2, plan.channels, 7, 5, generator=generator, dtype=torch.float64)
    z, adjoint, rule = z.to(dtype), adjoint.to(dtype), ACTIVATIONS[activation]
    out, pulled, scratch = torch.empty_like(z), torch.empty_like(z), Scratch(z[0])
    compose_into(plan, rule, z, out, scratch)
    pull_into(plan, rule, z, out[0], adjoint, pulled, scratch)
    exact = z.double().requires_grad_()
    graph = compose_in_graph(plan, rule, exact)
    return [out, pulled], [graph, torch.autograd.grad(graph, exact, adjoint.double())[0]]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ALGEBRAS)
def test_loops_compute_the_composition_and_its_adjoint(name, activation, dtype):
    plan = fresh(ALGEBRAS[name])
    for found, expected in zip(*both_ways(plan, activation, dtype), strict=True):
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error < 100 * torch.finfo(dtype).eps
    kind = kind_of(torch.empty(plan.channels, 7, 5, dtype=dtype))
    assert plan.loops[ACTIVATIONS[activation], kind] is not None, "nothing was compiled"


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tanh_of_a_loop_is_good_to_its_last_place_everywhere(dtype):
    plan = fresh(ALGEBRAS["one first derivative"])
    place = torch.cat([torch.linspace(-60, 60, 100_001), torch.tensor([1e30, -1e30, math.inf])])
    z = torch.stack([place, torch.ones_like(place)])[:, :, None].to(dtype)
    out = torch.empty_like(z)
    compose_into(plan, ACTIVATIONS["tanh"], z, out, Scratch(z[0]))
    exact = torch.tanh(z[0].double())
    assert (out[0].double() - exact).abs().max() <= 3 * torch.finfo(dtype).eps
    z[0, 17] = math.nan
    compose_into(plan, ACTIVATIONS["tanh"], z, out, Scratch(z[0]))
    assert out[:, 17].isnan().all() and out[:, 18].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outer_products_are_written_where_they_belong(dtype):
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(3, 11, 4, generator=generator, dtype=dtype)
    right = torch.randn(3, 11, 5, generator=generator, dtype=dtype)
    wide = torch.full((11, 30), 7.0, dtype=dtype)
    kernels.outer_products(left, right, wide[:, 6:26])
    expected = torch.einsum("cno,cni->noi", left, right).flatten(1)
    assert torch.allclose(wide[:, 6:26], expected, rtol=1e-5 if dtype == torch.float32 else 1e-13)
    assert (wide[:, :6] == 7).all() and (wide[:, 26:] == 7).all()


def test_a_loop_that_computes_something_else_is_not_used(monkeypatch, caplog):
    right = native.composition_source

    def wrong(plan, real, formula):
        return right(plan, real, formula).replace("s1 * z1", "s1 * z1 * 1.001")

    monkeypatch.setattr(native, "composition_source", wrong)
    plan = fresh(ALGEBRAS["Burgers"])
    with caplog.at_level(logging.WARNING):
        found, expected = both_ways(plan, "tanh", torch.float64)
    assert torch.allclose(found[0], expected[0], rtol=1e-12)
    if native._compiler() is not None:
        assert "compiled wrongly" in caplog.text and "compiled wrongly" in record.status()


@pytest.mark.parametrize("compiler", [None, ("/nonexistent/cc",), ("/bin/false",)])
def test_without_a_working_compiler_torch_does_the_work(monkeypatch, compiler):
    monkeypatch.setattr(native, "_compiler", lambda: compiler)
    plan = fresh(ALGEBRAS["collapsed"])
    for found, expected in zip(*both_ways(plan, "tanh", torch.float64), strict=True):
        assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)
    assert list(plan.loops.values()) == [None]
    assert compiler is None or "torch operations where" in record.status()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "no space left")])
def test_without_a_place_to_compile_in_torch_does_the_work(monkeypatch, error):
    class Refused:
        def __init__(self, **_: object) -> None:
            raise error

    monkeypatch.setattr(native.tempfile, "TemporaryDirectory", Refused)
    plan = fresh(ALGEBRAS["collapsed"])
    for found, expected in zip(*both_ways(plan, "tanh", torch.float64), strict=True):
        assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)


@needs_compiler
def test_a_compiler_that_hangs_is_asked_once(monkeypatch, tmp_path):
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho . >> " + str(tmp_path / "asked") + "\nexec sleep 20\n")
    script.chmod(0o755)
    monkeypatch.setattr(native, "_compiler", lambda: (str(script),))
    monkeypatch.setattr(native, "PATIENCE", 0.2)
    for name in ("collapsed", "Burgers"):
        both_ways(fresh(ALGEBRAS[name]), "tanh", torch.float64)
    assert (tmp_path / "asked").read_text() == ".\n"
    assert "took too long" in record.status()


def straight(z: torch.Tensor, order: int) -> list[torch.Tensor]:
    """``2 z``, whose derivatives are numbers."""
    numbers = (z.new_tensor(float(m == 1) * 2) for m in range(1, order + 1))
    return [2 * z, *(number.expand_as(z) for number in numbers)]


def turned(z: torch.Tensor, order: int) -> list[torch.Tensor]:
    """The sine, by columns."""
    return [factor.T.contiguous().T for factor in ACTIVATIONS["sin"](z, order)]


@needs_compiler
@pytest.mark.parametrize("rule", [straight, turned])
def test_a_rule_may_give_arrays_that_are_not_contiguous(rule, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "rule", rule)
    plan = fresh(ALGEBRAS["Burgers"])
    for found, expected in zip(*both_ways(plan, "rule", torch.float64), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)
    assert all(plan.loops.values()) and "compiled wrongly" not in record.status()


@needs_compiler
def test_the_switch_is_obeyed_at_any_time(monkeypatch):
    plan = fresh(ALGEBRAS["Burgers"])
    used = []
    monkeypatch.setattr(native.NativeLoops, "compose", lambda *what: used.append(what))
    monkeypatch.setattr(kernels, "_agrees", lambda *what: True)
    for value, times in (("0", 0), ("1", 1), ("0", 1)):
        monkeypatch.setenv(record.SWITCH, value)
        both_ways(plan, "tanh", torch.float64)
        assert len(used) == times
    assert f"{record.SWITCH} is 0" in record.status()


@needs_compiler
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads cannot be counted")
def test_a_loop_uses_as_many_threads_as_torch_in_every_thread_of_python(tmp_path):
    """OpenMP counts for each of them, and a compiler's OpenMP may be another than torch's."""
    plan, rule = fresh(ALGEBRAS["one first derivative"]), ACTIVATIONS["tanh"]
    z = torch.ones(2, *native.PROBE, dtype=torch.float64)
    out = torch.empty_like(z)
    compose_into(plan, rule, z, out, Scratch(z[0]))
    loops = next(iter(plan.loops.values()))
    before, begun = torch.get_num_threads(), []

    def count() -> None:
        alone = len(os.listdir("/proc/self/task"))
        loops.compose(z, out, ())
        begun.append(len(os.listdir("/proc/self/task")) - alone)

    try:
        for wanted in (1, 4):
            torch.set_num_threads(wanted)
            worker = threading.Thread(target=count)
            worker.start()
            worker.join()
    finally:
        torch.set_num_threads(before)
    (tmp_path / "empty.c").write_text("int nothing;")
    command = [*(native._compiler() or ()), "-fopenmp", "-shared", "-o", "empty.so", "empty.c"]
    threaded = subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert begun == [0, 3 if threaded else 0]  # beside Python's own


@needs_compiler
@pytest.mark.parametrize("wrong", ["= 1.01 * l0 *", "= 0.0 / 0.0 * l0 *"])
def test_a_jacobian_loop_that_computes_something_else_is_not_used(monkeypatch, wrong):
    right = native._compiled

    def spoilt(compiler, source, folder):
        return right(compiler, source.replace("= l0 *", wrong), folder)

    monkeypatch.setattr(native, "_compiled", spoilt)
    native.compile_outer.cache_clear()
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    right_factor = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    found = kernels.outer_products(left, right_factor)
    native.compile_outer.cache_clear()
    assert torch.allclose(found, torch.einsum("cno,cni->noi", left, right_factor))
    assert "compiled wrongly" in record.status()


@needs_compiler
def test_what_the_environment_calls_a_compiler_is_asked_with_its_arguments(monkeypatch):
    native._compiler.cache_clear()
    monkeypatch.setenv("CC", "gcc -O1")
    try:
        assert native._compiler() == ("gcc", "-O1")
        native._compiler.cache_clear()
        monkeypatch.setenv("CC", "no-such-compiler")
        assert native._compiler() is None and "no-such-compiler" in record.status()
    finally:
        native._compiler.cache_clear()
