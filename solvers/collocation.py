"""Training by collocation: sample points, differentiate, weigh, step; window after window.

The backends `pinn` and `causal` are choices of its parts: one window and plain weights, or several
windows and
causal weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Case
from ..engine import sampling
from ..engine.constraints import Constrained
from ..engine.fit import Progress
from ..engine.fused import record
from ..engine.networks.field import Context, Field, Linear
from ..engine.networks.mlp import Mlp
from ..engine.optimizers.gauss_newton import GaussNewton
from ..engine.residuals import PointSet, ResidualEngine, Term, condition_term, interior_term
from ..engine.taylor import algebra_for
from ..engine.weighting import (
    Causal,
    Fixed,
    GradientNorm,
    NtkTrace,
    ResidualAttention,
    slab_means,
)
from ..errors import DivergedError
from . import options as settings
from .build import collocation_options, join, next_field, rebuild_windows, window_edges
from .drawing import Draw
from .stages import optimizer_of
from .trainer import Present

PLACES = 4
"""Candidates per collocation point where a field moves its parts to."""
KERNEL_SAMPLE = 256
"""Points of a term on which its tangent kernel is measured."""
FRESH_POINTS = 4096
"""Points on which the residual of a finished window is looked at again."""
MOST_REWEIGHED = 10
"""Times a stage without progress is given new causal weights before it is over."""
STALLS = 3
"""Optimiser steps in a row without progress after which a stage is over."""


Rearrange = Callable[[Field, Tensor, np.ndarray, Sequence[int], bool], None]
"""Lets a field move its parts: given candidates for points, the size of the residual at each, a
seed, and whether it has not been trained yet."""


class Collocation:
    """Trainer of a case; see `residua.engine.fit.Trainer`.

    Args:
        case: what is solved and how.
        device: where.
        causal: settings of the causal weights, None for plain ones.
        rearrange: called for a new field and before fresh points are drawn.
    """

    def __init__(
        self,
        case: Case,
        device: torch.device,
        causal: settings.CausalWeights | None,
        rearrange: Rearrange | None = None,
    ) -> None:
        self.case = case
        self.problem = case.problem
        self.options = collocation_options(case)
        self.device = device
        self.dtype = torch.float32 if case.run.dtype == "float32" else torch.float64
        self.causal_settings = causal
        self.rearrange = rearrange
        self.edges = window_edges(case.problem, self.options)
        self.windows = 1 if self.edges is None else len(self.edges) - 1
        self.scale = 1.0
        self.finished: list[Field] = []
        self.trained: list[float] = []
        self.notes: list[str] = []
        self._open(0)

    # What the loop asks
    # ------------------------------------------------------------------------------------

    @property
    def field(self) -> Field:
        """The solution as far as it goes."""
        return join(self.case, [*self.finished, self.current.field])

    rebuild = staticmethod(rebuild_windows)

    @property
    def architecture(self) -> dict[str, Any]:
        """What `rebuild` needs to rebuild it."""
        return {"windows": self.reached}

    @property
    def reached(self) -> int:
        """Time windows that were begun."""
        return len(self.finished) + 1

    @property
    def present(self) -> Present:
        """The window that is trained now."""
        return Present(self.window, self.current.bounds, self.current.field)

    @property
    def parameter_count(self) -> int:
        """Trained parameters of a window."""
        return self.engine.parameter_count

    @property
    def residual_count(self) -> int:
        """Residuals whose squares are summed."""
        terms = self.engine.terms
        return sum(len(p.points) * terms[name].count for name, p in self.batch.items())

    def report(self) -> dict[str, Any]:
        """Beside what every backend reports: what the engine computes with."""
        replayed = self.engine.replayed
        graphs = {} if replayed is None else {"cuda_graphs": replayed.status}
        return {"element_wise_work": record.status(), **graphs}

    def close(self) -> None:
        """Nothing is held."""

    def step(self, seconds_left: float) -> Progress:
        """One optimiser step; moves on to the next stage, epsilon or window where one is over."""
        if self._share is None:
            self._share = seconds_left / (self.windows - self.window)
            self._clock_start = seconds_left
        try:
            self._refresh()
            loss = self.optimizer.step()
        except DivergedError as failure:
            raise DivergedError(f"{failure}{self._blame()}") from failure
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is not finite{self._blame()}")
        self.stage_step += 1
        self.window_step += 1
        self.stalls = self.stalls + 1 if self.optimizer.stalled else 0
        stage = self.options.optimizer[self.stage]
        if loss < self.best_loss / 2:
            self.best_loss, self.best_step = loss, self.stage_step
        patience = stage.patience if isinstance(stage, settings.GaussNewton) else None
        slow = patience is not None and self.stage_step - self.best_step >= patience
        # Before the causal weights have opened up, a small loss only says that the early slabs are
        # solved.
        small = loss <= stage.tolerance * self.scale
        exhausted = small or self.stalls >= STALLS or slow
        if exhausted and self.causal is not None and not self.causal.settled:
            self.reweighed += 1
            if self.reweighed <= MOST_REWEIGHED:
                exhausted = False
                self._weigh_causally()
                self._renew(resampled=False)
                self.best_loss = math.inf
            else:
                self._note("ended with causal weights that had not opened up")
        over = exhausted or (stage.steps is not None and self.stage_step >= stage.steps)
        out_of_time = math.isfinite(seconds_left) and self._clock_start - seconds_left > self._share
        if self.causal is not None and self.causal.settled:
            if self.causal.advance():
                self.best_loss = math.inf
            elif self.causal_settings is not None and self.causal_settings.stop:
                over = True
        extra = self._where()
        done = False
        if (over and self.stage + 1 < len(self.options.optimizer)) and not out_of_time:
            self._begin_stage(self.stage + 1)
        elif over or out_of_time:
            if not over:
                self._note("was ended by its share of the budget")
            if self.window + 1 < self.windows:
                self.trained.append(self._training_residual())
                self.finished.append(self.current.field.requires_grad_(False))
                self._open(self.window + 1)
            else:
                done = True
        return Progress(loss, self._shares(), extra, done)

    def residuals(self) -> list[dict[str, float]]:
        """Root mean square of the residual by window, on its last points and on fresh ones.

        Fresh points tell what fixed ones may hide: a fit that is bad between them.
        """
        report = []
        time_axis = None
        if self.problem.time is not None:
            time_axis = self.problem.coordinates.index(self.problem.time)
        trained = [*self.trained, self._training_residual()]
        for window, field in enumerate([*self.finished, self.current.field]):
            bounds = list(self.current.bounds)
            if self.edges is not None and time_axis is not None:
                bounds[time_axis] = (self.edges[window], self.edges[window + 1])
            seed = (self.case.run.seed, window, 3_000, 0)
            drawn = sampling.interior(bounds, FRESH_POINTS, "sobol", seed)
            engine = ResidualEngine(self.problem, field, [interior_term(self.problem)])
            fresh = _root_mean_square(self._interior_residuals(engine, drawn))
            report.append({"training": trained[window], "fresh": fresh})
        return report

    def _blame(self) -> str:
        """Which equation is not a number, and where, as the rest of a sentence; else nothing."""
        with torch.no_grad():
            found = self.engine.residuals(self.batch)
        for name, values in found.items():
            wrong = ~torch.isfinite(values)
            # All of them: then the weights are to blame, not the equation at a point.
            if not wrong.any() or wrong.all(0).all():
                continue
            point, column = torch.nonzero(wrong)[0].tolist()
            where = ", ".join(
                f"{coordinate} = {value:.6g}"
                for coordinate, value in zip(
                    self.problem.coordinates, self.batch[name].points[point].tolist(), strict=True
                )
            )
            what = f"the condition '{name}'"
            if name == "interior":
                what = f"the equation '{self.problem.equations[column].text}'"
            return f" ({what} is not a number at {where})"
        return ""

    def _note(self, what: str) -> None:
        where = f"window {self.window + 1}" if self.windows > 1 else "the training"
        note = f"{where} {what}"
        if note not in self.notes:
            self.notes.append(note)

    def _training_residual(self) -> float:
        with torch.no_grad():
            values = self.engine.residuals({"interior": self.batch["interior"]})["interior"]
        return _root_mean_square(values)

    def soften(self) -> None:
        """See `residua.engine.fit.Trainer`."""
        self.optimizer.soften()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, tensors copied."""
        points = {name: p.points.clone() for name, p in self.batch.items()}
        weights = {name: p.weights.clone() for name, p in self.batch.items()}
        return {
            "window": self.window,
            "stage": self.stage,
            "stage_step": self.stage_step,
            "window_step": self.window_step,
            "round": self.round,
            "stalls": self.stalls,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "reweighed": self.reweighed,
            "scale": self.scale,
            "finished": [_copy(f.state_dict()) for f in self.finished],
            "trained": list(self.trained),
            "field": _copy(self.current.field.state_dict()),
            "points": points,
            "weights": weights,
            "optimizer": _copy(self.optimizer.state_dict()),
            "weighting": self.weighting.state_dict(),
            "causal": None if self.causal is None else self.causal.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.finished = []
        for weights in state["finished"]:
            member = self._next_field(restore=True).field
            member.load_state_dict(weights)
            self.finished.append(member.to(self.device).requires_grad_(False))
        self.trained = [float(value) for value in state["trained"]]
        self._open(int(state["window"]), state["field"])
        self._begin_stage(int(state["stage"]))
        self.stage_step = int(state["stage_step"])
        self.window_step = int(state["window_step"])
        self.round = int(state["round"])
        self.stalls = int(state["stalls"])
        self.best_loss = float(state["best_loss"])
        self.best_step = int(state["best_step"])
        self.reweighed = int(state["reweighed"])
        self.scale = float(state["scale"])
        self.batch = {
            name: PointSet(
                points.to(self.device, copy=True),
                state["weights"][name].to(self.device, copy=True),
                self._targets(name, points.to(self.device)),
            )
            for name, points in state["points"].items()
        }
        self.optimizer.load_state_dict(_copy(state["optimizer"]))
        self.weighting.load_state_dict(state["weighting"])
        if self.causal is not None and state["causal"] is not None:
            self.causal.load_state_dict(state["causal"])

    # Windows, stages, points
    # -------------------------------------------------------------------------------

    def _open(self, window: int, weights: dict[str, Tensor] | None = None) -> None:
        """Set up a time window: field, terms, points, weights, first optimiser."""
        self.window = window
        before = getattr(self, "current", None)
        self.current = self._next_field(restore=weights is not None)
        self.current.field.to(self.device)
        if weights is not None:
            self.current.field.load_state_dict(weights)
        elif before is not None and self.options.warm_start:
            _warm(self.current.field, before.field)
            if not self.current.handed_over:
                self._continue_in_time()
        self.notes += [note for note in self.current.notes if note not in self.notes]
        self.terms = self._terms()
        self.engine = ResidualEngine(self.problem, self.current.field, self.terms)
        self.weighting = self._weighting()
        self.causal = None
        if self.causal_settings is not None:
            self.causal = Causal(
                self.causal_settings.slabs,
                self.causal_settings.epsilons,
                self.causal_settings.delta,
                self.weighting,
            )
        self.round = 0
        self.window_step = 0
        self._share: float | None = None
        self._clock_start = math.inf
        self.batch = {}
        for position, term in enumerate(self.terms):
            points = self._draw(term, position, self.round)
            self._set(term.name, points)
        self._begin_stage(0)
        if window == 0 and weights is None:
            # What is small or large is told by the residual that training starts from.
            size = self._training_residual()
            self.scale = size**2 if 0 < size < math.inf else 1.0
        if weights is None and (before is None or not self.options.warm_start):
            self._rearrange(new=True)
        if weights is None and self.options.points.rule(self._optimizer_name) == "rad":
            # Where the residual is not a number there is nothing to choose points by: the first
            # step says so, and there is a state to keep.
            with contextlib.suppress(DivergedError):
                self._resample()

    def _next_field(self, *, restore: bool) -> Constrained:
        """The field of the window after the finished ones; see `window_field`."""
        return next_field(self.case, self.finished, restore=restore)

    def _state(self) -> Field:
        """What the last finished window hands over, in the coordinates of the next."""
        return self.finished[-1]

    def _continue_in_time(self) -> None:
        """Let a warm-started network begin where the last window ended.

        Scaled time runs from -1 to 1 in every window, so the old network at 1 is the new one at -1
        once its first layers are shifted by 2 in time.
        """
        assert self.problem.time is not None
        axis = self.problem.coordinates.index(self.problem.time)
        for member in self.current.field.modules():
            if isinstance(member, Mlp) and member.embedding.frequencies is None:
                column = member.embedding.plain.index(axis)
                with torch.no_grad():
                    for layer in (member.hidden[0], *member.encoders):
                        assert isinstance(layer, Linear) and layer.bias is not None
                        layer.bias.add_(2 * layer.effective_weight()[:, column])

    def _begin_stage(self, stage: int) -> None:
        self.stage = stage
        self.stage_step = 0
        self.stalls = 0
        self.best_loss, self.best_step = math.inf, 0
        self.reweighed = 0
        self.optimizer = optimizer_of(
            self.options.optimizer[stage],
            stage,
            self.engine,
            lambda: self.batch,
            rows=self.residual_count,
            note=self._note,
        )

    def _terms(self) -> list[Term]:
        terms = [interior_term(self.problem)]
        for condition in self.problem.conditions:
            if condition.name in self.current.met:
                continue
            if condition.kind == "initial":
                if self.window == 0:
                    terms.append(condition_term(condition, self.problem))
            else:
                terms.append(condition_term(condition, self.problem))
        if self.window > 0 and not self.current.handed_over:
            assert self.problem.time is not None
            axis = self.problem.coordinates.index(self.problem.time)
            zero = (0,) * len(self.problem.coordinates)
            indices = tuple(
                (position, tuple(m * (i == axis) for i in range(len(zero))))
                for position, name in enumerate(self.problem.fields)
                for m in range(self.problem.time_order[name])
            )
            terms.append(Term("handover", "handover", (), indices))
        return terms

    def _weighting(self) -> Fixed | GradientNorm | NtkTrace | ResidualAttention:
        kinds = {term.name: _kind(term) for term in self.terms}
        chosen = self.options.weighting
        if isinstance(chosen, settings.GradientNorm):
            return GradientNorm(list(kinds), chosen.momentum, chosen.every)
        if isinstance(chosen, settings.Ntk):
            return NtkTrace(list(kinds), chosen.momentum, chosen.every)
        if isinstance(chosen, settings.ResidualAttention):
            return ResidualAttention(list(kinds), chosen.decay, chosen.rate, chosen.every)
        known = set(kinds) | set(kinds.values())
        return Fixed(kinds, {k: v for k, v in chosen.values.items() if k in known})

    @property
    def _draw(self) -> Draw:
        """Where points of the present window come from."""
        span = None
        if self.edges is not None:
            span = (self.edges[self.window], self.edges[self.window + 1])
        return Draw(
            self.problem,
            self.options.points,
            (self.case.run.seed, self.window),
            self.current.bounds,
            span,
            overhang=self.options.overhang,
            state=self._state if self.finished else None,
            dtype=self.dtype,
            device=self.device,
        )

    def _set(self, name: str, points: np.ndarray | Tensor) -> None:
        tensor = torch.as_tensor(np.array(points) if isinstance(points, np.ndarray) else points)
        tensor = tensor.to(self.device, self.dtype)
        weight = self.weighting.weights.get(name, 1.0)
        weights = torch.full((len(tensor),), weight / len(tensor), dtype=self.dtype).to(self.device)
        if isinstance(self.weighting, ResidualAttention):
            self.weighting.renew(name, len(tensor))
            if name in self.weighting.multipliers:
                weights = self.weighting.multipliers[name].to(weights).square() / len(tensor)
        self.batch[name] = PointSet(tensor, weights, self._targets(name, tensor))

    def _targets(self, name: str, points: Tensor) -> Tensor | None:
        term = self.engine.terms[name]
        if term.kind != "handover":
            return None
        algebra = algebra_for([index for _, index in term.indices], points.shape[1])
        with torch.no_grad():
            bundle = self._state().jet(points, algebra, Context())
        columns = [algebra.derivative(bundle, index)[:, p] for p, index in term.indices]
        return torch.stack(columns, dim=1)

    # Between steps
    # -----------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """New points and weights where due; in between every step sees one objective."""
        every = self.options.points.interval(self._optimizer_name)
        resampled = bool(every and self.window_step and self.window_step % every == 0)
        reweighed = False
        if resampled:
            self.round += 1
            self._rearrange(new=False)
            self._resample()
        if not isinstance(self.weighting, Fixed) and self.weighting.due(self.window_step):
            self._rebalance(self.weighting)
            reweighed = True
        if self.causal is not None and self.causal_settings is not None:
            due = self.window_step % self.causal_settings.refresh == 0
            if due or resampled or reweighed:
                self._weigh_causally()
                reweighed = True
        if resampled or reweighed:
            self._renew(resampled=resampled)

    def _rearrange(self, *, new: bool) -> None:
        if self.rearrange is None:
            return
        drawn = self._draw(self.terms[0], 0, self.round, PLACES)
        seed = (self.case.run.seed, self.window, 4_000, self.round)
        candidates = torch.as_tensor(drawn).to(self.device, self.dtype)
        self.rearrange(self.current.field, candidates, self._magnitude(drawn), seed, new)

    def _rebalance(self, weighting: GradientNorm | NtkTrace | ResidualAttention) -> None:
        if isinstance(weighting, ResidualAttention):
            with torch.no_grad():
                found = self.engine.residuals(self.batch)
            for name, members in self.batch.items():
                squares = weighting.update(name, found[name]).square()
                members.weights = (squares / len(squares)).to(members.weights)
            return
        weighting.update(
            self._gradient_norms()
            if isinstance(weighting, GradientNorm)
            else self._kernel_diagonals()
        )
        for name, members in self.batch.items():
            n = len(members.points)
            members.weights = torch.full_like(members.weights, weighting.weights[name] / n)

    def _renew(self, *, resampled: bool) -> None:
        """Tell the optimiser that the objective is another one."""
        # Gauss-Newton remembers a damping, which new weights on the same points leave as it is.
        if resampled or not isinstance(self.optimizer, GaussNewton):
            self.optimizer.renew()

    @property
    def _optimizer_name(self) -> str:
        return self.options.optimizer[self.stage].name

    def _resample(self) -> None:
        rule = self.options.points.rule(self._optimizer_name)
        for position, term in enumerate(self.terms):
            if term.kind != "interior" or rule not in ("rad", "r3"):
                points = self._draw(term, position, self.round)
            elif rule == "rad":
                points = self._draw.rad(term, position, self.round, self._magnitude)
            else:
                old = self.batch[term.name].points.cpu().double().numpy()
                points = sampling.r3(
                    old, self._magnitude(old), self._draw(term, position, self.round)
                )
            self._set(term.name, points)

    def _magnitude(self, points: np.ndarray) -> np.ndarray:
        values = self._interior_residuals(self.engine, points)
        return values.square().sum(1).sqrt().cpu().double().numpy()

    def _interior_residuals(self, engine: ResidualEngine, points: np.ndarray) -> Tensor:
        tensor = torch.as_tensor(np.array(points)).to(self.device, self.dtype)
        members = PointSet(tensor, torch.ones(len(tensor), dtype=self.dtype, device=self.device))
        with torch.no_grad():
            return engine.residuals({"interior": members})["interior"]

    def _weigh_causally(self) -> None:
        assert self.causal is not None and self.problem.time is not None
        members = self.batch["interior"]
        bounds = self._draw.box(interior=True)
        axis = self.problem.coordinates.index(self.problem.time)
        index = torch.as_tensor(
            sampling.slabs(members.points[:, axis].cpu().numpy(), bounds[axis], self.causal.slabs)
        ).to(self.device)
        with torch.no_grad():
            found = self.engine.residuals(self.batch)
        means = slab_means(found["interior"].square().sum(1).double(), index, self.causal.slabs)
        initial = [
            float(self.weighting.weights.get(name, 1.0) * values.square().sum(1).mean())
            for name, values in found.items()
            if self.engine.terms[name].kind in ("initial", "handover")
        ]
        before = sum(initial) / self.scale if initial else None
        self.causal.refresh(means / self.scale, before)
        weight = self.weighting.weights.get("interior", 1.0)
        floor = self.causal_settings.floor if self.causal_settings is not None else 0.0
        members.weights = (weight * self.causal.row_weights(index, floor) ** 2).to(self.dtype)
        if isinstance(self.weighting, ResidualAttention):
            multipliers = self.weighting.multipliers.get("interior")
            if multipliers is not None:
                members.weights *= multipliers.to(members.weights).square()

    def _kernel_diagonals(self) -> dict[str, float]:
        """Mean squared norm of the gradients of single residuals, on a sample of the points."""
        found = {}
        for name, members in self.batch.items():
            points = members.points[:: max(1, len(members.points) // KERNEL_SAMPLE)]
            sample = PointSet(points, torch.ones_like(points[:, 0]), self._targets(name, points))
            rows = self.engine.linearise({name: sample})[1]
            found[name] = float(rows.square().sum(1).mean())
        return found

    def _gradient_norms(self) -> dict[str, float]:
        norms = {}
        for name, values in self.engine.residuals(self.batch).items():
            loss = values.square().sum(1).mean()
            gradients = torch.autograd.grad(loss, self.engine.parameters, allow_unused=True)
            norms[name] = math.sqrt(
                sum(float(g.square().sum()) for g in gradients if g is not None)
            )
        return norms

    def _shares(self) -> dict[str, float]:
        if len(self.batch) == 1:
            return {}
        with torch.no_grad():
            return {name: float(share) for name, share in self.engine.loss(self.batch)[1].items()}

    def _where(self) -> str:
        parts = []
        if self.windows > 1:
            parts.append(f"window {self.window + 1}/{self.windows}")
        if len(self.options.optimizer) > 1:
            parts.append(self.options.optimizer[self.stage].name)
        if self.causal is not None:
            parts.append(f"min w {float(self.causal.slab_weights.min()):.2f}")
        return ", ".join(parts)


def _kind(term: Term) -> str:
    return {"interior": "residual", "handover": "initial"}.get(term.kind, term.kind)


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _copy(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copy(value) for value in state)
    return state


def _warm(field: Field, before: Field) -> None:
    """Begin with the trained weights of the window before, where the shapes agree."""
    old = dict(before.named_parameters())
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            key = name if name in old else name.removeprefix("network.")
            if parameter.requires_grad and key in old and old[key].shape == parameter.shape:
                parameter.copy_(old[key])
