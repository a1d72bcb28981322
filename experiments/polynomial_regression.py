"""Polynomials that fit, underfit and overfit a cubic, and the choice of a degree (3.6, 4.4)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.ensemble.grid import cross_validation
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional import linear
from d2l_lightning.functional.polynomial import nested_features
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.regression import HALF_SQUARE, losses_by_amount, losses_by_degree
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch

# The first weights that Section 4.4.4 prints, rounded, and what it says about these polynomials, by degree.
BOOK = {"3": (4.998, 1.217, -3.389, 5.601), "1": (2.629, 4.699), "19": (4.975, 1.342, -3.317, 5.019)}
BOOK_W = [5.0, 1.2, -3.4, 5.6]
VERDICTS = {"3": ": fits", "1": ": underfits", "19": ": overfits"}
NOTE_HALF = (
    " The book's framework minimises that loss, as the row 'half the loss' does; the other rows minimise the "
    "squared error. At the same lr, steps on half the loss are half as long."
)
# Exercise 2 of Section 4.4: numbers of rows to learn from, and draws of each.
AMOUNTS = (25, 50, 100, 200, 400, 800)
DRAWS = 25
METRICS = {"train_loss": "train/squared_loss", "test_loss": "val/squared_loss"}


def polynomial_data(degree: int, **data: Any) -> PolynomialData:
    """Return the data; validation includes the training rows."""
    return PolynomialData(degree, watch_train=True, **data)


def polynomial_model(degree: int, lr: float = 0.01, **model: Any) -> LinearRegression:
    """Return a polynomial: a linear model of the powers, without a bias.

    Args:
        degree: The degree.
        lr: The learning rate of minibatch SGD.
        model: Other arguments of ``LinearRegression``.
    """
    return LinearRegression(degree + 1, lr, bias=False, optimizer="sgd", **model)


def main(
    run: Run,
    degrees: Sequence[int] = (3, 1, 19),
    epochs: Sequence[int] = (400, 400, 1500),
    k: int = 5,
    max_degree: int = 19,
    data: Callable[..., PolynomialData] = polynomial_data,
    model: Callable[..., LinearRegression] = polynomial_model,
) -> None:
    """Fit polynomials of several degrees to a cubic, and choose a degree by cross-validation (3.6, 4.4).

    Args:
        run: The run.
        degrees: The degrees of the polynomials to fit, as in `--degrees 3 1 19`.
        epochs: Epochs of each of these fits. (`--max_epochs` is for the cross-validation.)
        k: Number of folds of the cross-validation.
        max_degree: The highest degree that the cross-validation tries.
        data: The data.
        model: The model.
    """
    check(degrees, epochs, max_degree)
    data = partial(data, seed=run.seed)
    widest = data(max(*degrees, max_degree))
    require_positive(num_val=len(widest.rows["val"]))
    # All of this comes before the first fit, so that errors in the settings appear at once.
    features, y = widest.X[:, : max_degree + 1], widest.y
    names = [f"degree_{degree}" for degree in range(max_degree + 1)]
    X, n = nested_features(features[: widest.num_train]), widest.num_train
    folds = cross_validation(names, lambda: model(max_degree), X, y[:n], k, widest.batch_size, run.seed)
    losses = linear.nested_least_squares_losses(features.double(), y.double(), n)
    exact = dict(zip(METRICS, losses.T.tolist(), strict=True))
    amounts = {str(degree): exact_by_amount(partial(data, degree, num_val=0)) for degree in degrees}
    amounts = {degree: medians for degree, medians in amounts.items() if medians["n"]}

    models, fits, halved, panels = {}, {}, {}, {}
    is_book = widest.w.equal(torch.tensor(BOOK_W))
    for d, degree, num_epochs in zip(map(str, degrees), degrees, epochs, strict=True):
        models[d] = model(degree)
        fits[d], curves = fit(run, d, models[d], data(degree), num_epochs)
        panels[f"degree {d}{VERDICTS.get(d, '') * is_book}"] = curves
    if is_book and "3" in fits and models["3"].loss_name == "squared":
        models["3_half"] = model(3, loss="half_squared")
        halved["3"], _ = fit(run, "3_half", models["3_half"], data(3), epochs[degrees.index(3)])

    title = f"{k}-fold cross-validation of {max_degree + 1} degrees"
    metrics = run.fit("selection", *folds, title=title).validate()
    train, val = (metrics[metric].view(-1, k).mean(dim=1) for metric in METRICS.values())
    selection: dict[str, Any] = {"degree": int(val.argmin())}
    selection |= {"train_loss": train.tolist(), "val_loss": val.tolist()}

    title, labels = "Polynomial regression: loss after each epoch", ("epoch", HALF_SQUARE)
    figures = {
        "learning_curves": partial(curve_figure, title, panels, *labels, yscale="log"),
        "loss_by_degree": partial(losses_by_degree, selection, exact, k),
    }
    if amounts:
        figures["loss_by_amount"] = partial(losses_by_amount, amounts, DRAWS)
    run.finish(
        {"selection": selection, "exact": exact, "amounts": amounts, "fits": fits, "half_squared": halved},
        checkpoints={f"degree_{name}": each for name, each in models.items()},
        tables=[weights_table(fits, halved, is_book), degrees_table(selection, k, len(widest.w) - 1)],
        figures=figures,
    )


def check(degrees: Sequence[int], epochs: Sequence[int], max_degree: int) -> None:
    """Raise an InputError if the settings do not fit together."""
    if len(degrees) != len(epochs) or not degrees:
        raise InputError(f"degrees and epochs must have the same length, at least one: {degrees}, {epochs}")
    if len(set(degrees)) < len(degrees):
        raise InputError(f"degrees must name each degree once, not {degrees}")
    require_not_negative(degrees=min(degrees), max_degree=max_degree)
    require_positive(epochs=min(epochs))


def exact_by_amount(data: Callable[..., PolynomialData]) -> dict[str, list[float]]:
    """Return the losses of exact fits for more and more rows: medians over several draws."""
    return linear.medians_by_amount(
        lambda X, y: linear.least_squares_losses(X.double(), y.double(), len(y) // 2).float(),
        list(METRICS),
        lambda n: data(num_train=2 * n * DRAWS).parts(2 * n),  # as many rows to test on as to learn from
        AMOUNTS,
    )


def fit(
    run: Run, name: str, model: LinearRegression, data: PolynomialData, num_epochs: int
) -> tuple[dict[str, Any], list[Curve]]:
    """Return the weights, the losses and the learning curves of a polynomial, fitted by minibatch SGD."""
    title = f"degree {name.replace('_', ' ')}"
    fitted = run.fit(name, model, data, title=title, max_epochs=num_epochs)
    metrics = fitted.validate()
    losses = {loss: metrics[metric].item() for loss, metric in METRICS.items()}
    stages = zip(("training rows", "test rows"), METRICS.values(), strict=True)
    curves: list[Curve] = [(rows, *fitted.curve(metric)) for rows, metric in stages]
    return {"weights": model.get_w_b()[0].tolist(), **losses}, curves


def weights_table(fits: Mapping[str, Any], halved: Mapping[str, Any], is_book: bool) -> Table:
    """Return the first weights and the losses of all fits, beside the book's weights."""
    rows: list[Sequence[str | float]] = []
    for degree, results in fits.items():
        half = [("  half the loss", *halved[degree].values())] if degree in halved else []
        book = [("  book", BOOK[degree], "", "")] if is_book and degree in BOOK else []
        for name, weights, *losses in [(degree, *results.values()), *half, *book]:
            first = [f"{weight:.3f}" for weight in weights[:4]]
            rows.append((name, *first, *[""] * (4 - len(first)), *losses))
    columns = ("degree", "w0", "w1", "w2", "w3", "train loss", "test loss")
    note = "Losses are half the squared error." + NOTE_HALF * bool(halved)
    return Table("weights and losses of polynomials", columns, rows, note)


def degrees_table(selection: Mapping[str, Any], k: int, true_degree: int) -> Table:
    """Return the losses of all degrees in cross-validation."""
    best = selection["degree"]
    losses = enumerate(zip(selection["train_loss"], selection["val_loss"], strict=True))
    rows = [(f"{degree}{' *' * (degree == best)}", *of_degree) for degree, of_degree in losses]
    note = f"* the least validation loss: degree {best}; the true polynomial has degree {true_degree}"
    columns = ("degree", "train loss", "val loss")
    return Table(f"loss by degree, {k}-fold cross-validation", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
