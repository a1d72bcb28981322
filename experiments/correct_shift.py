"""A corrector of covariate shift between two CSV files, one with labels, one without (4.9, exercise 3)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.plots.shift import MAX_FEATURES, balance, overlap
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags
from d2l_lightning.shift.comparison import shift_results, shift_table
from d2l_lightning.shift.correction import WeightedCrossValidation, feature_differences
from d2l_lightning.shift.covariate import Detection, estimate_and_detect
from d2l_lightning.shift.domain import DomainSettings
from d2l_lightning.tabular.models import Target, saved_encoding

import torch


def linear_model(data: ShiftedTables, lr: float = 0.01) -> SupervisedModule:
    """Return an untrained linear model: softmax regression for classes, linear regression for numbers.

    Args:
        data: The data.
        lr: AdamW's learning rate of the model.
    """
    num_features = data.X.shape[1]
    if data.classes:
        return SoftmaxRegression(num_features, len(data.classes), lr, optimizer="adamw")
    return LinearRegression(num_features, lr, optimizer="adamw")


def main(
    run: Run,
    source: str | Path,
    target: str | Path,
    label: str,
    data: Callable[..., ShiftedTables] = ShiftedTables,
    model: Callable[..., SupervisedModule] = linear_model,
    domain: Callable[..., DomainSettings] = DomainSettings,
    cross_validation: Callable[..., WeightedCrossValidation] = WeightedCrossValidation,
) -> None:
    """Detect covariate shift between two CSV files, and train on the source for the target (4.9, exercise 3).

    Writes weights.csv, a weight of each row of the source for any model, and predictions.csv, the predictions
    of a linear model for the target, trained with weights and without. The risks of both on the target are
    estimated on the source by importance-weighted cross-validation.

    Args:
        run: The run.
        source: The CSV file with labels.
        target: The CSV file without labels; its other columns are the same.
        label: The column to predict.
        data: The data.
        model: The model.
        domain: The settings of the domain classifiers.
        cross_validation: The training and evaluation of the model.
    """
    import pandas as pd

    refuse_flags(run.trainer_flags, "--steps says how long to train", {"max_epochs", "min_epochs"})
    settings, tables = domain(), data(source, target, label, seed=run.seed)
    tables.setup()
    X, new = tables.X[: tables.num_source], tables.X[tables.num_source :]
    validation = cross_validation(model(tables), X, tables.y, seed=run.seed)
    estimated, detection = estimate_and_detect(run.fit, X, new, settings, seed=run.seed)
    correction = validation.fit(run.fit, estimated.weights)
    with torch.no_grad():
        models = correction.models.items()
        predictions = {kind: tables.decode(each(new.to(each.dtype)).to(new.dtype)) for kind, each in models}
    target_of_models = Target(label, scale=tables.scale, classes=tables.classes)
    for each in correction.models.values():
        each.encoding = saved_encoding(tables.encoder, target_of_models)
    differences = feature_differences(tables.feature_names, X, new, estimated.weights)
    risks = correction.risks(tables.loss_unit)
    weights = pd.DataFrame({"line": tables.lines["source"], "weight": estimated.weights.numpy()})
    predicted = pd.DataFrame({"line": tables.lines["target"], **predictions})
    note = verdict(detection, settings)
    weights_figure = partial(overlap, estimated.source_scores, estimated.target_scores, estimated.weights)
    run.finish(
        {
            "task": "classification" if tables.classes else "regression",
            "source_rows": len(X),
            "target_rows": len(new),
            "features": X.shape[1],
            **shift_results(estimated, detection),
            "outside": tables.outside,
            **risks,
        },
        products={"weights.csv": weights, "predictions.csv": predicted},
        checkpoints={"corrected": correction.models["corrected"]},
        figures={"weights": weights_figure, "balance": partial(balance, differences)},
        tables=[shift_table(estimated, detection, note=note), *correction_tables(differences, risks, tables)],
        notes=[f"Note: {warning}" for warning in [*estimated.warnings(), *tables.warnings(settings.k)]],
    )


def verdict(detection: Detection, settings: DomainSettings) -> str:
    """Return a sentence on whether there is a shift."""
    classifier = "neural" if settings.domain_hidden_sizes else "linear"
    if detection.p_value <= 0.05:
        return f"Source and target differ: a {classifier} classifier separates them."
    advice = "; try one with --domain_hidden_sizes 64" if classifier == "linear" else ""
    return f"A {classifier} classifier does not separate source and target{advice}."


def correction_tables(
    differences: Sequence[tuple[str, float, float]], risks: dict[str, float], data: ShiftedTables
) -> list[Table]:
    """Return a table of the features whose means differ most and one of the models' risks."""
    features = [(name, f"{before:+.3f}", f"{after:+.3f}") for name, before, after in differences]
    names = {
        "risk_on_source": "on the source, trained without weights",
        "risk_uncorrected": "on the target, trained without weights",
        "risk_corrected": "on the target, trained with weights",
    }
    rows = [(name, f"{risks[risk]:.6g}") for risk, name in names.items()]
    gain, error = risks["gain"], risks["gain_standard_error"]
    change = f"Weights {'lower' if gain > 0 else 'raise'} the loss on the target by {abs(gain):.3g}"
    unclear = "" if abs(gain) > 2 * error else ", so the difference is not significant"
    note = f"{change}, with a standard error of {error:.3g}{unclear}." if gain else "Weights change nothing."
    loss = "cross-entropy" if data.classes else f"mean squared error of {data.label}"
    title = "mean of the target minus mean of the source, in standard deviations"
    return [
        Table(title, ("feature", "source without weights", "source with weights"), features[:MAX_FEATURES]),
        Table(f"{loss}, estimated on held-out rows of the source", ("model", "loss"), rows, note),
    ]


if __name__ == "__main__":
    run_experiment(main)
