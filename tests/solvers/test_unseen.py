"""Problems the library does not know, written only as text, against references built from it."""

import json
from pathlib import Path

import pytest

from residua.config import load_case
from residua.progress import QuietReporter
from residua.solvers.run import solve_case

CASES = Path(__file__).parents[2] / "data" / "cases"
SMALL = [
    "solver.network.width=12",
    "solver.network.depth=2",
    "solver.points.interior=500",
    "solver.windows=4",
    "solver.optimizer.steps=100",
    "run.budget=none",
    "run.accuracy=1e-3",
]
# Name, and one coefficient that is a tenth off.
KNOWN = [
    ("bbm", ("u_t + u_x + u*u_x", "u_t + 1.1*u_x + u*u_x")),
    ("bistable", ("a: 0.3", "a: 0.33")),
    ("brusselator", ("B: 3", "B: 3.3")),
]


@pytest.mark.parametrize(("name", "change"), KNOWN, ids=[k[0] for k in KNOWN])
def test_a_problem_never_seen_is_solved(name, change, tmp_path):
    path = CASES / f"{name}.yaml"
    case = load_case(path, SMALL)
    outcome = solve_case(case, out=tmp_path / "run", resume=False, reporter=QuietReporter())
    assert outcome.exit_code == 0
    assert max(outcome.errors.values()) < 1e-3
    assert 0 < max(case.problem.reference().error_bar.values()) < 1e-8
    # Nothing hides between the points of training: no spikes, in any window.
    report = json.loads((outcome.folder / "summary.json").read_text("utf-8"))
    assert len(report["residual"]) == 4
    for window in report["residual"]:
        assert window["fresh"] < 20 * window["training"]
    # The wrong twin: measured against another equation, a tenth off in one coefficient, it fails.
    text = path.read_text("utf-8")
    assert change[0] in text
    other = tmp_path / "other.yaml"
    other.write_text(text.replace(*change), "utf-8")
    reference = load_case(other).problem.reference()
    assert max(outcome.solution.compare(reference).relative_l2.values()) > 1e-3
