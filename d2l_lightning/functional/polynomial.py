"""Polynomial features."""

import torch
from torch import Tensor

from d2l_lightning.errors import require_not_negative


def polynomial_features(x: Tensor, degree: int) -> Tensor:
    """Return ``x**i / i!`` for i from 0 to the degree, shape ``(n, degree + 1)``, for x of shape ``(n,)``.

    The first column is 1, so a model with these features needs no bias. Source: Section 4.4.4, eq. 4.4.2.

    Raises:
        InputError: If the degree is negative.

    Example:
        >>> polynomial_features(torch.tensor([2.0]), 3)
        tensor([[1.0000, 2.0000, 2.0000, 1.3333]])
    """
    require_not_negative(degree=degree)
    # A running product of x / i does not overflow; 200! alone would, even in float64.
    ratios = x[:, None] / torch.arange(1, degree + 1, dtype=x.dtype, device=x.device)
    return torch.cat([torch.ones_like(x)[:, None], ratios], dim=1).cumprod(dim=1)


def nested_features(X: Tensor) -> Tensor:
    """Return the features of d nested models, shape ``(d, n, d)``, for X of shape ``(n, d)``.

    Model i has the first i + 1 features of X, the others are 0. A feature of 0 has no gradient and no
    influence, so all models can have d weights.

    Example:
        >>> nested_features(torch.tensor([[5.0, 6.0]]))
        tensor([[[5., 0.]],
        <BLANKLINE>
                [[5., 6.]]])
    """
    d = X.shape[1]
    return X * torch.ones(d, d, dtype=torch.bool, device=X.device).tril()[:, None]
