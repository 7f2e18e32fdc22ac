"""diffrax on the rows of `residua bench trajectories`, in an interpreter that has it.

``python diffrax_worker.py ROW REPETITIONS`` prints one line of JSON: by contender the seconds of
each solution (compiled before), its steps, and its states at the end. Nothing of Residua is
imported, so that any interpreter with diffrax will do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import diffrax  # pyright: ignore[reportMissingImports] - a peer
import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np

__all__: list[str] = []

SPAN, TOLERANCE, MU = 7.6, 1e-5, 2.0
"""Of the oscillator; as in `bench.trajectory_speed`, which hands over the starts."""


def _oscillator(t: Any, y: Any, args: Any) -> Any:
    x, v = y[..., 0], y[..., 1]
    return jnp.stack([v, MU * (1 - x**2) * v - x], -1)


def van_der_pol(starts: Any) -> dict[str, Callable[[], Any]]:
    """The whole batch in one adaptive solution, and every sample with steps of its own."""
    control = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)

    def solve(start: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(_oscillator), diffrax.Dopri5(), 0.0, SPAN, None, start,
            stepsize_controller=control, max_steps=None,
            adjoint=diffrax.ForwardMode(),
        )  # fmt: skip
        assert found.ys is not None
        return found.ys[-1], found.stats["num_steps"]

    joint, single = jax.jit(solve), jax.jit(jax.vmap(solve))
    return {"diffrax joint": lambda: joint(starts), "diffrax": lambda: single(starts)}


def robertson(_: Any) -> dict[str, Callable[[], Any]]:
    """Kvaerno5 to 1e11 with a relative tolerance of 1e-8."""

    def field(t: Any, y: Any, args: Any) -> Any:
        a, b, c = y
        first, second = 0.04 * a - 1e4 * b * c, 3e7 * b * b
        return jnp.stack([-first, first - second, second])

    control = diffrax.PIDController(rtol=1e-8, atol=1e-10, pcoeff=0.3, icoeff=0.4)

    @jax.jit
    def solve(start: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Kvaerno5(), 0.0, 1e11, 2e-4, start,
            stepsize_controller=control, max_steps=None, adjoint=diffrax.ForwardMode(),
        )  # fmt: skip
        assert found.ys is not None
        return found.ys[-1], found.stats["num_steps"]

    start = jnp.array([1.0, 0.0, 0.0])
    return {"diffrax": lambda: solve(start)}


ROWS = {"van_der_pol": (van_der_pol, jnp.float32), "robertson": (robertson, jnp.float64)}


def main() -> None:
    """Solve and time."""
    row, repetitions = sys.argv[1], int(sys.argv[2])
    make, dtype = ROWS[row]
    starts = jnp.asarray(np.asarray(json.loads(sys.stdin.read() or "[]"), np.float64), dtype)
    answers = {}
    for name, solve in make(starts).items():
        final, steps = jax.block_until_ready(solve())
        seconds = []
        for _ in range(repetitions):
            began = time.perf_counter()
            jax.block_until_ready(solve())
            seconds.append(time.perf_counter() - began)
        answers[name] = {
            "seconds": seconds, "steps": np.asarray(steps).reshape(-1).tolist(),
            "final": np.asarray(final, np.float64).tolist(),
        }  # fmt: skip
    print(json.dumps(answers))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
