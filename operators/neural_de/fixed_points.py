"""Fixed points and steady states, differentiated by the implicit function theorem.

``z = f(z)`` is solved without a graph. At the solution, with J = df/dz there, a gradient g of the
loss by z becomes the solution of ``u = J^T u + g``, and u is what f's own backward pass is given:
memory does not grow with the iterations, and the gradient does not depend on how z was found. The
second equation is again one of a fixed point and is solved in the same way as the first.

Sources: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019; Walker and Ni, "Anderson
acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011); Kelley and Keyes,
"Convergence analysis of pseudo-transient continuation", SIAM J. Numer. Anal. 35 (1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import ConfigurationError
from .newton import jacobian
from .terms import Term

__all__ = ["Equilibrium", "FixedPointOptions", "fixed_point", "steady_state"]

Map: TypeAlias = Callable[[Tensor], Tensor]
Method: TypeAlias = Literal["anderson", "newton", "transient", "iteration"]
METHODS = ("anderson", "newton", "transient", "iteration")


@dataclass(frozen=True)
class FixedPointOptions:
    """How a fixed point is sought.

    Attributes:
        method: "iteration", z <- f(z); "anderson", the same accelerated; "newton", with the
            Jacobian of every row and steps halved where the residual grows; "transient", follows
            dz/dt = f(z) - z by implicit steps that grow as it comes to rest, so that it ends where
            the flow ends.
        tolerance: of the residual |f(z) - z|, relative to 1 + |z|, root mean squares of a row.
        limit: iterations.
        memory: earlier iterates that Anderson's method combines.
        damping: fraction of a step that is taken, of "anderson" and "iteration".
    """

    method: Method = "anderson"
    tolerance: float = 1e-6
    limit: int = 200
    memory: int = 5
    damping: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigurationError(
                "Unknown method for a fixed point.",
                found=self.method,
                advice=f"write one of {', '.join(METHODS)}",
            )
        if not self.tolerance > 0:
            raise ConfigurationError(
                "The tolerance of a fixed point is positive.", found=self.tolerance
            )
        if self.limit < 1 or self.memory < 1:
            raise ConfigurationError(
                "A fixed point needs at least one iteration, and one iterate to remember.",
                found=(self.limit, self.memory),
            )
        if not 0 < self.damping <= 1:
            raise ConfigurationError(
                "Damping is the fraction of a step that is taken.",
                found=self.damping,
                advice="give a number above 0, at most 1",
            )


@dataclass
class Equilibrium:
    """What was found.

    Attributes:
        state: as the start; differentiable by all that f depends on. Where it did not converge, the
            last iterate, whose gradient is not that of a fixed point.
        residual: shape (batch,), relative as in the tolerance.
        iterations: shape (batch,), int64.
        converged: shape (batch,), bool.
    """

    state: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


def fixed_point(
    field: Map,
    start: Tensor,
    method: Method = "anderson",
    tolerance: float | None = None,
    *,
    limit: int = 200,
    memory: int = 5,
    damping: float = 1.0,
    backward: FixedPointOptions | None = None,
) -> Equilibrium:
    """Solve z = field(z) for every row of a batch.

    Args:
        field: of states shaped as the start; rows do not influence each other.
        start: shape (batch, ...). No gradient flows to it: a fixed point does not depend on it.
        method: see `FixedPointOptions`.
        tolerance: see there; None is 1e-6 in float32 and 1e-10 in float64.
        limit: see there.
        memory: see there.
        damping: see there.
        backward: how the equation of the gradient is solved; None means like the state.

    Raises:
        ConfigurationError: an option makes no sense.
    """
    if tolerance is None:
        tolerance = 1e-10 if start.dtype == torch.float64 else 1e-6
    options = FixedPointOptions(method, tolerance, limit, memory, damping)
    shape = start.shape

    def flat(z: Tensor) -> Tensor:
        return field(z.view(shape)).reshape(len(z), -1)

    with torch.no_grad():
        found = _solved(flat, start.detach().reshape(len(start), -1), options)
    state = found.state
    if torch.is_grad_enabled():
        value = flat(state)
        if value.requires_grad:
            state = _Implicit.apply(value, state, flat, backward or options)
    return replace(found, state=state.view(shape))  # type: ignore[union-attr]


def steady_state(
    ode: Term,
    start: Tensor,
    *,
    time: float = 0.0,
    method: Method = "transient",
    tolerance: float | None = None,
    step: float = 1.0,
    limit: int = 200,
    memory: int = 5,
) -> Equilibrium:
    """A state at which an equation rests: f(time, y) = 0.

    Args:
        ode: its right-hand side; its Jacobian at the solution must be regular, which conserved
            quantities exclude.
        start: shape (batch, d).
        time: at which the field is frozen, shape () or (batch,).
        method: "transient" ends in the state that the flow from the start tends to, if its steps
            resolve it; "newton" in any.
            "anderson" and "iteration" go by explicit steps y + step f(y).
        tolerance: of |step f(y)|, relative to 1 + |y|; None is 1e-6 in float32, 1e-10 in float64.
        step: unit of time in which the residual is measured, positive.
        limit: iterations.
        memory: iterates that Anderson's method combines.

    Returns:
        the state, differentiable by the parameters of the field.

    Raises:
        ConfigurationError: an option makes no sense.
    """
    if not step > 0:
        raise ConfigurationError("A step is a positive length of time.", found=step)
    now = torch.as_tensor(time, dtype=start.dtype, device=start.device).expand(len(start))
    return fixed_point(
        lambda y: y + step * ode(now, y),
        start,
        method,
        tolerance,
        limit=limit,
        memory=memory,
    )


class _Implicit(torch.autograd.Function):
    """The fixed point as a function of the value of the field at it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, state: Tensor, field: Map, how: Any) -> Tensor:
        ctx.field, ctx.how = field, how
        ctx.save_for_backward(state)
        return state.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (state,) = ctx.saved_tensors
        if ctx.how.method in ("newton", "transient"):
            found = jacobian(lambda _, z: ctx.field(z), state[:, 0], state)
            identity = torch.eye(state.shape[1], dtype=state.dtype, device=state.device)
            back = torch.linalg.solve_ex((identity - found).mT, gradients[0][..., None])[0]
            return back[..., 0], None, None, None
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            value = ctx.field(leaf)

        def transposed(u: Tensor) -> Tensor:
            product = torch.autograd.grad(value, leaf, u, retain_graph=True)[0]
            return product + gradients[0]

        # Gradients have any size: the tolerance is to be relative to theirs.
        size = _norm(gradients[0])[:, None]
        unit = torch.where(size > 0, size, 1.0)
        scaled = _solved(
            lambda u: transposed(u * unit) / unit, gradients[0] / unit, replace(ctx.how)
        )
        return scaled.state * unit, None, None, None


