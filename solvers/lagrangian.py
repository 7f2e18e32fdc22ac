"""Lagrangian PINN: the problem solved along its characteristics and read out at positions.

Source: Mojgani, Balajewicz & Hassanzadeh, CMAME 404 (2023). State and displacement have networks of
their own, start from the initial data by construction, and feel the full Jacobian (see
`residua.problems.lagrangian`). Labels are given out anew at the start of every time window, so
that J = det dx/dX is 1 again there; where J falls below `renew` a window is shortened and another
one follows it, so their number need not be known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..config import Case
from ..engine.constraints import Constrained
from ..engine.fit import Progress
from ..engine.networks.ansatz import SymbolicField
from ..engine.networks.entering import Entering, Entry
from ..engine.networks.field import Field
from ..engine.networks.free_flight import FreeFlight
from ..engine.networks.readout import Readout, least_jacobian
from ..engine.networks.snapshot import Snapshot
from ..engine.residuals import Term
from ..errors import ConfigurationError, DataError, DivergedError
from ..problems.characteristics import initial_spread
from ..problems.equation import Equation
from ..problems.lagrangian import Lagrangian, first_velocity, guard_equation, lagrangian, scaled
from .build import join, window_edges, window_field
from .collocation import Collocation
from .options import LagrangianOptions
from .trainer import Present

CHECKED = {1: (257, 33), 2: (41, 17)}
"""Labels along each axis, and moments, by number of space coordinates, at which J is looked at."""
WATCHED = 20
"""Steps of a window between looks at J; the first displacements are no guide."""
FLIGHT = (0.25, 0.5)
"""Where labels in free flight come closer than the first, a window ends at the second: residuals
are divided by the square of J, and training would begin with steps that undo the others."""
MOST_WINDOWS = 200
LONGEST = 0.75
"""Largest part of a window that is left of it: a sliver at its end would be another window."""
SHORTEST = 1e-4
"""Shortest window, as a share of the whole interval, that labels are given out anew for."""
PLACES, MISSED = 512, 1e-4
"""Positions in a window whose labels are checked; distance to a path that is worth a note."""
INEXACT = 1e-6
"""Relative error of a state handed over that is worth a note."""


class LagrangianPinn(Collocation):
    """Collocation on a problem in labels."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.labels = _Labels(case)
        super().__init__(self.labels.case, device, None)

    @property
    def field(self) -> Field:
        """The solution as far as it goes, at positions."""
        return self.labels.joined([*self.finished, self.current.field])

    @property
    def architecture(self) -> dict[str, Any]:
        """See `Collocation.architecture`; with the edges of the windows, found in training."""
        return {"windows": self.reached, "edges": list(self.labels.edges)}

    @staticmethod
    def rebuild(case: Case, architecture: Mapping[str, Any]) -> Field:
        """See `SolverTrainer.rebuild`."""
        labels = _Labels(case)
        count = labels.restore(architecture)
        fields = [labels.next_field(w, [], restore=True).field for w in range(count)]
        return labels.joined(fields)

    @property
    def present(self) -> Present:
        """The window that is trained now, at positions."""
        readout = self.labels.readout(self.current.field, self.window)
        bounds = self.labels.bounds(self.window, self.labels.original.bounds)
        return Present(self.window, bounds, readout)

    def report(self) -> dict[str, Any]:
        """The least J of every window and when it occurs; where windows begin and end."""
        found = [self._least(w, f) for w, f in enumerate([*self.finished, self.current.field])]
        form = self.labels.form
        notes = list(self.notes)
        if found[-1][0] <= self.labels.options.guard:
            # A run that ends before its last window is done is not refused, only warned of.
            crossing = _crossing(found[-1], self.problem.time)
            notes.append(f"{crossing}: the read-out there is not to be trusted")
        for window, field in enumerate([*self.finished, self.current.field]):
            miss = self._farthest(window, field)
            if miss > MISSED:
                notes.append(
                    f"positions up to {miss:.1e} of the domain away from every path in window "
                    f"{window + 1} have the values of the nearest one"
                )
        return {
            **super().report(),
            "least_jacobian": [{"value": value, "time": time} for value, time in found],
            "window_edges": list(self.labels.edges),
            "drift": dict(zip(self.problem.namespace.space, form.drift, strict=True)),
            "notes": notes,
        }

    def step(self, seconds_left: float) -> Progress:
        """See `Collocation.step`; a window whose paths come close is shortened."""
        if self._share is None:
            begin, end = self.edges[self.window], self.edges[self.window + 1]
            self._share = seconds_left * (end - begin) / (self.edges[-1] - begin)
            self._clock_start = seconds_left
        progress = super().step(seconds_left)
        watched = self.window_step and self.window_step % WATCHED == 0
        if progress.done or watched:
            cut = self._cut(self.window, self.current.field)
            if cut is not None:
                self._shorten(self.window, cut)
                return replace(progress, done=False)
        if progress.done:
            self._refuse_crossing(self.window, self.current.field)
        return progress

    def state_dict(self) -> dict[str, Any]:
        """See `Collocation.state_dict`."""
        return super().state_dict() | {"edges": list(self.labels.edges)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Collocation.load_state_dict`."""
        self.labels.edges[:] = state["edges"]
        self.edges, self.windows = self.labels.edges, len(self.labels.edges) - 1
        super().load_state_dict(state)

    def _open(self, window: int, weights: dict[str, torch.Tensor] | None = None) -> None:
        if window and weights is None:
            cut = self._cut(window - 1, self.finished[-1])
            if cut is not None:
                self.finished.pop()
                self.trained.pop()
                self._shorten(window - 1, cut)
                return
            self._refuse_crossing(window - 1, self.finished[-1])
        self._begin(window, weights)

    def _begin(self, window: int, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Set up a window, a shorter one where labels in free flight come close."""
        super()._open(window, weights)
        if weights is None:
            cut = self._cut(window, self.current.field, trained=False)
            if cut is not None:
                self._shorten(window, cut)

    def _cut(self, window: int, field: Field, *, trained: bool = True) -> float | None:
        """Where a window should end instead, if J falls below its bound within.

        Of a trained one, where J falls by the same factor before and after, if that is enough.
        """
        bound = self.labels.options.renew
        if bound is None or self.labels.form.carried.inflow:
            return None
        times, least = self._jacobians(window, field)
        lowest = float(least.min())
        level = max(bound, math.sqrt(max(lowest, 0.0)))
        if not trained:
            bound, level = (max(bound, value) for value in FLIGHT)
        if lowest >= bound:
            return None
        late = int(torch.nonzero(least < level)[0])
        if late == 0:
            return None
        above, below = float(least[late - 1]), max(float(least[late]), 0.0)
        share = (above - level) / (above - below)
        cut = float(times[late - 1]) + share * float(times[late] - times[late - 1])
        begin, end = self.labels.edges[window : window + 2]
        return min(cut, begin + LONGEST * (end - begin))

    def _shorten(self, window: int, end: float) -> None:
        """Begin a window anew that ends earlier, with another one after it."""
        edges, time = self.labels.edges, self.problem.time
        if self.windows == MOST_WINDOWS or end - edges[window] < SHORTEST * (edges[-1] - edges[0]):
            raise DivergedError(
                f"characteristics come close as soon as labels are given out, at {time} = "
                f"{edges[window]:.4g}, window {window + 1}: add diffusion, end before, or "
                "write a smaller 'renew'"
            )
        edges.insert(window + 1, end)
        self.edges, self.windows = edges, len(edges) - 1
        self._note_renewal()
        if self.finished:
            self.current = replace(self.current, field=self.finished[-1])
        elif hasattr(self, "current"):
            del self.current
        self._begin(window)

    def _note_renewal(self) -> None:
        """One note, of all windows there are now."""
        told = "labels are given out anew at "
        self.notes = [note for note in self.notes if not note.startswith(told)]
        moments = ", ".join(f"{edge:.4g}" for edge in self.labels.edges[1:-1])
        self.notes.append(f"{told}{self.problem.time} = {moments}")

    def _next_field(self, *, restore: bool) -> Constrained:
        window = len(self.finished)
        if restore:
            return self.labels.next_field(window, [], restore=True)
        built = self.labels.next_field(window, self.finished, restore=False)
        if self.labels.defect > INEXACT:
            built.notes.append(
                f"window {window + 1} starts from a state that is kept to {self.labels.defect:.0e}"
            )
        return built

    def _state(self) -> Field:
        return self.labels.readout(self.finished[-1], len(self.finished) - 1, at_rest=True)

    def _terms(self) -> list[Term]:
        form, options = self.labels.form, self.labels.options
        terms = super()._terms()
        count = len(form.displacements)
        states, paths = terms[0].equations[:-count], terms[0].equations[-count:]
        found = (*states, *self.labels.in_units(paths), guard_equation(form, options.guard))
        return [replace(terms[0], equations=found), *terms[1:]]

    def _jacobians(self, window: int, field: Field) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments of a window and the least J at each."""
        names = self.problem.coordinates
        per_axis, moments = CHECKED[len(self.problem.namespace.space)]
        counts = [moments if name == self.problem.time else per_axis for name in names]
        readout = self.labels.readout(field, window)
        return least_jacobian(readout, self.labels.bounds(window), counts)

    def _least(self, window: int, field: Field) -> tuple[float, float]:
        times, least = self._jacobians(window, field)
        place = int(torch.argmin(least))
        return float(least[place]), float(times[place])

    def _farthest(self, window: int, field: Field) -> float:
        """Largest distance of positions to the paths they are read from, in lengths of the box."""
        bounds = self.labels.bounds(window, self.labels.original.bounds)
        low, high = torch.tensor(bounds, dtype=torch.float64).T
        places = torch.quasirandom.SobolEngine(len(low)).draw(PLACES, dtype=torch.float64)
        trained = next(field.parameters(), low)
        points = (low + (high - low) * places).to(trained)
        misses = self.labels.readout(field, window).misses(points)
        shortest = min(bounds[axis][1] - bounds[axis][0] for axis in self.labels.space)
        return float(misses.nan_to_num(math.inf).max()) / shortest

    def _refuse_crossing(self, window: int, field: Field) -> None:
        least = self._least(window, field)
        if least[0] <= self.labels.options.guard:
            advice = "add diffusion, or end before"
            if self.labels.options.renew is None and not self.labels.form.carried.inflow:
                advice = "give labels out anew before, by 'renew: 0.1' or more windows"
            raise DivergedError(
                f"{_crossing(least, self.problem.time)} in window {window + 1} of {self.windows}; "
                f"{advice}"
            )


class _Labels:
    """A case in labels, and the way back to positions."""

    def __init__(self, case: Case) -> None:
        assert isinstance(case.solver, LagrangianOptions)
        self.options = options = case.solver
        self.form: Lagrangian = lagrangian(case.problem, shift=case.solver.shift)
        self.original = case.problem
        chosen = options.network
        if self.form.carried.inflow and chosen.background == "auto" and chosen.kind != "spectral":
            # What came in and what was there meet in a kink, which the first states have too.
            network = replace(chosen, background=True)
            case = replace(case, solver=replace(options, network=network))
        self.case = replace(case, problem=self.form.problem)
        edges = window_edges(case.problem, options)
        assert edges is not None
        self.edges = edges
        self.defect = 0.0
        names = case.problem.coordinates
        self.space = [names.index(name) for name in case.problem.namespace.space]
        self.time = names.index(str(case.problem.time))
        if self.form.carried.inflow and options.windows > 1:
            raise ConfigurationError(
                "paths that come in begin at all times, so there are no windows of time",
                path=("solver", "windows"),
                found=options.windows,
                advice="write windows: 1",
            )

    def in_units(self, paths: Sequence[Equation]) -> list[Equation]:
        """Equations of displacements in the size of states, for a wave that fills the domain.

        Both are imposed by one sum of squares: metres and kelvins would decide which one counts.
        """
        problem = self.form.problem
        size = max(initial_spread(self.original).values())
        found = []
        for axis, equation in zip(self.space, paths, strict=True):
            low, high = problem.bounds[axis]
            factor = size * math.tau / (high - low)
            found.append(equation if factor == 1.0 else scaled(equation, factor))
        return found

    def readout(
        self, field: Field, window: int, *, at_rest: bool = False, speeds: bool = False
    ) -> Readout:
        """A window's field at positions.

        Args:
            field: in labels.
            window: its number.
            at_rest: in the frame of the drift, with displacements of zero: as labels given out
                anew see it.
            speeds: in that frame, the velocities of the paths.
        """
        problem = self.form.problem
        still = at_rest or speeds
        if entries := [Entry(i.side, i.end, i.speed) for i in self.form.carried.inflow]:
            (axis,) = self.space
            field = Entering(field, entries, space=axis, time=self.time, start=self.edges[0])
        return Readout(
            field,
            problem.bounds,
            space=self.space,
            time=self.time,
            periodic=[problem.coordinates.index(name) for name in problem.periodic],
            drift=[0.0] * len(self.form.drift) if still else self.form.drift,
            start=self.edges[0],
            since=self.edges[window],
            at_rest=at_rest,
            speeds=speeds,
            means=() if still else self.form.means,
        )

    def restore(self, architecture: Mapping[str, Any]) -> int:
        """Take over the windows of a finished run; returns how many were begun.

        Raises:
            DataError: they do not fit the case.
        """
        count, edges = architecture.get("windows"), architecture.get("edges")
        if not (
            isinstance(edges, list)
            and all(isinstance(edge, float) for edge in edges)
            and all(a < b for a, b in zip(edges, edges[1:], strict=False))
            and [*edges[:1], *edges[-1:]] == [self.edges[0], self.edges[-1]]
        ):
            raise DataError(f"edges: found {edges!r}; the case is from {self.edges[0]:g} to "
                            f"{self.edges[-1]:g}")  # fmt: skip
        if not isinstance(count, int) or not 1 <= count < len(edges):
            raise DataError(f"windows: found {count!r}; there are {len(edges) - 1}")
        self.edges[:] = edges
        return count

    def next_field(self, window: int, fields: Sequence[Field], *, restore: bool) -> Constrained:
        """The field of a window, in labels; see `window_field`.

        Args:
            window: its number.
            fields: of the windows before; not needed where weights will be loaded.
            restore: weights will be loaded.
        """
        problem = self.form.problem
        state: Snapshot | None = None
        velocity: Field = SymbolicField(problem.coordinates, first_velocity(self.form))
        if window:
            before = None if restore else fields[-1]
            state = self._snapshot(before, window, len(problem.fields), at_rest=True)
            velocity = self._snapshot(before, window, len(self.space), speeds=True)
            # Of the state, and of where labels get to, in units of each.
            spread = min(initial_spread(self.case.problem).values())
            length = min(high - low for low, high in (problem.bounds[a] for a in self.space))
            ahead = self.edges[-1] - self.edges[window]
            self.defect = max(state.missed / spread, velocity.missed * ahead / length)
        flight = FreeFlight(
            velocity,
            len(problem.fields) - len(self.space),
            space=self.space,
            time=self.time,
            since=self.edges[window],
            bounds=problem.bounds,
            restore=restore,
        )
        if state is not None:
            # Handed over to the field as a function, and kept with its weights by this.
            flight.add_module("state", state)
        span = (self.edges[window], self.edges[window + 1])
        return window_field(self.case, window, state, span=span, restore=restore, added=[flight])

    def _snapshot(
        self,
        before: Field | None,
        window: int,
        fields: int,
        *,
        at_rest: bool = False,
        speeds: bool = False,
    ) -> Snapshot:
        """What the window before hands over, as splines."""
        problem, source = self.form.problem, None
        if before is not None:
            source = self.readout(before, window - 1, at_rest=at_rest, speeds=speeds)
        return Snapshot(
            source,
            fields,
            problem.bounds,
            space=self.space,
            time=self.time,
            moment=self.edges[window],
            periodic=[problem.coordinates.index(name) for name in problem.periodic],
        )

    def joined(self, fields: list[Field]) -> Field:
        """All windows at positions, as one."""
        return join(self.case, [self.readout(f, w) for w, f in enumerate(fields)], self.edges)

    def bounds(
        self, window: int, whole: Sequence[tuple[float, float]] | None = None
    ) -> list[tuple[float, float]]:
        """The box of a window, in labels if not told otherwise, without halving by reflections."""
        whole = self.form.problem.bounds if whole is None else whole
        bounds = [(float(low), float(high)) for low, high in whole]
        bounds[self.time] = (self.edges[window], self.edges[window + 1])
        return bounds


def _crossing(least: tuple[float, float], time: str | None) -> str:
    value, moment = least
    return f"characteristics all but cross (J = {value:.2g}) at {time} = {moment:.4g}"
