"""Quasi-Newton methods by their theorems: termination, secants, invariance, superlinear descent."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from residua.engine.optimizers.objective import assign, objective_of
from residua.engine.optimizers.quasi_newton import (
    CHECK_EVERY,
    DenseInverse,
    LimitedInverse,
    QuasiNewton,
    scaling,
)
from residua.errors import ConfigurationError

F64 = torch.float64
UPDATES = ("bfgs", "ss_bfgs", "ss_broyden", "ss_broyden1")


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def spd(n, seed, condition=1e2):
    axes = torch.linalg.qr(random(n, n, seed=seed))[0]
    return axes @ torch.diag(torch.logspace(0, -math.log10(condition), n, dtype=F64)) @ axes.T


def parameter(values):
    return nn.Parameter(torch.as_tensor(values, dtype=F64).clone())


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def hilly(x):
    """Smooth, convex, and far from a quadratic."""
    return (torch.cosh(x) - 1).sum() + (x.sum() - 1) ** 4 + 0.5 * x @ spd(len(x), 1) @ x


def trained(loss, x0, inverse, steps):
    x = parameter(x0)
    member = QuasiNewton([x], objective_of(lambda: loss(x), [x]), inverse)
    path = [x.detach().clone()]
    for _ in range(steps):
        member.step()
        path.append(x.detach().clone())
    return member, path


def exact_descent(inverse, matrix, start, steps):
    """Minimise ``x^T A x / 2`` with the exact step length; sizes of the gradient."""
    x, sizes = start.clone(), []
    for _ in range(steps):
        g = matrix @ x
        sizes.append(float(g.norm()))
        p = -inverse.apply(g)
        alpha = float(-(g @ p) / (p @ matrix @ p))
        s = alpha * p
        y = matrix @ s
        inverse.update(s, y, float(-alpha * (s @ g) / (y @ s)))
        x = x + s
    return [*sizes, float((matrix @ x).norm())]


# The update
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_with_exact_steps_a_quadratic_takes_n_of_them(update, n):
    sizes = exact_descent(DenseInverse(n, update), spd(n, n), random(n, seed=5), n)
    assert sizes[-1] < 1e-11 * sizes[0]
    assert sizes[-2] > 1e-6 * sizes[0], "and no fewer"


def test_the_inverse_is_then_found():
    """After n exact steps BFGS has ``H = A^-1``."""
    inverse = DenseInverse(6, "bfgs")
    matrix = spd(6, 2)
    exact_descent(inverse, matrix, random(6, seed=3), 6)
    assert torch.allclose(inverse.matrix @ matrix, torch.eye(6, dtype=F64), atol=1e-9)


class Flipped(DenseInverse):
    """The wrong twin: v = s/ys + Hy/yHy instead of their difference."""

    def update(self, s, y, b):
        before, hy = self.matrix.clone(), self.matrix @ y
        ys, yhy = float(y @ s), float(y @ hy)
        phi, tau = scaling(self.kind, b, yhy / ys, len(s))
        v = s / ys + hy / yhy
        before -= torch.outer(hy, hy) / yhy - phi * yhy * torch.outer(v, v)
        self.matrix = before / tau + torch.outer(s, s) / ys
        self.fresh = False


def secant_error(inverse, n, seed, stretch):
    """Largest error of ``H y = s`` over some pairs of a changing Hessian, relative to |H| |y|."""
    worst = 0.0
    g = random(n, seed=seed)
    for k in range(8):
        s = -0.7 * inverse.apply(g)
        y = spd(n, seed + k, condition=10.0**stretch) @ s
        before = float(inverse.matrix.norm())
        inverse.update(s, y, float(-0.7 * (s @ g) / (y @ s)))
        # An entry of the new H is a sum of terms of the size of the old one, too.
        size = max(before, float(inverse.matrix.norm())) * float(y.norm())
        worst = max(worst, float((inverse.matrix @ y - s).norm()) / size)
        g = g + y
    return worst


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(UPDATES), st.integers(2, 12), st.integers(0, 1000), st.floats(0, 3))
def test_the_secant_equation_holds_after_every_update(update, n, seed, stretch):
    inverse = DenseInverse(n, update)
    assert secant_error(inverse, n, seed, stretch) < 1e-12
    skew = (inverse.matrix - inverse.matrix.T).norm()
    assert float(skew) < 1e-13 * float(inverse.matrix.norm())
    assert float(torch.linalg.eigvalsh(inverse.matrix)[0]) > 0


def test_a_flipped_sign_breaks_it():
    for update in UPDATES:
        assert secant_error(DenseInverse(6, update), 6, 1, 1.0) < 1e-12
        assert secant_error(Flipped(6, update), 6, 1, 1.0) > 1e-2


@given(
    st.sampled_from(UPDATES),
    st.floats(-8, 8),
    st.floats(-6, 12),
    st.integers(2, 20_000),
)
def test_every_member_keeps_positive_definiteness(update, log_b, log_a, size):
    """On the plane of Hy and s, det H+ / det H is ``(1 + a phi)/(1 + a)``, up to factors > 0."""
    b, a = 10.0**log_b, 10.0**log_a
    phi, tau = scaling(update, b, (1 + a) / b, size)
    assert math.isfinite(phi) and 0 < tau < math.inf
    # Over steps of any quality, b from 1e-8 to 1e8 and a = b h - 1 from 1e-6 to 1e12.
    assert phi > -1 / a


def test_bfgs_is_the_textbook_formula():
    """``H+ = (I - rho s y^T) H (I - rho y s^T) + rho s s^T`` (Nocedal and Wright, 6.17)."""
    n = 5
    inverse = DenseInverse(n, "bfgs")
    inverse.matrix, inverse.fresh = spd(n, 4), False
    s, y = random(n, seed=1), spd(n, 8) @ random(n, seed=1)
    rho = 1 / float(y @ s)
    left = torch.eye(n, dtype=F64) - rho * torch.outer(s, y)
    wanted = left @ inverse.matrix @ left.T + rho * torch.outer(s, s)
    inverse.update(s, y, 1.0)
    assert torch.allclose(inverse.matrix, wanted, rtol=1e-12, atol=1e-12)


def test_the_numbers_of_self_scaled_broyden():
    """b = 2, h = 1, so a = 1 and c = 1/sqrt(2): worked out by hand."""
    c = 1 / math.sqrt(2)
    least = 1 - c
    theta = max((least - 1) / 1, min(1 / least, (1 - 2) / 2))
    assert theta == -0.5
    phi, tau = scaling("ss_broyden", 2.0, 1.0, 11)
    assert phi == pytest.approx(1.5 / 0.5) and tau == pytest.approx(min(0.5 * 0.5**-0.1, 0.5))
    # The symmetric rank-one choice, 1/(1 - b) = -1, lies below the bound -c.
    phi, tau = scaling("ss_broyden1", 2.0, 1.0, 11)
    assert phi == pytest.approx((1 + c) / (1 - c))
    assert tau == pytest.approx(min(0.5 * (1 - c) ** -0.1, 1 - c))
    assert scaling("ss_bfgs", 2.0, 1.0, 11) == (1.0, 0.5)
    assert scaling("bfgs", 2.0, 1.0, 11) == (1.0, 1.0)
    # b = 1/4, h = 8, so again a = 1: theta is positive and bounded by 1/least.
    phi, tau = scaling("ss_broyden", 0.25, 8.0, 11)
    theta = 1.0
    assert phi == pytest.approx(0.0) and tau == pytest.approx(min(2**-0.1, 1 / theta))


def test_where_hy_is_along_s_all_members_agree():
    for update in UPDATES[1:]:
        assert scaling(update, 0.5, 2.0, 4) == (1.0, 1.0)
        assert scaling(update, 2.0, 0.5, 4) == (1.0, 0.5)
    one = DenseInverse(1)
    one.update(torch.ones(1, dtype=F64), torch.full((1,), 4.0, dtype=F64), 0.25)
    assert float(one.matrix) == 0.25


# The iteration
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", UPDATES)
def test_a_linear_change_of_variables_changes_nothing(update):
    """x = T z with H transformed alike: the same iterates; without that, others."""
    n, steps = 6, 12
    start, change = random(n, seed=6), random(n, n, seed=7) + 3 * torch.eye(n, dtype=F64)
    back = torch.linalg.inv(change)

    def path(transformed, matrix):
        inverse = DenseInverse(n, update)
        inverse.matrix, inverse.fresh = matrix, False
        if not transformed:
            return trained(hilly, start, inverse, steps)[1]
        found = trained(lambda z: hilly(change @ z), back @ start, inverse, steps)[1]
        return [change @ z for z in found]

    plain = path(False, torch.eye(n, dtype=F64))
    covariant = path(True, back @ back.T)
    wrong = path(True, torch.eye(n, dtype=F64))
    gap = max(float((x - z).norm()) for x, z in zip(plain, covariant, strict=True))
    wrong_gap = max(float((x - z).norm()) for x, z in zip(plain, wrong, strict=True))
    assert gap < 1e-8 and wrong_gap > 1e-2


class Steepest(DenseInverse):
    """The wrong twin of all of them: it learns the scale and nothing more."""

    def update(self, s, y, b):
        self.matrix = torch.eye(len(s), dtype=F64) * float(y @ s) / float(y @ y)


@pytest.mark.parametrize("update", UPDATES)
def test_descent_on_rosenbrock_is_superlinear(update):
    """The distance to (1, 1) falls by ever larger factors; steepest descent's do not grow."""

    def distances(inverse, steps):
        path = trained(rosenbrock, [-1.2, 1.0], inverse, steps)[1]
        return [float((x - 1).norm()) for x in path]

    found = [d for d in distances(DenseInverse(2, update), 45) if d > 1e-13]
    assert found[-1] < 1e-9
    late = [b / a for a, b in zip(found[-5:], found[-4:], strict=False)]
    assert min(late) < 0.05 and math.prod(late) < 1e-5
    assert distances(Steepest(2), 45)[-1] > 1e-4


