"""C for a trace: every value is an array of vectors, whose lanes are samples.

A tensor of a trace, of shape (1, ...), has one number a sample. In C its elements are vectors of
`LANES` samples, so that whatever its shape all arithmetic is vectorised; constants are the same
for all samples and stay scalars. Views cost nothing: a value is a place in memory with strides.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .tracing import Untraceable

__all__ = ["function"]

aten = torch.ops.aten
UNROLLED = 8
"""Sums that go on at the same time in a product of matrices: one after the other, each addition
would wait for the one before."""
LARGEST = 1 << 16
"""Elements of one value: larger ones do not belong on a stack."""


@dataclass(frozen=True)
class Value:
    """Where a tensor lies.

    Attributes:
        base: name of the array.
        varying: whether its elements are vectors of samples, else scalars.
        shape: of the tensor.
        strides: in elements.
        offset: in elements.
    """

    base: str
    varying: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other from the start of the array."""
        return self.offset == 0 and all(
            n == 1 or s == t for n, s, t in zip(self.shape, self.strides, packed(self.shape),
                                                strict=True)
        )  # fmt: skip

    def at(self, index: Sequence[str]) -> str:
        """The element at an index, one C expression a dimension, as a vector."""
        found = f"{self.base}[{self.place(index)}]"
        return found if self.varying else f"SPLAT({found})"

    def place(self, index: Sequence[str]) -> str:
        """Its place in the array."""
        terms = [str(self.offset)] if self.offset else []
        for i, n, s in zip(index, self.shape, self.strides, strict=True):
            if n > 1 and s:
                terms.append(i if s == 1 else f"{s} * ({i})")
        return " + ".join(terms) or "0"

    def spread(self, shape: Sequence[int]) -> Value:
        """The same, broadcast to a shape."""
        more = len(shape) - len(self.shape)
        strides = [0] * more + [
            0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True)
        ]
        return Value(self.base, self.varying, tuple(shape), tuple(strides), self.offset)


def packed(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose elements lie one after the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def function(
    graph: fx.GraphModule,
    name: str,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    add: Sequence[bool],
) -> str:
    """A C function that computes a trace for LANES samples.

    Args:
        graph: its first placeholders are `inputs`, the others constants.
        name: of the function.
        shapes: of all placeholders.
        inputs: names of arguments, arrays of vectors.
        outputs: names of arguments for what it returns, arrays of vectors.
        add: which outputs are added to what is there.

    Raises:
        Untraceable: an operation is not known here.
    """
    return _Writer(graph, shapes, inputs, outputs, add).source(name)


class _Writer:
    """Writes one function, node by node."""

    def __init__(
        self,
        graph: fx.GraphModule,
        shapes: Sequence[Sequence[int]],
        inputs: Sequence[str],
        outputs: Sequence[str],
        add: Sequence[bool],
    ) -> None:
        self.lines: list[str] = []
        self.values: dict[fx.Node, Any] = {}
        self.inputs, self.outputs, self.add = inputs, outputs, add
        self.nodes = list(graph.graph.nodes)
        places = [node for node in self.nodes if node.op == "placeholder"]
        for number, (node, shape) in enumerate(zip(places, shapes, strict=True)):
            varying = number < len(inputs)
            base = inputs[number] if varying else f"c{number - len(inputs)}"
            self.values[node] = Value(base, varying, tuple(shape), packed(shape))
        self.constants = len(places) - len(inputs)

    def source(self, name: str) -> str:
        arguments = [f"const vec *restrict {a}" for a in self.inputs]
        arguments += ["const real *const *restrict constants"]
        arguments += [f"vec *restrict {a}" for a in self.outputs]
        head = f"static void {name}({', '.join(arguments)})"
        known = [f"const real *restrict c{k} = constants[{k}];" for k in range(self.constants)]
        for node in self.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                self._return(node.args[0])
        return "\n".join([head, "{", *known, *self.lines, "}"])

    def _return(self, results: Any) -> None:
        results = results if isinstance(results, (tuple, list)) else [results]
        for result, target, adds in zip(results, self.outputs, self.add, strict=True):
            value = self.value(result)
            place = Value(target, True, value.shape, packed(value.shape))
            sign = "+=" if adds else "="
            self.loop(value.shape, lambda i, v=value, p=place, s=sign: f"{p.at(i)} {s} {v.at(i)};")

    def value(self, argument: Any) -> Value:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, (int, float, bool)):
            name = f"s{len(self.lines)}"
            self.lines.append(f"const real {name}[1] = {{{literal(float(argument))}}};")
            return Value(name, False, (), ())
        raise Untraceable(f"an operand of the field is {argument!r}")

    def _call(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        packet = getattr(target, "overloadpacket", target)
        if packet in ELEMENTWISE:
            return self._elementwise(node, ELEMENTWISE[packet])
        if packet in SPECIAL:
            return SPECIAL[packet](self, node)
        raise Untraceable(f"the field uses {packet}, which is not written in C yet")

    def new(self, shape: Sequence[int]) -> Value:
        count = math.prod(shape)
        if count > LARGEST:
            raise Untraceable(f"a value of the field has {count} elements")
        name = f"b{len(self.lines)}"
        self.lines.append(f"vec {name}[{max(count, 1)}];")
        return Value(name, True, tuple(shape), packed(shape))

    def loop(self, shape: Sequence[int], body: Callable[[Sequence[str]], str]) -> None:
        """Nested loops over all elements; dimensions of one are left out."""
        index, depth = [], 0
        for axis, n in enumerate(shape):
            if n == 1:
                index.append("0")
                continue
            self.lines.append(f"for (int i{axis} = 0; i{axis} < {n}; i{axis}++) {{")
            index.append(f"i{axis}")
            depth += 1
        self.lines.append(body(index))
        self.lines.append("}" * depth or ";")

    def _elementwise(self, node: fx.Node, write: Callable[..., str]) -> Value:
        shape = _shape(node)
        operands = [self.value(argument).spread(shape) for argument in node.args]
        if node.kwargs.get("alpha", 1) != 1:
            factor = self.value(node.kwargs["alpha"]).spread(shape)
            scaled = self.new(shape)
            last = operands[-1]
            self.loop(shape, lambda i: f"{scaled.at(i)} = {factor.at(i)} * {last.at(i)};")
            operands[-1] = scaled
        return self.applied(shape, operands, write)

    def applied(
        self, shape: Sequence[int], operands: Sequence[Value], write: Callable[..., str]
    ) -> Value:
        """A new value, element by element, of operands of the same shape."""
        result = self.new(shape)
        self.loop(shape, lambda i: f"{result.at(i)} = {write(*(o.at(i) for o in operands))};")
        return result

    def copied(self, value: Value) -> Value:
        """The same values one after the other."""
        result = self.new(value.shape)
        self.loop(value.shape, lambda i: f"{result.at(i)} = {value.at(i)};")
        return result


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in node.meta["val"].shape)


