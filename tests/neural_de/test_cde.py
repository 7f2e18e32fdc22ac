"""Controlled equations against closed forms, orders of the log-ODE, and models that read series."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from residua.errors import ConfigurationError, DataError
from residua.operators.neural_de import (
    PID,
    RK4,
    Constant,
    Dopri5,
    Euler,
    Heun,
    Midpoint,
    Tsit5,
    integrate,
)
from residua.operators.neural_de.controlled.equation import controlled, solve_controlled
from residua.operators.neural_de.controlled.log_ode import bracketed, solve_log_ode
from residua.operators.neural_de.controlled.logsignature import area_matrix
from residua.operators.neural_de.controlled.paths import Hermite, Linear, Rectilinear
from residua.operators.neural_de.models.log_ncde import LogNCDE, NeuralRDE
from residua.operators.neural_de.models.neural_cde import MatrixField, NeuralCDE
from residua.operators.neural_de.trajectories.series import Series, thinned
from residua.operators.neural_de.trajectories.systems import generate

DOUBLE = torch.float64
Field = Callable[[Tensor, Tensor], Tensor]


def linear_field(matrices: Tensor) -> Field:
    """Column i is M_i z, for matrices (channels, h, h)."""
    return lambda t, z: torch.einsum("chk,bk->bhc", matrices, z)


def commuting(channels: int) -> Tensor:
    """Polynomials of one matrix."""
    base = 0.4 * torch.randn(3, 3, dtype=DOUBLE)
    weights = torch.randn(channels, 3, dtype=DOUBLE)
    powers = torch.stack((torch.eye(3, dtype=DOUBLE), base, base @ base))
    return 0.5 * torch.einsum("cp,phk->chk", weights, powers)


def observations(batch: int = 4, n: int = 21, channels: int = 2, missing: float = 0.3):
    """Times of each sample's own, smooth values with gaps."""
    generator = torch.Generator().manual_seed(3)
    gaps = 0.2 + torch.rand(batch, n, generator=generator, dtype=DOUBLE)
    times = gaps.cumsum(1) / n
    phase = torch.rand(batch, 1, channels, generator=generator, dtype=DOUBLE)
    values = (4 * times[..., None] + 6 * phase).sin()
    gone = torch.rand(values.shape, generator=generator) < missing
    gone[:, 0] = False
    return times, values.masked_fill(gone, math.nan)


@pytest.mark.parametrize("kind", [Linear, Hermite, Rectilinear])
def test_commuting_matrices_have_the_exponential_of_the_increment(kind):
    times, values = observations()
    path = kind(times, values, torch.tensor([21, 21, 13, 1]))
    matrices, start = commuting(path.channels), torch.randn(4, 3, dtype=DOUBLE)
    found = solve_controlled(
        linear_field(matrices), path, start, stepper=RK4(), substeps=4, every=True
    )
    moved = path.knot_values - path.knot_values[:, :1]
    flow = torch.linalg.matrix_exp(torch.einsum("bnc,chk->bnhk", moved, matrices))
    exact = (flow @ start[:, None, :, None])[..., 0]
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[3], start[3].expand_as(found[3]))
    reversed_matrices = matrices.flip(0)
    wrong = solve_controlled(linear_field(reversed_matrices), path, start, stepper=RK4())
    assert (wrong - exact[:, -1])[:3].abs().max() > 0.1


def smooth_field(t: Tensor, z: Tensor) -> Tensor:
    """Vector fields that do not commute, three of two components."""
    x, y = z.unbind(1)
    one = torch.stack((y.sin(), 1 + 0.5 * x.cos()), 1)
    two = torch.stack((0.3 + x * y / (1 + x * x), -x.sin()), 1)
    three = torch.stack((y.cos(), (x - y).sin()), 1)
    return torch.stack((one, two, three), 2)


START = torch.tensor([[0.3, -0.2]], dtype=DOUBLE).expand(4, 2)


