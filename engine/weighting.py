"""How the terms of a loss are weighed against each other.

Every weighting has `weights`, a mapping from the name of a loss term to its factor, and can save
and restore itself exactly. `Fixed` never changes, `GradientNorm` balances the terms, and `Causal`
adds to either of them a weight per slab of time.

Patent note on `causal_weights` and `Causal`: the University of Pennsylvania holds a patent on
causal training of physics-informed neural networks, and the authors' own code is offered for
non-commercial use only. The published equations (Wang, Sankaran, Perdikaris, CMAME 421 (2024)
116813, arXiv 2203.07404) are implemented here, not that code; this grants no right under the
patent. Check what you may do before you use it, above all commercially. It is an optional
weighting: everything else works without it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ConfigurationError, DivergedError

__all__ = [
    "EPSILONS",
    "Causal",
    "Fixed",
    "GradientNorm",
    "NtkTrace",
    "ResidualAttention",
    "Weighting",
    "causal_weights",
    "slab_means",
]

EPSILONS = (1e-2, 1e-1, 1e0, 1e1, 1e2)
"""The causality parameters of the paper, one after the other."""


class Weighting(Protocol):
    """What the training loop asks of a weighting."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Factor of each loss term by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state in plain containers and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore exactly what `state_dict` gave.

        Raises:
            ValueError: it belongs to a weighting of other terms or another schedule.
        """
        ...


class Fixed:
    """Constant weights, 1 where nothing else is said.

    Args:
        terms: name -> kind of every loss term, such as {"equation": "interior", "x = 0":
            "boundary"}.
        values: weight by name or by kind; a name goes before its kind.

    Raises:
        ConfigurationError: a key that is neither, or a weight that is negative or not finite.
    """

    def __init__(self, terms: Mapping[str, str], values: Mapping[str, float] | None = None) -> None:
        values = dict(values or {})
        known = sorted({*terms, *terms.values()})
        for key, value in values.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                advice = (
                    f"did you mean {near[0]!r}?" if near else f"write one of: {', '.join(known)}"
                )
                raise ConfigurationError(
                    "no loss term has this name or kind", path=(key,), found=key, advice=advice
                )
            if not 0.0 <= value < math.inf:
                raise ConfigurationError(
                    "", path=(key,), found=value, advice="write a weight of at least 0"
                )
        self.weights: dict[str, float] = {
            name: float(values.get(name, values.get(kind, 1.0))) for name, kind in terms.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the weights."""
        self.weights = _matching(state["weights"], self.weights)


