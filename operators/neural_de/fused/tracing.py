"""A field as a list of torch's elementary operations for one sample, and that of its adjoint.

The field is run once on a batch of one; what it does is recorded (torch.fx). Tensors that it holds,
its parameters above all, become inputs, so that new values need no new trace. What depends on
neither time nor state, such as the exponential of a parameter, is left to torch (`Trace.known`),
which also differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["Trace", "Untraceable", "adjoint_of", "trace"]

Field = Callable[[Tensor, Tensor], Tensor]

_aten = torch.ops.aten
DECOMPOSED: Any = get_decompositions(
    [
        _aten.addmm, _aten.baddbmm, _aten.addcmul, _aten.addcdiv, _aten.lerp, _aten.stack,
        _aten.tanh_backward, _aten.sigmoid_backward, _aten.silu, _aten.silu_backward,
        _aten.softplus, _aten.softplus_backward, _aten.gelu, _aten.gelu_backward, _aten.elu,
        _aten.elu_backward, _aten.leaky_relu, _aten.leaky_relu_backward,
        _aten.threshold_backward, _aten.hardtanh, _aten.hardtanh_backward, _aten.slice_backward,
        _aten.select_backward, _aten.unfold_backward, _aten.mse_loss, _aten.softmax,
        _aten._softmax, _aten._softmax_backward_data, _aten.native_layer_norm,
        _aten.native_layer_norm_backward, _aten.logaddexp, _aten.var, _aten.std, _aten.hypot,
        _aten.rsub, _aten.dot, _aten.mv, _aten.log_sigmoid_forward, _aten.log_sigmoid_backward,
        _aten.square, _aten.new_zeros, _aten.new_ones, _aten.zeros_like, _aten.ones_like,
        _aten.unbind, _aten.split, _aten.split_with_sizes, _aten.chunk, _aten.embedding,
        _aten.trace, _aten.linalg_vector_norm, _aten.norm, _aten.mish, _aten.mish_backward,
    ]
)  # fmt: skip
"""Operations that are replaced by simpler ones."""


class Untraceable(Exception):
    """The field cannot be traced; the text says why."""


@dataclass(frozen=True)
class Trace:
    """A field for one sample.

    Attributes:
        graph: operations; its inputs are t (1,), y (1, d), for an adjoint also v (1, d), and then
            the constants.
        held: tensors that the field holds, as they are now.
        known: from `held` to the constants of the graph; differentiable.
        shapes: of the constants.
        dimension: d.
        dtype: of the state.
    """

    graph: fx.GraphModule
    held: tuple[Tensor, ...]
    known: Callable[..., tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    dimension: int
    dtype: torch.dtype

    def constants(self) -> tuple[Tensor, ...]:
        """Values of the constants now."""
        return self.known(*self.held)


def trace(field: Field, start: Tensor) -> Trace:
    """Record what a field does for one sample.

    Args:
        field: called once with t (1,) and y (1, d).
        start: shape (batch, d), for dtype, device and d.

    Raises:
        Untraceable: it looks at numbers, holds data of every sample, or gives another shape.
    """
    time, state = start.new_zeros(1), start.detach()[:1].clone()
    try:
        with torch.no_grad():
            recorded = make_fx(lambda t, y: field(t, y), decomposition_table=DECOMPOSED)(
                time, state
            )
    except Exception as error:  # whatever a user's function does when it is traced
        raise Untraceable(f"the field cannot be traced: {_first_line(error)}") from None
    found = _result(recorded)
    if found is None or tuple(found.shape) != tuple(state.shape):
        raise Untraceable("for one sample the field does not give one slope")
    if found.dtype != state.dtype:
        raise Untraceable(f"the field gives {found.dtype} for {state.dtype}")
    return _lifted(recorded, state)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _result(graph: fx.GraphModule) -> Tensor | None:
    """The value, as seen in the trace, that a graph returns."""
    (node,) = (node for node in graph.graph.nodes if node.op == "output")
    value = node.args[0]
    return value.meta.get("val") if isinstance(value, fx.Node) else None


def _lifted(recorded: fx.GraphModule, state: Tensor) -> Trace:
    """The trace with what the field holds as inputs, and what needs torch alone taken out."""
    _merge_constants(recorded)
    recorded.graph.eliminate_dead_code()
    nodes = list(recorded.graph.nodes)
    held: dict[str, Tensor] = {}
    varying: set[fx.Node] = set()
    for node in nodes:
        if node.op == "get_attr":
            held[str(node.target)] = getattr(recorded, str(node.target))
        elif node.op == "placeholder" or any(a in varying for a in node.all_input_nodes):
            varying.add(node)
    for value in held.values():
        if value.requires_grad and not value.is_leaf:
            raise Untraceable("the field holds a tensor that is computed anew for every call")
        if value.device != state.device:
            raise Untraceable("the field holds tensors of another device")
    (output,) = (node for node in nodes if node.op == "output")
    used = [
        node
        for node in nodes
        if node not in varying and node.op != "output"
        and any(user in varying or user is output for user in node.users)
    ]  # fmt: skip
    prelude, names = _prelude(nodes, varying, used, list(held))
    graph = _main(nodes, varying, used)
    shapes = tuple(tuple(node.meta["val"].shape) if "val" in node.meta
                   else tuple(held[str(node.target)].shape) for node in used)  # fmt: skip
    main = fx.GraphModule({}, graph)
    tensors = tuple(held[name] for name in names)
    return Trace(main, tensors, prelude, shapes, state.shape[1], state.dtype)


def _merge_constants(recorded: fx.GraphModule) -> None:
    """One node for every tensor held, however often it is used."""
    first: dict[int, fx.Node] = {}
    for node in list(recorded.graph.nodes):
        if node.op == "get_attr":
            kept = first.setdefault(id(getattr(recorded, str(node.target))), node)
            if kept is not node:
                node.replace_all_uses_with(kept)


def _prelude(
    nodes: Sequence[fx.Node], varying: set[fx.Node], used: Sequence[fx.Node], held: list[str]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[str]]:
    """What depends on neither time nor state, as a function of the tensors held."""
    graph, made = fx.Graph(), {}
    for node in nodes:
        if node in varying or node.op in ("output", "placeholder"):
            continue
        if node.op == "get_attr":
            made[node] = graph.placeholder(f"held_{held.index(str(node.target))}")
        else:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(tuple(made[node] for node in used))
    names = [held[int(str(n.target).split("_")[1])] for n in graph.nodes if n.op == "placeholder"]
    if all(node.op == "get_attr" for node in used):  # nothing to compute
        order = [names.index(str(node.target)) for node in used]
        return lambda *given: tuple(given[i] for i in order), names
    return fx.GraphModule({}, graph), names


def _main(nodes: Sequence[fx.Node], varying: set[fx.Node], used: Sequence[fx.Node]) -> fx.Graph:
    graph, made = fx.Graph(), {}
    for node in nodes:
        if node.op == "placeholder":
            made[node] = graph.node_copy(node)
    for number, node in enumerate(used):
        made[node] = graph.placeholder(f"constant_{number}")
    for node in nodes:
        if node in varying and node.op != "placeholder":
            made[node] = graph.node_copy(node, lambda n: made[n])
        elif node.op == "output":
            graph.output(made[node.args[0]])
    return graph


def adjoint_of(found: Trace, constants: Sequence[Tensor], wanted: Sequence[bool]) -> fx.GraphModule:
    """The product of a vector with the derivatives of a field, recorded in the same way.

    Args:
        found: the field.
        constants: its constants.
        wanted: which of them have a derivative.

    Returns:
        From t, y, v (1, d) and the constants to the derivatives by y (1, d) and by those wanted.

    Raises:
        Untraceable: torch cannot differentiate it in a way that can be recorded.
    """

    def product(t: Tensor, y: Tensor, v: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        y = y.detach().requires_grad_()
        inputs = [c.detach().requires_grad_() if w else c.detach()
                  for c, w in zip(given, wanted, strict=True)]  # fmt: skip
        leaves = [y, *(c for c, w in zip(inputs, wanted, strict=True) if w)]
        with torch.enable_grad():
            value = found.graph(t, y, *inputs)
        if not value.requires_grad:
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        grads = torch.autograd.grad(value, leaves, v, allow_unused=True)
        return tuple(
            torch.zeros_like(leaf) if g is None else g
            for g, leaf in zip(grads, leaves, strict=True)
        )

    state = torch.zeros((1, found.dimension), dtype=found.dtype)
    time = state.new_zeros(1)
    try:
        recorded = make_fx(product, decomposition_table=DECOMPOSED)(
            time, state, torch.ones_like(state), *(c.detach() for c in constants)
        )
    except Exception as error:
        raise Untraceable(f"its derivative cannot be traced: {_first_line(error)}") from None
    recorded.graph.eliminate_dead_code()
    return recorded
