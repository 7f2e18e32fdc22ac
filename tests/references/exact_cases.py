"""Problems with known solutions, one for every kind of method and equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from residua.problems import Problem
from residua.problems.references import build
from residua.problems.references.methods import (
    FourierETDRK4,
    Method,
    NewtonCollocation,
    RadauCollocation,
)
from residua.problems.references.system import System

WALLS = {"where": "boundary", "u": 0}

Function = Callable[[np.ndarray], np.ndarray]


def distance(first: Function, second: Function, points: np.ndarray) -> np.ndarray:
    """Relative L2 distance by field."""
    a, b = first(points), second(points)
    return np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0)


def scattered(problem: Problem, rng: np.random.Generator, count: int = 300) -> np.ndarray:
    low, high = np.array(problem.bounds).T
    return low + (high - low) * rng.random((count, len(low)))


def posed(equations: Any, conditions: list, *, fields: str = "u", **rest: Any) -> Problem:
    """A problem; a list in `rest` is a coordinate, anything else another entry."""
    coordinates = {name: rest.pop(name) for name in list(rest) if isinstance(rest[name], list)}
    return Problem.from_mapping(
        {
            "coordinates": coordinates,
            "fields": list(fields),
            "equations": equations if isinstance(equations, list) else [equations],
            "conditions": conditions,
            **rest,
        }
    )


def start(**values: Any) -> dict[str, Any]:
    return {"where": "t = 0", **values}


def walls(**values: Any) -> dict[str, Any]:
    return {"where": "boundary", **values}


def burgers(nu: float | str, **changes: Any) -> Problem:
    """Viscous Burgers from a sine between walls."""
    settings = {"parameters": {"nu": nu}, "reference": "cole_hopf", **changes}
    equation = settings.pop("equation", "u_t + u*u_x = nu*u_xx")
    conditions = settings.pop("conditions", [start(u="-sin(pi*x)"), WALLS])
    return posed(equation, conditions, x=[-1, 1], t=[0, 1], **settings)


@dataclass(frozen=True)
class Known:
    """A problem, what solves it, and the rungs of the two ladders it is tried on.

    The first rung in time is missing where there are several: it has nothing to be compared with.
    """

    problem: Problem
    method: Callable[[System], Method]
    space: range
    time: range = range(1)

    @property
    def exact(self) -> Callable[[np.ndarray], np.ndarray]:
        return build(self.problem)


def known(
    equations: Any,
    conditions: list,
    exact: str | dict[str, str],
    method: Callable[[System], Method],
    space: range,
    time: range = range(1),
    **rest: Any,
) -> Known:
    formulas = exact if isinstance(exact, dict) else {"u": exact}
    problem = posed(equations, conditions, reference={"exact": formulas}, **rest)
    return Known(problem, method, space, time)


ETD, RADAU, NEWTON = FourierETDRK4, RadauCollocation, NewtonCollocation
STANDING = "sin(pi*x)*cos(2*pi*t) + 0.5*sin(4*pi*x)*cos(8*pi*t)"
BREATHER = "4*atan(sqrt(3)*sin(t/2)*sech(sqrt(3)/2*x))"
FRONT = "(1 + exp((x - 5*t/sqrt(6))/sqrt(6)))^(-2)"
SOLITON = "0.5*sech(0.5*(x - t))^2"
TURNED = "exp(t)*sin(pi*x)"
RING = {"periodic": "x"}
TORUS = {"periodic": ["x", "y"]}
SQUARE: dict[str, Any] = {"x": [-1, 1], "y": [-1, 1]}

KNOWN: dict[str, Known] = {
    "heat, mirrored Fourier": known(
        "u_t = 0.3*u_xx", [start(u="sin(pi*x)"), WALLS], "exp(-0.3*pi^2*t)*sin(pi*x)",
        ETD, range(3, 5), range(5, 8), x=[0, 1], t=[0, 1],
    ),
    "heat, Robin": known(
        "u_t = 0.2*u_xx",
        [start(u="cos(4*x)"), {"where": "x = 0", "u_x": 0},
         {"where": "x = 1", "equation": "u_x + 2*u = exp(-3.2*t)*(2*cos(4) - 4*sin(4))"}],
        "exp(-3.2*t)*cos(4*x)", RADAU, range(1, 4), range(1, 6), x=[0, 1], t=[0, 1],
    ),
    "wave, Dirichlet in time": known(
        "u_tt = u_xx",
        [start(u="sin(5*x)", u_t="-5*cos(5*x)"), walls(u="sin(5*(x - t))")],
        "sin(5*(x - t))", RADAU, range(1, 5), range(2, 5), x=[0, 1], t=[0, 1],
    ),
    "wave, mirrored Fourier": known(
        "u_tt = 4*u_xx", [start(u=STANDING, u_t=0), WALLS], STANDING,
        ETD, range(3, 5), range(5, 9), x=[0, 1], t=[0, 1],
    ),
    "advection, inflow": known(
        "u_t + u_x = 0",
        [start(u="exp(sin(6*x))"), {"where": "x = 0", "u": "exp(-sin(6*t))"}],
        "exp(sin(6*(x - t)))", RADAU, range(1, 5), range(1, 5), x=[0, 1], t=[0, 1],
    ),
    "advection, ring": known(
        "u_t + 3*u_x = 0", [start(u="exp(2*sin(x))"), RING], "exp(2*sin(x - 3*t))",
        ETD, range(3, 7), range(5, 10), x=[0, "2*pi"], t=[0, 1],
    ),
    "Klein-Gordon": known(
        "u_tt - u_xx + u^3 = -5*sin(2*x)*cos(3*t) + (sin(2*x)*cos(3*t))^3",
        [start(u="sin(2*x)", u_t=0), walls(u="sin(2*x)*cos(3*t)")],
        "sin(2*x)*cos(3*t)", RADAU, range(1, 4), range(1, 5), x=[0, 1], t=[0, 1],
    ),
    "sine-Gordon breather": known(
        "u_tt - u_xx + sin(u) = 0",
        [start(u=0, u_t="2*sqrt(3)*sech(sqrt(3)/2*x)"), walls(u=BREATHER)],
        BREATHER, RADAU, range(3, 6), range(2, 4), x=[-6, 6], t=[0, 3],
    ),
    "Fisher": known(
        "u_t = u_xx + u*(1 - u)", [start(u=FRONT), walls(u=FRONT)], FRONT,
        RADAU, range(1, 6), range(1, 4), x=[-10, 10], t=[0, 1],
    ),
    "third order on a box": known(
        "u_t + 6*u*u_x + u_xxx = 0",
        [start(u=SOLITON), walls(u=SOLITON),
         {"where": "x = 8", "u_x": "-0.5*sech(0.5*(8 - t))^2*tanh(0.5*(8 - t))"}],
        SOLITON, RADAU, range(3, 6), range(1, 4), x=[-8, 8], t=[0, 1],
    ),
    "Burgers, mirrored Fourier": Known(burgers(0.03), ETD, range(4, 8), range(6, 8)),
    "Burgers, Chebyshev": Known(burgers(0.03), RADAU, range(4, 8), range(1, 4)),
    "Schroedinger, two coupled fields": known(
        ["u_t = -v_xx - (u^2 + v^2)*v", "v_t = u_xx + (u^2 + v^2)*u"],
        [start(u="cos(2*x)", v="sin(2*x)"), RING],
        {"u": "cos(2*x - 3*t)", "v": "sin(2*x - 3*t)"},
        ETD, range(3, 5), range(6, 8), fields="uv", x=[0, "2*pi"], t=[0, 1],
    ),
    "algebraic field beside a marching one": known(
        ["u_t = u_xx + p + pi^2*u", "p_xx = -pi^2*u"],
        [start(u="sin(pi*x)"), walls(u=0, p=0)], {"u": TURNED, "p": TURNED},
        RADAU, range(1, 4), range(1, 4), fields="up", x=[0, 1], t=[0, 1],
    ),
    "rotation, ordinary equations": known(
        ["u_t = 3*v", "v_t = -3*u"], [start(u=0, v=1)], {"u": "sin(3*t)", "v": "cos(3*t)"},
        RADAU, range(1), range(1, 6), fields="uv", t=[0, 2],
    ),
    "advection on a torus": known(
        "u_t + u_x - 2*u_y = 0", [start(u="exp(sin(x + y))"), TORUS], "exp(sin(x + y + t))",
        ETD, range(3, 5), range(5, 8), x=[0, "2*pi"], y=[0, "2*pi"], t=[0, 1],
    ),
    "heat on a square": known(
        "u_t = 0.1*lap(u)",
        [start(u="sin(pi*x)*cos(pi*y)"), {"where": ["x = 0", "x = 1"], "u": 0},
         {"where": ["y = 0", "y = 1"], "u_n": 0}],
        "sin(pi*x)*cos(pi*y)*exp(-0.2*pi^2*t)",
        RADAU, range(1, 3), range(1, 3), x=[0, 1], y=[0, 1], t=[0, 1],
    ),
    "one coordinate periodic, one between walls": known(
        "u_t + u_x = 0.1*lap(u)",
        [start(u="sin(x)*exp(y)"), RING, {"where": "y = 0", "u": "sin(x - t)"},
         {"where": "y = 1", "u_y": "e*sin(x - t)"}],
        "sin(x - t)*exp(y)",
        RADAU, range(1, 3), range(1, 3), x=[0, "2*pi"], y=[0, 1], t=[0, 0.5],
    ),
    "Poisson": known(
        "lap(u) = -2*pi^2*sin(pi*x)*sin(pi*y)", [WALLS], "sin(pi*x)*sin(pi*y)",
        NEWTON, range(1, 5), **SQUARE,
    ),
    "Helmholtz": known(
        "lap(u) + u = (1 - 17*pi^2)*sin(pi*x)*sin(4*pi*y)", [WALLS], "sin(pi*x)*sin(4*pi*y)",
        NEWTON, range(3, 7), **SQUARE,
    ),
    "clamped plate": known(
        "lap(lap(u)) = 8*pi^4*(4*cos(2*pi*x)*cos(2*pi*y) - cos(2*pi*x) - cos(2*pi*y))*2",
        [walls(u=0, u_n=0)], "(1 - cos(2*pi*x))*(1 - cos(2*pi*y))",
        NEWTON, range(1, 5), x=[0, 1], y=[0, 1],
    ),
}  # fmt: skip
