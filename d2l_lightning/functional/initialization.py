"""Scales of initial weights (Section 4.8)."""

import math


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
