"""What carries a problem: velocity and diffusion read off its equations.

Convection-diffusion-reaction means, for every field,

    u_t + f1(x, t, u) . grad u = sum_ij f2_ij(x, t, u) u_ij + (gradients of other fields, sources),

with one velocity f1 for all fields. A characteristic follows dx/dt = f1 (Courant & Hilbert,
Methods of Mathematical Physics II, ch. II; Mojgani, Balajewicz & Hassanzadeh, CMAME 404, 2023).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import sympy
from numpy.typing import NDArray

from .equation import Equation, MultiIndex, evaluate

if TYPE_CHECKING:
    from .problem import Problem

__all__ = [
    "Carried",
    "Inflow",
    "NotCarried",
    "filled",
    "first_state",
    "initial_spread",
    "mean_state",
    "mean_velocity",
    "read_carried",
    "unit",
]

Array = NDArray[np.float64]

MOST_AXES = 2
PROBES = 32
AGREEMENT = 1e-10
CLOSE = 1e-6
"""Difference of two prescribed values that is none."""


class NotCarried(ValueError):
    """Why a problem has no Lagrangian form, as the rest of a sentence."""


@dataclass(frozen=True)
class Inflow:
    """An end of the line through which paths come in.

    Attributes:
        side: -1 for the low end, +1 for the high one.
        end: its position.
        speed: of what comes in at the first moment, positive.
        values: by field what is prescribed there, trees of time and parameters.
    """

    side: int
    end: float
    speed: float
    values: Mapping[str, sympy.Expr]


@dataclass(frozen=True)
class Carried:
    """A problem as convection-diffusion-reaction.

    Attributes:
        velocity: f1, one tree of coordinates, fields and parameters per space coordinate.
        diffusion: f2 by field and second derivative.
        rest: per field, in declared order, ``u_t`` plus everything but the convection of it: the
            left side of ``rest = 0`` along a characteristic.
        inflow: ends through which paths come in.
    """

    velocity: tuple[sympy.Expr, ...]
    diffusion: Mapping[str, Mapping[MultiIndex, sympy.Expr]]
    rest: tuple[sympy.Expr, ...]
    inflow: tuple[Inflow, ...] = ()


def read_carried(problem: Problem) -> Carried:
    """Velocity, diffusion and the rest of a problem.

    Raises:
        NotCarried: it is not convection-diffusion-reaction with one velocity in 1-D or 2-D, or its
            characteristics cross an end and no more is known of them.
    """
    if problem.time is None:
        raise NotCarried("there is no time coordinate t to follow characteristics along")
    space = problem.namespace.space
    if not space:
        raise NotCarried("there is no space coordinate to be carried in")
    if len(space) > MOST_AXES:
        raise NotCarried(
            f"it has {len(space)} space coordinates; the Lagrangian form is for at most {MOST_AXES}"
        )
    if problem.time in problem.periodic:
        raise NotCarried("the problem is periodic in time, so there is no first moment")
    if len(problem.equations) != len(problem.fields):
        raise NotCarried(
            f"{len(problem.equations)} equations for {len(problem.fields)} fields: each field "
            "needs one of its own"
        )
    by_field: dict[str, tuple[tuple[sympy.Expr, ...], dict[MultiIndex, sympy.Expr], Any]] = {}
    for equation in problem.equations:
        field, tree = _normalised(problem, equation)
        if field in by_field:
            raise NotCarried(f"two equations hold the time derivative of {field}")
        by_field[field] = _split(problem, equation, field, tree)
    first = problem.fields[0]
    velocity = by_field[first][0]
    for name in problem.fields[1:]:
        for one, other in zip(velocity, by_field[name][0], strict=True):
            if not _zero(problem, one - other):
                raise NotCarried(
                    f"{first} is carried by {one} and {name} by {other}: the fields need one "
                    "velocity"
                )
    if all(_zero(problem, component) for component in velocity):
        raise NotCarried(
            "nothing is carried: no equation holds a velocity times a first derivative, so the "
            "Lagrangian form is the equation itself"
        )
    carried = Carried(
        velocity,
        {name: by_field[name][1] for name in problem.fields},
        tuple(by_field[name][2] for name in problem.fields),
    )
    for name in problem.periodic:
        _check_period(problem, carried, name)
    ends = [
        _read_end(problem, carried, i, side)
        for i, name in enumerate(space)
        if name not in problem.periodic
        for side in (-1, 1)
    ]
    return replace(carried, inflow=tuple(end for end in ends if end is not None))


def mean_velocity(problem: Problem, carried: Carried) -> tuple[float, ...]:
    """Mean of f1 over the initial state by space coordinate; 0 where the domain has walls."""
    values, _ = first_state(problem, 64)
    means = []
    for name, component in zip(problem.namespace.space, carried.velocity, strict=True):
        if name not in problem.periodic:
            means.append(0.0)
            continue
        found = np.broadcast_to(np.asarray(_evaluate(problem, component, values)), values["count"])
        mean = float(np.mean(found))
        # A mean that is rounding of a symmetric velocity would spoil the symmetry.
        small = not np.isfinite(mean) or abs(mean) <= 1e-9 * float(np.max(np.abs(found)))
        means.append(0.0 if small else mean)
    return tuple(means)


def mean_state(problem: Problem) -> tuple[float, ...]:
    """Mean of the initial values of each field; 0 where that is rounding."""
    values, _ = first_state(problem, 64)
    means = []
    for name in problem.fields:
        mean = float(np.mean(values[name]))
        small = not np.isfinite(mean) or abs(mean) <= 1e-9 * float(np.max(np.abs(values[name])))
        means.append(0.0 if small else mean)
    return tuple(means)


def initial_spread(problem: Problem) -> dict[str, float]:
    """Half the range of the initial values of each field; 1 where they are constant."""
    values, _ = first_state(problem, 64)
    spread = {name: float(np.ptp(values[name])) / 2 for name in problem.fields}
    return {name: s if np.isfinite(s) and s > 0 else 1.0 for name, s in spread.items()}


def unit(problem: Problem, *names: str) -> MultiIndex:
    """The multi-index of a derivative by some coordinates."""
    return tuple(names.count(name) for name in problem.coordinates)


def _normalised(problem: Problem, equation: Equation) -> tuple[str, sympy.Expr]:
    """The field whose time derivative the equation holds, and the tree with coefficient 1 of it."""
    where = f"'{equation.text}'"
    if equation.tree is None:
        raise NotCarried(f"{where} is a Python function that is no expression")
    names, time = problem.namespace, str(problem.time)
    axis = problem.coordinates.index(time)
    tree = sympy.expand(equation.tree)
    jets = names.jets(tree)
    timelike = {symbol: place for symbol, place in jets.items() if place[1][axis]}
    if len(timelike) != 1 or sum(next(iter(timelike.values()))[1]) != 1:
        held = ", ".join(str(s) for s in timelike) or "none"
        raise NotCarried(f"{where} must hold one time derivative, of first order, and holds {held}")
    ((symbol, (field, _)),) = timelike.items()
    slope = sympy.diff(tree, symbol)
    if names.jets(slope):
        raise NotCarried(f"the factor {slope} of {symbol} in {where} depends on a field")
    for other, (_, index) in jets.items():
        if sum(index) > 2:
            raise NotCarried(
                f"{where} holds {other}, which is neither convection, diffusion nor reaction"
            )
    return field, cast(sympy.Expr, sympy.expand(tree / slope))


def _split(
    problem: Problem, equation: Equation, field: str, tree: sympy.Expr
) -> tuple[tuple[sympy.Expr, ...], dict[MultiIndex, sympy.Expr], sympy.Expr]:
    """Velocity, diffusion and rest of one equation."""
    names, space = problem.namespace, problem.namespace.space
    jets = names.jets(tree)
    time = names.jet(field, unit(problem, str(problem.time)))
    second = {s: place for s, place in jets.items() if sum(place[1]) == 2}
    first = {s: place for s, place in jets.items() if sum(place[1]) == 1 and s != time}
    diffusion: dict[MultiIndex, sympy.Expr] = {}
    quadratic: Any = sympy.S.Zero
    for symbol, (name, index) in second.items():
        factor = -sympy.diff(tree, symbol)
        if any(sum(i) for _, i in names.jets(factor).values()):
            raise NotCarried(
                f"the factor {factor} of {symbol} in '{equation.text}' depends on derivatives of "
                "a field, so it is no diffusion f2(x, t, u)"
            )
        if name == field:
            diffusion[index] = factor
        if max(index) == 2:
            # div(f2 grad u) = f2 lap u + f2_u |grad u|^2 + ...: belongs to the diffusion.
            axis = problem.coordinates[index.index(2)]
            for other in problem.fields:
                slope = sympy.diff(factor, cast(Any, names.symbol(other)))
                jet = names.jet(other, unit(problem, axis))
                quadratic -= slope * jet * names.jet(name, unit(problem, axis))
    flat: Any = tree.xreplace(dict.fromkeys(second, sympy.S.Zero))
    still = dict.fromkeys(first, sympy.S.Zero)
    linear: dict[Any, Any] = {s: sympy.diff(flat, s).xreplace(still) for s in first}
    nonlinear = flat - flat.xreplace(still) - sum((c * s for s, c in linear.items()), sympy.S.Zero)
    # f2 u_xx as it stands, or what is left of (f2 u_x)_x.
    if not (_zero(problem, nonlinear) or _zero(problem, nonlinear - quadratic)):
        raise NotCarried(
            f"'{equation.text}' is not linear in the gradient, so no velocity f1(x, t, u) can be "
            "read off it"
        )
    velocity = tuple(
        cast(sympy.Expr, linear.get(names.jet(field, unit(problem, x)), sympy.S.Zero))
        for x in space
    )
    carried = sum(
        (v * names.jet(field, unit(problem, x)) for v, x in zip(velocity, space, strict=True)),
        sympy.S.Zero,
    )
    return velocity, diffusion, cast(sympy.Expr, sympy.expand(tree - carried))


def _zero(problem: Problem, tree: Any, tolerance: float = AGREEMENT) -> bool:
    """Whether a tree is zero, judged at random points of the jet space."""
    tree = problem.substituted(sympy.expand(tree))
    if tree.is_number:
        return bool(abs(complex(tree)) <= tolerance)
    random = np.random.default_rng(20220506)
    at: dict[str, Any] = {str(s): random.uniform(0.1, 2.0, PROBES) for s in tree.free_symbols}
    for name, (low, high) in zip(problem.coordinates, problem.bounds, strict=True):
        at[name] = random.uniform(low, high, PROBES)
    with np.errstate(all="ignore"):
        values = np.asarray(evaluate(tree, at))
    return bool(np.all(np.abs(values) <= tolerance))


def _check_period(problem: Problem, carried: Carried, name: str) -> None:
    """Labels go round and round, so a formula must mean the same one period on."""
    low, high = problem.bounds[problem.coordinates.index(name)]
    x: Any = problem.namespace.symbol(name)
    for tree in (*carried.velocity, *carried.rest):
        if not _zero(problem, tree - tree.xreplace({x: x + sympy.Float(high - low)})):
            raise NotCarried(
                f"{name} is periodic and '{tree}' is not: a path that goes round would find other "
                f"values; write it with functions of period {high - low:.6g}"
            )


def _read_end(problem: Problem, carried: Carried, i: int, side: int) -> Inflow | None:
    """What happens at an end that is not periodic; None where nothing comes in."""
    name, velocity = problem.namespace.space[i], carried.velocity[i]
    axis = problem.coordinates.index(name)
    end = float(problem.bounds[axis][0 if side < 0 else 1])
    x: Any = problem.namespace.symbol(name)
    known, stated = _prescribed(problem, name, side)
    symbols: dict[Any, Any] = {problem.namespace.symbol(f): tree for f, tree in known.items()}
    there = cast(sympy.Expr, velocity.xreplace(symbols).xreplace({x: sympy.Float(end)}))
    place = f"{name} = {end:.6g}"
    if _zero(problem, there):
        if stated and not _follows(problem, carried, name, end, known):
            raise NotCarried(
                f"nothing is carried to or from {place}, and nothing diffuses, so the values there "
                "follow from the first ones, and are not what is prescribed: leave the condition "
                "out, or add diffusion"
            )
        return None
    crossed = f"the velocity {velocity} does not vanish at {place}, where characteristics "
    if len(problem.namespace.space) > 1:
        raise NotCarried(
            f"{crossed}leave or enter; in two space coordinates {name} must be periodic, or a wall"
        )
    jets = [j for rest in carried.rest for j in problem.namespace.jets(
        problem.substituted(sympy.expand(rest))).values()]  # fmt: skip
    if any(index[axis] for _, index in jets):
        raise NotCarried(
            f"{crossed}leave or enter: with diffusion the condition there is on none of them, so "
            f"{name} must be periodic, or a wall"
        )
    first, outward = _outward(problem, carried, there, end, side)
    if first > 0:
        if stated:
            raise NotCarried(f"characteristics leave at {place}, where nothing can be prescribed")
        if outward is None or outward < 0:
            raise NotCarried(f"characteristics leave at {place} at first, and enter later")
        return None
    if len(known) < len(problem.fields):
        missing = ", ".join(f for f in problem.fields if f not in known)
        raise NotCarried(
            f"characteristics enter at {place}, where the value of {missing} is not prescribed"
        )
    if outward is None or outward >= 0 or first == 0:
        raise NotCarried(f"characteristics do not enter at {place} at all times")
    _check_corner(problem, known, name, end)
    return Inflow(side, end, -first, known)


def _follows(
    problem: Problem, carried: Carried, name: str, end: float, known: Mapping[str, sympy.Expr]
) -> bool:
    """Whether values prescribed at a wall that no path crosses are those that the paths on it have.

    Where something diffuses they are free.
    """
    names, axis = problem.namespace, problem.coordinates.index(name)
    time = problem.coordinates.index(str(problem.time))
    for rest in carried.rest:
        found = names.jets(problem.substituted(sympy.expand(rest))).values()
        if any(sum(index) > index[time] for _, index in found):
            return True
    there: Any = {names.symbol(name): sympy.Float(end)}
    start: Any = {names.symbol(str(problem.time)): sympy.Float(problem.bounds[time][0])}
    differences: list[Any] = []
    for equation in problem.equations:
        tree: Any = equation.tree
        values: dict[Any, Any] = {}
        for symbol, (field, index) in names.jets(tree).items():
            value: Any = known.get(field, symbol)
            for coordinate, order in zip(problem.coordinates, index, strict=True):
                for _ in range(order if field in known else 0):
                    value = names.total_derivative(value, coordinate)
            # Slopes across the wall meet a velocity of zero.
            values[symbol] = sympy.S.Zero if index[axis] else value
        difference = tree.xreplace(values).xreplace(there)
        if not names.jets(difference):
            differences.append(difference)
    for condition in problem.conditions:
        if condition.kind == "initial":
            differences += [
                (target.tree - known[target.field]).xreplace(there).xreplace(start)
                for target in condition.targets
                if target.field in known
            ]
    return all(_zero(problem, difference, CLOSE) for difference in differences)


def _prescribed(problem: Problem, name: str, side: int) -> tuple[dict[str, sympy.Expr], bool]:
    """Values prescribed at an end by field, and whether any condition is there."""
    known: dict[str, sympy.Expr] = {}
    stated = False
    for condition in problem.conditions:
        face = condition.faces[0]
        if condition.kind == "boundary" and (face.coordinate, face.side) == (name, side):
            stated = True
            known |= {t.field: t.tree for t in condition.targets if not any(t.index)}
    return known, stated


def _outward(
    problem: Problem, carried: Carried, there: sympy.Expr, end: float, side: int
) -> tuple[float, float | None]:
    """Outward velocity at an end: at first, and the one that is nearest to changing its sign.

    Where it depends on what is not prescribed, the path that begins at the end tells: in place of
    its velocity, how far out it is later at least.
    """
    low, high = problem.bounds[problem.coordinates.index(str(problem.time))]
    times = np.linspace(low, high, 257)
    at = {str(problem.time): times}
    tree = problem.substituted(sympy.expand(there))
    if not problem.namespace.jets(tree):
        found = side * filled(evaluate(tree, at), len(times))
        nearest = found.min() if found[0] > 0 else found.max()
        return float(found[0]), float(nearest) if np.isfinite(found).all() else None
    from scipy.integrate import solve_ivp

    names, (name,) = problem.namespace, problem.namespace.space
    values, _ = first_state(problem, 2)
    which = 0 if side < 0 else -1
    start = [float(values[n][which]) for n in (name, *problem.fields)]
    rates = [names.jet(f, unit(problem, str(problem.time))) - rest
             for f, rest in zip(problem.fields, carried.rest, strict=True)]  # fmt: skip
    flow = [problem.substituted(sympy.expand(r)) for r in (*carried.velocity, *rates)]

    def right(t: float, state: Array) -> Array:
        here: dict[str, Any] = {str(problem.time): t, name: state[0]}
        here |= dict(zip(problem.fields, state[1:], strict=True))
        return np.array([float(evaluate(rate, here)) for rate in flow])

    first = side * float(right(low, np.array(start))[0])
    with np.errstate(all="ignore"):
        try:
            path = solve_ivp(right, (low, high), start, t_eval=times, rtol=1e-8, atol=1e-10)
        except (ArithmeticError, TypeError, ValueError):
            return first, None
    return first, float(np.min(side * (path.y[0] - end))) + AGREEMENT


def _check_corner(problem: Problem, known: Mapping[str, sympy.Expr], name: str, end: float) -> None:
    """A jump between first values and those that come in would be carried through the domain."""
    start = problem.bounds[problem.coordinates.index(str(problem.time))][0]
    at = {name: np.array([end]), str(problem.time): np.array([float(start)])}
    for condition in problem.conditions:
        if condition.kind != "initial":
            continue
        for target in condition.targets:
            inside, outside = (
                float(filled(evaluate(problem.substituted(tree), at), 1)[0])
                for tree in (target.tree, known[target.field])
            )
            if not abs(inside - outside) <= CLOSE * max(1.0, abs(inside), abs(outside)):
                raise NotCarried(
                    f"{target.field} begins with {inside:.6g} at {name} = {end:.6g} and comes in "
                    f"with {outside:.6g}: the jump would be carried through the domain"
                )


def first_state(problem: Problem, per_axis: int) -> tuple[dict[str, Any], list[list[Array]]]:
    """Coordinates, fields and their space derivatives on a grid of labels at the first moment.

    Returns:
        Values by name, with ``count``, their number; and the derivatives by field and axis.
    """
    names, space = problem.namespace, problem.namespace.space
    axes = []
    for name in space:
        low, high = problem.bounds[problem.coordinates.index(name)]
        axes.append(np.linspace(low, high, per_axis, endpoint=name not in problem.periodic))
    grid = np.array(list(itertools.product(*axes)))
    values: dict[str, Any] = {name: grid[:, i] for i, name in enumerate(space)}
    values[str(problem.time)] = problem.bounds[problem.coordinates.index(str(problem.time))][0]
    values["count"] = len(grid)
    trees = {
        target.field: problem.substituted(target.tree)
        for condition in problem.conditions
        if condition.kind == "initial"
        for target in condition.targets
        if not any(target.index)
    }
    slopes: list[list[Array]] = []
    for field in problem.fields:
        tree = trees.get(field, sympy.S.Zero)
        values[field] = filled(evaluate(tree, values), len(grid))
        derivatives: Sequence[Any] = [names.total_derivative(tree, x) for x in space]
        slopes.append([filled(evaluate(tree, values), len(grid)) for tree in derivatives])
    return values, slopes


def _evaluate(problem: Problem, tree: sympy.Expr, values: Mapping[str, Any]) -> Any:
    return evaluate(problem.substituted(tree), values)


def filled(value: Any, count: int) -> Array:
    """A value, or one number for all, shape (count,)."""
    return np.array(np.broadcast_to(np.asarray(value, dtype=float), (count,)))
