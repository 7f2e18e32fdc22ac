"""Models that tell the label of a series: a class, or a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ConfigurationError, DataError
from .generative import Units

if TYPE_CHECKING:
    from ..trajectories.series import Series

__all__ = ["Labelled"]


class Labelled(Units):
    """A model whose `forward` gives logits (batch, classes), or numbers (batch, 1).

    Numbers are in units of the deviation of the labels from their mean.

    Args:
        channels: of the series.
        classes: number of classes, told by the labels of a series; None for a number, which is
            then the label.

    Raises:
        ConfigurationError: there is one class, or none.
    """

    label_shift: Tensor
    label_scale: Tensor

    def __init__(self, channels: int, classes: int | None) -> None:
        super().__init__(channels)
        if classes is not None and classes < 2:
            raise ConfigurationError(
                "There are two classes or more.", found=classes, advice="give their number"
            )
        self.classes = classes
        self.register_buffer("label_shift", torch.tensor(0.0))
        self.register_buffer("label_scale", torch.tensor(1.0))

    @torch.no_grad()
    def standardise(self, series: Series) -> Any:
        """Take origin and unit of values, time and numeric labels from the data."""
        super().standardise(series)
        labels = series.labels
        if self.classes is None and labels is not None:
            self.label_shift.copy_(labels.mean(dtype=torch.float64))
            self.label_scale.copy_(labels.double().std(correction=0).clamp(min=1e-12))
        return self

    def loss(self, batch: Series, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the classes, or mean square error of standardised numbers."""
        labels, found = _labels(batch), self(batch)
        if self.classes is not None:
            return F.cross_entropy(found, labels.long())
        target = (labels.to(found) - self.label_shift) / self.label_scale
        return F.mse_loss(found[:, 0], target)

    @torch.no_grad()
    def predict(self, series: Series) -> Tensor:
        """Probabilities (batch, classes), or numbers (batch,) in the unit of the labels."""
        found = self(series)
        if self.classes is not None:
            return found.softmax(1)
        return found[:, 0] * self.label_scale + self.label_shift

    @torch.no_grad()
    def evaluate(self, series: Series) -> dict[str, float]:
        """Figures on a test set.

        Returns:
            ``accuracy`` and ``cross_entropy``, or ``relative_l2`` of the numbers.
        """
        labels, found = _labels(series), self.predict(series)
        if self.classes is None:
            target = labels.to(found)
            error = torch.linalg.vector_norm(found - target)
            return {"relative_l2": float(error / torch.linalg.vector_norm(target))}
        chosen = found.gather(1, labels.long()[:, None]).clamp(min=1e-30)
        return {
            "accuracy": float((found.argmax(1) == labels).double().mean()),
            "cross_entropy": float(-chosen.log().mean()),
        }


def _labels(series: Series) -> Tensor:
    if series.labels is None:
        raise DataError("this model learns the labels of series, and these have none")
    return series.labels
