"""The models of a run as one model: what their outputs mean, and the mean of their predictions."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from d2l_lightning.data.tables.encoder import TableEncoder


@dataclass(frozen=True)
class Target:
    """What the outputs of models mean: a number in the unit of the label, or classes.

    Attributes:
        label: The name of the predicted column.
        log: Whether predictions are averaged, and their errors measured, as logarithms.
        floor: With ``log``, lower predictions count as this one.
        scale: The mean and the standard deviation of the label, where the models predict it standardised.
        classes: The names of the classes, for models that return logits.
    """

    label: str
    log: bool = False
    floor: float = 1.0
    scale: Sequence[float] = (0.0, 1.0)
    classes: Sequence[str] = ()

    def decode(self, output: Tensor) -> Tensor:
        """Return outputs as predictions ``(n,)``, or logits as probabilities ``(n, q)``, in float64."""
        if self.classes:
            return output.double().softmax(dim=-1)
        mean, deviation = self.scale
        return self.bounded(output.double() * deviation + mean)

    def bounded(self, predictions: Tensor) -> Tensor:
        """Return predictions that are at least the floor."""
        return predictions.clamp(min=self.floor) if self.log else predictions

    def mean(self, predictions: Tensor) -> Tensor:
        """Return the mean over K models: shape ``(K, n)`` or ``(K, n, q)`` without its first dimension."""
        if self.log and len(predictions) > 1:
            return predictions.log().mean(dim=0).exp()
        return predictions.mean(dim=0)


def saved_encoding(
    encoder: TableEncoder, target: Target, id_column: str | None = None, unused: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what ``SupervisedModule.encoding`` of a model must be to be used by ``TablePredictor``.

    Args:
        encoder: The fitted encoder of the table that the model was trained on.
        target: What the outputs of the model mean.
        id_column: The column that names the rows of the table, if there is one.
        unused: Further columns of the table that are not features.
    """
    return {**encoder.state(), "target": asdict(target), "id": id_column, "unused": list(unused)}


class MeanOfModels(nn.Module):
    """The mean of the predictions of K models for the same features.

    Args:
        models: The models, which return ``(n,)``, or logits ``(n, q)`` for classes, given ``(n, d)``.
        target: What the outputs mean.
    """

    def __init__(self, models: Iterable[nn.Module], target: Target) -> None:
        super().__init__()
        self.models, self.target = nn.ModuleList(models), target

    def forward(self, X: Tensor) -> Tensor:
        """Return predictions of shape ``(n,)``, or probabilities ``(n, q)``, for features ``(n, d)``."""
        return self.target.mean(torch.stack([self.target.decode(model(X)) for model in self.models])).to(
            X.dtype
        )
