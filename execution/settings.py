"""Device, threads and precision of a run, and whether it reached what was asked for."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping

import torch

from ..errors import AccuracyError, ConfigurationError
from .options import RunOptions

__all__ = ["device_of", "missed", "settings"]

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def device_of(wanted: str) -> torch.device:
    """The device that `run.device` asks for.

    Raises:
        ConfigurationError: it is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "",
            path=("run", "device"),
            found="cuda",
            advice="there is no CUDA device here; write auto or cpu",
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


@contextlib.contextmanager
def settings(run: RunOptions, device: torch.device) -> Iterator[None]:
    """Threads, determinism and full precision for a run; what was set before comes back after it.

    TF32 is never used: residuals need every bit of their format.
    """
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    threads = torch.get_num_threads()
    # Not use_deterministic_algorithms, which is the same but loads the compiler, for a second.
    deterministic = torch.get_deterministic_debug_mode()
    workspace = os.environ.get(CUBLAS)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        torch.set_deterministic_debug_mode("error")
        if device.type == "cuda" and workspace is None:
            # Without it cuBLAS may add in another order from one call to the next.
            os.environ[CUBLAS] = ":4096:8"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        if workspace is None:
            os.environ.pop(CUBLAS, None)


def missed(wanted: float | None, errors: Mapping[str, float]) -> AccuracyError | None:
    """The error to raise where the accuracy asked for was not reached.

    Args:
        wanted: relative L2 error; None if nothing was asked for.
        errors: relative L2 error by field.
    """
    if wanted is None:
        return None
    if not errors:
        return AccuracyError(f"the accuracy asked for, {wanted:.1e}, cannot be told: no reference")
    name, worst = max(errors.items(), key=lambda item: (not math.isfinite(item[1]), item[1]))
    if worst <= wanted:
        return None
    return AccuracyError(
        f"the accuracy asked for, {wanted:.1e}, was missed: relative L2 error of {name} {worst:.1e}"
    )
