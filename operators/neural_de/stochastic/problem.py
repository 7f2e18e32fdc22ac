"""What is to be integrated, checked, and the grid of fixed steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..terms import SDE
from .brownian import Counted, Increments, Noise, Plain
from .calculus import check_diagonal, converted
from .interval import BrownianInterval, BrownianTree
from .steppers import StochasticStepper

__all__ = ["Grid", "Source", "StochasticProblem", "noise_over"]

Source = int | Counted | Plain | BrownianInterval | BrownianTree | None

_ROWS = 256
"""Times that are turned into views at once."""


@dataclass(frozen=True)
class Grid:
    """Steps of fixed length, as long as asked for or a little shorter, that end at all times.

    Attributes:
        starts: shape (steps,), float64, on the CPU.
        lengths: of the steps, signed.
        columns: number of the step after which each time but the first is reached.
    """

    starts: Tensor
    lengths: list[float]
    columns: list[int]

    @classmethod
    def over(cls, times: Tensor, step: float) -> Grid:
        """The grid for times (n,), float64."""
        times = times.cpu()
        gaps = times.diff()
        # A gap that is a whole number of steps to rounding has that many.
        counts = (gaps.abs() / step - 1e-9).ceil().clamp(min=1).long()
        lengths = (gaps / counts).repeat_interleave(counts)
        first = times[:-1].repeat_interleave(counts)
        ends = counts.cumsum(0)
        place = torch.arange(len(lengths)) - (ends - counts).repeat_interleave(counts)
        return cls(first + place * lengths, lengths.tolist(), ends.tolist())

    def __len__(self) -> int:
        return len(self.lengths)

    def times(self, like: Tensor, backwards: bool = False) -> Iterator[Tensor]:
        """Starts of the steps, each (batch,) in the dtype and on the device of `like`."""
        rows = self.starts.flip(0) if backwards else self.starts
        for block in rows.to(like.device, like.dtype).split(_ROWS):
            yield from block[:, None].expand(-1, len(like)).unbind(0)


@dataclass
class StochasticProblem:
    """Arguments of `integrate_sde`, checked.

    Attributes:
        sde: in the calculus of the stepper.
        start: shape (batch, d).
        times: shape (n,), float64.
        stepper: rule of a step.
        channels: Brownian motions of a sample.
    """

    sde: SDE
    start: Tensor
    times: Tensor
    stepper: StochasticStepper
    convert: bool
    channels: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sde, SDE):
            raise ConfigurationError(
                "What is integrated is a stochastic equation.",
                found=self.sde,
                advice="write SDE(drift, diffusion), or call integrate for an ordinary one",
            )
        self.sde = self._calculus()
        backward = float(self.times[-1]) < float(self.times[0])
        if backward and self.sde.calculus == "ito" and self.sde.noise != "additive":
            raise ConfigurationError(
                "An Ito integral has a direction, so that it is not integrated backward in time.",
                advice="let the times rise, or state the equation in the sense of Stratonovich",
            )
        if self.sde.noise not in self.stepper.orders:
            raise ConfigurationError(
                f"{self.stepper!r} is not for {self.sde.noise} noise.",
                found=self.sde.noise,
                advice=f"choose a stepper for {self.sde.noise} noise, such as "
                + ("EulerMaruyama()" if self.sde.calculus == "ito" else "Heun()"),
            )
        self._shapes()

    def _calculus(self) -> SDE:
        wanted, given = self.stepper.calculus, self.sde.calculus
        # For additive noise the calculi agree.
        if wanted is None or wanted == given or self.sde.noise == "additive":
            return self.sde
        if self.convert:
            return converted(self.sde, wanted)
        others = {
            "ito": "EulerMaruyama(), Milstein() or SRIW1()",
            "stratonovich": "EulerHeun(), Heun(), ReversibleHeun() or Milstein()",
        }
        raise ConfigurationError(
            f"{self.stepper!r} is for equations in the sense of {wanted.capitalize()}; this one "
            f"is meant in that of {given.capitalize()}.",
            advice=f"choose {others[given]}, or convert=True to have the drift corrected",
        )

    def _shapes(self) -> None:
        """Look at what the fields give at the start."""
        sde, y = self.sde, self.start.detach()
        t = self.times[:1].to(y.dtype).expand(len(y))
        with torch.no_grad():
            f, g = sde.drift(t, y), sde.diffusion(t, y)
        if f.shape != y.shape:
            raise ConfigurationError(
                "The drift does not have the shape of the state.",
                found=tuple(f.shape),
                advice=f"return {tuple(y.shape)} for a state of that shape",
            )
        self.channels = sde.channels or y.shape[1]
        plain = g.shape == y.shape and sde.noise in ("diagonal", "additive")
        if plain and sde.noise == "additive":
            plain = self.channels == y.shape[1]
        if not plain and (sde.noise == "diagonal" or g.shape != (*y.shape, self.channels)):
            shape = y.shape if sde.noise == "diagonal" else (*y.shape, self.channels)
            raise ConfigurationError(
                f"The diffusion does not have the shape of {sde.noise} noise.",
                found=tuple(g.shape),
                advice=f"return {tuple(shape)} for a state of shape {tuple(y.shape)}",
            )
        if self.stepper.derivative and sde.noise == "diagonal":
            check_diagonal(sde, t, y)

    @property
    def area(self) -> bool:
        """Whether Levy areas between channels are needed."""
        return self.stepper.area and self.sde.noise == "general"


def noise_over(problem: StochasticProblem, grid: Grid, source: Source) -> Noise:
    """The Brownian path over a grid.

    Raises:
        ConfigurationError: the path has not what the stepper needs.
    """
    if source is None:
        source = Plain(int(torch.randint(2**62, (1,)).item()))
    if isinstance(source, int):
        source = Counted(source)
    if isinstance(source, (Counted, Plain)):
        lengths = torch.tensor(grid.lengths, dtype=torch.float64)
        levy = problem.stepper.levy
        return Increments(source, lengths, problem.start, problem.channels, levy, problem.area)
    if not hasattr(source, "draw"):
        raise ConfigurationError(
            "Noise is a seed or a Brownian path.", found=source, advice="write noise=1"
        )
    if problem.area:
        raise ConfigurationError(
            f"{problem.stepper!r} needs Levy areas between channels, which this path has not.",
            advice="give a seed, or choose Heun() or EulerMaruyama()",
        )
    return source