def test_self_scaled_broyden_is_not_bfgs_and_helps_where_h_is_far_too_small():
    """Curvatures from 1e-6 to 1e-2 under ``H = I``: BFGS mends one direction at a time."""
    n = 30
    matrix, start = 1e-2 * spd(n, 9, condition=1e4), random(n, seed=10)

    def steps_needed(update):
        inverse = DenseInverse(n, update)
        inverse.fresh = False
        x = parameter(start)
        member = QuasiNewton(
            [x], objective_of(lambda: 0.5 * x @ matrix @ x, [x]), inverse, say=lambda _: None
        )
        first = float(0.5 * start @ matrix @ start)
        for step in range(1, 400):
            if member.step() < 1e-12 * first:
                return step
        return 400

    needed = {update: steps_needed(update) for update in UPDATES}
    assert len(set(needed.values())) > 1, needed
    assert needed["ss_broyden"] < 0.8 * needed["bfgs"], needed
    one = trained(hilly, random(6, seed=6), DenseInverse(6, "bfgs"), 10)[1]
    other = trained(hilly, random(6, seed=6), DenseInverse(6, "ss_broyden"), 10)[1]
    assert float((one[5] - other[5]).norm()) > 1e-6


def test_float32_parameters_are_served_by_a_float64_inverse():
    x = nn.Parameter(torch.tensor([-1.2, 1.0]))
    member = QuasiNewton([x], objective_of(lambda: rosenbrock(x), [x]), DenseInverse(2))
    for _ in range(60):
        member.step()
    assert member.inverse.matrix.dtype == F64
    assert float((x.detach() - 1).norm()) < 1e-3


