"""Euler and Maruyama's steps in compiled code, for paths without gradients."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch
from torch import Tensor

from ....engine.fused import record
from ....engine.fused.native import build
from ..stochastic.brownian import Increments
from ..stochastic.problem import Grid, StochasticProblem
from ..stochastic.steppers import EulerMaruyama
from ..terms import parameters_of
from .code import function
from .library import agree
from .prelude import LANES, prelude
from .solve import WIDEST
from .tracing import Trace, Untraceable, trace

__all__ = ["march"]

STEPS = r"""
static void gather(const real *rows, long batch, long block, int width, vec *out)
{
    for (int l = 0; l < LANES; l++) {
        const long row = block * LANES + l < batch ? block * LANES + l : batch - 1;
        for (int d = 0; d < width; d++) out[d][l] = rows[row * width + d];
    }
}

static void scatter(const vec *values, long batch, long block, int width, real *rows)
{
    for (int l = 0; l < LANES && block * LANES + l < batch; l++)
        for (int d = 0; d < width; d++) rows[(block * LANES + l) * width + d] = values[d][l];
}

/* count steps from the states (batch, D), in place; noise (count, batch, M). */
void march(long batch, int threads, long count, const double *starts, const double *lengths,
           const real *noise, const real *const *first, const real *const *second, real *states)
{
    const long blocks = (batch + LANES - 1) / LANES;
    #pragma omp parallel for num_threads(threads) if(threads > 1 && blocks > 64)
    for (long block = 0; block < blocks; block++) {
        vec y[D], f[D], g[D * COLUMNS], w[M];
        gather(states, batch, block, D, y);
        for (long k = 0; k < count; k++) {
            const vec time[1] = {SPLAT(starts[k])};
            const vec h = SPLAT(lengths[k]);
            gather(noise + k * batch * M, batch, block, M, w);
            drift(time, y, first, f);
            diffusion(time, y, second, g);
            for (int d = 0; d < D; d++) {
                vec sum = y[d] + f[d] * h;
                for (int m = 0; m < COLUMNS; m++)
                    sum += g[d * COLUMNS + m] * w[COLUMNS == 1 && M == D ? d : m];
                y[d] = sum;
            }
        }
        scatter(y, batch, block, D, states);
    }
}

void probe(long batch, const real *t, const real *states, const real *const *first,
           const real *const *second, real *slopes, real *sizes)
{
    for (long block = 0; block < (batch + LANES - 1) / LANES; block++) {
        vec y[D], f[D], g[D * COLUMNS], time[1];
        gather(states, batch, block, D, y);
        gather(t, batch, block, 1, time);
        drift(time, y, first, f);
        diffusion(time, y, second, g);
        scatter(f, batch, block, D, slopes);
        scatter(g, batch, block, D * COLUMNS, sizes);
    }
}
"""

_known: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


class _Library:
    """Drift and diffusion of an equation, compiled."""

    def __init__(self, problem: StochasticProblem) -> None:
        y, sde = problem.start.detach(), problem.sde
        dimension = y.shape[1]
        t = problem.times[:1].to(y.dtype).expand(len(y))
        with torch.no_grad():
            self.columns = 1 if sde.diffusion(t, y).dim() == 2 else problem.channels
        self.drift = trace(sde.drift, y)
        shape = (1, dimension) if self.columns == 1 and problem.channels == dimension else None
        if shape is None:
            raise Untraceable("noise of several channels runs eagerly")
        self.diffusion = trace(sde.diffusion, y)
        text = [prelude(y.dtype), f"#define D {dimension}", f"#define M {problem.channels}",
                f"#define COLUMNS {self.columns}"]  # fmt: skip
        for name, found in (("drift", self.drift), ("diffusion", self.diffusion)):
            shapes = [(1,), (1, dimension), *found.shapes]
            text.append(function(found.graph, name, shapes, ["t", "y"], ["out"], [False]))
        library = build("\n".join([*text, STEPS]))
        if library is None:
            raise Untraceable("there is no C compiler, or it failed")
        pointer, long = ctypes.c_void_p, ctypes.c_long
        library.march.argtypes = [long, ctypes.c_int, long, *[pointer] * 6]
        library.probe.argtypes = [long, *[pointer] * 6]
        library.march.restype = library.probe.restype = None
        self.library = library

    def constants(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of both fields, as they are now."""
        return _values(self.drift), _values(self.diffusion)

    def current(self, problem: StochasticProblem) -> bool:
        """Whether both fields are at the start what torch says."""
        y, sde = problem.start.detach().contiguous(), problem.sde
        t = problem.times[:1].to(y.dtype).expand(len(y)).contiguous()
        first, second = self.constants()
        slopes, sizes = torch.empty_like(y), y.new_empty(len(y), y.shape[1] * self.columns)
        self.library.probe(
            len(y), t.data_ptr(), y.data_ptr(), _pointers(first), _pointers(second),
            slopes.data_ptr(), sizes.data_ptr(),
        )  # fmt: skip
        with torch.no_grad():
            expected = sde.drift(t, y), sde.diffusion(t, y).flatten(1)
        return agree(slopes, expected[0]) and agree(sizes, expected[1])


