"""How far the marginal moments of generated paths are from those of the data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["marginal_errors", "moments"]


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance at each time of paths (batch, n, channels) in which NaN is missing.

    Returns:
        both (n, channels), float64; the variance with the divisor count - 1.
    """
    values = values.double()
    mean = torch.nanmean(values, dim=0)
    count = (~values.isnan()).sum(0)
    square = torch.nansum((values - mean) ** 2, dim=0)
    return mean, square / (count - 1).clamp(min=1)


def marginal_errors(samples: Tensor, mean: Tensor, variance: Tensor) -> dict[str, float]:
    """Largest errors of mean and variance over all times and channels.

    ``|mean error| / sup std`` and ``|variance error| / sup variance``, with the suprema over time
    of the given moments, by channel.

    Args:
        samples: shape (count, n, channels), generated paths.
        mean: shape (n, channels), true or of data.
        variance: shape (n, channels).

    Returns:
        ``marginal_mean_error``, ``marginal_variance_error``.
    """
    found_mean, found_variance = moments(samples)
    largest = variance.double().amax(0)
    mean_error = (found_mean - mean).abs() / largest.sqrt()
    variance_error = (found_variance - variance).abs() / largest
    return {
        "marginal_mean_error": float(mean_error.max()),
        "marginal_variance_error": float(variance_error.max()),
    }
