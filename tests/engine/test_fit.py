"""The loop on a trainer whose every move is known: what is good, where it goes back to."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from residua.engine import fit as loop
from residua.engine.fit import Progress, Record, Status, fit, restore
from residua.errors import DataError, DivergedError
from residua.progress import QuietReporter


class Walk:
    """Walks in strides of `pace`; falls off an edge, which shows at the step after.

    Like Adam: a step looks at where it stands, then moves.
    """

    def __init__(self, edge: float = 1e9, goal: float = 1e9) -> None:
        self.place, self.pace = 0.0, 1.0
        self.edge, self.goal = edge, goal
        self.visited: list[float] = []

    def step(self, seconds_left: float) -> Progress:
        if self.place >= self.edge:
            raise DivergedError("over the edge")
        self.visited.append(self.place)
        loss = 1.0 / (1.0 + self.place)
        self.place += self.pace
        terms = {"sound": loss, "broken": float("nan")}
        return Progress(loss, terms, done=self.place >= self.goal)

    def soften(self) -> None:
        self.pace *= 0.5

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "pace": self.pace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.pace = state["place"], state["pace"]


class Loud(QuietReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def train(trainer, folder, record=None, **settings):
    reporter = Loud()
    record = record or Record()
    folder.mkdir(exist_ok=True)
    return fit(trainer, record, reporter=reporter, folder=folder, **settings), record, reporter.said


def entries(folder):
    def strict(text):
        raise AssertionError(f"{text} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=strict) for line in lines]


def test_a_state_is_good_only_once_a_step_from_it_succeeded(tmp_path):
    """The edge is where the snapshot of step 50 is due: going back to it would not help."""
    walk = Walk(edge=50.0)
    status, record, said = train(walk, tmp_path, steps=70)
    assert said == ["step 51: over the edge; back to step 0"]
    # Half the pace from the start, so 70 steps end short of the edge.
    assert (status, record.step, walk.place) == (Status.STEPS, 70, 35.0)


def test_a_snapshot_taken_blindly_would_not_help(tmp_path):
    """The wrong twin: a good state that lies over the edge already."""
    record = Record(good=loop.Good(50, {"place": 50.0, "pace": 1.0}))
    with pytest.raises(DivergedError):
        train(Walk(edge=50.0), tmp_path, record, steps=70)


def test_each_return_to_a_state_is_softer_and_the_fourth_failure_is_the_last(tmp_path):
    walk = Walk(edge=20.0)
    with pytest.raises(DivergedError, match="at step 111: over the edge; 3 rollbacks") as caught:
        train(walk, tmp_path, steps=10_000, log_every=1000)
    assert "last good state, of step 100" in str(caught.value)
    # 20 strides of 1 and 40 of 1/2, both from the start; 80 of 1/4, good after 50 of them; from
    # there 60 of 1/8, good again at step 100.
    visits = [a for a in walk.visited if a == 0.0]
    assert len(visits) == 3 and len(walk.visited) == 20 + 40 + 80 + 60
    again = Walk(edge=20.0)
    record = restore(again, tmp_path)
    assert (record.step, again.place, walk.place) == (100, 18.75, 18.75)
    assert [entry["step"] for entry in entries(tmp_path)] == [1]


@pytest.mark.parametrize("cut", [0, 1, 49, 50, 51, 58, 59, 65, 70, 99])
def test_a_run_stopped_before_it_diverges_goes_back_as_the_whole_one_does(tmp_path, cut):
    whole = Walk(edge=57.3)
    train(whole, tmp_path / "whole", steps=100, log_every=10)
    first = Walk(edge=57.3)
    train(first, tmp_path / "cut", steps=cut, log_every=10)
    second = Walk(edge=57.3)
    record = restore(second, tmp_path / "cut")
    _, record, _ = train(second, tmp_path / "cut", record, steps=100, log_every=10)
    assert second.state_dict() == whole.state_dict() and record.rollbacks == 3
    assert whole.state_dict() != first.state_dict()
    # The last step of the first part may be logged as its end.
    logs = [{e["step"] for e in entries(tmp_path / name)} - {cut} for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_the_good_state_must_travel_with_the_checkpoint(tmp_path):
    """The wrong twin: without it the resumed run goes back to where it was stopped."""
    whole = Walk(edge=57.3)
    train(whole, tmp_path / "whole", steps=100)
    train(Walk(edge=57.3), tmp_path / "cut", steps=55)
    second = Walk(edge=57.3)
    record = restore(second, tmp_path / "cut")
    record.good = None
    with pytest.raises(DivergedError):
        train(second, tmp_path / "cut", record, steps=100)
    assert second.state_dict() != whole.state_dict()


def test_finished_is_finished(tmp_path):
    walk = Walk(goal=7.0)
    status, record, _ = train(walk, tmp_path, log_every=1000)
    assert (status, record.step) == (Status.FINISHED, 7)
    again = Walk(goal=7.0)
    record = restore(again, tmp_path)
    assert train(again, tmp_path, record)[0] is Status.FINISHED
    assert (record.step, again.place, again.visited) == (7, 7.0, [])
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 7]
    assert entries(tmp_path)[-1]["losses"] == {"sound": pytest.approx(1 / 7)}


def test_a_budget_that_is_spent_is_spent_for_the_resumed_run_too(tmp_path):
    train(Walk(), tmp_path, steps=3)
    walk = Walk()
    record = restore(walk, tmp_path)
    record.seconds = 100.0
    assert train(walk, tmp_path, record, budget=99.0)[0] is Status.BUDGET
    assert walk.visited == []


def test_half_a_line_in_the_log_is_dropped(tmp_path):
    train(Walk(), tmp_path, steps=20, log_every=10)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "lo\xff')
    walk = Walk()
    record = restore(walk, tmp_path)
    train(walk, tmp_path, record, steps=30, log_every=10)
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 10, 20, 30]
    assert [entry["step"] for entry in record.history] == [1, 10, 20, 30]


def test_a_checkpoint_of_another_trainer_is_a_data_error(tmp_path):
    train(Walk(), tmp_path, steps=3)

    class Other(Walk):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            torch.nn.Linear(1, 1).load_state_dict(state)

    with pytest.raises(DataError, match="does not fit"):
        restore(Other(), tmp_path)
