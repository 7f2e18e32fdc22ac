"""Errors of fields on grids, with published definitions.

Predictions and truths have shape (samples, times, channels, *n); a map without time has one
instant. All sums are in double precision.

`pdebench` follows Takamoto et al., "PDEBench", NeurIPS 2022 (Datasets and Benchmarks), section 4
and appendix B, as their program computes it, peculiarities included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUANTILES", "pdebench", "relative_l2", "relative_l2_by_step", "statistics"]

Array = NDArray[np.float64]
LEAST = 1e-300
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
BANDS = {"low": slice(0, 4), "mid": slice(4, 12), "high": slice(12, None)}
"""Wave numbers of PDEBench's spectral errors."""


def relative_l2(found: NDArray[Any], true: NDArray[Any]) -> Array:
    """``|found - true|_2 / |true|_2`` of each sample, all else together; shape (samples,).

    Source: Li et al., "Fourier neural operator", ICLR 2021, section 5 (relative error).
    """
    return _ratio(found, true, tuple(range(1, true.ndim)))


def relative_l2_by_step(found: NDArray[Any], true: NDArray[Any]) -> Array:
    """The same of each instant by itself; shape (samples, times)."""
    return _ratio(found, true, tuple(range(2, true.ndim)))


def _ratio(found: NDArray[Any], true: NDArray[Any], axes: tuple[int, ...]) -> Array:
    true = true.astype(np.float64)
    size = np.sqrt((true**2).sum(axes))
    # A rollout may leave what numbers can hold: that is infinitely wrong, and no mistake here.
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.sqrt(((found - true) ** 2).sum(axes)) / np.maximum(size, LEAST)
    return np.where(np.isnan(errors), np.inf, errors)


def statistics(errors: Array) -> dict[str, float]:
    """Mean and quantiles of errors by sample, linear between order statistics if all are finite."""
    # Between infinite errors there is nothing to interpolate.
    method = "linear" if np.isfinite(errors).all() else "higher"
    values = np.quantile(errors, list(QUANTILES.values()), method=method)
    return {"mean": float(errors.mean()), **dict(zip(QUANTILES, map(float, values), strict=True))}


def pdebench(found: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    """PDEBench's metrics, each a mean over channels and instants.

    With e = found - true, space of D coordinates with n nodes each, and lengths of one:

    ``rmse`` mean over samples of ``sqrt(mean_x e^2)``; ``nrmse`` the same over
    ``sqrt(mean_x true^2)``, sample by sample; ``max_error`` largest ``|e|`` over space and samples;
    ``conserved_rmse`` root mean square over samples of the difference of ``sum_x``, over the number
    of nodes; ``boundary_rmse`` mean over samples of the root mean square over the boundary, corners
    counted once for each side; ``fourier_rmse_low, _mid, _high`` root mean square over samples of
    the coefficients of e with wave numbers below 4, from 4 to 11, and from 12, over the number of
    nodes. In two dimensions the squares of all coefficients with both wave numbers from 0 up to
    n/2 and ``floor(|k|)`` alike are added before the root, so that Parseval's equation does not
    hold; in three, they are not defined here.
    """
    true = true.astype(np.float64)
    error = found.astype(np.float64) - true
    space = tuple(range(3, true.ndim))
    nodes = int(np.prod(true.shape[3:]))
    rmse = np.sqrt((error**2).mean(space))
    size = np.sqrt((true**2).mean(space))
    sums = error.sum(space) / nodes
    result = {
        "rmse": rmse.mean(),
        "nrmse": (rmse / np.maximum(size, LEAST)).mean(),
        "max_error": np.abs(error).max(axis=(0, *space)).mean(),
        "conserved_rmse": np.sqrt((sums**2).mean(0)).mean(),
        "boundary_rmse": _boundary(error).mean(),
    }
    by_dimension: Mapping[int, Callable[[Array], Array]] = {1: _shells_1d, 2: _shells_2d}
    if len(space) in by_dimension:
        shells = by_dimension[len(space)](error) / nodes
        for name, band in BANDS.items():
            part = shells[..., band]
            result[f"fourier_rmse_{name}"] = part.mean() if part.size else np.nan
    return {name: float(value) for name, value in result.items()}


def _boundary(error: Array) -> Array:
    """Root mean square over the sides, by sample, instant and channel."""
    total, count = np.zeros(error.shape[:3]), 0
    for axis in range(3, error.ndim):
        for side in (0, -1):
            face = error.take(side, axis)
            rest = tuple(range(3, face.ndim))
            total += (face**2).sum(rest) if rest else face**2
            count += int(np.prod(face.shape[3:])) if rest else 1
    return np.sqrt(total / count)


def _shells_1d(error: Array) -> Array:
    """Root mean square over samples of each coefficient; shape (times, channels, modes)."""
    return np.sqrt((np.abs(np.fft.rfft(error, axis=3)) ** 2).mean(0))


def _shells_2d(error: Array) -> Array:
    """The same by whole part of the wave number, squares within one added."""
    nx, ny = error.shape[3:]
    power = np.abs(np.fft.fftn(error, axes=(3, 4))[..., : nx // 2, : ny // 2]) ** 2
    k = np.sqrt(np.arange(nx // 2)[:, None] ** 2 + np.arange(ny // 2)[None] ** 2).astype(int)
    least = min(nx // 2, ny // 2)
    shells = np.stack([power[..., k == number].sum(-1) for number in range(least)], -1)
    return np.sqrt(shells.mean(0))
