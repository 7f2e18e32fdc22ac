"""Loss and gradient recorded once and replayed, where launching costs more than computing.

On a GPU a step of a small network is a hundred launches of a few microseconds each. A CUDA graph
launches them all at once, but it is blind: it reads and writes the memory it was recorded on and
repeats no decision of the program. So a recording has points, weights and constants of its own,
into which those of the caller are copied when they change; parameters are changed in place by every
optimiser, and are read where they lie.

The first evaluation on a set of points is an ordinary one, for many sets are never seen again. The
second is ordinary too, and then the graph is recorded (or what has changed is copied into it),
replayed, and compared with what was just computed: nothing is replayed that has not been compared.
Weights that change with every step (attention, causality) are compared once; then they are copied.
Every `CHECK_EVERY`-th replay is compared again. Where recording fails, or results differ, ordinary
evaluation does the work from then on, and the log says so. `RESIDUA_GRAPHS=0` never records.

`CudaRecorder` has never run on a GPU. All else is tested with a recorder that runs the function
again, into the same memory as a graph would.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .points import PointSet

__all__ = ["CudaRecorder", "Outputs", "Recorder", "Replayed", "recorder_for"]

log = logging.getLogger(__name__)

SWITCH = "RESIDUA_GRAPHS"
"""Environment variable; 0 keeps to ordinary evaluation."""
CHECK_EVERY = 500
"""Replays after which one is compared again: a fifth of a per cent of the time, and no mistake that
the first comparison could not see lasts."""
WARM_UPS = 3
"""Runs before a graph is recorded, in which libraries choose and load what they need."""
KEPT = 4
"""Shapes of batches whose recordings are kept."""
TOLERANCE = 1e3
"""Machine epsilons by which a replay may differ."""

Batch: TypeAlias = "Mapping[str, PointSet]"
Outputs: TypeAlias = tuple[Tensor, Tensor]
"""Loss, shape (), and gradient, shape (P,)."""
Evaluate: TypeAlias = Callable[[Batch], Outputs]


class Recorder(Protocol):
    """Makes a function that always does the same repeatable at little cost."""

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Run a function, and remember what it does.

        Args:
            function: reads and writes memory that stays where it is; decides nothing by numbers.

        Returns:
            Does it again. What it returns lies in memory that the next call overwrites.
        """
        ...


class CudaRecorder:
    """CUDA graphs. None of its lines has run on a GPU yet.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """See `Recorder`; raises what torch raises for work that cannot be captured."""
        with torch.cuda.device(self.device):
            # On a stream of its own, as torch asks of what is differentiated in a graph.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    found = function()
            except BaseException:
                # What has been launched since must not be taken for a failure of later work.
                with contextlib.suppress(RuntimeError):
                    torch.cuda.synchronize()
                raise

        def replay() -> Any:
            graph.replay()
            return found

        return replay


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing is to be recorded."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return None
    return CudaRecorder(device)


class _State:
    """Tensors as they are now: which objects, and how often each was changed in place.

    Args:
        tensors: held, so that no other takes the place of one of them.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self.marks = [(id(tensor), tensor._version) for tensor in self.tensors]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self.marks == other.marks

    __hash__ = None  # type: ignore[assignment] - compared, never looked up


@dataclass
class _Recording:
    """A graph with the memory it works on."""

    batch: Batch
    replay: Callable[[], Outputs]
    memory: tuple[int, ...]
    places: _State
    weights: _State
    replays: int = field(default=0)
    reweighed: bool = field(default=False)
    """Other weights have been copied into it, and what it gave with them has been compared."""