def test_walls_of_nan_are_walked_around():
    """A first step that is far too long ends where the loss is not defined."""
    x = parameter([0.5, 0.5])

    def loss():
        return -torch.log(1 - x).sum() * 1e-3 + 100 * (x - 0.9).square().sum()

    member = QuasiNewton([x], objective_of(loss, [x]), DenseInverse(2))
    member.inverse.matrix *= 100
    member.inverse.fresh = False
    for _ in range(40):
        member.step()
    assert torch.allclose(x.detach(), torch.full((2,), 0.9, dtype=F64), atol=1e-3)


# When the objective changes
# ---------------------------------------------------------------------------------------------


class Batches:
    """Least squares over one set of points or another: nearly the same curvature."""

    def __init__(self, n=12):
        self.rows = [spd(n, 20, condition=1e2) + 0.01 * random(n, n, seed=k) for k in (21, 22)]
        self.wanted = [random(n, seed=k) for k in (23, 24)]
        self.x = parameter(torch.zeros(n))
        self.now = 0
        self.told: list[str] = []
        self.member = QuasiNewton(
            [self.x],
            objective_of(self.loss, [self.x]),
            DenseInverse(n, "ss_broyden"),
            say=self.told.append,
        )

    def loss(self):
        return (self.rows[self.now] @ self.x - self.wanted[self.now]).square().sum()

    def steps_to(self, level, most=300):
        for step in range(1, most):
            if self.member.step() < level:
                return step
        return most


