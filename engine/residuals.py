"""The residual engine: problem and field in, residuals and their parameter Jacobian out.

Every condition of a problem becomes a `Term`: a set of points on which some equations must vanish.
A term is
compiled once to the smallest Taylor algebra that carries its derivatives; sums of second
derivatives that occur
only together are collapsed to one Laplacian channel. Points are held in blocks that fit the
processor's cache,
each with its own store of constants (features, hard-constraint background), so that repeated
evaluations at fixed
points pay for the trained layers only.

The Jacobian of a point-wise residual needs no differentiation beyond one backward pass: the
derivative of residual i
by a weight matrix is the outer product of the layer's input and adjoint bundles at point i
(`Linear.jacobian`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import sympy
import torch
from torch import Tensor, nn

from ..problems.conditions import Condition
from ..problems.equation import Equation, Namespace, evaluate
from ..problems.given import GivenCall
from ..problems.problem import Problem
from .functions import TORCH
from .networks.field import Context, Field, Linear, Record
from .points import PointSet
from .replay import Outputs, Recorder, Replayed, recorder_for
from .stack import fresh_workspaces
from .taylor import JetAlgebra, MultiIndex, algebra_for

BUNDLE_BYTES = 2**20
"""Largest bundle of a layer on a processor: with its adjoint and products it stays in cache."""
BATCHED_ROWS = 64
"""Rows of the Jacobian that one batched backward pass finds: it holds its graph for each."""
LEAST_BLOCK, LARGEST_BLOCK = 256, 4096
"""Points per block on a processor; below, calls cost more than arithmetic."""


@dataclass(frozen=True)
class Term:
    """Equations that must vanish on one kind of point.

    Attributes:
        name: key of the term in losses and weights, such as ``interior`` or ``x = 1``.
        kind: ``interior``, ``initial``, ``boundary``, ``periodic`` or ``handover``.
        equations: residuals; empty for ``periodic`` and ``handover``, which compare values instead.
        indices: derivatives compared by ``periodic`` and ``handover``, by field position.
        partner: for ``periodic``, (axis, value on the opposite face).
    """

    name: str
    kind: str
    equations: tuple[Equation, ...] = ()
    indices: tuple[tuple[int, MultiIndex], ...] = ()
    partner: tuple[int, float] | None = None

    @property
    def count(self) -> int:
        """Residuals per point."""
        return len(self.equations) or len(self.indices)


class ResidualEngine:
    """Residuals of a problem for a field.

    Args:
        problem: supplies names and parameter values.
        field: the unknown.
        terms: what must vanish.
        collapse: travel Laplacians as one channel where the equations allow.
        recorder: lets loss and gradient be replayed; None for what suits the device.
    """

    def __init__(
        self,
        problem: Problem,
        field: Field,
        terms: Sequence[Term],
        *,
        collapse: bool = True,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.problem = problem
        self.field = field
        self.terms = {term.name: term for term in terms}
        self._compiled = {
            term.name: _compile(term, problem.namespace, collapse=collapse) for term in terms
        }
        self.parameters = [p for p in field.parameters() if p.requires_grad]
        self._offsets: dict[nn.Parameter, slice] = {}
        start = 0
        for parameter in self.parameters:
            self._offsets[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()
        self.parameter_count = start
        linear = [m.weight.shape[0] for m in field.modules() if isinstance(m, Linear)]
        self._width = max(linear, default=64)

    def block_size(self, term: str) -> int:
        """Points evaluated at a time.

        On a processor as many as keep a layer's bundle in cache, on a GPU all of them.
        """
        reference = self.parameters[0] if self.parameters else None
        if reference is None or reference.device.type != "cpu":
            return 2**30
        bytes_per_point = self.algebra(term).channels * self._width * reference.element_size()
        size = min(max(BUNDLE_BYTES // bytes_per_point, LEAST_BLOCK), LARGEST_BLOCK)
        # Odd: channels that lie a power of two apart would fight for the same lines of the cache.
        return size - 1 + size % 2

    def algebra(self, term: str) -> JetAlgebra:
        """Taylor algebra a term is evaluated in."""
        return self._compiled[term].algebra

    def residuals(self, batch: Mapping[str, PointSet]) -> dict[str, Tensor]:
        """Residuals of every term: name to (points, residuals per point)."""
        return {
            name: torch.cat(
                [
                    points.points.new_empty(0, self.terms[name].count),
                    *(
                        self._block(name, points, where, cache)[0]
                        for where, cache in points.blocks(self.block_size(name))
                    ),
                ]
            )
            for name, points in batch.items()
        }

    def loss(self, batch: Mapping[str, PointSet]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of squares, and each term's share of it (both in the autograd graph)."""
        shares = {
            name: (batch[name].weights[:, None] * values.square()).sum()
            for name, values in self.residuals(batch).items()
        }
        return torch.stack(list(shares.values())).sum(), shares

    def loss_and_gradient(self, batch: Mapping[str, PointSet]) -> tuple[float, Tensor]:
        """The weighted sum of squares and its gradient, block by block.

        Only one block's bundles are alive at a time.

        Returns:
            The loss and the gradient by the trained parameters, shape (P,).
        """
        replayed = self.replayed
        value, gradient = self._sums(batch) if replayed is None else replayed(batch)
        return float(value), gradient

    @cached_property
    def replayed(self) -> Replayed | None:
        """Replays loss and gradient; None where that is not done.

        Only for networks that do the same whatever the numbers are, and for equations whose
        functions keep no tables.
        """
        recorder = self._recorder or recorder_for(self.parameters[0].device)
        steady = all(m.steady for m in self.field.modules() if isinstance(m, Field))
        trees = [equation.tree for term in self.terms.values() for equation in term.equations]
        known = all(tree is not None and not tree.has(GivenCall) for tree in trees)
        if recorder is None or not steady or not known:
            return None
        everything = [*self.field.parameters(), *self.field.buffers()]
        fixed = [tensor for tensor in everything if not tensor.requires_grad]
        return Replayed(self._sums, self._sums_apart, recorder, self.parameters, fixed)

    def _sums_apart(self, batch: Mapping[str, PointSet]) -> Outputs:
        """The same in arrays that nobody else borrows."""
        with fresh_workspaces(self.field):
            return self._sums(batch)

    def _sums(self, batch: Mapping[str, PointSet]) -> Outputs:
        reference = self.parameters[0]
        total = reference.new_zeros(())
        flat = reference.new_zeros(self.parameter_count)
        for name, points in batch.items():
            for where, cache in points.blocks(self.block_size(name)):
                values, _ = self._block(name, points, where, cache)
                loss = (points.weights[where][:, None] * values.square()).sum()
                total += loss.detach()
                gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    if gradient is not None:
                        flat[self._offsets[parameter]] += gradient.flatten()
        return total, flat

    def row_vector(self, batch: Mapping[str, PointSet]) -> Tensor:
        """All residuals scaled by the root of their weights, shape (m,): the loss is its square."""
        with torch.no_grad():
            parts = [
                (batch[name].weights.sqrt()[:, None] * values).flatten()
                for name, values in self.residuals(batch).items()
            ]
        return torch.cat(parts)

    def linearise(
        self, batch: Mapping[str, PointSet], out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scaled residuals and their Jacobian by the trained parameters.

        Args:
            batch: the points of every term.
            out: a Jacobian that is no longer needed; its memory is used again if it fits, which
                saves as much time as filling it takes.

        Returns:
            ``(r, J)`` of shapes (m,) and (m, P); rows ordered as in `row_vector`.
        """
        rows = sum(len(points.points) * self.terms[name].count for name, points in batch.items())
        reference = self.parameters[0]
        shape = (rows, self.parameter_count)
        jacobian = out if out is not None and _fits(out, shape, reference) else None
        if jacobian is None:
            jacobian = reference.new_empty(shape)
        residual = torch.empty(rows, dtype=reference.dtype, device=reference.device)
        start = 0
        for name, points in batch.items():
            count = self.terms[name].count
            for where, cache in points.blocks(self.block_size(name)):
                tape: list[Record] = []
                values, _ = self._block(name, points, where, cache, tape)
                covered = {p for record in tape for p in record.parameters()}
                by_layers = covered.issuperset(self.parameters)
                if not by_layers:
                    # Layers on the tape stand apart from the graph: rows need one without it.
                    values, _ = self._block(name, points, where, cache)
                n = len(values)
                scale = points.weights[where].sqrt()
                residual[start : start + n * count] = (scale[:, None] * values).detach().flatten()
                for column in range(count):
                    target = jacobian[start + column : start + n * count : count]
                    scaled = values[:, column] * scale
                    if by_layers:
                        self._fill(target, scaled, tape, column + 1 < count)
                    else:
                        self._fill_by_rows(target, scaled, batched=not tape)
                start += n * count
        return residual, jacobian

    def _fill(self, target: Tensor, values: Tensor, tape: list[Record], keep: bool) -> None:
        adjoints = torch.autograd.grad(
            values.sum(), [r.outputs for r in tape], retain_graph=keep, allow_unused=True
        )
        untouched = set(self.parameters)

        def claim(parameter: nn.Parameter) -> Tensor | None:
            if parameter not in untouched:
                return None
            untouched.remove(parameter)
            return target[:, self._offsets[parameter]]

        with torch.no_grad():
            for record, adjoint in zip(tape, adjoints, strict=True):
                if adjoint is None:
                    continue
                for parameter, block in record.rows(adjoint, len(values), claim):
                    if parameter in untouched:
                        target[:, self._offsets[parameter]] = block
                        untouched.remove(parameter)
                    elif parameter in self._offsets:
                        target[:, self._offsets[parameter]] += block
            for parameter in untouched:
                target[:, self._offsets[parameter]] = 0

    def _fill_by_rows(self, target: Tensor, values: Tensor, *, batched: bool) -> None:
        """For parameters outside linear layers: a backward pass per residual.

        Batched where nothing on the way has an adjoint written by hand, which takes one at a time.
        """
        identity = torch.eye(len(values), dtype=values.dtype, device=values.device)
        passes: list[int | slice] = list(range(len(values)))
        if batched:
            starts = range(0, len(values), BATCHED_ROWS)
            passes = [slice(start, start + BATCHED_ROWS) for start in starts]
        for rows in passes:
            seed = identity[rows]
            gradients = torch.autograd.grad(
                values,
                self.parameters,
                grad_outputs=seed,
                is_grads_batched=batched,
                retain_graph=True,
                allow_unused=True,
            )
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                place = self._offsets[parameter]
                if gradient is None:
                    target[rows, place] = 0
                else:
                    target[rows, place] = gradient.flatten(int(batched))

    def _block(
        self,
        name: str,
        points: PointSet,
        where: slice,
        cache: dict,
        tape: list[Record] | None = None,
    ) -> tuple[Tensor, Tensor]:
        compiled = self._compiled[name]
        term = self.terms[name]
        x = points.points[where]
        if term.partner is not None:
            axis, value = term.partner
            other = x.clone()
            other[:, axis] = value
            x = torch.cat([x, other])
        bundle = self.field.jet(x, compiled.algebra, Context(tape, cache))
        if term.equations:
            values = compiled.evaluate(bundle, x, self.problem.values)
        else:
            columns = [
                compiled.algebra.derivative(bundle, index)[:, position]
                for position, index in term.indices
            ]
            values = torch.stack(columns, dim=1)
            if term.partner is not None:
                here, there = values.unflatten(0, (2, -1)).unbind(0)
                values = here - there
            if points.targets is not None:
                values = values - points.targets[where]
        return values, bundle


def _fits(out: Tensor, shape: tuple[int, int], like: Tensor) -> bool:
    alike = out.dtype == like.dtype and out.device == like.device
    return alike and out.shape == shape and out.is_contiguous() and not out.requires_grad


@dataclass(frozen=True)
class _Compiled:
    """Equations bound to an algebra."""

    algebra: JetAlgebra
    coordinates: tuple[str, ...]
    symbols: tuple[
        tuple[str, int, MultiIndex | None], ...
    ]  # name, field, index; None is the collapsed operator
    functions: tuple[Callable[[dict], Tensor], ...]

    def evaluate(self, bundle: Tensor, points: Tensor, parameters: Mapping[str, float]) -> Tensor:
        values: dict[str, Tensor | float] = dict(parameters)
        for axis, name in enumerate(self.coordinates):
            values[name] = points[:, axis]
        for name, position, index in self.symbols:
            if index is None:
                values[name] = self.algebra.collapsed(bundle)[:, position]
            else:
                values[name] = self.algebra.derivative(bundle, index)[:, position]
        columns = [
            torch.as_tensor(function(values), dtype=points.dtype, device=points.device).expand(
                len(points)
            )
            for function in self.functions
        ]
        return torch.stack(columns, dim=1)


def _compile(term: Term, namespace: Namespace, *, collapse: bool) -> _Compiled:
    dimension = len(namespace.coordinates)
    if not term.equations:
        algebra = algebra_for([index for _, index in term.indices], dimension)
        return _Compiled(algebra, namespace.coordinates, (), ())
    position = {name: i for i, name in enumerate(namespace.fields)}
    trees = [equation.tree for equation in term.equations]
    jets: dict[str, tuple[str, MultiIndex]] = {}
    for equation in term.equations:
        for name, indices in equation.derivatives.items():
            for index in indices:
                jets[str(namespace.jet(name, index))] = (name, index)
    found = _Collapse("", (), trees, (), ())
    if collapse and all(tree is not None for tree in trees):
        found = _collapse([t for t in trees if t is not None], jets, namespace)
    for name in found.gone:
        del jets[name]
    kind: dict[str, tuple[int, ...]] = {found.operator: found.axes} if found.axes else {}
    algebra = algebra_for([index for _, index in jets.values()], dimension, **kind)
    functions: list[Callable[[dict], Tensor]] = []
    for equation, tree in zip(term.equations, found.trees, strict=True):
        if tree is not None:
            functions.append(lambda values, tree=tree: evaluate(tree, values, TORCH))
        else:
            functions.append(lambda values, equation=equation: equation.residual(values, TORCH))
    symbols = tuple((name, position[f], index) for name, (f, index) in jets.items())
    return _Compiled(
        algebra,
        namespace.coordinates,
        (*symbols, *((name, position[f], None) for name, f in found.symbols)),
        tuple(functions),
    )


class _Collapse(NamedTuple):
    """What became of the equations: trees with a symbol for the operator of every field.

    Attributes:
        operator: ``laplacian`` or ``biharmonic``, as `algebra_for` calls it.
        axes: of the operator; empty where nothing was collapsed.
        trees: the equations.
        gone: names of the jets that went.
        symbols: (name, field) of each new symbol.
    """

    operator: str
    axes: tuple[int, ...]
    trees: Sequence[sympy.Expr | None]
    gone: Sequence[str]
    symbols: Sequence[tuple[str, str]]


def _collapse(
    trees: list[sympy.Expr], jets: Mapping[str, tuple[str, MultiIndex]], namespace: Namespace
) -> _Collapse:
    """Replace derivatives that enter every equation only through one sum by that sum.

    That is done in two or more coordinates of space, when every field that has pure derivatives of
    the operator's order at all has them along the same axes, the terms of the operator enter
    linearly with one common coefficient, and no other derivative needs them on the way.
    """
    dimension = len(namespace.coordinates)
    nothing = _Collapse("", (), trees, (), ())
    order = max((sum(index) for _, index in jets.values()), default=0)
    if order not in (2, 4):
        return nothing
    space = [axis for axis in range(dimension) if namespace.coordinates[axis] != namespace.time]
    by_field: dict[str, set[int]] = {}
    for name, index in jets.values():
        for axis in space:
            if index == tuple(order * (i == axis) for i in range(dimension)):
                by_field.setdefault(name, set()).add(axis)
    axes = tuple(sorted(next(iter(by_field.values()), ())))
    if len(axes) < 2 or any(found != set(axes) for found in by_field.values()):
        return nothing
    weights: dict[MultiIndex, int] = {}
    for pair in itertools.combinations_with_replacement(axes, 2):
        if order == 4:
            index = tuple(2 * pair.count(axis) for axis in range(dimension))
            weights[index] = 1 if pair[0] == pair[1] else 2
        elif pair[0] == pair[1]:
            weights[tuple(pair.count(axis) for axis in range(dimension))] = 1
    others = [index for _, index in jets.values() if index not in weights]
    if order == 4 and any(sum(index[axis] for axis in axes) > 2 for index in others):
        return nothing
    operator = "biharmonic" if order == 4 else "laplacian"
    gone: list[str] = []
    new: list[tuple[str, str]] = []
    for name in by_field:
        symbols = {namespace.jet(name, index): weight for index, weight in weights.items()}
        if not {str(symbol) for symbol in symbols} <= set(jets):
            return nothing
        sum_of_them = sympy.Symbol(f"{operator}_of_{name}", real=True)
        for position, tree in enumerate(trees):
            coefficients = {sympy.diff(tree, s) / weight for s, weight in symbols.items()}
            coefficient = coefficients.pop()
            if coefficients or coefficient.free_symbols & set(symbols):
                return nothing
            if coefficient != 0:
                rest = tree.subs(dict.fromkeys(symbols, 0))
                trees = [
                    *trees[:position],
                    rest + coefficient * sum_of_them,
                    *trees[position + 1 :],
                ]
        gone += [str(symbol) for symbol in symbols]
        new.append((str(sum_of_them), name))
    return _Collapse(operator, axes, trees, gone, new)


def interior_term(problem: Problem) -> Term:
    """The equations themselves, on the open domain."""
    return Term("interior", "interior", problem.equations)


def condition_term(condition: Condition, problem: Problem) -> Term:
    """A condition as a soft term; periodicity compares the derivatives below the order."""
    if condition.kind != "periodic":
        return Term(condition.name, condition.kind, condition.equations)
    low, high = condition.faces
    axis = problem.coordinates.index(low.coordinate)
    indices = []
    for position, name in enumerate(problem.fields):
        orders = [index[axis] for eq in problem.equations for index in eq.derivatives.get(name, ())]
        for order in range(max(orders, default=1) or 1):
            indices.append(
                (position, tuple(order * (i == axis) for i in range(len(problem.coordinates))))
            )
    return Term(condition.name, "periodic", (), tuple(indices), (axis, high.value))


def field_derivatives(
    field: Field, points: Tensor, wanted: Mapping[str, Iterable[MultiIndex]], namespace: Namespace
) -> dict[str, Tensor]:
    """Named derivatives of a field at points.

    Args:
        field: any field.
        points: shape (n, coordinates).
        wanted: field name to multi-indices.
        namespace: names of fields and coordinates.

    Returns:
        Symbol name (``u_xx``) to values of shape (n,).
    """
    algebra = algebra_for(
        [index for indices in wanted.values() for index in indices], points.shape[1]
    )
    with torch.no_grad():
        bundle = field.jet(points, algebra)
    position = {name: i for i, name in enumerate(namespace.fields)}
    return {
        str(namespace.jet(name, index)): algebra.derivative(bundle, index)[
            :, position[name]
        ].detach()
        for name, indices in wanted.items()
        for index in indices
    }
