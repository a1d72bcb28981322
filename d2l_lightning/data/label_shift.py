"""Label shift: Fashion-MNIST with other class shares in the target than in the source."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.fashion_mnist import LABELS, FashionMNIST
from d2l_lightning.errors import InputError, require_positive


class LabelShiftedFashionMNIST(FashionMNIST):
    """Fashion-MNIST whose test rows are a target with other class shares than the training rows.

    The target's class shares are drawn from a Dirichlet distribution, and its rows, with replacement, from
    the official test rows of their class.

    Args:
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
        batch_size: Rows in a training batch.
        val_fraction: Share of the training rows that are for validation.
        concentration: Concentration of the Dirichlet distribution; a smaller one makes shares less even.
        num_target: Rows of the target.
        seed: Seed of the split, the order, the class shares and the target's rows.

    Attributes:
        source_shares: The share of each class in the training rows, q(y), shape ``(10,)``.
        target_shares: The share of each class in the target, p(y), which a corrector must not use.
        class_weights: The weight of each class in training, shape ``(10,)``, or None.

    Source: Section 4.9.3, label shift.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        concentration: float = 0.3,
        num_target: int = 10000,
        seed: int = 0,
    ) -> None:
        super().__init__(data_dir, batch_size, val_fraction, seed=seed)
        require_positive(concentration=concentration, num_target=num_target)
        self.concentration, self.num_target = concentration, num_target
        self.class_weights: Tensor | None = None

    def _load(self) -> None:
        """Read the files, split the source and draw the target."""
        super()._load()
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 0, 3)))
        shares = rng.dirichlet([self.concentration] * len(LABELS))
        if not math.isclose(shares.sum(), 1):
            raise InputError(f"concentration {self.concentration} is too small to draw shares with")
        test, target = self.rows["test"], []
        for k, count in enumerate(rng.multinomial(self.num_target, shares).tolist()):
            rows = test[self.labels[test] == k]
            if count and not len(rows):
                raise InputError("every class must be among the test rows")
            if count:
                target.append(rows[torch.from_numpy(rng.integers(len(rows), size=count))])
        self.rows["test"] = torch.cat(target)
        self.source_shares, self.target_shares = (
            torch.bincount(self.labels[self.rows[stage]], minlength=len(LABELS)).double()
            / len(self.rows[stage])
            for stage in ("train", "test")
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale the images of a batch; in training, add the weights of its rows if classes have weights."""
        X, y = super().on_after_batch_transfer(batch, dataloader_idx)
        if self.class_weights is None or self.trainer is None or not self.trainer.training:
            return X, y
        self.class_weights = self.class_weights.to(X.device)  # moved once, not in every step
        return X, y, self.class_weights.to(X)[y]
