"""What differs between a processor and a GPU when a step of PyTorch is timed."""

from __future__ import annotations

import gc
from typing import Protocol

import torch

__all__ = ["Device", "Gpu", "Processor", "device_of"]


class Device(Protocol):
    """Where contenders of PyTorch compute.

    Attributes:
        torch: as torch calls it.
        launches: work is launched and waited for, so that what is launched costs time of its own.
    """

    torch: torch.device
    launches: bool

    def clear(self) -> None:
        """Free what an earlier contender of this process has left."""
        ...

    def finish(self) -> None:
        """Wait until all that was launched is done."""
        ...

    def watch(self) -> None:
        """Begin to look for the largest amount of memory in use."""
        ...

    def peak(self) -> int | None:
        """Bytes by which memory grew at most since `watch`; None where others have to look."""
        ...


class Processor:
    """Memory is the process's, which `protocol` asks the system for."""

    torch = torch.device("cpu")
    launches = False

    def clear(self) -> None:
        """See `Device`."""

    def finish(self) -> None:
        """See `Device`."""

    def watch(self) -> None:
        """See `Device`."""

    def peak(self) -> int | None:
        """See `Device`."""
        return None


class Gpu:
    """None of its lines has run on a GPU yet."""

    torch = torch.device("cuda")
    launches = True

    def clear(self) -> None:
        """See `Device`; and no TF32, which has a tenth of the digits."""
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        gc.collect()
        torch.cuda.empty_cache()

    def finish(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize()

    def watch(self) -> None:
        """See `Device`."""
        self.finish()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        """See `Device`; what tensors take, not what the allocator keeps for later."""
        self.finish()
        return torch.cuda.max_memory_allocated() - self._before


def device_of(name: str) -> Device:
    """The device called ``cpu`` or ``cuda``."""
    return {"cpu": Processor, "cuda": Gpu}[name]()
