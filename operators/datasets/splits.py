"""Which samples are for training, validation and test; and that none is in two of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError, DataError

__all__ = ["SHARES", "check_digests", "check_disjoint", "parse", "shares"]

Rows = NDArray[np.int64]

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""What a data set is divided into where the person says nothing."""


def shares(samples: int, parts: Mapping[str, float] | None = None) -> dict[str, Rows]:
    """Consecutive ranges in proportion; samples are independent, so their order means nothing."""
    parts = SHARES if parts is None else parts
    edges = np.round(np.cumsum([0.0, *parts.values()]) * samples).astype(int)
    return {
        name: np.arange(low, high, dtype=np.int64)
        for name, low, high in zip(parts, edges[:-1], edges[1:], strict=True)
    }


def parse(texts: Sequence[str], samples: int) -> dict[str, Rows]:
    """Splits from texts such as train=0:1000.

    Raises:
        ConfigurationError: a text of another form, a range outside the data, a name that comes
            twice, or two ranges that overlap.
    """
    found: dict[str, Rows] = {}
    for text in texts:
        match = re.fullmatch(r"([A-Za-z]\w*)=(\d+):(\d+)", text)
        if match is None:
            raise ConfigurationError(
                f"--split {text}: not a split", advice="write NAME=FIRST:END, as in train=0:1000"
            )
        name, first, end = match[1], int(match[2]), int(match[3])
        if name in found:
            raise ConfigurationError(f"--split {text}: '{name}' comes twice", advice="remove one")
        if not first < end <= samples:
            raise ConfigurationError(
                f"--split {text}: no such samples", advice=f"there are 0:{samples}"
            )
        found[name] = np.arange(first, end, dtype=np.int64)
    check_disjoint(found)
    return found


def check_disjoint(splits: Mapping[str, Rows]) -> None:
    """Refuse a sample in two splits.

    Raises:
        ConfigurationError: with the first such sample.
    """
    owner: dict[int, str] = {}
    for name, rows in splits.items():
        for row in rows.tolist():
            if owner.setdefault(row, name) != name:
                raise ConfigurationError(
                    f"splits '{owner[row]}' and '{name}' share sample {row}",
                    advice="give ranges that do not overlap, as in train=0:1000 test=1000:1200",
                )


def check_digests(marks: Mapping[str, Sequence[tuple[str, bytes]]]) -> None:
    """Refuse the same input in two splits, under whatever number or in whatever file.

    Args:
        marks: by split, where each sample lies and the hash of its input.

    Raises:
        DataError: with the first such pair.
    """
    owner: dict[bytes, tuple[str, str]] = {}
    for name, samples in marks.items():
        for place, mark in samples:
            other, where = owner.setdefault(mark, (name, place))
            if other != name:
                raise DataError(
                    f"{place} of split '{name}' has the same input as {where} of split '{other}'; "
                    "leave one of them out, or errors on one split say nothing about the other"
                )
