"""Coefficients of explicit Runge-Kutta methods.

Every method is written with one stage more than its number of slopes, evaluated at the new state:
it is the first stage of the next step, so it costs nothing when the step is accepted, and it gives
all methods, not only those designed so (FSAL), the slope at both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction as F

__all__ = ["BOSH3", "DOPRI5", "DOPRI8", "EULER", "HEUN", "MIDPOINT", "RK4", "TSIT5", "Tableau"]


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


def _rows(text: str) -> list[list[F]]:
    """Fractions, a row a line."""
    return [[F(word) for word in line.split()] for line in text.strip().splitlines()]


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

# Prince and Dormand, "High order embedded Runge-Kutta formulae", J. Comput. Appl. Math. 7 (1981).
# The weights inside the step are derived here: those of degree 6 which fulfil all conditions of
# order 5 for every theta and meet value and slope of the step at both ends, and of these the ones
# that violate the conditions of order 6 least (by 4e-5).
_DOPRI8 = _rows(
    """
    1/18
    1/48 1/16
    1/32 0 3/32
    5/16 0 -75/64 75/64
    3/80 0 0 3/16 3/20
    29443841/614563906 0 0 77736538/692538347 -28693883/1125000000 23124283/1800000000
    16016141/946692911 0 0 61564180/158732637 22789713/633445777 545815736/2771057229 \
     -180193667/1043307555
    39632708/573591083 0 0 -433636366/683701615 -421739975/2616292301 100302831/723423059 \
     790204164/839813087 800635310/3783071287
    246121993/1340847787 0 0 -37695042795/15268766246 -309121744/1061227803 \
     -12992083/490766935 6005943493/2108947869 393006217/1396673457 123872331/1001029789
    -1028468189/846180014 0 0 8478235783/508512852 1311729495/1432422823 \
     -10304129995/1701304382 -48777925059/3047939560 15336726248/1032824649 \
     -45442868181/3398467696 3065993473/597172653
    185892177/718116043 0 0 -3185094517/667107341 -477755414/1098053517 -703635378/230739211 \
     5731566787/1027545527 5232866602/850066563 -4093664535/808688257 3962137247/1805957418 \
     65686358/487910083
    403863854/491063109 0 0 -5068492393/434740067 -411421997/543043805 652783627/914296604 \
     11173962825/925320556 -13158990841/6184727034 3936647629/1978049680 -160528059/685178525 \
     248638103/1413531060 0
    14005451/335480064 0 0 0 0 -59238493/1068277825 181606767/758867731 561292985/797845732 \
     -1041891430/1371343529 760417239/1151165299 118820643/751138087 -528747749/2220607170 1/4
    """
)
_DOPRI8_EMBEDDED = _rows(
    """
    13451932/455176623 0 0 0 0 -808719846/976000145 1757004468/5645159321 656045339/265891186 \
     -3867574721/1518517206 465885868/322736535 53011238/667516719 2/45 0
    """
)[0]
DOPRI8 = _tableau(
    "Dopri8",
    8,
    _DOPRI8,
    error=[*(a - b for a, b in zip(_DOPRI8[-1], _DOPRI8_EMBEDDED, strict=True)), F(0)],
    error_order=8,
    dense=[
        [
            1.0,
            -6.564976409734489,
            19.249237014451918,
            -28.324123366246642,
            20.41092627492467,
            -5.729316022253925,
        ],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [
            0.0,
            -5.790815535274109,
            41.348598705887724,
            -96.22936117512582,
            91.24347440201745,
            -30.627348726116495,
        ],
        [
            0.0,
            10.223864493584955,
            -43.88913763754387,
            76.20919762063372,
            -60.21056345976857,
            17.905951790294946,
        ],
        [
            0.0,
            -0.6424619129870979,
            6.952262022431767,
            -7.040514708887316,
            0.015155018848379716,
            1.4190702499977097,
        ],
        [
            0.0,
            2.2855426371259973,
            -24.16862807317859,
            61.02354657474274,
            -63.24193716134046,
            23.341716408835854,
        ],
        [
            0.0,
            1.2895822932627217,
            -5.393805941397229,
            9.730414274221857,
            -4.474361711769195,
            -0.4912658833958684,
        ],
        [
            0.0,
            -1.7753782300305643,
            13.383405592611098,
            -35.746705991162955,
            39.39383301967561,
            -15.096966908583067,
        ],
        [
            0.0,
            2.6956952866250457,
            -18.75904654681492,
            44.84471894929388,
            -45.62373663716035,
            16.604259409303488,
        ],
        [
            0.0,
            -4.228013065957438,
            30.76780638393646,
            -75.01932303563616,
            76.14727918329271,
            -27.41774946563556,
        ],
        [
            0.0,
            2.5069604433851214,
            -19.490691520385294,
            50.552150858169526,
            -53.66006892872365,
            20.091649147554303,
        ],
    ],
    dense_order=5,
)
