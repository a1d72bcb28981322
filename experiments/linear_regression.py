"""Linear regression: from scratch, with the framework's parts, and by its analytic solution (3.1 to 3.5)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.functional.linear import least_squares_with_bias, medians_by_amount
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.plots.regression import errors_by_amount
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

# What Sections 3.4.4 and 3.5.4 print: the errors of w1, w2 and b, truth minus estimate.
BOOK_W, BOOK_B = [2.0, -3.4], 4.2
BOOK = {"scratch": (0.1408, -0.1493, 0.2130), "concise": (0.0094, -0.0030, 0.0137)}
# What Section 3.3 prints of its data: the first row, the shapes of a batch, and the number of batches.
BOOK_DATA = ("0.9026, 1.0264", "2.5148", "32, 2", "32, 1", "32", "")
NOTE = (
    "With the same learning rate, the concise model is ahead if its loss is the framework's squared error. "
    "That has no factor of a half, so its steps are twice as long. The errors of the book come from one seed."
)
# Section 3.5.6, exercise 5.
AMOUNTS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DRAWS = 25
Model = LinearRegressionScratch | LinearRegression


def synthetic_data(**data: Any) -> SyntheticRegressionData:
    """Return the data; validation leaves out the training rows."""
    return SyntheticRegressionData(watch_train=False, **data)


def concise_model(num_inputs: int, **model: Any) -> LinearRegression:
    """Return the concise model with a bias and plain SGD, as the model from scratch has them."""
    return LinearRegression(num_inputs, bias=True, optimizer="sgd", **model)


def main(
    run: Run,
    data: Callable[..., SyntheticRegressionData] = synthetic_data,
    scratch: Callable[..., LinearRegressionScratch] = LinearRegressionScratch,
    concise: Callable[..., LinearRegression] = concise_model,
) -> None:
    """Find the weights of synthetic data from scratch, concisely, and analytically (3.1 to 3.5).

    Args:
        run: The run.
        data: The data.
        scratch: The model from scratch.
        concise: The model made of the framework's parts.
    """
    rows = data(seed=run.seed)
    d, n = len(rows.w), rows.num_train
    models: dict[str, Model] = {"scratch": scratch(d), "concise": concise(d)}
    analytic = least_squares_with_bias(rows.X[:n], rows.y[:n])
    every_n, title = max(1, -(-n // rows.batch_size) // 8), "Linear regression: loss while training"
    board = ProgressBoard(every_n=every_n, title=title, ylabel="loss (each model's own)", yscale="log")
    for name, model in models.items():
        fit = run.fit(name, model, rows, title=f"model: {name}", callbacks=[board])
        if len(rows.rows["val"]):
            fit.validate()

    estimates = {**{name: model.get_w_b() for name, model in models.items()}, "analytic": analytic}
    errors: dict[str, dict[str, Any]] = {
        name: {"w_error": (rows.w - w.cpu()).tolist(), "b_error": rows.b - b.item()}
        for name, (w, b) in estimates.items()
    }
    amounts = analytic_errors(rows, partial(data, seed=run.seed, num_val=0))
    is_book = rows.w.equal(torch.tensor(BOOK_W)) and rows.b == BOOK_B
    by_amount = partial(errors_by_amount, amounts, DRAWS)
    seen = look_at(rows)
    run.finish(
        {"data": seen, "models": errors, "amounts": amounts},
        checkpoints=models,
        tables=[data_table(seen, is_book), comparison(errors, is_book)],
        figures={"learning_curves": board.figure, "error_by_amount": by_amount},
    )


def look_at(rows: SyntheticRegressionData) -> dict[str, Any]:
    """Return the first row, the shapes of the first batch, and the number and sizes of batches (3.3)."""
    batches = list(rows.train_dataloader())
    X, y = batches[0]
    return {
        "features": rows.X[0].tolist(),
        "label": rows.y[0].item(),
        "X_shape": list(X.shape),
        "y_shape": list(y.shape),
        "batches": len(rows.train_dataloader()),
        "last_batch": len(batches[-1][1]),
    }


def data_table(seen: Mapping[str, Any], is_book: bool) -> Table:
    """Return a table of what ``look_at`` found, beside the book's if the true weights are the book's."""
    cells = {
        "first row: features": ", ".join(f"{x:.4f}" for x in seen["features"][:3]),
        "first row: label": f"{seen['label']:.4f}",
        "batch: shape of X": ", ".join(map(str, seen["X_shape"])),
        "batch: shape of y": ", ".join(map(str, seen["y_shape"])),
        "batches": str(seen["batches"]),
        "rows in the last batch": str(seen["last_batch"]),
    }
    rows = [[*cell, *[book] * is_book] for cell, book in zip(cells.items(), BOOK_DATA, strict=True)]
    note = "Targets are a vector here, and a column in the book. The last batch has the rows that are left."
    return Table("the data", ["", "this run", *["book"] * is_book], rows, note)


def analytic_errors(
    truth: SyntheticRegressionData, data: Callable[..., SyntheticRegressionData]
) -> dict[str, list[float]]:
    """Return the errors of the analytic solution for more and more rows: medians over several draws."""

    def measure(X: Tensor, y: Tensor) -> Tensor:
        w, b = least_squares_with_bias(X, y)
        return torch.stack([(truth.w - w).norm().double(), (truth.b - b.double()).abs()])

    amounts, names = [n for n in AMOUNTS if n > len(truth.w) + 1], ["w_error", "b_error"]
    return medians_by_amount(measure, names, lambda n: data(num_train=n * DRAWS).parts(n), amounts)


def comparison(models: Mapping[str, Mapping[str, Any]], is_book: bool) -> Table:
    """Return the errors of weights and bias, beside the book's if the true weights are the book's."""
    d = len(models["analytic"]["w_error"])
    shown = min(d, 3)
    rows: list[list[str | float]] = []
    for name, errors in models.items():
        book = [f"{error:.4f}" for error in BOOK[name]] if name in BOOK else [""] * 3
        rows.append([name, *errors["w_error"][:shown], errors["b_error"], *book * is_book])
    columns = ["", *(f"w{i + 1}" for i in range(shown)), "b", *["book: w1", "book: w2", "book: b"] * is_book]
    first = f" (the first {shown} of {d} weights)" if shown < d else ""
    return Table(f"truth minus estimate{first}", columns, rows, NOTE)


if __name__ == "__main__":
    run_experiment(main)
