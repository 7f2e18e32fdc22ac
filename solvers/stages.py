"""The optimiser of a stage, from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from ..engine.networks.field import Field
from ..engine.networks.gaussian_field import Gaussians
from ..engine.networks.mlp import Mlp
from ..engine.optimizers.first_order import Adam
from ..engine.optimizers.gauss_newton import GaussNewton
from ..engine.optimizers.least_squares import require_memory
from ..engine.optimizers.quasi_newton import DenseInverse, LimitedInverse, QuasiNewton
from ..engine.optimizers.soap import Soap
from ..engine.optimizers.spring import Spring
from ..engine.optimizers.variable_projection import VariableProjection, is_affine
from ..engine.points import PointSet
from ..engine.residuals import ResidualEngine
from ..errors import ConfigurationError, ResourceError
from . import options as settings

LARGEST_INVERSE = 20_000
"""Parameters up to which a dense inverse Hessian is kept: 3 GiB, and as much for each copy."""

Optimizer = GaussNewton | VariableProjection | Spring | QuasiNewton | Soap | Adam


def optimizer_of(
    chosen: settings.Optimizer,
    stage: int,
    engine: ResidualEngine,
    batch: Callable[[], Mapping[str, PointSet]],
    *,
    rows: int,
    note: Callable[[str], None],
) -> Optimizer:
    """An optimiser of the engine's field.

    Args:
        chosen: its settings.
        stage: number of the stage, for what is said of wrong settings.
        engine: residuals of the field.
        batch: gives the present points and weights.
        rows: number of residuals.
        note: told what a reader of the report should know.

    Raises:
        ConfigurationError: the field does not have what the settings ask for.
        ResourceError: it does not fit into memory.
    """
    parameters = engine.parameters
    if isinstance(chosen, settings.GaussNewton | settings.Spring):
        example = parameters[0]
        require_memory(
            rows, engine.parameter_count, example.dtype, example.device, form=chosen.solver
        )
        return _least_squares(chosen, stage, engine, batch)

    def objective() -> tuple[float, Tensor]:
        return engine.loss_and_gradient(batch())

    if isinstance(chosen, settings.QuasiNewton):
        size = engine.parameter_count
        if size > LARGEST_INVERSE:
            raise ResourceError(
                f"the inverse Hessian of quasi_newton ({size} x {size} in float64) needs "
                f"{8 * size**2 / 2**30:.1f} GiB, and as much for each copy in a checkpoint; "
                f"at most {LARGEST_INVERSE} parameters are allowed: use a smaller network, or "
                "optimizer: soap or lbfgs"
            )
        inverse = DenseInverse(size, chosen.update, parameters[0].device)
        return QuasiNewton(parameters, objective, inverse, say=note)
    if isinstance(chosen, settings.Lbfgs):
        return QuasiNewton(parameters, objective, LimitedInverse(), say=note)
    if isinstance(chosen, settings.Soap):
        return Soap(
            parameters, objective, learning_rate=chosen.learning_rate, refresh=chosen.refresh
        )
    return Adam(parameters, objective, learning_rate=chosen.learning_rate)


def _least_squares(
    chosen: settings.GaussNewton | settings.Spring,
    stage: int,
    engine: ResidualEngine,
    batch: Callable[[], Mapping[str, PointSet]],
) -> GaussNewton | VariableProjection | Spring:
    """An optimiser that is given the residuals themselves and their Jacobian."""
    parameters = engine.parameters

    def residuals() -> Tensor:
        return engine.row_vector(batch())

    jacobian: Tensor | None = None

    def linearise() -> tuple[Tensor, Tensor]:
        nonlocal jacobian  # no optimiser looks at the last one once it asks for the next
        r, jacobian = engine.linearise(batch(), out=jacobian)
        return r, jacobian

    if isinstance(chosen, settings.Spring):
        return Spring(
            parameters,
            linearise,
            damping=chosen.damping,
            momentum=chosen.momentum,
            learning_rate=chosen.learning_rate,
            largest_step=chosen.largest_step,
            form=chosen.solver,
        )
    if not chosen.variable_projection:
        return GaussNewton(
            parameters,
            residuals,
            linearise,
            damping=chosen.damping,
            form=chosen.solver,
            line_search=chosen.line_search,
            acceleration=chosen.acceleration,
        )
    linear = _readout(engine, batch()["interior"].points[:100])
    if not linear:
        raise ConfigurationError(
            "the field is not linear in the last layer of its network, which "
            "variable_projection solves for",
            path=("optimizer", stage, "variable_projection"),
            advice="write 'variable_projection: false'",
        )
    return VariableProjection(
        parameters,
        linear,
        residuals,
        linearise,
        # Single precision cannot tell a small curvature from rounding.
        exact=parameters[0].dtype == torch.float64 and is_affine(residuals, linear),
        damping=chosen.damping,
        form=chosen.solver,
        acceleration=chosen.acceleration,
    )


def _readout(engine: ResidualEngine, sample: Tensor) -> list[Parameter]:
    """Weights and biases of the last layers, if the field is affine in them; else none."""
    trained = set(engine.parameters)
    field: Field = engine.field
    found = [
        parameter
        for member in field.modules()
        if isinstance(member, Mlp | Gaussians)
        for parameter in member.linear_parameters()
        if parameter in trained
    ]
    affine = bool(found) and is_affine(lambda: field(sample), found)
    return found if affine else []
