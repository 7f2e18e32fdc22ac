"""Where Gaussians begin: points that fill a box evenly, or as densely as a weight says."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.stats import qmc
from torch import Tensor

SAMPLES, ROUNDS = 32, 20
"""Points for each centre, and rounds, by which they are spread."""
ENOUGH, LEAST = 2**17, 8
"""Points for all centres together beyond which each has the least number: seconds, not minutes."""


def spread(box: Tensor, density: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points that fill a box evenly.

    Args:
        box: shape (d, 2).
        density: points along each axis relative to the mean, shape (d,).
        count: how many.
        generator: of the points to begin with.

    Returns:
        Shape (count, d).
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    sobol = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
    samples = max(LEAST * count, min(SAMPLES * count, ENOUGH))
    unit = sobol.random_base2(math.ceil(math.log2(samples)))
    sample = unit * density.numpy()
    centres = tessellated(sample, sample[:count], np.ones(len(sample)))
    return box[:, 0] + (box[:, 1] - box[:, 0]) * torch.from_numpy(centres) / density


def tessellated(sample: np.ndarray, centres: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Centroids of the Voronoi cells of themselves, by Lloyd's iteration on weighted points.

    Args:
        sample: shape (m, d).
        centres: to begin with, shape (n, d).
        weight: of the sample, shape (m,).
    """
    count = len(centres)
    for _ in range(ROUNDS):
        nearest = KDTree(centres).query(sample)[1]
        mass = np.bincount(nearest, weight, minlength=count)[:, None]
        sums = [np.bincount(nearest, weight * s, minlength=count) for s in sample.T]
        centres = np.where(mass > 0, np.stack(sums, axis=1) / np.maximum(mass, 1e-300), centres)
    return centres
