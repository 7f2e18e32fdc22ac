"""Series made here, by name: deterministic systems, stochastic ones, points and jump processes.

Deterministic ones are solved with tolerances of 1e-10 (Dormand and Prince's method of order eight,
or Radau where they are stiff), so that what a model gets wrong is its own. Every sample is drawn
from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from ....errors import ConfigurationError
from ....typed import nearest
from .series import Series, thinned

__all__ = ["SYSTEMS", "System", "generate", "ornstein_uhlenbeck_moments", "ratchet_rates"]

Array = NDArray[np.float64]
Rate = Callable[[float, Array, Mapping[str, float]], Sequence[float]]
Start = Callable[[np.random.Generator], Sequence[float]]
TOLERANCE = 1e-10


@dataclass(frozen=True)
class System:
    """What can be generated.

    Attributes:
        about: one line.
        span: first and last time, where the person gives none.
        points: of a series, where the person gives none.
        parameters: names and values.
        make: from (generator, times, samples, parameters) to values (samples, points, channels)
            and labels (samples,) or None.
    """

    about: str
    span: tuple[float, float]
    points: int
    parameters: Mapping[str, float]
    make: Callable[..., tuple[Array, NDArray[np.int64] | None]]


def generate(
    name: str,
    samples: int,
    *,
    seed: int = 0,
    points: int | None = None,
    span: tuple[float, float] | None = None,
    parameters: Mapping[str, float] | None = None,
    noise: float = 0.0,
    missing: float = 0.0,
    irregular: bool = False,
) -> Series:
    """Series of a system.

    Args:
        name: one of `SYSTEMS`.
        samples: how many.
        seed: of everything random.
        points: of a series.
        span: first and last time.
        parameters: instead of the system's own.
        noise: standard deviation of what is added, in parts of that of each channel.
        missing: part of the values that is taken away.
        irregular: times drawn uniformly, the same for all samples; else equally spaced.

    Raises:
        ConfigurationError: no such system or parameter.
    """
    system = SYSTEMS.get(name)
    if system is None:
        raise ConfigurationError(
            "there is no such system", found=name, advice=nearest(name, SYSTEMS)
        )
    for key in parameters or {}:
        if key not in system.parameters:
            raise ConfigurationError(
                f"'{name}' has no such parameter", found=key,
                advice=nearest(key, system.parameters) if system.parameters else "remove it",
            )  # fmt: skip
    random = np.random.default_rng(seed)
    first, last = span or system.span
    count = points or system.points
    times = np.linspace(first, last, count)
    if irregular:
        inner = np.sort(random.uniform(first, last, count - 2))
        times = np.concatenate([[first], inner, [last]])
    values, labels = system.make(
        random, times, samples, {**system.parameters, **(parameters or {})}
    )
    if noise:
        size = values.std(axis=(0, 1), keepdims=True)
        values = values + noise * size * random.standard_normal(values.shape)
    generator = torch.Generator().manual_seed(seed)
    found = Series(
        torch.from_numpy(times.copy()).expand(samples, -1).clone(),
        torch.from_numpy(values),
        torch.full((samples,), count, dtype=torch.int64),
        None if labels is None else torch.from_numpy(labels).long(),
    )
    return thinned(found, missing, generator) if missing else found


def _solved(rate: Rate, start: Start, method: str = "DOP853") -> Callable[..., tuple[Array, None]]:
    """Series of an ordinary differential equation."""

    def make(
        random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
    ) -> tuple[Array, None]:
        rows = []
        for _ in range(samples):
            found = solve_ivp(
                lambda t, y: rate(t, y, p), (times[0], times[-1]), start(random), method,
                t_eval=times, rtol=TOLERANCE, atol=TOLERANCE,
            )  # fmt: skip
            if not found.success:
                raise ConfigurationError(f"a sample cannot be solved: {found.message}")
            rows.append(found.y.T)
        return np.stack(rows), None

    return make


def _within(low: Sequence[float], high: Sequence[float]) -> Start:
    return lambda random: random.uniform(low, high).tolist()


def _spiral(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    cubes = y**3
    return [-0.1 * cubes[0] - 2 * cubes[1], 2 * cubes[0] - 0.1 * cubes[1]]


def _lotka_volterra(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    a, b, c, d = p["a"], p["b"], p["c"], p["d"]
    return [a * y[0] - b * y[0] * y[1], c * y[0] * y[1] - d * y[1]]


def _van_der_pol(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    return [y[1], p["mu"] * (1 - y[0] ** 2) * y[1] - y[0]]


def _lorenz(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    return [
        p["sigma"] * (y[1] - y[0]), y[0] * (p["rho"] - y[2]) - y[1], y[0] * y[1] - p["beta"] * y[2]
    ]  # fmt: skip


def _double_pendulum(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    """Equal masses and lengths; angles from the vertical and their rates."""
    one, two, v, w = y
    g, gap = p["gravity"] / p["length"], one - two
    low = 3 - math.cos(2 * gap)
    first = (
        -3 * g * math.sin(one) - g * math.sin(one - 2 * two)
        - 2 * math.sin(gap) * (w * w + v * v * math.cos(gap))
    )  # fmt: skip
    second = 2 * math.sin(gap) * (2 * v * v + 2 * g * math.cos(one) + w * w * math.cos(gap))
    return [v, w, first / low, second / low]


def _robertson(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    first, second = 0.04 * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return [-first, first - second, second]


def _rational(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    return [y[1] / (1 + y[1]), -y[0] / (1 + y[0])]


def _oscillator(t: float, y: Array, p: Mapping[str, float]) -> list[float]:
    return [-p["decay"] * y[0] + y[1], -y[0] - p["decay"] * y[1]]


def _bouncing(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, None]:
    """Height and velocity of a ball that loses a part of its speed, from bounce to bounce."""
    g, keep = p["gravity"], p["restitution"]
    rows = np.empty((samples, len(times), 2))
    for row in rows:
        height, speed, since = random.uniform(0.5, 2), 0.0, times[0]
        for place, t in enumerate(times):
            while True:
                fall = (speed + math.sqrt(speed * speed + 2 * g * height)) / g
                if t - since <= fall or fall < 1e-9:
                    break
                since, height = since + fall, 0.0
                speed = keep * (g * fall - speed)
            s = t - since if fall >= 1e-9 else 0.0
            row[place] = height + speed * s - g * s * s / 2, speed - g * s
    return rows, None


def _chirality(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, NDArray[np.int64]]:
    """Spirals that turn left or right from a random point, decaying."""
    labels = np.arange(samples, dtype=np.int64) % 2
    random.shuffle(labels)
    angle = random.uniform(0, 2 * math.pi, samples)[:, None]
    size = random.uniform(0.5, 1.5, samples)[:, None] * np.exp(-p["decay"] * times)
    phase = angle + np.where(labels, 1, -1)[:, None] * p["turns"] * 2 * math.pi * times
    return np.stack([size * np.cos(phase), size * np.sin(phase)], -1), labels


def _ornstein_uhlenbeck(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, None]:
    """``dy = (drift t - rate y) dt + noise dW`` by its transitions; y0 uniform in [-1, 1]."""
    rate, slope, noise = p["rate"], p["drift"], p["noise"]
    values = np.empty((samples, len(times), 1))
    y = random.uniform(-1, 1, samples)
    values[:, 0, 0] = y
    for k, h in enumerate(np.diff(times)):
        mean = _decayed(times[k], h, rate, slope)
        spread = noise * math.sqrt(-math.expm1(-2 * rate * h) / (2 * rate))
        y = y * math.exp(-rate * h) + mean + spread * random.standard_normal(samples)
        values[:, k + 1, 0] = y
    return values, None


def _decayed(t: float, h: float, rate: float, slope: float) -> float:
    """The integral of ``slope s e^(-rate (t + h - s))`` over s from t to t + h."""
    gone = -math.expm1(-rate * h) / rate
    return slope * (t * gone + (h - gone) / rate)


def ornstein_uhlenbeck_moments(
    times: Array, parameters: Mapping[str, float]
) -> tuple[Array, Array]:
    """Mean and variance at times (n,), the first being the start; each (n,)."""
    rate, slope, noise = (parameters[k] for k in ("rate", "drift", "noise"))
    mean = np.array([_decayed(times[0], t - times[0], rate, slope) for t in times])
    past = np.exp(-2 * rate * (times - times[0]))
    return mean, past / 3 + noise**2 * (1 - past) / (2 * rate)


def _geometric(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, None]:
    steps = np.diff(times)
    walk = np.cumsum(np.sqrt(steps) * random.standard_normal((samples, len(steps))), axis=1)
    walk = np.concatenate([np.zeros((samples, 1)), walk], axis=1)
    drift = (p["growth"] - p["noise"] ** 2 / 2) * (times - times[0])
    return np.exp(drift + p["noise"] * walk)[..., None], None


def _stochastic_lorenz(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, None]:
    """The Lorenz system with additive noise, Heun's rule with steps of 1e-3."""
    y = random.standard_normal((samples, 3)) + [0, 0, 25]
    values = [y]
    for h in np.diff(times):
        count = max(1, math.ceil(h / 1e-3))
        for _ in range(count):
            step = h / count
            pushed = p["noise"] * math.sqrt(step) * random.standard_normal(y.shape)
            first = np.array(_lorenz(0, y.T, p)).T
            guess = y + first * step + pushed
            y = y + (first + np.array(_lorenz(0, guess.T, p)).T) * step / 2 + pushed
        values.append(y)
    return np.stack(values, 1), None


