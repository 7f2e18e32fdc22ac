"""Hybrid systems: a flow that jumps at events, such as a ball that bounces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigurationError
from .events import Event
from .integrate import integrate
from .solution import Crossings, Outcome, Solution, Statistics
from .terms import Term

__all__ = ["integrate_with_jumps"]

Jump = Callable[[Tensor, Tensor], Tensor]


def integrate_with_jumps(
    term: Term,
    start: Tensor,
    times: Tensor | Sequence[float],
    event: Event,
    jump: Jump,
    *,
    most: int = 100,
    **options: Any,
) -> Solution:
    """Integrate; at every event the state is replaced by ``jump(t, y)`` and the flow goes on.

    Every sample jumps at times of its own. States and jump times are differentiable: by the
    implicit function theorem at each event, and by dy/dsince = -f at each restart.

    Args:
        term: right-hand side.
        start: shape (batch, d).
        times: shape (n,), monotonic. At the time of a jump the state is that after it.
        event: when the state jumps; terminal.
        jump: t (batch,), y (batch, d) gives (batch, d), in the dtype of the state.
        most: jumps of a sample; one that would have more is given up with Outcome.STEP_LIMIT.
        options: of `integrate`.

    Returns:
        a solution whose `crossings[0]` holds all jumps, with the states before them.

    Raises:
        ConfigurationError: the event is not terminal, or an option that has no meaning here.
    """
    if not event.terminal:
        raise ConfigurationError("A jump ends a flight.", advice="make the event terminal")
    for name in ("events", "since", "dense"):
        if name in options:
            raise ConfigurationError(f"{name} cannot be given together with jumps.", found=name)
    options = {"path": "eager", **options}
    y, since = start, None
    states: Tensor | None = None
    outcome = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    alive = torch.ones_like(outcome, dtype=torch.bool)
    jumps: list[tuple[Tensor, Tensor, Tensor]] = []
    counts: list[Statistics] = []
    flight: Solution | None = None
    for turn in range(most + 1):
        flight = integrate(term, y, times, events=(event,), since=since, **options)
        states = _merged(states, flight, since, alive)
        counts.append(flight.statistics)
        assert flight.event is not None and flight.event_times is not None
        assert flight.event_states is not None
        happened = alive & (flight.event >= 0)
        outcome = torch.where(alive & ~happened, flight.outcome, outcome)
        alive = happened
        if not bool(happened.any()):
            break
        if turn == most:
            outcome = torch.where(happened, int(Outcome.STEP_LIMIT), outcome)
            break
        rows = happened.nonzero()[:, 0]
        jumps.append((rows, flight.event_times[rows], flight.event_states[rows]))
        # The others rest at the last time. Their state there need not be finite.
        before = torch.where(happened[:, None], flight.event_states, start.detach())
        since = torch.where(happened, flight.event_times, flight.times[-1])
        after = jump(since.to(start.dtype), before)
        y = torch.where(happened[:, None], after, start.detach())
    assert flight is not None and states is not None
    return Solution(
        flight.times,
        states,
        outcome,
        _summed(counts),
        crossings=(_joined(jumps, start),),
        path="eager",
        note=f"{len(counts)} flights",
    )


def _merged(states: Tensor | None, flight: Solution, since: Tensor | None, alive: Tensor) -> Tensor:
    """States (batch, n, d) with those of a flight from where it began."""
    if states is None or since is None:
        return flight.states
    forward = bool(flight.times[-1] > flight.times[0])
    begun = since.detach()[:, None]
    reached = flight.times >= begun if forward else flight.times <= begun
    return torch.where((reached & alive[:, None])[..., None], flight.states, states)


def _summed(counts: list[Statistics]) -> Statistics:
    names = ("steps", "accepted", "rejected", "evaluations")
    return Statistics(*(torch.stack([getattr(c, name) for c in counts]).sum(0) for name in names))


def _joined(jumps: list[tuple[Tensor, Tensor, Tensor]], start: Tensor) -> Crossings:
    if not jumps:
        nowhere = torch.zeros(0, dtype=torch.int64, device=start.device)
        return Crossings(nowhere, torch.full((0,), math.nan).double(), start[:0])
    rows, times, states = zip(*jumps, strict=True)
    return Crossings(torch.cat(rows), torch.cat(times), torch.cat(states))
