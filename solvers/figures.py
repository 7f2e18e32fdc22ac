"""figure.png: reference, prediction and absolute error side by side, and how the loss fell.

Reference and prediction share one colour range; every colour map is perceptually uniform. One
space coordinate and time, or two space coordinates, are drawn as images; two space coordinates and
time as three moments; one coordinate alone as curves. Of further coordinates the middle is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from ..atomic import replacing

if TYPE_CHECKING:
    from ..problems.problem import Problem
    from .accuracy import Comparison

__all__ = ["Cost", "draw"]

VALUES, ERRORS = "viridis", "magma"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MOST_FIELDS = 4
MOMENTS = (0.0, 0.5, 1.0)
CEILING = 1e100
FLOOR = 1e-17  # errors below are drawn there on a logarithmic axis
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "mathtext.fontset": "dejavusans",
    "image.interpolation": "nearest",
}


@dataclass(frozen=True)
class Cost:
    """What errors cost.

    Attributes:
        method: the classical solver.
        curve: seconds and relative L2 error of it, from cheap to dear.
        seconds: of this run, where they are known.
        error: relative L2 error of this run.
        absolute: the solution is zero, and errors are root mean squares.
    """

    method: str
    curve: Sequence[tuple[float, float]]
    seconds: float | None
    error: float
    absolute: bool = False


@dataclass(frozen=True)
class _Row:
    """One row of images: a field, or one moment of it, on two axes."""

    label: str
    field: str
    horizontal: str
    vertical: str
    extent: tuple[float, float, float, float]  # left, right, bottom, top
    values: np.ndarray  # (vertical, horizontal)
    reference: np.ndarray | None


@dataclass(frozen=True)
class _Panel:
    """One image."""

    title: str
    values: np.ndarray
    colours: str
    low: float
    high: float
    is_error: bool = False


def draw(
    path: str | Path,
    problem: Problem,
    axes: Mapping[str, np.ndarray],
    fields: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    comparison: Comparison | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    cost: Cost | None = None,
) -> Path:
    """Draw a solution into a PNG file, atomically.

    Args:
        path: file to write.
        problem: gives names and title.
        axes: grid of each coordinate, in declared order.
        fields: values by field, one axis for each coordinate.
        reference: the same of the reference; empty without one.
        comparison: errors written on the panels.
        history: records with `loss` and, by term, `losses`; `step` counts them where given.
        cost: what the classical solver needs for which error; None to leave it out.

    Returns:
        The path.
    """
    cost = cost if cost is not None and cost.curve else None
    shown = {name: _sane(fields[name]) for name in list(fields)[:MOST_FIELDS]}
    with mpl.rc_context(STYLE):
        if len(axes) == 1:
            figure = _curves(axes, shown, reference, comparison, history, cost)
        else:
            rows = _rows(problem, axes, shown, reference)
            equal = problem.time is None or len(axes) > 2
            figure = _images(rows, comparison, history, cost, equal=equal)
        figure.suptitle(problem.title or problem.name, fontsize=11, fontweight="bold")
        FigureCanvasAgg(figure)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
    return Path(path)


def _rows(
    problem: Problem,
    axes: Mapping[str, np.ndarray],
    fields: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
) -> list[_Row]:
    names = list(axes)
    space = [name for name in names if name != problem.time]
    if len(space) == 1:  # time runs to the right, as in the literature
        horizontal, vertical = str(problem.time), space[0]
    else:
        horizontal, vertical = space[:2]
    extent = (*_ends(axes[horizontal]), *_ends(axes[vertical]))
    rows = []
    for name, values in fields.items():
        moments: tuple[float | None, ...] = (None,)
        if problem.time is not None and horizontal != problem.time:
            moments = MOMENTS
        for moment in moments:
            cut: list[Any] = []
            label = f"${_math(name)}$"
            for coordinate in names:
                count = len(axes[coordinate])
                if coordinate in (horizontal, vertical):
                    cut.append(slice(None))
                    continue
                share = moment if coordinate == problem.time and moment is not None else 0.5
                cut.append(round(share * (count - 1)))
                label += f", ${_math(coordinate)} = {axes[coordinate][cut[-1]]:.3g}$"
            plane = values[tuple(cut)]
            true = reference[name][tuple(cut)] if name in reference else None
            if names.index(horizontal) < names.index(vertical):
                plane, true = plane.T, None if true is None else true.T
            rows.append(_Row(label, name, horizontal, vertical, extent, plane, true))
    return rows


def _sane(values: np.ndarray) -> np.ndarray:
    """Blank where a diverged field has left the range in which an axis can be laid out."""
    return np.where(np.abs(values) < CEILING, values, np.nan)


def _ends(axis: np.ndarray) -> tuple[float, float]:
    return float(axis[0]), float(axis[-1])


def _images(
    rows: Sequence[_Row],
    comparison: Comparison | None,
    history: Sequence[Mapping[str, Any]],
    cost: Cost | None,
    *,
    equal: bool,
) -> Figure:
    """A row of panels for each of `rows`; loss and cost to the right of one row, below several."""
    compared = rows[0].reference is not None
    panels, lines = (3 if compared else 1), len(rows)
    ratio = _ratio(rows[0].extent) if equal else 1.1
    aspect: Literal["equal", "auto"] = "equal" if equal and 1 / 3 <= ratio <= 3 else "auto"
    height = 2.6 if lines == 1 else 2.2
    width = float(np.clip(height * ratio, 1.5, 4.0)) + 0.9
    if lines == 1:
        curves = 1 if cost is None else 2
        size = (width * panels + 3.4 * curves + 0.2, height + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        ratios = [width] * panels + [3.4] * curves
        cells = figure.add_gridspec(1, panels + curves, width_ratios=ratios)
        loss, *more = (figure.add_subplot(cells[0, panels + k]) for k in range(curves))
    else:
        size = (max(width * panels, 6.5) + 0.6, (height + 0.25) * lines + 2.9)
        figure = Figure(figsize=size, layout="constrained")
        cells = figure.add_gridspec(lines + 1, panels, height_ratios=[height] * lines + [1.9])
        below = cells[lines, :].subgridspec(1, 1 if cost is None else 2)
        loss, *more = (figure.add_subplot(below[0, k]) for k in range(below.ncols))
    for line, row in enumerate(rows):
        new = line == 0 or rows[line - 1].field != row.field
        for column, panel in enumerate(_panels(row)):
            axes = figure.add_subplot(cells[line, column])
            image = axes.imshow(
                np.ma.masked_invalid(panel.values),
                origin="lower",
                extent=row.extent,
                aspect=aspect,
                cmap=panel.colours,
                vmin=panel.low,
                vmax=panel.high,
            )
            axes.spines[:].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(3 if width < 2.8 else 5))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if line == 0:
                axes.set_title(panel.title)
            if panel.is_error and comparison is not None and new:
                axes.set_title(f"{panel.title}, {_note(comparison, row.field)}", fontsize=9)
            if line == lines - 1:
                axes.set_xlabel(f"${_math(row.horizontal)}$")
            if column == 0:
                label = "" if lines == 1 else f"{row.label}\n"
                axes.set_ylabel(f"{label}${_math(row.vertical)}$")
            # Reference and prediction have one range, so one colour bar serves both.
            if column > 0 or panels == 1:
                numbers = ScalarFormatter(useMathText=True)
                numbers.set_powerlimits((-3, 3))
                bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, format=numbers)
                bar.ax.spines[:].set_visible(False)
    _loss(loss, history)
    for panel in more:
        _cost(panel, cost)
    return figure


def _panels(row: _Row) -> list[_Panel]:
    if row.reference is None:
        return [_Panel("prediction", row.values, VALUES, *_range(row.values))]
    low, high = _range(row.reference)
    error = np.abs(row.values - row.reference)
    most = float(np.nanmax(np.where(np.isfinite(error), error, np.nan), initial=0.0))
    return [
        _Panel("reference", row.reference, VALUES, low, high),
        _Panel("prediction", row.values, VALUES, low, high),
        _Panel("absolute error", error, ERRORS, 0.0, most or FLOOR, is_error=True),
    ]


def _curves(
    axes: Mapping[str, np.ndarray],
    fields: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    comparison: Comparison | None,
    history: Sequence[Mapping[str, Any]],
    cost: Cost | None = None,
) -> Figure:
    """Fields of one coordinate: the curves, their errors, the loss, the cost."""
    ((coordinate, points),) = axes.items()
    panels = 2 + bool(reference) + (cost is not None)
    figure = Figure(figsize=(4.0 * panels, 3.4), layout="constrained")
    drawn = list(np.atleast_1d(figure.subplots(1, panels)))
    for (name, values), colour in zip(fields.items(), COLOURS, strict=False):
        drawn[0].plot(points, values, color=colour, label=f"${_math(name)}$")
        if name not in reference:
            continue
        drawn[0].plot(points, reference[name], color="black", linewidth=0.9, linestyle=(0, (4, 3)))
        error = np.maximum(np.abs(values - reference[name]), FLOOR)
        label = f"${_math(name)}$"
        if comparison is not None:
            label += f": {_measured(comparison, name)}"
        drawn[1].semilogy(points, error, color=colour, linewidth=1.0, label=label)
    drawn[0].set_title("prediction" + (" and reference (dashed)" if reference else ""))
    if len(fields) > 1:
        drawn[0].legend()
    if reference:
        _cut_below(drawn[1])
        kinds = {name in comparison.absolute for name in fields} if comparison else {False}
        what = "root mean square" if kinds == {True} else "relative $L^2$"
        drawn[1].set_title(f"absolute error, with {what}")
        drawn[1].legend(loc="best")
    if cost is not None:
        _cost(drawn.pop(), cost)
    for panel in drawn[:-1]:
        panel.set_xlabel(f"${_math(coordinate)}$")
        panel.margins(x=0)
    _loss(drawn[-1], history)
    return figure


def _cost(axes: Axes, cost: Cost | None) -> None:
    """Error against seconds: the classical solver's curve, and a star for this run."""
    assert cost is not None
    axes.set_title("error against time")
    seconds, errors = (np.maximum(column, FLOOR) for column in np.array(cost.curve, float).T)
    axes.plot(seconds, errors, "o-", color=COLOURS[0], markersize=3, label="classical solver")
    if cost.seconds is not None and cost.seconds > 0 and 0 <= cost.error < CEILING:
        error = max(cost.error, FLOOR)
        axes.plot([cost.seconds], [error], "*", color=COLOURS[1], markersize=11, label="this run")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("root mean square error" if cost.absolute else "relative $L^2$ error")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_minor_locator(NullLocator())
    axes.margins(0.1)
    axes.legend(loc="best")


