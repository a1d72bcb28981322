"""Train a model with importance weights and without them, and cross-validate both for the target."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_finite, require_positive
from d2l_lightning.functional.covariate_shift import importance_weighted_mean, mean_differences
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.shift.comparison import with_mean_1
from d2l_lightning.shift.domain import FIT_SETTINGS, FitFunction, epochs_for

KINDS = ("corrected", "uncorrected")


@dataclass(frozen=True)
class Correction:
    """A model that was trained with importance weights (``corrected``) and without them (``uncorrected``).

    Attributes:
        models: The models trained on all rows of the source, by kind.
        losses: The loss of each row of the source by a model of this kind that was not trained on the row,
            float64 ``(n,)``, by kind.
        weights: The importance weights, float64 ``(n,)``.
    """

    models: dict[str, SupervisedModule]
    losses: dict[str, Tensor]
    weights: Tensor

    def risks(self, unit: float = 1.0) -> dict[str, float]:
        """Return the risk on the source, and the estimated risks on the target with the gain of the weights.

        The gain is the risk without weights minus that with weights. Its standard error takes weights and
        models as given. All values are multiplied by ``unit``.
        """
        corrected, uncorrected = (self.losses[kind] for kind in KINDS)
        gain, error = importance_weighted_mean(uncorrected - corrected, self.weights)
        risks = {
            "risk_on_source": uncorrected.mean(),
            "risk_corrected": importance_weighted_mean(corrected, self.weights)[0],
            "risk_uncorrected": importance_weighted_mean(uncorrected, self.weights)[0],
            "gain": gain,
            "gain_standard_error": error,
        }
        return {name: risk.item() * unit for name, risk in risks.items()}


class WeightedCrossValidation:
    """Importance-weighted cross-validation of a model with weights and without them.

    The constructor checks its arguments, so that errors come before any training. ``fit`` trains on k folds
    and on all rows, with weights and without, all 2 (k + 1) models side by side.

    Args:
        model: The model, which is copied.
        X: Features of the source, shape ``(n, d)``.
        y: Labels of the source, shape ``(n,)``.
        k: Number of folds.
        steps: The fewest training steps of each model. Its last epoch is always completed.
        batch_size: Rows in a training batch.
        seed: Seed of folds and batches.

    Raises:
        InputError: If a number is out of its range.

    Source: Sugiyama, Krauledat and Müller, "Covariate Shift Adaptation by Importance Weighted Cross
    Validation" (2007).
    """

    def __init__(
        self,
        model: SupervisedModule,
        X: Tensor,
        y: Tensor,
        k: int = 5,
        steps: int = 2000,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        require_positive(steps=steps, batch_size=batch_size)
        self.model, self.X, self.y, self.k = model, X, y, k
        self.batch_size, self.seed = batch_size, seed
        train, self.held_out = k_fold(len(y), k, seed)
        everything = torch.arange(len(y))
        # The models of all rows have no held-out rows; their metrics are those of their training rows.
        self.rows = {"train": [*train, everything] * 2, "val": [*self.held_out, everything] * 2}
        self.epochs = epochs_for(steps, min(map(len, train)), batch_size)

    def fit(self, fit: FitFunction, weights: Tensor) -> Correction:
        """Train the models by ``Run.fit``, or a function with its arguments.

        The importance weights are float64, shape ``(n,)``.

        Raises:
            InputError: If the weights are not of this shape, negative or not finite, or a loss is not finite.
        """
        names = [f"{kind}_{fold}" for kind in KINDS for fold in [*range(1, self.k + 1), "all"]]
        scaled = with_mean_1(weights)
        stage_weights = {"train": torch.ones(len(names), len(self.y)), "val": scaled.expand(len(names), -1)}
        stage_weights["train"][: self.k + 1] = scaled
        data = StackedData(
            self.X, self.y, self.rows, self.batch_size, self.seed, same_order=True, weights=stage_weights
        )
        stacked = StackedModule([copy.deepcopy(self.model) for _ in names], names)
        fit("models", stacked, data, prefix="", max_epochs=self.epochs, **FIT_SETTINGS)
        models = {name: model.eval() for name, model in zip(names, stacked.unstack(), strict=True)}
        losses = {kind: torch.empty(len(self.y), dtype=torch.float64) for kind in KINDS}
        for kind in KINDS:
            for fold, rows in enumerate(self.held_out, start=1):
                with torch.no_grad():
                    model = models[f"{kind}_{fold}"]
                    of_rows = model.example_losses(self.X[rows].to(model.dtype), self.y[rows])
                losses[kind][rows] = of_rows.double()
            require_finite(**{f"the loss of the {kind} model": losses[kind]})
        return Correction({kind: models[f"{kind}_all"] for kind in KINDS}, losses, weights)


def feature_differences(
    names: Sequence[str], source: Tensor, target: Tensor, weights: Tensor
) -> list[tuple[str, float, float]]:
    """Return how far the target's mean of each feature is above the source's, in standard deviations.

    Each entry has the feature's name, the difference without weights and that with weights; the greatest
    without weights comes first. Source and target have shapes ``(n, d)`` and ``(m, d)``, and the importance
    weights of the source are float64 ``(n,)``.
    """
    before, after = mean_differences(source, target), mean_differences(source, target, weights)
    order = before.abs().argsort(descending=True, stable=True).tolist()
    return [(names[i], before[i].item(), after[i].item()) for i in order]