def _values(found: Trace) -> list[Tensor]:
    return [c.detach().to(found.dtype).contiguous() for c in found.constants()]


def _pointers(tensors: list[Tensor]) -> Any:
    return (ctypes.c_void_p * max(len(tensors), 1))(*[x.data_ptr() for x in tensors])


def march(problem: StochasticProblem, grid: Grid, noise: Any) -> list[Tensor] | str:
    """States after the steps of a grid at which times lie, each (batch, d); or why there are none.

    Args:
        problem: the equation.
        grid: the steps.
        noise: the path.
    """
    reason = _unfit(problem, noise)
    if reason is not None:
        return reason
    found = _library(problem)
    if isinstance(found, str):
        return found
    y = problem.start.detach().clone().contiguous()
    first, second = found.constants()
    starts, lengths = grid.starts.contiguous(), torch.tensor(grid.lengths, dtype=torch.float64)
    states, done, block = [], 0, -1
    increments = y.new_empty(0)
    for end in grid.columns:
        while done < end:
            number, place = divmod(done, noise.size)
            if number != block:
                block, increments = number, noise.increments(number)
            count = min(end - done, len(increments) - place)
            found.library.march(
                len(y), torch.get_num_threads(), count, starts[done:].data_ptr(),
                lengths[done:].data_ptr(), increments[place:].data_ptr(), _pointers(first),
                _pointers(second), y.data_ptr(),
            )  # fmt: skip
            done += count
        states.append(y.clone())
    return states


def _unfit(problem: StochasticProblem, noise: Any) -> str | None:
    start = problem.start
    gradients = torch.is_grad_enabled() and (
        start.requires_grad or any(p.requires_grad for p in parameters_of(problem.sde))
    )
    checks = (
        (record.forbidden(), "compiled code is switched off"),
        (type(problem.stepper) is not EulerMaruyama, f"{problem.stepper!r} runs eagerly"),
        (gradients, "gradients are had eagerly"),
        (not isinstance(noise, Increments), "paths at any time run eagerly"),
        (start.device.type != "cpu", "compiled code is for processors"),
        (start.dtype not in LANES, f"states are {start.dtype}"),
        (start.shape[1] > WIDEST, f"states of more than {WIDEST} components run eagerly"),
    )
    return next((reason for wrong, reason in checks if wrong), None)


def _library(problem: StochasticProblem) -> _Library | str:
    start = problem.start
    key = (id(problem.sde.diffusion), start.shape[1], start.dtype, problem.channels)
    try:
        kept = _known.setdefault(problem.sde.drift, {})
    except TypeError:  # cannot be referred to weakly
        kept = {}
    found = kept.get(key)
    if isinstance(found, str):
        return found
    if found is None or not found.current(problem):
        try:
            found = _Library(problem)
            if not found.current(problem):
                found = "the compiled fields and torch's do not agree"
        except Untraceable as error:
            found = str(error)
        kept[key] = found
    if not isinstance(found, str):
        held = (*found.drift.held, *found.diffusion.held)
        if any(_grad(tensor) for tensor in held):
            return "gradients are had eagerly"
    return found


def _grad(tensor: Tensor) -> bool:
    """Whether a tensor that a plain function holds asks for gradients now."""
    return tensor.requires_grad and torch.is_grad_enabled()
