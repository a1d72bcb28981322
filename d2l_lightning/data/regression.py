"""Data of one target: a person's own tensors, and synthetic data whose true weights are known."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.batches import ShuffledBatches, data_generator, shuffled_order
from d2l_lightning.errors import (
    InputError,
    require_finite,
    require_known,
    require_not_negative,
    require_positive,
)
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.polynomial import polynomial_features

Loader = Literal["framework", "scratch"]
Batch = tuple[Tensor, Tensor]


class ScratchLoader:
    """Goes through rows in batches, in Python alone: an order, cut into pieces, and a gather for each.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        batch_size: Rows in a batch; the last may have fewer.
        seed: What, with the epoch, decides the order; None for the rows' own.

    Source: Section 3.3.2.
    """

    def __init__(self, X: Tensor, y: Tensor, batch_size: int, seed: int | None) -> None:
        self.X, self.y, self.batch_size, self.seed, self.epoch = X, y, batch_size, seed, 0
        if seed is not None:
            self.sampler = self  # where Lightning looks for whom to tell the epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        n = len(self.y)
        order = torch.arange(n) if self.seed is None else shuffled_order(n, self.seed, self.epoch)
        for start in range(0, n, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.X[rows], self.y[rows]


class RegressionData(LightningDataModule):
    """Features and targets in memory: the first rows are trained on, the others validate.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        num_train: Number of rows to train on, from 1 to n.
        batch_size: Rows in a batch; more than there are is allowed.
        seed: What, with the epoch, decides the order of the training rows.
        loader: Who makes the batches: PyTorch's DataLoader (``framework``), or Python as in Section 3.3.2
            (``scratch``). The batches are the same.
        watch_train: Whether validation tells the metrics of the training rows too; it is one batch then.

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
    ) -> None:
        super().__init__()
        if X.ndim != 2 or y.shape != X.shape[:1]:
            raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
        require_positive(num_train=num_train, batch_size=batch_size)
        if num_train > len(y):
            raise InputError(f"num_train is {num_train}, and there are {len(y)} rows")
        require_known("loader", loader, Loader)
        require_finite(X=X, y=y)
        self.X, self.y, self.num_train = X, y, num_train
        self.batch_size, self.seed, self.loader, self.watch_train = batch_size, seed, loader, watch_train

    @property
    def rows(self) -> dict[str, Tensor]:
        """The rows of each stage, ``train`` and ``val``: index tensors."""
        train, val = torch.arange(len(self.y)).split([self.num_train, len(self.y) - self.num_train])
        return {"train": train, "val": val}

    def train_dataloader(self) -> Any:
        """Return the loader of shuffled training batches: X ``(B, d)`` and y ``(B,)``."""
        X, y = self.X[: self.num_train], self.y[: self.num_train]
        if self.loader == "scratch":
            return ScratchLoader(X, y, self.batch_size, self.seed)
        batches = ShuffledBatches(self.num_train, self.batch_size, self.seed)
        # The sampler yields a batch's rows, so that a batch is one gather.
        return DataLoader(TensorDataset(X, y), batch_size=None, sampler=batches)

    def val_dataloader(self) -> Any:
        """Return the loader of validation batches, in the rows' order; an empty list where there are none."""
        X, y = self.X[self.num_train :], self.y[self.num_train :]
        if self.watch_train:
            weight = {stage: torch.zeros_like(self.y) for stage, rows in self.rows.items() if len(rows)}
            for stage, of_stage in weight.items():
                of_stage[self.rows[stage]] = 1
            return DataLoader(cast(Any, [(self.X, self.y, weight)]), batch_size=None)
        if not len(y):
            return []
        if self.loader == "scratch":
            return ScratchLoader(X, y, self.batch_size, seed=None)
        batches = torch.arange(len(y)).split(self.batch_size)
        return DataLoader(TensorDataset(X, y), batch_size=None, sampler=cast(Any, batches))


