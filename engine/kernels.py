"""The two operations a network on Taylor bundles is made of, with adjoints written by hand.

Automatic differentiation of truncated Taylor arithmetic keeps every intermediate product and walks
through it again node by node. Here a layer keeps its input and its output only, and its adjoint is
a short list of in-place updates on arrays that are still in cache.

* `affine`: the same matrix on every Taylor coefficient, the bias on the value alone;
* `compose`: a scalar function of a bundle (Faa di Bruno), described by a `Composition`; by a loop
  compiled for it (`residua.engine.fused`) where that can be had, by torch's operations elsewhere.

A bundle has the shape (channels, points, width); channel 0 is the value. Where a gradient is to be
differentiated again (``create_graph``), the adjoints are those of torch's own graph instead.
`residua.engine.stack` runs whole networks on the same updates without a graph in between.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .fused import native, record
from .fused.formulas import Formula
from .fused.loops import Kind, Loops, compile_composition, kind_of

ScalarRule = Callable[[Tensor, int], list[Tensor]]
"""Normalised derivatives ``s^(m)(z) / m!``, m = 0..order, of a scalar function."""

Factor = tuple[Tensor, float]
"""An array and a number to multiply it by: normalised derivatives whose constants are still out."""

Monomial = tuple[int, tuple[int, ...]]
"""Coefficient and channels (with repetition) of a product of Taylor coefficients."""


@dataclass(frozen=True)
class InPlace:
    """A scalar rule that allocates nothing.

    Attributes:
        value: ``(z, out)`` writes s(z).
        factors: ``(s, order, scratch)`` gives m = 1..order from the value s.
        formula: the same for compiled loops.
    """

    value: Callable[[Tensor, Tensor], None]
    factors: Callable[[Tensor, int, Scratch], list[Factor]]
    formula: Formula


IN_PLACE: dict[ScalarRule, InPlace] = {}
"""Rules that have such a form; the others are called as they are."""


class Scratch:
    """Arrays of one shape, used again and again: fresh memory costs more than the arithmetic.

    Args:
        like: an array of the shape, precision and device wanted.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.arrays: list[Tensor] = []
        self.used = 0

    def take(self) -> Tensor:
        """The next array; what it holds is undefined."""
        if self.used == len(self.arrays):
            self.arrays.append(torch.empty_like(self.like))
        self.used += 1
        return self.arrays[self.used - 1]

    def release(self, mark: int = 0) -> None:
        """Give back all arrays taken since `used` was `mark`."""
        self.used = mark


@dataclass(frozen=True)
class Composition:
    """How a scalar function acts on a bundle: ``out_k = s_1 z_k + sum_{m>=2} s_m P_km(z)``.

    ``P_km`` is the part of ``(z - z_0)^m`` that falls in channel k, and ``s_m = s^(m)(z_0)/m!``.

    Attributes:
        channels: of the bundle.
        order: highest m.
        polynomials: for m = 2..order, (channel k, monomials of P_km).
        gradients: for m = 2..order, (channel j, [(channel k, monomials of d P_km / d z_j)]).
    """

    channels: int
    order: int
    polynomials: tuple[tuple[tuple[int, tuple[Monomial, ...]], ...], ...]
    gradients: tuple[tuple[tuple[int, tuple[tuple[int, tuple[Monomial, ...]], ...]], ...], ...]
    loops: dict[tuple[ScalarRule, Kind], Loops | None] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Compiled for a function and a kind of bundle; None where torch's operations have to do."""

    @staticmethod
    def of(products: Sequence[Sequence[tuple[int, int]]], order: int) -> Composition:
        """From the multiplication table of the algebra: channel to pairs whose products sum to it.

        The powers of ``z - z_0`` follow from the table alone, so collapsed channels need no rule of
        their own.
        """
        channels = len(products)
        first = [Counter({(k,): 1}) if k else Counter() for k in range(channels)]
        power: list[Counter[tuple[int, ...]]] = list(first)
        polynomials = []
        for _ in range(2, order + 1):
            following: list[Counter[tuple[int, ...]]] = []
            for pairs in products:
                row: Counter[tuple[int, ...]] = Counter()
                for i, j in pairs:
                    for left, weight in power[i].items():
                        for right, other in first[j].items():
                            row[tuple(sorted(left + right))] += weight * other
                following.append(row)
            power = following
            polynomials.append({k: row for k, row in enumerate(power) if row})
        return Composition(
            channels,
            order,
            tuple(
                tuple((k, tuple((c, z) for z, c in sorted(row.items()))) for k, row in rows.items())
                for rows in polynomials
            ),
            tuple(_differentiated(rows) for rows in polynomials),
        )


