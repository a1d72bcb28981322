"""Powers as features."""

import torch
from torch import Tensor

from d2l_lightning.errors import require_not_negative


def polynomial_features(x: Tensor, degree: int) -> Tensor:
    """The powers of a number up to a degree, each divided by the factorial of its exponent.

    Args:
        x: Numbers, shape ``(n,)``.
        degree: The highest exponent.

    Returns:
        ``x**i / i!`` for i from 0 to the degree: shape ``(n, degree + 1)``. The first column is 1, so a model
        of these features needs no bias.

    Raises:
        InputError: If the degree is negative.

    Source: Section 4.4.4, eq. 4.4.2.

    Example:
        >>> polynomial_features(torch.tensor([2.0]), 3)
        tensor([[1.0000, 2.0000, 2.0000, 1.3333]])
    """
    require_not_negative(degree=degree)
    # As a running product of x / i nothing overflows on the way: 200! is beyond a float64.
    ratios = x[:, None] / torch.arange(1, degree + 1, dtype=x.dtype, device=x.device)
    return torch.cat([torch.ones_like(x)[:, None], ratios], dim=1).cumprod(dim=1)
