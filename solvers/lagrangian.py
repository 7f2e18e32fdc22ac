"""Lagrangian PINN: the problem solved along its characteristics and read out at positions.

Source: Mojgani, Balajewicz & Hassanzadeh, CMAME 404 (2023). State and displacement have networks of
their own, start from the initial data by construction, and feel the full Jacobian (see
`residua.problems.lagrangian`). Labels are given out anew at the start of every time window, so
that J = det dx/dX is 1 again there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..config import Case
from ..engine.constraints import Constrained
from ..engine.fit import Progress
from ..engine.networks.ansatz import SymbolicField
from ..engine.networks.field import Field
from ..engine.networks.readout import FreeFlight, Readout, least_jacobian
from ..engine.residuals import Term
from ..errors import DivergedError
from ..problems.lagrangian import Lagrangian, first_velocity, guard_equation, lagrangian
from .build import join, window_edges, window_field, windows_solved
from .collocation import Collocation
from .options import LagrangianOptions
from .trainer import Present

CHECKED = {1: 257, 2: 65}
"""Labels along each axis, by number of space coordinates, at which J is looked at."""
MOMENTS = 33


class LagrangianPinn(Collocation):
    """Collocation on a problem in labels."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.labels = _Labels(case)
        super().__init__(self.labels.case, device, None)

    @property
    def field(self) -> Field:
        """The solution as far as it goes, at positions."""
        return self.labels.joined([*self.finished, self.current.field])

    @staticmethod
    def rebuild(case: Case, architecture: Mapping[str, Any]) -> Field:
        """See `SolverTrainer.rebuild`."""
        labels = _Labels(case)
        fields: list[Field] = []
        for _ in range(windows_solved(labels.case, architecture)):
            fields.append(labels.next_field(fields, restore=True).field)
        return labels.joined(fields)

    @property
    def present(self) -> Present:
        """The window that is trained now, at positions."""
        readout = self.labels.readout(self.current.field, self.window)
        return Present(self.window, self.labels.bounds(self.window), readout)

    def report(self) -> dict[str, Any]:
        """The least J of every window and when it occurs."""
        found = [self._least(w, f) for w, f in enumerate([*self.finished, self.current.field])]
        form = self.labels.form
        notes = list(self.notes)
        if found[-1][0] <= self.labels.options.guard:
            # A run that ends before its last window is done is not refused, only warned of.
            crossing = _crossing(found[-1], self.problem.time)
            notes.append(f"{crossing}: the read-out there is not to be trusted")
        return {
            "least_jacobian": [{"value": value, "time": time} for value, time in found],
            "drift": dict(zip(self.problem.namespace.space, form.drift, strict=True)),
            "notes": notes,
        }

    def step(self, seconds_left: float) -> Progress:
        """See `Collocation.step`; a window whose paths cross is refused."""
        progress = super().step(seconds_left)
        if progress.done:
            self._refuse_crossing(self.window, self.current.field)
        return progress

    def _open(self, window: int, weights: dict[str, torch.Tensor] | None = None) -> None:
        if window and weights is None:
            self._refuse_crossing(window - 1, self.finished[-1])
        super()._open(window, weights)

    def _next_field(self, *, restore: bool) -> Constrained:
        return self.labels.next_field(self.finished, restore=restore)

    def _state(self) -> Field:
        return self.labels.readout(self.finished[-1], len(self.finished) - 1, at_rest=True)

    def _terms(self) -> list[Term]:
        terms = super()._terms()
        interior = terms[0]
        guarded = (*interior.equations, guard_equation(self.labels.form, self.labels.options.guard))
        return [replace(interior, equations=guarded), *terms[1:]]

    def _least(self, window: int, field: Field) -> tuple[float, float]:
        names = self.problem.coordinates
        per_axis = CHECKED[len(self.problem.namespace.space)]
        counts = [MOMENTS if name == self.problem.time else per_axis for name in names]
        readout = self.labels.readout(field, window)
        return least_jacobian(readout, self.labels.bounds(window), counts)

    def _refuse_crossing(self, window: int, field: Field) -> None:
        least = self._least(window, field)
        if least[0] <= self.labels.options.guard:
            raise DivergedError(
                f"{_crossing(least, self.problem.time)} in window {window + 1} of {self.windows}; "
                "give labels out anew before, by more windows"
            )


class _Labels:
    """A case in labels, and the way back to positions."""

    def __init__(self, case: Case) -> None:
        assert isinstance(case.solver, LagrangianOptions)
        self.options = case.solver
        self.form: Lagrangian = lagrangian(case.problem, shift=case.solver.shift)
        self.case = replace(case, problem=self.form.problem)
        edges = window_edges(case.problem, case.solver)
        assert edges is not None
        self.edges = edges
        names = case.problem.coordinates
        self.space = [names.index(name) for name in case.problem.namespace.space]
        self.time = names.index(str(case.problem.time))

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

    def next_field(self, fields: Sequence[Field], *, restore: bool) -> Constrained:
        """The field of the window after some finished ones, in labels; see `window_field`."""
        window, problem = len(fields), self.form.problem
        state: Field | None = None
        if fields:
            state = self.readout(fields[-1], window - 1, at_rest=True)
            velocity: Field = self.readout(fields[-1], window - 1, speeds=True)
        else:
            velocity = SymbolicField(problem.coordinates, first_velocity(self.form))
        flight = FreeFlight(
            velocity,
            len(problem.fields) - len(self.space),
            space=self.space,
            time=self.time,
            since=self.edges[window],
            bounds=problem.bounds,
            restore=restore,
        )
        return window_field(self.case, window, state, restore=restore, added=[flight])

    def joined(self, fields: list[Field]) -> Field:
        """All windows at positions, as one."""
        return join(self.case, [self.readout(f, w) for w, f in enumerate(fields)])

    def bounds(self, window: int) -> list[tuple[float, float]]:
        """The box of a window, without the halving of a reflection."""
        bounds = [(float(low), float(high)) for low, high in self.form.problem.bounds]
        bounds[self.time] = (self.edges[window], self.edges[window + 1])
        return bounds


def _crossing(least: tuple[float, float], time: str | None) -> str:
    value, moment = least
    return f"characteristics all but cross (J = {value:.2g}) at {time} = {moment:.4g}"
