"""Draw docs/gaussians.png: Gaussians that move to the shock of Burgers' equation while they train.

Each ellipse is one Gaussian, one standard deviation wide; stronger ones are darker. Behind them is
the solution as it is at that step.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Polygon

from residua.config import make_case
from residua.engine.networks.gaussians import GaussianFeatures
from residua.problems import registry
from residua.solvers.gaussians import PhysicsInformedGaussians

PLACE = Path(__file__).parents[1] / "docs" / "gaussians.png"
STEPS = (0, 15, 100)
SOLVER = {
    "name": "gaussians",
    "symmetry": "none",
    "gaussians": {"count": 70, "covariance": "full"},
    "points": {"interior": 2000},
    "optimizer": {"name": "gauss_newton", "patience": None},
}
CIRCLE = np.linspace(0, 2 * math.pi, 100)


def main() -> None:
    """Train, and draw three moments of it."""
    case = make_case(registry.get("burgers", nu=0.02), SOLVER, {"budget": 3600})
    trainer = PhysicsInformedGaussians(case, torch.device("cpu"))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    done = 0
    for panel, steps in zip(axes, STEPS, strict=True):
        for _ in range(done, steps):
            trainer.step(math.inf)
        done = steps
        residual = trainer.residuals()[-1]["fresh"]
        panel.set_title(f"step {steps}: residual {residual:.1e}", fontsize=10)
        _draw(panel, trainer)
    axes[0].set_ylabel("t")
    figure.savefig(PLACE, dpi=130)


def _draw(axes: Axes, trainer: PhysicsInformedGaussians) -> None:
    (left, right), (start, end) = trainer.problem.bounds
    x, t = np.linspace(left, right, 200), np.linspace(start, end, 100)
    points = torch.from_numpy(np.stack(np.meshgrid(x, t), axis=-1).reshape(-1, 2))
    with torch.no_grad():
        values = trainer.field(points).numpy().reshape(len(t), len(x))
    axes.pcolormesh(x, t, values, cmap="RdBu_r", vmin=-1.2, vmax=1.2, rasterized=True)
    features = next(m for m in trainer.field.modules() if isinstance(m, GaussianFeatures))
    heights = features.weights.detach().abs().amax(0)
    strength = (heights / heights.quantile(0.9)).clamp(0.15, 1).numpy()
    for outline, alpha in zip(_outlines(features), strength, strict=True):
        axes.add_patch(Polygon(outline, fill=False, linewidth=0.9, alpha=float(alpha)))
    axes.set(xlim=(left, right), ylim=(start, end), xlabel="x")


def _outlines(features: GaussianFeatures) -> np.ndarray:
    """Points x with ``|A (x - mu)| = 1``, shape (Gaussians, points, 2)."""
    with torch.no_grad():
        unit = torch.eye(2, dtype=torch.float64).repeat(len(features.means), 1, 1)
        if features.shears is not None:
            unit[:, 1, 0] = features.shears[:, 0]
        circle = torch.tensor(np.stack([np.cos(CIRCLE), np.sin(CIRCLE)]))
        offsets = torch.linalg.solve(unit, features.widths()[:, :, None] * circle)
        scaled = features.means[:, :, None] + offsets
        return (scaled.transpose(1, 2) / features.stretch + features.centre).numpy()


if __name__ == "__main__":
    main()
