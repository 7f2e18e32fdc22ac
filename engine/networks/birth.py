"""Gaussians that are not needed are born again where the residual is large.

Their number stays what it was, so nothing an optimiser or a checkpoint knows changes its shape:

* merge: a Gaussian that the others can stand in for gives its weight to them, by least squares, so
  that the features keep their values. Which ones these are is told by a QR factorisation with
  column pivoting of all Gaussians at sample points: it takes the most independent first.
* birth: it begins again at a point of large residual, with weight zero, so that nothing changes
  until it is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.linalg import qr
from torch import Tensor

from .gaussians import GaussianFeatures

TOLERANCE = 1e-6
"""Largest relative change of the features (root mean square at the sample points)."""
SHRINK = 0.7
"""Width of a new Gaussian in units of that of the nearest old one."""


def redistribute(
    features: GaussianFeatures, sample: Tensor, births: Tensor, *, tolerance: float = TOLERANCE
) -> int:
    """Merge as many Gaussians as there are births, at most; give birth to them again.

    Args:
        features: one set for all features.
        sample: points at which the features keep their values, several for each Gaussian, shape
            (m, d).
        births: where new ones are wanted, shape (k, d).
        tolerance: largest relative change of the features.

    Returns:
        How many were moved.
    """
    with torch.no_grad():
        # No GPU solves least squares that lack rank, and single precision has not the digits.
        values, weights = (v.cpu().double() for v in (features.gaussians(sample), features.weights))
        wanted = values @ weights.T
        size = wanted.square().mean().sqrt()
        heights = weights.abs().amax(0)
        factored: Any = qr((values * heights).numpy(), mode="r", pivoting=True)
        order = torch.from_numpy(factored[1].astype("int64"))
        moved = len(births)
        while moved:
            gone, kept = order[-moved:], order[:-moved]
            fitted = torch.linalg.lstsq(values[:, kept], wanted, driver="gelsd").solution
            change = (values[:, kept] @ fitted - wanted).square().mean().sqrt()
            if change <= tolerance * size:
                weights[:, kept], weights[:, gone] = fitted.T, 0.0
                features.weights.copy_(weights)
                device = features.weights.device
                features.place(gone.to(device), births[:moved], kept.to(device), SHRINK)
                break
            moved //= 2
        return moved