class _Balanced:
    """Weights in inverse proportion to a size of each term.

    lambda_i = mean_j s_j / s_i, smoothed by an exponential moving average that starts from 1. What
    the size is tells the two final classes apart.

    Args:
        terms: names of the loss terms.
        decay: share of the old weight kept at an update.
        every: optimiser steps between updates, see `due`.
    """

    # A term already solved has no size to speak of: none counts as less than this share of the
    # mean, so that no weight exceeds its inverse.
    GUARD = 1e-5
    SIZE = "size"

    def __init__(self, terms: Iterable[str], decay: float = 0.9, every: int = 1000) -> None:
        if not 0.0 <= decay < 1.0 or every < 1:
            raise ValueError(f"need 0 <= decay < 1 and every >= 1, got {decay = }, {every = }")
        self.decay = decay
        self.every = every
        self.weights: dict[str, float] = dict.fromkeys(terms, 1.0)

    def due(self, step: int) -> bool:
        """Whether sizes should be measured and given to `update` at this step."""
        return step % self.every == 0

    def update(self, sizes: Mapping[str, float]) -> None:
        """Move the weights towards those that balance the sizes.

        Args:
            sizes: of each unweighted loss term. All zero: no change.

        Raises:
            DivergedError: a size is not finite; the weights are unchanged.
            ValueError: the names are not those of the terms.
        """
        norms = _matching(sizes, self.weights)
        for name, norm in norms.items():
            if not math.isfinite(norm):
                raise DivergedError(f"the {self.SIZE} of the loss term {name!r} is not finite")
        mean = math.fsum(norms.values()) / max(len(norms), 1)
        if mean == 0.0:
            return
        for name, norm in norms.items():
            balanced = mean / max(norm, self.GUARD * mean)
            self.weights[name] = self.decay * self.weights[name] + (1.0 - self.decay) * balanced

    def state_dict(self) -> dict[str, Any]:
        """The weights; `decay` and `every` come from the configuration."""
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the weights."""
        self.weights = _matching(state["weights"], self.weights)


class GradientNorm(_Balanced):
    """Weights that give every term a gradient of the same size.

    The size of a term is the norm of its gradient by the parameters.

    Source:
        Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43 (2021); Wang et al., arXiv 2308.08468.
    """

    SIZE = "gradient"


class NtkTrace(_Balanced):
    """Weights that let every term converge at the same mean rate.

    The size of a term is the mean diagonal of its neural tangent kernel, the mean over its
    residuals of the squared norm of their gradients, ``(1/n) sum_j |d r_j / d theta|^2``. It is not
    the squared norm of the gradient of a sum, in which residuals of different sign cancel.

    Source:
        Wang, Yu, Perdikaris, J. Comput. Phys. 449 (2022) 110768, with means for traces so that the
        number of points does not matter.
    """

    SIZE = "tangent kernel"


class ResidualAttention:
    """A multiplier for every point that grows where the residual stays large.

    lambda_j <- gamma lambda_j + eta |r_j| / max_k |r_k|, starting from 1; the loss of a term is the
    mean of (lambda_j r_j)^2. Multipliers stay below max(1, eta / (1 - gamma)). New points start
    from the mean of the old ones.

    Args:
        terms: names of the loss terms.
        decay: gamma.
        rate: eta.
        every: optimiser steps between updates, see `due`.

    Source:
        Anagnostopoulos, Toscano, Stergiopulos, Karniadakis, CMAME 421 (2024) 116805.
    """

    def __init__(
        self, terms: Iterable[str], decay: float = 0.999, rate: float = 0.01, every: int = 1
    ) -> None:
        if not 0.0 <= decay < 1.0 or rate <= 0.0 or every < 1:
            raise ValueError(f"need 0 <= decay < 1, rate > 0, every >= 1: {decay}, {rate}, {every}")
        self.decay, self.rate, self.every = decay, rate, every
        self.weights: dict[str, float] = dict.fromkeys(terms, 1.0)
        self.multipliers: dict[str, Tensor] = {}

    def due(self, step: int) -> bool:
        """Whether residuals should be given to `update` at this step."""
        return step % self.every == 0

    def renew(self, name: str, count: int) -> None:
        """The points of a term are other ones, `count` in number."""
        old = self.multipliers.get(name)
        if old is not None:
            self.multipliers[name] = old.mean().expand(count).clone()

    def update(self, name: str, residuals: Tensor) -> Tensor:
        """New multipliers of a term.

        Args:
            name: of the term.
            residuals: shape (n, equations); the size of a point is the norm over its equations.

        Returns:
            Shape (n,), detached.

        Raises:
            DivergedError: a residual is not finite; the multipliers are unchanged.
        """
        size = torch.linalg.vector_norm(residuals.detach(), dim=1)
        largest = size.max()
        if not bool(torch.isfinite(largest)):
            raise DivergedError(f"a residual of the loss term {name!r} is not finite")
        old = self.multipliers.get(name)
        if old is None or len(old) != len(size):
            old = torch.ones_like(size)
        share = size / largest if largest > 0 else torch.zeros_like(size)
        self.multipliers[name] = self.decay * old + self.rate * share
        return self.multipliers[name]

    def state_dict(self) -> dict[str, Any]:
        """The multipliers; the constants come from the configuration."""
        return {"multipliers": {name: m.clone() for name, m in self.multipliers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the multipliers; tensors stay on the device they come on."""
        if not set(state["multipliers"]) <= set(self.weights):
            raise ValueError("the multipliers were saved with other loss terms")
        self.multipliers = {name: m.clone() for name, m in state["multipliers"].items()}


def _matching(given: Mapping[str, float], wanted: Mapping[str, float]) -> dict[str, float]:
    if set(given) != set(wanted):
        raise ValueError(f"loss terms {sorted(given)} given where there are {sorted(wanted)}")
    return {name: float(given[name]) for name in wanted}


