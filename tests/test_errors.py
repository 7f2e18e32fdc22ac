"""Messages name place, finding and remedy, in this order, as one line."""

import pickle

import pytest

from residua import errors
from residua.errors import ConfigurationError


def test_message_has_place_finding_and_advice() -> None:
    error = ConfigurationError(
        "", path=("solver", "windows"), found="abc", advice="write a whole number from 1 to 1000"
    )
    assert str(error) == "solver.windows: found 'abc'; write a whole number from 1 to 1000"
    placed = error.located("case.yaml", 12)
    assert str(placed).startswith("case.yaml:12: solver.windows: found 'abc'; write")
    assert error.file is None, "the original is left as it was"


def test_path_reads_like_yaml() -> None:
    error = ConfigurationError("wrong", path=("conditions", 1, "u")).under("problem")
    assert str(error) == "problem.conditions[1].u: wrong"


def test_none_can_be_found_and_long_values_are_cut() -> None:
    assert "found None" in str(ConfigurationError("", found=None))
    assert "found" not in str(ConfigurationError("nothing given"))
    assert len(str(ConfigurationError("", found="x" * 5000))) < 120


def test_survives_pickling_between_processes() -> None:
    error = ConfigurationError("wrong", path=("a", 0), found=3, line=7, file="f", column=2)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.column == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AccuracyError", 1),
        ("ConfigurationError", 2),
        ("DataError", 3),
        ("DivergedError", 4),
        ("ResourceError", 5),
        ("ResiduaError", 70),
        ("Interrupted", 130),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name)("").exit_code == code


def test_interrupted_knows_its_signal() -> None:
    assert errors.Interrupted(exit_code=143).exit_code == 143
