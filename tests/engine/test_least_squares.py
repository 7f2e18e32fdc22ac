"""One damped step: all forms against a dense reference, and which of them keep their digits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.engine.optimizers import least_squares
from residua.engine.optimizers.least_squares import (
    FORMS,
    DampedTriangle,
    Factor,
    Iterated,
    Normal,
    Orthogonal,
    require_memory,
    require_sum_of_squares,
)
from residua.errors import ConfigurationError, DivergedError, ResourceError

EPS = torch.finfo(torch.float64).eps


def matrix(rows: int, columns: int, digits: float, seed: int) -> torch.Tensor:
    """A random matrix with singular values from 1 down to ``10^-digits``."""
    generator = torch.Generator().manual_seed(seed)
    left, size, right = torch.linalg.svd(
        torch.randn(rows, columns, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return (left * torch.logspace(0, -digits, len(size), dtype=torch.float64)) @ right


def reference(jacobian: torch.Tensor, r: torch.Tensor, damping: float) -> torch.Tensor:
    norms = torch.linalg.vector_norm(jacobian, dim=0)
    scale = 1 / norms.clamp(min=least_squares.LEAST_SCALE * norms.max())
    below = damping**0.5 * torch.eye(jacobian.shape[1], dtype=torch.float64)
    right = torch.cat([-r, r.new_zeros(len(below))])[:, None]
    stacked = torch.cat([jacobian * scale, below])
    return scale * torch.linalg.lstsq(stacked, right, driver="gelsd").solution[:, 0]


def distance(step: torch.Tensor, exact: torch.Tensor) -> float:
    return float((step - exact).norm() / exact.norm())


@given(
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    digits=st.floats(0, 4),
    exponent=st.floats(-8, 1),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_every_form_gives_the_step_of_a_dense_solution(rows, columns, digits, exponent, seed):
    jacobian = matrix(rows, columns, digits, seed)
    r = torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    damping = 10**exponent
    exact = reference(jacobian, r, damping)
    # |A|^2 <= number of columns after scaling, and the damping is the least eigenvalue.
    condition = columns / damping + 1
    for name, form in FORMS.items():
        system = form(jacobian, r)
        assert system.damp(damping)
        step = system.solve()
        squared = name in ("primal", "dual")
        rounding = 100 * EPS * (condition if squared else condition**0.5) * (1 + columns)
        asked = 1e-7 if name == "randomised" else 1e-11
        assert distance(step, exact) <= asked + rounding, name
        # Another right side by the same factors.
        assert distance(system.solve(2 * r), 2 * exact) <= asked + rounding, name
        promised = float(r @ r - (r + jacobian @ step).square().sum())
        assert abs(system.predicted(step) - promised) <= (1e-6 + rounding) * float(r @ r), name


def test_the_wrong_twin_does_not_scale():
    jacobian = matrix(60, 20, 2, 0) * torch.logspace(0, 2, 20, dtype=torch.float64)
    r = torch.ones(60, dtype=torch.float64)
    plain = torch.linalg.solve(
        jacobian.T @ jacobian + 1e-2 * torch.eye(20, dtype=torch.float64), -(jacobian.T @ r)
    )
    assert distance(plain, reference(jacobian, r, 1e-2)) > 1e-2


def test_orthogonal_factors_keep_digits_that_the_normal_matrix_loses():
    """Condition 1e6, hardly any damping: eps k = 1e-10 against eps k^2 = 1e-4."""
    jacobian = matrix(300, 200, 6, 1)
    r = torch.randn(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = reference(jacobian, r, 1e-13)
    accurate, squared = Orthogonal(jacobian, r), Normal(jacobian, r)
    assert accurate.damp(1e-13) and squared.damp(1e-13)
    assert distance(accurate.solve(), exact) < 1e-8
    assert distance(squared.solve(), exact) > 1e-7
    wide = Orthogonal(jacobian.T.contiguous(), r[:200])
    assert wide.damp(1e-13)
    assert distance(wide.solve(), reference(jacobian.T, r[:200], 1e-13)) < 1e-8


def test_the_normal_matrix_of_a_singular_jacobian_cannot_be_factored():
    jacobian = matrix(80, 40, 12, 2)
    r = torch.ones(80, dtype=torch.float64)
    assert not Normal(jacobian, r).damp(1e-22)
    accurate = Orthogonal(jacobian, r)
    assert accurate.damp(1e-22)
    assert distance(accurate.solve(), reference(jacobian, r, 1e-22)) < 1e-2


@pytest.mark.parametrize("size", [1, 95, 96, 97, 250])
def test_the_triangular_factorisation_is_that_of_the_stacked_matrix(size):
    triangle = matrix(size, size, 3, size).triu()
    found = DampedTriangle(triangle, 1e-4)
    stacked = torch.cat([triangle, 1e-2 * torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(found.upper.T @ found.upper, stacked.T @ stacked, rtol=0, atol=1e-13)
    assert (found.upper.tril(-1) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_the_gram_matrix(dtype, turned):
    m = matrix(50, 30, 1, 3).to(dtype)
    m = m.T.contiguous().T if turned else m
    before = m.clone()
    exact = (m.double().T @ m.double()).triu()
    assert (least_squares.gram(m).triu().double() - exact).abs().max() < 50 * torch.finfo(dtype).eps
    assert torch.equal(m, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_jacobian_that_is_not_finite_is_refused(form, value):
    for shape in ((30, 10), (10, 30)):
        jacobian = matrix(*shape, 1, 4)
        jacobian[3, 5] = value
        with pytest.raises(DivergedError, match="not finite"):
            FORMS[form](jacobian, torch.ones(shape[0], dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
def test_a_parameter_that_is_not_felt_does_not_move(form):
    jacobian = matrix(30, 10, 1, 5)
    jacobian[:, 4] = 0
    system = FORMS[form](jacobian, torch.ones(30, dtype=torch.float64))
    assert system.damp(1e-6)
    step = system.solve()
    assert step[4] == 0 and step.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_a_parameter_that_is_hardly_felt_is_held_like_the_others(form, shape, monkeypatch):
    """A unit that has saturated: scaled by its own column alone, it would go hundreds of times
    as far as the largest step the damping is to allow."""
    jacobian = matrix(*shape, 1, 6)
    jacobian[:, 4] *= 1e-8
    r = torch.ones(shape[0], dtype=torch.float64)
    damping = 1e-4
    most = float(torch.linalg.vector_norm(jacobian, dim=0).max())
    allowed = float(r.norm()) / (2 * damping**0.5 * least_squares.LEAST_SCALE * most)

    def largest() -> float:
        system = FORMS[form](jacobian, r)
        assert system.damp(damping)
        return float(system.solve().abs().max())

    assert largest() <= allowed
    monkeypatch.setattr(least_squares, "LEAST_SCALE", 1e-12)
    assert largest() > 100 * allowed


def test_a_jacobian_too_large_says_how_large_and_what_to_use_instead():
    cpu = torch.device("cpu")
    require_memory(1000, 1000, torch.float64, cpu)
    with pytest.raises(ResourceError, match=r"1000000 residuals by 20000 .* 4\d\d\.\d GiB.*lbfgs"):
        require_memory(10**6, 20_000, torch.float64, cpu)


def test_every_form_is_counted_with_what_it_squares(monkeypatch):
    monkeypatch.setattr(least_squares, "free_memory", lambda: 2e9)
    cpu = torch.device("cpu")
    for form in ("auto", "primal", "qr"):
        require_memory(40_000, 1000, torch.float64, cpu, form=form)
    with pytest.raises(ResourceError):  # residuals by residuals
        require_memory(40_000, 1000, torch.float64, cpu, form="dual")
    require_memory(1000, 40_000, torch.float64, cpu, form="dual")
    with pytest.raises(ResourceError):
        require_memory(1000, 40_000, torch.float64, cpu, form="primal")


def test_on_a_gpu_what_torch_keeps_for_later_is_free(monkeypatch):
    """The Jacobian of the last window, most of all."""
    for name, found in (("mem_get_info", (10**8, 10**9)), ("memory_reserved", 9 * 10**8)):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    gpu = torch.device("cuda")
    require_memory(20_000, 1000, torch.float64, gpu)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 9 * 10**8)
    with pytest.raises(ResourceError, match=r"0\.1 GiB may be used"):
        require_memory(20_000, 1000, torch.float64, gpu)


def test_a_scalar_loss_is_no_sum_of_squares():
    with pytest.raises(ConfigurationError, match=r"sum of squares.*\(m, 3\).*lbfgs or adam"):
        require_sum_of_squares(torch.tensor(1.0), torch.ones(1, 3), 3)
    with pytest.raises(ConfigurationError):
        require_sum_of_squares(torch.ones(4), torch.ones(4, 2), 3)
    with pytest.raises(ConfigurationError, match="no residual.*points"):
        require_sum_of_squares(torch.ones(0), torch.ones(0, 3), 3)


@pytest.mark.parametrize("change", [0.0, 0.01])
def test_an_earlier_factor_finds_most_of_the_step(change):
    generator = torch.Generator().manual_seed(3)
    columns = torch.logspace(0, -3, 40, dtype=torch.float64)
    before = torch.randn(120, 40, dtype=torch.float64, generator=generator) * columns
    noise = torch.randn(120, 40, dtype=torch.float64, generator=generator) * columns
    jacobian = before + change * noise
    r = torch.randn(120, dtype=torch.float64, generator=generator)
    exact, earlier = Normal(jacobian, r), Normal(before, r)
    assert exact.damp(1e-4) and earlier.damp(1e-4)
    quick = Iterated(jacobian, r, Factor(earlier.scale, earlier.factor))
    assert quick.damp(1e-4)
    step, best = quick.solve(), exact.solve()
    assert not quick.worn
    assert quick.predicted(step) > 0.98 * exact.predicted(best)
    left = r + jacobian @ step
    assert quick.predicted(step) == pytest.approx(float(r @ r - left @ left))
    # Wrong twin: the factor of a matrix that has nothing to do with this one does not.
    alien = torch.diag(torch.logspace(3, -3, 40, dtype=torch.float64))
    useless = Iterated(jacobian, r, Factor(earlier.scale, alien))
    useless.damp(1e-4)
    assert useless.predicted(useless.solve()) < 0.98 * exact.predicted(best)
