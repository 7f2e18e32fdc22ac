"""One damped linear least-squares problem: prepared once, solved for as many dampings as needed.

Every form computes the same step of Levenberg and Marquardt,

    d(mu) = argmin |J d + r|^2 + mu |S^-1 d|^2,        S = diag(1 / column norms of J),

where the Jacobi scaling S makes the damping mu dimensionless (norms count as no less than a
hundredth of the largest: `Damped._scale_by`). They differ in cost and in digits,
for J of shape (m, P) and condition number k (of J S):

| form | factors | flops | relative error of the step |
|---|---|---|---|
| `Normal` | S J^T J S + mu I, by Cholesky | m P^2 + P^3/3 a damping | eps k^2 |
| `Kernel` | J S^2 J^T + mu I, by Cholesky | m^2 P + m^3/3 a damping | eps k^2 |
| `Iterated` | CG with J, a `Normal`'s factor of an earlier J | 40 m P a damping | a tenth |
| `Orthogonal` | [J S; sqrt(mu) I], by Householder | 2 m P^2 + 4 P^3/3 a damping | eps k |
| `Sketched` | [Omega J S; sqrt(mu) I], then CG with J | 7 P^3, 150 m P a damping | as asked |

Damping bounds k by 1/sqrt(mu), so the squared forms are exact enough until mu nears the machine
epsilon; there `Orthogonal` takes over (`FORMS`, ``auto``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from torch import Tensor

from ...errors import ConfigurationError, DivergedError
from ..memory import free_memory, require_jacobian

LEAST_SCALE = 1e-2
"""Part of the largest column norm that every column is scaled by at least."""
BLOCK = 96
"""Columns of a panel in the QR of two triangles."""
ITERATED_TOLERANCE = 0.1
MOST_ITERATIONS = 8
"""Of conjugate gradients on an earlier factor; where they do not suffice a new one pays."""
OVERSAMPLING = 4
"""Rows of the sketch per unknown; the preconditioned condition number is then about 3."""
NONZEROS = 8
"""Of each column of the sketch."""


class Damped(ABC):
    """J and r, prepared for solving.

    Args:
        jacobian: J, shape (m, P). Not kept by every form, never changed.
        residual: r, shape (m,).

    Attributes:
        gradient: J^T r.
        scale: diagonal of S, shape (P,).
        least: the smallest damping whose step still has some correct digits.

    Raises:
        DivergedError: J is not finite.
    """

    least: float
    scale: Tensor
    jacobian: Tensor

    def __init__(self, jacobian: Tensor, residual: Tensor) -> None:
        self.jacobian = jacobian
        self.residual = residual
        self.gradient = jacobian.T @ residual
        self.damping = math.nan

    @abstractmethod
    def damp(self, damping: float) -> bool:
        """Factorise for a damping; False if rounding made that impossible."""

    @abstractmethod
    def solve(self, residual: Tensor | None = None) -> Tensor:
        """The step ``argmin |J d + r|^2 + mu |S^-1 d|^2`` at the damping of the last `damp`.

        Args:
            residual: shape (m,); None for the r it was prepared with.
        """

    def predicted(self, step: Tensor) -> float:
        """``|r|^2 - |r + J d|^2`` for a step that solves the damped problem, without J."""
        return self.damping * float((step / self.scale).square().sum()) - float(
            step @ self.gradient
        )

    def _scale_by(self, norms: Tensor) -> None:
        """Set S from the norms of the columns.

        A step obeys ``|S^-1 d| <= |r| / (2 sqrt(mu))``, so the damping holds a parameter only as
        far as its column goes. A unit that has saturated at every point has next to none: scaled by
        it, one step made weights of 1e5, spikes between the points that no later step could see.
        Hence the floor (Moré keeps the largest norm a column ever had, for the same reason: "The
        Levenberg-Marquardt algorithm", Lecture Notes in Mathematics 630, 1978).
        """
        most = float(norms.max())
        if not math.isfinite(most) or not math.isfinite(float(norms.sum())):
            raise DivergedError("the Jacobian is not finite")
        floor = max(LEAST_SCALE * most, torch.finfo(norms.dtype).tiny)
        self.scale = 1 / torch.clamp(norms, min=floor)


class Normal(Damped):
    """By the normal matrix, for more residuals than parameters."""

    def __init__(self, jacobian: Tensor, residual: Tensor) -> None:
        super().__init__(jacobian, residual)
        self.least = 4 * torch.finfo(jacobian.dtype).eps
        self.gram = gram(jacobian)
        self._scale_by(self.gram.diagonal().clamp(min=0).sqrt())
        self.gram *= self.scale
        self.gram *= self.scale[:, None]
        self.diagonal = self.gram.diagonal().clone()

    def damp(self, damping: float) -> bool:
        """See `Damped.damp`."""
        self.damping = damping
        self.gram.diagonal().copy_(self.diagonal + damping)
        self.factor = cholesky(self.gram)
        return self.factor is not None

    def solve(self, residual: Tensor | None = None) -> Tensor:
        """See `Damped.solve`."""
        assert self.factor is not None
        gradient = self.gradient if residual is None else self.jacobian.T @ residual
        return -self.scale * cholesky_solve(self.factor, self.scale * gradient)


class Factor(NamedTuple):
    """What `Normal` leaves for later: S, shape (P,), and the upper factor of S J^T J S + mu I."""

    scale: Tensor
    upper: Tensor


class Iterated(Damped):
    """By a few conjugate gradient steps, preconditioned with the factor of an earlier `Normal`.

    Between two steps the normal matrix changes little where it is large, and its factor serves
    again: a few products with J in place of ``m P^2`` flops. The first iterations find most of the
    step; the rest, along directions that the loss hardly feels, is left to the next exact one.

    Args:
        jacobian: J, shape (m, P).
        residual: r, shape (m,).
        earlier: what it left.

    Attributes:
        worn: whether a solution has taken all iterations there are: a new factor would pay.
    """

    def __init__(self, jacobian: Tensor, residual: Tensor, earlier: Factor) -> None:
        super().__init__(jacobian, residual)
        if not bool(self.gradient.isfinite().all()):
            raise DivergedError("the Jacobian is not finite")
        self.least = 4 * torch.finfo(jacobian.dtype).eps
        self.scale, self.factor = earlier
        self.worn = False

    def damp(self, damping: float) -> bool:
        """See `Damped.damp`; nothing is factored."""
        self.damping = damping
        return True

    def solve(self, residual: Tensor | None = None) -> Tensor:
        """See `Damped.solve`: to a tenth of the first error, in the norm of the preconditioner."""
        gradient = self.gradient if residual is None else self.jacobian.T @ residual
        step = torch.zeros_like(gradient)
        rest = -self.scale * gradient
        inner = cholesky_solve(self.factor, rest)
        direction = inner.clone()
        size = first = float(rest @ inner)
        for _ in range(MOST_ITERATIONS):
            if size <= ITERATED_TOLERANCE**2 * first:
                return self.scale * step
            image = self.scale * (self.jacobian.T @ (self.jacobian @ (self.scale * direction)))
            image += self.damping * direction
            length = size / float(direction @ image)
            step += length * direction
            rest -= length * image
            inner = cholesky_solve(self.factor, rest)
            size, before = float(rest @ inner), size
            direction = inner + (size / before) * direction
        self.worn = True
        return self.scale * step

    def predicted(self, step: Tensor) -> float:
        """See `Damped.predicted`; with J, for the step is not exact."""
        change = self.jacobian @ step
        return -float(change @ (2 * self.residual + change))


class Kernel(Damped):
    """In residual space, for fewer residuals than parameters.

    ``d = -S^2 J^T (J S^2 J^T + mu I)^-1 r`` by the push-through identity (the form of natural
    gradients in arXiv 2505.12149).
    """

    def __init__(self, jacobian: Tensor, residual: Tensor) -> None:
        super().__init__(jacobian, residual)
        self.least = 4 * torch.finfo(jacobian.dtype).eps
        self._scale_by(torch.linalg.vector_norm(jacobian, dim=0))
        self.scaled = jacobian * self.scale
        self.gram = gram(self.scaled.T)
        self.diagonal = self.gram.diagonal().clone()

    def damp(self, damping: float) -> bool:
        """See `Damped.damp`."""
        self.damping = damping
        self.gram.diagonal().copy_(self.diagonal + damping)
        self.factor = cholesky(self.gram)
        return self.factor is not None

    def solve(self, residual: Tensor | None = None) -> Tensor:
        """See `Damped.solve`."""
        assert self.factor is not None
        r = self.residual if residual is None else residual
        return -self.scale * (self.scaled.T @ cholesky_solve(self.factor, r))


class Orthogonal(Damped):
    """By orthogonal transformations: the condition number is not squared.

    J is factored once, ``J = Q R``; each damping costs the QR of two triangles, ``[R S; sqrt(mu)
    I]``. With fewer residuals than parameters the same is done with ``S J^T = Q R``:
    ``d = S Q y`` with y from the square problem of ``R^T``.
    """

    def __init__(self, jacobian: Tensor, residual: Tensor) -> None:
        super().__init__(jacobian, residual)
        self.least = torch.finfo(jacobian.dtype).eps ** 2
        self.wide = len(jacobian) < jacobian.shape[1]
        if self.wide:
            self._scale_by(torch.linalg.vector_norm(jacobian, dim=0))
            self.householder = torch.geqrf((jacobian * self.scale).T)
            rank = len(jacobian)
            # Lower triangular; a second QR makes it upper, as the panels below want it.
            lower = self.householder[0][:rank].triu().T
            self.turn = torch.geqrf(lower)
            self.triangle = self.turn[0].triu()
        else:
            self.householder = torch.geqrf(jacobian)
            rank = jacobian.shape[1]
            triangle = self.householder[0][:rank].triu()
            self._scale_by(torch.linalg.vector_norm(triangle, dim=0))
            self.triangle = triangle * self.scale
        self.rank = rank

    def damp(self, damping: float) -> bool:
        """See `Damped.damp`."""
        self.damping = damping
        self.damped = DampedTriangle(self.triangle, damping)
        return bool((self.damped.upper.diagonal() != 0).all())

    def solve(self, residual: Tensor | None = None) -> Tensor:
        """See `Damped.solve`."""
        r = self.residual if residual is None else residual
        if not self.wide:
            rotated = torch.ormqr(*self.householder, r[:, None], transpose=True)[: self.rank, 0]
            return -self.scale * self.damped.solve(rotated)
        rotated = torch.ormqr(*self.turn, r[:, None], transpose=True)[:, 0]
        y = self.damped.solve(rotated)
        padded = torch.nn.functional.pad(y, (0, len(self.scale) - self.rank))
        return -self.scale * torch.ormqr(*self.householder, padded[:, None])[:, 0]


class Sketched(Damped):
    """A random sketch of J as preconditioner of conjugate gradients on J itself.

    Sketch-and-precondition (Avron, Maymounkov and Toledo, "Blendenpik", SIAM J. Sci. Comput. 32,
    2010; sparse signs as in Cohen, "Nearly tight oblivious subspace embeddings", SODA 2016): the
    triangle of ``[Omega J S; sqrt(mu) I]`` makes the damped problem well conditioned whatever mu
    is, so that some thirty products with J give the step to `tolerance`. It pays where one side of
    J is many times the other. With fewer residuals than parameters the sketch is taken of J^T and
    the iteration runs in residual space.
    """

    def __init__(self, jacobian: Tensor, residual: Tensor, *, tolerance: float = 1e-10) -> None:
        super().__init__(jacobian, residual)
        eps = torch.finfo(jacobian.dtype).eps
        self.tolerance = max(tolerance, 100 * eps)
        self._scale_by(torch.linalg.vector_norm(jacobian, dim=0))
        self.wide = len(jacobian) < jacobian.shape[1]
        self.least = 4 * eps if self.wide else eps**2
        if self.wide:
            triangle = torch.linalg.qr(sketch((jacobian * self.scale).T), mode="r").R
        else:
            triangle = torch.linalg.qr(sketch(jacobian), mode="r").R * self.scale
        self.triangle = triangle

    def damp(self, damping: float) -> bool:
        """See `Damped.damp`."""
        self.damping = damping
        self.upper = DampedTriangle(self.triangle, damping).upper
        return bool((self.upper.diagonal() != 0).all())

    def solve(self, residual: Tensor | None = None) -> Tensor:
        """See `Damped.solve`."""
        r = self.residual if residual is None else residual
        return self._in_residuals(r) if self.wide else self._in_parameters(r)

    def _in_parameters(self, r: Tensor) -> Tensor:
        """CGLS on ``min |A y + r|^2 + mu |U^-1 y|^2`` with ``A = J S U^-1``, U the triangle."""
        root = math.sqrt(self.damping)
        step = torch.zeros_like(self.gradient)  # S^-1 d
        rest, rest_below = -r, torch.zeros_like(step)

        def adjoint() -> Tensor:
            whole = self.scale * (self.jacobian.T @ rest) + root * rest_below
            return _triangular(self.upper.T, whole, upper=False)

        slope = adjoint()
        direction = slope.clone()
        size = first = float(slope @ slope)
        for _ in range(200):
            if size <= self.tolerance**2 * first or size == 0:
                break
            move = _triangular(self.upper, direction, upper=True)
            image, image_below = self.jacobian @ (self.scale * move), root * move
            length = size / float(image @ image + image_below @ image_below)
            step += length * move
            rest = rest - length * image
            rest_below = rest_below - length * image_below
            slope = adjoint()
            size, before = float(slope @ slope), size
            direction = slope + (size / before) * direction
        return self.scale * step

    def _in_residuals(self, r: Tensor) -> Tensor:
        """Preconditioned conjugate gradients on ``(J S^2 J^T + mu I) w = -r``."""
        multiplier = torch.zeros_like(r)
        rest = -r
        direction = torch.zeros_like(r)
        size = first = math.inf
        for _ in range(200):
            half = _triangular(self.upper.T, rest, upper=False)
            size, before = float(half @ half), size
            first = min(first, size) if math.isinf(first) else first
            if size <= self.tolerance**2 * first or size == 0:
                break
            ratio = 0.0 if math.isinf(before) else size / before
            direction = _triangular(self.upper, half, upper=True) + ratio * direction
            image = self.jacobian @ (self.scale.square() * (self.jacobian.T @ direction))
            image = image + self.damping * direction
            length = size / float(direction @ image)
            multiplier += length * direction
            rest = rest - length * image
        return self.scale.square() * (self.jacobian.T @ multiplier)


class DampedTriangle:
    """QR factorisation of ``[T; sqrt(mu) I]`` for an upper triangle T, zeros left alone.

    Panel by panel: the columns of a panel meet only the rows of T they start in and the rows of the
    lower block down to their own, which halves and again halves the work of a dense QR to ``4/3
    n^3`` flops (the structure of LAPACK's tpqrt; here with what torch offers on every device).

    Attributes:
        upper: the triangular factor.
    """

    def __init__(self, triangle: Tensor, damping: float) -> None:
        n = len(triangle)
        self.size = n
        self.upper = triangle.clone()
        below = torch.zeros_like(triangle)
        below.diagonal().fill_(math.sqrt(damping))
        self.panels: list[tuple[slice, tuple[Tensor, Tensor]]] = []
        for start in range(0, n, BLOCK):
            end = min(start + BLOCK, n)
            rows = slice(start, end)
            panel = torch.cat([self.upper[rows, rows], below[:end, rows]])
            factor = torch.geqrf(panel)
            self.upper[rows, rows] = factor[0][: end - start].triu()
            self.panels.append((rows, factor))
            if end < n:
                rest = torch.cat([self.upper[rows, end:], below[:end, end:]])
                rest = torch.ormqr(*factor, rest, transpose=True)
                self.upper[rows, end:] = rest[: end - start]
                below[:end, end:] = rest[end - start :]

    def solve(self, right: Tensor) -> Tensor:
        """``argmin |T y - right|^2 + mu |y|^2``, shape (n,)."""
        top = right.clone()
        below = torch.zeros_like(top)
        for rows, factor in self.panels:
            rotated = torch.cat([top[rows], below[: rows.stop]])[:, None]
            rotated = torch.ormqr(*factor, rotated, transpose=True)[:, 0]
            top[rows] = rotated[: rows.stop - rows.start]
            below[: rows.stop] = rotated[rows.stop - rows.start :]
        return _triangular(self.upper, top, upper=True)


FORMS: dict[str, type[Damped]] = {
    "primal": Normal,
    "dual": Kernel,
    "qr": Orthogonal,
    "randomised": Sketched,
}


def gram(matrix: Tensor) -> Tensor:
    """``M^T M``, shape (P, P) for M of shape (m, P); on a CPU only its upper triangle is filled.

    BLAS' syrk does half of the work of a matrix product (4000 x 2000, float64, two threads of a
    two-core machine: 0.35 s against 0.67 s), and reads M where it lies.
    """
    if matrix.device.type != "cpu":
        return matrix.T @ matrix
    array = matrix.detach().numpy()
    routine: Any = get_blas_funcs("syrk", (array,))
    if array.flags.c_contiguous:
        product = routine(1.0, array.T, lower=1)
    else:
        product = routine(1.0, array, trans=1, lower=1)
    return torch.from_numpy(product.T)


def cholesky(matrix: Tensor) -> Tensor | None:
    """Upper factor U with ``U^T U = M``, of the upper triangle of M; None if M is not definite."""
    if matrix.device.type != "cpu":
        factor, failed = torch.linalg.cholesky_ex(matrix, upper=True)
        return None if failed else factor
    # The transpose of a row-major upper triangle is what Fortran calls a lower one.
    array = matrix.clone().numpy().T
    routine: Any = get_lapack_funcs("potrf", (array,))
    factor, failed = routine(array, lower=1, clean=0, overwrite_a=1)
    return None if failed or not np.isfinite(factor[-1, -1]) else torch.from_numpy(factor.T)


def cholesky_solve(upper: Tensor, right: Tensor) -> Tensor:
    """``(U^T U)^-1 b`` for a vector b."""
    if upper.device.type != "cpu":
        return torch.cholesky_solve(right[:, None], upper, upper=True)[:, 0]
    array = upper.numpy().T
    routine: Any = get_lapack_funcs("potrs", (array,))
    return torch.from_numpy(routine(array, right.numpy(), lower=1)[0])


def sketch(matrix: Tensor) -> Tensor:
    """``Omega M`` with `OVERSAMPLING` rows per column of M; Omega sparse, always the same."""
    rows, columns = matrix.shape
    size = OVERSAMPLING * columns
    if rows <= size:
        return matrix
    generator, shape = torch.Generator().manual_seed(rows), (rows, NONZEROS)
    where = torch.randint(size, shape, generator=generator, device="cpu")
    signs = 2.0 * torch.randint(2, shape, generator=generator, device="cpu") - 1
    result = matrix.new_zeros(size, columns)
    for k in range(NONZEROS):
        weights = (signs[:, k] / math.sqrt(NONZEROS)).to(matrix)
        result.index_add_(0, where[:, k].to(matrix.device), matrix * weights[:, None])
    return result


def require_memory(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    form: str = "auto",
    linear: int = 0,
) -> None:
    """Refuse a Jacobian that does not fit, before anything is computed.

    Args:
        rows: residuals.
        columns: parameters.
        dtype: of both.
        device: where they are.
        form: how a step will be found.
        linear: parameters that are projected out.

    Raises:
        ResourceError: with the sizes, and what to use instead.
    """
    allowed = free_memory()
    if device.type == "cuda":
        # What torch has taken and not given out, such as the last Jacobian, is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        allowed = torch.cuda.mem_get_info(device)[0] + kept
    item = torch.finfo(dtype).bits // 8
    require_jacobian(rows, columns, item, allowed, form=form, linear=linear)


def require_form(form: str) -> None:
    """Refuse a form that does not exist.

    Raises:
        ConfigurationError: with those that do.
    """
    if form not in ("auto", *FORMS):
        raise ConfigurationError(
            "form: no such thing",
            found=form,
            advice=f"write one of {', '.join(('auto', *FORMS))}",
        )


def require_sum_of_squares(residual: Tensor, jacobian: Tensor, columns: int) -> None:
    """Refuse what is not a vector of residuals with its Jacobian.

    Raises:
        ConfigurationError: shapes, and what to use instead.
    """
    if residual.shape == (0,):
        raise ConfigurationError(
            "there is no residual whose square could be lowered", advice="give it points"
        )
    if residual.ndim != 1 or tuple(jacobian.shape) != (len(residual), columns):
        raise ConfigurationError(
            "Gauss-Newton lowers a sum of squares: it needs residuals of shape (m,) and their "
            f"Jacobian of shape (m, {columns}), and got shapes {tuple(residual.shape)} and "
            f"{tuple(jacobian.shape)}",
            advice="return the residuals themselves, not their loss, or use lbfgs or adam, which "
            "take any loss",
        )


def _triangular(matrix: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    return torch.linalg.solve_triangular(matrix, right[:, None], upper=upper)[:, 0]