@dataclass
class _Run:
    """An iteration under way; rows that have converged, or are lost, stay as they are."""

    state: Tensor
    value: Tensor
    residual: Tensor
    iterations: Tensor
    running: Tensor


def _norm(rows: Tensor) -> Tensor:
    """Root mean square of each row (batch, n), shape (batch,)."""
    return rows.square().mean(1).sqrt()


def _residual(state: Tensor, value: Tensor) -> Tensor:
    return _norm(value - state) / (1 + _norm(state))


def _solved(field: Map, start: Tensor, options: FixedPointOptions) -> Equilibrium:
    """Iterate for states (batch, n)."""
    value = field(start)
    residual = _residual(start, value)
    count = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    run = _Run(start, value, residual, count, residual > options.tolerance)
    propose = _PROPOSALS[options.method](field, options)
    for _ in range(options.limit):
        # NaN compares false, so that lost rows stop as well.
        if not bool(run.running.any()):
            break
        state = torch.where(run.running[:, None], propose(run), run.state)
        value = field(state)
        run.value = torch.where(run.running[:, None], value, run.value)
        run.state = state
        run.residual = _residual(state, run.value)
        run.iterations = run.iterations + run.running
        run.running = run.residual > options.tolerance
    return Equilibrium(run.state, run.residual, run.iterations, run.residual <= options.tolerance)


