"""What a cross-validation of a table leaves in its run folder, and what it shows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.plots.cross_validation import fold_curves, label_distributions
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.plots.tables import importance_figure
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import CrossValidation
from d2l_lightning.tabular.diagnostics import diagnostic_figures
from d2l_lightning.tabular.importance import permutation_importance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIRST_ROWS, FIRST_COLUMNS, LAST_COLUMNS = 4, 4, 3  # that are shown, as in Section 4.10.3
MOST_LETTERS = 20  # of a value in them
METRIC_NAMES = {"rmse": "RMSE", "log_rmse": "log RMSE", "mae": "mean absolute error"}


def finish(
    run: Run,
    cv: CrossValidation,
    results: dict[str, Any],
    title: str,
    label: str,
    tables: Sequence[Table],
) -> None:
    """End the run of a cross-validation.

    Args:
        run: The run.
        cv: The cross-validation.
        results: Its results.
        title: What the table is about, for titles of figures.
        label: What is predicted, with its unit, for axes of figures.
        tables: The tables to print.
    """
    data = cv.data
    members = [cv.members[name] for name in cv.names]
    encoders = cv.encoders[: len(members)]
    importance = permutation_importance(
        data.raw.iloc[: data.num_train],
        *(data.labels, encoders, members, cv.val_rows, data.metric, run.seed, cv.target.floor),
    )
    products = {"oof_predictions.csv": cv.out_of_fold(), "importance.csv": importance}
    if cv.predictions is not None:
        products = {"submission.csv": data.submission(cv.predictions), **products}
    run.finish(
        results,
        products=products,
        checkpoints=cv.members,
        tables=tables,
        notes=[f"Note: {warning}" for warning in data.warnings()],
        figures=_figures(cv, importance, title, label),
    )


def _figures(
    cv: CrossValidation, importance: "pd.DataFrame", title: str, label: str
) -> "dict[str, Callable[[], Figure]]":
    """Return functions that draw the figures of the run, by their name."""
    metric, fit = cv.data.metric, cv.fit
    name = METRIC_NAMES[metric]
    stages = {"training rows": f"train/{metric}", "validation rows": f"val/{metric}"}
    means = {stage: ("mean of folds", *fit.curve(logged)) for stage, logged in stages.items()}
    heading = f"{title}: {cv.k}-fold cross-validation"
    curves: dict[str, list[Curve]] = {
        stage: [(member.replace("_", " "), *fit.curve(f"{logged}/{member}")) for member in cv.names]
        for stage, logged in stages.items()
    }
    final = [(each.replace("_", " "), *fit.curve(f"train/{metric}/{each}")) for each in cv.final_names]
    final_labels = (f"{title}: fit on all training rows", {"": final}, "epoch", f"{name}, training rows")
    columns, increases, errors = (importance[column].tolist() for column in list(importance))
    predictions, labels = cv.mean_held_out(), cv.data.labels
    drawn: dict[str, Callable[[], Figure]] = {
        "learning_curves": partial(fold_curves, means, curves, heading, name),
        "final_fit": partial(curve_figure, *final_labels, yscale="log", legend="none"),
        "importance": partial(importance_figure, columns, increases, errors, name),
        **diagnostic_figures(predictions, labels, cv.val_rows[: cv.k], metric, label),
    }
    if cv.predictions is not None:
        drawn["predictions"] = partial(label_distributions, labels, cv.predictions, title, label)
    return drawn


def data_tables(data: KaggleTable) -> list[Table]:
    """Return the sizes of the files, and the first rows of the training file (Section 4.10.3)."""
    rows: list[tuple[str | float, ...]] = [
        ({"train": "training file"}.get(name, f"{name} file"), *map(str, shape))
        for name, shape in data.shapes.items()
    ]
    note = f"{len(data.kinds)} columns become {len(data.feature_names)} features of the model."
    sizes = Table("sizes of the files", ("", "rows", "columns"), rows, note)
    table = data.training_table.iloc[:FIRST_ROWS]
    if table.shape[1] > FIRST_COLUMNS + LAST_COLUMNS:
        table = table.iloc[:, [*range(FIRST_COLUMNS), *range(-LAST_COLUMNS, 0)]]
    texts = table.fillna("NA").to_numpy().tolist()
    cells = [[text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…" for text in t] for t in texts]
    title = "first rows of the training file, some columns"
    return [sizes, Table(title, list(map(str, table.columns)), cells)]


def fold_names(results: dict[str, Any]) -> list[str]:
    """Return the names of the folds in the results, for a table."""
    repeats = len(results[f"pooled_val_{results['metric']}"])
    k = len(results["folds"]) // repeats
    of_repeat = [f", repeat {r}" for r in range(1, repeats + 1)] if repeats > 1 else [""]
    return [f"fold {fold}{repeat}" for repeat in of_repeat for fold in range(1, k + 1)]


def pooled_note(results: dict[str, Any]) -> str:
    """Return a sentence on the metric over all rows at once."""
    metric = results["metric"]
    pooled, of_mean = results[f"pooled_val_{metric}"], results[f"mean_pooled_val_{metric}"]
    if len(pooled) == 1:
        return f"Validation over the rows of all folds together: {of_mean:.6f}."
    each = ", ".join(f"{value:.6f}" for value in pooled)
    together = f"Validation over the rows of all folds together, by repeat: {each}"
    return f"{together}; with the mean of the repeats' predictions: {of_mean:.6f}."


def fold_table(results: dict[str, Any]) -> Table:
    """Return the metric of each fold and its mean."""
    metric = results["metric"]
    train, val, final = f"train_{metric}", f"val_{metric}", f"final_train_{metric}"
    folds = zip(fold_names(results), results["folds"], strict=True)
    rows = [(name, fold[train], fold[val]) for name, fold in folds]
    rows += [("average", results[train], results[val]), ("all rows", results[final], "")]
    title = f"{METRIC_NAMES[metric]}, {results['features']} features"
    return Table(title, ("rows", "training", "validation"), rows, pooled_note(results))
