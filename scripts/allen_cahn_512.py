"""Write problems/library/allen_cahn_512.csv: x^2 cos(pi x) as the 512 equispaced points see it.

The trigonometric interpolant in the points x_j = -1 + 2 j/512 of [-1, 1]. It is even, so its modes
are cosines, 0 to 256; the angle counts from -1. The numbers that make it are the values alone, so
that anyone's fast Fourier transform gives the same modes to rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from residua.problems.given import Series
from residua.problems.given.files import text_of

POINTS = 512
PLACE = Path(__file__).parents[1] / "problems" / "library" / "allen_cahn_512.csv"


def main() -> None:
    """Write the file."""
    x = -1 + 2 * np.arange(POINTS) / POINTS
    columns = Series.of_samples("u0", x**2 * np.cos(np.pi * x), (-1, 1)).columns
    PLACE.write_text(text_of(columns), encoding="utf-8")


if __name__ == "__main__":
    main()