@pytest.mark.parametrize(("stepper", "order"), [(Midpoint(), 2), (Heun(), 2), (RK4(), 4)])
@pytest.mark.parametrize("kind", [Linear, Hermite])
def test_steps_between_knots_keep_their_order(stepper, order, kind):
    times, values = observations(n=7, missing=0.0)
    path = kind(times, values)
    exact = solve_controlled(smooth_field, path, START, stepper=RK4(), substeps=64)
    errors = []
    for substeps in (2, 4, 8):
        found = solve_controlled(smooth_field, path, START, stepper=stepper, substeps=substeps)
        errors.append(float((found - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert abs(orders[-1] - order) < 0.3, (errors, orders)


@pytest.mark.parametrize("kind", [Linear, Hermite])
def test_integrate_and_steps_by_knots_agree(kind):
    times, values = observations(n=9)
    path = kind(times, values, torch.tensor([9, 6, 9, 4]))
    exact = solve_controlled(smooth_field, path, START, stepper=RK4(), substeps=32)
    # In time, every sample from its own first to its own last knot; it rests before and after.
    span = torch.stack((times.min(), path.knots.max()))
    adaptive = PID(rtol=1e-7, atol=1e-7)
    in_time = integrate(controlled(smooth_field, path), START, span, controller=adaptive)
    torch.testing.assert_close(in_time.states[:, -1], exact, rtol=1e-4, atol=1e-4)
    # By the number of the knot, all samples pass theirs at once, so that steps can end there.
    numbered = path.by_knots()
    knots = tuple(float(k) for k in range(9))
    by_knots = integrate(
        controlled(smooth_field, numbered), START, knots, stepper=Tsit5(),
        controller=Constant(0.125, jump_times=knots[1:-1]),
    )  # fmt: skip
    torch.testing.assert_close(by_knots.states[:, -1], exact, rtol=1e-6, atol=1e-6)


def test_fields_may_depend_on_time():
    times, values = observations()
    path = Linear(times, values, torch.tensor([21, 15, 21, 8]))
    found = solve_controlled(
        lambda t, z: t.cos()[:, None, None].expand(-1, 1, 3) * z.new_tensor([0.0, 1.0, -2.0]),
        path, torch.zeros(4, 1, dtype=DOUBLE), stepper=RK4(), substeps=4,
    )  # fmt: skip
    gaps = path.knots.diff(dim=1)
    slope = path.knot_values.diff(dim=1) / torch.where(gaps > 0, gaps, 1.0)[..., None]
    exact = (slope[..., 1] - 2 * slope[..., 2]) * path.knots.sin().diff(dim=1)
    torch.testing.assert_close(found[:, 0], exact.sum(1), rtol=1e-9, atol=1e-9)


def test_speed_does_not_matter():
    times, values = observations(n=9, missing=0.0)
    curve = torch.cat((times[..., None], values), 2)
    slow = Linear(times, curve, time=False)
    warped = Linear(times**3 + times, curve, time=False)
    first = solve_controlled(smooth_field, slow, START, every=True)
    assert torch.equal(first, solve_controlled(smooth_field, warped, START, every=True))
    adaptive = PID(rtol=1e-7, atol=1e-7)
    ends = []
    for path in (slow, warped):
        span = torch.stack((path.knots.min(), path.knots.max()))
        term = controlled(smooth_field, path)
        ends.append(integrate(term, START, span, controller=adaptive).states[:, -1])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)
    # With time as a channel it does matter.
    timed = solve_controlled(smooth_field, Linear(times**3 + times, values), START)
    assert (timed - first[:, -1]).abs().max() > 1e-2


def test_gradients_of_steps_and_start():
    times, values = observations(batch=2, n=5)
    path = Hermite(times, values)
    matrices, start = commuting(3).requires_grad_(), torch.randn(2, 3, dtype=DOUBLE)

    def steps(m: Tensor, z: Tensor) -> Tensor:
        return solve_controlled(linear_field(m), path, z, substeps=2)

    def windows(m: Tensor, z: Tensor) -> Tensor:
        return solve_log_ode(linear_field(m), path, z, window=2, brackets=True)

    for solve in (steps, windows):
        assert torch.autograd.gradcheck(solve, (matrices, start.clone().requires_grad_()))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("stepper", [Midpoint(), Heun(), RK4(), Dopri5()])
@pytest.mark.parametrize("every", [False, True])
def test_steps_of_a_network_by_hand_and_by_autograd(depth, stepper, every):
    times, values = observations(n=6)
    values = values.nan_to_num(0.1).requires_grad_()
    field, start = MatrixField(4, 3, 5, depth).double(), torch.randn(4, 4, dtype=DOUBLE)
    start.requires_grad_()
    inputs = [values, start, *field.parameters()]
    found = []
    for f in (field, lambda t, z: field(t, z)):
        end = solve_controlled(
            f, Hermite(times, values), start, stepper=stepper, substeps=2, every=every
        )
        weight = torch.linspace(-1, 2, end.numel(), dtype=DOUBLE).view_as(end)
        found.append([end, *torch.autograd.grad((weight * end.sin()).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
    # The gradients depend on how the path was passed: another stepper has others.
    wrong = solve_controlled(field, Hermite(times, values), start, stepper=Euler(), every=every)
    assert (wrong - found[0][0]).abs().max() > 1e-5


# The log-ODE.


def brownian(batch: int, fine: int) -> Linear:
    generator = torch.Generator().manual_seed(7)
    steps = torch.randn(batch, fine, 2, generator=generator, dtype=DOUBLE) / math.sqrt(fine)
    walk = torch.cat((torch.zeros(batch, 1, 2, dtype=DOUBLE), steps.cumsum(1)), 1)
    return Linear(torch.linspace(0, 1, fine + 1, dtype=DOUBLE), walk)


def _order(solve: Callable[[int], Tensor], exact: Tensor, lengths: tuple[int, ...]) -> float:
    errors = [float((solve(n) - exact).square().sum(1).mean().sqrt()) for n in lengths]
    return math.log(errors[-1] / errors[0]) / math.log(lengths[-1] / lengths[0])


def test_areas_raise_the_order_on_a_rough_path():
    path = brownian(48, 1024)
    start = START[:1].expand(48, 2)
    exact = solve_controlled(smooth_field, path, start, stepper=Midpoint())
    lengths = (8, 32, 128)

    def log_ode(length: int, depth: int = 2) -> Tensor:
        return solve_log_ode(
            smooth_field, path, start, window=length, depth=depth, brackets=True, stepper=RK4()
        )

    def flipped(t: Tensor, z: Tensor, logs: Tensor) -> Tensor:
        return bracketed(smooth_field, 3)(t, z, torch.cat((logs[:, :3], -logs[:, 3:]), 1))

    def wrong(length: int) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "residua.operators.neural_de.controlled.log_ode.bracketed",
                lambda field, channels: flipped,
            )
            return log_ode(length)

    shallow = _order(lambda n: log_ode(n, 1), exact, lengths)
    deep, twin = _order(log_ode, exact, lengths), _order(wrong, exact, lengths)
    # On Brownian motion: increments alone give order 1/2, the area makes it 1.
    assert abs(shallow - 0.5) < 0.15, shallow
    assert abs(deep - 1.0) < 0.2, deep
    assert twin < 0.65, twin


def test_brackets_of_linear_fields_are_commutators():
    matrices = torch.randn(3, 4, 4, dtype=DOUBLE)
    z, increment = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    areas = torch.randn(5, 3, dtype=DOUBLE)
    logs = torch.cat((increment, area_matrix(areas, 3).flatten(1)), 1)
    found = bracketed(linear_field(matrices), 3)(z[:, 0], z, logs)
    generator = torch.einsum("bc,chk->bhk", increment, matrices)
    for number, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        # [f_i, f_j] = Df_j f_i - Df_i f_j.
        commutator = matrices[j] @ matrices[i] - matrices[i] @ matrices[j]
        generator = generator + areas[:, number, None, None] * commutator
    torch.testing.assert_close(found, (generator @ z[..., None])[..., 0])


def test_log_ode_of_two_lines_is_campbell_hausdorff():
    # exp(B) exp(A) = exp(A + B + [B, A] / 2 + third order): errors fall with the third power.
    matrices = torch.randn(2, 3, 3, dtype=DOUBLE)
    start = torch.randn(1, 3, dtype=DOUBLE)
    errors: dict[int, list[float]] = {1: [], 2: []}
    for scale in (0.1, 0.05):
        corners = scale * torch.tensor([[[0, 0], [1, 0], [1, 1]]], dtype=DOUBLE)
        path = Linear(torch.arange(3.0, dtype=DOUBLE), corners, time=False)
        flow = torch.linalg.matrix_exp(scale * matrices)
        exact = start @ flow[0].T @ flow[1].T
        for depth, found in errors.items():
            end = solve_log_ode(
                linear_field(matrices), path, start, window=2, depth=depth,
                brackets=True, stepper=RK4(), substeps=8,
            )  # fmt: skip
            found.append(float((end - exact).norm()))
    powers = {depth: math.log2(a / b) for depth, (a, b) in errors.items()}
    assert abs(powers[1] - 2) < 0.2 and abs(powers[2] - 3) < 0.3, powers


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_brackets_of_a_network_by_hand_and_by_forward_differentiation(depth):
    field = MatrixField(4, 3, 6, depth).double()
    z, t = torch.randn(5, 4, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE)
    areas = area_matrix(torch.randn(5, 3, dtype=DOUBLE), 3)
    logs = torch.cat((torch.randn(5, 3, dtype=DOUBLE), areas.flatten(1)), 1)
    by_hand = bracketed(field, 3)(t, z, logs)
    forward = bracketed(lambda t, z: field(t, z), 3)(t, z, logs)
    torch.testing.assert_close(by_hand, forward)
    for one, other in zip(
        torch.autograd.grad(by_hand.square().sum(), list(field.parameters()), retain_graph=True),
        torch.autograd.grad(forward.square().sum(), list(field.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_windows_of_one_observation_are_the_plain_equation():
    times, values = observations()
    path = Linear(times, values, torch.tensor([21, 15, 21, 8]))
    plain = solve_controlled(smooth_field, path, START, stepper=Heun(), every=True)
    found = solve_log_ode(smooth_field, path, START, window=1, brackets=True, every=True)
    torch.testing.assert_close(found, plain)
    one_window = solve_log_ode(smooth_field, path, START, window=50, brackets=True, every=True)
    assert one_window.shape == (4, 2, 2)


def test_what_does_not_fit_is_said():
    times, values = observations()
    path = Linear(times, values)
    with pytest.raises(ConfigurationError, match="does not fit its path.*4, 2, 3"):
        solve_controlled(lambda t, z: smooth_field(t, z)[..., :2], path, START)
    with pytest.raises(ConfigurationError, match="start"):
        solve_controlled(smooth_field, path, START[:2])
    with pytest.raises(ConfigurationError, match="one step"):
        solve_controlled(smooth_field, path, START, substeps=0)
    with pytest.raises(ConfigurationError, match="one interval"):
        solve_log_ode(smooth_field, path, START, window=0)
    with pytest.raises(ConfigurationError, match="did you mean 'hermite'"):
        NeuralCDE(2, 2, path="hermit")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="two classes"):
        NeuralCDE(2, 1)


# Models.


def spirals(samples: int, seed: int, missing: float = 0.5) -> Series:
    """Four turns, times of each sample's own, values missing channel by channel."""
    whole = generate(
        "chirality", samples, seed=seed, points=300, irregular=True,
        parameters={"turns": 4.0, "decay": 3.77},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(samples, 300, generator=generator).argsort(1)[:, :100].sort(1).values
    values = whole.values.gather(1, kept[..., None].expand(-1, -1, 2)).float()
    lengths = torch.full((samples,), 100)
    series = Series(whole.times.gather(1, kept), values, lengths, whole.labels)
    return thinned(series, missing, generator)


def trained(model, data: Series, steps: int):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model.standardise(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = data.batches(32, generator)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(next(batches), generator).backward()
        optimizer.step()
    return model


MODELS = {
    "cde": lambda **more: NeuralCDE(2, **more),
    "rde": lambda **more: NeuralRDE(2, **more),
    "log": lambda **more: LogNCDE(2, **more),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_the_turn_of_spirals_is_told_from_half_of_their_values(name):
    data, test = spirals(256, seed=1), spirals(200, seed=2)
    model = trained(MODELS[name](classes=2), data, steps=12)
    assert model.evaluate(test)["accuracy"] >= 0.98
    # A mirror swaps the classes: it is the turn, and nothing else, that was learnt.
    mirrored = Series(
        test.times, test.values * torch.tensor([1.0, -1.0]), test.lengths, test.labels
    )
    assert model.evaluate(mirrored)["accuracy"] <= 0.02


def test_depth_one_over_the_whole_cannot_tell_the_turn():
    # The increment from first to last value has no area in it; one window has nothing else.
    data, test = spirals(256, seed=1), spirals(400, seed=2)
    blind = trained(NeuralRDE(2, 2, window=100, signature=1), data, steps=40)
    seeing = trained(NeuralRDE(2, 2, window=100, signature=2), data, steps=40)
    assert blind.evaluate(test)["accuracy"] < 0.75
    assert seeing.evaluate(test)["accuracy"] >= 0.98


@pytest.mark.parametrize("name", list(MODELS))
def test_a_number_of_a_series_is_learnt(name):
    data = spirals(256, seed=1, missing=0.2)
    angle = torch.atan2(data.values[:, 0, 1], data.values[:, 0, 0])
    area = 5 + angle.cos()
    labelled = Series(data.times, data.values, data.lengths, area)
    model = trained(MODELS[name](), labelled, steps=60)
    constant = float((area - area.mean()).norm() / area.norm())
    assert model.evaluate(labelled)["relative_l2"] < 0.5 * constant
    assert model.predict(labelled).shape == (256,)


@pytest.mark.parametrize("name", list(MODELS))
def test_what_lies_after_the_length_does_not_matter(name):
    data = spirals(8, seed=1)
    model = MODELS[name](classes=2, counts=True).standardise(data)
    short = Series(data.times[:, :57], data.values[:, :57], torch.full((8,), 57), data.labels)
    values = data.values.clone()
    values[:, 57:] = 1e6
    padded = Series(data.times, values, torch.full((8,), 57), data.labels)
    torch.testing.assert_close(model(padded), model(short))
    assert (model(padded) - model(data)).abs().max() > 1e-4


def test_rectilinear_models_read_series_as_they_arrive():
    data = spirals(8, seed=1)
    model = NeuralCDE(2, 2, path="rectilinear", counts=True).standardise(data)
    changed = data.values.clone()
    changed[:, 60:] = 3.0
    states = []
    for values in (data.values, changed):
        path = model.control(Series(data.times, values, data.lengths, data.labels))
        start = model.first(path.knot_values[:, 0])
        states.append(solve_controlled(model.field, path, start, every=True))
    assert torch.equal(states[0][:, : 2 * 59 + 1], states[1][:, : 2 * 59 + 1])
    assert not torch.equal(states[0][:, -1], states[1][:, -1])


def test_labels_are_needed():
    data = spirals(4, seed=1)
    bare = Series(data.times, data.values, data.lengths)
    with pytest.raises(DataError, match="labels"):
        NeuralCDE(2, 2).loss(bare, torch.Generator())
