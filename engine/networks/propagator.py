"""The state handed on by the linear part of the equation: exact in Fourier space.

For a periodic coordinate and constant coefficients the linear derivative terms ``u_t = L u`` are
solved exactly mode by mode:
``A(x, t) = sum_k c_k exp(lambda_k (t - s)) exp(i k w x)``. Taken as background of the ansatz ``u =
A + (t - s) N``
it starts from the given state, smooths its kinks as the equation does, and leaves to the network
only what the
remaining terms add (Duhamel's integral): the idea of an exponential integrator (Hochbruck &
Ostermann,
Acta Numerica 19, 2010) as a hard initial condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..taylor import JetAlgebra, MultiIndex
from .field import Context, Field

Growth = Callable[[np.ndarray], np.ndarray]
"""Wave numbers to the complex growth rates lambda of one field."""


class Propagated(Field):
    """Fourier series of a state under its linear evolution; has no trained parameters.

    Args:
        state: the state at the start, points (n, coordinates) -> (n, fields); None leaves zeros to
            be loaded.
        growth: growth rate of each field.
        axis: the periodic coordinate.
        bounds: its ends.
        time_axis: time coordinate.
        time: start s.
        modes: number of Fourier modes kept; the state is sampled on twice as many points.
        dimension: number of coordinates.
    """

    steady = True  # a constant of the context of an `Ansatz`

    def __init__(
        self,
        state: Callable[[Tensor], Tensor] | None,
        growth: Sequence[Growth],
        *,
        axis: int,
        bounds: tuple[float, float],
        time_axis: int,
        time: float,
        modes: int,
        dimension: int = 2,
    ) -> None:
        super().__init__()
        self.real_rate: Tensor
        self.imaginary_rate: Tensor
        self.coefficients: Tensor
        self.axis = axis
        self.time_axis = time_axis
        self.time = time
        self.low, high = bounds
        self.wave = 2 * math.pi / (high - self.low)
        numbers = self.wave * np.arange(modes)
        rates = np.stack([rate(numbers) for rate in growth], axis=1)
        imaginary = torch.tensor(np.imag(rates).copy())
        self.register_buffer("real_rate", torch.tensor(np.real(rates).copy()), persistent=False)
        self.register_buffer("imaginary_rate", imaginary, persistent=False)
        coefficients = torch.zeros(2, modes, len(growth), dtype=torch.float64)
        if state is not None:
            count = 2 * modes
            points = torch.zeros(count, dimension, dtype=torch.float64)
            places = torch.arange(count, dtype=torch.float64) / count
            points[:, axis] = self.low + (high - self.low) * places
            points[:, time_axis] = time
            values = _sampled(state, points)
            spectrum = torch.fft.rfft(values.double().cpu(), dim=0)[:modes] / count
            spectrum[1:] *= 2
            size = spectrum.abs()
            # Below are modes of rounding alone, which high derivatives would raise.
            spectrum[size < 5 * torch.finfo(values.dtype).eps * size.max()] = 0
            coefficients = torch.stack([spectrum.real, spectrum.imag])
        self.register_buffer("coefficients", coefficients)

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        coefficients = self.coefficients.to(points.dtype)
        used = _last_nonzero(coefficients) + 1
        wanted = sorted({index for channel in algebra.parts for _, index in channel})
        numbers = self.wave * torch.arange(used, dtype=points.dtype, device=points.device)
        elapsed = (points[:, self.time_axis] - self.time)[:, None]
        place = (points[:, self.axis] - self.low)[:, None] * numbers
        columns = []
        for field in range(coefficients.shape[2]):
            real = self.real_rate[:used, field].to(points.dtype)
            imaginary = self.imaginary_rate[:used, field].to(points.dtype)
            size = torch.exp(elapsed * real)
            phase = place + elapsed * imaginary
            rate = torch.complex(real, imaginary)
            weights = torch.complex(coefficients[0, :used, field], coefficients[1, :used, field])
            table = torch.stack(
                [self._factor(index, numbers, rate) * weights for index in wanted], dim=1
            )
            columns.append(
                (size * torch.cos(phase)) @ table.real - (size * torch.sin(phase)) @ table.imag
            )
        values = torch.stack(columns, dim=2).permute(1, 0, 2)
        return algebra.assemble(lambda index: values[wanted.index(index)])

    def _factor(self, index: MultiIndex, numbers: Tensor, rate: Tensor) -> Tensor:
        """Taylor coefficient of one mode: ``(i k)^a lambda^b / (a! b!)``; other axes give zero."""
        a, b = index[self.axis], index[self.time_axis]
        if sum(index) != a + b:
            return torch.zeros_like(rate)
        factor = torch.complex(torch.zeros_like(numbers), numbers) ** a * rate**b
        return factor / (math.factorial(a) * math.factorial(b))


def _sampled(state: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Values of a state, at points in the precision and on the device of its weights."""
    weights = next(state.parameters(), None) if isinstance(state, nn.Module) else None
    with torch.no_grad():
        return state(points if weights is None else points.to(weights))


def _last_nonzero(coefficients: Tensor) -> int:
    used = coefficients.abs().amax(dim=(0, 2)).nonzero()
    return int(used.max()) if len(used) else 0
