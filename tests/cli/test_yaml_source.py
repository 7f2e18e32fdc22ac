"""The strict reader against the rules of YAML 1.2, and its writer against the reader."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.errors import ConfigurationError
from residua.yaml_source import dump, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("1e+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.0", -0.0),
        ("12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("0", 0),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("0.01/pi", "0.01/pi"),
        ("${HOME}", "${HOME}"),
        ("'010'", "010"),
        ("'1e-3'", "1e-3"),
        ("= x", "= x"),
    ],
)
def test_plain_scalars(text, value):
    read = load(f"a: {text}").data["a"]
    assert read == value and type(read) is type(value)


def test_it_differs_from_pyyaml_where_pyyaml_is_wrong():
    """The wrong twin: PyYAML itself fails the table above."""
    wrong = {"1e-3": "1e-3", "no": False, "1:30": 90, "010": 8}
    for text, value in wrong.items():
        assert yaml.safe_load(f"a: {text}")["a"] == value
    with pytest.raises(ConfigurationError, match="leading zero"):
        load("a: 010")


def test_nan_is_read_as_nan():
    assert math.isnan(load("a: .nan").data["a"])


TEXT = """\
# a comment
a: 1
b:
  c: [10,
      20]
  "d e":
    - {f: 1}
    - g:
        h: |
          two
          lines
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("b",), 3),
        (("b", "c"), 4),
        (("b", "c", 1), 5),
        (("b", "d e", 0, "f"), 7),
        (("b", "d e", 1, "g", "h"), 9),
        (("b", "d e", 5), 6),
        (("nothing",), 2),
    ],
)
def test_lines(path, line):
    assert load(TEXT).line(path) == line


def test_a_duplicate_key_names_both_lines_wherever_it_stands():
    with pytest.raises(ConfigurationError) as caught:
        load("a:\n  b: 1\n  c: 2\n  b: 3\n", name="case.yaml")
    assert str(caught.value).startswith("case.yaml:4: a.b: ")
    assert "lines 2 and 4" in str(caught.value)
    assert load("a: {b: 1}\nc: {b: 1}").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_an_escape_does_not_smuggle_in_what_is_refused_in_the_open():
    assert load(r'a: "\u00e9\n"').data == {"a": "é\n"}
    for escape in (r"\u202e", r"\0", r"\x1b"):
        with pytest.raises(ConfigurationError, match="control character"):
            load(f'a: "{escape}"')


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.sampled_from(
        [
            "1e-3",
            "010",
            "0o17",
            "no",
            "null",
            "~",
            "<<",
            ".inf",
            "- x",
            "a: b",
            "#",
            "*a",
            "&a",
            "!t",
            "x, y",
            "08",
            "1.",
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text("abc:#-[]{}\"' 0123.", min_size=1, max_size=6), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_what_is_written_is_read_back(value):
    assert load(dump({"a": value})).data == {"a": value}


def test_pyyaml_alone_would_not_be_read_back():
    """The wrong twin: the plain writer leaves 1e-3 unquoted, a number by YAML 1.2."""
    assert load(yaml.safe_dump({"a": "1e-3"})).data != {"a": "1e-3"}


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abc 01:-#\n\t[]{},&*!|>'\"%@`?~."), max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        load(text)
    except ConfigurationError as error:
        assert error.file == "text"