class SyntheticRegressionData(RegressionData):
    """Normal features, and targets that depend on them linearly, with normal noise.

    Args:
        w: The true weights, one for each feature.
        b: The true bias.
        noise: Standard deviation of the noise.
        num_train: Number of rows to train on.
        num_val: Number of rows to validate on.
        batch_size: Rows in a batch.
        seed: Seed of the data, and of the order of the training rows.
        loader: See ``RegressionData``.
        watch_train: See ``RegressionData``.

    Attributes:
        w: The true weights, shape ``(d,)``.
        b: The true bias, a float.

    Raises:
        InputError: If an argument is out of its range or not finite.

    Source: Section 3.3, eq. 3.3.1.
    """

    def __init__(
        self,
        w: Sequence[float] | Tensor = (2.0, -3.4),
        b: float = 4.2,
        noise: float = 0.01,
        num_train: int = 1000,
        num_val: int = 1000,
        batch_size: int = 32,
        seed: int = 0,
        loader: Loader = "framework",
        watch_train: bool = False,
    ) -> None:
        self.w, self.b = torch.as_tensor(w, dtype=torch.float32), float(b)
        if self.w.ndim != 1 or not len(self.w):
            raise InputError(f"w must hold one weight for each feature; its shape is {tuple(self.w.shape)}")
        require_finite(w=self.w, b=torch.tensor(self.b))
        _require_sizes(noise, num_train, num_val)
        generator = data_generator(seed)
        X = torch.randn(num_train + num_val, len(self.w), generator=generator)
        errors = noise * torch.randn(num_train + num_val, generator=generator)
        super().__init__(
            X, linear(X, self.w, self.b) + errors, num_train, batch_size, seed, loader, watch_train
        )


class HighDimensionalData(SyntheticRegressionData):
    """More features than rows to train on: what is learned by heart does not help on new rows.

    Every weight is 0.01, the bias is 0.05, the noise has a standard deviation of 0.01.

    Args:
        num_inputs: Number of features.
        num_train: Number of rows to train on.
        num_val: Number of rows to validate on.
        batch_size: Rows in a batch.
        seed: Seed of the data, and of the order of the training rows.
        watch_train: See ``RegressionData``.

    Raises:
        InputError: If an argument is out of its range.

    Source: Sections 3.7.2 and 4.5.2, eq. 3.7.4.
    """

    def __init__(
        self,
        num_inputs: int = 200,
        num_train: int = 20,
        num_val: int = 100,
        batch_size: int = 5,
        seed: int = 0,
        watch_train: bool = False,
    ) -> None:
        require_positive(num_inputs=num_inputs)
        w = torch.full((num_inputs,), 0.01)
        super().__init__(w, 0.05, 0.01, num_train, num_val, batch_size, seed, watch_train=watch_train)


class PolynomialData(RegressionData):
    """The powers of a normal number as features, and a polynomial of it with normal noise as target.

    With one seed, x and the noise are the same whatever the degree.

    Args:
        degree: The highest power among the features.
        w: The true weights of ``x**i / i!``, from i = 0 on; they may be more or fewer than the features.
        noise: Standard deviation of the noise.
        num_train: Number of rows to train on.
        num_val: Number of rows to validate on (the book's test rows).
        batch_size: Rows in a batch.
        seed: Seed of the data, and of the order of the training rows.
        watch_train: See ``RegressionData``.

    Attributes:
        w: The true weights, shape ``(len(w),)``.
        x: The number, shape ``(n,)``.

    Raises:
        InputError: If an argument is out of its range or not finite.

    Source: Section 4.4.4, eq. 4.4.2.
    """

    def __init__(
        self,
        degree: int = 3,
        w: Sequence[float] | Tensor = (5.0, 1.2, -3.4, 5.6),
        noise: float = 0.1,
        num_train: int = 100,
        num_val: int = 100,
        batch_size: int = 10,
        seed: int = 0,
        watch_train: bool = False,
    ) -> None:
        self.w = torch.as_tensor(w, dtype=torch.float32)
        if self.w.ndim != 1 or not len(self.w):
            raise InputError(f"w must hold one weight for each power; its shape is {tuple(self.w.shape)}")
        require_finite(w=self.w)
        _require_sizes(noise, num_train, num_val)
        generator = data_generator(seed)
        self.x = torch.randn(num_train + num_val, generator=generator)
        errors = noise * torch.randn(num_train + num_val, generator=generator)
        y = linear(polynomial_features(self.x, len(self.w) - 1), self.w) + errors
        X = polynomial_features(self.x, degree)
        super().__init__(X, y, num_train, batch_size, seed, watch_train=watch_train)


def _require_sizes(noise: float, num_train: int, num_val: int) -> None:
    require_not_negative(noise=noise)
    require_positive(num_train=num_train)
    require_not_negative(num_val=num_val)
