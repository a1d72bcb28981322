"""What a search trains: the members of a setting, one for each fold, and their data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.ensemble.folds import make_folds
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule

Task = TypeVar("Task", bound="SearchTask")


@dataclass(frozen=True, eq=False)
class FoldData:
    """The data of a cross-validation with K folds.

    Attributes:
        X: The features, shape ``(n, ...)``, or those of each fold, shape ``(K, n, ...)``.
        y: The targets, shape ``(n,)``.
        train_rows: The training rows of each fold.
        val_rows: The validation rows of each fold.
        batch_size: Rows of a fold in a step.
        drop_last: Whether the last rows of an epoch are left out if they are fewer than a batch.
        per_fold: Whether X has the features of each fold.
    """

    X: Tensor
    y: Tensor
    train_rows: Sequence[Tensor]
    val_rows: Sequence[Tensor]
    batch_size: int
    drop_last: bool = False
    per_fold: bool = False


class SearchTask(ABC):
    """A model and its data, for each setting of a search space.

    A setting is a mapping from parameters to values. A task is sent to other processes, so it must be
    picklable: it holds plain values, classes and ``functools.partial`` objects.

    Attributes:
        metric: The validation metric to minimise, as in ``epoch_metrics`` of the model.
        data_seed: Seed of the folds.
        seed: Seed of initial weights, orders of rows and other random numbers.
    """

    metric: str
    seed: int
    data_seed: int

    @abstractmethod
    def data(self, settings: Mapping[str, Any]) -> FoldData:
        """Return the data of a setting: the same object for settings that do not differ in the data.

        Raises:
            InputError: If a setting is out of its range.
        """

    @abstractmethod
    def make_model(self, settings: Mapping[str, Any], data: FoldData) -> SupervisedModule:
        """Return a new model.

        Raises:
            InputError: If a setting is out of its range.
        """

    def fit_member(self, member: SupervisedModule, y: Tensor) -> None:  # noqa: B027
        """Prepare a member for its training targets, such as for their mean: nothing."""

    def members(self, settings: Mapping[str, Any], data: FoldData) -> list[SupervisedModule]:
        """Return the K members of a setting; initial weights depend on the seed and the fold."""
        members = []
        for fold, rows in enumerate(data.train_rows):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(self.seed, 2, fold))
                member = self.make_model(settings, data)
            self.fit_member(member, data.y[rows])
            members.append(member)
        return members

    @abstractmethod
    def with_seeds(self: Task, seed: int) -> Task:
        """Return the task with other folds, initial weights and orders of rows."""

    def describe(self) -> dict[str, Any]:
        """Return what the values of a study depend on beside the space, as plain values."""
        return {"metric": self.metric, "seed": self.seed}


@dataclass(frozen=True)
class CrossValidationTask(SearchTask):
    """The cross-validation of any ``SupervisedModule`` on tensors in memory.

    The settings are arguments of the model; ``batch_size`` may be one too.

    Args:
        model: Returns a model, given settings as keywords.
        X: The features, shape ``(n, ...)``.
        y: The targets, shape ``(n,)``: numbers, or classes as integers.
        metric: The validation metric to minimise, as in the model's ``epoch_metrics``; of a classifier
            ``loss``, since ``accuracy`` is to be maximised.
        k: Number of folds.
        folds: How rows are assigned to folds: ``contiguous``, ``shuffled`` or ``stratified``.
        batch_size: Rows in a batch.
        seed: Seed of initial weights, orders of rows and other random numbers.
        data_seed: Seed of the folds.
        base: Settings of the model that the space does not name.
    """

    model: Callable[..., SupervisedModule]
    X: Tensor
    y: Tensor
    metric: str = "loss"
    k: int = 5
    folds: str = "shuffled"
    batch_size: int = 64
    seed: int = 0
    data_seed: int = 0
    base: Mapping[str, Any] = field(default_factory=dict)
    _data: dict[int, FoldData] = field(default_factory=dict, init=False, repr=False)
    _own: ClassVar[frozenset[str]] = frozenset({"batch_size", "max_epochs"})

    def data(self, settings: Mapping[str, Any]) -> FoldData:
        """Return the folds in batches of the setting's size."""
        batch_size = settings.get("batch_size", self.batch_size)
        if batch_size not in self._data:
            train, val, _ = make_folds(self.folds, self.k, self.y, seed=self.data_seed)
            self._data[batch_size] = FoldData(self.X, self.y, train, val, batch_size)
        return self._data[batch_size]

    def make_model(self, settings: Mapping[str, Any], data: FoldData) -> SupervisedModule:
        """Return a new model."""
        own = {name: value for name, value in settings.items() if name not in self._own}
        try:
            return self.model(**{**self.base, **own})
        except TypeError as error:
            raise InputError(
                f"{getattr(self.model, '__name__', self.model)} cannot be made: {error}"
            ) from error

    def with_seeds(self, seed: int) -> "CrossValidationTask":
        """Return the task with other folds, initial weights and orders of rows; folds are shuffled."""
        folds = "shuffled" if self.folds == "contiguous" else self.folds
        return replace(self, folds=folds, seed=seed, data_seed=seed)

    def describe(self) -> dict[str, Any]:
        """Return what the values of a study depend on beside the space."""
        model = getattr(self.model, "__qualname__", repr(self.model))
        size = {"rows": len(self.y), "k": self.k, "folds": self.folds, "data_seed": self.data_seed}
        return {**super().describe(), "model": model, **size, "batch_size": self.batch_size, **self.base}


def derived_seed(*entropy: int) -> int:
    """Return a seed that is different for each sequence of non-negative numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])
