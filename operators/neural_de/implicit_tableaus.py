"""Coefficients of diagonally implicit Runge-Kutta pairs, alone or paired with an explicit method.

All have an explicit first stage and one coefficient gamma on the rest of the diagonal (ESDIRK), so
that every stage of a step is solved with the same matrix I - h gamma J. Where the last row of the
stage matrix is the weights, the method is stiffly accurate: the last stage is the next state, and a
method that is A-stable is L-stable.

What the papers do not give is derived here from the order conditions: the dense output, by the
conditions of order q imposed on weights b(theta) at every theta, and the predictors of stages.

Sources: Kvaerno, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage",
BIT 44 (2004); Kennedy and Carpenter, "Additive Runge-Kutta schemes for convection-diffusion-
reaction equations", Applied Numerical Mathematics 44 (2003); order conditions: Hairer, Norsett and
Wanner, "Solving Ordinary Differential Equations I", II.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IMPLICIT_EULER",
    "KENCARP4",
    "KVAERNO3",
    "KVAERNO5",
    "ImplicitTableau",
    "Tree",
    "density",
    "elementary_weights",
    "trees",
]

Array = NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]
Tree = tuple["tuple[int, Tree]", ...]
"""A rooted tree: its branches, each the colour of its root and the tree above it."""


@lru_cache
def trees(size: int, colours: int = 1) -> tuple[Tree, ...]:
    """All rooted trees of `size` nodes whose nodes but the root have one of `colours`."""
    found: set[Tree] = set()
    for parts in _partitions(size - 1):
        choices: list[Tree] = [()]
        for part in sorted(set(parts)):
            kinds = [(colour, tree) for tree in trees(part, colours) for colour in range(colours)]
            several = list(combinations_with_replacement(kinds, parts.count(part)))
            choices = [(*kept, *more) for kept in choices for more in several]
        found.update(choices)
    return tuple(sorted(found))


def _partitions(total: int, largest: int | None = None) -> list[tuple[int, ...]]:
    """Ways to write `total` as a sum of positive numbers, in falling order."""
    if total == 0:
        return [()]
    top = min(total, largest or total)
    return [(n, *rest) for n in range(top, 0, -1) for rest in _partitions(total - n, n)]


def density(tree: Tree) -> tuple[int, int]:
    """Nodes of a tree and its density gamma; its order condition is b . phi = 1 / gamma."""
    sizes, gammas = 1, 1
    for _, branch in tree:
        size, gamma = density(branch)
        sizes, gammas = sizes + size, gammas * gamma
    return sizes, sizes * gammas


def elementary_weights(tree: Tree, matrices: Sequence[Array]) -> Array:
    """The vector phi of a tree, one value a stage; `matrices` by colour."""
    value = np.ones(len(matrices[0]))
    for colour, branch in tree:
        value = value * (matrices[colour] @ elementary_weights(branch, matrices))
    return value


@dataclass(frozen=True)
class ImplicitTableau:
    """An ESDIRK pair, or an additive pair of an ESDIRK and an explicit method.

    Attributes:
        name: as in the literature.
        implicit: rows of the stage matrix up to and including the diagonal; the first is (0,).
        weights: of the method of `order`, for both matrices of an additive pair.
        embedded: weights of the method that estimates the error.
        order: of convergence.
        error_order: of the embedded method.
        dense_order: of the dense output.
        explicit: rows of the explicit stage matrix, without the diagonal, or None.
        filtered: the error estimate is multiplied by (I - h gamma J)^-1. An embedded method that
            does not damp infinitely stiff components would see errors where the solution has none.
            Only where the method itself damps the error in the same way: it does not in an additive
            pair, whose next state is none of the stages.
    """

    name: str
    implicit: Rows
    weights: tuple[float, ...]
    embedded: tuple[float, ...]
    order: int
    error_order: int
    dense_order: int
    explicit: Rows | None = None
    filtered: bool = False

    @property
    def stages(self) -> int:
        """How many, the explicit first one included."""
        return len(self.weights)

    @property
    def gamma(self) -> float:
        """Of the diagonal."""
        return self.implicit[-1][-1]

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the next state."""
        return self.explicit is None and self.implicit[-1] == self.weights

    @cached_property
    def matrix(self) -> Array:
        """The implicit stage matrix, shape (stages, stages)."""
        return _square(self.implicit)

    @cached_property
    def matrices(self) -> list[Array]:
        """The implicit stage matrix, and the explicit one where there is one."""
        return [self.matrix] + ([] if self.explicit is None else [_square(self.explicit)])

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        """Times of the stages as fractions of the step."""
        return tuple(float(c) for c in self.matrix.sum(1))

    @cached_property
    def dense(self) -> Array:
        """Coefficients D of the dense output, shape (stages, powers).

        y(theta) = y_0 + sum_ij k_i D_ij theta^(j+1) has order `dense_order` at every theta, meets
        the method at theta = 1 and, where the method is stiffly accurate, has the slopes of the
        field at both ends. Of the solutions of these linear conditions the smallest is taken.
        """
        powers, stages = self.dense_order, self.stages
        rows, values = [], []

        def demand(weights: Array, by_power: Array, value: float) -> None:
            rows.append(np.outer(weights, by_power).ravel())
            values.append(value)

        units, every = np.eye(powers), np.arange(1.0, powers + 1)
        for size in range(1, powers + 1):
            for tree in trees(size, len(self.matrices)):
                phi, gamma = elementary_weights(tree, self.matrices), density(tree)[1]
                for power in range(powers):
                    demand(phi, units[power], (power + 1 == size) / gamma)
        for stage in range(stages):
            unit = np.eye(stages)[stage]
            demand(unit, np.ones(powers), self.weights[stage])
            if self.stiffly_accurate and powers > 2:
                demand(unit, units[0], float(stage == 0))
                demand(unit, every, float(stage == stages - 1))
        found = np.linalg.lstsq(np.array(rows), np.array(values), rcond=1e-12)[0]
        return found.reshape(stages, powers)

    @cached_property
    def predictors(self) -> Array:
        """Weights that guess the slope of a stage from those before it, shape (stages, stages).

        The smallest that extrapolate a quadratic in time, or what the earlier nodes determine.
        """
        result = np.zeros((self.stages, self.stages))
        nodes = np.array(self.nodes)
        for stage in range(1, self.stages):
            powers = np.arange(min(3, len(set(np.round(nodes[:stage], 12)))))
            conditions = nodes[:stage] ** powers[:, None]
            result[stage, :stage] = np.linalg.pinv(conditions) @ nodes[stage] ** powers
        return result