def _points(draw: Callable[[np.random.Generator, int], Array]) -> Callable[..., Any]:
    """Points of the plane, as series of one instant."""

    def make(
        random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
    ) -> tuple[Array, None]:
        return np.repeat(draw(random, samples)[:, None], len(times), 1), None

    return make


def _gaussians(random: np.random.Generator, samples: int) -> Array:
    angle = 2 * math.pi * random.integers(8, size=samples) / 8
    return 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.2 * random.standard_normal(
        (samples, 2)
    )


def _moons(random: np.random.Generator, samples: int) -> Array:
    angle, side = math.pi * random.random(samples), random.integers(2, size=samples)
    x = np.where(side, 1 - np.cos(angle), np.cos(angle)) - 0.5
    y = np.where(side, 0.5 - np.sin(angle), np.sin(angle)) - 0.25
    return np.stack([x, y], 1) + 0.08 * random.standard_normal((samples, 2))


def _checkerboard(random: np.random.Generator, samples: int) -> Array:
    x = random.uniform(-2, 2, samples)
    row = random.integers(2, size=samples) * 2 + np.floor(x) % 2
    return np.stack([x, row - 2 + random.random(samples)], 1)


def _ratchet(
    random: np.random.Generator, times: Array, samples: int, p: Mapping[str, float]
) -> tuple[Array, None]:
    """States 0 to 5 of the discrete flashing ratchet at the times, by Gillespie's algorithm."""
    rates = ratchet_rates(p["potential"], p["barrier"], p["switch"])
    leave = rates.sum(1)
    values = np.empty((samples, len(times), 1))
    for row in values:
        state, t, place = int(random.integers(6)), times[0], 0
        while place < len(times):
            t += random.exponential(1 / leave[state])
            while place < len(times) and times[place] < t:
                row[place], place = state, place + 1
            state = int(random.choice(6, p=rates[state] / leave[state]))
    return values, None