def literal(number: float) -> str:
    """A number as C writes it, to the last bit."""
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    if math.isnan(number):
        return "NAN"
    return f"(real){number.hex()}"


ELEMENTWISE: Mapping[Any, Callable[..., str]] = {
    aten.add: lambda a, b: f"{a} + {b}",
    aten.sub: lambda a, b: f"{a} - {b}",
    aten.mul: lambda a, b: f"{a} * {b}",
    aten.div: lambda a, b: f"{a} / {b}",
    aten.neg: lambda a: f"-{a}",
    aten.reciprocal: lambda a: f"SPLAT(1) / {a}",
    aten.exp: lambda a: f"exponential({a})",
    aten.expm1: lambda a: f"lanes_expm1({a})",
    aten.log: lambda a: f"lanes_log({a})",
    aten.log1p: lambda a: f"lanes_log1p({a})",
    aten.sin: lambda a: f"lanes_sin({a})",
    aten.cos: lambda a: f"lanes_cos({a})",
    aten.tan: lambda a: f"lanes_tan({a})",
    aten.atan: lambda a: f"lanes_atan({a})",
    aten.sinh: lambda a: f"lanes_sinh({a})",
    aten.cosh: lambda a: f"lanes_cosh({a})",
    aten.erf: lambda a: f"lanes_erf({a})",
    aten.sqrt: lambda a: f"lanes_sqrt({a})",
    aten.rsqrt: lambda a: f"SPLAT(1) / lanes_sqrt({a})",
    aten.tanh: lambda a: f"hyperbolic({a})",
    aten.sigmoid: lambda a: f"SPLAT(1) / (SPLAT(1) + exponential(-{a}))",
    aten.abs: lambda a: f"select_({a} < SPLAT(0), -{a}, {a})",
    aten.sign: lambda a: f"(mask_({a} > SPLAT(0)) - mask_({a} < SPLAT(0)))",
    aten.sgn: lambda a: f"(mask_({a} > SPLAT(0)) - mask_({a} < SPLAT(0)))",
    aten.relu: lambda a: f"select_({a} < SPLAT(0), SPLAT(0), {a})",
    aten.maximum: lambda a, b: f"select_(({a} > {b}) | ({a} != {a}), {a}, {b})",
    aten.minimum: lambda a, b: f"select_(({a} < {b}) | ({a} != {a}), {a}, {b})",
    aten.gt: lambda a, b: f"mask_({a} > {b})",
    aten.ge: lambda a, b: f"mask_({a} >= {b})",
    aten.lt: lambda a, b: f"mask_({a} < {b})",
    aten.le: lambda a, b: f"mask_({a} <= {b})",
    aten.eq: lambda a, b: f"mask_({a} == {b})",
    aten.ne: lambda a, b: f"mask_({a} != {b})",
    aten.where: lambda c, a, b: f"select_({c} != SPLAT(0), {a}, {b})",
    aten.logical_and: lambda a, b: f"mask_(({a} != SPLAT(0)) & ({b} != SPLAT(0)))",
    aten.logical_or: lambda a, b: f"mask_(({a} != SPLAT(0)) | ({b} != SPLAT(0)))",
    aten.logical_not: lambda a: f"mask_({a} == SPLAT(0))",
    aten.bitwise_and: lambda a, b: f"mask_(({a} != SPLAT(0)) & ({b} != SPLAT(0)))",
    aten.bitwise_or: lambda a, b: f"mask_(({a} != SPLAT(0)) | ({b} != SPLAT(0)))",
    aten.bitwise_not: lambda a: f"mask_({a} == SPLAT(0))",
}
"""Operations on elements, as C for vectors."""