def _square(rows: Rows) -> Array:
    matrix = np.zeros((len(rows), len(rows)))
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix


def _kvaerno3() -> ImplicitTableau:
    """Closed form: the stage order is 2 and the rest is fixed by quadrature conditions."""
    # Root of 6 g^3 - 18 g^2 + 9 g - 1 for which the stability function vanishes at infinity.
    g = 0.4358665215084589994160194
    third = (0.5 - g) / (2 * g)
    b3 = (1 / 3 - g - 2 * g * (0.5 - g)) / (1 - 2 * g)
    b2 = (0.5 - g - b3) / (2 * g)
    embedded = (1 - third - g, third, g, 0.0)
    weights = (1 - b2 - b3 - g, b2, b3, g)
    return ImplicitTableau(
        name="Kvaerno 3(2)",
        implicit=((0.0,), (g, g), embedded[:3], weights),
        weights=weights,
        embedded=embedded,
        order=3,
        error_order=2,
        dense_order=3,
    )


def _kvaerno5() -> ImplicitTableau:
    g = 0.26
    fourth = (
        0.13855640231268224,
        0.0,
        -0.04245337201752043,
        0.02446657898003141,
        0.61943039072480676,
        g,
    )
    fifth = (
        0.13659751177640291,
        0.0,
        -0.05496908796538376,
        -0.04118626728321046,
        0.62993304899016403,
        0.06962479448202728,
        g,
    )
    return ImplicitTableau(
        name="Kvaerno 5(4)",
        implicit=(
            (0.0,),
            (g, g),
            (0.13, 0.84033320996790809, g),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, g),
            (
                0.16648564323248321,
                0.10450018841591720,
                0.03631482272098715,
                -0.13090704451073998,
                g,
            ),
            fourth,
            fifth,
        ),
        weights=fifth,
        embedded=(*fourth, 0.0),
        order=5,
        error_order=4,
        dense_order=4,
    )


def _row(*fractions: str) -> tuple[float, ...]:
    return tuple(float(Fraction(text)) for text in fractions)


def _kencarp4() -> ImplicitTableau:
    """ARK4(3)6L[2]SA of Kennedy and Carpenter."""
    weights = _row("82889/524892", "0", "15625/83664", "69875/102672", "-2260/8211", "1/4")
    return ImplicitTableau(
        name="KenCarp4, ARK4(3)6L[2]SA",
        implicit=(
            (0.0,),
            _row("1/4", "1/4"),
            _row("8611/62500", "-1743/31250", "1/4"),
            _row("5012029/34652500", "-654441/2922500", "174375/388108", "1/4"),
            _row(
                "15267082809/155376265600",
                "-71443401/120774400",
                "730878875/902184768",
                "2285395/8070912",
                "1/4",
            ),
            weights,
        ),
        explicit=(
            (0.0,),
            _row("1/2"),
            _row("13861/62500", "6889/62500"),
            _row(
                "-116923316275/2393684061468",
                "-2731218467317/15368042101831",
                "9408046702089/11113171139209",
            ),
            _row(
                "-451086348788/2902428689909",
                "-2682348792572/7519795681897",
                "12662868775082/11960479115383",
                "3355817975965/11060851509271",
            ),
            _row(
                "647845179188/3216320057751",
                "73281519250/8382639484533",
                "552539513391/3454668386233",
                "3354512671639/8306763924573",
                "4040/17871",
            ),
        ),
        weights=weights,
        embedded=_row(
            "4586570599/29645900160",
            "0",
            "178811875/945068544",
            "814220225/1159782912",
            "-3700637/11593932",
            "61727/225920",
        ),
        order=4,
        error_order=3,
        dense_order=3,
    )


KVAERNO3 = _kvaerno3()
KVAERNO5 = _kvaerno5()
KENCARP4 = _kencarp4()
IMPLICIT_EULER = ImplicitTableau(
    # With the slope at the start as a first stage, so that half the difference of the two slopes
    # estimates the local error, as the trapezoidal rule would.
    name="implicit Euler",
    implicit=((0.0,), (0.0, 1.0)),
    weights=(0.0, 1.0),
    embedded=(0.5, 0.5),
    order=1,
    error_order=1,
    dense_order=1,
    filtered=True,
)
