"""Regression data: tensors in memory, and synthetic data whose true weights are known."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from d2l_lightning.data.batches import (
    RowLoader,
    data_generator,
    gather_from,
    loader_of,
    on_device,
    shuffled_loader,
)
from d2l_lightning.data.module import DataModule
from d2l_lightning.errors import (
    InputError,
    require_finite,
    require_known,
    require_not_negative,
    require_positive,
)
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.polynomial import Basis, basis_features, polynomial_features

Loader = Literal["framework", "scratch"]


class RegressionData(DataModule):
    """Features and targets in memory. The first rows are for training, the others for validation.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        num_train: Number of training rows, from 1 to n.
        batch_size: Rows in a batch; may exceed the number of rows.
        seed: Seed of the order of the training rows, which changes with the epoch.
        loader: What makes the batches: PyTorch's DataLoader (framework), or plain Python as in Section 3.3.2
            (scratch). The batches are the same.
        watch_train: Whether validation also evaluates the training rows, all rows in one batch.
        drop_last: Whether the last training rows of an epoch are left out if they do not fill a batch.
        shuffle: Whether training rows are shuffled in each epoch; if not, they come in the order of X.

    Raises:
        InputError: If shapes do not match, an argument is out of its range, or a number is not finite.

    Source: Sections 3.2.3 and 3.3.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        num_train: int,
        batch_size: int = 32,
        seed: int = 0,
        loader: Loader = "framework",
        watch_train: bool = False,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        if X.ndim != 2 or y.shape != X.shape[:1]:
            raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
        require_positive(num_train=num_train, batch_size=batch_size)
        if num_train > len(y):
            raise InputError(f"num_train is {num_train}, and there are {len(y)} rows")
        require_known("loader", loader, Loader)
        for name, tensor in (("X", X), ("y", y)):
            if not tensor.is_floating_point():
                raise InputError(
                    f"{name} must hold floating-point numbers, not {tensor.dtype}; take {name}.float()"
                )
        require_finite(X=X, y=y)
        self.X, self.y, self.num_train = X, y, num_train
        self.batch_size, self.seed, self.loader, self.watch_train = batch_size, seed, loader, watch_train
        self.drop_last, self.shuffle = drop_last, shuffle

    def parts(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return X and y of the first n rows, of the next n rows, and so on."""
        return zip(self.X.split(n), self.y.split(n), strict=True)

    @property
    def rows(self) -> dict[str, Tensor]:
        """The rows of each stage, ``train`` and ``val``: index tensors."""
        train, val = torch.arange(len(self.y)).split([self.num_train, len(self.y) - self.num_train])
        return {"train": train, "val": val}

    @property
    def num_val(self) -> int:
        """The number of validation rows."""
        return len(self.y) - self.num_train

    def get_dataloader(self, train: bool) -> Any:
        """Return the loader of shuffled training batches, or of validation batches in order (Section 3.2.3).

        A batch is X ``(B, d)`` and y ``(B,)``.
        """
        return self._training_loader() if train else self._validation_loader()

    def _training_loader(self) -> Any:
        X, y = on_device(self, (self.X[: self.num_train], self.y[: self.num_train]))
        loader = shuffled_loader(
            self, self.batch_size, self.seed, X, y, drop_last=self.drop_last, shuffle=self.shuffle
        )
        return loader if self.loader == "framework" else RowLoader(loader.sampler, gather_from(X, y))

    def _validation_loader(self) -> Any:
        if self.watch_train:
            zeros, stages = torch.zeros_like(self.y), self.rows.items()
            weight = {stage: zeros.index_fill(0, rows, 1) for stage, rows in stages if len(rows)}
            return loader_of(self, (self.X, self.y, weight))
        rows = self.rows["val"]
        if not len(rows):
            return []
        batches = rows.split(self.batch_size)
        if self.loader == "framework":
            return loader_of(self, *((self.X[rows], self.y[rows]) for rows in batches))
        return RowLoader(on_device(self, batches), gather_from(*on_device(self, (self.X, self.y))))


class SyntheticRegressionData(RegressionData):
    """Normal features, and targets that are linear in them plus normal noise.

    Args:
        w: The true weights, one for each feature, as in `--w 2 -3.4`.
        b: The true bias.
        noise: Standard deviation of the noise.
        num_train: Number of training rows.
        num_val: Number of validation rows.
        seed: Seed of the data and of the order of the training rows.
        **data: Further arguments of ``RegressionData``.

    Source: Section 3.3, eq. 3.3.1.
    """

    def __init__(
        self,
        w: Sequence[float] = (2.0, -3.4),
        b: float = 4.2,
        noise: float = 0.01,
        num_train: int = 1000,
        num_val: int = 1000,
        seed: int = 0,
        **data: Any,
    ) -> None:
        require_finite(b=torch.tensor(float(b)))
        self.w, self.b = _true_weights(w, "feature", noise, num_train, num_val), float(b)
        generator = data_generator(seed)
        X, y = synthetic_rows(num_train + num_val, generator, self.w, self.b, noise)
        super().__init__(X, y, num_train, seed=seed, **data)


class HighDimensionalData(SyntheticRegressionData):
    """Linear data with more features than training rows, so that models overfit.

    Every weight is 0.01, the bias is 0.05, the noise has a standard deviation of 0.01.

    Args:
        num_inputs: Number of features.
        num_train: Number of training rows.
        num_val: Number of validation rows.
        batch_size: Rows in a batch.
        **data: Further arguments of ``SyntheticRegressionData``.

    Source: Sections 3.7.2 and 4.5.2, eq. 3.7.4.
    """

    def __init__(
        self, num_inputs: int = 200, num_train: int = 20, num_val: int = 100, batch_size: int = 5, **data: Any
    ) -> None:
        require_positive(num_inputs=num_inputs)
        w = [0.01] * num_inputs
        sizes = {"num_train": num_train, "num_val": num_val, "batch_size": batch_size}
        super().__init__(w, 0.05, 0.01, loader="framework", drop_last=False, shuffle=True, **sizes, **data)


class PolynomialData(RegressionData):
    """Powers of a normal number x as features, and a polynomial of x plus normal noise as target.

    x and the noise depend on the seed but not on the degree.

    Args:
        degree: The highest power among the features.
        w: The true weights of x^i / i!, from i = 0 on, as in `--w 5 1.2 -3.4 5.6`; any number of them.
        noise: Standard deviation of the noise.
        num_train: Number of training rows.
        num_val: Number of validation rows, which the book calls test rows.
        batch_size: Rows in a batch.
        seed: Seed of the data and of the order of the training rows.
        basis: The features: powers divided by factorials, x^i / i! (factorial), powers alone (powers), powers
            that are standardised over the training rows (standardized), or polynomials that are orthogonal on
            the training rows (orthogonal).
        **data: Further arguments of ``RegressionData``.

    Source: Section 4.4.4, eq. 4.4.2.
    """

    def __init__(
        self,
        degree: int = 3,
        w: Sequence[float] = (5.0, 1.2, -3.4, 5.6),
        noise: float = 0.1,
        num_train: int = 100,
        num_val: int = 100,
        batch_size: int = 10,
        seed: int = 0,
        basis: Basis = "factorial",
        **data: Any,
    ) -> None:
        self.w, self.basis = _true_weights(w, "power", noise, num_train, num_val), basis
        generator = data_generator(seed)
        self.x = torch.randn(num_train + num_val, generator=generator)  # shape (n,)
        errors = noise * torch.randn(num_train + num_val, generator=generator)
        y = linear(polynomial_features(self.x, len(self.w) - 1), self.w) + errors
        X = basis_features(self.x, degree, basis, num_train)
        super().__init__(
            X, y, num_train, batch_size, seed, "framework", drop_last=False, shuffle=True, **data
        )


def synthetic_rows(
    n: int, generator: torch.Generator, w: Tensor, b: float, noise: float
) -> tuple[Tensor, Tensor]:
    """Return n rows of normal features, ``(n, d)``, and targets ``X w + b`` plus normal noise, ``(n,)``.

    Source: Section 3.3.1, eq. 3.3.1.
    """
    X = torch.randn(n, len(w), generator=generator)
    return X, linear(X, w, b) + noise * torch.randn(n, generator=generator)


def _true_weights(w: Sequence[float], what: str, noise: float, num_train: int, num_val: int) -> Tensor:
    """Return w as a tensor; raise an InputError if an argument is out of its range."""
    require_not_negative(noise=noise, num_val=num_val)
    require_positive(num_train=num_train)
    weights = torch.as_tensor(w, dtype=torch.float32)
    if weights.ndim != 1 or not len(weights):
        raise InputError(f"w must hold one weight for each {what}; its shape is {tuple(weights.shape)}")
    require_finite(w=weights)
    return weights
