"""Products of random matrices explode, and bounds say how much they can (4.8.1, exercise 3)."""

from collections.abc import Mapping
from functools import partial

from d2l_lightning.data.batches import data_generator
from d2l_lightning.errors import require_positive
from d2l_lightning.functional import matrix_products as formulas
from d2l_lightning.plots.initialization import singular_values
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor

# The greatest absolute element that Section 4.8.1 prints, after 100 matrices of 4 by 4.
BOOK = 3.1097155e24
# Rows and columns that are shown.
SHOWN = 6


def main(run: Run, num_matrices: int = 100, matrix_size: int = 4) -> None:
    """Multiply random matrices, and compare the singular values of the products with bounds (4.8.1).

    Args:
        run: The run.
        num_matrices: Gaussian matrices that a first one is multiplied by.
        matrix_size: Rows and columns of each matrix.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_positive(num_matrices=num_matrices, matrix_size=matrix_size)
    gaussian = formulas.gaussian_matrices(num_matrices + 1, matrix_size, data_generator(run.seed))
    products = formulas.cumulative_products(gaussian)
    growth = products.abs().amax(dim=(1, 2)).tolist()
    kinds = {
        "variance 1": gaussian,
        "variance 1 / n": gaussian / matrix_size**0.5,
        "orthogonal": torch.linalg.qr(gaussian).Q,
    }
    bounds = {name: formulas.product_bounds(matrices) for name, matrices in kinds.items()}
    title = f"Product of {matrix_size} × {matrix_size} Gaussian matrices"  # noqa: RUF001 (a product)
    labels = ("matrices multiplied with the first", "greatest absolute value")
    curve: Curve = ("", range(len(growth)), growth)
    is_book = (num_matrices, matrix_size) == (100, 4)
    last = {name: {key: values[-1] for key, values in of_kind.items()} for name, of_kind in bounds.items()}
    run.finish(
        {
            "first": gaussian[0].tolist(),
            "product": products[-1].tolist(),
            "product_max_abs": growth[-1],
            "singular_values": last,
        },
        tables=[
            matrix_table("a single matrix", gaussian[0]),
            matrix_table(f"after multiplying {num_matrices} matrices", products[-1], is_book),
            bounds_table(last, num_matrices + 1),
        ],
        figures={
            "matrix_product": partial(
                curve_figure, title, {"": [curve]}, *labels, yscale="log", legend="none"
            ),
            "singular_values": partial(singular_values, bounds, matrix_size),
        },
    )


def matrix_table(title: str, matrix: Tensor, is_book: bool = False) -> Table:
    """Return the elements of a matrix."""
    rows = [[f"{value:.4e}" for value in row] for row in matrix[:SHOWN, :SHOWN].tolist()]
    note = f"The greatest absolute value is {matrix.abs().max().item():.1e}; the book's is {BOOK:.1e}."
    return Table(title, [f"column {j + 1}" for j in range(len(rows))], rows, note * is_book)


def bounds_table(last: Mapping[str, Mapping[str, float]], number: int) -> Table:
    """Return the singular values of the products of all matrices, beside their bounds."""
    keys = {
        "eigenvalue": "greatest |eigenvalue|",
        "largest": "largest singular value",
        "largest_bound": "  upper bound",
        "smallest": "smallest singular value",
        "smallest_bound": "  lower bound",
    }
    rows = [(name, *(f"{values[key]:.1e}" for values in last.values())) for key, name in keys.items()]
    for name, of in (("condition number", ""), ("  upper bound", "_bound")):
        ratios = (values[f"largest{of}"] / values[f"smallest{of}"] for values in last.values())
        rows.append((name, *(f"{ratio:.1e}" for ratio in ratios)))
    note = (
        "The bounds are the products of the largest and of the smallest singular values of the matrices. A "
        "gradient is multiplied by such a product. It is well conditioned for certain only if the singular "
        "values of each matrix are near 1, as those of orthogonal matrices are. The right variance of the "
        "elements is not enough."
    )
    return Table(f"bounds on the product of {number} matrices", ("elements", *last), rows, note)


if __name__ == "__main__":
    run_experiment(main)
