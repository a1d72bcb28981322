"""What a search over models of a table trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.ensemble.folds import make_folds
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.search.task import FoldData, SearchTask

# Settings of the data that are those of the batches: they change no feature.
_BATCHES = ("batch_size", "drop_last")


@dataclass(frozen=True)
class TableTask(SearchTask):
    """The cross-validation of a model of a table, with settings of the table and of the model.

    Args:
        table: Returns the table, given settings as keywords.
        model: Returns a model, given the number of features and settings as keywords.
        table_settings: The names of the settings of the table; others are the model's, but for
            ``max_epochs``.
        metric: The metric of the table.
        k: Number of folds.
        folds: How rows are assigned to folds, as for ``make_folds``.
        seed: Seed of initial weights, orders of rows and other random numbers.
        data_seed: Seed of the folds.
        base: What values depend on beside the space, for ``describe``.
    """

    table: Callable[..., KaggleTable]
    model: Callable[..., TableRegressor]
    table_settings: frozenset[str]
    metric: str
    k: int = 5
    folds: str = "contiguous"
    seed: int = 0
    data_seed: int = 0
    base: Mapping[str, Any] = field(default_factory=dict)
    _encoded: dict[str, FoldData] = field(default_factory=dict, init=False, repr=False, compare=False)
    _data: dict[str, FoldData] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_encoded": {}, "_data": {}}  # other processes read the files themselves

    def data(self, settings: Mapping[str, Any]) -> FoldData:
        """Return the features and folds of a setting."""
        own = {name: settings[name] for name in sorted(self.table_settings & settings.keys())}
        key = repr(own)
        if key not in self._data:
            table = self.table(**own)
            encoded = repr({name: value for name, value in own.items() if name not in _BATCHES})
            if encoded not in self._encoded:
                table.setup()
                train, val, _ = make_folds(self.folds, self.k, table.labels, 1, self.data_seed, table.groups)
                X, _ = table.stacked_features(train)
                per_fold = X.shape[:1] != table.labels.shape
                self._encoded[encoded] = FoldData(
                    X, table.labels, train, val, table.batch_size, per_fold=per_fold
                )
            batches: Any = {"batch_size": table.batch_size, "drop_last": table.drop_last}
            self._data[key] = replace(self._encoded[encoded], **batches)
        return self._data[key]

    def make_model(self, settings: Mapping[str, Any], data: FoldData) -> SupervisedModule:
        """Return a new model."""
        other = self.table_settings | {"max_epochs"}
        own = {name: value for name, value in settings.items() if name not in other}
        return self.model(data.X.shape[-1], **own)

    def fit_member(self, member: SupervisedModule, y: Tensor) -> None:
        """Take over mean, standard deviation and range of the training labels."""
        cast(TableRegressor, member).fit_target(y)

    def with_seeds(self, seed: int) -> "TableTask":
        """Return the task with other folds, initial weights and orders of rows; folds are shuffled."""
        folds = "shuffled" if self.folds == "contiguous" else self.folds
        return replace(self, folds=folds, seed=seed, data_seed=seed)

    def describe(self) -> dict[str, Any]:
        """Return what the values of a study depend on beside the space, as plain values."""
        return {**super().describe(), "k": self.k, "folds": self.folds, **self.base}
