"""Polynomials that fit, underfit and overfit a cubic, and how to choose among them (3.6, 4.4)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.functional.linear import least_squares, linear
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.run import Run, run_experiment

# What Section 4.4.4 prints: the first weights of each degree's fit.
BOOK = {
    3: (4.998419, 1.2171801, -3.3890183, 5.6006956),
    1: (2.6286998, 4.698787),
    19: (4.9748263, 1.342102, -3.316707, 5.018786),
}
BOOK_W = [5.0, 1.2, -3.4, 5.6]
# What the book calls these degrees of a cubic.
VERDICTS = {3: ": fits", 1: ": underfits", 19: ": overfits"}
NOTE = "Losses are half the squared error."
NOTE_HALF = (
    " The book's framework minimises that, and this run's the whole square: at the same lr, steps are half "
    "as long in the row 'half the loss'. How near they come then depends on the draw; the book's is not told."
)
# Rows to learn from in exercise 2, and how many draws of each.
AMOUNTS = (25, 50, 100, 200, 400, 800)
DRAWS = 25

Loss = Literal["squared", "half_squared"]


def main(
    run: Run,
    w: list[float],
    noise: float,
    num_train: int,
    num_val: int,
    degrees: list[int],
    epochs: list[int],
    batch_size: int,
    lr: float,
    sigma: float,
    loss: Loss,
    k: int,
    max_degree: int,
) -> None:
    """Fit polynomials of several degrees to a cubic, and choose a degree by cross-validation (3.6, 4.4).

    Args:
        run: The run.
        w: The true weights of x^i / i!, as in `--w 5 1.2 -3.4 5.6`.
        noise: Standard deviation of the noise.
        num_train: Number of rows to train on.
        num_val: Number of rows to test on.
        degrees: Degree of each polynomial that is fitted, as in `--degrees 3 1 19`.
        epochs: Epochs of each of these fits, as many as there are degrees. (`--max_epochs` is for the
            cross-validation.)
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        loss: The framework's squared error, or half of it.
        k: Number of folds of the cross-validation.
        max_degree: The highest degree that the cross-validation tries.
    """
    if len(degrees) != len(epochs) or not degrees:
        raise InputError(f"degrees and epochs must be as many, at least one: {degrees} and {epochs}")
    if len(set(degrees)) < len(degrees):
        raise InputError(f"degrees must name each degree once, not {degrees}")
    require_not_negative(degrees=min(degrees), max_degree=max_degree)
    require_positive(epochs=min(epochs), num_val=num_val)
    highest = max(*degrees, max_degree)
    cubic = partial(PolynomialData, w=w, noise=noise, batch_size=batch_size, seed=run.seed)
    data = cubic(highest, num_train=num_train, num_val=num_val)

    def model(degree: int, loss: Loss = loss) -> LinearRegression:
        return LinearRegression(degree + 1, lr, loss, sigma, bias=False)

    def fit(name: str, degree: int, num_epochs: int, loss: Loss = loss) -> dict[str, Any]:
        fitted = model(degree, loss)
        fitted.log_prefix = f"{name}/"
        of_degree = cubic(degree, num_train=num_train, num_val=num_val, watch_train=True)
        trainer = run.trainer(f"degree {name.replace('_', ' ')}", max_epochs=num_epochs)
        trainer.fit(fitted, of_degree)
        found = run.evaluate(fitted, of_degree)
        run.checkpoint(fitted, f"degree_{name}")
        return {
            "weights": fitted.get_w_b()[0].tolist(),
            "train_loss": found["train/squared_loss"].item(),
            "test_loss": found["val/squared_loss"].item(),
        }

    # Before anything is trained: what is wrong is told at once.
    candidates = Candidates(data, model, max_degree, k, run.seed)
    exact = exact_losses(data, max_degree)
    amounts = exact_by_amount(degrees, cubic)
    fits = {str(degree): fit(str(degree), degree, n) for degree, n in zip(degrees, epochs, strict=True)}
    # Beside the book's own loss, if it is the book's cubic.
    halved = {}
    if loss == "squared" and 3 in degrees and w == BOOK_W:
        halved["3"] = fit("3_half", 3, epochs[degrees.index(3)], "half_squared")

    selection = candidates.cross_validate(run)
    show_tables(run, fits, halved, selection, w, k)
    run.figure(learning_curves(run.history, degrees, VERDICTS if w == BOOK_W else {}), "learning_curves")
    run.figure(loss_by_degree(selection, exact, k), "loss_by_degree")
    if amounts:
        run.figure(loss_by_amount(amounts), "loss_by_amount")
    run.finish(
        {"fits": fits, "half_squared": halved, "selection": selection, "exact": exact, "amounts": amounts}
    )


class Candidates:
    """All degrees up to a highest, each on every fold, to be trained side by side.

    Args:
        data: Data of at least the highest degree.
        model: Makes a model of a degree.
        max_degree: The highest degree.
        k: Number of folds.
        seed: Seed of the order of the rows.
    """

    def __init__(
        self,
        data: PolynomialData,
        model: Callable[[int], LinearRegression],
        max_degree: int,
        k: int,
        seed: int,
    ) -> None:
        self.k, self.degrees = k, range(max_degree + 1)
        train_rows, val_rows = k_fold(data.num_train, k)
        X, y = data.X[: data.num_train, : max_degree + 1], data.y[: data.num_train]
        # A member's features beyond its degree are zero, so their weights neither learn nor count.
        within = torch.arange(max_degree + 1) <= torch.arange(max_degree + 1)[:, None]
        own = (X * within[:, None]).repeat_interleave(k, dim=0)
        names = [f"degree_{degree}_fold_{fold}" for degree in self.degrees for fold in range(1, k + 1)]
        rows = {"train": train_rows * len(self.degrees), "val": val_rows * len(self.degrees)}
        y = y.expand(len(names), -1)
        self.data = StackedData(own, y, rows, data.batch_size, seed, same_order=True)
        self.members = StackedModule([model(max_degree) for _ in names], names)
        self.members.log_prefix = "selection/"

    def cross_validate(self, run: Run) -> dict[str, Any]:
        """Return the mean losses of each degree over the folds, and the degree with the least."""
        trainer = run.trainer(f"{self.k}-fold cross-validation of {len(self.degrees)} degrees")
        trainer.fit(self.members, self.data)
        found = run.evaluate(self.members, self.data)
        train, val = (
            found[f"{stage}/squared_loss"].view(len(self.degrees), self.k).mean(dim=1)
            for stage in ("train", "val")
        )
        return {"degree": int(val.argmin()), "train_loss": train.tolist(), "val_loss": val.tolist()}


def exact_fit(X: Tensor, y: Tensor, num_train: int) -> tuple[float, float]:
    """Return the loss in training and in test of the weights that minimise the former (exercise 1)."""
    w = least_squares(X[:num_train], y[:num_train])
    losses = squared_loss(linear(X, w), y)
    return losses[:num_train].mean().item(), losses[num_train:].mean().item()


def exact_losses(data: PolynomialData, max_degree: int) -> dict[str, list[float]]:
    """Return the losses of the exact fits, from degree 0 to the last that the training rows determine."""
    losses: dict[str, list[float]] = {"train_loss": [], "test_loss": []}
    for degree in range(max_degree + 1):
        try:
            train, test = exact_fit(data.X[:, : degree + 1].double(), data.y.double(), data.num_train)
        except InputError:  # the rank is below the number of features
            break
        losses["train_loss"].append(train)
        losses["test_loss"].append(test)
    return losses


def exact_by_amount(
    degrees: list[int], cubic: Callable[..., PolynomialData]
) -> dict[str, dict[str, list[float]]]:
    """Return the median loss of exact fits over several draws, for more and more rows (exercise 2)."""
    amounts: dict[str, dict[str, list[float]]] = {}
    for degree in degrees:
        told: dict[str, list[float]] = {"n": [], "train_loss": [], "test_loss": []}
        for n in AMOUNTS:
            data = cubic(degree, num_train=2 * n * DRAWS, num_val=0)
            draws = zip(data.X.double().split(2 * n), data.y.double().split(2 * n), strict=True)
            try:
                losses = torch.tensor([exact_fit(X, y, n) for X, y in draws])
            except InputError:  # too few rows for the degree
                continue
            for name, value in zip(told, (n, *losses.median(dim=0).values.tolist()), strict=True):
                told[name].append(value)
        if told["n"]:
            amounts[str(degree)] = told
    return amounts


def show_tables(
    run: Run,
    fits: dict[str, dict[str, Any]],
    halved: dict[str, dict[str, Any]],
    selection: dict[str, Any],
    w: list[float],
    k: int,
) -> None:
    """Print the fits beside the book's weights, and the degrees beside each other."""
    rows: list[tuple[str | float, ...]] = []

    def add(name: str, weights: Sequence[float], *losses: float | str) -> None:
        first = [f"{weight:.3f}" for weight in weights[:4]]
        rows.append((name, *first, *[""] * (4 - len(first)), *losses))

    for degree, found in fits.items():
        add(degree, found["weights"], found["train_loss"], found["test_loss"])
        if degree in halved:
            half = halved[degree]
            add("  half the loss", half["weights"], half["train_loss"], half["test_loss"])
        if w == BOOK_W and int(degree) in BOOK:
            add("  book", BOOK[int(degree)], "", "")
    columns = ("degree", "w0", "w1", "w2", "w3", "train loss", "test loss")
    run.table("weights and losses of polynomials", columns, rows, NOTE + NOTE_HALF * bool(halved))
    by_degree = [
        (f"{degree}{' *' if degree == selection['degree'] else ''}", train, val)
        for degree, (train, val) in enumerate(
            zip(selection["train_loss"], selection["val_loss"], strict=True)
        )
    ]
    run.table(
        f"loss by degree, {k}-fold cross-validation",
        ("degree", "train loss", "val loss"),
        by_degree,
        f"* the least validation loss: degree {selection['degree']}; the truth has {len(w) - 1}",
    )


