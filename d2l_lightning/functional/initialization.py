"""Scales of initial weights, and the growth of products of random matrices (Section 4.8)."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def xavier_deviation(num_inputs: int, num_outputs: int) -> float:
    """Return the deviation of Xavier's normal weights, ``sqrt(2 / (n_in + n_out))``. Source: eq. 4.8.5."""
    return math.sqrt(2 / (num_inputs + num_outputs))


def xavier_bound(num_inputs: int, num_outputs: int) -> float:
    """Return the bound of Xavier's uniform weights, ``sqrt(6 / (n_in + n_out))``. Source: eq. 4.8.6."""
    return math.sqrt(6 / (num_inputs + num_outputs))


def output_variance(num_inputs: int, sigma: float, gamma: float = 1.0) -> float:
    """Return the variance of a linear layer's output, ``n_in sigma^2 gamma^2``. Source: eq. 4.8.4.

    The weights and the inputs have a mean of 0 and the standard deviations sigma and gamma.
    """
    return num_inputs * sigma**2 * gamma**2


def product_of_gaussians(
    num_matrices: int, size: int, generator: torch.Generator
) -> tuple[Tensor, list[float]]:
    """Return the product of a matrix and ``num_matrices`` others, and its greatest absolute elements.

    All matrices are standard normal, float64, of shape ``(size, size)``. The greatest absolute elements are
    those of the first matrix and of each product.

    Raises:
        InputError: If the product leaves the range of double precision.

    Source: Section 4.8.1.
    """
    M = torch.randn(size, size, dtype=torch.float64, generator=generator)
    greatest = [M.abs().max().item()]
    for _ in range(num_matrices):
        M = M @ torch.randn(size, size, dtype=torch.float64, generator=generator)
        greatest.append(M.abs().max().item())
    if not 0 < greatest[-1] < math.inf:
        raise InputError(
            f"the product of {num_matrices} matrices is {greatest[-1]}; choose a smaller num_matrices"
        )
    return M, greatest
