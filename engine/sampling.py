"""Where the equation is asked to hold: collocation points in a box and on its faces.

Points are arrays of shape (n, number of coordinates) in declared coordinate order, float64; bounds
are a sequence of (low, high), one pair per coordinate, time included.

Randomness is counter-based. Every draw names its own stream by a short tuple of whole numbers,
such as ``(run seed, window, round)``; nothing is carried from one draw to the next and NumPy's
global state is neither read nor written. A run that resumes therefore needs its counters, not a
generator's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigurationError, DivergedError

if TYPE_CHECKING:
    from ..problems.conditions import Face

__all__ = [
    "METHODS",
    "equidistributed",
    "generator",
    "interior",
    "on_face",
    "opposite",
    "r3",
    "rad",
    "rad_density",
    "slabs",
    "unit_points",
]

Array = NDArray[np.float64]
Bounds = Sequence[tuple[float, float]]
Seed = Sequence[int]

_BELOW_ONE = float(np.nextafter(1.0, 0.0))
# Keeps candidates of probability zero in the race, all behind the others.
_LEAST = 1e-290
# Streams beside the interior's, so that draws with one seed are independent of each other.
_FACES, _CHOICE = 1, 2


def generator(seed: Seed, *stream: int) -> np.random.Generator:
    """The random generator of one draw.

    `numpy.random.SeedSequence` pads with zeros, so ``(1,)`` and ``(1, 0)`` would share one stream,
    as would any two tuples that agree once cut into 32-bit words. The length and a fixed two words
    per number make different tuples different.

    Args:
        seed: the caller's counters, each from 0 to 2**64 - 1.
        stream: further counters by which draws from one `seed` are told apart.

    Raises:
        ValueError: a counter is negative or too large.
    """
    counters = [int(part) for part in (*seed, *stream)]
    if any(not 0 <= part < 1 << 64 for part in counters):
        raise ValueError(f"seed counters must be whole numbers from 0 to 2**64 - 1, got {counters}")
    words = [half for part in counters for half in (part & 0xFFFFFFFF, part >> 32)]
    return np.random.default_rng([len(seed), len(counters), *words])


def unit_points(n: int, dim: int, method: str, seed: Seed) -> Array:
    """Points in the unit cube [0, 1)^dim.

    Args:
        n: number of points; `grid` alone may give more, see there.
        dim: number of coordinates; with 0 there is a single, empty, point to choose from.
        method: `uniform`: independent. `latin_hypercube`: in every coordinate exactly one point in
            each of n equal intervals (McKay et al. 1979). `sobol`, `halton`: scrambled
            low-discrepancy sequences (Owen 1998). A Sobol net is balanced at powers of two; the
            next one is drawn and its first n points are kept, which is the same sequence cut
            short. `grid`: centres of a tensor grid, no randomness, whose sides differ by at most
            one: the smallest such grid of *at least* n cells (exactly n when n is a dim-th power).
        seed: counters of the draw.

    Returns:
        Shape (n, dim).

    Raises:
        ConfigurationError: unknown method.
        ValueError: negative n or dim.
    """
    return _unit_points(n, dim, method, generator(seed))


def _unit_points(n: int, dim: int, method: str, rng: np.random.Generator) -> Array:
    if method not in _SAMPLERS:
        raise ConfigurationError(
            "unknown sampler", found=method, advice=f"write one of: {', '.join(METHODS)}"
        )
    if n < 0 or dim < 0:
        raise ValueError(f"n and dim must not be negative, got {n = }, {dim = }")
    if n == 0 or dim == 0:
        return np.zeros((n, dim))
    points = _SAMPLERS[method](n, dim, rng)
    # Scaling 32-bit fractions or dividing by n may round up to 1.
    return np.minimum(points, _BELOW_ONE)


def _uniform(n: int, dim: int, rng: np.random.Generator) -> Array:
    return rng.random((n, dim))


def _latin_hypercube(n: int, dim: int, rng: np.random.Generator) -> Array:
    from scipy.stats import qmc  # here: importing scipy.stats costs most of a second

    return qmc.LatinHypercube(dim, rng=rng).random(n)


def _sobol(n: int, dim: int, rng: np.random.Generator) -> Array:
    from scipy.stats import qmc

    return qmc.Sobol(dim, scramble=True, rng=rng).random_base2((n - 1).bit_length())[:n]


def _halton(n: int, dim: int, rng: np.random.Generator) -> Array:
    from scipy.stats import qmc

    return qmc.Halton(dim, scramble=True, rng=rng).random(n)


def _grid(n: int, dim: int, rng: np.random.Generator) -> Array:
    sides = [max(1, math.floor(n ** (1.0 / dim)))] * dim
    axis = 0
    while math.prod(sides) < n:
        sides[axis] += 1
        axis = (axis + 1) % dim
    axes = [(np.arange(side) + 0.5) / side for side in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)


_SAMPLERS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "uniform": _uniform,
    "latin_hypercube": _latin_hypercube,
    "sobol": _sobol,
    "halton": _halton,
    "grid": _grid,
}
METHODS = tuple(_SAMPLERS)
"""The samplers by name."""


def _scaled(unit: Array, bounds: Bounds) -> Array:
    low, high = np.asarray(bounds, dtype=np.float64).reshape(-1, 2).T
    return np.clip(low + unit * (high - low), low, high)


def interior(bounds: Bounds, n: int, method: str, seed: Seed) -> Array:
    """Points inside a box.

    Args:
        bounds: (low, high) of each coordinate.
        n: number of points (`grid` may give more).
        method: see `unit_points`.
        seed: counters of the draw.

    Returns:
        Shape (n, number of coordinates).
    """
    return _scaled(unit_points(n, len(bounds), method, seed), bounds)


def on_face(
    bounds: Bounds, coordinates: Sequence[str], face: Face, n: int, method: str, seed: Seed
) -> tuple[Array, Array]:
    """Points on one face of a box, and the outward unit normals there.

    Faces drawn with the same `seed` get points independent of each other and of `interior`; use
    `opposite` where two faces must be compared point by point.

    Args:
        bounds: (low, high) of each coordinate.
        coordinates: their names, in the same order.
        face: coordinate, value and side of the face; the initial slice has side -1.
        n: number of points (`grid` may give more). A box of one coordinate has faces of a single
            point, which is returned once, whatever n.
        method: see `unit_points`.
        seed: counters of the draw.

    Returns:
        Points and normals, each of shape (n, number of coordinates).

    Raises:
        ValueError: the face's coordinate is not among `coordinates`.
    """
    axis = list(coordinates).index(face.coordinate)
    others = [index for index in range(len(bounds)) if index != axis]
    if not others:
        n = min(n, 1)
    rng = generator(seed, _FACES, axis, int(face.side > 0))
    tangential = _unit_points(n, len(others), method, rng)
    points = np.empty((len(tangential), len(bounds)))
    points[:, others] = _scaled(tangential, [bounds[index] for index in others])
    points[:, axis] = face.value
    normals = np.zeros_like(points)
    normals[:, axis] = face.side
    return points, normals


def opposite(points: Array, coordinates: Sequence[str], face: Face) -> Array:
    """The same points moved along `face.coordinate` onto `face`: partners in a periodic pair."""
    moved = points.copy()
    moved[:, list(coordinates).index(face.coordinate)] = face.value
    return moved


def _magnitude(residual: ArrayLike) -> Array:
    """|r| of each point, shape (n,): the Euclidean norm over equations, if there are several."""
    values = np.abs(np.asarray(residual, dtype=np.float64))
    if values.ndim == 2:
        values = np.linalg.norm(values, axis=1)
    if values.ndim != 1:
        raise ValueError(f"residual must have shape (n,) or (n, equations), got {values.shape}")
    if not np.isfinite(values).all():
        raise DivergedError("a residual used for choosing points is not finite")
    return values


def rad_density(residual: ArrayLike, k: float = 1.0, c: float = 1.0) -> Array:
    """Probabilities p_i proportional to |r_i|^k / mean(|r|^k) + c, summing to one.

    Args:
        residual: at the candidates, shape (n,) or (n, equations).
        k: sharpness; 0 is uniform.
        c: share of uniform sampling, relative to the residual's share of 1.

    Returns:
        Shape (n,). Uniform where the residual vanishes everywhere.

    Source:
        Wu, Zhu, Tan, Kartha, Lu, CMAME 403 (2023) 115671.
    """
    size = _magnitude(residual)
    largest = size.max(initial=0.0)
    if largest == 0.0:
        return np.full(len(size), 1.0 / max(len(size), 1))
    power = (size / largest) ** k  # scaled first: |r|^k alone may overflow
    density = power / power.mean() + c
    return density / density.sum()


def rad(
    candidates: Array,
    residual: ArrayLike,
    n: int,
    k: float = 1.0,
    c: float = 1.0,
    *,
    seed: Seed,
) -> Array:
    """Residual-based adaptive distribution: n candidates, none twice, drawn by `rad_density`.

    Drawing one after another, each time in proportion to the probabilities left, is the same as
    taking the n smallest of E_i / p_i with independent unit exponentials E_i (Efraimidis and
    Spirakis 2006).

    Args:
        candidates: shape (m, d), m >= n; several times n, or there is little to choose.
        residual: there, shape (m,) or (m, equations).
        n: number of points wanted.
        k: see `rad_density`.
        c: see `rad_density`.
        seed: counters of the draw.

    Returns:
        Shape (n, d), in candidate order.

    Raises:
        DivergedError: a residual is not finite.
        ValueError: fewer candidates than n, or not one residual for each.
    """
    density = rad_density(residual, k, c)
    if len(density) != len(candidates) or n > len(candidates):
        raise ValueError(
            f"{n} points wanted of {len(candidates)} candidates with {len(density)} residuals"
        )
    race = generator(seed, _CHOICE).exponential(size=len(density)) / np.maximum(density, _LEAST)
    return candidates[np.sort(np.argsort(race, kind="stable")[:n])]


def r3(points: Array, residual: ArrayLike, fresh: Array) -> Array:
    """Retain, resample, release: keep the points with |r| > mean |r|, replace all others.

    Args:
        points: shape (n, d).
        residual: there, shape (n,) or (n, equations).
        fresh: new points, uniform in the same domain, at least as many as are released; n always
            suffice.

    Returns:
        Shape (n, d): the retained points in their order, then the first of `fresh`.

    Raises:
        DivergedError: a residual is not finite.
        ValueError: not one residual for each point, or `fresh` runs out.

    Source:
        Daw, Bu, Wang, Perdikaris, Karpatne, ICML 2023, algorithm 1.
    """
    size = _magnitude(residual)
    if len(size) != len(points):
        raise ValueError(f"{len(points)} points with {len(size)} residuals")
    retained = points[size > size.mean()] if len(size) else points
    released = len(points) - len(retained)
    if len(fresh) < released:
        raise ValueError(f"{released} fresh points needed, got {len(fresh)}")
    return np.concatenate([retained, fresh[:released]])


def equidistributed(
    values: Array, bounds: tuple[float, float], probes: Array, slopes: Array
) -> Array:
    """Uniform values of a coordinate mapped so that steep parts get more of them.

    Args:
        values: uniform in the bounds, shape (n,).
        bounds: (low, high) of the coordinate.
        probes: where the slope is known, shape (m,), uniform in the bounds.
        slopes: its size there, shape (m,).

    Returns:
        Shape (n,): density ``(1 + s / mean s) / 2`` where the slope is s; the values themselves
        where it vanishes everywhere.

    Source:
        de Boor, Good approximation by splines with variable knots II, 1974 (equidistribution).
    """
    mean = slopes.mean() if len(slopes) else 0.0
    if mean == 0.0:
        return values
    low, high = bounds
    order = np.argsort(probes, kind="stable")
    nodes = np.concatenate([[low], probes[order], [high]])
    monitor = 1.0 + slopes[order] / mean
    monitor = np.concatenate([monitor[:1], monitor, monitor[-1:]])
    mass = np.concatenate([[0.0], np.cumsum(np.diff(nodes) * (monitor[1:] + monitor[:-1]) / 2)])
    return np.interp((values - low) / (high - low) * mass[-1], mass, nodes)


def slabs(t: ArrayLike | Any, bounds: tuple[float, float], count: int) -> NDArray[np.int64]:
    """The time slab each point lies in, for causal weights.

    The slabs are `count` equal intervals [low, high); the last one is closed. A time before the
    first slab belongs to the first, one after the last (a window's overhang) to the last.

    Args:
        t: times, shape (n,); a CPU tensor will do.
        bounds: (low, high) of time.
        count: number of slabs.

    Returns:
        Shape (n,), from 0 to count - 1.

    Raises:
        ValueError: no slab, or an empty interval.
    """
    low, high = bounds
    if count < 1 or not low < high:
        raise ValueError(f"slabs need low < high and a count of at least 1, got {bounds}, {count}")
    # Compared with the edges themselves: floor((t - low) / width) puts some edges one slab early.
    edges = np.linspace(low, high, count + 1)[1:-1]
    return np.searchsorted(edges, np.asarray(t, dtype=np.float64), side="right").astype(np.int64)
