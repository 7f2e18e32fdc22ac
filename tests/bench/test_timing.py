"""Turns and ratios, from made-up times."""

from __future__ import annotations

import itertools
import math

import pytest

from residua.bench import speed
from residua.bench.cases import rows
from residua.bench.speed import disagreements, ratios
from residua.bench.targets import TARGETS, judge
from residua.bench.timing import interleaved, ratio, round_robin, steps_for


def test_every_repetition_asks_everybody_once_and_nobody_is_always_first():
    order = round_robin(["a", "b", "c"], 6)
    assert [sorted(turn) for turn in order] == [["a", "b", "c"]] * 6
    assert [turn[0] for turn in order] == list("abcabc")


def test_contenders_are_timed_in_turns():
    asked = []

    def clock(name):
        return lambda: asked.append(name) or float(len(asked))

    times = interleaved({name: clock(name) for name in "ab"}, 3)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_drift_cancels_in_turns_and_not_one_after_the_other():
    ticks = itertools.count()

    def clock(speed):
        return lambda: speed * (1 + 0.1 * next(ticks))  # the machine gets slower and slower

    interleaved_ratio = ratio(*interleaved({"a": clock(1.0), "b": clock(2.0)}, 20).values())
    assert interleaved_ratio["median"] == pytest.approx(0.5, rel=0.1)
    ticks = itertools.count()
    apart = ratio([clock(1.0)() for _ in range(20)], [clock(2.0)() for _ in range(20)])
    assert apart["median"] < 0.3


def test_time_that_is_up_ends_the_repetitions_but_not_the_first_three():
    assert len(interleaved({"a": lambda: 1.0}, 9, limit=0.0)["a"]) == 3


def test_one_disturbed_repetition_does_not_move_the_ratio():
    found = ratio([1.0, 1.1, 9.0, 1.0, 1.2], [2.0, 2.2, 2.0, 2.1, 2.4])
    assert found["minimum"] == 0.5
    assert found["median"] == pytest.approx(0.5, rel=0.1)


def test_short_steps_are_timed_together():
    assert steps_for(10.0) == 1
    assert 0.05 <= steps_for(1e-3) * 1e-3 < 0.1


def entry(*times, memory=None):
    return {"times": list(times), "minimum": min(times), "median": times[0], "memory": memory}


def test_ratios_are_ours_over_theirs():
    found = {
        "residua": entry(1.0, 2.0, memory=10),
        "nested": entry(4.0, 5.0, memory=40),
        "floor": entry(0.5, 0.6, memory=1),
        "deepxde": {"failed": "no"},
        "jax jet": {"skipped": "not there"},
    }
    made = ratios(found, "step")
    assert set(made) == {"nested", "floor"}
    assert made["nested"]["minimum"] == 0.25 and made["nested"]["memory"] == 0.25
    assert "memory" not in made["floor"]
    found = {
        "residua jacobian": entry(1.0),
        "torch.func jacobian": entry(2.0),
        "residua iteration": entry(3.0),
        "residua reuse": entry(0.6),
        "torch.func iteration": entry(12.0),
    }
    made = ratios(found, "gauss-newton")
    assert made["torch.func jacobian"]["minimum"] == 0.5
    assert made["torch.func iteration"]["minimum"] == 0.25
    assert made["residua reuse"]["minimum"] == pytest.approx(0.05)


def row(equation="burgers", order=2, width=64, **minima):
    made = {name.replace("_", " "): {"minimum": value} for name, value in minima.items()}
    name = f"{equation} {width}"
    return {
        "kind": "step", "name": name, "equation": equation, "order": order, "width": width,
        "ratios": made,
    }  # fmt: skip


def verdicts(*rows):
    return {verdict.target.what: verdict for verdict in judge(rows, "cpu")}


def test_a_target_is_judged_by_its_worst_row():
    found = verdicts(row(width=20, deepxde=0.40), row(width=256, deepxde=0.60))
    verdict = found["time / DeepXDE, order 2"]
    assert (verdict.worst, verdict.best, verdict.met) == (0.60, 0.40, "must")
    assert verdict.where == "burgers 256"
    assert found["time / nested autograd, order 2"].met == "not measured"


@pytest.mark.parametrize(("ratio", "met"), [(0.24, "aim"), (0.26, "must"), (0.51, "no")])
def test_bounds_of_order_four(ratio, met):
    found = verdicts(row("biharmonic", order=4, nested=ratio))
    assert found["time / nested autograd, order 4"].met == met
    assert found["time / nested autograd, order 2"].met == "not measured"


def test_the_floor_is_a_fraction_that_has_to_be_large_at_two_widths():
    what = "fraction of the floor, widths 64, 128, order 2"
    assert verdicts(row(width=64, floor=1 / 0.85))[what].met == "aim"
    assert verdicts(row(width=128, floor=1 / 0.5), row(floor=1.1))[what].met == "no"
    assert verdicts(row(width=20, floor=9.0))[what].met == "not measured"


def test_jax_is_judged_by_its_fastest():
    found = verdicts(row(**{"jax nested": 0.2, "jax jet": 0.5, "jax forward": 0.3}))
    assert found["time / JAX jit, best of nested, forward, jet"].worst == 0.5


def test_must_is_never_stricter_than_aim():
    for target in TARGETS:
        assert target.keeps(target.aim, target.must)


def test_who_disagrees_is_named():
    import numpy as np

    gradient = np.arange(1.0, 5.0)
    vectors = {"residua": gradient, "nested": gradient * (1 + 1e-12), "deepxde": gradient * 1.01}
    found = {name: {"loss": 2.0} for name in vectors}
    wrong = disagreements(found, vectors, 1e-10, 1e-8)
    assert list(wrong) == ["deepxde"]
    assert "nested" in wrong["deepxde"] and "1.0e-02" in wrong["deepxde"]
    found["residua"]["loss"] = math.nan
    assert "residua" in disagreements(found, vectors, 1e-10, 1e-8)


@pytest.mark.parametrize("seconds", [2.0, 12.0])
def test_a_budget_is_shared_among_the_rows_that_are_left(seconds, monkeypatch):
    """Rows take what they are allowed and some seconds more; few are lost, and none runs on."""
    now, limits, deadlines = [1000.0], [], set()
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])

    def measured(row, workers, repetitions, *, jax, limit):
        assert 0 < limit <= speed.ROW_SECONDS["cuda"]
        limits.append((repetitions, jax, limit))
        deadlines.add(workers.deadline)
        now[0] += limit + seconds
        return {"error": None}

    monkeypatch.setattr(speed, "measure_row", measured)
    table = rows()
    found = speed.benchmark(table, device="cuda", threads=1, budget=420.0)
    assert found["seconds"] <= 420 + speed.ROW_SECONDS["cuda"] + seconds < 480
    assert deadlines == {1000.0 + 420.0 + speed.GRACE}
    begun = [row for row in found["rows"] if row["error"] is None]
    if seconds == 2:
        assert len(begun) == len(table) and limits[-1][2] > 0.5
    else:
        assert len(begun) < len(table) and "out of time" in found["rows"][-1]["error"]
        assert limits[-1][:2] == (speed.QUICK_REPETITIONS, False)
