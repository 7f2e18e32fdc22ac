"""Physics-informed Gaussians (Kang, Oh, Hong & Park, ICLR 2025, arXiv 2412.05994).

The paper trains with Adam or L-BFGS and soft conditions, and reports the smallest test error met
on the way. Here conditions are built in, Gauss-Newton moves the Gaussians, those that are not
needed are born again where the residual is large, and the last iterate counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import Case
from ..engine import sampling
from ..engine.networks.birth import redistribute
from ..engine.networks.field import Field
from ..engine.networks.gaussians import GaussianFeatures
from .collocation import Collocation
from .options import GaussiansOptions

SETTLING = 10
"""Points for each Gaussian by which first means are spread."""
SAMPLES = 4
"""Points for each Gaussian at which a merge must leave the features as they are."""
LEAST = 2
"""Points for each Gaussian with fewer of which all stay where they are: means would be spread over
the same points, and any Gaussian would look as if the others could stand in for it."""


class PhysicsInformedGaussians(Collocation):
    """Collocation with a field of Gaussians."""

    def __init__(self, case: Case, device: torch.device) -> None:
        options = case.solver
        assert isinstance(options, GaussiansOptions)
        chosen = options.gaussians

        def rearrange(
            field: Field, candidates: Tensor, residual: np.ndarray, seed: Sequence[int], new: bool
        ) -> None:
            for features in field.modules():
                if not isinstance(features, GaussianFeatures):
                    continue
                if len(candidates) < LEAST * features.settings.count:
                    continue
                if new:
                    if chosen.begin == "residual":
                        enough = SETTLING * features.settings.count
                        features.settle(candidates[:enough], np.nan_to_num(residual[:enough]))
                    continue
                if chosen.reborn == 0:
                    continue
                count = round(chosen.reborn * features.settings.count)
                points = candidates.cpu().double().numpy()
                births = sampling.rad(points, residual, count, 2.0, 0.0, seed=tuple(seed))
                redistribute(
                    features,
                    candidates[: SAMPLES * features.settings.count],
                    torch.as_tensor(births).to(candidates),
                )

        applies = chosen.sets == "shared" and not chosen.separable
        active = chosen.begin == "residual" or chosen.reborn > 0
        super().__init__(case, device, None, rearrange if applies and active else None)
