"""Models of series by name: from their settings and the data to a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ...errors import ConfigurationError
from .trajectories.options import ModelOptions
from .trajectories.series import Series

__all__ = ["MODELS", "build_model", "standardise"]


def _neural_ode(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.neural_ode import NeuralODE

    return NeuralODE(
        channels, options.extra, options.width, options.depth, timed=options.timed,
        window=options.window,
    )  # fmt: skip


def _augmented(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.augmented import AugmentedODE

    return AugmentedODE(channels, _told(classes), options.extra, options.width, options.depth)


def _latent_ode(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.latent_ode import LatentODE

    return LatentODE(channels, options.latent, options.hidden, options.width)


def _flow(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.flow import ContinuousFlow

    return ContinuousFlow(channels, options.width, options.depth, options.trace)


def _latent_sde(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.latent_sde import LatentSDE

    return LatentSDE(channels, options.latent, options.context, options.width)


def _sde_gan(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.sde_gan import SDEGAN

    return SDEGAN(channels, options.hidden, options.noises, width=options.width)


def _deep_equilibrium(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.deep_equilibrium import DeepEquilibrium

    if classes is not None:
        raise ConfigurationError(
            "classes are learnt from all values of a series, whose number the file does not fix",
            path=("model",), found="deep_equilibrium", advice="write neural_cde",
        )  # fmt: skip
    return DeepEquilibrium(channels, channels, options.hidden)


def _neural_cde(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.neural_cde import NeuralCDE

    return NeuralCDE(channels, _told(classes), hidden=options.hidden, width=options.width)


def _neural_rde(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.log_ncde import NeuralRDE

    return NeuralRDE(channels, _told(classes), hidden=options.hidden, width=options.width)


def _log_ncde(options: Any, channels: int, classes: int | None) -> nn.Module:
    from .models.log_ncde import LogNCDE

    return LogNCDE(channels, _told(classes), hidden=options.hidden, width=options.width)


def _told(classes: int | None) -> int:
    if classes is None:
        raise ConfigurationError(
            "this model learns the class of a series, and the series have no labels",
            path=("model",), advice="choose neural_ode or latent_sde, or give labels",
        )  # fmt: skip
    return classes


MODELS: Mapping[str, Callable[[Any, int, int | None], nn.Module]] = {
    "neural_ode": _neural_ode,
    "augmented": _augmented,
    "latent_ode": _latent_ode,
    "flow": _flow,
    "latent_sde": _latent_sde,
    "sde_gan": _sde_gan,
    "deep_equilibrium": _deep_equilibrium,
    "neural_cde": _neural_cde,
    "neural_rde": _neural_rde,
    "log_ncde": _log_ncde,
}


def build_model(
    options: ModelOptions, channels: int, classes: int | None, dtype: torch.dtype, seed: int
) -> nn.Module:
    """An untrained model; torch's own source of numbers is left as it was.

    Args:
        options: of the model.
        channels: of the series.
        classes: of the series; None without labels.
        dtype: precision.
        seed: of the weights.

    Raises:
        ConfigurationError: the model is not for such series.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[options.name](options, channels, classes).to(dtype)


def standardise(model: nn.Module, series: Series) -> None:
    """Let a model that works in the units of its data take them."""
    take = getattr(model, "standardise", None)
    if take is not None:
        take(series)
