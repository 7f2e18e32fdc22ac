"""A problem in DeepXDE's terms: geometry, residual functions, conditions, points.

Only the worker imports this module: importing DeepXDE changes torch for the whole process.

DeepXDE puts time last among the columns of its points, whatever the order of declaration. An
equation is evaluated on the same tree as everywhere in Residua; only its derivatives come from
DeepXDE: `dde.grad.jacobian` and `dde.grad.hessian`, one inside the other beyond the second order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepxde
import numpy as np
import sympy
import torch
from torch import Tensor

from ...config import Case
from ...engine.functions import TORCH
from ...engine.residuals import condition_term
from ...errors import ConfigurationError
from ...problems.conditions import Condition, Face, Target
from ...problems.equation import NUMPY, Equation, MultiIndex, evaluate
from ...problems.problem import Problem
from .options import SAMPLERS, DeepxdeOptions

__all__ = ["Constraint", "Translation", "configure", "training_data"]

dde: Any = deepxde  # it declares no types, and what checkers guess is wrong

INTERIOR = "interior"


def configure(case: Case) -> None:
    """Set DeepXDE's global precision and seed.

    Its own default is float32, in which L-BFGS stops early.
    """
    dde.config.set_default_float(case.run.dtype)
    dde.config.set_random_seed(case.run.seed % 2**32)  # NumPy's global generator takes no more


@dataclass(frozen=True)
class Constraint:
    """One of DeepXDE's conditions, which has a loss of its own.

    Attributes:
        term: name of the condition of the problem it belongs to.
        kind: the same as "residual", "initial", "boundary" or "periodic".
        says: what is imposed, in words.
        object: the DeepXDE object.
    """

    term: str
    kind: str
    says: str
    object: Any


class Translation:
    """One problem in DeepXDE's terms.

    Attributes:
        order: for each column of DeepXDE's points, its place among the declared coordinates.
        geometry: of space and time together.
        constraints: the conditions, all of them soft.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        names = problem.coordinates
        space = problem.namespace.space
        ordered = space if problem.time is None else (*space, problem.time)
        self.order = [names.index(name) for name in ordered]
        self.column = {name: position for position, name in enumerate(ordered)}
        self.component = {name: position for position, name in enumerate(problem.fields)}
        self.geometry = self._geometry([problem.bounds[names.index(name)] for name in space])
        self.constraints = [c for one in problem.conditions for c in self._constraints(one)]

    @property
    def shape(self) -> str:
        """The geometry in words, such as "Interval x TimeDomain"."""
        geometry = self.geometry
        if not isinstance(geometry, dde.geometry.GeometryXTime):
            return type(geometry).__name__
        return f"{type(geometry.geometry).__name__} x TimeDomain"

    def residuals(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """DeepXDE's pde function.

        Args:
            x: points, shape (n, coordinates), time last.
            y: outputs of the network there, shape (n, fields).

        Returns:
            For each equation its residual, shape (n, 1).
        """
        return [self._residual(equation, x, y) for equation in self.problem.equations]

    # Equations
    # ------------------------------------------------------------------------------------

    def _residual(self, equation: Equation, x: Tensor, y: Tensor) -> Tensor:
        values: dict[str, Any] = dict(self.problem.values)
        values |= {name: x[:, column : column + 1] for name, column in self.column.items()}
        for name, indices in equation.derivatives.items():
            for index in indices:
                symbol = str(self.problem.namespace.jet(name, index))
                values[symbol] = self._derivative(self.component[name], index, x, y)
        residual = torch.as_tensor(equation.residual(values, TORCH), dtype=y.dtype)
        return residual.expand(len(x), 1)

    def _derivative(self, component: int, index: MultiIndex, x: Tensor, y: Tensor) -> Tensor:
        """The derivative that `index` counts by declared coordinate, shape (n, 1)."""
        axes = [column for column, place in enumerate(self.order) for _ in range(index[place])]
        if not axes:
            return y[:, component : component + 1]
        if len(axes) == 1:
            return dde.grad.jacobian(y, x, i=component, j=axes[0])
        value = dde.grad.hessian(y, x, component=component, i=axes[0], j=axes[1])
        for axis in axes[2:]:
            value = dde.grad.jacobian(value, x, i=0, j=axis)
        return value

    def _on_points(self, tree: sympy.Expr) -> Callable[[np.ndarray], np.ndarray]:
        """A function of coordinates and parameters, (n, coordinates) -> (n, 1)."""

        def function(x: np.ndarray) -> np.ndarray:
            values: dict[str, Any] = dict(self.problem.values)
            values |= {name: x[:, column : column + 1] for name, column in self.column.items()}
            return np.broadcast_to(evaluate(tree, values, NUMPY), (len(x), 1)).astype(x.dtype)

        return function

    # Geometry and conditions
    # ------------------------------------------------------------------------------------

    def _geometry(self, space: Sequence[tuple[float, float]]) -> Any:
        time = None
        if self.problem.time is not None:
            axis = self.problem.coordinates.index(self.problem.time)
            time = dde.geometry.TimeDomain(*self.problem.bounds[axis])
        if not space:
            return time
        low, high = ([ends[side] for ends in space] for side in (0, 1))
        if len(space) == 1:
            box: Any = dde.geometry.Interval(low[0], high[0])
        elif len(space) == 2:
            box = dde.geometry.Rectangle(low, high)
        elif len(space) == 3:
            box = dde.geometry.Cuboid(low, high)
        else:
            box = dde.geometry.Hypercube(low, high)
        return box if time is None else dde.geometry.GeometryXTime(box, time)

    def _on(self, faces: Sequence[Face]) -> Callable[[np.ndarray, bool], bool]:
        """DeepXDE's filter of the points on some faces.

        It asks for each point whether it lies on the boundary, with a tolerance relative to the
        coordinate; the distance to the face, relative to the side, is the surer test.
        """
        places = []
        for face in faces:
            low, high = self.problem.bounds[self.problem.coordinates.index(face.coordinate)]
            near = (1e-6 if dde.config.default_float() == "float32" else 1e-10) * (high - low)
            places.append((self.column[face.coordinate], face.value, near))

        def is_on(x: np.ndarray, on: bool) -> bool:
            return any(abs(x[column] - value) <= near for column, value, near in places)

        return is_on

    def _constraints(self, condition: Condition) -> list[Constraint]:
        if condition.kind == "periodic":
            return self._periodic(condition)
        found = []
        for position, equation in enumerate(condition.equations):
            target = condition.targets[position] if position < len(condition.targets) else None
            one = self._one(condition.faces[0], condition.kind == "initial", equation, target)
            says = f"{equation.text} at {condition.faces[0]}"
            found.append(Constraint(condition.name, condition.kind, says, one))
        return found

    def _one(self, face: Face, initial: bool, equation: Equation, target: Target | None) -> Any:
        """The simplest of DeepXDE's conditions that says this."""
        where = self._on([face])
        axis = self.problem.coordinates.index(face.coordinate)
        normal = tuple(int(i == axis) for i in range(len(self.problem.coordinates)))
        if target is not None and not any(target.index):
            kind = dde.icbc.IC if initial else dde.icbc.DirichletBC
            function = self._on_points(target.tree)
            return kind(self.geometry, function, where, component=self.component[target.field])
        # DeepXDE takes the normal of a corner to be between those of its faces.
        corners = len(self.problem.namespace.space) > 1
        if target is not None and not initial and target.index == normal and not corners:
            function = self._on_points(face.side * target.tree)
            component = self.component[target.field]
            return dde.icbc.NeumannBC(self.geometry, function, where, component=component)
        robin = None if target is not None or corners else self._robin(face, normal, equation)
        if robin is not None:
            component, flux = robin
            return dde.icbc.RobinBC(self.geometry, flux, where, component=component)

        def residual(x: Tensor, y: Tensor, _: np.ndarray) -> Tensor:
            return self._residual(equation, x, y)

        return dde.icbc.OperatorBC(self.geometry, residual, where)

    def _robin(
        self, face: Face, normal: MultiIndex, equation: Equation
    ) -> tuple[int, Callable[[np.ndarray, Tensor], Tensor]] | None:
        """Component and flux f of du/dn = f(x, fields), if the equation is that and no multiple."""
        namespace = self.problem.namespace
        tree = equation.tree
        assert tree is not None
        slopes = [p for p in namespace.jets(tree).values() if any(p[1])]
        if len(slopes) != 1 or slopes[0][1] != normal:
            return None
        symbol = namespace.jet(*slopes[0])
        coefficient = sympy.diff(tree, symbol)
        if coefficient not in (1, -1):
            return None
        flux = -coefficient * face.side * tree.subs(symbol, 0)

        def function(x: np.ndarray, y: Tensor) -> Tensor:
            values: dict[str, Any] = dict(self.problem.values)
            points = torch.as_tensor(x, dtype=y.dtype)
            values |= {name: points[:, c : c + 1] for name, c in self.column.items()}
            values |= {name: y[:, c : c + 1] for name, c in self.component.items()}
            return torch.as_tensor(evaluate(flux, values, TORCH), dtype=y.dtype)

        return self.component[slopes[0][0]], function

    def _periodic(self, condition: Condition) -> list[Constraint]:
        """Values and derivatives below the order of the equations match, field by field."""
        term = condition_term(condition, self.problem)
        axis = self.column[condition.faces[0].coordinate]
        found = []
        for component, index in term.indices:
            order = sum(index)
            kind = dde.icbc.PeriodicBC if order < 2 else _SmoothPeriodicBC
            one = kind(self.geometry, axis, self._on(condition.faces), order, component)
            name = self.problem.namespace.jet(self.problem.fields[component], index)
            says = f"{name} equal at {' and '.join(map(str, condition.faces))}"
            found.append(Constraint(condition.name, condition.kind, says, one))
        return found


class _SmoothPeriodicBC(dde.icbc.PeriodicBC):
    """Equal derivatives of order two and more, which DeepXDE's own condition refuses."""

    def __init__(
        self, geometry: Any, axis: int, on_boundary: Callable[..., bool], order: int, component: int
    ) -> None:
        super().__init__(geometry, axis, on_boundary, component=component)
        self.order = order

    def error(
        self, X: Any, inputs: Tensor, outputs: Tensor, beg: int, end: int, aux_var: Any = None
    ) -> Tensor:
        """Derivative on one half of the points less that on their partners."""
        axis = self.component_x
        value = dde.grad.hessian(outputs, inputs, component=self.component, i=axis, j=axis)
        for _ in range(self.order - 2):
            value = dde.grad.jacobian(value, inputs, i=0, j=axis)
        middle = beg + (end - beg) // 2
        return value[beg:middle] - value[middle:end]


def training_data(translation: Translation, options: DeepxdeOptions) -> Any:
    """DeepXDE's data object, with its points drawn.

    Raises:
        ConfigurationError: a condition got no point.
    """
    points = options.points
    constraints = [constraint.object for constraint in translation.constraints]
    settings: dict[str, Any] = {
        "num_domain": points.interior,
        "num_boundary": points.boundary,
        "train_distribution": SAMPLERS[points.sampler],
    }

    def pde(x: Tensor, y: Tensor) -> list[Tensor]:
        # No bound method: DeepXDE counts arguments, and would find three.
        return translation.residuals(x, y)

    if isinstance(translation.geometry, dde.geometry.GeometryXTime):
        settings["num_initial"] = points.initial
        data = dde.data.TimePDE(translation.geometry, pde, constraints, **settings)
    else:
        if translation.geometry.dim == 1:
            settings["num_boundary"] = 2  # both ends; more would be the same points again
        data = dde.data.PDE(translation.geometry, pde, constraints, **settings)
    for constraint, count in zip(translation.constraints, data.num_bcs, strict=True):
        if count == 0:
            name = "initial" if constraint.kind == "initial" else "boundary"
            raise ConfigurationError(
                f"DeepXDE drew no point for '{constraint.says}'",
                path=("solver", "points", name),
                found=getattr(points, name),
                advice="write a larger number",
            )
    return data


def loss_weights(translation: Translation, weights: Mapping[str, float]) -> list[float]:
    """Weight of each of DeepXDE's losses: equations first, then conditions."""
    residual = [weights.get("residual", 1.0)] * len(translation.problem.equations)
    return residual + [
        weights.get(constraint.term, weights.get(constraint.kind, 1.0))
        for constraint in translation.constraints
    ]


def term_names(translation: Translation) -> list[str]:
    """Name of the term that each of DeepXDE's losses belongs to."""
    interior = [INTERIOR] * len(translation.problem.equations)
    return interior + [constraint.term for constraint in translation.constraints]
