"""Why cross-validation is biased, when an error is 0, and whether more data would help (3.6.5)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from d2l_lightning.data.batches import data_generator
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional import generalization as formulas
from d2l_lightning.plots import generalization as plots
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor

# Rows that a loss on new rows is a mean over, and data sets that medians are taken over.
NEW_ROWS, DRAWS = 1000, 25
ROWS_PER_FEATURE = (0.3, 0.6, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0, 8.0)
# Losses below this one are rounding errors.
ROUNDING = 1e-25
# The learning curve: the part of the rows that is left out, shares of the others, choices of each share, and
# how many times as many rows are drawn afterwards.
LEFT_OUT, SHARES, CHOICES, FACTORS = 0.25, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), 40, (2, 4)


def main(
    run: Run,
    num_features: int = 10,
    num_rows: int = 30,
    noise: float = 1.0,
    ks: Sequence[int] = (2, 3, 5, 10, 30),
    draws: int = 2000,
    your_rows: int = 400,
    your_features: int = 100,
) -> None:
    """Answer exercises 3, 5 and 7 of Section 3.6.5 by exact linear regression on many data sets at once.

    Args:
        run: The run.
        num_features: Number of standard normal features; all true weights are 1.
        num_rows: Rows of each data set for cross-validation.
        noise: Standard deviation of the noise.
        ks: Numbers of folds, as in `--ks 2 5 30`.
        draws: Data sets for cross-validation.
        your_rows: Rows of the data set that a learning curve is drawn for; a quarter of them is left out.
        your_features: Features of that data set.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_positive(
        num_features=num_features, draws=draws, your_rows=your_rows, your_features=your_features, noise=noise
    )
    require_positive(**{"the square of noise": noise * noise})
    if draws < 2:
        raise InputError(f"draws must be at least 2, for a standard error, not {draws}")
    if not ks or len(set(ks)) < len(ks) or not all(2 <= k <= num_rows for k in ks):
        raise InputError(f"ks must differ and be from 2 to num_rows, {num_rows}, not {list(ks)}")
    fits = {
        "num_rows": (num_rows * (min(ks) - 1) // min(ks), num_features),
        "your_rows": (int(SHARES[0] * (your_rows - round(LEFT_OUT * your_rows))), your_features),
    }
    for what, (rows, features) in fits.items():
        if rows < features + 4:  # else the loss has no finite variance
            raise InputError(f"{what} is too small: some fits have {rows} rows for {features} features")
    generator = data_generator(run.seed)
    draw = partial(linear_data, generator=generator, num_features=num_features)
    folds = k_fold_bias(*draw(draws, num_rows, noise), ks, noise)
    expected = formulas.expected_loss(num_rows, num_features, noise)
    numbers = sorted({max(1, round(factor * num_features)) for factor in ROWS_PER_FEATURE})
    zero = {
        f"{sd:g}": formulas.losses_by_rows(*draw(DRAWS, numbers[-1] + NEW_ROWS, sd), numbers)
        for sd in (noise, 0.0)
    }
    num_val = round(LEFT_OUT * your_rows)
    others = your_rows - num_val
    X, y = (
        each[0] for each in draw(1, num_val + (FACTORS[-1] + 1) * others, noise, num_features=your_features)
    )
    less, more = (
        formulas.losses_of_parts(X[:n], y[:n], num_val, [int(f * others) for f in parts], CHOICES, generator)
        for n, parts in ((your_rows, SHARES), (len(y), FACTORS))
    )
    a, b, law = formulas.fit_learning_curve(less, your_features)
    run.finish(
        {
            "k_fold": {**folds, "loss_to_estimate": expected},
            "zero_error": zero,
            "learning_curve": {"less": less, "more": more, "a": a, "b": b},
        },
        tables=[
            bias_table(folds, expected, num_rows),
            zero_table(zero, num_features),
            curve_table(less, more, a, law, your_rows),
        ],
        figures={
            "k_fold_bias": partial(plots.k_fold_bias, folds, expected, num_rows, draws),
            "zero_errors": partial(plots.zero_errors, zero, num_features, ROUNDING),
            "learning_curve": partial(plots.learning_curve, less, more, law, your_rows),
        },
    )


def linear_data(
    num_sets: int, num_rows: int, noise: float, num_features: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return data sets: X of shape ``(N, n, d)``, standard normal, and y of shape ``(N, n)``."""
    X = torch.randn(num_sets, num_rows, num_features, dtype=torch.float64, generator=generator)
    errors = torch.randn(num_sets, num_rows, dtype=torch.float64, generator=generator)
    return X, X.sum(dim=-1) + noise * errors


def k_fold_bias(X: Tensor, y: Tensor, ks: Sequence[int], noise: float) -> dict[str, list[float]]:
    """Return the estimates of cross-validation, means of the data sets, beside the theory (exercise 5)."""
    num_sets, n, d = X.shape
    columns: dict[str, list[float]] = {"k": [*map(float, ks)], "measured": [], "error": [], "theory": []}
    for k in ks:
        train, val = k_fold(n, k)
        losses = formulas.k_fold_losses(X, y, train, val)
        columns["measured"].append(losses.mean().item())
        columns["error"].append((losses.std() / num_sets**0.5).item())
        theory = (len(v) * formulas.expected_loss(len(t), d, noise) for t, v in zip(train, val, strict=True))
        columns["theory"].append(sum(theory) / n)
    return columns


def bias_table(folds: Mapping[str, Sequence[float]], expected: float, num_rows: int) -> Table:
    """Return the estimates of K-fold cross-validation beside the loss that they estimate."""
    rows = [
        (
            f"{k:.0f}",
            f"{num_rows * (k - 1) / k:.4g}",
            f"{measured:.4f} ± {2 * error:.4f}",
            f"{theory:.4f}",
            f"{measured / expected - 1:.1%}",
            f"{theory / expected - 1:.1%}",
        )
        for k, measured, error, theory in zip(*folds.values(), strict=True)
    ]
    note = (
        f"A model of all {num_rows} rows has an expected loss of {expected:.4f} on new rows. Each model of "
        "cross-validation learns from fewer rows, so its expected loss is higher: the estimate is biased. "
        "± is twice the standard error. Bias: the estimate above that loss."
    )
    columns = ("folds", "training rows", "mean estimate", "theory", "bias", "in theory")
    return Table("bias of K-fold cross-validation", columns, rows, note)


def zero_table(zero: Mapping[str, Mapping[str, Sequence[float]]], num_features: int) -> Table:
    """Return the losses on training rows and new rows for each noise and number of rows."""
    rows = [
        (noise, f"{n:.0f}", f"{train:.3g}", f"{test:.3g}")
        for noise, losses in zero.items()
        for n, train, test in zip(*losses.values(), strict=True)
    ]
    note = (
        "With noise, the training loss is 0, but for rounding errors, on at most as many rows as there are "
        f"features: {num_features}. Without noise it is always 0, and from {num_features} rows on the loss "
        "on new rows is 0 too, because the true function is linear. Noise: its standard deviation."
    )
    columns = ("noise", "rows to learn from", "loss on these rows", "loss on new rows")
    return Table("zero errors", columns, rows, note)


def curve_table(
    less: Mapping[str, Sequence[float]],
    more: Mapping[str, Sequence[float]],
    a: float,
    law: Callable[[float], float],
    num_rows: int,
) -> Table:
    """Return the losses of less data, and the losses of more data that they predict, beside measured ones."""
    rows = [
        (name, f"{n:.0f}", f"{loss:.4f}", f"{law(n):.4f}")
        for name, curve in ((f"of the {num_rows} rows", less), ("with more rows", more))
        for n, loss in zip(*curve.values(), strict=True)
    ]
    note = (
        f"The curve a + b / (n - d - 1), for n rows of d features, is fitted to the first {len(less['n'])} "
        f"losses. It says that a loss of {a:.4f} would remain with endless data. Losses are means over "
        f"{CHOICES} random choices of these rows and of the rows left out."
    )
    return Table("learning curve", ("", "rows to learn from", "loss", "fitted curve"), rows, note)


if __name__ == "__main__":
    run_experiment(main)