def _cut_below(axes: Axes) -> None:
    """End a logarithmic axis below the bulk of its curves: zeros would take most of it."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    values = values[np.isfinite(values)]
    if values.size:
        axes.set_ylim(bottom=max(FLOOR, float(np.quantile(values, 0.02)) / 10))


def _loss(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Total loss and its terms, as far as the records hold them."""
    axes.set_title("loss")
    records = [record for record in history if _number(record.get("loss")) is not None]
    if not records:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no history", transform=axes.transAxes, ha="center", color="0.5")
        return
    counted = [_number(record.get("step")) for record in records]
    steps = [float(i) if step is None else step for i, step in enumerate(counted)]
    terms = list(dict.fromkeys(name for record in records for name in _terms(record)))
    for name, colour in zip(terms, COLOURS, strict=False):
        values = [_terms(record).get(name, np.nan) for record in records]
        axes.plot(steps, _positive(values), color=colour, linewidth=0.9, label=name)
    total = [_number(record.get("loss")) for record in records]
    axes.plot(steps, _positive(total), color="0.15", linewidth=1.5, label="total")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0)
    axes.legend(loc="best")


def _terms(record: Mapping[str, Any]) -> dict[str, float]:
    """Losses by term, from `losses: {...}` or from keys such as "loss/interior"."""
    nested = record.get("losses")
    found = dict(nested) if isinstance(nested, Mapping) else {}
    found |= {key[5:]: value for key, value in record.items() if key.startswith("loss/")}
    numbers = {name: _number(value) for name, value in found.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _positive(values: Iterable[float | None]) -> np.ndarray:
    array = np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.where((array > 0) & (array < CEILING), array, np.nan)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Colour range; the reference's for both, so that a wild prediction cannot hide it."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ratio(extent: tuple[float, float, float, float]) -> float:
    return abs((extent[1] - extent[0]) / (extent[3] - extent[2]))


def _note(comparison: Comparison, field: str) -> str:
    """The measured error, and how well the reference can know it."""
    bar = comparison.error_bar.get(field, 0.0)
    truth = f"reference \u00b1 {_scientific(bar)}" if bar > 0 else "reference exact"
    if comparison.reference_limited.get(field):
        truth = f"limited by {truth}"
    # The reference is zero, so there is nothing to be relative to.
    what = "root mean square" if field in comparison.absolute else "relative $L^2$"
    return f"{what} {_measured(comparison, field)}\n({truth})"


def _measured(comparison: Comparison, field: str) -> str:
    return _scientific(comparison.relative_l2.get(field, np.nan))


def _scientific(value: float) -> str:
    """1.2e-05 as a person writes it."""
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return rf"${digits}\times10^{{{int(exponent)}}}$"


def _math(name: str) -> str:
    """A name as mathematics: single letters in italics, words upright."""
    head, _, tail = name.replace("_", " ").partition(" ")
    head = head if len(head) == 1 else rf"\mathrm{{{head}}}"
    return head + (rf"_{{\mathrm{{{tail.replace(' ', ',')}}}}}" if tail else "")