def learning_curves(history: History, degrees: list[int], verdicts: dict[int, str]) -> Figure:
    """Draw the losses in training and test of each degree."""
    figure, axes = panels(
        [f"degree {degree}{verdicts.get(degree, '')}" for degree in degrees],
        "Polynomial regression: loss after each epoch",
        "epoch",
        "half the squared error",
    )
    for panel, degree in zip(axes, degrees, strict=True):
        stages = {"training rows": "train", "test rows": "val"}
        draw_curves(
            panel,
            [(name, *history.curve(f"{degree}/{stage}/squared_loss")) for name, stage in stages.items()],
        )
        log_scale(panel)
    axes[-1].legend(frameon=False)
    return figure


def loss_by_degree(selection: dict[str, Any], exact: dict[str, list[float]], k: int) -> Figure:
    """Draw the losses of all degrees, after training and in the exact solution."""
    figure, axes = panels(
        [f"minibatch SGD, {k}-fold cross-validation", "exact solution"],
        "Polynomial regression: loss against degree",
        "degree",
        ["half the squared error, mean of the folds", "half the squared error"],
    )
    held_out = {"rows left out": selection["val_loss"], "test rows": exact["test_loss"]}
    train = [selection["train_loss"], exact["train_loss"]]
    for panel, (name, losses), of_train in zip(axes, held_out.items(), train, strict=True):
        degrees = list(range(len(losses)))
        draw_curves(panel, [("training rows", degrees, of_train), (name, degrees, losses)])
        for line in panel.lines:
            line.set(marker="o", markersize=3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        log_scale(panel)
        panel.legend(frameon=False)
    return figure


def loss_by_amount(amounts: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw the losses of exact fits over the amount of data."""
    figure, axes = panels(
        [f"degree {degree}" for degree in amounts],
        f"Polynomial regression, exact solution: loss against amount of data, median of {DRAWS} draws",
        "rows to learn from",
        ["half the squared error", *[""] * (len(amounts) - 1)],
    )
    for panel, (n, train, test) in zip(axes, (told.values() for told in amounts.values()), strict=True):
        draw_curves(panel, [("training rows", n, train), ("test rows", n, test)])
        for line in panel.lines:
            line.set(marker="o", markersize=3)
        if all(math.isfinite(value) and value > 0 for value in (*train, *test)):
            log_scale(panel)
        log_scale(panel, "x")
    axes[-1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
