"""Where the collocation points of a window are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..engine import sampling
from ..engine.networks.field import Field
from ..engine.residuals import Term
from ..engine.taylor import value_and_slopes
from ..problems.problem import Problem
from .options import Points

CANDIDATES = 10
"""Candidates per collocation point in residual-adaptive sampling: no part of the domain gets more
than so many times its share of the points."""
MONITOR_PROBES = 4096
"""Points at which the slopes of a state handed over are looked at."""


@dataclass(frozen=True)
class Draw:
    """Points of a window; each draw has a seed of its own, so nothing depends on history.

    Attributes:
        problem: what is solved.
        points: how many, and from what.
        seed: run and window.
        bounds: the box, half of it where a reflection is built in.
        span: the time window; None without time.
        overhang: part of the window by which interior points go beyond its end.
        state: gives what the window before hands over; None in the first one.
        dtype: of the field.
        device: where it is.
    """

    problem: Problem
    points: Points
    seed: tuple[int, int]
    bounds: tuple[tuple[float, float], ...]
    span: tuple[float, float] | None
    overhang: float
    state: Callable[[], Field] | None
    dtype: torch.dtype
    device: torch.device

    def __call__(self, term: Term, position: int, round_: int, factor: int = 1) -> np.ndarray:
        """Fresh points of a term, shape (points, coordinates).

        Args:
            term: interior, a condition or the state handed over.
            position: its place among the terms.
            round_: which draw.
            factor: so many times as many.
        """
        seed = (*self.seed, position, round_)
        if term.kind == "interior":
            return sampling.interior(
                self.box(interior=True), factor * self.points.interior, self.points.sampler, seed
            )
        names = self.problem.coordinates
        if term.kind == "handover":
            # Not of a grid, whose points coincide once they are on one slice. Layers need points
            # of their own.
            count = self.points.initial
            drawn = self._at_start(sampling.interior(self.bounds, 8 * count, "sobol", seed))
            steepness = np.linalg.norm(self._slopes(drawn), axis=1)
            return sampling.rad(drawn, steepness, count, seed=seed)
        condition = next(c for c in self.problem.conditions if c.name == term.name)
        count = self.points.initial if term.kind == "initial" else self.points.boundary
        face, sampler = condition.faces[0], self.points.sampler
        return sampling.on_face(self.bounds, names, face, count, sampler, seed)[0]

    def rad(
        self, term: Term, position: int, round_: int, size: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Interior points, more of them where the residual is large.

        Args:
            term: the interior.
            position: its place among the terms.
            round_: which draw.
            size: of the residual at points.
        """
        drawn = self(term, position, round_, CANDIDATES)
        if self.state is not None:
            drawn[::2] = self._graded(drawn[::2])
        seed = (*self.seed, 1_000 + position, round_)
        return sampling.rad(drawn, size(drawn), self.points.interior, seed=seed)

    def box(self, *, interior: bool) -> tuple[tuple[float, float], ...]:
        """The box that is sampled, for the interior with its overhang."""
        bounds = list(self.bounds)
        if interior and self.span is not None and self.overhang:
            low, high = self.span
            bounds[self._time] = (low, high + self.overhang * (high - low))
        return tuple(bounds)

    @property
    def _time(self) -> int:
        assert self.problem.time is not None
        return self.problem.coordinates.index(self.problem.time)

    def _at_start(self, points: np.ndarray) -> np.ndarray:
        assert self.span is not None
        points[:, self._time] = self.span[0]
        return points

    def _graded(self, points: np.ndarray) -> np.ndarray:
        """Candidates drawn towards the layers of the state handed over.

        Each space coordinate is mapped by the inverse of the cumulated monitor ``1 + |slope| /
        mean |slope|`` (equidistribution, as in moving meshes): half of the points go with the
        slope, half stay uniform.
        """
        seed = (*self.seed, 2_000, 0)
        probes = self._at_start(sampling.interior(self.bounds, MONITOR_PROBES, "sobol", seed))
        slopes = self._slopes(probes)
        graded = points.copy()
        for axis in range(len(self.bounds)):
            if axis != self._time:
                graded[:, axis] = sampling.equidistributed(
                    points[:, axis], self.bounds[axis], probes[:, axis], slopes[:, axis]
                )
        return graded

    def _slopes(self, points: np.ndarray) -> np.ndarray:
        """Size of the first derivatives of the state handed over, (points, coordinates)."""
        assert self.state is not None
        tensor = torch.as_tensor(np.array(points)).to(self.device, self.dtype)
        with torch.no_grad():
            slopes = self.state().jet(tensor, value_and_slopes(points.shape[1]))[1:]
        return slopes.square().sum(2).sqrt().T.cpu().double().numpy()
