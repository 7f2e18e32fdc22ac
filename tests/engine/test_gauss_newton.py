"""Gauss-Newton: rates on problems with a known one, acceleration, line search, resumption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from residua.engine.optimizers import gauss_newton
from residua.engine.optimizers.gauss_newton import GaussNewton, prepare
from residua.engine.optimizers.jacobian import least_squares
from residua.engine.optimizers.least_squares import FORMS, Kernel, Normal, Orthogonal
from residua.errors import ConfigurationError, DivergedError

DOUBLE = torch.float64


def problem(function, start):
    """Closures of ``r(theta)`` for a plain vector of parameters."""
    theta = nn.Parameter(torch.tensor(start, dtype=DOUBLE))

    def linearise():
        jacobian = torch.autograd.functional.jacobian(function, theta.detach())
        return function(theta).detach(), jacobian

    return [theta], lambda: function(theta), linearise


def rosenbrock(p):
    return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


def exponentials(p):
    """Two decay rates and their amplitudes, data of the very same model: zero residual."""
    t = torch.linspace(0, 4, 40, dtype=DOUBLE)
    model = p[2] * torch.exp(-p[0] * t) + p[3] * torch.exp(-p[1] * t)
    return model - (torch.exp(-0.5 * t) + 2 * torch.exp(-2.0 * t))


@pytest.mark.parametrize("line_search", ["damping", "grid"])
@pytest.mark.parametrize("acceleration", [False, True])
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_rosenbrock_is_solved_to_rounding(form, acceleration, line_search):
    optimizer = GaussNewton(
        *problem(rosenbrock, [-1.2, 1.0]),
        form=form,
        acceleration=acceleration,
        line_search=line_search,
    )
    values = [optimizer.step() for _ in range(40)]
    assert values[-1] < 1e-24
    assert all(b <= a for a, b in zip(values, values[1:], strict=False))


def contraction(linearise_wrongly):
    """``log e_{k+1} / log e_k`` of the distance to the root, once it is small."""
    parameters, residuals, linearise = problem(exponentials, [0.6, 1.8, 0.9, 2.2])
    used = linearise
    if linearise_wrongly:

        def used():
            r, jacobian = linearise()
            return r, 1.2 * jacobian

    optimizer = GaussNewton(
        parameters, residuals, used, damping=1e-15, form="qr", acceleration=False
    )
    root = torch.tensor([0.5, 2.0, 1.0, 2.0], dtype=DOUBLE)
    errors = []
    for _ in range(8):
        optimizer.damping.value = 1e-15
        optimizer.step()
        errors.append(float((parameters[0] - root).detach().norm()))
    return [b / a**2 for a, b in zip(errors, errors[1:], strict=False) if 1e-7 < a < 0.3]


def test_convergence_is_quadratic_without_residual():
    rates = contraction(linearise_wrongly=False)
    assert len(rates) >= 2 and max(rates) < 20
    assert max(contraction(linearise_wrongly=True)) > 1e3


def valley(acceleration):
    """Steps through a bent valley: ``r = (100 (y - x^3), 1 - x)``."""
    optimizer = GaussNewton(
        *problem(lambda p: torch.stack([100 * (p[1] - p[0] ** 3), 1 - p[0]]), [-1.5, -3.375]),
        acceleration=acceleration,
    )
    for count in range(1, 400):
        if optimizer.step() < 1e-20:
            return count
    return 400


def test_acceleration_shortens_the_way_through_a_bent_valley():
    assert valley(True) < 0.7 * valley(False)


def test_a_grid_keeps_the_best_step_length():
    """``r = atan(x)``: from 3 the full step overshoots and would diverge."""
    parameters, residuals, linearise = problem(torch.atan, [3.0])
    optimizer = GaussNewton(
        parameters, residuals, linearise, line_search="grid", damping=1e-12, acceleration=False
    )
    after = optimizer.step()
    lengths = 0.5 ** torch.arange(12, dtype=DOUBLE)
    start = torch.tensor(3.0, dtype=DOUBLE)
    full = -torch.atan(start) * (1 + start**2)
    assert after == pytest.approx(float(torch.atan(start + lengths * full).square().min()))
    assert optimizer.damping.value == 2e-12  # a shortened step raises it


def test_auto_goes_by_shape_and_by_damping():
    r = torch.ones(30, dtype=DOUBLE)
    tall = torch.randn(30, 10, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert isinstance(prepare("auto", 1e-3, tall, r), Normal)
    assert isinstance(prepare("auto", 1e-3, tall.T.contiguous(), r[:10]), Kernel)
    assert isinstance(prepare("auto", 1e-14, tall, r), Orthogonal)
    assert isinstance(prepare("auto", 1e-4, tall.float(), r.float()), Normal)
    assert isinstance(prepare("auto", 1e-6, tall.float(), r.float()), Orthogonal)


def test_a_step_without_progress_leaves_the_parameters_and_says_so():
    parameters, residuals, linearise = problem(lambda p: torch.stack([p[0] * 0 + 1, p[0]]), [0.0])
    optimizer = GaussNewton(parameters, residuals, linearise)
    assert optimizer.step() == 1.0
    assert optimizer.stalled and parameters[0].item() == 0.0


@pytest.mark.parametrize("many", [1, gauss_newton.MANY])
def test_a_resumed_run_is_the_same_run(monkeypatch, many):
    monkeypatch.setattr(gauss_newton, "MANY", many)

    def run(interrupt):
        closures = problem(exponentials, [0.3, 3.0, 0.5, 1.0])
        optimizer = GaussNewton(*closures)
        for step in range(12):
            if step == interrupt:
                state = optimizer.state_dict()
                optimizer = GaussNewton(*closures, damping=77.0)
                optimizer.load_state_dict(state)
            optimizer.step()
        return closures[0][0].detach(), optimizer.state_dict()

    whole, state = run(None)
    again, other = run(5)
    kept, other_kept = state.pop("earlier"), other.pop("earlier")
    assert torch.equal(whole, again) and state == other
    assert (kept is None) == (other_kept is None)
    if kept is not None:
        assert all(torch.equal(a, b) for a, b in zip(kept, other_kept, strict=True))


def test_steps_leave_parameters_where_they_are():
    """In memory: a product with a matrix at another alignment may differ in its last bits, and a
    resumed run has its parameters in memory of their own."""
    sizes = (1, 2, 1)
    parameters = [nn.Parameter(torch.full((n,), 0.5, dtype=DOUBLE)) for n in sizes]

    def whole():
        return torch.cat(parameters)

    def linearise():
        at = whole().detach()
        return exponentials(at), torch.autograd.functional.jacobian(exponentials, at)

    places = [p.data_ptr() for p in parameters]
    before = whole().detach()
    optimizer = GaussNewton(parameters, lambda: exponentials(whole()), linearise)
    for _ in range(3):
        optimizer.step()
    assert not torch.equal(whole(), before)
    assert [p.data_ptr() for p in parameters] == places
    # The wrong twin: torch's own way makes them views of one vector.
    nn.utils.vector_to_parameters(before, parameters)
    assert [p.data_ptr() for p in parameters] != places


def test_steps_between_two_factors_reuse_the_first(monkeypatch):
    """With many parameters most steps factor nothing, and still arrive at the root."""
    monkeypatch.setattr(gauss_newton, "MANY", 1)
    forms = []

    def spy(*args):
        forms.append(args[0])
        return prepare(*args)

    monkeypatch.setattr(gauss_newton, "prepare", spy)
    parameters, *closures = problem(exponentials, [0.3, 3.0, 0.5, 1.0])
    optimizer = GaussNewton(parameters, *closures)
    steps = 0
    while optimizer.step() > 1e-20:
        steps += 1
        assert steps < 60
    assert 0 < len(forms) < 0.7 * steps


def test_what_is_not_finite_or_no_vector_is_refused():
    with pytest.raises(DivergedError, match="residual"):
        GaussNewton(*problem(lambda p: p / 0, [1.0])).step()
    with pytest.raises(ConfigurationError, match="sum of squares"):
        GaussNewton(*problem(lambda p: (p**2).sum(), [1.0, 2.0])).step()


class Wave(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(1, 6, dtype=DOUBLE)
        self.outer = nn.Linear(6, 1, dtype=DOUBLE)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x)))


X = torch.linspace(-1, 1, 30, dtype=DOUBLE)[:, None]


def equation(u):
    """``u' + u = 0``, ``u(-1) = 1``, with the derivative by torch.func inside."""
    slope = torch.func.vmap(torch.func.jacrev(lambda x: u(x)[0]))(X)[:, 0]
    return torch.cat([slope + u(X)[:, 0], u(X[:1])[0] - 1])


