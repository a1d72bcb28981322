"""K-fold cross-validation of a model of a table, beside the models that are trained on all rows."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.ensemble.folds import make_folds
from d2l_lightning.errors import require_positive
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import check_batches, refuse_precision
from d2l_lightning.tabular.diagnostics import score
from d2l_lightning.tabular.models import Target, saved_encoding
from d2l_lightning.tabular.training import held_out_predictions, train_side_by_side

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CrossValidation:
    """Models of a table that were trained on folds, and on all rows.

    Attributes:
        data: The table.
        k: Number of folds.
        names: The names of the models of folds; those of a repetition stand together.
        val_rows: The validation rows of each of them.
        members: All models by name, those of all rows last.
        encoders: The encoder of each model, in the same order.
        target: What the models predict.
        fit: The fit of all models.
        train: The metric of each model on its training rows, in the same order.
        val: The metric of each model of a fold on its validation rows.
        held_out: For each repetition, the prediction of each training row by the model that was not trained
            on it: shape ``(R, n)``.
        predictions: The predictions for the test rows, in the unit of the labels: shape ``(m,)``; None
            without test rows.
    """

    data: KaggleTable
    k: int
    names: list[str]
    val_rows: list[Tensor]
    members: dict[str, SupervisedModule]
    encoders: list[TableEncoder]
    target: Target
    fit: Fit
    train: list[float]
    val: list[float]
    held_out: Tensor
    predictions: Tensor | None

    @property
    def final_names(self) -> list[str]:
        """The names of the models of all rows."""
        return list(self.members)[len(self.names) :]

    @property
    def repeats(self) -> int:
        """The number of repetitions of the cross-validation, R."""
        return len(self.held_out)

    def mean_held_out(self) -> Tensor:
        """Return the mean of each row's predictions in ``held_out``: shape ``(n,)``."""
        return self.target.mean(self.target.bounded(self.held_out))

    def results(self) -> dict[str, Any]:
        """Return the figures of results.json."""
        metric, n = self.data.metric, len(self.names)

        def pooled(predictions: Tensor) -> float:
            return score(predictions, self.data.labels, metric, self.target.floor).item()

        train, val = f"train_{metric}", f"val_{metric}"
        return {
            "shapes": {name: list(shape) for name, shape in self.data.shapes.items()},
            "columns": len(self.data.kinds),
            "features": len(self.data.feature_names),
            "metric": metric,
            "folds": [{train: t, val: v} for t, v in zip(self.train[:n], self.val, strict=True)],
            train: fmean(self.train[:n]),
            val: fmean(self.val),
            f"final_{train}": fmean(self.train[n:]),
            # Over all training rows at once: of each repetition, and of the mean of the predictions.
            f"pooled_{val}": [pooled(each) for each in self.held_out],
            f"mean_pooled_{val}": pooled(self.mean_held_out()),
        }

    def out_of_fold(self) -> "pd.DataFrame":
        """Return the table of predictions by models that did not see the row, in the order of the file.

        Its columns are the id, the fold (of each repetition), the label, and ``prediction``, which is the
        mean over the repetitions.
        """
        import pandas as pd

        folds = torch.empty(self.held_out.shape, dtype=torch.long)
        for i, rows in enumerate(self.val_rows):
            folds[i // self.k, rows] = i % self.k + 1
        names = ["fold"] if self.repeats == 1 else [f"fold_{r}" for r in range(1, self.repeats + 1)]
        columns: dict[str, Any] = {
            self.data.id_name: self.data.train_ids,
            **dict(zip(names, folds.numpy(), strict=True)),
            self.data.label: self.data.labels.double().numpy(),
            "prediction": self.mean_held_out().double().numpy(),
        }
        return pd.DataFrame(columns)


def cross_validate(
    run: Run,
    data: KaggleTable,
    model: Callable[..., TableRegressor],
    k: int,
    folds: str = "contiguous",
    repeats: int = 1,
    final_models: int = 1,
) -> CrossValidation:
    """Train models on K folds, R times over, and models on all rows: all side by side in one fit.

    Args:
        run: The run.
        data: The table.
        model: Returns a model, given the number of features.
        k: Number of folds.
        folds: How rows are assigned to folds: in the file's order (contiguous), at random by the seed
            (shuffled), at random with labels of all sizes in each fold (stratified), or so that the rows with
            one value of a column are in one fold (group:COLUMN).
        repeats: Number of times that the cross-validation is repeated with other folds.
        final_models: Number of models that are trained on all rows, with other initial weights and orders of
            the rows. The submission has the mean of their predictions.

    Raises:
        InputError: If a number is out of its range, or a flag does not suit the data.
    """
    require_positive(final_models=final_models)
    refuse_precision(run.trainer_flags, "16-true", "labels may be above 65504, its greatest number")
    data.setup()
    check_batches(run.trainer_flags, data)  # before the first fit, which has other data
    train_rows, val_rows, names = make_folds(folds, k, data.labels, repeats, run.seed, data.groups)
    everything = torch.arange(data.num_train)
    finals = ["final"] if final_models == 1 else [f"final_{i}" for i in range(1, final_models + 1)]
    rows = {
        "train": [*train_rows, *[everything] * final_models],
        "val": [*val_rows, *[torch.arange(0)] * final_models],
    }
    encoders = [data.encoder_for(own) for own in rows["train"]]
    X, _ = data.stacked_features(rows["train"])
    members = {name: model(len(data.feature_names)) for name in [*names, *finals]}
    title = f"{k} folds and all rows" if repeats == 1 else f"{repeats} times {k} folds and all rows"
    settings: Any = {"averaged": names, "title": title, "prefix": ""}
    fit, trained = train_side_by_side(run, "folds", data, X, members, rows, **settings)
    metrics = fit.validate()
    log = data.metric == "log_rmse"
    target = Target(data.label, log, min(1.0, data.labels.min().item()) if log else 1.0)
    for each, encoder in zip(trained.values(), encoders, strict=True):
        each.encoding = saved_encoding(encoder, target, data.id, data.unused)
    final = [target.decode(fit.predict(trained[name], data)) for name in finals] if data.test_ids else []
    return CrossValidation(
        data=data,
        k=k,
        names=names,
        val_rows=val_rows,
        members=trained,
        encoders=encoders,
        target=target,
        fit=fit,
        train=metrics[f"train/{data.metric}"].tolist(),
        val=metrics[f"val/{data.metric}"].tolist()[: len(names)],
        held_out=held_out_predictions([trained[name] for name in names], X, val_rows, k),
        predictions=target.mean(torch.stack(final)) if final else None,
    )
