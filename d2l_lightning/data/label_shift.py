"""Fashion-MNIST with other shares of the classes in the target than in the source: label shift."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.fashion_mnist import LABELS, FashionMNIST
from d2l_lightning.errors import InputError, require_positive


class LabelShiftedFashionMNIST(FashionMNIST):
    """The source is the training rows, some held out; the target is drawn from the official test rows.

    The target's shares of the classes are drawn from a Dirichlet distribution, then its rows from those of
    their class, with replacement. They stand where ``FashionMNIST`` has the test rows.

    Args:
        data_dir: See ``FashionMNIST``.
        batch_size: See ``FashionMNIST``.
        val_fraction: See ``FashionMNIST``.
        concentration: Of the Dirichlet distribution: the smaller, the more uneven are the shares.
        num_target: Rows of the target.
        seed: Seed of the split, the order, the shares and the target's rows.

    Attributes:
        source_shares: The share of each class in the rows to train on, q(y), shape ``(10,)``.
        target_shares: That in the target, p(y), which a corrector does not get to see.
        class_weights: What each class weighs in training, shape ``(10,)``; no weights if None.

    Raises:
        InputError: As ``FashionMNIST``, or if a number is not positive.

    Source: Section 4.9.3, label shift.
    """

    target_shares: Tensor
    source_shares: Tensor

    def __init__(
        self,
        data_dir: str | None = None,
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

    def setup(self, stage: str | None = None) -> None:
        """Read the files, split the source and draw the target; a second call does nothing."""
        if self.images is not None:
            return
        super().setup(stage)
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 0, 3)))
        shares = rng.dirichlet([self.concentration] * len(LABELS))
        if not math.isclose(shares.sum(), 1):
            raise InputError(f"concentration {self.concentration} is too small to draw shares with")
        of_class = [self.rows["test"][self.labels[self.rows["test"]] == k] for k in range(len(LABELS))]
        drawn = rng.multinomial(self.num_target, shares).tolist()
        if any(count and not len(rows) for count, rows in zip(drawn, of_class, strict=True)):
            raise InputError("every class must be among the test rows")
        target = [
            rows[torch.from_numpy(rng.integers(len(rows), size=count))]
            for count, rows in zip(drawn, of_class, strict=True)
            if count
        ]
        self.rows["test"] = torch.cat(target)
        self.source_shares = self._shares("train")
        self.target_shares = self._shares("test")

    def _shares(self, stage: str) -> Tensor:
        counts = torch.bincount(self.labels[self.rows[stage]], minlength=len(LABELS))
        return counts.double() / counts.sum()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale a batch's images; in training, add the weights of its rows if classes have any."""
        X, y = super().on_after_batch_transfer(batch, dataloader_idx)
        if self.class_weights is None or self.trainer is None or not self.trainer.training:
            return X, y
        return X, y, self.class_weights.to(X)[y]
