"""figure.png: one kind of picture for each kind of problem, whatever the numbers are."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from residua.solvers import figures
from residua.solvers.accuracy import Comparison

HISTORY = [{"step": i, "loss": 2.0**-i, "losses": {"interior": 2.0**-i}} for i in range(9)]


def drawn(folder: Path, names: tuple[str, ...], fields: dict[str, np.ndarray], **more: Any) -> Path:
    axes = {name: np.linspace(0, 1 + i, 9) for i, name in enumerate(names)}
    time = "t" if "t" in names else None
    problem: Any = SimpleNamespace(title="", name="some_case", time=time)
    reference = more.pop("reference", {})
    comparison = None
    if reference:
        comparison = Comparison(
            dict.fromkeys(fields, 1e-6), {}, {name: 1e-6 * i for i, name in enumerate(fields)}, 1
        )
    return figures.draw(
        folder / "figure.png",
        problem,
        axes,
        fields,
        reference,
        comparison,
        more.get("history", HISTORY),
        more.get("cost"),
    )


@pytest.mark.parametrize(
    ("names", "with_reference"),
    [
        (("t",), True),
        (("t",), False),
        (("x", "t"), True),
        (("x", "t"), False),
        (("x", "y"), True),
        (("x", "y", "t"), False),
        (("x", "y", "z", "t"), True),
    ],
)
def test_every_kind_of_problem_gives_a_picture(
    tmp_path: Path, names: tuple[str, ...], with_reference: bool, rng: np.random.Generator
) -> None:
    known = ("u", "v_1") if len(names) < 3 else ("u",)
    fields = {name: rng.random((9,) * len(names)) for name in known}
    before = dict(mpl.rcParams)
    path = drawn(tmp_path, names, fields, reference=fields if with_reference else {})
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert 600 < width < 4000 and 300 < height < 6000
    assert list(tmp_path.iterdir()) == [path]
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("names", "value"),
    [(("t",), np.nan), (("t",), 1e300), (("x", "t"), np.nan), (("x", "t"), 1e300), (("x", "t"), 0)],
)
def test_a_failed_run_still_gives_a_picture(
    tmp_path: Path, names: tuple[str, ...], value: float
) -> None:
    shape = (9,) * len(names)
    history = [
        {"step": 0, "loss": 1.0},
        {"step": 1, "loss": value},
        {"step": 2, "loss": None},
        {"event": "rolled back"},
    ]
    fields, truth = {"u": np.full(shape, value)}, {"u": np.zeros(shape)}
    assert drawn(tmp_path, names, fields, reference=truth, history=history).exists()
    assert drawn(tmp_path, names, fields, history=[]).exists()


def test_reference_and_prediction_share_the_range_of_the_reference() -> None:
    truth = np.linspace(-1, 1, 12).reshape(3, 4)
    wild = truth * 100
    row = figures._Row("u", "u", "t", "x", (0, 1, 0, 1), wild, truth)
    reference, prediction, error = figures._panels(row)
    assert (reference.low, reference.high) == (prediction.low, prediction.high) == (-1, 1)
    assert (error.low, error.high) == (0.0, pytest.approx(99.0))


def test_images_have_the_vertical_coordinate_along_their_rows() -> None:
    """With time to the right and x upwards, whichever was declared first."""
    x, t = np.linspace(0, 1, 3), np.linspace(0, 1, 5)
    problem: Any = SimpleNamespace(time="t")
    first = figures._rows(problem, {"x": x, "t": t}, {"u": x[:, None] + 10 * t}, {})
    second = figures._rows(problem, {"t": t, "x": x}, {"u": x + 10 * t[:, None]}, {})
    for (row,) in (first, second):
        assert (row.horizontal, row.vertical) == ("t", "x")
        assert np.array_equal(row.values, x[:, None] + 10 * t)


@pytest.mark.parametrize("names", [("t",), ("x", "t"), ("x", "y", "t")])
def test_the_cost_of_an_error_is_drawn_with_one_star_for_the_run(names: tuple[str, ...]) -> None:
    axes = {name: np.linspace(0, 1, 5) for name in names}
    fields = {"u": np.ones((5,) * len(names))}
    rows = [(0.01, 1e-2), (0.1, 1e-5), (1.0, 0.0)]

    def panels(cost: figures.Cost | None) -> dict[str, Any]:
        problem: Any = SimpleNamespace(time="t")
        if len(names) == 1:
            figure = figures._curves(axes, fields, fields, None, HISTORY, cost)
        else:
            drawn = figures._rows(problem, axes, fields, fields)
            figure = figures._images(drawn, None, HISTORY, cost, equal=False)
        return {panel.get_title(): panel for panel in figure.axes}

    panel = panels(figures.Cost("ETDRK4", rows, 60.0, 1e-4))["error against time"]
    curve, star = panel.lines
    assert np.array_equal(curve.get_xdata(), [0.01, 0.1, 1.0])
    assert np.array_equal(curve.get_ydata(), [1e-2, 1e-5, figures.FLOOR])
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([60.0], [1e-4])
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert len(panels(figures.Cost("ETDRK4", rows, None, 1e-4))["error against time"].lines) == 1
    assert "error against time" not in panels(None)


def test_exact_values_do_not_take_the_axis_of_the_errors() -> None:
    """Hard conditions are met exactly; the rest is what a person wants to see."""
    x = np.linspace(0, 1, 401)
    error = 1e-5 * np.sin(np.pi * x) * (x > 0) * (x < 1)
    figure = figures._curves({"x": x}, {"u": error}, {"u": 0 * x}, None, HISTORY)
    low, high = figure.axes[1].get_ylim()
    assert 1e-8 < low < 1e-6 and high > 1e-5
    # The wrong twin: left to itself the axis reaches down to the zeros.
    figure.axes[1].set_ylim(auto=True)
    figure.axes[1].autoscale()
    assert figure.axes[1].get_ylim()[0] < 1e-15