def test_any_module_by_automatic_differentiation():
    module = Wave()
    parameters, residuals, linearise = least_squares(module, equation, chunk=7)
    r, jacobian = linearise()
    assert torch.allclose(r, residuals(), rtol=1e-14) and jacobian.shape == (31, 19)
    h = 1e-6
    column = 0
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            flat[i] += h
            above = residuals()
            flat[i] -= 2 * h
            below = residuals()
            flat[i] += h
            assert (jacobian[:, column] - (above - below) / (2 * h)).abs().max() < 1e-7
            column += 1
    optimizer = GaussNewton(parameters, residuals, linearise)
    for _ in range(40):
        optimizer.step()
    with torch.no_grad():
        assert (module(X) - torch.exp(-1 - X)).abs().max() < 1e-4
    with pytest.raises(ConfigurationError, match="flattened"):
        least_squares(module, lambda u: u(X).square().mean()).linearise()


def test_a_gain_that_rounding_made_is_no_overflow():
    """At a minimum the predicted reduction may be nothing, and the loss still fall by its last
    place."""
    damping = gauss_newton.Damping(1e-3)
    damping.accept(1e290, 1e-15)
    assert damping.value == pytest.approx(1e-3 / 4)
    damping.accept(-1e290, 1e-15)
    assert damping.value == pytest.approx(1e-3 / 2)


def test_a_jacobian_that_is_not_finite_moves_nothing_however_the_step_is_found(monkeypatch):
    monkeypatch.setattr(gauss_newton, "MANY", 1)
    parameters, residuals, linearise = problem(exponentials, [0.3, 3.0, 0.5, 1.0])
    spoilt = False

    def used():
        r, jacobian = linearise()
        return r, jacobian * torch.nan if spoilt else jacobian

    optimizer = GaussNewton(parameters, residuals, used)
    while optimizer.earlier is None:
        optimizer.step()
    before, spoilt = parameters[0].detach().clone(), True
    with pytest.raises(DivergedError, match="Jacobian"):
        optimizer.step()
    assert torch.equal(parameters[0], before)


@pytest.mark.parametrize(
    "wrong", [{"form": "cholesky"}, {"line_search": "wolfe"}, {"damping": -1.0}]
)
def test_settings_that_do_not_exist_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        GaussNewton(*problem(rosenbrock, [0.0, 0.0]), **wrong)