def causal_weights(
    slab_losses: Tensor, epsilon: float, initial_loss: Tensor | float | None = None
) -> Tensor:
    """Weights that let a slab of time count only when all before it are solved.

    w_i = exp(-epsilon * sum_{k<i} L_k): the sum excludes the slab itself, so w_0 = 1 and the first
    slab is always trained. With `initial_loss` L_ic, which precedes every slab, the sum starts
    from it: all weights, w_0 too, then stay below 1 until the initial condition is fitted. (In the
    paper's numbering the initial condition is slab 0 and has the weight 1; here it is a term of
    its own, never multiplied by these weights.)

    Args:
        slab_losses: mean squared residual of each slab in order of time, shape (slabs,). Means,
            not sums: the weights must not depend on how many points a slab holds.
        epsilon: causality parameter, >= 0, in units of 1 / loss; 0 gives ones exactly.
        initial_loss: loss of the initial condition, weight included, if it is to gate the slabs.

    Returns:
        Shape (slabs,), float64 whatever the input, detached: the weights are constants to the
        gradient.

    Source:
        Wang, Sankaran, Perdikaris, CMAME 421 (2024) 116813. See the patent note above.
    """
    return torch.exp(-epsilon * _accumulated(slab_losses, initial_loss))


def _accumulated(slab_losses: Tensor, initial_loss: Tensor | float | None) -> Tensor:
    """The loss before each slab: the exclusive cumulative sum, float64, detached."""
    losses = slab_losses.detach().to(torch.float64)
    start = torch.zeros(1, dtype=torch.float64, device=losses.device)
    if initial_loss is not None:
        start += torch.as_tensor(initial_loss).detach().to(start)
    # A few numbers; on a GPU the sum has no deterministic form and would be refused.
    return torch.cumsum(torch.cat([start, losses[:-1]]).cpu(), dim=0).to(losses.device)


def slab_means(squares: Tensor, slab_index: Tensor, slabs: int) -> Tensor:
    """Mean of the squared residuals in each slab; differentiable.

    Args:
        squares: squared residual of each point, summed over equations, shape (n,).
        slab_index: slab of each point, shape (n,), whole numbers from 0 to slabs - 1.
        slabs: number of slabs.

    Returns:
        Shape (slabs,); 0 where a slab holds no point.
    """
    count = torch.bincount(slab_index, minlength=slabs).clamp(min=1)
    sums = torch.zeros(slabs, dtype=squares.dtype, device=squares.device)
    return sums.index_add(0, slab_index, squares) / count