def test_h_is_worth_keeping_when_the_points_change():
    kept, forgot = Batches(), Batches()
    for batches in (kept, forgot):
        batches.steps_to(1e-16)
        batches.now = 1
        batches.member.renew()
    before = kept.member.inverse.matrix.clone()
    assert not torch.equal(before, torch.eye(12, dtype=F64))
    forgot.member.inverse.reset()
    assert kept.steps_to(1e-10) < 0.6 * forgot.steps_to(1e-10)
    assert not kept.told


def test_without_renewal_a_pair_straddles_the_change():
    """The wrong twin: the old gradient is taken for one of the new objective."""
    right, wrong = Batches(), Batches()
    for batches in (right, wrong):
        batches.steps_to(1e-10)
        batches.now = 1
    right.member.renew()
    loss = float(right.loss().detach())
    assert right.member.step() < loss
    assert right.member.known is not None and wrong.member.known is not None
    wrong.member.step()
    assert float(wrong.loss().detach()) > right.member.known[0]


def test_renewal_symmetrises_and_tells_of_what_is_lost():
    batches = Batches()
    batches.steps_to(1e-6)
    member = batches.member
    inverse = member.inverse
    assert isinstance(inverse, DenseInverse)
    inverse.matrix[0, 1] += 1e-9
    inverse.unchecked = CHECK_EVERY
    member.renew()
    assert torch.equal(inverse.matrix, inverse.matrix.T) and not batches.told
    # The wrong twin is not symmetric any more, and still goes on.
    for spoil in (-1e-3, math.nan):
        inverse.matrix[2, 2] = spoil
        inverse.unchecked = CHECK_EVERY
        member.renew()
        assert torch.equal(inverse.matrix, torch.eye(12, dtype=F64)) and inverse.fresh
        assert "positive definiteness" in batches.told.pop()
    assert batches.steps_to(1e-10) < 300


def test_a_broken_h_is_dropped_in_the_step_itself():
    batches = Batches()
    batches.steps_to(1e-3)
    batches.member.inverse.matrix.neg_()
    loss = float(batches.loss().detach())
    assert batches.member.step() < loss and not batches.member.stalled
    assert "identity again" in batches.told[0]


def test_the_warning_of_a_lone_optimiser_is_python_s_own():
    x = parameter([1.0, 2.0])
    member = QuasiNewton([x], objective_of(lambda: rosenbrock(x), [x]), DenseInverse(2))
    member.step()
    member.inverse.matrix.neg_()
    with pytest.warns(RuntimeWarning, match="identity again"):
        member.step()


def test_a_wrong_gradient_stalls_and_moves_nothing():
    x = parameter([0.3, 0.4])
    honest = objective_of(lambda: rosenbrock(x), [x])

    def twisted():
        value, gradient = honest()
        return value, -gradient

    member = QuasiNewton([x], twisted, DenseInverse(2))
    assert member.step() == honest()[0] and member.stalled
    assert x.detach().tolist() == [0.3, 0.4]
    assign(torch.ones(2, dtype=F64), [x])


# Limited memory
# ---------------------------------------------------------------------------------------------


