"""From one calculus to the other, and derivatives of the diffusion along itself.

An Ito equation ``dy = f dt + G dW`` and the Stratonovich equation
``dy = (f - 1/2 sum_j (G_j . grad) G_j) dt + G o dW``, with G_j the columns of G, have the same
solutions (Kloeden and Platen, "Numerical solution of stochastic differential equations", equation
4.9.11). For diagonal noise the sum is ``g_i dg_i/dy_i``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import ConfigurationError
from ..terms import SDE, Calculus, Field

__all__ = ["along", "check_diagonal", "converted", "with_slope"]


def converted(sde: SDE, calculus: Calculus) -> SDE:
    """The same process, written in the other calculus; the drift is corrected by autograd.

    Args:
        sde: any; returned as it is where it has the calculus already.
        calculus: "ito" or "stratonovich".
    """
    if sde.calculus == calculus:
        return sde
    drift: Field = sde.drift
    if sde.noise != "additive":
        drift = _Corrected(sde, -0.5 if calculus == "stratonovich" else 0.5)
    result = SDE(drift, sde.diffusion, sde.noise, calculus, sde.channels)
    # The modules among the fields stay visible to whoever asks for parameters.
    result.fields = sde.fields
    return result


class _Corrected:
    """A drift plus a multiple of the sum of the derivatives of the diffusion along itself."""

    def __init__(self, sde: SDE, factor: float) -> None:
        self._sde = sde
        self._factor = factor

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        sde = self._sde
        if sde.noise == "diagonal":
            _, correction = with_slope(sde.diffusion, t, y)
        else:
            slopes = along(sde, t, y)
            correction = slopes.diagonal(dim1=2, dim2=3).sum(-1)
        return torch.add(sde.drift(t, y), correction, alpha=self._factor)


def with_slope(diffusion: Field, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A diagonal diffusion g and ``g_i dg_i/dy_i``, both (batch, d).

    Component i of g must depend on component i of y only; see `check_diagonal`.
    """
    g, y, graph = _watched(diffusion, t, y)
    if not g.requires_grad:
        return g, torch.zeros_like(g)
    (slope,) = torch.autograd.grad(
        g, y, g if graph else g.detach(), create_graph=graph, allow_unused=True
    )
    slope = torch.zeros_like(g) if slope is None else slope
    return (g, slope) if graph else (g.detach(), slope.detach())


def _watched(diffusion: Field, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The diffusion, the y its graph leads to, and whether others ask for gradients of it."""
    g = diffusion(t, y) if torch.is_grad_enabled() else None
    graph = g is not None and g.requires_grad
    if g is None or not y.requires_grad:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            g = diffusion(t, y)
    return g, y, graph


def along(sde: SDE, t: Tensor, y: Tensor) -> Tensor:
    """Derivatives of all columns of a diffusion along all of them.

    Returns:
        shape (batch, d, channels, channels); element [:, :, i, j] is ``(G_i . grad) G_j``.
    """
    g, y, graph = _watched(sde.diffusion, t, y)
    none = g.new_zeros(*g.shape, g.shape[2])
    if not g.requires_grad:
        return none
    # The product of the Jacobian with a vector is the derivative, by v, of that of v with it.
    v = torch.zeros_like(g, requires_grad=True)
    (pulled,) = torch.autograd.grad(g, y, v, create_graph=True, allow_unused=True)
    if pulled is None or not pulled.requires_grad:
        return none
    columns = (g if graph else g.detach()).unbind(2)
    pushed = [
        torch.autograd.grad(pulled, v, column, retain_graph=True, create_graph=graph)[0]
        for column in columns
    ]
    return torch.stack(pushed, dim=2)


def check_diagonal(sde: SDE, t: Tensor, y: Tensor) -> None:
    """Refuse a "diagonal" diffusion whose component i depends on other components than i.

    Compares, at the start, the Jacobian's product with a random vector with what it were if only
    the diagonal were there.

    Raises:
        ConfigurationError: it does.
    """
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        g = sde.diffusion(t, y)
        if not g.requires_grad:
            return
        signs = torch.linspace(-1, 1, y.shape[1], dtype=y.dtype, device=y.device).expand_as(y)
        (plain,) = torch.autograd.grad(g.sum(), y, retain_graph=True, allow_unused=True)
        (mixed,) = torch.autograd.grad(g, y, signs, allow_unused=True)
    if plain is None or mixed is None:
        return
    scale = float(plain.abs().max()) + float(mixed.abs().max())
    if float((mixed - signs * plain).abs().max()) > 1e-4 * scale:
        raise ConfigurationError(
            "A component of the diffusion depends on other components, so that this stepper would "
            "lose its order.",
            advice='write noise="general", channels=d and return a diagonal matrix, or choose a '
            "stepper without derivatives of the diffusion",
        )
