"""Input embeddings: scaling to the unit box, exact periodicity, parity, random Fourier features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..taylor import JetAlgebra, cos_rule, sin_rule


class Embedding(nn.Module):
    """Coordinates to features.

    A bounded coordinate is scaled to [-1, 1]. A periodic one becomes ``cos(k w (x - m))`` and
    ``sin(k w (x - m))``, k = 1..harmonics, with ``w = 2 pi / length`` and m the midpoint: every
    function of these features is exactly
    periodic with all its derivatives (Dong & Ni, J. Comput. Phys. 435, 2021). With even parity
    only the cosines are
    kept, so that every function of them is even about the midpoint.

    With ``fourier`` > 0 the features are mapped on to ``cos(B f), sin(B f)`` with a fixed Gaussian
    matrix B
    (Tancik et al., "Fourier features let networks learn high frequency functions", NeurIPS 2020).

    Args:
        bounds: (low, high) of every coordinate.
        periodic: axis to number of harmonics.
        cosine_only: periodic axes on which only cosines are kept.
        fourier: number of random frequencies, 0 for none.
        fourier_scale: standard deviation of the entries of B.
        generator: source of B.
    """

    def __init__(
        self,
        bounds: Sequence[tuple[float, float]],
        *,
        periodic: Mapping[int, int],
        cosine_only: Sequence[int] = (),
        fourier: int = 0,
        fourier_scale: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.centre: Tensor
        self.length: Tensor
        self.frequencies: Tensor | None
        low = torch.tensor([b[0] for b in bounds], dtype=torch.float64)
        high = torch.tensor([b[1] for b in bounds], dtype=torch.float64)
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.register_buffer("length", high - low, persistent=False)
        self.plain = tuple(axis for axis in range(len(bounds)) if axis not in periodic)
        self.periodic = dict(periodic)
        self.cosine_only = frozenset(cosine_only)
        self.features = len(self.plain) + sum(
            count * (1 if axis in self.cosine_only else 2) for axis, count in periodic.items()
        )
        frequencies = None
        if fourier:
            frequencies = fourier_scale * torch.randn(
                fourier, self.features, generator=generator, dtype=torch.float64
            )
            self.features = 2 * fourier
        self.register_buffer("frequencies", frequencies)

    def jet(self, points: Tensor, algebra: JetAlgebra) -> Tensor:
        """Feature bundle, shape (channels, points, features); depends on no trained parameter."""
        bundle = algebra.lift(points)
        bundle[0] -= self.centre
        parts = []
        if self.plain:
            plain = list(self.plain)
            parts.append(bundle[:, :, plain] * (2 / self.length[plain]))
        for axis, harmonics in self.periodic.items():
            wave = 2 * math.pi / self.length[axis]
            numbers = torch.arange(1, harmonics + 1, dtype=points.dtype, device=points.device)
            phase = bundle[:, :, axis : axis + 1] * (wave * numbers)
            parts.append(algebra.apply(cos_rule, phase))
            if axis not in self.cosine_only:
                parts.append(algebra.apply(sin_rule, phase))
        features = torch.cat(parts, dim=2)
        if self.frequencies is not None:
            phase = features @ self.frequencies.T
            features = torch.cat(
                [algebra.apply(cos_rule, phase), algebra.apply(sin_rule, phase)], dim=2
            )
        return features
