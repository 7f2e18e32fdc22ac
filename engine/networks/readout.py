"""A field given along characteristics, read at positions: u(x, t) = w(X(x, t), t).

The label X of a position solves ``X + d(X, t) = x - V (t - t0)``. In one space coordinate it is
bracketed and found by Newton steps that fall back on bisection, in two by damped Newton steps that
fall back on following the path from where the labels started. Derivatives come from the same
equation solved in the Taylor algebra: no interpolation anywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..taylor import JetAlgebra, MultiIndex, algebra_for
from .field import Context, Field

MOST_STEPS = 100
FEW_STEPS = 8
MOST_WIDENINGS = 64
HALVINGS = 12
LEGS = (8, 64)
"""Steps in time in which a path is followed where Newton's method from its end does not converge"""
TABLE = 512
"""Cells of a table of positions at one moment; used where there are more points than entries."""


Miss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""How far labels of some points are from their aims, and the slope of that."""


class Readout(Field):
    """States of a label field at positions.

    Args:
        field: of labels and time to (states, displacements).
        bounds: (low, high) of every coordinate.
        space: axes of the space coordinates.
        time: axis of time.
        periodic: space axes that are periodic.
        drift: V by space coordinate.
        start: t0, from which the drift is counted.
        since: the moment at which displacements of this field are zero.
        at_rest: append zero displacements, as the state that a next window of labels starts from.
        means: added to the states; none where labels are given out anew.
        speeds: in place of the states give the velocities of the paths, in the drift's frame.
    """

    def __init__(
        self,
        field: Field,
        bounds: Sequence[tuple[float, float]],
        *,
        space: Sequence[int],
        time: int,
        periodic: Sequence[int],
        drift: Sequence[float],
        start: float,
        since: float,
        at_rest: bool = False,
        speeds: bool = False,
        means: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.field = field
        self.bounds = [(float(low), float(high)) for low, high in bounds]
        self.space, self.time = tuple(space), time
        self.periodic = frozenset(periodic)
        self.drift, self.start, self.since = tuple(drift), start, since
        self.at_rest, self.speeds, self.means = at_rest, speeds, tuple(means)
        units = [tuple(int(i == a) for i in range(len(bounds))) for a in self.space]
        self._slopes = algebra_for(units, len(bounds))
        self._units = units

    def jet(self, points: Tensor, algebra: JetAlgebra, context: Context | None = None) -> Tensor:
        """See `Field.jet`."""
        with torch.no_grad():
            labels = self.labels(points)
            plain = not (algebra.order or self.speeds)
            found = self._values(labels) if plain else self._inverted(labels, algebra)
        if any(self.means):
            found = torch.cat([found[:1] + found.new_tensor(self.means), found[1:]])
        if self.at_rest:
            zeros = found.new_zeros((*found.shape[:2], len(self.space)))
            found = torch.cat([found, zeros], dim=2)
        return found

    def labels(self, points: Tensor) -> Tensor:
        """Labels (with their time) of the paths that are at some positions.

        Args:
            points: positions and times, shape (n, coordinates).

        Returns:
            Same shape; periodic coordinates inside the bounds.
        """
        aims = self._moving(points)
        with torch.no_grad():
            found = self._bracketed(aims) if len(self.space) == 1 else self._followed(aims)
        return self._wrapped(found)

    def misses(self, points: Tensor) -> Tensor:
        """How far the paths of the labels found are from some positions, shape (n,).

        More than rounding where no path gets to a position: its values are a neighbour's.
        """
        aims, space = self._moving(points), list(self.space)
        with torch.no_grad():
            labels = self.labels(points)
            apart = labels[:, space] + self._displaced(labels)[0] - aims[:, space]
        for number, axis in enumerate(self.space):
            if axis in self.periodic:
                length = self.bounds[axis][1] - self.bounds[axis][0]
                apart[:, number] -= length * torch.round(apart[:, number] / length)
        return apart.norm(dim=1)

    def jacobian(self, labels: Tensor) -> Tensor:
        """J = det dx/dX at labels, shape (n,)."""
        with torch.no_grad():
            return torch.linalg.det(self._displaced(labels)[1])

    def _values(self, labels: Tensor) -> Tensor:
        return self.field(labels)[None, :, : -len(self.space)]

    def _moving(self, points: Tensor) -> Tensor:
        """Positions in the frame that moves with the drift."""
        aims = points.clone()
        elapsed = points[:, self.time] - self.start
        for axis, speed in zip(self.space, self.drift, strict=True):
            if speed:
                aims[:, axis] -= speed * elapsed
        return self._wrapped(aims)

    def _wrapped(self, points: Tensor) -> Tensor:
        """The same points, periodic coordinates inside the bounds, none beyond a wall."""
        points = points.clone()
        for axis in self.space:
            low, high = self.bounds[axis]
            if axis in self.periodic:
                points[:, axis] = low + torch.remainder(points[:, axis] - low, high - low)
            else:
                points[:, axis] = points[:, axis].clamp(low, high)
        return points

    def _displaced(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements (n, d) and position gradients F (n, d, d) at labels."""
        bundle = self.field.jet(self._wrapped(labels), self._slopes)
        d = len(self.space)
        by_axis = [self._slopes.derivative(bundle, unit)[:, -d:] for unit in self._units]
        gradient = torch.stack(by_axis, dim=2)
        return bundle[0][:, -d:], gradient + torch.eye(d).to(gradient)

    # Labels of positions
    # ---------------------------------------------------------------------------------------

    def _bracketed(self, aims: Tensor) -> Tensor:
        """Newton's method inside a bracket (1-D): X + d increases, so there is one root.

        Source: the safeguard of Press et al., Numerical Recipes, sec. 9.4.
        """
        (axis,) = self.space
        low_end, high_end = self.bounds[axis]
        length = high_end - low_end
        aim = aims[:, axis]
        places = aims.clone()

        def miss(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            at = places[which]
            at[:, axis] = x
            d, gradient = self._displaced(at)
            return x + d[:, 0] - aim[which], gradient[:, 0, 0]

        small = 16 * torch.finfo(aims.dtype).eps * max(length, abs(low_end), abs(high_end))
        x = self._tabled(aims)
        if x is None:
            x = aim - self._displaced(aims)[0][:, 0] if axis in self.periodic else aim.clone()
        active = torch.arange(len(aims), device=aims.device)
        # Mostly Newton's method needs no bracket: where it converges, it is to the one root.
        for _ in range(FEW_STEPS):
            g, slope = miss(x[active], active)
            go = g.abs() > small
            active, step = active[go], (g / slope)[go]
            if not len(active):
                break
            x[active] -= step.clamp(-length / 4, length / 4)
        if len(active):
            x[active] = self._safeguarded(x[active], active, aim, miss, small)
        places[:, axis] = x
        return places

    def _safeguarded(
        self, x: Tensor, which: Tensor, aim: Tensor, miss: Miss, small: float
    ) -> Tensor:
        """Newton's method kept inside a bracket by bisection; arguments of some points only."""
        (axis,) = self.space
        low_end, high_end = self.bounds[axis]
        every = torch.arange(len(x), device=x.device)

        def here_miss(place: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            return miss(place, which[rows])

        if axis in self.periodic:
            x = torch.where(torch.isfinite(x), x, aim[which])
            low = self._widened(x, every, here_miss, (low_end - high_end) / 64)
            high = self._widened(x, every, here_miss, (high_end - low_end) / 64)
        else:
            low, high = torch.full_like(x, low_end), torch.full_like(x, high_end)
            x = torch.where((x > low) & (x < high), x, (low + high) / 2)
        active = every
        for _ in range(MOST_STEPS):
            here = x[active]
            g, slope = here_miss(here, active)
            left = g < 0
            low[active] = torch.where(left, here, low[active])
            high[active] = torch.where(left, high[active], here)
            new = here - g / slope
            inside = (new > low[active]) & (new < high[active])
            new = torch.where(inside, new, (low[active] + high[active]) / 2)
            # At rounding the sign of g says nothing, nor does the bracket.
            new = torch.where(g.abs() <= small, here, new)
            x[active] = new
            active = active[(new - here).abs() > small]
            if not len(active):
                break
        return x

    def _widened(self, x: Tensor, every: Tensor, miss: Miss, width: float) -> Tensor:
        """One end of a bracket: as far from x as it takes for x + d to be past the aim."""
        end = x + width
        active = every
        for _ in range(MOST_WIDENINGS):
            g = miss(end[active], active)[0]
            active = active[(g >= 0) if width < 0 else (g <= 0)]
            if not len(active):
                break
            width *= 2
            end[active] += width
        return end

    def _tabled(self, aims: Tensor) -> Tensor | None:
        """First guesses (1-D) where many points share a moment: the fast path.

        Labels on a grid and their positions, sorted, inverted by linear interpolation; Newton's
        method then needs two steps instead of six.
        """
        (axis,) = self.space
        times, which = torch.unique(aims[:, self.time], return_inverse=True)
        if len(times) * TABLE > len(aims):
            return None
        low, high = self.bounds[axis]
        length = high - low
        grid = torch.linspace(low, high, TABLE + 1, dtype=aims.dtype, device=aims.device)
        table = aims.new_zeros((len(times), TABLE + 1, aims.shape[1]))
        table[..., axis] = grid
        table[..., self.time] = times[:, None]
        # Not wrapped: the last label of the grid is the first one, a period on.
        d = self._displaced(table.flatten(0, 1))[0].unflatten(0, (len(times), -1))[..., 0]
        positions = (grid + d).cummax(dim=1).values
        aim = aims[:, axis]
        laps = torch.zeros_like(aim)
        if axis in self.periodic:
            laps = torch.floor((aim - positions[which, 0]) / length) * length
        aim = aim - laps
        # One search over all moments: each is moved to a range of its own.
        apart = 2 * length * torch.arange(len(times), dtype=aims.dtype, device=aims.device)
        base = positions - positions[:, :1] + apart[:, None]
        sought = (aim - positions[which, 0]).clamp(0, length) + apart[which]
        flat = torch.searchsorted(base.flatten().contiguous(), sought.contiguous())
        cell = (flat - which * (TABLE + 1) - 1).clamp(0, TABLE - 1)
        left, right = base[which, cell], base[which, cell + 1]
        share = ((sought - left) / (right - left).clamp_min(1e-300)).clamp(0, 1)
        return grid[cell] + share * (length / TABLE) + laps

    def _followed(self, aims: Tensor) -> Tensor:
        """Damped Newton's method, and continuation in time where that does not converge."""
        start = aims.clone()
        start[:, self.space] = aims[:, self.space] - self._displaced(aims)[0]
        found, left = self._newton(start, aims)
        for legs in LEGS:
            if not len(left):
                break
            at = aims[left].clone()
            there = at[:, self.time].clone()
            still = left
            for leg in range(1, legs + 1):
                moment = self.since + (there - self.since) * leg / legs
                at[:, self.time] = moment
                aim = aims[left].clone()
                aim[:, self.time] = moment
                at, still = self._newton(at, aim)
            found[left] = at
            left = left[still]
        return found

    def _newton(self, labels: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
        """Damped Newton's method; returns labels, and which have not converged."""
        labels = labels.clone()
        space = list(self.space)
        length = max(self.bounds[a][1] - self.bounds[a][0] for a in space)
        small = 64 * torch.finfo(aims.dtype).eps * max(1.0, length)
        active = torch.arange(len(aims), device=aims.device)

        def miss(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            d, gradient = self._displaced(x)
            return x[:, space] + d - aims[which][:, space], gradient

        g, gradient = miss(labels, active)
        for _ in range(MOST_STEPS):
            size = g.norm(dim=1)
            go = size > small
            active, g, gradient, size = active[go], g[go], gradient[go], size[go]
            if not len(active):
                break
            step = torch.linalg.solve_ex(gradient, g)[0]
            share = torch.ones_like(size)
            pending = torch.ones_like(size, dtype=torch.bool)
            here = labels[active]
            for _ in range(HALVINGS):
                new = here.clone()
                new[:, space] -= share[:, None] * step
                new = self._clamped(new)
                g_new, gradient_new = miss(new, active)
                good = g_new.norm(dim=1) < size
                take = pending & good
                labels[active[take]] = new[take]
                g[take], gradient[take] = g_new[take], gradient_new[take]
                pending &= ~good
                if not pending.any():
                    break
                share = torch.where(pending, share / 2, share)
            # Stuck where rounding begins: those that are close enough count as found.
            lost = pending & (size > 64 * small)
            stuck = pending & ~lost
            active, g, gradient, lost = active[~stuck], g[~stuck], gradient[~stuck], lost[~stuck]
            if lost.all():
                break
        return labels, active

    def _clamped(self, labels: Tensor) -> Tensor:
        for axis in self.space:
            if axis not in self.periodic:
                labels[:, axis] = labels[:, axis].clamp(*self.bounds[axis])
        return labels

    # Derivatives at positions
    # ----------------------------------------------------------------------------------

    def _inverted(self, labels: Tensor, algebra: JetAlgebra) -> Tensor:
        """Taylor coefficients of the states by position, from those by label.

        With offsets h of the label, ``F h = y - (d(X + h) - d(X) - grad d . h)`` is iterated in
        the algebra, where offsets are nilpotent: every pass fixes one more order.
        """
        space, n = list(self.space), len(self.space)
        source = self._source(algebra)
        coefficients = self.field.jet(labels, source)
        gradient = self._displaced(labels)[1]
        inverse = torch.linalg.inv(gradient)
        lifted = algebra.lift(labels)
        lifted[0] = 0
        elapsed = lifted[:, :, self.time]
        aims = torch.stack(
            [
                lifted[:, :, axis] - speed * elapsed
                for axis, speed in zip(space, self.drift, strict=True)
            ],
            dim=2,
        )
        offsets = torch.zeros_like(aims)
        for _ in range(algebra.order):
            moved = offsets + self._composed(
                coefficients[..., -n:], source, algebra, offsets, elapsed
            )
            moved[0] = 0
            offsets = offsets - torch.einsum("pij,cpj->cpi", inverse, moved - aims)
        states, within = coefficients[..., :-n], source
        if self.speeds:
            states, within = self._later(coefficients[..., -n:], source)
        return self._composed(states, within, algebra, offsets, elapsed)

    def _later(self, coefficients: Tensor, source: JetAlgebra) -> tuple[Tensor, JetAlgebra]:
        """Taylor coefficients of the time derivative, and the algebra that carries them."""
        raised = {
            index: tuple(k + (axis == self.time) for axis, k in enumerate(index))
            for index in source.indices
        }
        kept = [index for index in source.indices if raised[index] in source.indices]
        rows = [
            raised[index][self.time] * coefficients[source.channel(raised[index])] for index in kept
        ]
        return torch.stack(rows), JetAlgebra(tuple(kept))

    def _source(self, algebra: JetAlgebra) -> JetAlgebra:
        """What must be known by label for the derivatives of an algebra by position."""
        dimension = algebra.dimension
        late = max(index[self.time] for index in algebra.indices) + self.speeds
        most = algebra.order + self.speeds
        ranges = [
            range((late if axis == self.time else algebra.order) + 1) for axis in range(dimension)
        ]
        return algebra_for([i for i in itertools.product(*ranges) if sum(i) <= most], dimension)

    def _composed(
        self,
        coefficients: Tensor,
        source: JetAlgebra,
        algebra: JetAlgebra,
        offsets: Tensor,
        elapsed: Tensor,
    ) -> Tensor:
        """Sum over a of c_a (offset of label and time)^a, a bundle of the algebra."""
        axes = {axis: offsets[:, :, i : i + 1] for i, axis in enumerate(self.space)}
        axes[self.time] = elapsed[:, :, None]
        one = torch.zeros_like(axes[self.time])
        one[0] = 1
        powers: dict[MultiIndex, Tensor] = {source.indices[0]: one}
        total = coefficients[0] * one
        for channel, index in enumerate(source.indices[1:], start=1):
            axis = next(i for i, order in enumerate(index) if order)
            lower = tuple(order - (i == axis) for i, order in enumerate(index))
            powers[index] = algebra.multiply(powers[lower], axes[axis])
            total = total + coefficients[channel] * powers[index]
        return total


def least_jacobian(
    readout: Readout, bounds: Sequence[tuple[float, float]], per_axis: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The smallest J at moments, over a grid of labels.

    Args:
        readout: of the window.
        bounds: labels and times to look at.
        per_axis: grid points along each coordinate.

    Returns:
        The moments, and the smallest J at each: minus infinity where one is not a number.
    """
    axes = [
        torch.linspace(low, high, count, dtype=torch.float64)
        for (low, high), count in zip(bounds, per_axis, strict=True)
    ]
    grid = torch.cartesian_prod(*axes)
    trained = next(readout.field.parameters(), grid)
    values = torch.cat([readout.jacobian(part) for part in grid.to(trained).split(8192)])
    values = torch.where(torch.isfinite(values), values, -math.inf).double().cpu()
    table = values.reshape(tuple(per_axis)).movedim(readout.time, 0)
    return axes[readout.time], table.flatten(1).amin(1)