def _power(writer: _Writer, node: fx.Node) -> Value:
    base, exponent = node.args
    shape = _shape(node)
    if isinstance(exponent, (int, float)) and float(exponent).is_integer() and 0 < exponent <= 8:
        whole = int(exponent)
        value, result = writer.value(base), writer.new(shape)
        writer.loop(shape, lambda i: f"{result.at(i)} = {_product(value.at(i), whole)};")
        return result
    operands = [writer.value(argument).spread(shape) for argument in (base, exponent)]
    if exponent == 0.5:
        return writer.applied(shape, operands[:1], lambda a: f"lanes_sqrt({a})")
    return writer.applied(shape, operands, lambda a, b: f"lanes_pow({a}, {b})")


def _product(x: str, power: int) -> str:
    """Text of x to a whole power, by squaring where torch squares too."""
    if power == 1:
        return x
    if power % 2:
        return f"{x} * ({_product(x, power - 1)})" if power > 3 else f"{x} * {x} * {x}"
    half = _product(x, power // 2)
    return f"({half}) * ({half})"


def _clamp(writer: _Writer, node: fx.Node) -> Value:
    value, shape = node.args[0], _shape(node)
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    found = writer.value(value).spread(shape)
    for bound, sign in ((low, "<"), (high, ">")):
        if bound is not None:
            limit, result, x = writer.value(bound).spread(shape), writer.new(shape), found
            writer.loop(
                shape,
                lambda i, x=x, b=limit, r=result, s=sign:
                f"{r.at(i)} = select_({x.at(i)} {s} {b.at(i)}, {b.at(i)}, {x.at(i)});",
            )  # fmt: skip
            found = result
    return found


def _same(writer: _Writer, node: fx.Node) -> Value:
    return writer.value(node.args[0])


def _cast(writer: _Writer, node: fx.Node) -> Value:
    return writer.value(node.args[0])


def _reshaped(writer: _Writer, node: fx.Node) -> Value:
    value, shape = writer.value(node.args[0]), _shape(node)
    if not value.contiguous:
        # Of a value whose elements lie in order, only somewhere else, the shape may change too.
        base = Value(value.base, value.varying, value.shape, value.strides)
        if not base.contiguous:
            value = writer.copied(value)
    return Value(value.base, value.varying, shape, packed(shape), value.offset)


def _moved(order: Callable[[fx.Node, int], Sequence[int]]) -> Callable[[_Writer, fx.Node], Value]:
    def write(writer: _Writer, node: fx.Node) -> Value:
        value = writer.value(node.args[0])
        axes = order(node, len(value.shape))
        return Value(value.base, value.varying, tuple(value.shape[a] for a in axes),
                     tuple(value.strides[a] for a in axes), value.offset)  # fmt: skip

    return write


def _swapped(node: fx.Node, dimensions: int) -> Sequence[int]:
    axes = list(range(dimensions))
    first, second = (int(a) % dimensions for a in node.args[1:3])  # type: ignore[call-overload]
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _expanded(writer: _Writer, node: fx.Node) -> Value:
    return writer.value(node.args[0]).spread(_shape(node))


def _selected(writer: _Writer, node: fx.Node) -> Value:
    value, place = writer.value(node.args[0]), node.args[1:3]
    axis, index = (int(a) for a in place)  # type: ignore[arg-type]
    axis, index = axis % len(value.shape), index % value.shape[axis]
    keep = [a for a in range(len(value.shape)) if a != axis]
    return Value(value.base, value.varying, tuple(value.shape[a] for a in keep),
                 tuple(value.strides[a] for a in keep),
                 value.offset + index * value.strides[axis])  # fmt: skip


def _sliced(writer: _Writer, node: fx.Node) -> Value:
    arguments = [*node.args, *[None] * (5 - len(node.args))]
    value = writer.value(arguments[0])
    axis = int(arguments[1] or 0) % len(value.shape)
    begin, _, step = slice(arguments[2], arguments[3], arguments[4] or 1).indices(value.shape[axis])
    strides = list(value.strides)
    offset = value.offset + begin * strides[axis]
    strides[axis] *= step
    return Value(value.base, value.varying, _shape(node), tuple(strides), offset)


def _unsqueezed(writer: _Writer, node: fx.Node) -> Value:
    value, axis = writer.value(node.args[0]), int(node.args[1])  # type: ignore[arg-type]
    axis %= len(value.shape) + 1
    strides = (*value.strides[:axis], 0, *value.strides[axis:])
    return Value(value.base, value.varying, _shape(node), strides, value.offset)


def _squeezed(writer: _Writer, node: fx.Node) -> Value:
    value, shape = writer.value(node.args[0]), _shape(node)
    if len(node.args) > 1:
        axes = node.args[1] if isinstance(node.args[1], (list, tuple)) else [node.args[1]]
        gone = {int(a) % len(value.shape) for a in axes}  # type: ignore[arg-type]
    else:
        gone = set(range(len(value.shape)))
    keep = [a for a, n in enumerate(value.shape) if n != 1 or a not in gone]
    return Value(value.base, value.varying, shape, tuple(value.strides[a] for a in keep),
                 value.offset)  # fmt: skip


def _joined(writer: _Writer, node: fx.Node) -> Value:
    parts: Any = node.args[0]
    axis = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))  # type: ignore[arg-type]
    shape = _shape(node)
    result, place = writer.new(shape), 0
    axis %= len(shape)
    for part in parts:
        value = writer.value(part)
        target = Value(result.base, True, value.shape, result.strides,
                       place * result.strides[axis])  # fmt: skip
        writer.loop(value.shape, lambda i, v=value, t=target: f"{t.at(i)} = {v.at(i)};")
        place += value.shape[axis]
    return result


