"""JAX as a contender: the whole step jitted, derivatives by nested grad, nested jvp or jet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax  # pyright: ignore[reportMissingImports] - an extra
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
from jax.experimental import jet  # pyright: ignore[reportMissingImports]

from .equations import RESIDUALS
from .protocol import Contender, Unavailable, main

__all__ = ["UNKNOWNS", "make"]

Function = Callable[[Any], Any]
"""From one point, shape (coordinates,), to a number."""


class ReverseUnknown:
    """See `equations.Unknown`; derivatives by grad of grad.

    Args:
        function: the field.
        point: where, shape (coordinates,).
    """

    def __init__(self, function: Function, point: Any) -> None:
        self.function, self.point = function, point

    def value(self) -> Any:
        """See `equations.Unknown`."""
        return self.function(self.point)

    def d(self, *axes: int) -> Any:
        """See `equations.Unknown`."""
        function = self.function
        for axis in axes:
            function = self.derivative(function, axis)
        return function(self.point)

    def derivative(self, function: Function, axis: int) -> Function:
        """The derivative along an axis, as a function again."""
        return lambda x: jax.grad(function)(x)[axis]

    def laplacian(self) -> Any:
        """See `equations.Unknown`."""
        return _laplacian(self.function)(self.point)

    def bilaplacian(self) -> Any:
        """See `equations.Unknown`."""
        return _laplacian(_laplacian(self.function))(self.point)


class ForwardUnknown(ReverseUnknown):
    """Derivatives by jvp of jvp."""

    def derivative(self, function: Function, axis: int) -> Function:
        """See `ReverseUnknown`."""

        def along(x: Any) -> Any:
            unit = jnp.zeros_like(x).at[axis].set(1)
            return jax.jvp(function, (x,), (unit,))[1]

        return along


class JetUnknown(ReverseUnknown):
    """Derivatives by Taylor mode, one jet for each direction.

    The mixed derivative of the bilaplacian in two coordinates comes by polarisation: with D the
    fourth derivative along a direction, ``6 lap^2 = 4 D_x + 4 D_y + D_(x+y) + D_(x-y)``.
    """

    def __init__(self, function: Function, point: Any) -> None:
        super().__init__(function, point)
        self.known: dict[tuple[Any, int], list[Any]] = {}

    def along(self, direction: Any, order: int) -> Any:
        """Derivative of an order along a direction, shape (coordinates,)."""
        series = [direction] + [jnp.zeros_like(direction)] * (order - 1)
        _, terms = jet.jet(self.function, (self.point,), (series,))
        return terms

    def d(self, *axes: int) -> Any:
        """See `equations.Unknown`; one axis at a time."""
        assert len(set(axes)) == 1
        for (axis, order), terms in self.known.items():
            if axis == axes[0] and order >= len(axes):
                return terms[len(axes) - 1]
        # The highest order that an equation asks for; XLA drops what is not used.
        order = 4 if axes[0] == 0 else len(axes)
        terms = self.along(self._unit(axes[0]), order)
        self.known[(axes[0], order)] = terms
        return terms[len(axes) - 1]

    def _unit(self, axis: int) -> Any:
        return jnp.zeros_like(self.point).at[axis].set(1)

    def laplacian(self) -> Any:
        """See `equations.Unknown`."""
        units = jnp.eye(len(self.point), dtype=self.point.dtype)
        return jax.vmap(lambda unit: self.along(unit, 2)[1])(units).sum()

    def bilaplacian(self) -> Any:
        """See `equations.Unknown`."""
        directions = jnp.array([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=self.point.dtype)
        fourth = jax.vmap(lambda direction: self.along(direction, 4)[3])(directions)
        return fourth @ jnp.array([4, 4, 1, 1], dtype=fourth.dtype) / 6


def _laplacian(function: Function) -> Function:
    return lambda x: jnp.trace(jax.hessian(function)(x))


UNKNOWNS = {"jax nested": ReverseUnknown, "jax forward": ForwardUnknown, "jax jet": JetUnknown}


def _network(layers: Any, point: Any) -> Any:
    state = point
    for weight, bias in layers[:-1]:
        state = jnp.tanh(weight @ state + bias)
    weight, bias = layers[-1]
    return (weight @ state + bias)[0]


class JaxContender:
    """See the module.

    Args:
        request: content of ``open``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.on_processor = request["device"] == "cpu"
        if not self.on_processor and jax.default_backend() != "gpu":
            raise Unavailable("this JAX computes on the processor only; pip install 'jax[cuda12]'")
        # No TF32; and float64 where it is asked for.
        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_enable_x64", True)
        with np.load(request["data"]) as arrays:
            named = {key: jnp.asarray(array) for key, array in arrays.items()}
        points = named.pop("points")
        layers = [(named[f"weight{i}"], named[f"bias{i}"]) for i in range(len(named) // 2)]
        residual = RESIDUALS[request["equation"]]
        unknown = UNKNOWNS[request["contender"]]

        def loss(layers: Any, points: Any) -> Any:
            def at(point: Any) -> Any:
                return residual(unknown(lambda x: _network(layers, x), point))

            return jnp.square(jax.vmap(at)(points)).mean()

        self.arguments = (layers, points)
        self.compiled = jax.jit(jax.value_and_grad(loss)).lower(*self.arguments).compile()

    def warm(self) -> None:
        """See `Contender`: it is compiled."""

    def step(self) -> None:
        """See `Contender`."""
        self.found = jax.block_until_ready(self.compiled(*self.arguments))

    def result(self) -> tuple[float, np.ndarray] | None:
        """See `Contender`."""
        loss, gradients = self.found
        flat = [np.asarray(array).ravel() for layer in gradients for array in layer]
        return float(loss), np.concatenate(flat)

    def device_peak(self) -> int | None:
        """See `Contender`; what the compiler says, for the allocator keeps what it has taken."""
        if self.on_processor:
            return None
        analysis = self.compiled.memory_analysis()
        return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)

    def how(self) -> str | None:
        """See `Contender`."""
        return None


def make(request: dict[str, Any]) -> Contender:
    """The contender that ``open`` asks for."""
    return JaxContender(request)


if __name__ == "__main__":
    main(make, lambda: {"jax": jax.__version__})
