"""Coefficients of explicit Runge-Kutta methods.

Every method is written with one stage more than its number of slopes, evaluated at the new state:
it is the first stage of the next step, so it costs nothing when the step is accepted, and it gives
all methods, not only those designed so (FSAL), the slope at both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction as F

__all__ = ["BOSH3", "DOPRI5", "EULER", "HEUN", "MIDPOINT", "RK4", "TSIT5", "Tableau"]


@dataclass(frozen=True)
class Tableau:
    """An explicit method with s + 1 stages, the last at the new state.

    Attributes:
        name: of the method.
        order: of the method.
        matrix: rows 2 to s + 1 of the matrix of stages, row i with i - 1 entries; the last row are
            the weights of the step.
        error: s + 1 weights of the error estimate, step minus embedded step; None without one.
        error_order: the estimate falls like step ** error_order.
        dense: s + 1 rows, coefficients of theta, theta^2, ... of the weights inside the step.
        dense_order: order of the conditions that those weights fulfil for all theta.
    """

    name: str
    order: int
    matrix: tuple[tuple[float, ...], ...]
    error: tuple[float, ...] | None
    error_order: int | None
    dense: tuple[tuple[float, ...], ...]
    dense_order: int

    @property
    def nodes(self) -> tuple[float, ...]:
        """Fractions of the step at which the stages lie: the sums of the rows."""
        return (0.0, *(float(sum(F(a) for a in row)) for row in self.matrix[:-1]), 1.0)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the step, s + 1 of them, the last zero."""
        return (*self.matrix[-1], 0.0)


Number = float | F


def _tableau(
    name: str,
    order: int,
    matrix: Sequence[Sequence[Number]],
    *,
    error: Sequence[Number] | None = None,
    error_order: int | None = None,
    dense: Sequence[Sequence[Number]] | None = None,
    dense_order: int | None = None,
) -> Tableau:
    if dense is None:
        dense, dense_order = _hermite(matrix[-1]), min(order, 3)
    assert dense_order is not None
    return Tableau(
        name,
        order,
        tuple(tuple(float(a) for a in row) for row in matrix),
        None if error is None else tuple(float(e) for e in error),
        error_order,
        tuple(tuple(float(c) for c in row) for row in dense),
        dense_order,
    )


def _hermite(
    weights: Sequence[Number], quartic: Sequence[Number] | None = None
) -> list[list[Number]]:
    """The cubic Hermite interpolant as weights of the stages, by powers of theta from 1.

    Args:
        weights: of the step.
        quartic: weights of a further term theta^2 (1 - theta)^2, which keeps ends and slopes.
    """
    rows: list[list[Number]] = []
    for i, b in enumerate((*weights, F(0))):
        first, last = F(int(i == 0)), F(int(i == len(weights)))
        row = [first, 3 * b - 2 * first - last, first + last - 2 * b]
        if quartic is not None:
            q = quartic[i]
            row = [row[0], row[1] + q, row[2] - 2 * q, q]
        rows.append(row)
    return rows


EULER = _tableau("Euler", 1, [[F(1)]])

# The estimates of the next two compare with Euler's step.
MIDPOINT = _tableau(
    "Midpoint", 2, [[F(1, 2)], [F(0), F(1)]], error=[F(-1), F(1), F(0)], error_order=2
)
HEUN = _tableau(
    "Heun",
    2,
    [[F(1)], [F(1, 2), F(1, 2)]],
    error=[F(-1, 2), F(1, 2), F(0)],
    error_order=2,
)

# Kutta (1901). The slope at the new state and the fourth stage fulfil the same conditions up to
# order 3, so that any multiple of their difference is an estimate of order 4.
RK4 = _tableau(
    "RK4",
    4,
    [[F(1, 2)], [F(0), F(1, 2)], [F(0), F(0), F(1)], [F(1, 6), F(1, 3), F(1, 3), F(1, 6)]],
    error=[F(0), F(0), F(0), F(1, 10), F(-1, 10)],
    error_order=4,
)

# Bogacki and Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2 (1989).
BOSH3 = _tableau(
    "Bosh3",
    3,
    [[F(1, 2)], [F(0), F(3, 4)], [F(2, 9), F(1, 3), F(4, 9)]],
    error=[F(-5, 72), F(1, 12), F(1, 9), F(-1, 8)],
    error_order=3,
)

# Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6 (1980);
# dense output: Shampine, "Some practical Runge-Kutta formulas", Math. Comp. 46 (1986), in the form
# of Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.6.
_DOPRI5 = [F(35, 384), F(0), F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)]
DOPRI5 = _tableau(
    "Dopri5",
    5,
    [
        [F(1, 5)],
        [F(3, 40), F(9, 40)],
        [F(44, 45), F(-56, 15), F(32, 9)],
        [F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)],
        [F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)],
        _DOPRI5,
    ],
    error=[
        F(71, 57600),
        F(0),
        F(-71, 16695),
        F(71, 1920),
        F(-17253, 339200),
        F(22, 525),
        F(-1, 40),
    ],
    error_order=5,
    dense=_hermite(
        _DOPRI5,
        [
            F(-12715105075, 11282082432),
            F(0),
            F(87487479700, 32700410799),
            F(-10690763975, 1880347072),
            F(701980252875, 199316789632),
            F(-1453857185, 822651844),
            F(69997945, 29380423),
        ],
    ),
    dense_order=4,
)

# Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption", Comput. Math. Appl. 62 (2011).
TSIT5 = _tableau(
    "Tsit5",
    5,
    [
        [0.161],
        [-0.008480655492356989, 0.335480655492357],
        [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
        [
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ],
        [
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ],
    ],
    error=[
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ],
    error_order=5,
    dense=[
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.1317, -0.2234, 0.1017],
        [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ],
    dense_order=4,
)
