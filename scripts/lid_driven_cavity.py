"""Solve the cavity under a lid of speed sin(pi x), and compare with Newton's method.

This is the lid of Shishehbor, Hosseinmardi and Bostanabad (PGCAN, 2024), with whom Kang et al.
compare their Gaussians; `lid_driven_cavity` of the library has one that starts more smoothly. At
its corners the vorticity depends on the direction one comes from, and the automatic reference does
not get there. Here the stream function has values at Chebyshev nodes: those next to the walls are
what fits the slopes on all walls best (least squares), the others make the equation hold. The error
bar is what two nodes more along each coordinate change.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import residua
from residua.problems import registry
from residua.problems.problem import Problem

Array = NDArray[np.float64]
NAME = "lid_driven_cavity"
DEGREE = 28
CELLS = 100
MOST, SMALL = 20, 1e-11
"""Newton steps, and the last one's size."""


def main(out: str, budget: str = "90 s") -> None:
    """Train into a run folder, or go on with one that is there, and print the error."""
    library = registry.get(NAME)
    given = dict(library.to_mapping())
    *others, _ = given["conditions"]
    given["conditions"] = [*others, {"where": "y = 1", "psi_y": "sin(pi*x)"}]
    given["reference"] = "none"
    problem = Problem.from_mapping(given, name=f"{NAME}_sine")
    folder = Path(out)
    solution = residua.solve(
        problem,
        solver=library.recommended["solver"],
        run={"budget": budget},
        out=folder,
        resume=folder.exists(),
    )
    line = (np.arange(CELLS) + 0.5) / CELLS
    x, y = np.meshgrid(line, line, indexing="ij")
    found = solution(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(x.shape)
    coarse, fine = (newton(n, problem.values["nu"], line) for n in (DEGREE - 2, DEGREE))
    size = np.linalg.norm(fine)
    print(f"relative L2 error {np.linalg.norm(found - fine) / size:.2e}")
    print(f"error bar of the reference {np.linalg.norm(fine - coarse) / size:.1e}")


def newton(degree: int, nu: float, line: Array) -> Array:
    """The stream function on the grid of a line's points, shape (points, points), x first."""
    nodes, slope = chebyshev(degree)
    n = degree + 1
    to_x, to_y = np.kron(slope, np.eye(n)), np.kron(np.eye(n), slope)
    laplacian = to_x @ to_x + to_y @ to_y
    from_end = np.minimum(np.arange(n), np.arange(n)[::-1])
    depth = np.minimum(from_end[:, None], from_end).ravel()
    layer, inner = np.flatnonzero(depth == 1), np.flatnonzero(depth > 1)
    at = np.arange(n * n).reshape(n, n)
    sides = [to_x[at[[0, -1], 1:-1].ravel()], to_y[at[1:-1, [0, -1]].T.ravel()]]
    slopes = np.concatenate(sides)
    wanted = np.zeros(len(slopes))
    wanted[-(n - 2) :] = np.sin(np.pi * nodes[1:-1])
    fit = np.linalg.pinv(slopes[:, layer])
    # psi = start + basis @ p meets all conditions
    basis, start = np.zeros((n * n, len(inner))), np.zeros(n * n)
    basis[inner, np.arange(len(inner))] = 1
    basis[layer] = -fit @ slopes[:, inner]
    start[layer] = fit @ wanted
    operators = (to_x, to_y, to_x @ laplacian, to_y @ laplacian, nu * laplacian @ laplacian)
    rows = [operator[inner] @ basis for operator in operators]
    begun = [operator[inner] @ start for operator in operators]
    p = np.linalg.solve(rows[-1], -begun[-1])  # without inertia
    for _ in range(MOST):
        u_x, u_y, w_x, w_y, drag = (r @ p + b for r, b in zip(rows, begun, strict=True))
        jacobian = u_y[:, None] * rows[2] + w_x[:, None] * rows[1] - rows[4]
        jacobian -= u_x[:, None] * rows[3] + w_y[:, None] * rows[0]
        step = np.linalg.solve(jacobian, -(u_y * w_x - u_x * w_y - drag))
        p += step
        if np.abs(step).max() < SMALL:
            to_line = interpolation(nodes, line)
            return to_line @ (start + basis @ p).reshape(n, n) @ to_line.T
    raise SystemExit(f"Newton's method did not converge with {n} nodes")


def chebyshev(degree: int) -> tuple[Array, Array]:
    """Nodes in [0, 1], ascending, and the matrix of the derivative at them."""
    nodes = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
    weights = barycentric(degree)
    apart = nodes[:, None] - nodes + np.eye(degree + 1)
    slope = weights / weights[:, None] / apart
    np.fill_diagonal(slope, 0)
    return nodes, slope - np.diag(slope.sum(1))


def barycentric(degree: int) -> Array:
    """Weights of the interpolation formula of the second kind at Chebyshev nodes."""
    weights = np.where(np.arange(degree + 1) % 2, -1.0, 1.0)
    weights[[0, -1]] /= 2
    return weights


def interpolation(nodes: Array, line: Array) -> Array:
    """The matrix from values at the nodes to values at points that are none of them."""
    shares = barycentric(len(nodes) - 1) / (line[:, None] - nodes)
    return shares / shares.sum(1, keepdims=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
