"""The same test samples on other grids: coarser, finer, of an odd size.

From the nodes of the file where they contain such a grid; else solved anew by the generator that
made the file, which gives sample i of its seed at any resolution.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError, ResiduaError
from ..datasets.dataset import Slot
from ..datasets.families import FAMILIES, family
from ..datasets.generation import Request, one_sample
from ..errors import batches
from ..samples import Part, thinned

__all__ = ["OtherGrid", "other_grids", "request_of"]

Array = NDArray[Any]
NEAR = 1.2
"""A grid of the file whose nodes are so many times more or fewer is taken for the one wanted."""
PATIENCE = 60.0
"""Seconds of solving anew for one grid; what is done by then is used."""
LEAST = 3


@dataclass(frozen=True)
class OtherGrid:
    """Some test samples on another grid.

    Attributes:
        label: half, double or odd.
        size: nodes along the first coordinate.
        inputs: as the operator takes them; None where there is no such grid.
        truths: of the same samples.
        source: where they come from, or why there are none.
    """

    label: str
    size: int
    inputs: Array | None
    truths: Array | None
    source: str


def request_of(part: Part) -> Request | None:
    """What the generator was asked for, where the file is one of ours."""
    text = part.data.attributes.get("request")
    try:
        found = dict(json.loads(text)) if isinstance(text, str) else None
    except (ValueError, TypeError):
        return None
    if found is None or found.pop("layout", None) is None:
        return None
    try:
        return Request(**found)
    except TypeError:
        return None


def other_grids(whole: Part, part: Part, count: int) -> list[OtherGrid]:
    """Half the nodes, twice as many, and an odd number between.

    Args:
        whole: the test on all nodes of the file.
        part: the test as the operator was trained.
        count: samples of each, the first ones.
    """
    n = part.size[0]
    wanted = {"half": n // 2, "double": 2 * n, "odd": int(1.37 * n) // 2 * 2 + 1}
    request = request_of(part)
    why = "no grid of the file is near, and no generator is known"
    if request is not None and not _repeats(request, part):
        request, why = None, "this version's generator does not repeat the file"
    found = []
    for label, size in wanted.items():
        grid = _from_file(whole, label, size, n, count)
        if grid is None and request is not None:
            grid = _made(request, part, label, size, count)
        found.append(grid or OtherGrid(label, size, None, None, why))
    return found


def _from_file(whole: Part, label: str, size: int, trained: int, count: int) -> OtherGrid | None:
    """A grid near the one wanted, that the nodes of the file contain."""
    least, most = math.ceil(size / NEAR), math.floor(size * NEAR)
    for near in sorted(range(least, most + 1), key=lambda m: abs(m - size)):
        if near == trained or (label == "odd" and near % 2 == 0):
            continue
        try:
            data = thinned(whole.data, near)
        except ConfigurationError:
            continue
        inputs, truths = _arrays(whole.of(data.select(slice(count))))
        return OtherGrid(label, near, inputs, truths, "nodes of the file")
    return None


def _arrays(part: Part) -> tuple[Array, Array]:
    pairs = list(batches(part))
    return np.concatenate([a for a, _ in pairs]), np.concatenate([u for _, u in pairs])


def _made(request: Request, part: Part, label: str, size: int, count: int) -> OtherGrid:
    reason = ""
    for settings in _attempts(request, size):
        asked = Request(request.family, size, request.seed, settings, request.dtype)
        try:
            asked.description()
            rows, began, samples = part.data.rows[:count], time.monotonic(), []
            maker = family(asked.family, asked.settings)
            for row in rows.tolist():
                samples.append(one_sample(asked, row, maker).fields)
                if time.monotonic() - began > PATIENCE and len(samples) >= LEAST:
                    break
        except ResiduaError as error:
            reason = str(error)
            continue
        inputs, truths = _assembled(part, samples)
        return OtherGrid(label, size, inputs, truths, "solved anew")
    return OtherGrid(label, size, None, None, f"the generator does not make it: {reason}")


def _attempts(request: Request, size: int) -> list[Mapping[str, Any]]:
    """Settings to try: those of the file, on a finer grid with the waves the file has."""
    settings = dict(request.settings)
    kind = FAMILIES.get(request.family)
    known = {f.name for f in fields(kind)} if kind is not None else set()
    if "waves" in known and "waves" not in settings and size > request.resolution:
        settings["waves"] = min(256, (request.resolution - 1) // 2)
    return [settings, {k: v for k, v in settings.items() if k not in ("grid", "waves")}]


def _assembled(part: Part, samples: Sequence[Mapping[str, Array]]) -> tuple[Array, Array]:
    """Fields by name as the operator takes them and as the truth is stored."""

    def channels(slots: Sequence[Slot], sample: Mapping[str, Array]) -> Array:
        found = []
        for slot in slots:
            values = sample[slot.name]
            found.append(values if slot.source.times is None else values[slot.instant or 0])
        return np.stack(found)

    data = part.data
    if not part.steps:
        inputs = [channels(data.input_slots, sample) for sample in samples]
        return np.stack(inputs), np.stack([channels(data.output_slots, s) for s in samples])
    names = [slot.name for slot in data.state_slots]
    states = np.stack([np.stack([sample[name] for name in names], 1) for sample in samples])
    first = [states[:, k] for k in range(part.history)]
    if part.static:
        first.insert(0, np.stack([channels(part.static, sample) for sample in samples]))
    return np.concatenate(first, 1), states[:, part.history :]


def _repeats(request: Request, part: Part) -> bool:
    """Whether the generator still gives the file's first sample of the test."""
    if not len(part):
        return False
    try:
        sample = one_sample(request, int(part.data.rows[0])).fields
    except ResiduaError:
        return False
    full = part.data.input_slots[0].source.space
    stride = part.data.stride
    thin = {
        name: values[(..., *[slice(None, None, stride)] * len(full))]
        for name, values in sample.items()
    }
    made = _assembled(part, [thin])
    kept = _arrays(part.of(part.data.select([0])))
    return all(
        one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6)
        for one, other in zip(made, kept, strict=True)
    )
