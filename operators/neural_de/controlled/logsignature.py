"""Log-signatures of depth one and two of piecewise linear paths, in tensor operations alone.

To depth two the log-signature of a path X from a to b is its increment and its Levy area ::

    x_i = X_i(b) - X_i(a),      A_ij = 1/2 int_a^b (X_i - X_i(a)) dX_j - (X_j - X_j(a)) dX_i,

of which the pairs i < j are kept, row by row (Chevyrev and Kormilitzin, "A primer on the signature
method in machine learning", arXiv 1603.03788). The area of a straight line is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ConfigurationError

__all__ = ["area_matrix", "chen", "log_signature", "size", "windows"]


def size(channels: int, depth: int = 2) -> int:
    """Components of a log-signature.

    Raises:
        ConfigurationError: the depth is not 1 or 2.
    """
    if depth not in (1, 2):
        raise ConfigurationError(
            "Log-signatures have depth 1 or 2 here.", found=depth, advice="write 1 or 2"
        )
    return channels if depth == 1 else channels * (channels + 1) // 2


def log_signature(increments: Tensor, depth: int = 2) -> Tensor:
    """The log-signature of the path with these increments.

    Args:
        increments: shape (..., segments, channels).
        depth: 1 or 2.

    Returns:
        shape (..., size(channels, depth)): increments, then areas.
    """
    channels = increments.shape[-1]
    total = increments.sum(-2)
    if size(channels, depth) == channels:
        return total
    before = increments.cumsum(-2) - increments
    product = before.transpose(-1, -2) @ increments
    area = 0.5 * (product - product.transpose(-1, -2))
    return torch.cat((total, _pairs(area)), dim=-1)


def chen(first: Tensor, second: Tensor, channels: int) -> Tensor:
    """The log-signature of two paths one after the other, by Chen's identity.

    To depth two it is that of Baker, Campbell and Hausdorff, ``a + b + [a, b] / 2``.

    Args:
        first: shape (..., components).
        second: of the path after it.
        channels: of the paths.
    """
    together = first + second
    if first.shape[-1] == channels:
        return together
    a, b = first[..., :channels], second[..., :channels]
    outer = a[..., :, None] * b[..., None, :]
    bracket = _pairs(0.5 * (outer - outer.transpose(-1, -2)))
    return together + F.pad(bracket, (channels, 0))


def windows(values: Tensor, length: int, depth: int = 2) -> Tensor:
    """Log-signatures of windows of the piecewise linear path through values.

    Args:
        values: shape (batch, n, channels), at the knots.
        length: intervals in a window; the last window may have fewer.
        depth: 1 or 2.

    Returns:
        shape (batch, ceil((n - 1) / length), size(channels, depth)).

    Raises:
        ConfigurationError: the length is below one, or the depth is not 1 or 2.
    """
    if length < 1:
        raise ConfigurationError(
            "A window has one interval or more.", found=length, advice="write a positive number"
        )
    increments = values.diff(dim=1)
    batch, intervals, channels = increments.shape
    # An interval in which nothing moves changes no log-signature.
    increments = F.pad(increments, (0, 0, 0, -intervals % length))
    return log_signature(increments.reshape(batch, -1, length, channels), depth)


def area_matrix(areas: Tensor, channels: int) -> Tensor:
    """Antisymmetric matrices (..., channels, channels) from the areas of pairs."""
    i, j = torch.triu_indices(channels, channels, 1, device=areas.device)
    matrix = areas.new_zeros(*areas.shape[:-1], channels, channels)
    matrix[..., i, j] = areas
    return matrix - matrix.transpose(-1, -2)


def _pairs(matrix: Tensor) -> Tensor:
    """Entries above the diagonal, row by row."""
    channels = matrix.shape[-1]
    i, j = torch.triu_indices(channels, channels, 1, device=matrix.device)
    return matrix[..., i, j]
