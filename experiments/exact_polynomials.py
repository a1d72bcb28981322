"""Exact polynomials over their degree and the amount of data (3.6.5 and 4.4, exercises 1 and 2)."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.polynomial import exact_losses, losses_by_amount
from d2l_lightning.plots import regression as plots
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

from torch import Tensor

# Rows to learn from, and data sets of each size.
AMOUNTS = (25, 50, 100, 200, 400, 800)
DRAWS = 25
# Degrees that the table shows, and a loss that is 0 but for rounding errors.
SHOWN = (0, 1, 2, 3, 5, 10, 20, 40, 60, 80)
ROUNDING = 1e-20


def main(
    run: Run,
    max_degree: int = 99,
    degrees: Sequence[int] = (1, 3, 10),
    w: Sequence[float] = (5.0, 1.2, -3.4, 5.6),
    noise: float = 0.1,
    num_train: int = 100,
    num_val: int = 100,
) -> None:
    """Solve polynomial regression exactly, for each degree and for more and more data (4.4, exercises 1, 2).

    Args:
        run: The run.
        max_degree: The highest degree. The polynomial of degree n - 1 goes through n rows.
        degrees: The degrees whose losses are shown over the amount of data, as in `--degrees 1 3 10`.
        w: The true weights of x^i / i!, from i = 0 on.
        noise: Standard deviation of the noise; with 0, the test loss becomes 0 too.
        num_train: Number of training rows.
        num_val: Number of test rows.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_not_negative(max_degree=max_degree, degrees=min(degrees, default=0))
    require_positive(num_val=num_val)
    if len(set(degrees)) < len(degrees) or not degrees:
        raise InputError(f"degrees must name each degree once, not {list(degrees)}")
    data = partial(PolynomialData, 0, w, noise, seed=run.seed)
    rows = data(num_train=num_train, num_val=num_val)
    num_distinct = len(rows.x[:num_train].unique())
    train, test = exact_losses(rows.x, rows.y, num_train, max_degree).T.tolist()
    exact = {"train_loss": train, "test_loss": test}
    zero = next((degree for degree, loss in enumerate(train) if loss < ROUNDING), None)

    def draw(n: int) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = data(num_train=2 * n * DRAWS, num_val=0)  # as many rows to test on as to learn from
        return zip(drawn.x.split(2 * n), drawn.y.split(2 * n), strict=True)

    amounts = {str(degree): losses_by_amount(draw, degree, AMOUNTS) for degree in degrees}
    amounts = {degree: medians for degree, medians in amounts.items() if medians["n"]}
    figures = {"loss_by_degree": partial(plots.exact_by_degree, exact, num_train)}
    if amounts:
        figures["loss_by_amount"] = partial(plots.losses_by_amount, amounts, DRAWS)
    run.finish(
        {"exact": exact, "zero_from_degree": zero, "different_x": num_distinct, "amounts": amounts},
        tables=[degrees_table(train, test, max_degree, num_train, num_distinct), amounts_table(amounts)],
        figures=figures,
    )


def degrees_table(
    train: Sequence[float], test: Sequence[float], max_degree: int, num_train: int, num_distinct: int
) -> Table:
    """Return the losses for some degrees; the note says where they end, and why."""
    last = len(train) - 1
    shown = sorted({degree for degree in SHOWN if degree < last} | {max(last - 1, 0), last})
    rows = [(str(degree), f"{train[degree]:.3g}", f"{test[degree]:.3g}") for degree in shown]
    if last == num_distinct - 1:
        note = (
            f"Degree {last} has {last + 1} weights, and {last + 1} of the {num_train} training rows differ "
            "in x. So it fits these exactly, and no higher degree is determined."
        )
    elif last < max_degree:
        note = f"The losses of degree {last + 1} are too large for double precision."
    else:
        note = f"Degree {num_distinct - 1} has as many weights as there are training rows that differ in x."
    return Table("exact solutions", ("degree", "train loss", "test loss"), rows, note)


def amounts_table(amounts: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Return the losses for each degree and number of training rows."""
    rows = [
        (degree, f"{n:.0f}", f"{train:.3g}", f"{test:.3g}")
        for degree, medians in amounts.items()
        for n, train, test in zip(*medians.values(), strict=True)
    ]
    note = f"Losses are half the squared error, medians of {DRAWS} data sets of each size."
    columns = ("degree", "training rows", "train loss", "test loss")
    return Table("loss by the amount of data", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
