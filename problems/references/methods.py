"""The classical methods behind one face: solve at a level in space and a level in time."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from .collocation import Collocation
from .etdrk4 import etdrk4
from .exponential import propagate
from .fourier import FourierSystem, NotApplicable
from .radau import Diverged, integrate
from .solution import GridSolution, Slices
from .spectral import Basis, Chebyshev, Fourier
from .steady import newton
from .system import ReferenceUnavailable, System, partial
from .tensor import TensorSystem

__all__ = [
    "FourierETDRK4",
    "FourierExact",
    "Method",
    "NewtonCollocation",
    "RadauCollocation",
    "candidates",
]

Array = NDArray[np.float64]

_STAGES = 7
# Dense matrices beyond this many unknowns take longer than a reference may.
_DENSE = 2600
# Nodes per coordinate beyond which even the solver by coordinates does.
_TENSOR = 385


class Method(ABC):
    """A solver with two knobs.

    Attributes:
        name: what the report calls it.
        space: nodes per coordinate, coarse to fine; (0,) without space coordinates.
        time: tolerances, or numbers of steps, coarse to fine; (0,) for steady problems.
        start: indices into both at which refinement begins.
        gain: factor by which one rung in time lowers the error.
        largest: nodes per coordinate that fit in memory.
        dense_limit: nodes per coordinate up to which its matrices are quick.
    """

    name: str
    space: tuple[int, ...]
    time: tuple[float, ...]
    start: tuple[int, int]
    largest: int
    gain: float = 1.0
    dense_limit: int = 0

    @abstractmethod
    def solve(self, i: int, j: int, deadline: float) -> GridSolution:
        """Solve at levels i in space and j in time."""

    @abstractmethod
    def coarser(self, i: int, j: int, fine: Slices | None, deadline: float) -> GridSolution:
        """The solution at these levels once more, with longer steps than its slices `fine`."""

    @abstractmethod
    def growth(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """How many times longer the new levels should take than the old."""

    @abstractmethod
    def describe(self, i: int, j: int) -> str:
        """The resolution in words."""

    @abstractmethod
    def bases(self, i: int) -> Sequence[Basis]:
        """The bases at a level in space, by space coordinate."""

    def instants(self, j: int, stored: Slices | None) -> Slices | None:
        """The instants at which a run at level j saw the equation; those it stored by default."""
        return stored

    @property
    def parity(self) -> Mapping[str, Sequence[int]]:
        """Sign of every field by mirrored coordinate."""
        return {}


class FourierETDRK4(Method):
    """Fourier space, exponential time differencing of fourth order."""

    gain = 16.0

    def __init__(self, system: System) -> None:
        self.fourier = FourierSystem(system)
        if not self.fourier.smooth_when_mirrored():
            raise NotApplicable("the initial data have a corner when mirrored at the walls")
        self.axes = len(system.space)
        self.largest = 4096 if self.axes == 1 else 512
        longest = 4096 if self.axes == 1 else 256
        # Every other one twice an odd number: neighbours share two nodes, and alias differently.
        ladder = (
            *(4, 8, 16, 26, 32, 50, 64, 98, 128, 198),
            *(256, 378, 512, 770, 1024, 1458, 2048, 3150, 4096),
        )
        self.space = tuple(n for n in ladder if n <= longest)
        # The first rungs are there for what a classical solver costs at large errors.
        self.time = tuple(float(2**k) for k in range(18))
        self.start = (4, 6) if self.axes == 1 else (3, 6)
        self.name = "Fourier ETDRK4" + (", mirrored at the walls" if self.fourier.mirrored else "")

    def solve(self, i: int, j: int, deadline: float) -> GridSolution:
        """See `Method.solve`."""
        return etdrk4(self.fourier, self.space[i], int(self.time[j]), deadline=deadline)

    def coarser(self, i: int, j: int, fine: Slices | None, deadline: float) -> GridSolution:
        """See `Method.coarser`."""
        return self.solve(i, j - 1, deadline)

    def growth(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """See `Method.growth`."""
        nodes = (self.space[new[0]] / self.space[old[0]]) ** self.axes
        return nodes ** (0.6 if self.axes == 1 else 1.1) * self.time[new[1]] / self.time[old[1]]

    def describe(self, i: int, j: int) -> str:
        """See `Method.describe`."""
        return f"{self.space[i]} nodes per coordinate, {int(self.time[j])} steps"

    def bases(self, i: int) -> Sequence[Basis]:
        """See `Method.bases`."""
        return self.fourier.bases(self.space[i])

    def instants(self, j: int, stored: Slices | None) -> Slices | None:
        """See `Method.instants`: all steps, of which memory may hold only some."""
        steps = int(self.time[max(j, 0)])
        return Slices(np.linspace(*self.fourier.system.span, steps + 1), 10, 1)

    @property
    def parity(self) -> Mapping[str, Sequence[int]]:
        """See `Method.parity`."""
        return self.fourier.mirrored


class FourierExact(FourierETDRK4):
    """Fourier space, exact in time: linear equations with constant coefficients, no sources."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        if any(tree != 0 for tree in self.fourier.rest) or self.fourier.components > 2:
            raise NotApplicable("the equations are not linear with constant coefficients")
        self.time = (0.0,)
        self.start = (self.start[0], 0)
        self.name = "Fourier, exact in time" + (
            ", mirrored at the walls" if self.fourier.mirrored else ""
        )

    def solve(self, i: int, j: int, deadline: float) -> GridSolution:
        """See `Method.solve`."""
        return propagate(self.fourier, self.space[i])

    def coarser(self, i: int, j: int, fine: Slices | None, deadline: float) -> GridSolution:
        """See `Method.coarser`."""
        return self.solve(i, j, deadline)

    def growth(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """See `Method.growth`."""
        return (self.space[new[0]] / self.space[old[0]]) ** self.axes

    def describe(self, i: int, j: int) -> str:
        """See `Method.describe`."""
        return f"{self.space[i]} nodes per coordinate"

    def instants(self, j: int, stored: Slices | None) -> Slices | None:
        """See `Method.instants`."""
        return None


class RadauCollocation(Method):
    """Collocation in space, Radau IIA of order 13 in time; without space, a system of ODEs."""

    gain = 30.0

    def __init__(self, system: System) -> None:
        self.system = system
        _check_affine(system)
        self.axes = len(system.space)
        components = sum(max(m, 1) for m in system.orders)
        # Odd and even in turn: grids of one parity share their symmetry, and would agree on where
        # a jump near the middle lies.
        ladder = (8, 13, 16, 25, 32, 49, 64, 97, 128, 193, 256, 385, 512, 769, 1024)
        self.space = (
            tuple(n for n in ladder if components * n**self.axes <= _DENSE) if self.axes else (0,)
        )
        if len(self.space) < 3 and self.axes:
            raise ReferenceUnavailable(
                f"{components} components on a grid of {self.axes} coordinates are too many for "
                "the dense collocation "
                "behind the automatic reference; give an exact solution or set 'reference: none'"
            )
        self.largest = _largest(components, self.axes)
        self.time = tuple(10.0 ** -(2 + 1.5 * k) for k in range(8))
        self.dense_limit = 400 // components if self.axes == 1 else 16
        self.start = (min(3, len(self.space) - 1), 3) if self.axes else (0, 4)
        kinds = sorted({"Fourier" if c in system.periodic else "Chebyshev" for c in system.space})
        self.name = (
            " and ".join(kinds) + " collocation + " if kinds else ""
        ) + f"Radau IIA({2 * _STAGES - 1})"

    def solve(self, i: int, j: int, deadline: float) -> GridSolution:
        """See `Method.solve`."""
        return self._march(i, j, deadline, None)

    def coarser(self, i: int, j: int, fine: Slices | None, deadline: float) -> GridSolution:
        """Two thirds of the steps, distributed alike: two tolerances can give the same steps.

        No step ends where one of the finer run does: a jump of a source just after a shared end
        would be seen by no stage before it, in both.
        """
        assert fine is not None
        breaks = fine.times[::_STAGES]
        steps = len(breaks) - 1
        fewer = max(1, 2 * steps // 3)
        while gcd(fewer, steps) > 1:
            fewer -= 1
        partition = np.interp(
            np.arange(1, fewer + 1) * (steps / fewer), np.arange(steps + 1), breaks
        )
        return self._march(i, j, deadline, partition)

    def _march(self, i: int, j: int, deadline: float, partition: Array | None) -> GridSolution:
        grid = Collocation(self.system, [self.space[i]] * self.axes)
        times, states = integrate(
            grid,
            grid.initial(),
            self.system.span,
            self.time[j],
            deadline=deadline,
            stages=_STAGES,
            partition=partition,
        )
        assert self.system.time is not None
        column = self.system.coordinates.index(self.system.time)
        return GridSolution(
            grid.bases, grid.fields(states), Slices(times, _STAGES + 1, _STAGES), column
        )

    def growth(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """See `Method.growth`."""
        nodes = (self.space[new[0]] / self.space[old[0]]) ** self.axes if self.axes else 1.0
        return nodes**2.3 * (self.time[old[1]] / self.time[new[1]]) ** (1 / _STAGES)

    def describe(self, i: int, j: int) -> str:
        """See `Method.describe`."""
        nodes = f"{self.space[i]} nodes per coordinate, " if self.axes else ""
        return f"{nodes}tolerance {self.time[j]:.1e}"

    def bases(self, i: int) -> Sequence[Basis]:
        """See `Method.bases`."""
        return _collocated(self.system, self.space[i])


class NewtonCollocation(Method):
    """Steady problems: Newton's method on the collocation equations."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.axes = len(system.space)
        ladder = (
            *(4, 6, 9, 12, 17, 24, 33, 40, 49, 64),
            *(97, 128, 193, 256, 385, 512, 769, 1024, 1537, 2048),
        )
        fields = len(system.fields)
        try:
            self.tensor: TensorSystem | None = TensorSystem(system)
        except NotApplicable:
            self.tensor = None
        if self.tensor is None:
            self.space = tuple(n for n in ladder if fields * n**self.axes <= _DENSE)
            self.largest = _largest(fields, self.axes)
        else:
            self.largest = _TENSOR
            self.space = tuple(n for n in ladder if n <= _TENSOR)
        self.time = (0.0,)
        self.start = (min(4, len(self.space) - 1), 0)
        kinds = sorted({"Fourier" if c in system.periodic else "Chebyshev" for c in system.space})
        self.name = "-".join([*kinds, "Sylvester"] if self.tensor else ["Newton", *kinds])

    def solve(self, i: int, j: int, deadline: float) -> GridSolution:
        """See `Method.solve`."""
        if self.tensor is not None:
            try:
                return self.tensor.solve(self.bases(i))
            except NotApplicable:
                if self.space[i] > _DENSE ** (1 / self.axes):
                    raise Diverged("the operator is singular to rounding") from None
        grid = Collocation(self.system, [self.space[i]] * self.axes)
        u, rounding = newton(grid, deadline=deadline)
        fields = grid.fields(u[None])
        return GridSolution(grid.bases, fields, rounding=np.full(fields.shape[1], rounding))

    def coarser(self, i: int, j: int, fine: Slices | None, deadline: float) -> GridSolution:
        """See `Method.coarser`."""
        return self.solve(i, j, deadline)

    def growth(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """See `Method.growth`."""
        power = 3.0 if self.tensor is not None else 2.8 * self.axes
        return (self.space[new[0]] / self.space[old[0]]) ** power

    def describe(self, i: int, j: int) -> str:
        """See `Method.describe`."""
        return f"{self.space[i]} nodes per coordinate"

    def bases(self, i: int) -> Sequence[Basis]:
        """See `Method.bases`."""
        return _collocated(self.system, self.space[i])


def _collocated(system: System, n: int) -> list[Basis]:
    """The bases that `Collocation` uses."""
    return [
        Fourier(*system.bounds[c], n | 1)
        if c in system.periodic
        else Chebyshev(*system.bounds[c], n)
        for c in system.space
    ]


def _largest(components: int, axes: int) -> int:
    """Nodes per coordinate whose dense matrices fit in memory; any number without coordinates."""
    return int((_DENSE / components) ** (1 / axes)) if axes else sys.maxsize


def _check_affine(system: System) -> None:
    """Refuse residuals whose highest time derivatives are not determined by a linear system."""
    for tree in system.equations:
        jets = system.jets(tree)
        highest = {s for s, j in jets.items() if 0 < system.orders[j.field] == j.time}
        for symbol in highest:
            if partial(tree, symbol).free_symbols & highest:
                raise ReferenceUnavailable(
                    f"the equation is not linear in its highest time derivative ({symbol}), so the "
                    "solution can "
                    "branch; solve it for that derivative, give an exact solution, or set "
                    "'reference: none'"
                )


def candidates(system: System) -> Sequence[Callable[[System], Method]]:
    """Methods to try, best first; a constructor may still raise NotApplicable."""
    if system.time is None:
        return (NewtonCollocation,)
    if not system.space:
        return (RadauCollocation,)
    return (FourierExact, FourierETDRK4, RadauCollocation)
