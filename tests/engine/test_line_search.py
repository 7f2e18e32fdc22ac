"""The line search on functions of one number, some of them hostile."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from residua.engine.optimizers.line_search import Trial, rounding, strong_wolfe


class Along:
    """A function of the distance with its slope; counts its evaluations."""

    def __init__(self, value, slope):
        self.value, self.slope, self.count = value, slope, 0

    def __call__(self, step):
        self.count += 1
        return Trial(step, self.value(step), self.slope(step))

    @property
    def origin(self):
        return Trial(0.0, self.value(0.0), self.slope(0.0))


def is_wolfe(trial, origin, c1=1e-4, c2=0.9):
    return trial.value <= origin.value + c1 * trial.step * origin.slope and abs(
        trial.slope
    ) <= c2 * abs(origin.slope)


def flat():
    """First of the functions of More and Thuente (ACM TOMS 20, 1994): minimum at sqrt(2)."""
    return Along(lambda a: -a / (a * a + 2), lambda a: (a * a - 2) / (a * a + 2) ** 2)


def steep():
    """Their second: concave, then a sharp valley at about 1.6."""
    b = 0.004
    return Along(
        lambda a: (a + b) ** 5 - 2 * (a + b) ** 4, lambda a: 5 * (a + b) ** 4 - 8 * (a + b) ** 3
    )


@pytest.mark.parametrize("function", [flat, steep], ids=lambda f: f.__name__)
@pytest.mark.parametrize("first", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("c2", [0.1, 0.9])
def test_the_functions_of_more_and_thuente(function, first, c2):
    search = function()
    trial = strong_wolfe(search, search.origin, first, c2=c2)
    assert trial is not None and is_wolfe(trial, search.origin, c2=c2)
    assert search.count <= 16


@given(st.floats(-6, 6), st.floats(-6, 6), st.floats(-3, 3), st.floats(0, 5), st.floats(0.0, 6.28))
def test_any_scale_any_first_step_and_ripples(distance, height, first, ripple, phase):
    """Rippled parabolas with their minimum at 10^distance and of depth 10^height."""
    far, deep = 10.0**distance, 10.0**height

    def value(a):
        z = a / far
        return deep * ((z - 1) ** 2 + 0.02 * ripple * math.sin(20 * z + phase))

    def slope(a):
        z = a / far
        return deep / far * (2 * (z - 1) + 0.4 * ripple * math.cos(20 * z + phase))

    search = Along(value, slope)
    if search.origin.slope > -1e-3 * deep / far:
        return
    trial = strong_wolfe(search, search.origin, far * 10.0**first)
    assert trial is not None and is_wolfe(trial, search.origin)


def test_a_parabola_is_solved_by_the_first_interpolation():
    for first in (5.0, 100.0):
        search = Along(lambda a: (a - 2) ** 2, lambda a: 2 * (a - 2))
        trial = strong_wolfe(search, search.origin, first, c2=1e-6)
        assert trial is not None
        assert trial.step == pytest.approx(2, rel=1e-12) or first == 100.0
        assert search.count <= 4


@pytest.mark.parametrize("first", [0.5, 1.0, 7.0, 1e6])
@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_a_wall_of_what_is_not_finite(first, beyond):
    """-log(1 - a) - 20 a, minimum at 0.95; nothing is defined from 1 on."""

    def value(a):
        return -math.log(1 - a) - 20 * a if a < 1 else beyond

    search = Along(value, lambda a: 1 / (1 - a) - 20 if a < 1 else math.nan)
    trial = strong_wolfe(search, search.origin, first, c2=0.5)
    assert trial is not None and is_wolfe(trial, search.origin, c2=0.5)


def test_below_rounding_the_slope_decides():
    """(a - 0.3)^2 beneath noise of a relative 1e-13: it shows in the slope, not in the value."""

    def blurred():
        return Along(
            lambda a: 1 + 1e-14 * (a - 0.3) ** 2 + (1e-13 if a else 0.0),
            lambda a: 2e-14 * (a - 0.3),
        )

    noise = rounding(torch.float64)
    for first in (1.0, 30.0, 1e-3):
        search = blurred()
        trial = strong_wolfe(search, search.origin, first, c2=0.1, noise=noise)
        assert trial is not None and trial.step == pytest.approx(0.3, abs=0.03)
    # The wrong twin: without a notion of rounding no step can be told to be lower.
    search = blurred()
    assert strong_wolfe(search, search.origin, c2=0.1, noise=0.0) is None


def test_rounding_does_not_let_a_visible_increase_pass():
    search = Along(lambda a: 1.0 + 1e-6 * a - 1e-5 * min(a, 0.0), lambda a: -1e-6)
    trial = strong_wolfe(search, search.origin, noise=rounding(torch.float64))
    assert trial is None or trial.value <= 1.0 + 1e-10


def test_a_direction_that_only_rises_gives_nothing():
    """The slope claims a descent that is not there, as a wrong gradient would."""
    search = Along(lambda a: 1.0 + a, lambda a: -1.0)
    assert strong_wolfe(search, search.origin) is None
    assert search.count <= 30


def test_what_is_lower_counts_when_the_evaluations_run_out():
    """A kink at its minimum leaves no small slope; the lowest point is still worth having."""
    search = Along(lambda a: abs(a - 0.7), lambda a: math.copysign(1.0, a - 0.7))
    trial = strong_wolfe(search, search.origin, most=20)
    assert trial is not None and trial.value < 1e-3
    assert search.count <= 20


def test_a_function_without_a_floor_ends():
    search = Along(lambda a: -a, lambda a: -1.0)
    trial = strong_wolfe(search, search.origin)
    assert trial is not None and trial.value < -1e6
