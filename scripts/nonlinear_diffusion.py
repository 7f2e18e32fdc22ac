"""Solve `nonlinear_diffusion_2d` as it recommends itself, and compare with finite differences.

The automatic reference does not resolve the fronts and the layer along the walls. Here the
equation is taken in conservative form, u_t = alpha/2 lap(u^2), with second-order differences and
the classical Runge-Kutta method, on two grids, extrapolated (Richardson); the error bar is what the
extrapolation changes. The error is that of all moments together, on the nodes of the coarser grid.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import residua
from residua.problems import registry
from residua.problems.equation import evaluate
from residua.problems.problem import Problem

Array = NDArray[np.float64]
NAME = "nonlinear_diffusion_2d"
CELLS = 100
MOMENTS = 11


def main(out: str, budget: str = "10 min") -> None:
    """Train into a run folder, or go on with one that is there, and print the error."""
    problem = registry.get(NAME)
    folder = Path(out)
    solution = residua.solve(problem, run={"budget": budget}, out=folder, resume=folder.exists())
    coarse, fine = differences(problem, CELLS), differences(problem, 2 * CELLS)[:, ::2, ::2]
    reference = fine + (fine - coarse) / 3
    line = np.linspace(-1, 1, CELLS + 1)
    times = np.linspace(0, 1, MOMENTS)
    t, x, y = np.meshgrid(times, line, line, indexing="ij")
    found = solution(np.stack([x, y, t], axis=-1).reshape(-1, 3)).reshape(reference.shape)
    size = np.linalg.norm(reference)
    print(f"relative L2 error {np.linalg.norm(found - reference) / size:.2e}")
    print(f"error bar of the reference {np.linalg.norm(reference - fine) / size:.1e}")


def differences(problem: Problem, cells: int) -> Array:
    """The solution at `MOMENTS` moments on a grid, shape (moments, cells + 1, cells + 1)."""
    line = np.linspace(-1, 1, cells + 1)
    h = 2 / cells
    alpha = problem.values["alpha"]
    initial = problem.conditions[0].targets[0].tree
    x, y = np.meshgrid(line, line, indexing="ij")
    u = np.array(evaluate(initial, {"x": x, "y": y}))
    moments = [u.copy()]  # the walls are cold from the next moment on
    u[[0, -1]] = u[:, [0, -1]] = 0

    def rate(u: Array) -> Array:
        v, found = u * u, np.zeros_like(u)
        neighbours = v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2]
        found[1:-1, 1:-1] = alpha / (2 * h**2) * (neighbours - 4 * v[1:-1, 1:-1])
        return found

    gap = 1 / (MOMENTS - 1)
    # On the real axis the method is stable to 2.78; the largest rate is 8 alpha max(u) / h^2.
    steps = math.ceil(gap * 8 * alpha * u.max() / (2.2 * h**2))
    dt = gap / steps
    for _ in range(MOMENTS - 1):
        for _ in range(steps):
            a = rate(u)
            b = rate(u + dt / 2 * a)
            c = rate(u + dt / 2 * b)
            u = u + dt / 6 * (a + 2 * b + 2 * c + rate(u + dt * c))
        moments.append(u)
    return np.stack(moments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