def ratchet_rates(potential: float, barrier: float, switch: float) -> Array:
    """Rates (6, 6) off the diagonal: states 0 to 2 with the potential on, 3 to 5 with it off."""
    rates = np.zeros((6, 6))
    for i in range(3):
        for j in range(3):
            if i != j:
                rates[i, j] = math.exp(-potential * (j - i) / 2)
                rates[3 + i, 3 + j] = barrier
        rates[i, 3 + i] = rates[3 + i, i] = switch
    return rates


_LORENZ = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
SYSTEMS: Mapping[str, System] = {
    "spiral": System(
        "the cubic spiral dy/dt = A y^3", (0.0, 25.0), 1000, {},
        _solved(_spiral, _within([1.5, -0.5], [2.0, 0.5])),
    ),
    "chirality": System(
        "spirals that turn left or right, to be told apart", (0.0, 1.0), 100,
        {"turns": 2.0, "decay": 1.0}, _chirality,
    ),
    "lotka_volterra": System(
        "prey and predators", (0.0, 6.0), 61, {"a": 1.3, "b": 0.9, "c": 0.8, "d": 1.8},
        _solved(_lotka_volterra, _within([0.5, 0.5], [4.5, 4.5])),
    ),
    "van_der_pol": System(
        "an oscillator with a limit cycle", (0.0, 8.0), 81, {"mu": 2.0},
        _solved(_van_der_pol, _within([-2, -2], [2, 2])),
    ),
    "van_der_pol_stiff": System(
        "the same with mu = 1000", (0.0, 2000.0), 201, {"mu": 1000.0},
        _solved(_van_der_pol, _within([1.5, 0], [2.0, 0]), "Radau"),
    ),
    "lorenz": System(
        "three equations of convection, chaotic", (0.0, 2.0), 101, _LORENZ,
        _solved(_lorenz, _within([-10, -10, 15], [10, 10, 35])),
    ),
    "double_pendulum": System(
        "equal masses and lengths: two angles and their rates", (0.0, 4.0), 101,
        {"gravity": 9.81, "length": 1.0},
        _solved(_double_pendulum, _within([-1, -1, 0, 0], [1, 1, 0, 0])),
    ),
    "robertson": System(
        "three stiff reactions", (0.0, 1e4), 101, {},
        _solved(_robertson, _within([1, 0, 0], [1, 0, 0]), "Radau"),
    ),
    "rational_oscillator": System(
        "dx/dt = y / (1 + y), dy/dt = -x / (1 + x)", (0.0, 10.0), 101, {},
        _solved(_rational, _within([-0.4, -0.4], [1, 1])),
    ),
    "decaying_oscillators": System(
        "linear, two components", (0.0, 5.0), 101, {"decay": 0.2},
        _solved(_oscillator, _within([-1, -1], [1, 1])),
    ),
    "bouncing_ball": System(
        "height and velocity", (0.0, 2.0), 101, {"gravity": 9.81, "restitution": 0.8}, _bouncing
    ),
    "ornstein_uhlenbeck": System(
        "dy = (drift t - rate y) dt + noise dW", (0.0, 63.0), 64,
        {"rate": 0.1, "drift": 0.02, "noise": 0.4}, _ornstein_uhlenbeck,
    ),
    "geometric_brownian": System(
        "dy = growth y dt + noise y dW", (0.0, 1.0), 50, {"growth": 1.0, "noise": 0.5}, _geometric
    ),
    "stochastic_lorenz": System(
        "the Lorenz system with additive noise", (0.0, 1.0), 41, {**_LORENZ, "noise": 0.15},
        _stochastic_lorenz,
    ),
    "eight_gaussians": System("points on a ring", (0.0, 1.0), 1, {}, _points(_gaussians)),
    "two_moons": System("points on two half circles", (0.0, 1.0), 1, {}, _points(_moons)),
    "checkerboard": System("points on squares", (0.0, 1.0), 1, {}, _points(_checkerboard)),
    "flashing_ratchet": System(
        "a Markov jump process of six states", (0.0, 5.0), 50,
        {"potential": 1.0, "barrier": 1.0, "switch": 1.0}, _ratchet,
    ),
}  # fmt: skip
