"""Data sets for the tests of operators, made without a process of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residua.operators import datasets
from residua.operators.datasets import generation

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make_data() -> Make:
    """Generate a file here: to begin another process takes longer than a small file itself."""

    def make(path: Path, family: str, resolution: int, splits: dict[str, Any], **settings: Any):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation, "_pool", _here)
            request = datasets.Request(family, resolution, settings.pop("seed", 3), settings)
            rows = {name: np.arange(*ends) for name, ends in splits.items()}
            samples = max(end for _, end in splits.values())
            return datasets.generate(request, samples, path, splits=rows)

    return make


@contextmanager
def _here(workers: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(workers) as pool:
        yield pool
