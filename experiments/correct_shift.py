"""A corrector of covariate shift for two CSV files, one with labels, one without (4.9, exercise 3)."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.batches import StackedBatches
from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_finite, require_positive
from d2l_lightning.figures import COLOURS, panels
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.module import SupervisedModule
from d2l_lightning.run import Run, run_experiment
from d2l_lightning.shift.comparison import (
    DomainSettings,
    epochs_for,
    estimate_and_detect,
    mean_1,
    overlap,
    whole_fit,
)

# Features that are shown: those that differ most.
SHOWN = 12


def main(
    run: Run,
    source: str,
    target: str,
    label: str,
    ignore: list[str],
    task: Literal["auto", "regression", "classification"],
    domain_hidden_sizes: list[int],
    domain_lr: float,
    domain_steps: int,
    k: int,
    cap: float,
    num_permutations: int,
    lr: float,
    steps: int,
    batch_size: int,
) -> None:
    """Detect covariate shift between two CSV files, and learn from the one for the other (4.9, exercise 3).

    Writes weights.csv, what each row of the source should weigh for any model of yours, and predictions.csv,
    what a linear model predicts for the target, trained with the weights and without. What both would reach
    on the target is estimated on the source's rows by weighted cross-validation.

    Args:
        run: The run.
        source: The CSV file with labels.
        target: The CSV file without; its other columns are the same.
        label: The column that is to be predicted.
        ignore: Columns that are no features, such as names and numbers of rows: `--ignore Id Name`.
        task: Whether labels are numbers (regression) or categories (classification); auto takes regression
            where all are numbers.
        domain_hidden_sizes: Hidden layers of the domain classifier; none for logistic regression.
        domain_lr: Adam's learning rate of the domain classifier.
        domain_steps: Steps of its training at least.
        k: Number of folds, of the cross-fitting and of the cross-validation.
        cap: The greatest weight, c.
        num_permutations: How often held-out rows are dealt out for the detector's p-value.
        lr: AdamW's learning rate of the model.
        steps: Steps of its training at least; fits end with an epoch, whatever `--max_epochs` says.
        batch_size: Rows in a batch.
    """
    require_positive(steps=steps)
    domain = DomainSettings(domain_hidden_sizes, domain_lr, domain_steps, k, cap, num_permutations)
    data = ShiftedTables(source, target, label, ignore, task, batch_size, run.seed)
    data.setup()
    n, d = data.num_source, data.X.shape[1]
    model: SupervisedModule = (
        SoftmaxRegression(d, len(data.classes), lr, optimizer="adamw")
        if data.classes
        else LinearRegression(d, lr, optimizer="adamw")
    )
    train, val = k_fold(n, k, run.seed)
    StackedBatches([*train, torch.arange(n)], batch_size, run.seed)  # what is wrong with these is told now
    estimated, detection = estimate_and_detect(run, data.X[:n], data.X[n:], domain)
    held_out, models = fit(run, data, model, mean_1(estimated.weights), train, val, steps)
    told = risks(data, held_out, estimated.weights)
    with run.file("weights.csv") as path:
        pd.DataFrame({"line": data.lines["source"], "weight": estimated.weights.numpy()}).to_csv(
            path, index=False
        )
    predicted = {name: predictions(data, member) for name, member in models.items()}
    with run.file("predictions.csv") as path:
        pd.DataFrame({"line": data.lines["target"], **predicted}).to_csv(path, index=False)
    for name in ("weights", "predictions"):
        run.artifact(f"{name}.csv", name)
    run.checkpoint(models["corrected"], "corrected")
    differences = mean_differences(data, estimated.weights)
    results = {
        "task": "classification" if data.classes else "regression",
        "source_rows": n,
        "target_rows": len(data.X) - n,
        "features": d,
        "detector": {"auc": detection.auc, "p_value": detection.p_value},
        "effective_sample_size": estimated.effective_sample_size,
        "uncovered": estimated.uncovered,
        "outside": data.outside,
        **told,
    }
    show(run, data, results, differences, "linear" if not domain_hidden_sizes else "neural")
    for note in [*estimated.warnings(), *notes(data, k)]:
        print(f"Note: {note}")
    run.figure(overlap(estimated), "weights")
    run.figure(balance(differences), "balance")
    run.finish(results)


def notes(data: ShiftedTables, k: int) -> list[str]:
    """Return what a person should know of the files: columns with other values, classes with few rows."""
    outside = sorted(((share, column) for column, share in data.outside.items()), reverse=True)
    told = [
        f"{share:.0%} of the target's rows lie outside what the source has in the column {column}."
        for share, column in outside[:SHOWN]
        if share > 0.05
    ]
    counts = torch.bincount(data.y).tolist() if data.classes else []
    return told + [
        f"The class {name} has {count} rows, fewer than the {k} folds: what is said of it is a guess."
        for name, count in zip(data.classes, counts, strict=True)
        if count < k
    ]


def fit(
    run: Run,
    data: ShiftedTables,
    model: SupervisedModule,
    weights: Tensor,
    train: Sequence[Tensor],
    val: Sequence[Tensor],
    steps: int,
) -> tuple[dict[str, Tensor], dict[str, SupervisedModule]]:
    """Train with and without weights, on k folds and on all rows, side by side.

    Returns:
        The loss of each row of the source by the model that did not see it, and the models of all rows; both
        by ``corrected`` and ``uncorrected``.
    """
    n, k = data.num_source, len(train)
    rows = [*train, torch.arange(n)]
    names = [f"{kind}_{fold}" for kind in ("corrected", "uncorrected") for fold in [*range(1, k + 1), "all"]]
    of_rows = torch.ones(len(names), n)
    of_rows[: len(rows)] = weights
    # Nothing is left out of the last: it is watched on the rows it learns from.
    stacked_data = StackedData(
        data.X[:n],
        data.y,
        {"train": rows * 2, "val": [*val, rows[-1]] * 2},
        data.batch_size,
        run.seed,
        same_order=True,
        weights={"train": of_rows, "val": weights.expand(len(names), -1)},
    )
    stacked = StackedModule([copy.deepcopy(model) for _ in names], names)
    whole_fit(run, "models", epochs_for(steps, n, data.batch_size))(stacked, stacked_data)
    members = dict(zip(names, stacked.unstack(), strict=True))
    held_out = {}
    for kind in ("corrected", "uncorrected"):
        losses = torch.empty(n)
        with torch.no_grad():
            for fold, of_fold in enumerate(val, start=1):
                member = members[f"{kind}_{fold}"].eval()
                losses[of_fold] = member.example_losses(data.X[of_fold], data.y[of_fold])
        require_finite(**{f"the loss of the {kind} model": losses})
        held_out[kind] = losses.double()
    return held_out, {kind: members[f"{kind}_all"].eval() for kind in held_out}


def risks(data: ShiftedTables, held_out: dict[str, Tensor], weights: Tensor) -> dict[str, float]:
    """Return what the models would reach on the source, and on the target by importance weighting.

    The standard error takes weights and models as given: it is that of the mean over the source's rows.

    Source: Sugiyama, Krauledat and Müller, "Covariate Shift Adaptation by Importance Weighted Cross
    Validation" (2007).
    """
    unit = 1.0 if data.classes else data.scale[1] ** 2
    shares = weights / weights.sum()
    gains = held_out["uncorrected"] - held_out["corrected"]
    gain = (shares * gains).sum()
    error = (shares * (gains - gain)).square().sum().sqrt()
    return {
        "risk_on_source": held_out["uncorrected"].mean().item() * unit,
        "risk_uncorrected": (shares * held_out["uncorrected"]).sum().item() * unit,
        "risk_corrected": (shares * held_out["corrected"]).sum().item() * unit,
        "gain": gain.item() * unit,
        "gain_standard_error": error.item() * unit,
    }


def mean_differences(data: ShiftedTables, weights: Tensor) -> list[tuple[str, float, float]]:
    """Return by how many standard deviations the target's mean of each feature is above the source's.

    Returns:
        Name, difference from the source as it is, and from the weighted source; the greatest before first.
    """
    n = data.num_source
    X = data.X.double()
    deviation = X.std(dim=0)
    deviation[deviation < 1e-6] = torch.inf
    target = X[n:].mean(dim=0)
    before = (target - X[:n].mean(dim=0)) / deviation
    after = (target - weights @ X[:n] / weights.sum()) / deviation
    order = before.abs().argsort(descending=True, stable=True).tolist()
    return [(data.feature_names[i], before[i].item(), after[i].item()) for i in order]


def predictions(data: ShiftedTables, model: SupervisedModule) -> Any:
    """Return what a model predicts for the target: numbers in the label's unit, or names of classes."""
    with torch.no_grad():
        output = model(data.X[data.num_source :])
    require_finite(predictions=output)
    if data.classes:
        return [data.classes[i] for i in output.argmax(dim=1).tolist()]
    mean, deviation = data.scale
    return (output.double() * deviation + mean).numpy()


