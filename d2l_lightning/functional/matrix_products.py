"""Products of many matrices: how they grow, and bounds on their singular values (Section 4.8)."""

import math
from itertools import accumulate

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def gaussian_matrices(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Return standard normal matrices in double precision, shape ``(number, size, size)``."""
    matrices = torch.empty(number, size, size, dtype=torch.float64)
    for matrix in matrices:
        matrix.normal_(generator=generator)
    return matrices


def cumulative_products(matrices: Tensor) -> Tensor:
    """Return the first matrix, the product of the first two, and so on, for L matrices ``(L, n, n)``.

    Raises:
        InputError: If the product of all leaves the range of double precision.

    Source: Section 4.8.1.
    """
    products = torch.stack([*accumulate(matrices, torch.matmul)])
    if not 0 < products[-1].abs().max().item() < math.inf:
        what = f"the product of {len(matrices) - 1} matrices with the first one is out of range"
        raise InputError(f"{what}; choose a smaller num_matrices")
    return products


def product_bounds(matrices: Tensor) -> dict[str, list[float]]:
    """Return the singular values of the ``cumulative_products``, and bounds on them.

    With the product AB, ``largest(AB) <= largest(A) largest(B)`` and ``smallest(AB) >= smallest(A)
    smallest(B)``, so a condition number is at most the product of those of A and B. No eigenvalue is larger
    than the largest singular value.

    Returns:
        Lists of L numbers: ``largest`` and ``smallest`` singular value, ``largest_bound`` and
        ``smallest_bound``, and the greatest absolute ``eigenvalue``.

    Raises:
        InputError: If a product leaves the range of double precision.

    Source: Horn and Johnson, "Topics in Matrix Analysis" (1991), Section 3.3; Section 4.8, exercise 3.
    """
    products = cumulative_products(matrices)
    # The inverse has the smallest singular value to full precision; the product would lose it to rounding.
    inverses = torch.stack([*accumulate(torch.linalg.inv(matrices), lambda before, M: M @ before)])
    singular = torch.linalg.svdvals(matrices)
    columns = {
        "largest": torch.linalg.matrix_norm(products, 2),
        "largest_bound": singular[:, 0].cumprod(dim=0),
        "smallest": 1 / torch.linalg.matrix_norm(inverses, 2),
        "smallest_bound": singular[:, -1].cumprod(dim=0),
        "eigenvalue": torch.linalg.eigvals(products).abs().amax(dim=1),
    }
    if any(not (column.min().item() > 0 and column.isfinite().all()) for column in columns.values()):
        raise InputError(
            f"a bound for {len(matrices)} matrices is out of range; choose a smaller num_matrices"
        )
    return {name: column.tolist() for name, column in columns.items()}