class Replayed:
    """An evaluation that replays what it can.

    Args:
        evaluate: loss and gradient on a batch, by ordinary means.
        recorded: the same for being recorded: leaves nothing behind that others may write to.
        recorder: makes repeatable what is repeated.
        trained: parameters; changed in place between evaluations.
        fixed: other tensors that the evaluation reads; a recording ends when one changes.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        recorded: Evaluate,
        recorder: Recorder,
        trained: Sequence[Tensor],
        fixed: Sequence[Tensor],
    ) -> None:
        self.evaluate = evaluate
        self.recorded = recorded
        self.recorder = recorder
        self.trained = list(trained)
        self.fixed = list(fixed)
        self.given_up = ""
        self._seen: dict[tuple, _State] = {}
        self._recordings: dict[tuple, _Recording] = {}

    @property
    def status(self) -> str:
        """What is done, for records of a run."""
        if self.given_up:
            return f"no: {self.given_up}"
        return "replayed" if self._recordings else "nothing recorded yet"

    def __call__(self, batch: Batch) -> Outputs:
        """Loss and gradient on a batch; the gradient's memory is the caller's."""
        if self.given_up:
            return self.evaluate(batch)
        key = tuple((name, *map(_form, points.tensors())) for name, points in batch.items())
        places = _State(tensor for points in batch.values() for tensor in points.places())
        weights = _State(points.weights for points in batch.values())
        recording = self._recordings.get(key)
        if recording is not None and (recording.places, recording.memory) == (
            places,
            self._memory(),
        ):
            if recording.weights != weights and recording.reweighed:
                for name, points in recording.batch.items():
                    points.weights.copy_(batch[name].weights)
                recording.weights = weights
            if recording.weights == weights:
                return self._replay(recording, batch)
        if self._seen.get(key) != places:
            _keep(self._seen, key, places)
            return self.evaluate(batch)
        return self._settle(key, places, weights, batch)

    def _memory(self) -> tuple[int, ...]:
        """Where the parameters are, and where everything else is and how often it has changed."""
        places = [tensor.data_ptr() for tensor in (*self.trained, *self.fixed)]
        return (*places, *(tensor._version for tensor in self.fixed))

    def _replay(self, recording: _Recording, batch: Batch) -> Outputs:
        recording.replays += 1
        if recording.replays % CHECK_EVERY == 0:
            exact = self.evaluate(batch)
            if _finite(exact):
                self._compared(recording, exact)
            else:  # a trial of a line search went too far, and says nothing: the next is compared
                recording.replays -= 1
            return exact
        value, gradient = recording.replay()
        return value.clone(), gradient.clone()

    def _settle(self, key: tuple, places: _State, weights: _State, batch: Batch) -> Outputs:
        """Evaluate by ordinary means, and have a recording of just that from now on."""
        exact = self.evaluate(batch)
        if not _finite(exact):
            return exact  # nothing could be compared
        memory = self._memory()
        try:
            recording = self._recordings.pop(key, None)
            fits = recording is not None and recording.memory == memory
            if recording is None or not fits or not _taken_over(recording.batch, batch):
                recording = None  # its memory goes before that of the next is asked for
                own = {name: points.clone() for name, points in batch.items()}
                replay = self.recorder.record(lambda: self.recorded(own))
                recording = _Recording(own, replay, memory, places, weights)
            other = recording.weights != weights
            recording.places, recording.weights = places, weights
        except Exception as error:  # by torch, by the driver, or for want of memory
            said = str(error).strip().splitlines()
            self._give_up(f"{type(error).__name__}: {said[0] if said else ''}"[:200])
            return exact
        if self._compared(recording, exact):
            recording.reweighed |= other
            _keep(self._recordings, key, recording)
        return exact

    def _compared(self, recording: _Recording, exact: Outputs) -> bool:
        found = recording.replay()
        if torch.get_deterministic_debug_mode():
            # A resumed run evaluates here and there by ordinary means where the first has replayed.
            alike = all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
        else:
            allowed = TOLERANCE * torch.finfo(exact[1].dtype).eps
            pairs = zip(found, exact, strict=True)
            alike = all(bool((a - b).norm() <= allowed * b.norm()) for a, b in pairs)
        if not alike:
            self._give_up("a replay gave other numbers")
        return alike

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self._recordings.clear()
        self._seen.clear()
        log.warning("steps are not replayed as CUDA graphs, which is slower: %s", why)


def _finite(outputs: Outputs) -> bool:
    return all(bool(part.isfinite().all()) for part in outputs)


def _form(tensor: Tensor) -> tuple:
    return (*tensor.shape, tensor.dtype, tensor.device)


def _keep(kept: dict[tuple, Any], key: tuple, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > KEPT:
        del kept[next(iter(kept))]


def _taken_over(own: Batch, batch: Batch) -> bool:
    return all(points.take_over(batch[name]) for name, points in own.items())
