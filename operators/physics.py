"""How far fields are from obeying an equation: a relative residual that training can lower.

Residuals are measured in the norm in which they bound the error, not node by node: where the
equation has second derivatives a plain sum of squares counts little but the shortest waves.

Source of the use: Li, Zheng, Kovachki, Jin, Chen, Liu, Azizzadenesheli and Anandkumar,
"Physics-informed neural operator", ACM/JMS J. Data Science 2024 (training and fine-tuning).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .laws import Law

__all__ = ["Burgers", "Darcy", "Residual", "residual_of"]


class Residual(ABC):
    """An equation between what an operator takes and what it gives."""

    @abstractmethod
    def __call__(self, inputs: Tensor, found: Tensor) -> Tensor:
        """Size of the residual in parts of that of the data; shape (samples,), differentiable.

        Args:
            inputs: what the operator took, shape (samples, channels, *n), in the user's units.
            found: what it gave.
        """


def residual_of(law: Law) -> Residual:
    """The residual of an equation on the grid of some data."""
    if law.equation == "darcy":
        return Darcy(law.constant, law.spacing)
    assert law.step is not None
    return Burgers(law.constant, law.spacing, law.step)


class Darcy(Residual):
    """-div(a grad u) = f with u = 0 on the walls, in weak form on twice as many nodes.

    The coefficient of a node holds on the square around it, half a step to each side. Between the
    nodes u is continued as that coefficient wants it: along each edge with one flux, and in the
    middle of each cell with the least energy; bilinear elements on the finer grid then give energy
    and forces, which are summed to the stored nodes. So the residual knows on which side of a jump
    a slope is steep; the five-point formula on the stored nodes would pull towards its own
    solution, whose error is of first order there.

    The norm of a force r is that of the displacement it causes where a = 1, ``(r, L^-1 r)^(1/2)``
    with L the five-point Laplacian: up to the contrast of a, the error in the energy norm.

    Source of the continuation: Hou and Wu, J. Comput. Phys. 134 (1997), oscillatory boundary
    conditions.

    Args:
        source: f, one number or values at the nodes.
        spacing: between nodes, the same along both coordinates.
    """

    def __init__(self, source: float | Tensor, spacing: float) -> None:
        self.source, self.spacing = source, spacing

    def __call__(self, inputs: Tensor, found: Tensor) -> Tensor:
        """See `Residual`; the coefficient is the first channel of the inputs."""
        a = inputs[:, 0].double()
        if not bool((a > 0).all()):
            raise DataError("a coefficient of Darcy's law is not positive: there is no solution")
        force = self.force(a, found[:, 0].double())
        load = torch.zeros_like(force) + self._load(force)
        return _dual(force) / _dual(load)

    def force(self, a: Tensor, u: Tensor) -> Tensor:
        """What is left over at the inner nodes, shape (samples, n - 2, m - 2).

        Args:
            a: shape (samples, n, m).
            u: the same; what it is on the walls is not looked at.
        """
        with torch.enable_grad():
            inner = u[:, 1:-1, 1:-1]
            inner = inner if inner.requires_grad else inner.detach().requires_grad_()
            energy = _energy(a, torch.nn.functional.pad(inner, (1, 1, 1, 1)))
            (pull,) = torch.autograd.grad(energy, inner, create_graph=u.requires_grad)
        return pull - self._load(pull)

    def _load(self, like: Tensor) -> Tensor:
        source = torch.as_tensor(self.source, dtype=like.dtype, device=like.device)
        inner = source[..., 1:-1, 1:-1] if source.ndim else source
        return self.spacing**2 * inner


def _energy(a: Tensor, u: Tensor) -> Tensor:
    """Half the integral of a |grad u|^2, of all samples together."""
    rows = (a[:, :-1] * u[:, :-1] + a[:, 1:] * u[:, 1:]) / (a[:, :-1] + a[:, 1:])
    a_left, a_right, u_left, u_right = a[..., :-1], a[..., 1:], u[..., :-1], u[..., 1:]
    lines = (a_left * u_left + a_right * u_right) / (a_left + a_right)
    # Each quarter of a cell pulls its middle to its corner twice as hard as to the sides.
    weighted = 2 * a * u
    around = _corners(weighted) + _sides(a, rows, lines)
    middle = around / (4 * _corners(a))
    fine = u.new_zeros(len(u), 2 * u.shape[1] - 1, 2 * u.shape[2] - 1)
    fine[:, ::2, ::2], fine[:, 1::2, ::2] = u, rows
    fine[:, ::2, 1::2], fine[:, 1::2, 1::2] = lines, middle
    quarter = a.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, 1:-1, 1:-1]
    down, across = fine.diff(dim=1), fine.diff(dim=2)
    total = _pairs(down[:, :, :-1], down[:, :, 1:]) + _pairs(across[:, :-1], across[:, 1:])
    return (quarter * total).sum() / 6


def _corners(values: Tensor) -> Tensor:
    """Sum over the four corners of each cell."""
    pairs = values[:, :-1] + values[:, 1:]
    return pairs[..., :-1] + pairs[..., 1:]


def _sides(a: Tensor, rows: Tensor, lines: Tensor) -> Tensor:
    """Values in the middles of the four sides, each by the coefficients at its two ends."""
    rows = rows * (a[:, :-1] + a[:, 1:])
    lines = lines * (a[..., :-1] + a[..., 1:])
    return rows[..., :-1] + rows[..., 1:] + lines[:, :-1] + lines[:, 1:]


def _pairs(one: Tensor, other: Tensor) -> Tensor:
    """Three times the mean square of what goes linearly from one to the other."""
    return one**2 + one * other + other**2


def _dual(force: Tensor) -> Tensor:
    """``(r, L^-1 r)^(1/2)`` of forces at inner nodes, shape (samples,)."""
    n, m = force.shape[1:]
    (left, low), (right, high) = (_sines(k, force) for k in (n, m))
    waves = left @ force @ right
    return (waves**2 / (low[:, None] + high)).flatten(1).sum(1).clamp(min=1e-300).sqrt()


def _sines(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors and eigenvalues of the second difference, zero beyond both ends."""
    number = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
    angle = math.pi / (count + 1) * number
    return math.sqrt(2 / (count + 1)) * torch.sin(angle[:, None] * number), 2 - 2 * torch.cos(angle)


