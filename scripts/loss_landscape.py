"""Draw docs/lagrangian_landscape.png: the loss around a trained network.

Along the two steepest directions of its Hessian, for convection at speed 50: a network at fixed
positions beside networks along characteristics (as Mojgani, Balajewicz & Hassanzadeh, CMAME 404,
2023). Takes about half a minute:

    OMP_NUM_THREADS=1 .venv/bin/python scripts/loss_landscape.py
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from residua.config import make_case
from residua.solvers import BACKENDS

SPEED, STEPS, GRID, REACH = 50, 60, 31, 1.0
NETWORK = {"width": 12, "depth": 2, "harmonics": 2}
CASES = {
    "fixed positions": {"name": "pinn", "network": NETWORK | {"width": 18}},
    "along characteristics": {
        "name": "lagrangian",
        "network": NETWORK,
        "paths": {"width": 12, "depth": 2},
        "shift": False,
    },
}


def landscape(settings: dict) -> tuple[np.ndarray, np.ndarray, int]:
    """Loss on a grid of distances along the two directions; shape (GRID, GRID)."""
    settings = settings | {"points": {"interior": 800}, "windows": 1}
    problem = {"name": "advection", "parameters": {"c": SPEED}}
    case = make_case(problem, settings, {})
    trainer = BACKENDS[case.solver.name].load()(case, torch.device("cpu"))
    for _ in range(STEPS):
        if trainer.step(math.inf).done:
            break
    parameters, batch = trainer.engine.parameters, trainer.batch
    centre = parameters_to_vector(parameters).detach().clone()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        vector_to_parameters(at, parameters)
        return trainer.engine.loss_and_gradient(batch)[1]

    def hessian(direction: np.ndarray) -> np.ndarray:
        step = torch.from_numpy(np.asarray(direction, dtype=float).ravel())
        size = 1e-5 / max(float(step.norm()), 1e-300)
        change = gradient(centre + size * step) - gradient(centre - size * step)
        return (change / (2 * size)).numpy()

    count = len(centre)
    operator = LinearOperator((count, count), matvec=hessian, dtype=float)  # type: ignore[call-arg]
    start = np.random.default_rng(0).standard_normal(count)
    directions = torch.from_numpy(eigsh(operator, k=2, which="LA", v0=start, tol=1e-2)[1].copy())
    distances = np.linspace(-REACH, REACH, GRID)
    values = np.empty((GRID, GRID))
    with torch.no_grad():
        for i, a in enumerate(distances):
            for j, b in enumerate(distances):
                there = directions @ torch.tensor([a, b], dtype=torch.float64)
                vector_to_parameters(centre + there, parameters)
                values[i, j] = float(trainer.engine.loss(batch)[0])
    return distances, values, count


def main() -> None:
    """Draw both."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for place, (title, settings) in zip(axes, CASES.items(), strict=True):
        distances, values, count = landscape(settings)
        drawn = place.contourf(distances, distances, np.log10(values).T, levels=30, cmap="viridis")
        figure.colorbar(drawn, ax=place, label="log10 of the loss")
        least = values.min()
        place.set_title(f"{title}: {count} parameters, least loss {least:.0e}", fontsize=9)
        place.set_xlabel("along the first direction")
        place.set_ylabel("along the second")
        print(f"{title}: {count} parameters, loss {least:.1e} to {values.max():.1e}")
    path = Path(__file__).resolve().parent.parent / "docs" / "lagrangian_landscape.png"
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
