"""Which conditions a field can meet by construction, and the field that does.

Periodicity, Neumann and Robin conditions go into the embedding; reflections into the embedding or a
`Reflection`; initial, Dirichlet and all inhomogeneous data into the ansatz ``u = A + B N`` of
`transfinite`. What is built in is checked at random points of every face: a condition that fails
(incompatible corners, say) is imposed softly instead, and said so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sympy
import torch

from ..problems.conditions import Condition
from ..problems.problem import Problem
from .compatibility import AGREEMENT, numbers, random_points, same, settle, sizes, without
from .networks.ansatz import Ansatz, Handover, Reflection, SymbolicField
from .networks.branches import Branches
from .networks.embedding import Embedding
from .networks.field import Field
from .networks.gaussian_field import Gaussians
from .networks.gaussians import GaussianFeatures, GaussianSettings
from .networks.mlp import Mlp
from .networks.propagator import Growth, Propagated
from .networks.separable import SeparableFeatures
from .networks.spectral import Spectral, expand, functions
from .taylor import MultiIndex, algebra_for, value_and_slopes
from .transfinite import Piece, background, envelope, read

MODES_FIRST = 4096
MODES_LATER = 1024
MOST_GROWTH = 5.0
"""Largest exponent by which a propagated mode may grow within a window."""


@dataclass(frozen=True)
class Branch:
    """A network of its own for some of the fields.

    Attributes:
        fields: how many, in declared order after those of the branches before.
        width: units of a hidden layer.
        depth: hidden layers.
        sizes: first sizes of these fields; None for those of the prescribed data.
    """

    fields: int
    width: int
    depth: int
    sizes: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Architecture:
    """What a network looks like (the `network` section of a case)."""

    width: int
    depth: int
    activation: str
    gated: bool
    factorised: bool
    harmonics: int
    fourier: int
    fourier_scale: float
    background: bool = False
    spectral: bool = False
    degree: int = 0
    branches: tuple[Branch, ...] = ()
    gaussians: GaussianSettings | None = None


@dataclass
class Constrained:
    """A field, what it meets by construction, and where it must be sampled.

    Attributes:
        field: the trainable field.
        met: names of the conditions met exactly, the symmetry included.
        bounds: the box to sample: half of it where a reflection is built in.
        handed_over: whether the state at the start of the window is built in.
        notes: sentences about choices a reader would want to know.
    """

    field: Field
    met: frozenset[str]
    bounds: tuple[tuple[float, float], ...]
    handed_over: bool
    notes: list[str] = dataclasses.field(default_factory=list)


def constrain(
    problem: Problem,
    architecture: Architecture,
    *,
    hard: bool | Sequence[str] = True,
    parities: Mapping[str, Mapping[str, int]],
    propagator: bool | str = "auto",
    span: tuple[float, float] | None = None,
    previous: Field | None = None,
    added: Sequence[Field] = (),
    generator: torch.Generator,
    restore: bool = False,
) -> Constrained:
    """Build the field of a problem on a time window.

    Args:
        problem: what is to be solved.
        architecture: the network.
        hard: conditions to build in, by name or kind; True for all.
        parities: reflections to build in: coordinate to field to +1 or -1.
        propagator: carry initial data by the exact linear part; "auto": where the equation is
            nonlinear.
        span: the time window; None for the whole of time or steady problems.
        previous: the field of the window before.
        added: known functions that leave all conditions alone, near which the solution is.
        generator: source of the initial weights.
        restore: the weights will be loaded, so nothing need be computed from ``previous``.
    """
    state = generator.get_state()
    plan = _Plan(problem, architecture, hard, parities, propagator, span, previous)
    while True:
        # A second attempt must not draw other weights than a first one would have.
        generator.set_state(state)
        known = [*plan.backgrounds(restore), *added]
        network, factor = plan.factors(generator, known)
        ansatz = Ansatz(network, known, factor)
        if not plan.withdraw(ansatz):
            break
    field = ansatz if known or factor is not None else network
    return Constrained(field, plan.met(), plan.sampled(), plan.handed_over, plan.notes)


def _chosen(condition: Condition, hard: bool | Sequence[str]) -> bool:
    if isinstance(hard, bool):
        return hard
    return condition.name in hard or condition.kind in hard


class _Plan:
    """What is built in on one time window.

    Attributes:
        data: what A and B have to carry.
        parities: the reflections.
        growth: the exact linear part by which the initial state is carried on, or None.
        notes: what a reader would want to know.
    """

    def __init__(
        self,
        problem: Problem,
        architecture: Architecture,
        hard: bool | Sequence[str],
        parities: Mapping[str, Mapping[str, int]],
        propagator: bool | str,
        span: tuple[float, float] | None,
        previous: Field | None,
    ) -> None:
        self.problem = problem
        self.architecture = architecture
        self.time_axis = problem.coordinates.index(problem.time) if problem.time else None
        self.bounds = [(float(low), float(high)) for low, high in problem.bounds]
        if span is not None and self.time_axis is not None:
            self.bounds[self.time_axis] = span
        self.conditions = [c for c in problem.conditions if _chosen(c, hard)]
        self.previous = previous if hard is not False else None
        self.data, self.notes = read(problem, self.conditions)
        if architecture.gaussians is not None:
            # Their inputs are the coordinates: no polynomials with zero slope at an end.
            sloped = {piece.condition for piece in self.data.pieces if piece.kappa is not None}
            self.conditions = [c for c in self.conditions if c.name not in sloped]
            self.data, self.notes = read(problem, self.conditions)
        self.sizes = sizes(problem)
        self.growth = None
        if self.previous is not None or set(self.data.initial) >= set(problem.fields):
            self.growth = _growth(problem, self.data.periodic, self.bounds, propagator)
        if self.growth is None:
            self.data, found = settle(self.data)
            self.notes += found
        else:
            self.notes.append(
                "the initial state is carried on by the exact linear part of the equation"
            )
        self.parities = {name: s for name, s in parities.items() if self._reflects(name, s)}

    @property
    def handed_over(self) -> bool:
        """Whether the state at the start of the window is built in."""
        return self.previous is not None or self.growth is not None

    def carried(self, field: str) -> int:
        """Order to which N has to vanish at the start of the window."""
        known = self.handed_over or field in self.data.initial
        return self.problem.time_order[field] if known else 0

    def met(self) -> frozenset[str]:
        """Names of the conditions met exactly."""
        met = set()
        for condition in self.conditions:
            built = sum(piece.condition == condition.name for piece in self.data.pieces)
            fields = {target.field for target in condition.targets}
            if (
                condition.kind == "periodic"
                or (condition.kind == "boundary" and built == len(condition.equations))
                or (condition.kind == "initial" and fields <= set(self.data.initial))
            ):
                met.add(condition.name)
        return frozenset(met)

    def sampled(self) -> tuple[tuple[float, float], ...]:
        """The box to sample: half of it where a reflection is built in."""
        names = self.problem.coordinates
        return tuple(
            ((low + high) / 2, high) if name in self.parities else (low, high)
            for name, (low, high) in zip(names, self.bounds, strict=True)
        )

    def factors(
        self, generator: torch.Generator, known: Sequence[Field]
    ) -> tuple[Field, SymbolicField | None]:
        """N with fresh weights, and B; None for one.

        Args:
            generator: source of the weights.
            known: parts of A, which may be an input of N.
        """
        problem = self.problem
        names = problem.coordinates
        flat = self.data.flat()
        for axis, name in enumerate(names):
            if name in self.parities and any(flat[axis]):
                flat[axis] = (True, True)  # a reflection carries the condition to the other end
        network = self._network(generator, known, flat)
        trees = [self._vanishing(f) * envelope(self.data, f) for f in problem.fields]
        for name, by_field in self.parities.items():
            axis = names.index(name)
            low, high = self.bounds[axis]
            signs = [by_field[f] for f in problem.fields]
            if name in self._even:
                wave = 2 * sympy.pi / sympy.Float(high - low)
                x = sympy.Symbol(name, real=True)
                odd = sympy.sin(wave * (x - sympy.Float((low + high) / 2)))
                trees = [t * odd if sign < 0 else t for t, sign in zip(trees, signs, strict=True)]
            else:
                network = Reflection(network, axis, (low + high) / 2, signs)
        return network, SymbolicField(names, trees) if any(t != 1 for t in trees) else None

    @property
    def _even(self) -> list[str]:
        """Periodic coordinates in which N is made even by its inputs: with cosines alone.

        An odd background among the inputs would spoil that.
        """
        odd = self.architecture.background and any(
            sign < 0 for by_field in self.parities.values() for sign in by_field.values()
        )
        if odd or self.architecture.gaussians is not None:
            return []
        return [name for name in self.data.periodic if name in self.parities]

    def _network(
        self,
        generator: torch.Generator,
        known: Sequence[Field],
        flat: Mapping[int, tuple[bool, bool]],
    ) -> Field:
        """N before reflections, with fresh weights; arguments as in `factors` and `Embedding`."""
        architecture, names = self.architecture, self.problem.coordinates
        periodic = {names.index(name): architecture.harmonics for name in self.data.periodic}
        if architecture.gaussians is not None:
            return self._gaussians(architecture.gaussians, list(periodic), generator, known)
        fields = list(self.problem.fields)
        whole = Branch(len(fields), architecture.width, architecture.depth)
        networks = []
        for branch in architecture.branches or (whole,):
            mine, fields = fields[: branch.fields], fields[branch.fields :]
            networks.append(self._branch(branch, mine, periodic, generator, known, flat))
        return networks[0] if len(networks) == 1 else Branches(networks)

    def _branch(
        self,
        branch: Branch,
        fields: Sequence[str],
        periodic: Mapping[int, int],
        generator: torch.Generator,
        known: Sequence[Field],
        flat: Mapping[int, tuple[bool, bool]],
    ) -> Field:
        """A network for some of the fields."""
        architecture, names = self.architecture, self.problem.coordinates
        outputs = len(fields)
        even = [names.index(name) for name in self._even]
        bases = None
        if architecture.spectral:
            assert self.time_axis is not None
            bases = expand(
                self.bounds,
                self.time_axis,
                periodic=periodic,
                cosine_only=even,
                flat=flat,
                degree=architecture.degree,
            )
        embedding = Embedding(
            self.bounds,
            periodic=periodic if bases is None else {},
            cosine_only=even,
            flat=flat if bases is None else {},
            fourier=architecture.fourier,
            fourier_scale=architecture.fourier_scale,
            generator=generator,
            left_out=() if bases is None else [basis.axis for basis in bases],
        )
        network = Mlp(
            embedding,
            outputs * (1 if bases is None else functions(bases)),
            width=branch.width,
            depth=branch.depth,
            activation=architecture.activation,
            factorised=architecture.factorised,
            gated=architecture.gated,
            generator=generator,
            background=self._sizes(known),
        )
        # Fields start at the size that the prescribed data have.
        rows = torch.tensor(branch.sizes or [self.sizes[name] for name in fields])
        rows = rows.repeat_interleave(1 if bases is None else functions(bases))
        with torch.no_grad():
            network.readout.weight.mul_(rows[:, None])
            network.readout.bias.mul_(rows)  # type: ignore[union-attr]
        return network if bases is None else Spectral(network, outputs, bases)

    def _gaussians(
        self,
        settings: GaussianSettings,
        periodic: Sequence[int],
        generator: torch.Generator,
        known: Sequence[Field],
    ) -> Field:
        architecture, outputs = self.architecture, len(self.problem.fields)
        kind = SeparableFeatures if settings.separable else GaussianFeatures
        if architecture.depth == 0 and not settings.separable:
            settings = dataclasses.replace(settings, channels=outputs)
        network = Gaussians(
            kind(
                self.bounds,
                settings,
                periodic=periodic,
                placed=self.sampled(),
                generator=generator,
            ),
            outputs,
            width=architecture.width,
            depth=architecture.depth,
            activation=architecture.activation,
            generator=generator,
            background=self._sizes(known) if architecture.depth else None,
        )
        network.rescale(torch.tensor([self.sizes[name] for name in self.problem.fields]))
        return network

    def _sizes(self, known: Sequence[Field]) -> torch.Tensor | None:
        """Size of each field of A over the window where A is an input of N, else None.

        Where A carries slopes, at the ends of Robin and inhomogeneous Neumann conditions, a
        function of it would not have the zero slope that N needs there.
        """
        pieces = self.data.pieces
        sloped = any(p.kappa is not None and (p.kappa or p.data != 0) for p in pieces)
        if not self.architecture.background or not known or sloped:
            return None
        points = torch.from_numpy(random_points(self.problem, {}, self.bounds))
        with torch.no_grad():
            sizes = torch.stack([part(points) for part in known]).sum(0).abs().amax(0)
        return torch.where(sizes > 0, sizes, 1.0)

    def _vanishing(self, field: str) -> sympy.Expr:
        """Time since the start of the window in its units, to the order that is carried."""
        if self.time_axis is None:
            return sympy.Integer(1)
        low, high = self.bounds[self.time_axis]
        t = sympy.Symbol(self.problem.coordinates[self.time_axis], real=True)
        return ((t - sympy.Float(low)) / sympy.Float(high - low)) ** self.carried(field)

    def backgrounds(self, restore: bool) -> list[Field]:
        """The known fields whose sum is A.

        Args:
            restore: weights will be loaded, so nothing need be computed from the window before.
        """
        names = self.problem.coordinates
        if self.growth is not None:
            return [self._propagated(self.growth, restore)]
        known: list[Field] = []
        start = None
        if self.previous is not None and self.time_axis is not None:
            start = self.bounds[self.time_axis][0]
        trees = [background(self.data, f, start) for f in self.problem.fields]
        if any(tree != 0 for tree in trees):
            known.append(SymbolicField(names, trees))
        if self.previous is not None and self.time_axis is not None and start is not None:
            orders = [self.problem.time_order[f] for f in self.problem.fields]
            known.append(Handover(self.previous, self.time_axis, start, orders))
        return known

    def _start(self) -> list[sympy.Expr]:
        return [self.data.initial[f][0] for f in self.problem.fields]

    def _propagated(self, growth: Sequence[Growth], restore: bool) -> Propagated:
        assert self.time_axis is not None
        axis = self.problem.coordinates.index(self.data.periodic[0])
        state = self.previous
        if state is None:
            state = SymbolicField(self.problem.coordinates, self._start())
        return Propagated(
            None if restore else state,
            growth,
            axis=axis,
            bounds=self.bounds[axis],
            time_axis=self.time_axis,
            time=self.bounds[self.time_axis][0],
            modes=MODES_FIRST if self.previous is None else MODES_LATER,
        )

    def _reflects(self, name: str, by_field: Mapping[str, int]) -> bool:
        """Whether A and B have a parity; where they have not, half of the box would stay untrained.

        N is given the parity, so B has to be even.
        """
        problem = self.problem
        axis = problem.coordinates.index(name)
        points = random_points(problem, {}, problem.bounds)
        mirror = points.copy()
        mirror[:, axis] = sum(problem.bounds[axis]) - mirror[:, axis]
        for field, sign in by_field.items():
            if self.growth is None:
                tree = background(self.data, field)
            else:
                tree = self.data.initial.get(field, {}).get(0, sympy.Integer(0))
            parts = ((tree, sign, self.sizes[field]), (envelope(self.data, field), 1, 1.0))
            for known, parity, size in parts:
                here, there = (numbers(problem, known, p) for p in (points, mirror))
                if not same(here, parity * there, size):
                    self.notes.append(
                        f"the reflection in {name} is not built in: "
                        "what else is built in does not have it"
                    )
                    return False
        return True

    def withdraw(self, product: Ansatz) -> bool:
        """Give up what a random ``B N`` does not leave alone; returns whether there was any."""
        broken = [piece for piece in self.data.pieces if not self._leaves(product, piece)]
        late = [field for field in self.data.initial if not self._starts_at_zero(product, field)]
        if not broken and not late:
            return False
        self.data, found = without(
            self.data, broken, "the network cannot be made to leave it alone"
        )
        self.data = self.data.without(initial=late)
        self.notes += found
        if self.growth is None:
            self.data, found = settle(self.data)
            self.notes += found
        self.parities = {name: s for name, s in self.parities.items() if self._reflects(name, s)}
        return True

    def _leaves(self, product: Ansatz, piece: Piece) -> bool:
        """Whether the homogeneous condition holds at random points of the face."""
        names = self.problem.coordinates
        held = {piece.face.coordinate: piece.face.value}
        points = torch.from_numpy(random_points(self.problem, held, self.bounds))
        algebra = value_and_slopes(len(names))
        with torch.no_grad():
            bundle = product.correction(points, algebra)[
                ..., self.problem.fields.index(piece.field)
            ]
        value, slope = bundle[0], bundle[1 + names.index(piece.face.coordinate)]
        kappa = piece.kappa
        left = value if kappa is None else piece.face.side * slope + kappa * value
        size = self.sizes[piece.field]
        return bool(left.abs().max() <= AGREEMENT * (size + bundle.abs().max()))

    def _starts_at_zero(self, product: Ansatz, field: str) -> bool:
        """Whether everything that the initial data give vanishes at the start."""
        assert self.time_axis is not None
        axis, names = self.time_axis, self.problem.coordinates
        points = random_points(self.problem, {names[axis]: self.bounds[axis][0]}, self.bounds)
        orders = [
            tuple(m * (i == axis) for i in range(len(names))) for m in range(self.carried(field))
        ]
        algebra = algebra_for(orders, len(names))
        with torch.no_grad():
            bundle = product.correction(torch.from_numpy(points), algebra)
        start = bundle[..., self.problem.fields.index(field)]
        return bool(start.abs().max() <= AGREEMENT * self.sizes[field])


def _growth(
    problem: Problem,
    periodic: Sequence[str],
    bounds: Sequence[tuple[float, float]],
    propagator: bool | str,
) -> list[Growth] | None:
    """Growth rates of the linear derivative terms, or None where the propagator does not apply."""
    namespace = problem.namespace
    if propagator is False or problem.time is None or list(periodic) != list(namespace.space):
        return None
    if len(namespace.space) != 1 or len(problem.equations) != len(problem.fields):
        return None
    axis = problem.coordinates.index(periodic[0])
    time_axis = problem.coordinates.index(problem.time)
    span = bounds[time_axis][1] - bounds[time_axis][0]
    rates: list[Growth] = []
    nonlinear = False
    unit: MultiIndex = tuple(int(i == time_axis) for i in range(len(problem.coordinates)))
    for name, equation in zip(problem.fields, problem.equations, strict=True):
        if equation.tree is None or problem.time_order[name] != 1:
            return None
        tree = sympy.expand(problem.substituted(equation.tree))
        jets = namespace.jets(tree)
        slope = sympy.diff(tree, namespace.jet(name, unit))
        timelike = [s for s, (_, index) in jets.items() if index[time_axis]]
        if not slope.is_number or slope == 0 or timelike != [namespace.jet(name, unit)]:
            return None
        terms: dict[int, complex] = {}
        rest = tree - slope * namespace.jet(name, unit)
        for symbol, (field_name, index) in jets.items():
            coefficient = sympy.diff(tree, symbol)
            order = index[axis]
            constant = coefficient.subs({s: 0 for s in jets})
            if field_name == name and order and not index[time_axis] and constant.is_number:
                terms[order] = -complex(constant / slope)
                rest -= constant * symbol
        nonlinear = nonlinear or bool(namespace.jets(sympy.expand(rest)))

        def rate(k: np.ndarray, terms: dict[int, complex] = terms) -> np.ndarray:
            return sum((c * (1j * k) ** n for n, c in terms.items()), np.zeros(len(k), complex))

        lowest = 2 * np.pi / (bounds[axis][1] - bounds[axis][0])
        if not terms or np.max(np.real(rate(lowest * np.arange(MODES_FIRST)))) * span > MOST_GROWTH:
            return None
        rates.append(rate)
    return rates if nonlinear or propagator is True else None
