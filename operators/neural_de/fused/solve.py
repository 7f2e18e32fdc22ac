"""Integration in compiled code, and its derivative."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....engine.fused import record as engine_record
from ..adjoints.direct import Direct
from ..controllers import PID, SMALLEST
from ..explicit import ExplicitRungeKutta
from ..plan import lockstep
from ..problem import Problem
from ..solution import Solution, Statistics
from ..terms import ODE
from .library import Compiled, Controller, Tape, agree, compiled
from .prelude import LANES
from .tracing import Untraceable

__all__ = ["available", "solve_fused"]

WIDEST = 256
"""Components of a state up to which compiled code is tried: above, torch's products are faster."""

_known: weakref.WeakKeyDictionary[Any, dict[Any, Compiled | str]] = weakref.WeakKeyDictionary()


def available(problem: Problem) -> str | None:
    """Why a problem cannot be integrated in compiled code; None where it can."""
    reason = _unfit(problem)
    if reason is not None:
        return reason
    found = _compiled(problem)
    problem.compiled = found
    return found if isinstance(found, str) else None


def _unfit(problem: Problem) -> str | None:
    start, controller = problem.start, problem.controller
    checks = (
        (engine_record.forbidden(), "compiled code is switched off"),
        (type(problem.term) is not ODE, f"{type(problem.term).__name__} runs eagerly"),
        (not isinstance(problem.stepper, ExplicitRungeKutta), f"{problem.stepper!r} runs eagerly"),
        (start.device.type != "cpu", "compiled code is for processors"),
        (start.dtype not in LANES, f"states are {start.dtype}"),
        (start.shape[1] > WIDEST, f"states of more than {WIDEST} components run eagerly"),
        (bool(problem.events), "events are looked for eagerly"),
        (problem.dense, "dense output is made eagerly"),
        (problem.since is not None, "samples that begin at their own time run eagerly"),
        (len(controller.step_times) + len(controller.jump_times) > 0, "stops are kept eagerly"),
        (getattr(controller, "norm", None) is not None, "a norm of one's own runs eagerly"),
        (not isinstance(getattr(controller, "rtol", 0.0), float | int), "tolerances by component"),
        (not isinstance(getattr(controller, "atol", 0.0), float | int), "tolerances by component"),
        (len(start) == 0, "there is no sample"),
        (_too_many(problem), "the largest number of steps is kept eagerly"),
    )
    return next((reason for wrong, reason in checks if wrong), None)


def _too_many(problem: Problem) -> bool:
    """Whether known steps are more than the problem allows."""
    if isinstance(problem.controller, PID):
        return False
    span = abs(float(problem.times[-1] - problem.times[0]))
    return span / problem.controller.step > problem.max_steps * (1 - 1e-9)


def _compiled(problem: Problem) -> Compiled | str:
    """The library for a problem, from earlier or made now; or why there is none.

    What was traced earlier may have changed since, for a field is any Python: it is evaluated at
    the start both ways, every time.
    """
    field, start = problem.term.field, problem.start  # pyright: ignore[reportAttributeAccessIssue]
    gradient = problem.differentiable
    key = (start.shape[1], start.dtype, problem.stepper.tableau.name, gradient)  # pyright: ignore
    try:
        kept = _known.setdefault(field, {})
    except TypeError:  # cannot be referred to weakly
        kept = {}
    found = kept.get(key)
    if isinstance(found, str):
        return found
    if found is None or not _current(found, problem):
        try:
            found = compiled(field, start, problem.stepper.tableau, gradient)  # pyright: ignore
            if not _current(found, problem):
                found = "the compiled field and torch's do not agree"
        except Untraceable as error:
            found = str(error)
        kept[key] = found
    return found


def _current(found: Compiled, problem: Problem) -> bool:
    with torch.no_grad():
        start = problem.start.detach()
        t = problem.times[:1].to(start.dtype).expand(len(start))
        return agree(found.slopes(t, start, found.constants()), problem.term(t, start))