def _differentiated(rows: dict[int, Counter[tuple[int, ...]]]) -> tuple:
    """Partial derivatives of the polynomials by each channel they contain."""
    by_channel: dict[int, dict[int, Counter[tuple[int, ...]]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for k, row in rows.items():
        for factors, coefficient in row.items():
            for j, times in Counter(factors).items():
                rest = list(factors)
                rest.remove(j)
                by_channel[j][k][tuple(rest)] += coefficient * times
    return tuple(
        (
            j,
            tuple(
                (k, tuple((c, rest) for rest, c in sorted(row.items())))
                for k, row in sorted(by_target.items())
            ),
        )
        for j, by_target in sorted(by_channel.items())
    )


def compose(plan: Composition, rule: ScalarRule, bundle: Tensor) -> Tensor:
    """A scalar function of a bundle; shape as the bundle.

    Values alone go through torch's own graph and can be differentiated as often as wanted.
    """
    if plan.channels == 1:
        return rule(bundle[0], 0)[0].unsqueeze(0)
    return _Compose.apply(bundle, plan, rule)  # type: ignore[return-value]


class _Compose(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, plan: Composition, rule: ScalarRule) -> Tensor:
        out = torch.empty_like(z)
        compose_into(plan, rule, z, out, Scratch(z[0]))
        ctx.save_for_backward(z, out)
        ctx.plan, ctx.rule = plan, rule
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (adjoint,) = grad_outputs
        z, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            again = compose_in_graph(ctx.plan, ctx.rule, z)
            return *torch.autograd.grad(again, z, adjoint, create_graph=True), None, None
        result = torch.empty_like(z)
        pull_into(ctx.plan, ctx.rule, z, out[0], adjoint, result, Scratch(z[0]))
        return result, None, None


def compose_in_graph(plan: Composition, rule: ScalarRule, z: Tensor) -> Tensor:
    """The same by operations that torch differentiates itself, as often as wanted."""
    factors = rule(z[0], plan.order)
    rows = [factors[0], *(factors[1] * z[1:])]
    for factor, polynomials in zip(factors[2:], plan.polynomials, strict=True):
        for k, monomials in polynomials:
            for coefficient, positions in monomials:
                product = coefficient * factor
                for position in positions:
                    product = product * z[position]
                rows[k] = rows[k] + product
    return torch.stack(rows)


def compose_into(
    plan: Composition, rule: ScalarRule, z: Tensor, out: Tensor, scratch: Scratch
) -> None:
    """Write the composed bundle to `out`; shapes (channels, points, width)."""
    loops = _loops(plan, rule, z, out)
    if loops is None:
        _compose_by_operations(plan, rule, z, out, scratch)
    elif rule in IN_PLACE:
        loops.compose(z, out, ())
    else:
        out[0], *factors = rule(z[0], plan.order)
        loops.compose(z, out, _dense(factors, z[0]))


def _compose_by_operations(
    plan: Composition, rule: ScalarRule, z: Tensor, out: Tensor, scratch: Scratch
) -> None:
    form = IN_PLACE.get(rule)
    if form is None:
        value, *rest = rule(z[0], plan.order)
        out[0] = value
        factors = [(factor, 1.0) for factor in rest]
    else:
        form.value(z[0], out[0])
        factors = form.factors(out[0], plan.order, scratch)
    torch.mul(z[1:], factors[0][0], out=out[1:])
    mark = scratch.used
    for (factor, scale), rows in zip(factors[1:], plan.polynomials, strict=True):
        for k, monomials in rows:
            polynomial, coefficient = _sum(z, None, ((1, monomials),), scratch)
            out[k].addcmul_(factor, polynomial, value=scale * coefficient)
            scratch.release(mark)
    scratch.release()


def pull_into(
    plan: Composition,
    rule: ScalarRule,
    z: Tensor,
    value: Tensor,
    adjoint: Tensor,
    result: Tensor,
    scratch: Scratch,
) -> None:
    """Write to `result` the adjoint of z, given that of the composed bundle.

    Args:
        plan: the composition.
        rule: the scalar function s.
        z: its argument, shape (channels, points, width).
        value: s(z[0]), shape (points, width).
        adjoint: derivative by the composed bundle, shape of z.
        result: another array of that shape.
        scratch: of the shape of `value`.
    """
    loops = _loops(plan, rule, z, value, adjoint, result)
    if loops is None:
        _pull_by_operations(plan, rule, z, value, adjoint, result, scratch)
    else:
        factors = () if rule in IN_PLACE else rule(z[0], plan.order + 1)[1:]
        loops.pull(z, value, adjoint, result, _dense(factors, value))


def _dense(factors: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Factors as loops read them; a rule may give one number for all points, such as a slope."""
    return [factor.to(like.dtype).expand_as(like).contiguous() for factor in factors]


def _loops(plan: Composition, rule: ScalarRule, z: Tensor, *others: Tensor) -> Loops | None:
    """What is compiled for a composition, once for every function and kind of bundle."""
    kind = kind_of(z)
    if kind is None or not all(array.is_contiguous() for array in (z, *others)):
        return None
    key = (rule, kind)
    if key not in plan.loops:
        form = IN_PLACE.get(rule)
        formula = None if form is None else form.formula
        plan.loops[key] = loops = compile_composition(plan, kind, formula)
        if loops is not None and not _agrees(plan, rule, kind):
            record.distrust("the composition of a Taylor bundle")
            plan.loops[key] = None
    return plan.loops[key]


def _agrees(plan: Composition, rule: ScalarRule, kind: Kind) -> bool:
    """Whether loops and operations give the same on numbers of order one."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, plan.channels, *kind.probe)
    random = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    z, adjoint = random.to(kind.device, kind.dtype)
    found, expected = torch.empty_like(z), torch.empty_like(z)
    pulled, right = torch.empty_like(z), torch.empty_like(z)
    scratch = Scratch(z[0])
    compose_into(plan, rule, z, found, scratch)
    _compose_by_operations(plan, rule, z, expected, scratch)
    pull_into(plan, rule, z, expected[0], adjoint, pulled, scratch)
    _pull_by_operations(plan, rule, z, expected[0], adjoint, right, scratch)
    allowed = 1e3 * torch.finfo(kind.dtype).eps
    return all(
        bool((a - b).abs().amax() <= allowed * b.abs().amax())
        for a, b in ((found, expected), (pulled, right))
    )


def _pull_by_operations(
    plan: Composition,
    rule: ScalarRule,
    z: Tensor,
    value: Tensor,
    adjoint: Tensor,
    result: Tensor,
    scratch: Scratch,
) -> None:
    order = plan.order
    form = IN_PLACE.get(rule)
    if form is None:
        factors = [(factor, 1.0) for factor in rule(z[0], order + 1)[1:]]
    else:
        factors = form.factors(value, order + 1, scratch)
    torch.mul(adjoint, factors[0][0], out=result)
    # d s_m / d z_0 = (m + 1) s_(m+1), so the value's adjoint collects sum_k adjoint_k P_km for
    # every power m. P_km is homogeneous: its gradient gives it back by Euler's theorem,
    # m P_km = sum_j z_j d P_km / d z_j.
    mark = scratch.used
    total = torch.mul(adjoint[1], z[1], out=scratch.take())
    for k in range(2, plan.channels):
        total.addcmul_(adjoint[k], z[k])
    result[0].addcmul_(factors[1][0], total, value=2 * factors[1][1])
    for m, rows in enumerate(plan.gradients, start=2):
        scratch.release(mark)
        total = scratch.take()
        factor, scale = factors[m - 1]
        inner = scratch.used
        for position, (j, targets) in enumerate(rows):
            gradient, coefficient = _sum(z, adjoint, targets, scratch)
            result[j].addcmul_(factor, gradient, value=scale * coefficient)
            if position == 0:
                torch.mul(gradient, z[j], out=total)
                if coefficient != 1:
                    total *= coefficient
            else:
                total.addcmul_(gradient, z[j], value=coefficient)
            scratch.release(inner)
        if rows:
            factor, scale = factors[m]
            result[0].addcmul_(factor, total, value=scale * (m + 1) / m)
    scratch.release()


def _sum(
    z: Tensor,
    adjoint: Tensor | None,
    targets: Sequence[tuple[int, Sequence[Monomial]]],
    scratch: Scratch,
) -> tuple[Tensor, float]:
    """``sum_k adjoint_k q_k(z)`` as an array and a number to multiply it by; None stands for 1."""
    products = [
        (coefficient, [*(() if adjoint is None else (adjoint[k],)), *(z[i] for i in factors)])
        for k, monomials in targets
        for coefficient, factors in monomials
    ]
    total: Tensor | None = None
    common = products[0][0]
    for coefficient, factors in products:
        left, *middle, right = factors
        partial: Tensor | None = None
        for factor in middle:
            partial = torch.mul(
                left, factor, out=partial if partial is not None else scratch.take()
            )
            left = partial
        if total is None:
            total = torch.mul(left, right, out=partial if partial is not None else scratch.take())
        else:
            total.addcmul_(left, right, value=coefficient / common)
    assert total is not None
    return total, common


def affine(bundle: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``W z + b`` on a bundle: shape (channels, points, inputs) -> (channels, points, outputs).

    Args:
        bundle: contiguous.
        weight: shape (outputs, inputs).
        bias: shape (outputs,), added to channel 0.
    """
    if len(bundle) == 1:
        return torch.nn.functional.linear(bundle, weight, bias)
    return _Affine.apply(bundle, weight, bias)  # type: ignore[return-value]


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, weight)
        ctx.biased = bias is not None
        out = torch.mm(z.flatten(0, 1), weight.T).unflatten(0, z.shape[:2])
        if bias is not None:
            out[0] += bias
        return out

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (adjoint,) = grad_outputs
        z, weight = ctx.saved_tensors
        flat = adjoint.flatten(0, 1)
        by_input = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_input = torch.mm(flat, weight).unflatten(0, z.shape[:2])
        if ctx.needs_input_grad[1]:
            by_weight = torch.mm(flat.T, z.flatten(0, 1))
        if ctx.biased and ctx.needs_input_grad[2]:
            by_bias = adjoint[0].sum(0)
        return by_input, by_weight, by_bias


def outer_products(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Sum over channels of outer products, point by point.

    Args:
        left: shape (channels, points, outputs).
        right: shape (channels, points, inputs).
        out: where to write it, shape (points, outputs * inputs), unit stride along its rows.

    Returns:
        Shape (points, outputs, inputs).
    """
    channels, points, outputs = left.shape
    inputs = right.shape[2]
    if out is None:
        out = left.new_empty(points, outputs * inputs)
    loop = None
    fits = out.dtype == left.dtype == right.dtype and out.stride(1) == 1
    if fits and native.suits(right) and left.is_contiguous() and right.is_contiguous():
        loop = native.compile_outer(channels, outputs, inputs, left.dtype)
    if loop is None:
        out.copy_(torch.bmm(left.permute(1, 2, 0), right.permute(1, 0, 2)).flatten(1))
    else:
        loop(left, right, out)
    return out.unflatten(1, (outputs, inputs))
