"""How large initial weights should be, and what they do to a layer's output."""

import math


def xavier_deviation(num_inputs: int, num_outputs: int) -> float:
    """The standard deviation of Xavier's normal weights, ``sqrt(2 / (n_in + n_out))``. Source: eq. 4.8.5."""
    return math.sqrt(2 / (num_inputs + num_outputs))


def xavier_bound(num_inputs: int, num_outputs: int) -> float:
    """The greatest of Xavier's uniform weights, ``sqrt(6 / (n_in + n_out))``. Source: eq. 4.8.6."""
    return math.sqrt(6 / (num_inputs + num_outputs))


def output_variance(num_inputs: int, sigma: float, gamma: float = 1.0) -> float:
    """The variance of a linear layer's output, ``n_in sigma^2 gamma^2``.

    Args:
        num_inputs: Number of inputs, n_in.
        sigma: Standard deviation of the weights, whose mean is 0.
        gamma: Standard deviation of the inputs, whose mean is 0.

    Source: eq. 4.8.4.
    """
    return num_inputs * sigma**2 * gamma**2
