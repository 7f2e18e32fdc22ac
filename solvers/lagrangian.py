"""Lagrangian PINN: the problem solved along its characteristics and read out at positions.

Source: Mojgani, Balajewicz & Hassanzadeh, CMAME 404 (2023). State and displacement have networks of
their own, start from the initial data by construction, and feel the full Jacobian (see
`residua.problems.lagrangian`). Labels are given out anew at the start of every time window, so
that J = det dx/dX is 1 again there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..config import Case
from ..engine.fit import Progress
from ..engine.networks.field import Field
from ..engine.networks.readout import Readout, least_jacobian
from ..engine.residuals import Term
from ..errors import DivergedError
from ..problems.lagrangian import Lagrangian, guard_equation, lagrangian
from .build import join, rebuild_fields, window_edges
from .collocation import Collocation
from .options import LagrangianOptions
from .trainer import Present

CHECKED = {1: 513, 2: 65}
"""Labels along each axis, by number of space coordinates, at which J is looked at."""
MOMENTS = 33


class LagrangianPinn(Collocation):
    """Collocation on a problem in labels."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.labels = _Labels(case)
        self.least: list[tuple[float, float]] = []
        super().__init__(self.labels.case, device, None)

    @property
    def field(self) -> Field:
        """The solution as far as it goes, at positions."""
        return self.labels.joined([*self.finished, self.current.field])

    @staticmethod
    def rebuild(case: Case, architecture: Mapping[str, Any]) -> Field:
        """See `SolverTrainer.rebuild`."""
        labels = _Labels(case)
        return labels.joined(rebuild_fields(labels.case, architecture, labels.handed_over))

    @property
    def present(self) -> Present:
        """The window that is trained now, at positions."""
        readout = self.labels.readout(self.current.field, self.window)
        return Present(self.window, self.labels.bounds(self.window), readout)

    def report(self) -> dict[str, Any]:
        """The least J of every window and when it occurs."""
        found = [self._least(w, f) for w, f in enumerate([*self.finished, self.current.field])]
        form = self.labels.form
        if found[-1][0] <= self.labels.options.guard:
            self._note(_crossing(found[-1], self.problem.time))
            self.notes[-1] += ": the read-out there is not to be trusted"
        return {
            "least_jacobian": [{"value": value, "time": time} for value, time in found],
            "drift": dict(zip(self.problem.namespace.space, form.drift, strict=True)),
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

    def _handed_over(self) -> Field | None:
        if not self.finished:
            return None
        return self.labels.handed_over(self.finished[-1], len(self.finished) - 1)

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

    def readout(self, field: Field, window: int, *, at_rest: bool = False) -> Readout:
        """A window's field at positions.

        Args:
            field: in labels.
            window: its number.
            at_rest: in the frame of the drift, with displacements of zero: as labels given out
                anew see it.
        """
        problem = self.form.problem
        names, time = problem.coordinates, str(problem.time)
        return Readout(
            field,
            problem.bounds,
            space=[names.index(name) for name in problem.namespace.space],
            time=names.index(time),
            periodic=[names.index(name) for name in problem.periodic],
            drift=[0.0] * len(self.form.drift) if at_rest else self.form.drift,
            start=self.edges[0],
            since=self.edges[window],
            at_rest=at_rest,
        )

    def handed_over(self, field: Field, window: int) -> Field:
        """What the window after one starts from."""
        return self.readout(field, window, at_rest=True)

    def joined(self, fields: list[Field]) -> Field:
        """All windows at positions, as one."""
        return join(self.case, [self.readout(f, w) for w, f in enumerate(fields)])

    def bounds(self, window: int) -> list[tuple[float, float]]:
        """The box of a window, without the halving of a reflection."""
        bounds = [(float(low), float(high)) for low, high in self.form.problem.bounds]
        axis = self.form.problem.coordinates.index(str(self.form.problem.time))
        bounds[axis] = (self.edges[window], self.edges[window + 1])
        return bounds


def _crossing(least: tuple[float, float], time: str | None) -> str:
    value, moment = least
    return f"characteristics all but cross (J = {value:.2g}) at {time} = {moment:.4g}"
