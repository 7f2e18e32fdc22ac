"""A hybrid model of prey and predators: what the network learns becomes an equation.

    python scripts/lotka_volterra.py [SEED ...]

Growth of the prey and death of the predators are known, how they meet is not. The hybrid model is
trained on one noisy trajectory, its network is turned into an equation, and that is solved three
times further than the data go. Printed for each seed: the equation, and relative L2 errors against
the true trajectory.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import Tensor

from residua.operators.neural_de.models.hybrid import Hybrid
from residua.operators.neural_de.symbolic.refine import choose, solution
from residua.operators.neural_de.symbolic.sparse import candidates
from residua.operators.neural_de.trajectories.systems import SYSTEMS, generate

SPAN, POINTS, NOISE = 3.0, 61, 0.005
SYSTEM = "lotka_volterra"
PARAMETERS = SYSTEMS[SYSTEM].parameters
STAGES = ((4, 400, 1e-2), (12, 400, 5e-3), (30, 400, 2e-3))
"""Points of a window, steps of Adam and their learning rate."""


def known(t: Tensor, y: Tensor) -> Tensor:
    """Growth and death."""
    x, z = y.unbind(-1)
    return torch.stack((PARAMETERS["a"] * x, -PARAMETERS["d"] * z), dim=-1)


def discover(seed: int, noise: float = NOISE) -> dict[str, object]:
    """Train, regress, refine, extrapolate."""
    long = generate(SYSTEM, 1, seed=seed, points=3 * (POINTS - 1) + 1, span=(0.0, 3 * SPAN))
    data = generate(SYSTEM, 1, seed=seed, points=POINTS, span=(0.0, SPAN), noise=noise)
    began = time.perf_counter()
    model = Hybrid(known, 2, generator=torch.Generator().manual_seed(seed)).double()
    model.standardise(data)
    optimizer = torch.optim.Adam(model.parameters())
    for window, steps, rate in STAGES:
        model.window = window
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - 0.9 * step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(data)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        states = model.predict(data)[0]
        slopes = model.unknown(states)
    found = choose(
        known, candidates(states.numpy(), slopes.numpy(), degree=2), data.times[0].numpy(),
        data.values.numpy(),
    )  # fmt: skip
    true = long.values.numpy()
    ahead = solution(known, found.polynomial, found.starts, long.times[0].numpy())
    far = model.predict(long).numpy()
    return {
        "equation": found.polynomial.describe(["x", "y"]),
        "exact": sorted(zip(found.polynomial.rows, found.polynomial.terms, strict=True))
        == [(0, (1, 1)), (1, (1, 1))],
        "equation_error": float(np.linalg.norm(ahead - true) / np.linalg.norm(true)),
        "network_error": float(np.linalg.norm(far - true) / np.linalg.norm(true)),
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    for seed in [int(word) for word in sys.argv[1:]] or [0, 1, 2]:
        for noise in (0.0, NOISE):
            found = discover(seed, noise)
            print(
                f"seed {seed}, noise {noise:g}: {found['equation']}, "
                f"{'exactly the' if found['exact'] else 'not the'} missing terms; to 3 times the "
                f"horizon: equation {found['equation_error']:.2e}, network "
                f"{found['network_error']:.2e}; {found['seconds']:.0f} s"
            )
