"""Variable projection: the read-out exactly, the projected gradient, few steps, resumption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from residua.engine.memory import require_jacobian
from residua.engine.optimizers import least_squares as damped
from residua.engine.optimizers.gauss_newton import GaussNewton
from residua.engine.optimizers.jacobian import least_squares
from residua.engine.optimizers.variable_projection import VariableProjection, is_affine
from residua.errors import ConfigurationError, DivergedError, ResourceError

DOUBLE = torch.float64
X = torch.linspace(0, 1, 60, dtype=DOUBLE)[:, None]


class Net(nn.Module):
    """A tanh network of one hidden layer; ``u(0) = 0`` and ``u(1) = 0`` hold by construction."""

    def __init__(self, width=8, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Linear(1, width, dtype=DOUBLE)
        self.readout = nn.Linear(width, 1, dtype=DOUBLE)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=2.0, generator=generator)

    def forward(self, x):
        return x * (1 - x) * self.readout(torch.tanh(self.hidden(x)))


def curvature(u):
    return torch.func.vmap(
        lambda x: torch.func.jacfwd(torch.func.jacfwd(lambda y: u(y)[0]))(x)[0, 0]
    )(X)


def poisson(u):
    return (curvature(u) + torch.pi**2 * torch.sin(torch.pi * X[:, 0])) / len(X) ** 0.5


def cubic(u):
    """``-u'' + u^3 = f`` with the solution ``sin(pi x)``."""
    exact = torch.sin(torch.pi * X[:, 0])
    forcing = torch.pi**2 * exact + exact**3
    return (-curvature(u) + u(X)[:, 0] ** 3 - forcing) / len(X) ** 0.5


def build(equation=poisson, **options):
    module = Net(**({"seed": options.pop("seed")} if "seed" in options else {}))
    parameters, residuals, linearise = least_squares(module, equation)
    linear = list(module.readout.parameters())
    optimizer = VariableProjection(
        parameters,
        linear,
        residuals,
        linearise,
        exact=is_affine(residuals, linear),
        **options,
    )
    return module, optimizer, (parameters, residuals, linearise)


def error(module):
    with torch.no_grad():
        return float((module(X) - torch.sin(torch.pi * X)).abs().max())


def test_what_is_affine_is_found_by_trying():
    module, optimizer, (_, residuals, _) = build()
    before = [p.detach().clone() for p in module.parameters()]
    assert optimizer.exact
    assert is_affine(residuals, list(module.readout.parameters()))
    assert not is_affine(residuals, list(module.hidden.parameters()))
    assert not is_affine(least_squares(module, cubic).residuals, list(module.readout.parameters()))
    pairs = zip(before, module.parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def best_readout(module, residuals, linearise):
    """Loss with the best read-out for the present hidden layer, by an independent solution."""
    r, jacobian = linearise()
    phi = jacobian[:, -9:]
    return float((r - phi @ torch.linalg.lstsq(phi, r[:, None]).solution[:, 0]).square().sum())


def test_the_readout_of_a_linear_equation_is_exact_after_one_step():
    module, optimizer, (_, residuals, linearise) = build(cut=1e-10)
    after = optimizer.step()
    best = best_readout(module, residuals, linearise)
    assert after == pytest.approx(best, rel=1e-8)
    assert float(residuals().square().sum()) == pytest.approx(best, rel=1e-8)
    # Its wrong twin: a Gauss-Newton step leaves something to gain.
    other, _, closures = build()
    GaussNewton(*closures).step()
    assert float(closures[1]().square().sum()) > 1.1 * best_readout(other, *closures[1:])


def test_a_linear_equation_converges_in_few_steps():
    module, optimizer, _ = build()
    for _ in range(8):
        optimizer.step()
    plain, _, closures = build()
    other = GaussNewton(*closures)
    for _ in range(8):
        other.step()
    assert error(module) < 1e-7
    assert error(plain) > 1e-5


def test_a_nonlinear_equation_converges_too():
    module, optimizer, _ = build(cubic)
    assert not optimizer.exact
    values = [optimizer.step() for _ in range(20)]
    assert error(module) < 1e-5
    assert all(b <= a for a, b in zip(values, values[1:], strict=False))


def test_the_gradient_is_that_of_the_projected_problem():
    module, optimizer, (_, residuals, linearise) = build(cut=1e-10)
    point = optimizer._here()
    gradient = 2 * point.jacobian.T @ point.r
    hidden = list(module.hidden.parameters())
    h, column = 1e-5, 0
    scale = float(gradient.abs().max())
    for parameter in hidden:
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            flat[i] += h
            above = best_readout(module, residuals, linearise)
            flat[i] -= 2 * h
            below = best_readout(module, residuals, linearise)
            flat[i] += h
            assert abs(float(gradient[column]) - (above - below) / (2 * h)) < 1e-5 * scale
            column += 1
    # Without the projection of r it is the gradient at a read-out that is not the best.
    other, fresh, closures = build()
    r, jacobian = closures[2]()
    wrong = 2 * jacobian[:, ~fresh.is_linear].T @ r
    assert (wrong - gradient).abs().max() > 0.1 * scale


@pytest.mark.parametrize("equation", [poisson, cubic])
def test_a_resumed_run_is_the_same_run(equation):
    def run(interrupt):
        module, optimizer, _ = build(equation)
        for step in range(6):
            if step == interrupt:
                weights = {k: v.clone() for k, v in module.state_dict().items()}
                state = optimizer.state_dict()
                module, optimizer, _ = build(equation, seed=9, damping=9.0)
                module.load_state_dict(weights)
                optimizer.load_state_dict(state)
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(run(None), run(3))


def test_a_feature_that_is_not_felt_beyond_rounding_does_no_harm():
    """A read-out bias whose column is rounding, as where a symmetry takes it out of the field."""
    module = Net()
    parameters, residuals, linearise = least_squares(module, poisson)

    def noisy():
        r, jacobian = linearise()
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(len(r), dtype=DOUBLE, generator=generator)
        return r, torch.cat([jacobian, 1e-17 * noise[:, None]], dim=1)

    unfelt = nn.Parameter(torch.zeros(1, dtype=DOUBLE))
    linear = [*module.readout.parameters(), unfelt]
    optimizer = VariableProjection([*parameters, unfelt], linear, residuals, noisy)
    for _ in range(6):
        after = optimizer.step()
        assert float(residuals().square().sum()) == pytest.approx(after, rel=1e-6)
    assert unfelt.item() == 0 and error(module) < 1e-5


def test_new_points_are_seen():
    scale = [1.0]
    module = Net()
    closures = least_squares(module, lambda u: scale[0] * poisson(u))
    optimizer = VariableProjection(
        closures.parameters, list(module.readout.parameters()), *closures[1:], cut=1e-10
    )
    first = optimizer.step()
    scale[0] = 10.0
    optimizer.renew()
    assert optimizer._here().loss == pytest.approx(100 * first, rel=1e-6)


def test_all_or_no_parameters_being_linear_is_refused():
    module = Net()
    closures = least_squares(module, poisson)
    for linear in ([], closures.parameters, [nn.Parameter(torch.zeros(1))]):
        with pytest.raises(ConfigurationError, match="linear parameters"):
            VariableProjection(closures.parameters, linear, *closures[1:])
    with pytest.raises(ConfigurationError, match=r"form.*write one of auto, primal"):
        build(form="cholesky")


def test_what_it_needs_is_counted_before_the_first_jacobian(monkeypatch):
    """The same residuals fit without projection; no Jacobian is computed to find that out."""
    made = []

    def jacobian():
        made.append(1)
        raise AssertionError

    first, second = (nn.Parameter(torch.zeros(n, dtype=DOUBLE)) for n in (600, 400))
    rows = torch.zeros(4000, dtype=DOUBLE)
    monkeypatch.setattr(damped, "free_memory", lambda: 1.5e8)
    damped.require_memory(4000, 1000, DOUBLE, torch.device("cpu"))
    optimizer = VariableProjection([first, second], [second], lambda: rows, jacobian)
    with pytest.raises(ResourceError, match=r"4000 residuals by 1000 .*no variable_projection"):
        optimizer.step()
    assert not made


PEAK = """
import sys, torch
from pathlib import Path
from residua.engine.optimizers.variable_projection import VariableProjection

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def peak(rows, linear, columns):
    base = torch.randn(rows, columns, dtype=torch.float64)
    memory, wanted = torch.empty_like(base), torch.randn(rows, dtype=torch.float64)
    sizes = (columns - linear, linear)
    alpha, c = (torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes)
    residuals = lambda: base @ torch.cat([alpha, c]).detach() - wanted
    linearise = lambda: (residuals(), memory.copy_(base))
    optimizer = VariableProjection([alpha, c], [c], residuals, linearise, form="qr")
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    optimizer.step()
    optimizer.step()
    return resident("VmHWM") - before

