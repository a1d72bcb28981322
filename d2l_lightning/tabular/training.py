"""Models of a table that are trained side by side, each on rows of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.run import Run


def train_side_by_side(
    run: Run,
    name: str,
    data: KaggleTable,
    X: Tensor,
    members: Mapping[str, TableRegressor],
    rows: Mapping[str, Sequence[Tensor]],
    averaged: Sequence[str] | None = None,
    **fit: Any,
) -> tuple[Fit, dict[str, SupervisedModule]]:
    """Train models of a table in one fit; return the fit, and the trained models by name.

    Args:
        run: The run.
        name: The name of the fit.
        data: The table.
        X: The features of the training rows, as from ``data.stacked_features``.
        members: The models by name; they are not changed, other than by ``fit_target``.
        rows: By stage, the rows of each model, as for ``StackedData``.
        averaged: The names of the models whose mean metric is logged; all if not given.
        fit: Other arguments of ``Run.fit``.
    """
    for member, own in zip(members.values(), rows["train"], strict=True):
        member.fit_target(data.labels[own])
    stacked = StackedModule(list(members.values()), list(members), averaged)
    y = data.labels.expand(X.shape[:-1])
    stacked_data = StackedData(X, y, rows, data.batch_size, run.seed, drop_last=data.drop_last)
    done = run.fit(name, stacked, stacked_data, **fit)
    return done, dict(zip(stacked.names, stacked.unstack(), strict=True))


@torch.no_grad()
def held_out_predictions(
    members: Sequence[SupervisedModule], X: Tensor, val_rows: Sequence[Tensor], k: int
) -> Tensor:
    """Return predictions for all rows by models that were not trained on them: shape ``(R, n)``.

    Args:
        members: The models of R times K folds; those of a repetition stand together.
        X: The features of all models, shape ``(n, d)``, or of each, ``(R * K, n, d)``.
        val_rows: The validation rows of each model.
        k: K, the number of folds.

    Raises:
        InputError: If a prediction is not finite.
    """
    predictions = torch.full((len(members) // k, X.shape[-2]), torch.nan)
    for i, (member, rows) in enumerate(zip(members, val_rows, strict=True)):
        own = X if X.ndim == 2 else X[i]
        predictions[i // k, rows] = member.eval()(own[rows].to(member.dtype)).to(predictions.dtype)
    if not predictions.isfinite().all():
        raise InputError("a prediction for a validation row is not finite; a lower lr may help")
    return predictions
