"""Input embeddings: scaling, exact periodicity, zero normal derivative, Fourier features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..taylor import JetAlgebra, ScalarRule, cos_rule, sin_rule


def polynomial_rule(coefficients: Sequence[float], scale: float = 1.0) -> ScalarRule:
    """Taylor rule of ``scale * sum_k c_k z^k``: ``p^(m)(z)/m! = sum_k binom(k, m) c_k z^(k-m)``."""

    def rule(z: Tensor, order: int) -> list[Tensor]:
        out = []
        for m in range(order + 1):
            total = torch.zeros_like(z)
            for k in range(len(coefficients) - 1, m - 1, -1):
                total = total * z + math.comb(k, m) * coefficients[k]
            out.append(total if scale == 1 else scale * total)
        return out

    return rule


# Polynomials whose derivative vanishes at the end s = 0 of [0, 1], each within [-1, 1]. s^2 and s^3
# generate them all; these three were the combination on which Gauss-Newton got furthest.
_ONE_END = (
    polynomial_rule((-1, 0, 2)),
    polynomial_rule((0, 0, -1, 1), 27 / 4),
    polynomial_rule((-1, 0, 0, 8, -6)),
)
# The same for both ends of [-1, 1]: primitives of (1 - z^2) {1, z, z^2}, which generate all. Whole
# coefficients make the derivatives at the ends cancel to exactly zero.
_BOTH_ENDS = (
    polynomial_rule((0, 3, 0, -1), 1 / 2),
    polynomial_rule((-1, 0, 4, 0, -2)),
    polynomial_rule((0, 0, 0, 5, 0, -3), 1 / 2),
)


def harmonics(
    algebra: JetAlgebra, place: Tensor, length: Tensor | float, count: int, *, sines: bool
) -> list[Tensor]:
    """Cosines, and sines if wanted, of ``k 2 pi place / length``, k = 1..count.

    Args:
        algebra: which Taylor coefficients to carry.
        place: bundle of one coordinate, shape (channels, points, 1).
        length: the period.
        count: number of harmonics.
        sines: whether to add the sines.
    """
    numbers = torch.arange(1, count + 1, dtype=place.dtype, device=place.device)
    phase = place * (2 * math.pi / length * numbers)
    rules = (cos_rule, sin_rule) if sines else (cos_rule,)
    return [algebra.apply(rule, phase) for rule in rules]


class Embedding(nn.Module):
    """Coordinates to features.

    A bounded coordinate is scaled to [-1, 1]. A periodic one becomes ``cos(k w (x - m))`` and
    ``sin(k w (x - m))``, k = 1..harmonics, with ``w = 2 pi / length`` and m the midpoint: every
    function of these features is exactly
    periodic with all its derivatives (Dong & Ni, J. Comput. Phys. 435, 2021). With even parity
    only the cosines are
    kept, so that every function of them is even about the midpoint.

    A coordinate with ends at which the normal derivative of every field vanishes is replaced by
    polynomials whose derivative is zero there, so that every network satisfies the condition
    exactly. Nothing is lost: with s the distance from the end, a smooth f with f'(0) = 0 is
    ``G(s^2) + s^3 K(s^2)`` with smooth G and K (its even part is smooth in s^2, and so is its odd
    part divided by s^3: Whitney, Duke Math. J. 10, 1943). Cosines would satisfy
    the condition too, but all their odd derivatives vanish there, so that functions whose third one
    does not are approximated slowly.

    With ``fourier`` > 0 the features are mapped on to ``cos(B f), sin(B f)`` with a fixed Gaussian
    matrix B
    (Tancik et al., "Fourier features let networks learn high frequency functions", NeurIPS 2020).

    Args:
        bounds: (low, high) of every coordinate.
        periodic: axis to number of harmonics.
        cosine_only: periodic axes on which only cosines are kept.
        flat: axis to (low end, high end): where the derivative along it vanishes.
        fourier: number of random frequencies, 0 for none.
        fourier_scale: standard deviation of the entries of B.
        generator: source of B.
        left_out: axes that are no input.
    """

    def __init__(
        self,
        bounds: Sequence[tuple[float, float]],
        *,
        periodic: Mapping[int, int],
        cosine_only: Sequence[int] = (),
        flat: Mapping[int, tuple[bool, bool]] | None = None,
        fourier: int = 0,
        fourier_scale: float = 1.0,
        generator: torch.Generator,
        left_out: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.centre: Tensor
        self.length: Tensor
        self.frequencies: Tensor | None
        low = torch.tensor([b[0] for b in bounds], dtype=torch.float64)
        high = torch.tensor([b[1] for b in bounds], dtype=torch.float64)
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.register_buffer("length", high - low, persistent=False)
        self.periodic = dict(periodic)
        self.flat = {axis: ends for axis, ends in (flat or {}).items() if any(ends)}
        self.plain = tuple(
            axis
            for axis in range(len(bounds))
            if axis not in self.periodic | self.flat and axis not in left_out
        )
        self.cosine_only = frozenset(cosine_only)
        self.features = (
            len(self.plain)
            + sum(
                count * (1 if axis in self.cosine_only else 2) for axis, count in periodic.items()
            )
            + sum(len(_BOTH_ENDS if all(ends) else _ONE_END) for ends in self.flat.values())
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
        for axis, count in self.periodic.items():
            place = bundle[:, :, axis : axis + 1]
            sines = axis not in self.cosine_only
            parts += harmonics(algebra, place, self.length[axis], count, sines=sines)
        for axis, ends in self.flat.items():
            place = bundle[:, :, axis : axis + 1] / self.length[axis]
            if all(ends):
                place, rules = 2 * place, _BOTH_ENDS
            else:
                place, rules = (place if ends[0] else -place), _ONE_END
                place[0] += 0.5
            parts += [algebra.apply(rule, place) for rule in rules]
        features = torch.cat(parts, dim=2)
        if self.frequencies is not None:
            phase = features @ self.frequencies.T
            features = torch.cat(
                [algebra.apply(cos_rule, phase), algebra.apply(sin_rule, phase)], dim=2
            )
        return features