class _Iteration:
    """z <- z + damping (f(z) - z)."""

    def __init__(self, field: Map, options: FixedPointOptions) -> None:
        self.damping = options.damping

    def __call__(self, run: _Run) -> Tensor:
        return torch.lerp(run.state, run.value, self.damping)


class _Anderson:
    """Of the last iterates, the affine combination whose residuals cancel best.

    In the form of differences (Walker and Ni, equation 2.2), solved by normal equations that are
    scaled row by row and regularised at the level of rounding.
    """

    def __init__(self, field: Map, options: FixedPointOptions) -> None:
        self.damping = options.damping
        self.memory = options.memory
        self.states: list[Tensor] = []
        self.steps: list[Tensor] = []

    def __call__(self, run: _Run) -> Tensor:
        step = run.value - run.state
        self.states = [*self.states, run.state][-self.memory - 1 :]
        self.steps = [*self.steps, step][-self.memory - 1 :]
        plain = run.state + self.damping * step
        if len(self.states) == 1:
            return plain
        moved = torch.stack(self.states, 1).diff(dim=1)
        changed = torch.stack(self.steps, 1).diff(dim=1)
        length = torch.linalg.vector_norm(changed, dim=2, keepdim=True)
        scale = torch.where(length > 0, length, 1.0)
        moved, changed = moved / scale, changed / scale
        gram = changed @ changed.mT
        rounding = 10 * torch.finfo(step.dtype).eps
        ridge = rounding * torch.eye(gram.shape[1], dtype=step.dtype, device=step.device)
        right = changed @ step[..., None]
        weights = torch.linalg.solve_ex(gram + ridge, right)[0]
        correction = ((moved + self.damping * changed).mT @ weights)[..., 0]
        mixed = plain - correction
        return torch.where(torch.isfinite(mixed).all(1, keepdim=True), mixed, plain)


class _Newton:
    """z <- z + (I - J)^-1 (f(z) - z), with steps halved until the residual falls."""

    halvings = 10

    def __init__(self, field: Map, options: FixedPointOptions) -> None:
        self.field = field

    def direction(self, run: _Run, shift: Tensor) -> Tensor:
        """(I + shift - J)^-1 (f(z) - z), shape (batch, n); shift (batch,)."""
        found = jacobian(lambda _, z: self.field(z), run.state[:, 0], run.state)
        identity = torch.eye(found.shape[1], dtype=found.dtype, device=found.device)
        system = (1 + shift)[:, None, None] * identity - found
        return torch.linalg.solve_ex(system, (run.value - run.state)[..., None])[0][..., 0]

    def __call__(self, run: _Run) -> Tensor:
        step = self.direction(run, torch.zeros_like(run.residual))
        before = _norm(run.value - run.state)
        state = run.state + step
        for _ in range(self.halvings):
            after = _norm(self.field(state) - state)
            worse = run.running & ~(after < before)
            if not bool(worse.any()):
                break
            step = torch.where(worse[:, None], step / 2, step)
            state = run.state + step
        return state


class _Transient(_Newton):
    """Implicit Euler steps of dz/dt = f(z) - z, longer as the residual falls.

    The step is h_0 |r_0| / |r| ("switched evolution relaxation"), but never less than h_0: on the
    way out of an unstable state the residual grows. From 1e8 on it is Newton's.
    """

    first = 0.1

    def __init__(self, field: Map, options: FixedPointOptions) -> None:
        super().__init__(field, options)
        self.step: Tensor | None = None
        self.before: Tensor | None = None

    def __call__(self, run: _Run) -> Tensor:
        size = _norm(run.value - run.state)
        if self.step is None or self.before is None:
            self.step = torch.full_like(size, self.first)
        else:
            ratio = (self.before / size).clamp(0.1, 10.0)
            ratio = torch.where(torch.isfinite(ratio), ratio, 0.1)
            self.step = (self.step * ratio).clamp(min=self.first)
        self.before = size
        shift = torch.where(self.step < 1e8, 1 / self.step, 0.0)
        return run.state + self.direction(run, shift)


_PROPOSALS: dict[str, type[_Iteration] | type[_Anderson] | type[_Newton]] = {
    "iteration": _Iteration,
    "anderson": _Anderson,
    "newton": _Newton,
    "transient": _Transient,
}