peak(300, 20, 60)  # libraries are loaded
print(*(peak(4000, linear, 400) for linear in (40, 200)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak memory is told")
def test_what_is_counted_is_what_is_needed():
    """In a process of its own whose memory goes back to the system as soon as it is free."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    for linear, peak in zip((40, 200), map(int, done.stdout.split()), strict=True):
        require_jacobian(4000, 400, 8, 1.4 * peak, form="qr", linear=linear)
        with pytest.raises(ResourceError):
            require_jacobian(4000, 400, 8, 0.9 * peak, form="qr", linear=linear)


def test_a_jacobian_that_is_not_finite_beside_the_linear_columns_moves_nothing():
    module = Net()
    parameters, residuals, linearise = least_squares(module, poisson)

    def spoilt():
        r, jacobian = linearise()
        jacobian[3, 0] = float("nan")
        return r, jacobian

    before = torch.cat([p.detach().flatten() for p in parameters])
    optimizer = VariableProjection(parameters, list(module.readout.parameters()), residuals, spoilt)
    with pytest.raises(DivergedError):
        optimizer.step()
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in parameters]))


@pytest.mark.parametrize("projected", [True, False])
def test_residuals_may_be_written_where_the_last_ones_were(projected):
    def run(again):
        module = Net()
        parameters, plain, linearise = least_squares(module, cubic)
        memory = torch.empty(len(plain()), dtype=DOUBLE)

        def residuals():
            return memory.copy_(plain()) if again else plain()

        def both():
            r, jacobian = linearise()
            return (memory.copy_(r) if again else r), jacobian

        linear = list(module.readout.parameters())
        optimizer = (
            VariableProjection(parameters, linear, residuals, both, exact=False)
            if projected
            else GaussNewton(parameters, residuals, both)
        )
        return [optimizer.step() for _ in range(4 if projected else 12)]

    assert run(again=True) == run(again=False)
