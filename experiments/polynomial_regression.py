"""Polynomials that fit, underfit and overfit a cubic, and the choice of a degree (3.6, 4.4)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.grid import cross_validation
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional import polynomial
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.regression import HALF_SQUARE, losses_by_degree
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
NOTE_EXACT = (
    "Losses are half the squared error. The exact solution has the least training loss of its degree. Where "
    "the loss of SGD is higher, SGD has not converged."
)
# A ratio of two losses that count as equal, and losses of rounding errors.
CONVERGED, ROUNDING = 1.01, 1e-20
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
    x, y, n = widest.x, widest.y, widest.num_train
    names = [f"degree_{degree}" for degree in range(max_degree + 1)]
    X = polynomial.nested_features(widest.X[:n, : max_degree + 1])
    folds = cross_validation(names, lambda: model(max_degree), X, y[:n], k, widest.batch_size, run.seed)
    exact = polynomial.exact_losses(x, y, n, max(degrees)).tolist()
    of_folds = polynomial.mean_fold_losses(x, y, *k_fold(n, k), max_degree).T.tolist()

    models, fits, halved, panels = {}, {}, {}, {}
    is_book = widest.w.equal(torch.tensor(BOOK_W)) and widest.basis == "factorial"
    for d, degree, num_epochs in zip(map(str, degrees), degrees, epochs, strict=True):
        models[d] = model(degree)
        fits[d], curves = fit(run, d, models[d], data(degree), num_epochs)
        losses = exact[degree] if degree < len(exact) else (None, None)  # the rows do not determine more
        fits[d] |= {f"exact_{loss}": value for loss, value in zip(METRICS, losses, strict=True)}
        panels[f"degree {d}{VERDICTS.get(d, '') * is_book}"] = curves
    if is_book and "3" in fits and models["3"].loss_name == "squared":
        models["3_half"] = model(3, loss="half_squared")
        halved["3"], _ = fit(run, "3_half", models["3_half"], data(3), epochs[degrees.index(3)])

    title = f"{k}-fold cross-validation of {max_degree + 1} degrees"
    metrics = run.fit("selection", *folds, title=title).validate()
    train, val = (metrics[metric].view(-1, k).mean(dim=1) for metric in METRICS.values())
    selection: dict[str, Any] = {"degree": int(val.argmin())}
    selection |= {"train_loss": train.tolist(), "val_loss": val.tolist()}
    selection |= dict(zip(("exact_train_loss", "exact_val_loss"), of_folds, strict=True))

    title, labels = "Polynomial regression: loss after each epoch", ("epoch", HALF_SQUARE)
    run.finish(
        {
            **{"selection": selection, "fits": fits, "half_squared": halved},
            "samples": {"x": widest.x[:2].tolist(), "y": widest.y[:2].tolist()},
        },
        checkpoints={f"degree_{name}": each for name, each in models.items()},
        tables=[
            samples_table(widest),
            weights_table(fits, halved, is_book),
            degrees_table(selection, k, run.trainer_flags.get("max_epochs")),
        ],
        figures={
            "learning_curves": partial(curve_figure, title, panels, *labels, yscale="log"),
            "loss_by_degree": partial(losses_by_degree, selection, k),
        },
    )


def check(degrees: Sequence[int], epochs: Sequence[int], max_degree: int) -> None:
    """Raise an InputError if the settings do not fit together."""
    if len(degrees) != len(epochs) or not degrees:
        raise InputError(f"degrees and epochs must have the same length, at least one: {degrees}, {epochs}")
    if len(set(degrees)) < len(degrees):
        raise InputError(f"degrees must name each degree once, not {degrees}")
    require_not_negative(degrees=min(degrees), max_degree=max_degree)
    require_positive(epochs=min(epochs))


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


def samples_table(data: PolynomialData) -> Table:
    """Return the first two samples: x, the features, and the label, as Section 4.4.4 prints them."""
    power = {"factorial": "x^{0} / {0}!", "powers": "x^{0}", "standardized": "standardised x^{0}"}
    names = [power.get(data.basis, "polynomial of degree {0}").format(i) for i in range(data.X.shape[1])]
    columns = torch.cat([data.x[:2, None], data.X[:2], data.y[:2, None]], dim=1).T
    rows = [(name, *row) for name, row in zip(("x", *names, "label"), columns.tolist(), strict=True)]
    return Table("the first samples", ("", *(f"sample {i + 1}" for i in range(len(data.y[:2])))), rows)


def weights_table(fits: Mapping[str, Any], halved: Mapping[str, Any], is_book: bool) -> Table:
    """Return the first weights and the losses of all fits, beside the book's weights and the exact losses."""
    rows: list[Sequence[str | float]] = []
    for degree, results in fits.items():
        weights, *losses = results.values()
        half = [("  half the loss", *halved[degree].values())] if degree in halved else []
        book = [("  book", BOOK[degree], "", "")] if is_book and degree in BOOK else []
        exact = [("  exact", (), *losses[2:])] if losses[2] is not None else []
        for name, w, *of_rows in [(degree, weights, *losses[:2]), *half, *book, *exact]:
            first = [f"{weight:.3f}" for weight in w[:4]]
            rows.append((name, *first, *[""] * (4 - len(first)), *of_rows))
    columns = ("degree", "w0", "w1", "w2", "w3", "train loss", "test loss")
    return Table("weights and losses of polynomials", columns, rows, NOTE_EXACT + NOTE_HALF * bool(halved))


def degrees_table(selection: Mapping[str, Any], k: int, epochs: int | None) -> Table:
    """Return the losses of all degrees in cross-validation: of SGD, and of the exact solutions."""
    best, losses = selection["degree"], [*selection.values()][1:]
    rows = [
        (f"{degree}{' *' * (degree == best)}", *("" if each is None else each for each in of_degree))
        for degree, of_degree in enumerate(zip_longest(*losses))
    ]
    excess = [sgd / least for sgd, least in zip(losses[0], losses[2], strict=False) if least > ROUNDING]
    note = f"* the least validation loss of SGD: degree {best}."
    if excess and max(excess) > CONVERGED:
        note += (
            " The training loss of the exact solution falls with the degree, as the text says. That of SGD "
            f"is up to {max(excess):.3g} times as high: it has not converged after {epochs} epochs. High "
            "powers are large for a few rows only, so their weights converge slowly. A larger --max_epochs "
            "helps."
        )
    columns = ("degree", "SGD: train loss", "SGD: val loss", "exact: train loss", "exact: val loss")
    return Table(f"loss by degree, {k}-fold cross-validation", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
