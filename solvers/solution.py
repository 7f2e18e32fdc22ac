"""The answer of a solver: a function that can be evaluated, measured, saved and loaded.

A solution maps points to the values of the fields, and to any derivative by name:

    solution = residua.load("runs/burgers-1f0c2a9b")
    values, by_name = solution(points, derivatives=("u_x", "u_xx"))
    solution.error(solution.problem.reference())  # such as {"u": 3.1e-06}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from ..atomic import write_atomic
from ..errors import DataError, ResiduaError
from ..execution.folder import CONFIGURATION, configuration_in, write_configuration
from ..execution.summary import to_json
from ..execution.weights import read_header, read_weights
from . import storage, vtkhdf
from .accuracy import Comparison, compare, tensor_points
from .summary import summarise

if TYPE_CHECKING:
    from ..config import Case
    from ..engine.networks.field import Field
    from ..problems.problem import Problem
    from ..problems.references.reference import Reference

__all__ = ["Solution", "load"]

METRICS = "metrics.jsonl"
STORED = "solution.h5"
IMAGE = "solution.vtkhdf"
FIGURE = "figure.png"
SUMMARY = "summary.json"
ADVICE = "give the folder of a finished run"

# Points evaluated at once: bounds memory, and keeps a bundle of Taylor coefficients in cache.
CHUNK = 8192
# Points of the saved grid along each axis, by number of coordinates.
GRID = {1: 1025, 2: 257, 3: 65}
GRID_BEYOND = 17


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """A solved problem.

    Attributes:
        problem: what was solved.
        field: the trained map from points to fields.
        status: how training ended, as a sentence.
        seed: seed of the run.
        history: records of training in order, as in metrics.jsonl: `step`, `seconds`, `loss`, and
            `losses` by term.
        metadata: plain values for the summary: solver, seconds, peak_memory_mib, device, threads,
            config_digest; and `architecture`, which rebuilds the field.
        case: the configuration it came from; needed to load it again.
    """

    problem: Problem
    field: Field
    status: str
    seed: int = 0
    history: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    case: Case | None = None

    @overload
    def __call__(self, points: Any) -> np.ndarray: ...

    @overload
    def __call__(
        self, points: Any, derivatives: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]: ...

    def __call__(
        self, points: Any, derivatives: Sequence[str] | None = None
    ) -> np.ndarray | tuple[np.ndarray, dict[str, np.ndarray]]:
        """Evaluate at points.

        Args:
            points: NumPy or torch array of shape (n, coordinates), columns in declared order.
            derivatives: names such as "u_x" or "u_xt" (also "u_tx").

        Returns:
            Values of shape (n, fields); where derivatives are asked for, also each of them by the
            name it was asked for, of shape (n,).

        Raises:
            ValueError: points of another shape, or a name that is not a derivative of a field.
        """
        inputs = self._points(points)
        if isinstance(derivatives, str):
            derivatives = (derivatives,)
        places = {name: self._derivative(name) for name in derivatives or ()}
        wanted: dict[str, set[tuple[int, ...]]] = {}
        for name, index in places.values():
            wanted.setdefault(name, set()).add(index)
        blocks, derived = [], []
        for chunk in torch.split(inputs, CHUNK):
            with torch.no_grad():
                blocks.append(_as_array(self.field(chunk)))
            if wanted:
                derived.append(self._derivatives(chunk, wanted))
        values = np.concatenate(blocks)
        if derivatives is None:
            return values
        symbols = {name: str(self.problem.namespace.jet(*place)) for name, place in places.items()}
        return values, {
            name: np.concatenate([block[symbol] for block in derived])
            for name, symbol in symbols.items()
        }

    def compare(self, reference: Reference, n: int | None = None) -> Comparison:
        """Errors by field beside the reference's own error bar.

        Args:
            reference: what is taken as the truth.
            n: quadrature nodes along each axis (`accuracy` describes the rule).
        """
        return compare(self.problem, self, reference, reference.error_bar, n)

    def error(self, reference: Reference, n: int | None = None) -> dict[str, float]:
        """Relative L2 error of each field over the whole domain; see `compare`."""
        return self.compare(reference, n).relative_l2

    def grid(
        self, n: int | Sequence[int] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values on a uniform tensor grid that includes both ends of every coordinate.

        Args:
            n: points along each axis, one number for all or one for each.

        Returns:
            The axis of each coordinate, and the values of each field with one axis for each
            coordinate in declared order.
        """
        axes = self._axes(n)
        return axes, self._on_grid(self, axes)

    def save(
        self,
        folder: str | Path,
        *,
        reference: Reference | None = None,
        comparison: Comparison | None = None,
        n: int | Sequence[int] | None = None,
        figure: bool = True,
    ) -> Path:
        """Write solution.h5, solution.vtkhdf, figure.png and summary.json into a run folder.

        The configuration is written too where the folder has none and this solution knows its case.

        Args:
            folder: made where missing.
            reference: stored, drawn and compared with, where there is one.
            comparison: the comparison with it, where it was made already.
            n: points of the stored grid along each axis.
            figure: whether to draw.

        Returns:
            The folder.

        Raises:
            ResourceError: something cannot be written.
        """
        folder = Path(folder)
        if reference is not None and comparison is None:
            comparison = self.compare(reference)
        axes, fields = self.grid(n)
        true = {} if reference is None else self._on_grid(reference, axes)
        if self.case is not None and not (folder / CONFIGURATION).exists():
            write_configuration(self.case, folder)
        storage.write(folder / STORED, self._contents(axes, fields, true, comparison))
        if len(self.problem.namespace.space) <= vtkhdf.MOST_AXES:
            arrays = dict(fields)
            for name, values in true.items():
                arrays[f"{name}_reference"] = values
                arrays[f"{name}_error"] = fields[name] - values
            vtkhdf.write(folder / IMAGE, axes, arrays, time=self.problem.time)
        if figure:
            from .figures import Cost, draw

            cost = None
            # Wall times differ; a deterministic run draws the same picture to the last bit.
            timed = self.case is None or not self.case.run.deterministic
            if timed and reference is not None and comparison is not None:
                seconds = self.metadata.get("seconds")
                error = max(comparison.relative_l2.values())
                absolute = set(comparison.absolute) == set(self.problem.fields)
                cost = Cost(reference.classical, reference.costs(), seconds, error, absolute)
            draw(folder / FIGURE, self.problem, axes, fields, true, comparison, self.history, cost)
        summary = summarise(
            self.problem, self.status, self.seed, self.metadata, reference, comparison
        )
        write_atomic(folder / SUMMARY, to_json(summary))
        return folder

    def _points(self, points: Any) -> Tensor:
        parameter = next(self.field.parameters(), None)
        dtype = torch.float64 if parameter is None else parameter.dtype
        device = None if parameter is None else parameter.device
        if not isinstance(points, Tensor):  # copied: torch takes no reversed or read-only arrays
            points = torch.from_numpy(np.array(points, dtype=np.float64))
        inputs = points.detach().to(device, dtype)
        names = self.problem.coordinates
        if inputs.ndim != 2 or inputs.shape[1] != len(names):
            raise ValueError(
                f"points: found shape {tuple(inputs.shape)}; give shape (n, {len(names)}), "
                f"the columns being {', '.join(names)}"
            )
        return inputs

    def _derivative(self, name: str) -> tuple[str, tuple[int, ...]]:
        names = self.problem.namespace
        place = names.derivative(name) if isinstance(name, str) else None
        if place is None:
            known = (*self.problem.coordinates, *names.parameters)
            if isinstance(name, str) and name and name not in known:
                advice = names.suggest(name)
            else:
                advice = f"write such as '{self.problem.fields[0]}_{self.problem.coordinates[0]}'"
            raise ValueError(
                f"derivatives: found {name!r}, which is not a derivative of a field; {advice}"
            )
        return place

    def _derivatives(
        self, points: Tensor, wanted: dict[str, set[tuple[int, ...]]]
    ) -> dict[str, np.ndarray]:
        from ..engine.residuals import field_derivatives

        found = field_derivatives(self.field, points, wanted, self.problem.namespace)
        return {name: _as_array(values) for name, values in found.items()}

    def _axes(self, n: int | Sequence[int] | None) -> dict[str, np.ndarray]:
        names = self.problem.coordinates
        if n is None:
            n = GRID.get(len(names), GRID_BEYOND)
        counts = [n] * len(names) if isinstance(n, int) else list(n)
        if len(counts) != len(names) or min(counts) < 2:
            raise ValueError(f"grid: found {n}; give 2 or more, once or for each of {names}")
        return {
            name: np.linspace(low, high, count)
            for name, (low, high), count in zip(names, self.problem.bounds, counts, strict=True)
        }

    def _on_grid(
        self, function: Callable[[np.ndarray], np.ndarray], axes: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        values = np.asarray(function(tensor_points(list(axes.values()))), dtype=np.float64)
        shape = tuple(len(axis) for axis in axes.values())
        return {
            name: np.ascontiguousarray(values[:, position]).reshape(shape)
            for position, name in enumerate(self.problem.fields)
        }

    def _contents(
        self,
        axes: Mapping[str, np.ndarray],
        fields: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
        comparison: Comparison | None,
    ) -> storage.Contents:
        problem = self.problem
        descriptions = {name: f"coordinate {name}" for name in axes}
        listed = ", ".join(problem.coordinates)
        descriptions |= {name: f"field {name}({listed})" for name in problem.fields}
        if problem.time:
            descriptions[problem.time] = "time"
        attributes = {
            "problem": problem.name,
            "title": problem.title,
            "description": problem.description,
            "equations": [equation.text for equation in problem.equations],
            "coordinates": list(problem.coordinates),
            "fields": list(problem.fields),
            "status": self.status,
            "seed": self.seed,
            "solver": self.metadata.get("solver"),
            "config_digest": self.metadata.get("config_digest"),
        }
        return storage.Contents(
            attributes,
            axes,
            fields,
            reference,
            comparison.relative_l2 if comparison else {},
            comparison.error_bar if comparison else {},
            {name: _as_stored(tensor) for name, tensor in self.field.state_dict().items()},
            self.metadata.get("architecture", {}),
            descriptions,
        )


def load(folder: str | Path, problem: Problem | None = None) -> Solution:
    """The solution that a run left in its folder.

    Args:
        folder: a run folder.
        problem: what was solved, where its configuration only names Python functions.

    Raises:
        DataError: a file of the folder is missing, damaged, or does not belong to the others.
    """
    from ..config import load_case
    from .build import build_field

    folder = Path(folder)
    configuration, stored = configuration_in(folder, ADVICE), folder / STORED
    try:
        case = load_case(configuration, problem=problem)
    except ResiduaError as error:
        raise DataError(f"{configuration}: is not a case this program can read: {error}") from error
    attributes, architecture = read_header(stored, storage.KIND)
    try:
        field = build_field(case, architecture)
    except (ResiduaError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{stored}: the architecture of the network does not fit {configuration.name}: {error}"
        ) from error
    state = field.state_dict()
    weights = read_weights(
        stored, storage.KIND, {name: tuple(t.shape) for name, t in state.items()}
    )
    for name, array in weights.items():
        state[name] = torch.from_numpy(array).to(state[name].dtype)
    field.load_state_dict(state)
    field.requires_grad_(False)
    return Solution(
        case.problem,
        field,
        str(attributes.get("status", "")),
        _as_int(attributes.get("seed")),
        _read_history(folder / METRICS),
        {**_read_summary(folder / SUMMARY), "architecture": architecture},
        case,
    )


def _as_array(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()


def _as_stored(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _as_int(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _read_history(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Records of training; a file that is missing or ends in half a line costs the history only."""
    records = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
    except (OSError, ValueError, RecursionError):
        pass
    return tuple(records)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}
