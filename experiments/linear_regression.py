"""Linear regression: from scratch, with the framework's parts, and by its analytic solution (3.1 to 3.5)."""

import math
import statistics
from typing import Any, Literal

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.functional.linear import least_squares
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.run import Run, run_experiment

# What Sections 3.4.4 and 3.5.4 print: the errors of w1, w2 and b, truth minus estimate.
BOOK_W, BOOK_B = (2.0, -3.4), 4.2
BOOK = {"scratch": (0.1408, -0.1493, 0.2130), "concise": (0.0094, -0.0030, 0.0137)}
NOTE = (
    "At the same lr, concise is ahead where its loss is the framework's squared error, without the factor of "
    "a half: its steps are twice as long. The book's random state is not told; its errors are one draw."
)
# Section 3.5.6, exercise 5.
AMOUNTS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DRAWS = 25


def main(
    run: Run,
    w: list[float],
    b: float,
    noise: float,
    num_train: int,
    num_val: int,
    batch_size: int,
    lr: float,
    sigma: float,
    loss: Literal["squared", "half_squared", "absolute", "huber"],
    huber_threshold: float,
    loader: Literal["framework", "scratch"],
) -> None:
    """Find the weights of synthetic data from scratch, concisely, and analytically (3.1 to 3.5).

    Args:
        run: The run.
        w: The true weights, as in `--w 2 -3.4`.
        b: The true bias.
        noise: Standard deviation of the noise.
        num_train: Number of rows to train on.
        num_val: Number of rows to validate on.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD, for both models.
        sigma: Standard deviation of the initial weights.
        loss: Loss of the concise model; the model from scratch has half the squared error.
        huber_threshold: Errors above it count by their absolute value, with `--loss huber` (eq. 3.5.1).
        loader: Who makes the batches: PyTorch's DataLoader (framework), or plain Python (scratch). They are
            the same batches.
    """
    data = SyntheticRegressionData(w, b, noise, num_train, num_val, batch_size, run.seed, loader)
    d = len(w)
    models: dict[str, LinearRegressionScratch | LinearRegression] = {
        "scratch": LinearRegressionScratch(d, lr, sigma),
        "concise": LinearRegression(d, lr, loss, sigma, huber_threshold=huber_threshold),
    }
    X, y = data.X[:num_train], data.y[:num_train]
    estimates = {"analytic": solve(X, y)}
    board = ProgressBoard(
        every_n=max(1, math.ceil(num_train / batch_size) // 8),
        title="Linear regression: loss while training",
        ylabel="loss (each model's own)",
        yscale="log",
    )
    for name, model in models.items():
        model.log_prefix = f"{name}/"
        trainer = run.trainer(f"model: {name}", [board])
        trainer.fit(model, data)
        if num_val:
            run.evaluate(model, data)
        run.checkpoint(model, name)
        estimates[name] = model.get_w_b()

    results: dict[str, Any] = {"models": {}}
    for name in (*models, "analytic"):
        w_hat, b_hat = estimates[name]
        results["models"][name] = {
            "w_error": (data.w - w_hat.cpu()).tolist(),
            "b_error": data.b - b_hat.item(),
        }
    results["amounts"] = errors_by_amount(w, b, noise, run.seed)
    run.figure(board.figure(), "learning_curves")
    run.figure(draw_errors(results["amounts"]), "error_by_amount")
    show_table(run, results["models"], book=(tuple(w), b) == (BOOK_W, BOOK_B))
    run.finish(results)


def solve(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights ``(d,)`` and the bias ``()`` of least squared loss: a column of ones finds it."""
    solution = least_squares(pad(X, (0, 1), value=1.0), y)
    return solution[:-1], solution[-1]


def errors_by_amount(w: list[float], b: float, noise: float, seed: int) -> dict[str, list[float]]:
    """Return how far off the analytic solution is for more and more rows: medians over several draws."""
    amounts: dict[str, list[float]] = {"n": [], "w_error": [], "b_error": []}
    for n in (n for n in AMOUNTS if n > len(w) + 1):
        data = SyntheticRegressionData(w, b, noise, num_train=n * DRAWS, num_val=0, seed=seed)
        errors = []
        for X, y in zip(data.X.split(n), data.y.split(n), strict=True):
            w_hat, b_hat = solve(X, y)
            errors.append(((data.w - w_hat).norm().item(), abs(data.b - b_hat.item())))
        amounts["n"].append(n)
        amounts["w_error"].append(statistics.median(w_error for w_error, _ in errors))
        amounts["b_error"].append(statistics.median(b_error for _, b_error in errors))
    return amounts


def draw_errors(amounts: dict[str, list[float]]) -> Figure:
    """Draw the errors of the analytic solution over the amount of data."""
    figure, (panel,) = panels(
        [""],
        f"Linear regression: error of the analytic solution, median of {DRAWS} draws",
        "rows to learn from, n",
        "distance from the truth",
    )
    n, w_error, b_error = amounts.values()
    draw_curves(panel, [("weights (Euclidean norm)", n, w_error), ("bias", n, b_error)])
    if n and w_error[0] > 0:
        fall = [w_error[-1] * math.sqrt(n[-1] / each) for each in n]
        panel.plot(n, fall, color="0.6", linewidth=1, label="falls as 1 / sqrt(n)", zorder=0)
        log_scale(panel, "y")
    log_scale(panel, "x")
    panel.legend(frameon=False)
    return figure


def show_table(run: Run, models: dict[str, dict[str, Any]], book: bool) -> None:
    """Print the errors of weights and bias, beside the book's where the truth is the book's."""
    d = len(models["analytic"]["w_error"])
    shown = min(d, 3)
    columns = ["", *(f"w{i}" for i in range(1, shown + 1)), "b"]
    rows: list[list[str | float]] = []
    for name, errors in models.items():
        row: list[str | float] = [name, *errors["w_error"][:shown], errors["b_error"]]
        if book:
            row += [f"{error:.4f}" for error in BOOK[name]] if name in BOOK else ["", "", ""]
        rows.append(row)
    if book:
        columns += ["book: w1", "book: w2", "book: b"]
    more = f" (the first {shown} of {d} weights)" if shown < d else ""
    run.table(f"truth minus estimate{more}", columns, rows, NOTE)


if __name__ == "__main__":
    run_experiment(main)
