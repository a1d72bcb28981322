"""A data module whose loaders come from one method, as the book's."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from d2l_lightning.data.batches import GeneratedBatches, loader_of, shuffled_loader
from d2l_lightning.errors import InputError


class DataModule(LightningDataModule):
    """Data whose loaders come from ``get_dataloader``, which a class or ``add_to_class`` defines (3.2.3).

    After ``save_hyperparameters()``, arguments of ``__init__`` are attributes.

    Example:
        >>> import torch
        >>> class Data(DataModule):
        ...     def __init__(self, num_train, num_val, batch_size):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.X = torch.randn(num_train + num_val, 2)
        ...         self.y = self.X.sum(dim=1)
        ...     def get_dataloader(self, train):
        ...         i = slice(0, self.num_train) if train else slice(self.num_train, None)
        ...         return self.get_tensorloader((self.X, self.y), train, i)
        >>> len(Data(40, 20, batch_size=10).train_dataloader())
        4
    """

    def __getattr__(self, name: str) -> Any:
        hparams = vars(self).get("_hparams") or {}
        if name not in hparams:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        return hparams[name]

    def get_dataloader(self, train: bool) -> Any:
        """Return the loader of training batches, or of validation batches; it may be a generator function.

        A generator function is called anew for each epoch. An empty list means that there are no batches.
        """
        what = f"{type(self).__name__} has no get_dataloader(self, train)"
        raise InputError(f"{what}; define it in the class to return a loader, or to yield batches")

    def get_tensorloader(
        self, tensors: Sequence[Tensor], train: bool, indices: slice = slice(0, None)
    ) -> Any:
        """Return a loader of rows of tensors, ``batch_size`` at a time, shuffled in training (Section 3.3.3).

        The order depends on ``seed``, 0 if there is no such attribute, and the epoch.

        Args:
            tensors: Features, targets and so on, with equally many rows.
            train: Whether the rows are shuffled.
            indices: The rows.
        """
        rows = [tensor[indices] for tensor in tensors]
        if train:
            return shuffled_loader(self, self.batch_size, getattr(self, "seed", 0), *rows)
        if not len(rows[0]):
            return []
        return loader_of(self, *zip(*(tensor.split(self.batch_size) for tensor in rows), strict=True))

    def train_dataloader(self) -> Any:
        """Return what ``get_dataloader`` returns for training."""
        return self._loader(train=True)

    def val_dataloader(self) -> Any:
        """Return what ``get_dataloader`` returns for validation."""
        return self._loader(train=False)

    def _loader(self, train: bool) -> Any:
        loader = self.get_dataloader(train)
        if isinstance(loader, Iterator):  # of a generator function, for one epoch
            return GeneratedBatches(partial(self.get_dataloader, train))
        return loader
