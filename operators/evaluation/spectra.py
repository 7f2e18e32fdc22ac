"""How much of a field, and of its error, lies at which wave number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["spectrum"]


def spectrum(fields: NDArray[Any], periodic: Sequence[bool]) -> NDArray[np.float64]:
    """Mean square of fields by wave number; entry k holds ``k - 1/2 <= |k| < k + 1/2``.

    Along a periodic coordinate by Fourier modes, k waves to the period; along another by cosines
    (DCT of type II), of which k has k half waves and counts as k/2, so that both mean the same
    length. The entries add up to the mean square of the fields.

    Args:
        fields: shape (samples, channels, *n); summed over channels, averaged over samples.
        periodic: by coordinate.

    Returns:
        Shape (1 + largest wave number,).
    """
    values: Any = fields.astype(np.float64)
    square = np.zeros((1,) * (values.ndim - 2))
    for axis, ring in enumerate(periodic):
        n, place = values.shape[axis + 2], axis + 2
        if ring:
            values = scipy.fft.fft(values, axis=place, norm="ortho")
            numbers = np.abs(scipy.fft.fftfreq(n, 1.0 / n))
        else:
            parts = (values.real, values.imag)
            real, imaginary = (scipy.fft.dct(p, type=2, axis=place, norm="ortho") for p in parts)
            values = real + 1j * imaginary
            numbers = np.arange(n) / 2
        shape = [1] * len(periodic)
        shape[axis] = n
        square = square + numbers.reshape(shape) ** 2
    shells = np.floor(np.sqrt(square) + 0.5).astype(int)
    nodes = int(np.prod(fields.shape[2:]))
    power: Any = (np.abs(values) ** 2).sum(1).mean(0) / nodes
    return np.bincount(shells.ravel(), power.ravel()).astype(np.float64)