def solve_fused(problem: Problem) -> Solution:
    """Integrate; `available` has said that it can be done."""
    found = problem.compiled or _compiled(problem)
    assert isinstance(found, Compiled)
    constants = found.constants()
    run = _Run(found, problem)
    if found.gradient:
        states = _Integration.apply(run, problem.start, *constants)
    else:
        states = run.forward(problem.start.detach(), constants, keep=False)
    assert run.outcome is not None and run.statistics is not None
    return Solution(problem.times, states, run.outcome, run.statistics, path="fused")


class _Run:
    """One integration.

    Args:
        found: the library.
        problem: what is integrated.
    """

    def __init__(self, found: Compiled, problem: Problem) -> None:
        self.found, self.problem = found, problem
        self.outcome: Tensor | None = None
        self.statistics: Statistics | None = None
        self.tape: dict[str, Any] = {}

    def forward(self, start: Tensor, constants: tuple[Tensor, ...], *, keep: bool) -> Tensor:
        """States at the times, shape (batch, n, d); what the way back needs where asked for."""
        start = start.contiguous()
        held = [c.detach().contiguous() for c in constants]
        states = start.new_full((*start.shape[:1], len(self.problem.times), start.shape[1]),
                                torch.nan)  # fmt: skip
        states[:, 0] = start
        if isinstance(self.problem.controller, PID):
            self._adaptive(start, held, states, keep)
        else:
            self._known(start, held, states, keep)
        return states

    def _adaptive(self, start: Tensor, held: list[Tensor], states: Tensor, keep: bool) -> None:
        problem, control = self.problem, self.problem.controller
        assert isinstance(control, PID)
        batch, n, d = states.shape
        times = problem.times.contiguous()
        settings = Controller(
            control.rtol, max(control.atol, SMALLEST), control.p, control.i, control.d,
            control.safety, control.shrink, control.grow, control.smallest,
            min(control.largest, 1e300),
            control.first or 0.0, problem.sign, float(times[-1]), problem.stepper.error_order,
        )  # fmt: skip
        counts = torch.zeros(3, batch, dtype=torch.int64)
        capacity = self.found.capacity if keep else 0
        pointers = self.found.pointers(held)
        while True:
            room = {
                "starts": torch.empty(batch, capacity, dtype=torch.float64),
                "steps": torch.empty(batch, capacity, dtype=torch.float64),
                "states": start.new_empty(batch, capacity, d),
                "slopes": start.new_empty(batch, capacity, problem.stepper.evaluations, d),
                "which": torch.full((batch, n), -1, dtype=torch.int32),
                "theta": torch.zeros(batch, n, dtype=torch.float64),
            }
            tape = Tape(capacity, *(value.data_ptr() for value in room.values()))
            full = self.found.library.adaptive(
                batch, torch.get_num_threads(), start.data_ptr(), times.data_ptr(), n,
                ctypes.addressof(settings), problem.max_steps, pointers, states.data_ptr(),
                *(row.data_ptr() for row in counts), ctypes.addressof(tape),
            )  # fmt: skip
            if not full:
                break
            capacity = int(counts[2].max())
            self.found.capacity = capacity = capacity + capacity // 4
        self.outcome, tried, done = counts
        calls = tried * problem.stepper.evaluations + (1 if control.first else 2)
        self.statistics = Statistics(tried, done, tried - done, calls)
        self.tape = {**room, "capacity": capacity, "shared": 0, "count": done}

    def _known(self, start: Tensor, held: list[Tensor], states: Tensor, keep: bool) -> None:
        problem = self.problem
        batch, n, d = states.shape
        plan, points = lockstep(problem)
        count = len(plan)
        starts, steps = (x[:, 0].contiguous() for x in (plan.starts, plan.steps))
        which = torch.full((n,), -1, dtype=torch.int32)
        theta = torch.ones(n, dtype=torch.float64)
        for number, selections in points.at.items():
            for selection in selections:
                column = int(selection.slots[0])
                which[column] = number
                if selection.theta is not None:
                    theta[column] = selection.theta[0]
        room = count if keep else 0
        tape = start.new_empty(batch, room, d)
        slopes = start.new_empty(batch, room, problem.stepper.evaluations, d)
        self.found.library.known(
            batch, torch.get_num_threads(), start.data_ptr(), count, starts.data_ptr(),
            steps.data_ptr(), n, which.data_ptr(), theta.data_ptr(), self.found.pointers(held),
            states.data_ptr(), tape.data_ptr() or None, slopes.data_ptr() or None,
        )  # fmt: skip
        zeros = torch.zeros(batch, dtype=torch.int64)
        taken = zeros + count
        calls = taken * problem.stepper.evaluations + 1
        self.statistics = Statistics(taken, taken.clone(), zeros.clone(), calls)
        finite = states.isfinite().all(2).long().cumprod(1).bool()
        states.masked_fill_(~finite[..., None], torch.nan)
        self.outcome = torch.where(finite[:, -1], 0, 3)
        self.tape = {
            "starts": starts, "steps": steps, "states": tape, "slopes": slopes,
            "which": which, "theta": theta,
            "capacity": count, "shared": 1, "count": torch.tensor([count]),
        }  # fmt: skip

    def backward(
        self, start: Tensor, constants: tuple[Tensor, ...], given: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Derivatives by start and constants, of a sum of the states weighted by `given`."""
        tape, (batch, n, _) = self.tape, given.shape
        held = [c.contiguous() for c in constants]
        given = given.contiguous()
        by_start = torch.zeros_like(start)
        size, lanes = sum(self.found.sizes), LANES[start.dtype]
        sums = start.new_zeros(-(-batch // lanes), size)
        tape["count"] = tape["count"].contiguous()
        self.found.library.backward(
            batch, torch.get_num_threads(), n, tape["capacity"], tape["shared"],
            *(tape[name].data_ptr() for name in ("count", "starts", "steps", "states", "slopes")),
            tape["which"].data_ptr(), tape["theta"].data_ptr(),
            self.found.pointers(held), given.data_ptr(), by_start.data_ptr(), sums.data_ptr(),
        )  # fmt: skip
        parts = iter(sums.sum(0).split(list(self.found.sizes)))
        by_constants = [
            next(parts).view(c.shape) if w else None
            for c, w in zip(constants, self.found.wanted, strict=True)
        ]
        return by_start, by_constants

    def again(self, start: Tensor, constants: tuple[Tensor, ...], given: Tensor) -> Any:
        """The same derivatives by torch's operations, which can be differentiated again."""
        graph = self.found.trace.graph
        every = (0, 0, *[None] * len(constants))

        def field(t: Tensor, y: Tensor) -> Tensor:
            rows = torch.vmap(graph, in_dims=every)
            return rows(t[:, None], y[:, None], *constants)[:, 0]

        problem = replace(self.problem, term=ODE(field), start=start, compiled=None)
        states = Direct().solve(problem).states
        leaves = [start, *(c for c, w in zip(constants, self.found.wanted, strict=True) if w)]
        found = iter(
            torch.autograd.grad(states, leaves, given, create_graph=True, allow_unused=True)
        )
        by_start = next(found)
        return by_start, [next(found) if w else None for w in self.found.wanted]


class _Integration(torch.autograd.Function):
    """States at the times as a function of start and constants."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, *constants: Tensor) -> Tensor:  # type: ignore[override]
        ctx.run = run
        ctx.save_for_backward(start, *constants)
        return run.forward(start.detach(), constants, keep=True)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:  # type: ignore[override]
        start, *constants = ctx.saved_tensors
        # A gradient with a graph is to be differentiated once more.
        way = ctx.run.again if torch.is_grad_enabled() else ctx.run.backward
        by_start, by_constants = way(start, tuple(constants), given)
        return None, by_start, *by_constants
