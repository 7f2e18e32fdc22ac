"""evaluation.png: a typical sample, errors by sample or by step, and spectra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from ...atomic import replacing

if TYPE_CHECKING:
    from .evaluate import Evaluation

__all__ = ["draw"]

BLUE, RED, GREY = "#0072B2", "#D55E00", "#777777"
FLOOR = 1e-20


def draw(path: Path, evaluation: Evaluation) -> None:
    """Draw the sample of the median error above, statistics below.

    Raises:
        ResourceError: the file cannot be written.
    """
    figure = Figure(figsize=(11, 6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, 4)
    _sample(figure, axes[0], evaluation)
    numbers = evaluation.numbers
    _errors(axes[1, 0], numbers)
    _spectra(axes[1, 1], numbers["spectrum"])
    _grids(axes[1, 2], numbers)
    _cost(axes[1, 3], numbers)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _sample(figure: Figure, axes: Any, evaluation: Evaluation) -> None:
    found, true = _finite(evaluation.found[-1, 0]), evaluation.true[-1, 0]
    panels = [
        ("input", evaluation.inputs[0]), ("truth", true), ("prediction", found),
        ("error", found - true),
    ]  # fmt: skip
    for axis, (title, values) in zip(axes, panels, strict=True):
        _panel(figure, axis, title, _plane(values), true)


def _finite(values: Any) -> NDArray[Any]:
    """What cannot be drawn as gaps: a rollout may leave what numbers can hold."""
    values = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _logarithmic(axis: Axes, *scales: str) -> None:
    """Logarithmic scales, where anything positive was drawn."""
    lines = [np.array(line.get_ydata(), dtype=np.float64) for line in axis.get_lines()]
    if any((values > 0).any() for values in lines if len(values)):
        axis.set(**dict.fromkeys(scales, "log"))


def _plane(values: NDArray[Any]) -> NDArray[Any]:
    """One or two coordinates; of a third, the middle."""
    return values if values.ndim <= 2 else values[..., values.shape[-1] // 2]


def _panel(
    figure: Figure, axis: Axes, title: str, values: NDArray[Any], true: NDArray[Any]
) -> None:
    axis.set_title(title, fontsize=9)
    if values.ndim == 1:
        axis.plot(np.linspace(0, 1, len(values)), values, color=RED if title == "error" else BLUE)
        return
    limits: dict[str, Any] = {}
    if title in ("truth", "prediction"):
        limits = {"vmin": float(true.min()), "vmax": float(true.max())}
    colours = "RdBu_r" if title == "error" else "viridis"
    if title == "error":
        largest = float(np.nan_to_num(np.abs(values)).max()) or 1.0
        limits = {"vmin": -largest, "vmax": largest}
    image = axis.imshow(values.T, origin="lower", cmap=colours, **limits)
    axis.set_xticks([])
    axis.set_yticks([])
    figure.colorbar(image, ax=axis, shrink=0.8)


def _errors(axis: Axes, numbers: Any) -> None:
    rollout = numbers["rollout"]
    if rollout:
        steps = [row["step"] for row in rollout]
        low, high, mean, kept = (
            _finite([row[name] for row in rollout])
            for name in ("q05", "q95", "mean", "first_instant_kept")
        )
        axis.fill_between(steps, low, high, color=BLUE, alpha=0.2)
        axis.plot(steps, mean, color=BLUE, label="operator")
        axis.plot(steps, kept, color=GREY, label="no change")
        axis.set(xlabel="step", title="relative L2 in a rollout")
        _logarithmic(axis, "yscale")
        axis.legend(fontsize=7)
        return
    names = ("q05", "q25", "median", "q75", "q95", "max")
    errors = _finite([numbers["relative_l2"][name] for name in names])
    axis.plot(range(len(names)), errors, "o-", color=BLUE)
    axis.set_xticks(range(len(names)), names, fontsize=7, rotation=30)
    axis.set(title="relative L2 by sample")
    _logarithmic(axis, "yscale")


def _spectra(axis: Axes, spectra: Any) -> None:
    for name, colour in (("reference", GREY), ("error", RED)):
        values = np.maximum(_finite(spectra[name]), FLOOR)
        axis.plot(np.arange(len(values)) + 1, values, color=colour, label=name)
    axis.set(xlabel="1 + wave number", title="mean square")
    _logarithmic(axis, "xscale", "yscale")
    axis.legend(fontsize=7)


def _grids(axis: Axes, numbers: Any) -> None:
    here = numbers["resolution"][0], numbers["relative_l2"]["mean"]
    rows = [(g["nodes"], g["mean"]) for g in numbers["resolutions"] if g["mean"] is not None]
    nodes, errors = zip(*sorted([here, *rows]), strict=True)
    axis.plot(nodes, _finite(errors), "o-", color=BLUE)
    _logarithmic(axis, "xscale", "yscale")
    axis.axvline(numbers["trained_at"][0], color=GREY, linewidth=0.8)
    axis.set(xlabel="nodes", title="other grids")
    axis.set_xticks(nodes, [str(n) for n in nodes], fontsize=7)
    axis.xaxis.set_minor_locator(NullLocator())


def _cost(axis: Axes, numbers: Any) -> None:
    solves = numbers["classical"]["solves"]
    if solves:
        axis.plot(
            [s["seconds"] for s in solves], [max(s["error"], FLOOR) for s in solves], "s-",
            color=GREY, label="classical",
        )  # fmt: skip
    times = numbers["cost"]["inference_seconds_per_sample"]
    mean = max(numbers["relative_l2"]["mean"], FLOOR)
    axis.plot(list(times.values()), _finite([mean] * len(times)), "o", color=BLUE, label="operator")
    axis.set(xlabel="seconds a sample", title="error and time")
    _logarithmic(axis, "xscale", "yscale")
    axis.legend(fontsize=7)
