"""A composition and its adjoint as expressions that mean the same in C and in Python.

Names in them: channels ``z0, z1, ...`` of the argument, ``a0, a1, ...`` of the adjoint, normalised
derivatives ``s1, s2, ...`` of the scalar function. All numbers are whole, so that they are exact in
any precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..kernels import Composition, Monomial

__all__ = ["Formula", "composed", "pulled"]


@dataclass(frozen=True)
class Formula:
    """A scalar function as expressions; ``exponential`` may be called in them.

    Attributes:
        value: s in the argument ``z0``.
        factors: normalised derivatives s_1, s_2, ... in the value ``s`` and those before.
    """

    value: str
    factors: tuple[str, ...]


def composed(plan: Composition) -> list[tuple[int, str]]:
    """``out_k = s_1 z_k + sum_m s_m P_km`` for every channel k but the value."""
    found = []
    for k in range(1, plan.channels):
        terms = [f"s1 * z{k}"]
        for m, rows in enumerate(plan.polynomials, start=2):
            terms += [f"s{m} * ({_sum(monomials)})" for j, monomials in rows if j == k]
        found.append((k, " + ".join(terms)))
    return found


def pulled(plan: Composition) -> list[tuple[int, str]]:
    """The adjoint of every channel of the argument, the value's first."""
    channels = range(1, plan.channels)
    # d s_m / d z_0 = (m + 1) s_(m+1)
    value = ["s1 * a0", f"2 * s2 * ({' + '.join(f'a{k} * z{k}' for k in channels)})"]
    for m, rows in enumerate(plan.polynomials, start=2):
        inner = " + ".join(f"a{k} * ({_sum(monomials)})" for k, monomials in rows)
        if inner:
            value.append(f"{m + 1} * s{m + 1} * ({inner})")
    found = [(0, " + ".join(value))]
    for j in channels:
        terms = [f"s1 * a{j}"]
        for m, rows in enumerate(plan.gradients, start=2):
            for position, targets in rows:
                if position == j:
                    inner = " + ".join(f"a{k} * ({_sum(monomials)})" for k, monomials in targets)
                    terms.append(f"s{m} * ({inner})")
        found.append((j, " + ".join(terms)))
    return found


def _sum(monomials: Sequence[Monomial]) -> str:
    """A polynomial in the channels z1, z2, ..."""
    products = []
    for coefficient, positions in monomials:
        factors = [f"z{position}" for position in positions]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        products.append(" * ".join(factors))
    return " + ".join(products)
