"""The session of every test: one thread, no network, no window, global state checked."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

# Before NumPy or torch is imported anywhere: several threads on small arrays cost more than they
# bring, and sums taken in another order differ in the last digits.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections; nothing in the suite may need one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):
            raise AssertionError(f"a test tried to reach the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _torch_state() -> dict[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_dtype"):
        return None
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients on": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that changes a global setting or the folder and does not put it back."""
    folder, before = os.getcwd(), _torch_state()
    yield
    assert os.getcwd() == folder, "the working folder was changed"
    if before is not None:
        assert _torch_state() == before, "a global setting of torch was changed"
    figures = sys.modules.get("matplotlib.pyplot")
    assert figures is None or not figures.get_fignums(), "a figure was left open"


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed stream of random numbers."""
    import numpy as np

    return np.random.default_rng(20260101)