def show(
    run: Run,
    data: ShiftedTables,
    results: dict[str, Any],
    differences: list[tuple[str, float, float]],
    classifier: str,
) -> None:
    """Print what was found: whether there is a shift, what weights do to it, and what they are worth."""
    detector = results["detector"]
    facts = [
        ("rows of the source", f"{results['source_rows']}"),
        ("rows of the target", f"{results['target_rows']}"),
        ("detector: AUC on held-out rows", f"{detector['auc']:.4f}"),
        ("detector: p-value", f"{detector['p_value']:.4f}"),
        ("effective sample size of the weighted source", f"{results['effective_sample_size']:.1f}"),
        ("target unlike any of the source", f"{results['uncovered']:.2%}"),
    ]
    advice = ", perhaps one with --domain_hidden_sizes 64 does" if classifier == "linear" else ""
    verdict = (
        f"Source and target differ: a {classifier} classifier tells them apart."
        if detector["p_value"] <= 0.05
        else f"A {classifier} classifier does not tell source and target apart{advice}."
    )
    run.table("source and target", ("", "figure"), facts, verdict)
    rows = [(name, f"{before:+.3f}", f"{after:+.3f}") for name, before, after in differences[:SHOWN]]
    title = "the target's mean above the source's, in standard deviations"
    run.table(title, ("feature", "as it is", "weighted"), rows)
    loss = "cross-entropy" if data.classes else f"mean squared error of {data.label}"
    figures = [
        ("on the source, as it is", f"{results['risk_on_source']:.6g}"),
        ("on the target, trained as it is", f"{results['risk_uncorrected']:.6g}"),
        ("on the target, trained with weights", f"{results['risk_corrected']:.6g}"),
    ]
    gain, error = results["gain"], results["gain_standard_error"]
    clear = "" if abs(gain) > 2 * error else "; that is no clear difference"
    does = "lower" if gain > 0 else "raise"
    note = f"Weights {does} the risk by {abs(gain):.3g}, with a standard error of {error:.3g}{clear}."
    if not gain:
        note = "Weights change nothing."
    run.table(f"{loss}, estimated on held-out rows of the source", ("", "risk"), figures, note)


def balance(differences: list[tuple[str, float, float]]) -> Figure:
    """Draw how far the means of the features are apart, before and after weighting."""
    shown = differences[:SHOWN][::-1]
    figure, (panel,) = panels(
        [""],
        "How far the target's means are from the source's",
        "difference of means (standard deviations)",
        "",
    )
    places = range(len(shown))
    for place, (_, before, after) in zip(places, shown, strict=True):
        panel.plot([before, after], [place, place], color="0.8", linewidth=1.5, zorder=1)
    panel.plot([before for _, before, _ in shown], places, "o", color=COLOURS[0], label="source as it is")
    panel.plot([after for *_, after in shown], places, "D", color=COLOURS[1], label="weighted source")
    panel.axvline(0, color="0.4", linewidth=1)
    panel.set_yticks(
        list(places), [name if len(name) <= 24 else f"{name[:23]}…" for name, _, _ in shown], parse_math=False
    )
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
