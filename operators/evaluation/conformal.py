"""Bands around predictions that hold the truth with a stated probability, whatever the operator.

Split-conformal prediction: of n samples that the training has not seen, the k-th smallest score
with ``k = ceil((n + 1) level)`` bounds that of a further sample from the same law with probability
at least `level`, on average over the draw of the n. Two scores of a sample are used: its relative
L2 error, and the largest error over the domain in units of the error usual at each node, which
gives a band that holds the whole field at once.

Sources: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, JASA 113 (2018), section 2; the band for
whole functions: Diquigiovanni, Fontana and Vantini, J. Multivariate Analysis 189 (2022).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import relative_l2

__all__ = ["LEVELS", "bands", "needed", "threshold"]

LEVELS = (0.8, 0.9, 0.95)
FLOOR = 1e-3
"""Of the largest usual error: the least by which an error is divided, as at walls it is zero."""
LEAST = 1e-300


def threshold(scores: NDArray[np.float64], level: float) -> float:
    """What the score of a further sample exceeds with probability at most ``1 - level``.

    Infinite where there are too few scores to say.
    """
    place = needed(len(scores), level)
    return math.inf if place > len(scores) else float(np.sort(scores)[place - 1])


def needed(samples: int, level: float) -> int:
    """Which of the sorted scores is the bound, counted from one; more than `samples`: none is."""
    # 0.95 is not quite 19/20.
    return math.ceil((samples + 1) * level - 1e-9)


def bands(
    usual: NDArray[np.float64],
    calibration: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
) -> list[dict[str, float | None]]:
    """Bands from one set of samples, and how much of another they hold.

    Args:
        usual: root mean square error at each node on samples that are in neither set, shape
            (times, channels, *n).
        calibration: predictions and truths, shape (samples, times, channels, *n).
        test: the same.

    Returns:
        For each of `LEVELS`: the relative L2 error that is not exceeded, the mean half-width of
        the band in units of the root mean square of the truths, and which part of the test samples
        keeps either.
    """
    # An operator that is exact everywhere has a band of no width.
    width = np.maximum(usual, max(FLOOR * float(usual.max()), LEAST))
    norms = [relative_l2(*pair) for pair in (calibration, test)]
    peaks = [_peak(*pair, width) for pair in (calibration, test)]
    size = math.sqrt(float(np.mean(test[1].astype(np.float64) ** 2)))
    rows = []
    for level in LEVELS:
        bound, factor = threshold(norms[0], level), threshold(peaks[0], level)
        known = math.isfinite(bound)
        rows.append(
            {
                "level": level,
                "relative_l2_bound": bound if known else None,
                "coverage_of_bound": float((norms[1] <= bound).mean()) if known else None,
                "band_half_width": factor * float(width.mean()) / size if known else None,
                "coverage_of_band": float((peaks[1] <= factor).mean()) if known else None,
            }
        )
    return rows


def _peak(
    found: NDArray[Any], true: NDArray[Any], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    error = np.abs(found.astype(np.float64) - true) / width
    return error.reshape(len(error), -1).max(1)
