"""A problem written along its characteristics: labels X that do not move, paths x(X, t) that do.

With x = X + V (t - t0) + d(X, t), F = dx/dX = I + grad_X d and J = det F, the equations
``u_t + f1 . grad u = diffusion + sources`` become

    d_t = f1(x, t, u) - V,                u_t|_X = diffusion + sources at x(X, t),
    grad_x = F^{-T} grad_X;               in 1-D  f2 u_xx = f2 (1/J) d/dX ((1/J) du/dX).

V, the mean of f1 over the initial state in periodic coordinates, is the Galilean shift: a mean
speed of any size leaves the equations for d and u as they are without it.

Where paths come in at an end of a line, labels go on beyond it: X = a - s (tau - t0) is the path
that enters x = a at the moment tau, with s the first speed there. The time of the problem in
labels is then t0 plus the age t - tau(X) of a path in the domain, so that all paths begin at one
face of a box, those inside with their first state and those that come in with what is prescribed.

Source: Mojgani, Balajewicz & Hassanzadeh, "Kolmogorov n-width and Lagrangian physics-informed
neural networks", CMAME 404 (2023). Their released code differentiates by the label without the
Jacobian, which solves another equation wherever J is not 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import sympy

from ..errors import ConfigurationError
from .characteristics import Carried, Inflow, NotCarried, mean_state, mean_velocity, read_carried
from .conditions import Condition, Face, Target
from .equation import Equation, MultiIndex, Namespace, to_text

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["Lagrangian", "first_velocity", "guard_equation", "lagrangian", "scaled"]

REST = "labels at rest"


@dataclass(frozen=True)
class Lagrangian:
    """A problem along its characteristics.

    Attributes:
        problem: the problem in labels: coordinates as before (now labels), the fields as before,
            then one displacement per space coordinate.
        displacements: names of these.
        drift: V by space coordinate.
        means: by field the mean of the initial state, which is split off too: fields of
            `problem` are deviations from it.
        jacobian: J, a tree of the displacements' derivatives.
        carried: velocity and diffusion of the original; with inflow, time in `problem` is age.
    """

    problem: Problem
    displacements: tuple[str, ...]
    drift: tuple[float, ...]
    means: tuple[float, ...]
    jacobian: sympy.Expr
    carried: Carried


def lagrangian(problem: Problem, *, shift: bool = True) -> Lagrangian:
    """The problem along its characteristics.

    Args:
        problem: convection-diffusion-reaction in one or two space coordinates, each periodic or
            between walls that nothing crosses; on a line without diffusion, ends may be crossed.
        shift: whether the mean velocity and the mean state are split off.

    Raises:
        ConfigurationError: it has no such form; says why.
    """
    try:
        carried = read_carried(problem)
    except NotCarried as reason:
        raise ConfigurationError(
            f"'{problem.name}' has no Lagrangian form: {reason}", path=("equations",)
        ) from None
    space = problem.namespace.space
    drift = mean_velocity(problem, carried) if shift else (0.0,) * len(space)
    means = mean_state(problem) if shift else (0.0,) * len(problem.fields)
    return _Writer(problem, carried, drift, means).written()


class _Writer:
    """Writes the trees of a problem in labels."""

    def __init__(
        self,
        problem: Problem,
        carried: Carried,
        drift: Sequence[float],
        means: Sequence[float],
    ) -> None:
        self.problem, self.carried, self.drift = problem, carried, tuple(drift)
        self.means = dict(zip(problem.fields, means, strict=True))
        self.space = problem.namespace.space
        self.displacements = tuple(_free_name(problem, x) for x in self.space)
        self.names = Namespace(
            problem.coordinates,
            (*problem.fields, *self.displacements),
            tuple(problem.parameters),
            problem.time,
        )
        self.entry, self.delay = _entries(problem, carried)
        gradient = sympy.Matrix(
            [
                [self._slope(x, d, y) for y in self.space]
                for x, d in zip(self.space, self.displacements, strict=True)
            ]
        )
        self.jacobian = cast(sympy.Expr, gradient.det())
        self.cofactors = gradient.adjugate()

    def written(self) -> Lagrangian:
        time = str(self.problem.time)
        equations = []
        for rest in self.carried.rest:
            equations.append(self._equation(self.tree(rest)))
        for name, velocity, mean in zip(
            self.displacements, self.carried.velocity, self.drift, strict=True
        ):
            relative = self.tree(velocity) - sympy.Float(mean) if mean else self.tree(velocity)
            equations.append(self._equation(self._jet(name, time) - relative))
        spread = any(e.order(x) for e in equations for x in self.space)
        conditions = [self._condition(c) for c in self.problem.conditions]
        conditions.append(self._at_rest())
        if spread:
            # Without diffusion a label on a wall stays there by its own equation.
            conditions += self._walls()
        else:
            conditions = [c for c in conditions if c.kind != "boundary"]
        label_problem = dataclasses.replace(
            self.problem,
            bounds=self._bounds(),
            fields=self.names.fields,
            equations=tuple(equations),
            conditions=tuple(conditions),
            reference_spec={"method": "none"},
            recommended={},
        )
        return Lagrangian(
            label_problem,
            self.displacements,
            self.drift,
            tuple(self.means.values()),
            self.jacobian,
            self.carried,
        )

    def tree(self, tree: sympy.Expr) -> sympy.Expr:
        """A tree with positions, and derivatives by position, as functions of the label.

        Derivatives by time stay: they are taken at a fixed label now.
        """
        names, t = self.names, self.names.symbol(str(self.problem.time))
        start = self.problem.bounds[self.problem.coordinates.index(str(self.problem.time))][0]
        replaced: dict[Any, Any] = {}
        for x, d, mean in zip(self.space, self.displacements, self.drift, strict=True):
            position: Any = self.entry.get(x, names.symbol(x)) + self._jet(d)
            if mean:
                position += sympy.Float(mean) * (t - sympy.Float(start) if start else t)
            replaced[names.symbol(x)] = position
        replaced[t] = t + self.delay
        axis = self.problem.coordinates.index(str(self.problem.time))
        for symbol, (field, index) in self.problem.namespace.jets(tree).items():
            if any(index) and not index[axis]:
                replaced[symbol] = self._by_position(field, index)
            elif not any(index) and self.means[field]:
                replaced[symbol] = symbol + sympy.Float(self.means[field])
        return cast(sympy.Expr, tree.xreplace(replaced))

    def _slope(self, x: str, displacement: str, label: str) -> Any:
        """Derivative of a position by a label at a fixed moment."""
        symbol: Any = self.names.symbol(label)
        late = sympy.diff(self.delay, symbol) if self.delay != 0 else sympy.S.Zero
        own = sympy.diff(self.entry.get(x, self.names.symbol(x)), symbol)
        later: Any = self._jet(displacement, str(self.problem.time)) if late != 0 else 0
        return own + self._jet(displacement, label) - late * later

    def _bounds(self) -> tuple[tuple[float, float], ...]:
        """Of labels: with those that are still to come in."""
        bounds = [(float(low), float(high)) for low, high in self.problem.bounds]
        begin, end = bounds[self._axis(str(self.problem.time))]
        for inflow in self.carried.inflow:
            axis, reach = self._axis(self.space[0]), inflow.speed * (end - begin)
            low, high = bounds[axis]
            bounds[axis] = (low - reach, high) if inflow.side < 0 else (low, high + reach)
        return tuple(bounds)

    def _by_position(self, field: str, index: MultiIndex) -> sympy.Expr:
        """A derivative by position: (F^{-T} grad_X)_i, applied once for each order."""
        found: Any = self._jet(field)
        for x, order in zip(self.problem.coordinates, index, strict=True):
            for _ in range(order):
                i = self.space.index(x)
                total: Any = sympy.S.Zero
                for a, label in enumerate(self.space):
                    total += self.cofactors[a, i] * self.names.total_derivative(found, label)
                found = total / self.jacobian
        return found

    def _jet(self, field: str, *coordinates: str) -> Any:
        index = tuple(coordinates.count(c) for c in self.problem.coordinates)
        return self.names.jet(field, index)

    def _equation(self, tree: Any) -> Equation:
        return Equation(f"{to_text(tree)} = 0", self.names, tree)

    def _condition(self, condition: Condition) -> Condition:
        if condition.kind != "boundary":
            # At the first moment positions are labels, or the end where they come in.
            targets = tuple(
                dataclasses.replace(t, tree=self._deviation(t, self._entered(t)))
                for t in condition.targets
            )
            equations = tuple(
                self._equation(self.names.jet(t.field, t.index) - t.tree) for t in targets
            )
            return dataclasses.replace(condition, equations=equations, targets=targets)
        prescribed, free = [], []
        for position, equation in enumerate(condition.equations):
            assert equation.tree is not None
            target = condition.targets[position] if position < len(condition.targets) else None
            if target is not None and (kept := self._target(target)) is not None:
                jet = self.names.jet(kept.field, kept.index)
                prescribed.append((self._equation(jet - kept.tree), kept))
            else:
                free.append(self._equation(self.tree(equation.tree)))
        return dataclasses.replace(
            condition,
            equations=(*(e for e, _ in prescribed), *free),
            targets=tuple(t for _, t in prescribed),
        )

    def _entered(self, target: Target) -> sympy.Expr:
        """First state of a path, by label."""
        tree: Any = target.tree
        if not self.carried.inflow:
            return tree
        (x,), time = self.space, self.names.symbol(str(self.problem.time))
        start = sympy.Float(self.problem.bounds[self._axis(str(self.problem.time))][0])
        tree = tree.xreplace({self.names.symbol(x): self.entry[x]})
        for inflow in self.carried.inflow:
            coming: Any = inflow.values[target.field]
            late = _delay(self.names.symbol(x), inflow)
            tree += coming.xreplace({time: start + late}) - coming.xreplace({time: start})
        return tree

    def _target(self, target: Target) -> Target | None:
        """A prescribed value that is one in labels too, else None."""
        if any(target.index):
            # u_x = u_X / J: zero where u_X is.
            alone = len(self.space) == 1 and sum(target.index) == 1 and target.tree == 0
            return target if alone else None
        tree = self._deviation(target, self.tree(target.tree))
        return None if self.names.jets(tree) else Target(target.field, target.index, tree)

    def _deviation(self, target: Target, tree: sympy.Expr) -> sympy.Expr:
        mean = 0.0 if any(target.index) else self.means[target.field]
        return cast(sympy.Expr, tree - sympy.Float(mean)) if mean else tree

    def _at_rest(self) -> Condition:
        time = str(self.problem.time)
        start = self.problem.bounds[self.problem.coordinates.index(time)][0]
        return self._zero(REST, "initial", Face(time, float(start), -1), self.displacements)

    def _walls(self) -> list[Condition]:
        found = []
        for x, d in zip(self.space, self.displacements, strict=True):
            if x in self.problem.periodic:
                continue
            for side, end in zip((-1, 1), self.problem.bounds[self._axis(x)], strict=True):
                face = Face(x, float(end), side)
                found.append(self._zero(f"labels on {face}", "boundary", face, [d]))
        return found

    def _zero(self, name: str, kind: Any, face: Face, fields: Sequence[str]) -> Condition:
        zero = (0,) * len(self.problem.coordinates)
        equations = tuple(self._equation(self._jet(field)) for field in fields)
        targets = tuple(Target(field, zero, sympy.S.Zero) for field in fields)
        return Condition(name, kind, (face,), equations, targets)

    def _axis(self, name: str) -> int:
        return self.problem.coordinates.index(name)


def _delay(x: Any, inflow: Inflow) -> Any:
    """How long after the start the path of a label comes in at an end."""
    beyond = inflow.side * (x - sympy.Float(inflow.end))
    return sympy.Piecewise((beyond / sympy.Float(inflow.speed), beyond > 0), (0, True))


def _entries(problem: Problem, carried: Carried) -> tuple[dict[str, Any], Any]:
    """Where paths begin, by coordinate where that is not the label, and how late."""
    if not carried.inflow:
        return {}, sympy.S.Zero
    (name,) = problem.namespace.space
    x: Any = problem.namespace.symbol(name)
    place, delay = x, sympy.S.Zero
    for inflow in carried.inflow:
        late = _delay(x, inflow)
        place, delay = place - inflow.side * sympy.Float(inflow.speed) * late, delay + late
    return {name: place}, delay


def _free_name(problem: Problem, coordinate: str) -> str:
    """A name for the displacement along a coordinate that nothing else has."""
    taken = {*problem.coordinates, *problem.fields, *problem.parameters}
    name = f"d{coordinate}"
    while name in taken:
        name = f"d{name}"
    return name


def scaled(equation: Equation, factor: float) -> Equation:
    """The same equation times a number."""
    tree: Any = equation.tree
    tree = sympy.Float(factor) * tree
    return Equation(f"{to_text(tree)} = 0", equation.namespace, tree)


def guard_equation(form: Lagrangian, least: float) -> Equation:
    """``max(0, 1 - J / least) = 0``: nothing while J is above its least value."""
    excess = 1 - form.jacobian / sympy.Float(least)
    tree = cast(sympy.Expr, sympy.Max(excess, 0))
    return Equation(f"{to_text(tree)} = 0", form.problem.namespace, tree)


def first_velocity(form: Lagrangian) -> tuple[sympy.Expr, ...]:
    """f1 - V of the first state, trees of the coordinates alone (label, and age where that is)."""
    problem = form.problem
    means = dict(zip(problem.fields, form.means, strict=False))
    known: dict[Any, Any] = {
        problem.namespace.symbol(target.field): target.tree
        + sympy.Float(means.get(target.field, 0.0))
        for condition in problem.conditions
        if condition.kind == "initial"
        for target in condition.targets
    }
    entry, delay = _entries(problem, form.carried)
    known |= {problem.namespace.symbol(name): place for name, place in entry.items()}
    time: Any = problem.namespace.symbol(str(problem.time))
    known[time] = time + delay
    found = []
    for velocity, mean in zip(form.carried.velocity, form.drift, strict=True):
        tree: Any = problem.substituted(cast(Any, velocity.xreplace(known))) - mean
        # Labels in free flight know the slope of it, which min and max have not.
        found.append(tree.rewrite((sympy.Min, sympy.Max), sympy.Piecewise))
    return tuple(found)