class Causal:
    """Causal weights of the equation's residual over slabs of time, with their annealing.

    The loss is (1/slabs) sum_i w_i L_i with L_i the mean squared residual of slab i. The weights
    are frozen between calls of `refresh`, so that a line search or a Gauss-Newton step sees one
    fixed objective. Epsilon climbs a list; a value is done with when min w > delta, that is when
    the losses before the last slab sum to less than -ln(delta)/epsilon.

    Residuals should be of order one: epsilon multiplies their squares.

    Args:
        slabs: number of slabs.
        epsilons: values of epsilon in order.
        delta: threshold of the stopping test, between 0 and 1.
        terms: weighting of the loss terms (initial, boundary, ...), reported by `weights`; None
            gives an empty mapping.

    See the patent note in the module's docstring.
    """

    def __init__(
        self,
        slabs: int,
        epsilons: Sequence[float] = EPSILONS,
        delta: float = 0.99,
        terms: Weighting | None = None,
    ) -> None:
        if slabs < 1:
            raise ConfigurationError("", path=("slabs",), found=slabs, advice="write at least 1")
        if not epsilons or not all(0.0 <= epsilon < math.inf for epsilon in epsilons):
            raise ConfigurationError(
                "",
                path=("epsilons",),
                found=list(epsilons),
                advice="write a list of numbers of at least 0",
            )
        if not 0.0 < delta < 1.0:
            raise ConfigurationError(
                "", path=("delta",), found=delta, advice="write a number between 0 and 1"
            )
        self.slabs = slabs
        self.epsilons = tuple(float(epsilon) for epsilon in epsilons)
        self.delta = float(delta)
        self.terms = terms
        self.stage = 0
        self._before: Tensor | None = None  # loss before each slab at the last refresh

    @property
    def weights(self) -> Mapping[str, float]:
        """Factor of each loss term by name."""
        return {} if self.terms is None else self.terms.weights

    @property
    def epsilon(self) -> float:
        """The causality parameter of the present stage."""
        return self.epsilons[self.stage]

    @property
    def slab_weights(self) -> Tensor:
        """The frozen weights, shape (slabs,), float64, detached.

        Raises:
            RuntimeError: before the first `refresh` there are none.
        """
        if self._before is None:
            raise RuntimeError("causal weights are known only after the first refresh")
        return torch.exp(-self.epsilon * self._before)

    def refresh(self, slab_losses: Tensor, initial_loss: Tensor | float | None = None) -> Tensor:
        """Take new weights from the present losses; see `causal_weights`.

        Returns:
            The weights, shape (slabs,).

        Raises:
            DivergedError: a loss is not finite; the weights are unchanged.
            ValueError: not one loss per slab.
        """
        if slab_losses.shape != (self.slabs,):
            raise ValueError(f"{self.slabs} slab losses expected, got {tuple(slab_losses.shape)}")
        before = _accumulated(slab_losses, initial_loss)
        if not bool(torch.isfinite(before).all() & torch.isfinite(slab_losses[-1])):
            raise DivergedError("the loss of a slab of time, or of the initial data, is not finite")
        self._before = before
        return self.slab_weights

    def loss(self, slab_losses: Tensor) -> Tensor:
        """(1/slabs) sum_i w_i L_i with the frozen weights, in the dtype of `slab_losses`."""
        return (self.slab_weights.to(slab_losses) * slab_losses).mean()

    def row_weights(
        self,
        slab_index: Tensor,
        floor: float = 0.0,
    ) -> Tensor:
        """Factors of residual and Jacobian rows that turn `loss` into a plain sum of squares.

        sum_j (s_j r_j)^2 = (1/slabs) sum_i w_i mean_{j in slab i} r_j^2, hence
        s_j = sqrt(w_i / (slabs * points in slab i)).

        Args:
            slab_index: slab of each point, shape (n,).
            floor: least w_i.

        Returns:
            Shape (n,), float64, detached.

        Raises:
            RuntimeError: before the first `refresh`.
            ValueError: an index outside 0 to slabs - 1.
        """
        count = torch.bincount(slab_index, minlength=self.slabs)  # refuses negative numbers itself
        if len(count) > self.slabs:
            raise ValueError(f"slab {len(count) - 1} of {self.slabs}: slabs are counted from 0")
        weights = self.slab_weights.clamp(min=floor).to(count.device)
        return torch.sqrt(weights / (self.slabs * count.clamp(min=1)))[slab_index]

    @property
    def settled(self) -> bool:
        """The stopping test of the present epsilon: min w > delta."""
        return self._before is not None and bool(self.slab_weights.min() > self.delta)

    @property
    def front(self) -> int:
        """Number of slabs with w > delta, the leading ones: how far in time training has come."""
        if self._before is None:
            return 0
        return int((self.slab_weights > self.delta).sum())

    def advance(self) -> bool:
        """Go to the next epsilon, whose weights follow from the same losses.

        Returns:
            False if there is none: the schedule is finished, and the stage stays the last.
        """
        if self.stage + 1 == len(self.epsilons):
            return False
        self.stage += 1
        return True

    def report(self) -> dict[str, float]:
        """What the log shows: epsilon, its stage, min w and the causal front."""
        least = 0.0 if self._before is None else float(self.slab_weights.min())
        return {
            "epsilon": self.epsilon,
            "stage": self.stage,
            "min_weight": least,
            "front": self.front,
        }

    def state_dict(self) -> dict[str, Any]:
        """Stage and losses, from which the weights follow exactly, and the state of `terms`."""
        return {
            "slabs": self.slabs,
            "epsilons": list(self.epsilons),
            "stage": self.stage,
            "before": None if self._before is None else self._before.clone(),
            "terms": None if self.terms is None else self.terms.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore stage and weights; tensors stay on the device they come on.

        Raises:
            ValueError: saved with other slabs, epsilons or terms.
        """
        if state["slabs"] != self.slabs or tuple(state["epsilons"]) != self.epsilons:
            raise ValueError("the causal weights were saved with other slabs or epsilons")
        if (state["terms"] is None) != (self.terms is None):
            raise ValueError("the causal weights were saved with another weighting of the terms")
        if self.terms is not None:
            self.terms.load_state_dict(state["terms"])
        self.stage = int(state["stage"])
        before = state["before"]
        self._before = None if before is None else before.clone()
