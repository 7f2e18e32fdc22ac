"""When a step is recorded, copied into, replayed and compared; the recorder needs no GPU."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from residua.config import make_case
from residua.engine import replay
from residua.engine.networks.mlp import Mlp
from residua.engine.optimizers.first_order import Adam
from residua.engine.optimizers.quasi_newton import DenseInverse, QuasiNewton
from residua.engine.points import PointSet
from residua.engine.residuals import ResidualEngine, interior_term
from residua.problems.problem import Problem
from residua.solvers.gaussians import PhysicsInformedGaussians
from residua.solvers.pinn import Pinn

SMALL = {
    "network": {"width": 6, "depth": 2, "harmonics": 2},
    "points": {"interior": 40, "boundary": 8, "initial": 12},
}

CASES = [
    ("burgers", {"hard": False}),
    ("burgers", {"hard": True}),
    ("allen_cahn", {"hard": True}),  # with a reflection
    ("poisson_2d", {"hard": True, "network": {"kind": "modified_mlp", "factorised": True}}),
    ("wave", {"hard": True}),
]


class Rerun:
    """Runs the function again; its outputs lie where they lay the last time, as a graph's do.

    Args:
        spoil: factor on every gradient after the first `sound` replays.
        sound: replays that are right.
    """

    def __init__(self, spoil: float = 1.0, sound: int = 0) -> None:
        self.spoil, self.sound = spoil, sound
        self.recordings = self.replays = 0

    def record(self, function):
        self.recordings += 1
        found = tuple(part.clone() for part in function())

        def again():
            self.replays += 1
            for place, part in zip(found, function(), strict=True):
                place.copy_(part)
            if self.replays > self.sound:
                found[1].mul_(self.spoil)
            return found

        return again


class Frozen(Rerun):
    """What a graph would do that has read memory nobody writes new parameters or points to."""

    def record(self, function):
        self.recordings += 1
        found = tuple(part.clone() for part in function())
        return lambda: found


class Refuses:
    def __init__(self) -> None:
        self.asked = 0

    def record(self, function):
        self.asked += 1
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")


def trainer(name="burgers", **solver):
    case = make_case(name, {"name": "pinn", **SMALL, **solver}, {"budget": 10})
    return Pinn(case, torch.device("cpu"))


def engines(recorder, member=None):
    """(engine that replays, engine that does not, batch) on one field."""
    member = member or trainer(hard=False)
    made = [
        ResidualEngine(member.problem, member.current.field, member.terms, recorder=r)
        for r in (recorder, None)
    ]
    return *made, dict(member.batch)


def move(engine: ResidualEngine, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in engine.parameters:
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )


def alike(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> bool:
    return found[0] == expected[0] and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name, settings", CASES)
def test_replays_follow_the_parameters(name, settings):
    recorder = Rerun()
    network = {**SMALL["network"], **settings.get("network", {})}
    replayed, plain, batch = engines(recorder, trainer(name, **{**settings, "network": network}))
    for seed in range(5):
        move(plain, seed)
        assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
    assert recorder.recordings == 1 and recorder.replays == 4
    assert replayed.replayed is not None and replayed.replayed.status == "replayed"


def on_meta(points: PointSet) -> PointSet:
    """Without numbers, but with the constants that ordinary evaluation has computed."""
    (((where, cache),),) = points._blocks.values()
    moved = PointSet(*(tensor.to("meta") for tensor in points.tensors()))
    moved._blocks = {2**30: [(where, {key: value.to("meta") for key, value in cache.items()})]}
    return moved


class NothingIsCopied(TorchDispatchMode):
    """Arrays of numbers that come from the processor are an error: no graph records their copy."""

    def __enter__(self):
        self.made = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
        for name in self.made:
            setattr(torch, name, lambda value, name=name, **how: self.make(name, value, how))
        return super().__enter__()

    def __exit__(self, *what):
        for name, function in self.made.items():
            setattr(torch, name, function)
        return super().__exit__(*what)

    def make(self, name, value, how):
        device = torch.device(how.get("device") or "cpu")
        if not isinstance(value, Tensor) and device.type != "cpu":
            raise RuntimeError(f"{value} would be copied")
        return self.made[name](value, **how)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if any(t.device.type == "cpu" and t.ndim for t in tensors):
            raise RuntimeError(f"{func} would copy")
        return func(*args, **(kwargs or {}))


WHERE = {
    "coordinates": {"x": [0, 1], "t": [0, 1]},
    "fields": ["u"],
    "equations": ["u_t = where(x < 0.5, 1, 0) * u_xx"],
    "conditions": [{"periodic": "x"}, {"where": "t = 0", "u": 0}],
    "reference": "none",
}


def test_a_choice_by_place_is_recorded():
    problem = Problem.from_mapping(WHERE, name="where")
    field = trainer(hard=False).current.field
    terms = [interior_term(problem)]
    points = PointSet(torch.rand(9, 2).double(), torch.full((9,), 1 / 9).double())
    ResidualEngine(problem, field, terms).loss_and_gradient({"interior": points})
    engine = ResidualEngine(problem, field.to("meta"), terms, recorder=Rerun())
    batch = {"interior": on_meta(points)}
    with NothingIsCopied():
        assert engine._sums_apart(batch)[0].is_meta
    with pytest.raises(RuntimeError, match="copied"), NothingIsCopied():
        torch.as_tensor(1.0, device="meta")


@pytest.mark.parametrize("name, settings", CASES)
def test_what_is_recorded_never_looks_at_a_number(name, settings):
    """Nor mixes devices: on tensors that have shapes only, both are errors."""
    network = {**SMALL["network"], **settings.get("network", {})}
    member = trainer(name, **{**settings, "network": network})
    member.engine.loss_and_gradient(member.batch)
    field = member.current.field.to("meta")
    engine = ResidualEngine(member.problem, field, member.terms, recorder=Rerun())
    batch = {key: on_meta(points) for key, points in member.batch.items()}
    with NothingIsCopied():
        value, gradient = engine._sums_apart(batch)
    assert value.is_meta and gradient.is_meta and gradient.shape == (engine.parameter_count,)
    with pytest.raises((NotImplementedError, RuntimeError)):
        engine.loss_and_gradient(batch)  # which does look


def test_a_first_evaluation_is_not_recorded():
    recorder = Rerun()
    replayed, plain, batch = engines(recorder)
    for seed in range(4):
        points = batch["interior"].points.roll(seed, 0)
        new = {**batch, "interior": PointSet(points, batch["interior"].weights)}
        assert alike(replayed.loss_and_gradient(new), plain.loss_and_gradient(new))
    assert recorder.recordings == 0


def changed(batch, how):
    """The same shapes with other numbers: new tensors, or the old ones changed in place."""
    interior = batch["interior"]
    if how == "points":
        other = PointSet(0.9 * interior.points, interior.weights, interior.targets)
        return {**batch, "interior": other}
    if how == "weights":
        interior.weights = 2 * interior.weights
    if how == "weights in place":
        interior.weights *= 3
    return batch


@pytest.mark.parametrize("how", ["points", "weights", "weights in place"])
def test_new_points_and_weights_are_copied_into_the_recording(how):
    recorder = Rerun()
    replayed, plain, batch = engines(recorder)
    for round_ in range(3):
        for seed in range(4):
            move(plain, 10 * round_ + seed)
            assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
        batch = changed(batch, how)
    assert recorder.recordings == 1
    # The second evaluation on new points is compared with a replay; so is the first with other
    # weights, but in the first round, and after that they are copied.
    assert recorder.replays == (3 * 3 if how == "points" else 3 + 4 + 4)


def test_weights_that_change_with_every_step_are_replayed():
    recorder = Rerun()
    replayed, plain, batch = engines(recorder)
    ordinary, evaluate = [], replayed.replayed.evaluate
    replayed.replayed.evaluate = lambda batch: ordinary.append(1) or evaluate(batch)
    for seed in range(10):
        move(plain, seed)
        batch = changed(batch, "weights" if seed % 2 else "weights in place")
        assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
    assert recorder.recordings == 1 and len(ordinary) == 3


@pytest.mark.parametrize("how", ["points", "weights", "weights in place"])
def test_a_recording_that_does_not_see_new_numbers_is_found_out(how, caplog):
    replayed, plain, batch = engines(Frozen())
    for _ in range(2):
        replayed.loss_and_gradient(batch)
    batch = changed(batch, how)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
            if seed:
                move(plain, seed)
    assert "other numbers" in caplog.text


def test_a_recording_that_is_wrong_at_once_is_never_used(caplog):
    recorder = Rerun(spoil=1.000001)
    replayed, plain, batch = engines(recorder)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            move(plain, seed)
            assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
    assert caplog.text.count("other numbers") == 1 and recorder.replays == 1
    assert replayed.replayed.status.startswith("no: ")


def test_a_recording_that_goes_wrong_later_is_found_out(monkeypatch):
    monkeypatch.setattr(replay, "CHECK_EVERY", 3)
    replayed, plain, batch = engines(Rerun(spoil=1.01, sound=2))
    wrong = []
    for seed in range(12):
        move(plain, seed)
        wrong.append(not alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch)))
    assert wrong == [seed == 3 for seed in range(12)]


def test_parameters_in_other_memory_are_recorded_anew():
    recorder = Rerun()
    replayed, plain, batch = engines(recorder)
    for seed in range(6):
        if seed == 3:
            for parameter in plain.parameters:
                parameter.data = parameter.data.clone()
        move(plain, seed)
        assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
    assert recorder.recordings == 2


def test_what_cannot_be_recorded_is_computed_as_ever(caplog):
    recorder = Refuses()
    replayed, plain, batch = engines(recorder)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            move(plain, seed)
            assert alike(replayed.loss_and_gradient(batch), plain.loss_and_gradient(batch))
    assert recorder.asked == 1
    assert "not permitted" in caplog.text and "and so on" not in caplog.text


def test_only_a_few_shapes_are_kept():
    recorder = Rerun()
    replayed, _, batch = engines(recorder)
    for count in range(10, 20):
        few = PointSet(batch["interior"].points[:count], batch["interior"].weights[:count])
        for _ in range(3):
            replayed.loss_and_gradient({"interior": few})
    assert recorder.recordings == 10 and len(replayed.replayed._recordings) == replay.KEPT


def test_numbers_that_are_not_finite_are_not_recorded():
    recorder = Rerun()
    replayed, _, batch = engines(recorder)
    with torch.no_grad():
        replayed.parameters[0].fill_(float("nan"))
    for _ in range(3):
        assert not replayed.loss_and_gradient(batch)[0] < float("inf")
    assert recorder.recordings == 0 and not replayed.replayed.given_up


@pytest.mark.parametrize("apart", [True, False])
def test_a_recorded_step_borrows_nothing_from_others(apart):
    """Arrays that were there before may be given to others, and the graph would write into them."""
    replayed, plain, batch = engines(Rerun())
    if not apart:
        replayed.replayed.recorded = replayed._sums
    workspace = next(m for m in plain.field.modules() if isinstance(m, Mlp))._workspace
    borrowed, borrow = [], workspace.borrow
    workspace.borrow = lambda *what: borrowed.append(what) or borrow(*what)
    plain.loss_and_gradient(batch)
    ordinary = len(borrowed)
    for _ in range(2):  # the second is recorded and compared, beside an ordinary evaluation
        replayed.loss_and_gradient(batch)
    assert ordinary > 0 and (len(borrowed) == 3 * ordinary) == apart
    assert (workspace._free == {}) == apart  # nor are two sets kept


def test_a_check_of_numbers_that_are_not_finite_is_put_off(monkeypatch):
    """A line search may go too far at just that evaluation."""
    monkeypatch.setattr(replay, "CHECK_EVERY", 3)
    replayed, plain, batch = engines(Rerun(spoil=1.01, sound=3))
    kept = plain.parameters[0].detach().clone()
    found = []
    for seed in range(7):
        move(plain, seed)
        if seed == 4:
            with torch.no_grad():
                plain.parameters[0].fill_(float("inf"))
        found.append(replayed.loss_and_gradient(batch))
        assert not replayed.replayed.given_up or seed > 4
        with torch.no_grad():
            plain.parameters[0].copy_(kept)
    assert not found[4][0] < float("inf") and found[5][0] < float("inf")
    assert "other numbers" in replayed.replayed.given_up  # the check is put off, not left out


@pytest.mark.parametrize("make", ["adam", "quasi-newton"])
def test_optimisers_take_the_same_steps(make):
    """Among them those that keep gradients while they ask for others."""
    ends = []
    for recorder in (Rerun(), None):
        member = trainer(hard=False)
        engine = ResidualEngine(
            member.problem, member.current.field, member.terms, recorder=recorder
        )

        def objective(engine=engine, member=member):
            return engine.loss_and_gradient(member.batch)

        if make == "adam":
            optimizer = Adam(engine.parameters, objective)
        else:
            inverse = DenseInverse(engine.parameter_count)
            optimizer = QuasiNewton(engine.parameters, objective, inverse)
        for _ in range(20):
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in engine.parameters]))
        assert recorder is None or recorder.replays > 15
    assert torch.equal(*ends)


def test_what_decides_by_numbers_is_not_recorded():
    burgers = trainer()
    assert engines(Rerun(), burgers)[0].replayed is not None
    case = make_case("burgers", {"name": "gaussians"}, {"budget": 10})
    gaussians = PhysicsInformedGaussians(case, torch.device("cpu"))
    assert engines(Rerun(), gaussians)[0].replayed is None


def test_a_residual_written_in_python_is_not_recorded():
    def residual(v):
        return v.u_t + (v.u_xx if float(v.u.detach().sum()) > 0 else -v.u_xx)

    problem = Problem.from_mapping(
        {
            "coordinates": {"x": [0, 1], "t": [0, 1]},
            "fields": ["u"],
            "equations": [residual],
            "conditions": [{"periodic": "x"}, {"where": "t = 0", "u": 0}],
            "reference": "none",
        },
        name="python",
    )
    field = trainer(hard=False).current.field
    engine = ResidualEngine(problem, field, [interior_term(problem)], recorder=Rerun())
    assert engine.replayed is None


def test_nothing_is_recorded_on_a_processor_or_against_the_switch(monkeypatch):
    assert replay.recorder_for(torch.device("cpu")) is None
    assert replay.recorder_for(torch.device("cuda")) is not None
    monkeypatch.setenv(replay.SWITCH, "0")
    assert replay.recorder_for(torch.device("cuda")) is None
    assert trainer().engine.replayed is None