def _summed(scale: bool) -> Callable[[_Writer, fx.Node], Value]:
    def write(writer: _Writer, node: fx.Node) -> Value:
        value = writer.value(node.args[0])
        axes: Any = node.args[1] if len(node.args) > 1 and node.args[1] is not None else None
        if axes is None or axes == []:
            axes = range(len(value.shape))
        axes = {
            int(a) % max(len(value.shape), 1) for a in ([axes] if isinstance(axes, int) else axes)
        }
        shape = _shape(node)
        result = writer.new(shape)
        writer.loop(shape, lambda i: f"{result.at(i)} = SPLAT(0);")
        kept = len(shape) == len(value.shape)
        strides, position = [], 0
        for axis in range(len(value.shape)):
            strides.append(0 if axis in axes else result.strides[axis if kept else position])
            position += axis not in axes
        total = Value(result.base, True, value.shape, tuple(strides))
        count = math.prod(value.shape[a] for a in axes) if scale else 1
        factor = f" * SPLAT({literal(1 / count)})" if scale else ""
        writer.loop(value.shape, lambda i: f"{total.at(i)} += {value.at(i)}{factor};")
        return result

    return write


def _multiplied(writer: _Writer, node: fx.Node) -> Value:
    """Products of matrices (m, k) and (k, n), or of a batch of one of them."""
    left, right = (writer.value(a) for a in node.args[:2])
    shape = _shape(node)
    one, two = (_matrix(v) for v in (left, right))
    if one is None or two is None:
        raise Untraceable("the field multiplies batches of matrices")
    (rows, inner), columns = one.shape, two.shape[1]
    result = writer.new(shape)
    target = Value(result.base, True, (rows, columns), (columns, 1))
    _sums(writer, one, two, target, inner)
    return result