def test_two_loops_are_bfgs_from_a_scaled_identity():
    n, inverse = 6, LimitedInverse(4)
    pairs = [(s, spd(n, 30 + k) @ s) for k, s in enumerate(random(7, n, seed=31))]
    for s, y in pairs:
        inverse.update(s, y, 1.0)
    s, y = pairs[-1]
    dense = DenseInverse(n, "bfgs")
    dense.matrix, dense.fresh = torch.eye(n, dtype=F64) * float(s @ y) / float(y @ y), False
    for s, y in pairs[-4:]:
        dense.update(s, y, 1.0)
    g = random(n, seed=32)
    assert torch.allclose(inverse.apply(g), dense.matrix @ g, rtol=1e-10, atol=1e-10)
    s, y = pairs[-1]
    assert torch.allclose(inverse.apply(y), s, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [3, 6])
def test_lbfgs_terminates_on_a_quadratic_too(n):
    sizes = exact_descent(LimitedInverse(n), spd(n, n), random(n, seed=5), n)
    assert sizes[-1] < 1e-10 * sizes[0] < sizes[-2]


def test_lbfgs_does_not_stop_early_in_float64():
    """Ten times smaller steps and losses than the thresholds at which torch's own gives up."""
    matrix, wanted = spd(20, 40, condition=1e4), random(20, seed=41)
    scale = 1e-6

    def loss(x):
        return scale * (matrix @ x - wanted).square().sum()

    member, _ = trained(loss, torch.zeros(20), LimitedInverse(50), 250)
    x = parameter(torch.zeros(20))
    theirs = torch.optim.LBFGS([x], max_iter=250, history_size=50, line_search_fn="strong_wolfe")

    def closure():
        theirs.zero_grad()
        value = loss(x)
        value.backward()
        return value

    theirs.step(closure)
    assert member.known is not None
    assert member.known[0] < 1e-11 * scale < 1e-3 * float(loss(x).detach())


@pytest.mark.parametrize("update", ["ss_broyden", "ss_broyden1"])
@given(b=st.floats(1e-12, 1e12), a=st.floats(-1e-9, 1e18), size=st.sampled_from([1, 2, 1000]))
@settings(max_examples=200, deadline=None)
def test_the_scaling_is_finite_and_positive_for_all_curvatures(update, b, a, size):
    phi, tau = scaling(update, b, (1 + a) / b, size)
    assert math.isfinite(phi) and 0 < tau < math.inf


@pytest.mark.parametrize("update", ["ss_broyden", "ss_broyden1"])
@pytest.mark.parametrize("seed", range(20))
def test_one_parameter_is_trained_too(update, seed):
    generator = torch.Generator().manual_seed(seed)
    parameter = nn.Parameter(torch.randn(1, generator=generator, dtype=torch.float64))
    wanted = float(torch.randn(1, generator=generator))

    def loss():
        return ((parameter - wanted) ** 2 + (parameter - wanted) ** 4).sum()

    objective = objective_of(loss, [parameter])
    optimizer = QuasiNewton([parameter], objective, DenseInverse(1, update))
    for _ in range(30):
        optimizer.step()
    assert float(parameter.detach()) == pytest.approx(wanted, abs=1e-6)


def test_an_update_that_does_not_exist_is_named():
    with pytest.raises(ConfigurationError, match="update"):
        DenseInverse(3, "typo")  # type: ignore[arg-type]


@pytest.mark.parametrize("limited", [False, True])
def test_an_objective_may_use_the_memory_of_its_gradient_again(limited):
    """Else every change of the gradient would be zero, and nothing would ever be learnt."""
    curvature = torch.logspace(0, 2, 6, dtype=torch.float64)
    parameter = nn.Parameter(torch.ones(6, dtype=torch.float64))
    memory = torch.empty(6, dtype=torch.float64)

    def objective():
        torch.mul(curvature, parameter.detach(), out=memory)
        return float(0.5 * memory @ parameter.detach()), memory

    inverse = LimitedInverse() if limited else DenseInverse(6)
    optimizer = QuasiNewton([parameter], objective, inverse)
    for _ in range(40):
        loss = optimizer.step()
    assert not inverse.fresh and loss < 1e-15
