"""When the characteristics of a problem cross, as far as that is known before it is solved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import sympy
from numpy.typing import NDArray

from .characteristics import Carried, Inflow, filled, first_state, unit
from .equation import evaluate

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["breakdown"]

Array = NDArray[np.float64]

LABELS = {1: 512, 2: 48}
"""Labels along each axis, by number of space coordinates, that are followed to see paths cross."""
AGES = 257
"""Ages at which those that come in, or have been there from the first, are looked at."""
MARGIN = 0.02
"""Paths that cross so soon after the end, as a share of the interval, count as crossing."""


def breakdown(problem: Problem, carried: Carried) -> float | None:
    """When characteristics of a problem without diffusion first cross, if they do by the end.

    Followed by age from a grid of labels, with the gradients by label F of the position, G of the
    state and H of the moment: x' = f1, u' = r, t' = 1, F' = f1_x F + f1_u G + f1_t H and so on; H
    is not zero for paths that come in later. They cross where det(F - f1 H), the gradient at one
    moment, is 0. Where a field diffuses (or is driven by gradients of others) the state along a
    path needs the whole solution, so nothing is known beforehand.

    Returns:
        The time, or None: no crossing, or not known.
    """
    names, space = problem.namespace, problem.namespace.space
    rates = [names.jet(f, unit(problem, str(problem.time))) - rest
             for f, rest in zip(problem.fields, carried.rest, strict=True)]  # fmt: skip
    rates = [problem.substituted(sympy.expand(rate)) for rate in rates]
    if any(any(index) for rate in rates for _, index in names.jets(rate).values()):
        return None
    from scipy.integrate import solve_ivp

    d, m = len(space), len(problem.fields)
    values, slopes = first_state(problem, LABELS[d])
    n = values["count"]
    flow = [*(problem.substituted(component) for component in carried.velocity), *rates]
    symbols = [names.symbol(name) for name in (*space, *problem.fields, str(problem.time))]
    jacobian = [[sympy.diff(rate, cast(Any, s)) for s in symbols] for rate in flow]
    low, high = problem.bounds[problem.coordinates.index(str(problem.time))]
    end = high + MARGIN * (high - low)
    start = np.zeros((d + m + 1, d + 1, n))
    start[-1, 0] = low
    for i, name in enumerate(space):
        start[i, 0], start[i, 1 + i] = values[name], 1.0
    for j, name in enumerate(problem.fields):
        start[d + j, 0], start[d + j, 1:] = values[name], slopes[j]
    start = np.concatenate(
        [start, *(_coming(problem, inflow, np.linspace(low, end, n)) for inflow in carried.inflow)],
        axis=2,
    )

    def right(_: float, flat: Array) -> Array:
        state = flat.reshape(start.shape)
        at: dict[str, Any] = {str(s): state[k, 0] for k, s in enumerate(symbols)}
        out = np.zeros_like(state)
        out[-1, 0] = 1.0
        for k, rate in enumerate(flow):
            out[k, 0] = evaluate(rate, at)
            for column in range(d + m + 1):
                slope = np.asarray(evaluate(jacobian[k][column], at))
                out[k, 1:] += slope * state[column, 1:]
        return out.ravel()

    def gradients(state: Array) -> Array:
        """J of every path, 1 where it does not count."""
        speed = right(0.0, state.ravel()).reshape(start.shape)[:d, :1]
        found = np.linalg.det(np.moveaxis(state[:d, 1:] - speed * state[-1:, 1:], 2, 0))
        found[state[-1, 0] > end] = 1.0
        for i, name in enumerate(space):
            if name not in problem.periodic:
                # What has left the domain may do as it likes.
                a, b = problem.bounds[problem.coordinates.index(name)]
                found[(state[i, 0] < a) | (state[i, 0] > b)] = 1.0
        return found

    ages = np.linspace(low, end, AGES)
    with np.errstate(all="ignore"):
        try:
            path = solve_ivp(right, (low, end), start.ravel(), t_eval=ages, rtol=1e-6, atol=1e-9)
            states = path.y.T.reshape(-1, *start.shape)
            table = np.stack([gradients(state) for state in states])
        except (ArithmeticError, TypeError, ValueError):
            return None
    before, after = table[:-1], table[1:]
    age, which = np.nonzero((before > 0) & (after <= 0))
    if not len(age):
        return None
    share = before[age, which] / (before[age, which] - after[age, which])
    step = ages[1] - ages[0]
    return float(np.min(states[age, -1, 0, which] + share * step))


def _coming(problem: Problem, inflow: Inflow, moments: Array) -> Array:
    """Place, state and moment at which paths come in, and their derivatives by label.

    Shape (3, 2, moments) for one field.
    """
    time, (space,) = str(problem.time), problem.namespace.space
    late = inflow.side / inflow.speed
    rows = [np.stack([np.full_like(moments, inflow.end), np.zeros_like(moments)])]
    for field in problem.fields:
        tree: Any = problem.substituted(inflow.values[field])
        slope: Any = sympy.diff(tree, cast(Any, problem.namespace.symbol(time)))
        at = {time: moments, space: np.full_like(moments, inflow.end)}
        rows.append(
            np.stack(
                [
                    filled(evaluate(tree, at), len(moments)),
                    late * filled(evaluate(slope, at), len(moments)),
                ]
            )
        )
    rows.append(np.stack([moments, np.full_like(moments, late)]))
    return np.stack(rows)