def _matrix(value: Value) -> Value | None:
    """A value of shape (1, ..., m, k) as a matrix."""
    if any(n != 1 for n in value.shape[:-2]):
        return None
    return Value(value.base, value.varying, value.shape[-2:], value.strides[-2:], value.offset)


def _sums(writer: _Writer, one: Value, two: Value, target: Value, inner: int) -> None:
    rows, columns = target.shape
    if inner == 1:
        writer.loop(
            target.shape,
            lambda i: f"{target.at(i)} = {one.at([i[0], '0'])} * {two.at(['0', i[1]])};",
        )
        return
    by_row = columns < rows
    many, few = (rows, columns) if by_row else (columns, rows)

    def element(value: Value, i: str, j: str) -> str:
        return value.at([i, j])

    def pair(outer: str, other: str) -> tuple[str, str]:
        return (outer, other) if by_row else (other, outer)

    write = writer.lines.append
    write(f"for (int q = 0; q < {few}; q++) {{")
    whole = many - many % UNROLLED
    for begin, end, width in ((0, whole, UNROLLED), (whole, many, 1)):
        if begin == end:
            continue
        write(f"for (int p = {begin}; p < {end}; p += {width}) {{")
        write(" ".join(f"vec a{w} = SPLAT(0);" for w in range(width)))
        write(f"for (int k = 0; k < {inner}; k++) {{")
        for w in range(width):
            i, j = pair(f"(p + {w})", "q")
            write(f"a{w} += {element(one, i, 'k')} * {element(two, 'k', j)};")
        write("}")
        for w in range(width):
            i, j = pair(f"(p + {w})", "q")
            write(f"{target.at([i, j])} = a{w};")
        write("}")
    write("}")


def _filled(number: float | None) -> Callable[[_Writer, fx.Node], Value]:
    def write(writer: _Writer, node: fx.Node) -> Value:
        fill = number if number is not None else node.args[1]
        return writer.value(float(fill)).spread(_shape(node))  # type: ignore[arg-type]

    return write


def _scattered(writer: _Writer, node: fx.Node) -> Value:
    """A tensor with a slice or a selection of it replaced."""
    base, piece = (writer.value(a) for a in node.args[:2])
    result = writer.copied(base)
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    arguments = [*node.args[2:], *[None] * 4]
    axis = int(arguments[0] or 0) % len(base.shape)  # type: ignore[arg-type]
    strides = list(result.strides)
    if packet is aten.select_scatter:
        index = int(arguments[1]) % base.shape[axis]
        offset = index * strides.pop(axis)
    else:
        begin, _, step = slice(arguments[1], arguments[2], arguments[3] or 1).indices(
            base.shape[axis]
        )
        offset = begin * strides[axis]
        strides[axis] *= step
    target = Value(result.base, True, piece.shape, tuple(strides), offset)
    writer.loop(piece.shape, lambda i: f"{target.at(i)} = {piece.at(i)};")
    return result


SPECIAL: Mapping[Any, Callable[[_Writer, fx.Node], Any]] = {
    aten.pow: _power,
    aten.clamp: _clamp,
    aten.clamp_min: _clamp,
    aten.detach: _same,
    aten.alias: _same,
    aten.clone: _same,
    aten.lift_fresh_copy: _same,
    aten.contiguous: _same,
    aten._to_copy: _cast,
    aten.view: _reshaped,
    aten._unsafe_view: _reshaped,
    aten.reshape: _reshaped,
    aten.t: _moved(lambda node, n: list(reversed(range(n)))),
    aten.transpose: _moved(_swapped),
    aten.permute: _moved(lambda node, n: [int(a) % n for a in node.args[1]]),  # type: ignore
    aten.expand: _expanded,
    aten.select: _selected,
    aten.slice: _sliced,
    aten.unsqueeze: _unsqueezed,
    aten.squeeze: _squeezed,
    aten.cat: _joined,
    aten.sum: _summed(False),
    aten.mean: _summed(True),
    aten.mm: _multiplied,
    aten.bmm: _multiplied,
    aten.zeros: _filled(0.0),
    aten.zeros_like: _filled(0.0),
    aten.ones_like: _filled(1.0),
    aten.ones: _filled(1.0),
    aten.full: _filled(None),
    aten.full_like: _filled(None),
    aten.scalar_tensor: lambda writer, node: writer.value(float(node.args[0])),  # type: ignore
    aten.select_scatter: _scattered,
    aten.slice_scatter: _scattered,
}