class Burgers(Residual):
    """u_t + u u_x = nu u_xx on a ring, over one step in time; spectral in space, of fourth order.

    The exact relation ``u1 = e^-z u0 + integral of e^-z(1-s) N(u)`` by wave number, z = nu k^2 dt,
    with N = -(u^2/2)_x along the step replaced by the cubic that has its values and its slopes at
    both ends, which the equation itself gives. Only the last instant taken enters.

    Args:
        viscosity: nu.
        spacing: between nodes.
        step: between instants.
    """

    def __init__(self, viscosity: float, spacing: float, step: float) -> None:
        self.viscosity, self.spacing, self.step = viscosity, spacing, step

    def __call__(self, inputs: Tensor, found: Tensor) -> Tensor:
        """See `Residual`; in parts of the state that the step begins with."""
        start, end = inputs[:, -1].double(), found[:, 0].double()
        n = start.shape[-1]
        waves = torch.arange(n // 2 + 1, dtype=start.dtype, device=start.device)
        waves = 2 * math.pi / (n * self.spacing) * waves
        rate = self.viscosity * waves**2
        slope = 1j * waves
        powers = _moments(rate * self.step)
        one = torch.fft.rfft(start)
        two = torch.fft.rfft(end)
        parts = []
        for state in (one, two):
            force = -slope * _product(state, state, n) / 2
            parts += [force, -self.step * slope * _product(state, force - rate * state, n)]
        # Cubic with values N0, N1 and slopes D0, D1 at s = 0 and 1, by powers of s.
        n0, d0, n1, d1 = parts
        cubic = (n0, d0, 3 * (n1 - n0) - 2 * d0 - d1, 2 * (n0 - n1) + d0 + d1)
        grown = sum(m * c for m, c in zip(powers, cubic, strict=True))
        left = two - torch.exp(-rate * self.step) * one - self.step * grown
        return _size(left, n) / _size(one, n)


def _product(one: Tensor, other: Tensor, n: int) -> Tensor:
    """Transform of the product, without the waves that the grid would fold back."""
    fine = [2 * torch.fft.irfft(part, 2 * n) for part in (one, other)]
    return torch.fft.rfft(fine[0] * fine[1])[..., : n // 2 + 1] / 2


def _size(transform: Tensor, n: int) -> Tensor:
    """Norm of real fields from half their transform."""
    twice = torch.full((n // 2 + 1,), 2.0, dtype=torch.float64, device=transform.device)
    twice[0] = 1.0
    if n % 2 == 0:
        twice[-1] = 1.0
    return ((transform.abs() ** 2) * twice).sum(-1).clamp(min=1e-300).sqrt()


def _moments(z: Tensor) -> list[Tensor]:
    """Integrals of ``e^-z(1-s) s^m`` over s from 0 to 1, m = 0 to 3."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    s = torch.as_tensor((nodes + 1) / 2, dtype=z.dtype, device=z.device)
    w = torch.as_tensor(weights / 2, dtype=z.dtype, device=z.device)
    small = z < 4.0
    safe = torch.where(small, 4.0, z)
    found, last = [], torch.zeros_like(z)
    for m in range(4):
        # By parts; of large z only, where it loses nothing.
        last = ((1 - torch.exp(-safe)) if m == 0 else (1 - m * last)) / safe
        near = (torch.exp(-z.clamp(max=4.0)[:, None] * (1 - s)) * s**m) @ w
        found.append(torch.where(small, near, last))
    return found
