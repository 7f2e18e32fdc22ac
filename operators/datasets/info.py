"""What is in a file, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .dataset import Dataset, Slot

__all__ = ["describe", "scan", "separate"]

_HIDDEN = {
    "dataset_name", "equation", "error_bar", "grid_type", "law", "n_spatial_dims",
    "n_trajectories", "request", "residua_layout", "simulation_parameters",
}  # fmt: skip
_BLOCK = 32


def describe(data: Dataset) -> Iterator[str]:
    """Lines about a data set; nothing but headers is read."""
    name = data.attributes.get("dataset_name")
    which = f" '{name}'" if name else ""
    yield f"{data.path}: {data.layout}{which}, {data.samples} samples"
    for key in ("equation", "law"):
        if key in data.attributes:
            yield f"{key}: {data.attributes[key]}"
    for name, nodes in data.grid.items():
        step = np.diff(nodes)
        even = "spacing" if np.allclose(step, step[0], rtol=1e-4) else "uneven, first spacing"
        yield (
            f"grid {name}: {len(nodes)} nodes, {nodes[0]:.6g} to {nodes[-1]:.6g}, {even} "
            f"{step[0]:.6g}, {data.boundary[name]}"
        )
    if data.times is not None:
        yield f"times: {len(data.times)}, {data.times[0]:.6g} to {data.times[-1]:.6g}"
    yield f"inputs: {', '.join(data.input_channels)}, shape {data.inputs.shape}"
    yield f"outputs: {', '.join(data.output_channels)}, shape {data.outputs.shape}"
    if data.state_slots:
        names = ", ".join(slot.name for slot in data.state_slots)
        yield f"states: {names}, shape {data.states.shape}"
    for name, value in data.constants.items():
        yield f"parameter {name}: {value:.10g}"
    for name, values in data.scalars.items():
        if name != "error_bar" and len(values):
            yield f"parameter {name}: {values.min():.6g} to {values.max():.6g}"
    if "error_bar" in data.scalars and len(data.scalars["error_bar"]):
        bars = data.scalars["error_bar"]
        yield f"error bar: median {np.median(bars):.2e}, worst {bars.max():.2e}"
        yield f"error bar is: {data.attributes.get('error_bar', 'not said')}"
    for name, rows in data.splits.items():
        yield f"split {name}: {_ranges(rows)}"
    if not data.splits:
        yield "splits: none stored"
    for name, value in data.attributes.items():
        if name not in _HIDDEN and name not in data.constants:
            yield f"{name}: {str(value)[:200]}"
    for note in data.notes:
        yield f"note: {note}"


def scan(data: Dataset) -> Iterator[str]:
    """Read every number: a line for each channel, with its range.

    Raises:
        DataError: at the first number that is not finite.
    """
    slots = {id(s.source): s for s in (*data.input_slots, *data.output_slots, *data.state_slots)}
    for slot in slots.values():
        low, high, square, count = np.inf, -np.inf, 0.0, 0
        for values in _blocks(data, slot):
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            square += float((values.astype(float) ** 2).sum())
            count += values.size
        rms = np.sqrt(square / count)
        yield (
            f"values of {slot.name}: {low:.4g} to {high:.4g}, root mean square {rms:.4g}, "
            f"{slot.source.dtype}, all finite"
        )


def _blocks(data: Dataset, slot: Slot) -> Iterator[np.ndarray]:
    size = int(np.prod(slot.source.space)) * (slot.source.times or 1)
    block = max(1, min(_BLOCK, 8_000_000 // size))
    for start in range(0, data.samples, block):
        yield slot.source.read(np.arange(start, min(start + block, data.samples)))


def separate(data: Dataset) -> Iterator[str]:
    """A line on whether splits share inputs, where there are two.

    Raises:
        DataError: they do.
    """
    if len(data.splits) > 1:
        data.split(next(iter(data.splits)))
        yield "no input is in two splits"


def _ranges(rows: np.ndarray) -> str:
    if not len(rows):
        return "empty"
    if (np.diff(rows) == 1).all():
        return f"{rows[0]}:{rows[-1] + 1} ({len(rows)} samples)"
    return f"{len(rows)} samples, not in one range"
