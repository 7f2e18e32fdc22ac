"""Vorticity of an incompressible flow on the periodic unit square, stirred by a steady force.

    w_t + u w_x + v w_y = nu Laplacian(w) + f,    u = psi_y, v = -psi_x, -Laplacian(psi) = w,
    f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)),

the benchmark of Li et al. (ICLR 2021). Pseudo-spectral, highest third of the modes left out
(Orszag's rule), exponential time differencing of fourth order in time (Cox and Matthews, J. Comput.
Phys. 176, 2002) in place of their first-order steps: steps a hundred times longer at a smaller
error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ...errors import ConfigurationError
from ...problems.equation import parse_constant
from ...problems.references.etdrk4 import phi_functions
from ...typed import option
from .evolution import SAFETY
from .layout import Description, Field, Sample
from .random_fields import Axis, RandomField, draw, matern

__all__ = ["Flow", "NavierStokes"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

_SHORTEST = 6
"""How often steps are halved, where they were too long, before a sample is given up."""


class Flow:
    """The equation on a grid.

    Args:
        n: even number of nodes per side.
        nu: viscosity.
        force: f(x, y) on the grid, shape (n, n), or a function of time that gives it.
    """

    def __init__(self, n: int, nu: float, force: Array | Callable[[float], Array]) -> None:
        self.n = n
        k = scipy.fft.fftfreq(n, 1.0 / n)
        self.kx, self.ky = 2 * np.pi * k[:, None], 2 * np.pi * np.arange(n // 2 + 1)[None, :]
        square = self.kx**2 + self.ky**2
        self.inverse = np.where(square > 0, 1.0 / np.where(square > 0, square, 1.0), 0.0)
        limit = 2 * np.pi * n / 3
        self.kept = (np.abs(self.kx) < limit) & (np.abs(self.ky) < limit)
        self.viscous = -nu * square
        self.force = force if callable(force) else _constant(self.modes(force))
        if callable(force):
            self.force = lambda t: self.modes(force(t))

    def modes(self, values: Array) -> Complex:
        """Fourier coefficients that are kept."""
        return scipy.fft.rfft2(values, norm="forward") * self.kept

    def values(self, modes: Complex) -> Array:
        """On the grid."""
        values: Any = scipy.fft.irfft2(modes, s=(self.n, self.n), norm="forward")
        return values

    def _tendency(self, w: Complex, t: float) -> Complex:
        stream = self.inverse * w
        u, v = self.values(1j * self.ky * stream), self.values(-1j * self.kx * stream)
        slope = u * self.values(1j * self.kx * w) + v * self.values(1j * self.ky * w)
        return self.force(t) - self.modes(slope)

    def run(self, start: Array, times: Array, step: float) -> Array:
        """Vorticity at increasing times, the first of which is that of `start`.

        Args:
            start: shape (n, n).
            times: shape (t,).
            step: at most this long; each interval is divided evenly.

        Returns:
            Shape (t, n, n); not numbers from where the flow outran the steps.
        """
        w, found = self.modes(start), [start]
        for begin, end in zip(times[:-1], times[1:], strict=True):
            steps = max(1, math.ceil((end - begin) / step - 1e-9))
            w = self._interval(w, begin, (end - begin) / steps, steps)
            found.append(self.values(w))
        return np.stack(found)

    def _interval(self, w: Complex, t: float, h: float, steps: int) -> Complex:
        viscous = (h * self.viscous).astype(complex)
        full, phi1, phi2, phi3 = phi_functions(viscous)
        half, half1, _, _ = phi_functions((0.5 * h * self.viscous).astype(complex))
        full, half = full.real, half.real
        half1 = 0.5 * h * half1.real
        first = h * (phi1 - 3 * phi2 + 4 * phi3).real
        middle = 2 * h * (phi2 - 2 * phi3).real
        last = h * (4 * phi3 - phi2).real
        with np.errstate(all="ignore"):
            for _ in range(steps):
                n0 = self._tendency(w, t)
                drift = half * w
                a = drift + half1 * n0
                na = self._tendency(a, t + h / 2)
                nb = self._tendency(drift + half1 * na, t + h / 2)
                nc = self._tendency(half * a + half1 * (2 * nb - n0), t + h)
                w = full * w + first * n0 + middle * (na + nb) + last * nc
                t += h
        return w


def _constant(value: Complex) -> Callable[[float], Complex]:
    return lambda _: value


def stirring(n: int) -> Array:
    """The force of the benchmark at n by n nodes."""
    x = np.arange(n) / n
    angle = 2 * np.pi * (x[:, None] + x[None, :])
    return 0.1 * (np.sin(angle) + np.cos(angle))


@dataclass(frozen=True)
class NavierStokes:
    """Vorticity from a Gaussian field."""

    nu: float | str = option(1e-3, "viscosity")
    end: float = option(
        20.0, "last instant; the benchmark has 50, 30, 20 for 1e-3, 1e-4, 1e-5", above=0
    )
    instants: int = option(
        21, "stored instants, the first and the last included", low=2, high=10000
    )
    grid: int | None = option(None, "nodes per side that are solved on: twice those stored", low=8)
    step: float | None = option(None, "longest step; 1/grid", above=0)
    waves: int | None = option(
        None, "waves per side of the first vorticity: what half the grid resolves", low=1
    )
    alpha: float = option(2.5, "smoothness of the first vorticity", above=1)
    tau: float = option(7.0, "inverse length of the first vorticity", low=0)
    variance: float = option(
        2.0,
        "factor on the variance: the benchmark's first sampler makes it twice what is stated",
        above=0,
    )

    def __post_init__(self) -> None:
        if not parse_constant(self.nu) > 0:
            raise ConfigurationError(
                "", path=("nu",), found=self.nu, advice="write a viscosity > 0"
            )

    def _nodes(self, resolution: int) -> int:
        grid = 2 * resolution if self.grid is None else self.grid
        if resolution % 2 or grid % resolution or grid % 4:
            raise ConfigurationError(
                f"a grid of {grid} nodes per side for {resolution} stored",
                path=("grid",),
                advice="store an even number, and solve on a multiple of it and of four",
            )
        return grid

    def _waves(self, n: int) -> int:
        # Below a third of the nodes of the coarser of the two grids: both keep them.
        return self.waves or max(1, (n // 2 - 1) // 3)

    def describe(self, name: str, resolution: int) -> Description:
        """See `families.Family`."""
        n = self._nodes(resolution)
        nodes = np.arange(resolution) / resolution
        return Description(
            family=name,
            equation="w_t + u*w_x + v*w_y = nu*lap(w) + 0.1*(sin(2*pi*(x + y)) + cos(2*pi*(x + "
            "y))), u = psi_y, v = -psi_x, -lap(psi) = w, periodic on the unit square",
            law=f"w at t = 0 of N(0, {self.variance * self.tau ** (2 * self.alpha - 2):g}*"
            f"(-Laplacian + {self.tau**2:g})^-{self.alpha:g}), mean zero, up to "
            f"{self._waves(n)} waves per side",
            error_bar=f"relative L2 over stored nodes and instants: {SAFETY:g} times the change "
            f"from {n // 2} nodes per side and steps twice as long to the {n} it was solved on",
            grid={"x": nodes, "y": nodes},
            boundary={"x": "periodic", "y": "periodic"},
            fields=(Field("w", "state"),),
            times=np.linspace(0.0, self.end, self.instants),
            constants={"nu": parse_constant(self.nu)},
        )

    def initial(self, generator: np.random.Generator, n: int) -> RandomField:
        """Draw the vorticity at the start, for n nodes per side."""
        axis = Axis("periodic", 0.0, 1.0, 2 * self._waves(n) + 1)
        # sigma = tau^(alpha - 1): the sampler's default in two dimensions.
        scale = math.sqrt(self.variance) * self.tau ** (self.alpha - 1)
        return draw(generator, [axis, axis], matern(scale, self.tau, self.alpha))

    def sample(self, generator: np.random.Generator, resolution: int) -> Sample:
        """See `families.Family`."""
        n = self._nodes(resolution)
        times = np.linspace(0.0, self.end, self.instants)
        field = self.initial(generator, n)
        step = self.step or 1.0 / n
        fine = self._solved(field, n, times, step)[:, :: n // resolution, :: n // resolution]
        coarse = self._solved(field, n // 2, times, 2 * step)
        stride = math.gcd(n // 2, resolution)
        coarse = coarse[:, :: (n // 2) // stride, :: (n // 2) // stride]
        shared = fine[:, :: resolution // stride, :: resolution // stride]
        bar = SAFETY * float(np.linalg.norm(coarse - shared) / np.linalg.norm(shared))
        return Sample({"w": fine}, {"error_bar": bar})

    def _solved(self, field: RandomField, n: int, times: Array, step: float) -> Array:
        nodes = np.arange(n) / n
        flow = Flow(n, parse_constant(self.nu), stirring(n))
        start = flow.values(flow.modes(field.on_grid([nodes, nodes])))
        for halvings in range(_SHORTEST):
            found = flow.run(start, times, step / 2**halvings)
            if np.isfinite(found).all():
                return found
        raise ConfigurationError(
            f"the flow outruns steps of {step / 2 ** (_SHORTEST - 1):.2g}",
            path=("step",),
            advice="choose a shorter step or a larger viscosity",
        )
