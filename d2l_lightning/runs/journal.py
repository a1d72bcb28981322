"""The metrics that a run logged, in their order: what a resumed run gives to its trackers again."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

# The metrics of one call of `log_metrics`, and its step.
Row = tuple[dict[str, float], int | None]


class Journal(Logger):
    """A logger that keeps all rows of a run.

    A resumed run starts with the rows that it had logged. While it passes over what is already done, it logs
    the rows after a fit, such as test metrics, a second time: with the same place in the order.

    Attributes:
        rows: All rows.
        place: The number of rows that were logged up to where the run stands.
    """

    name, version = "journal", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.place = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the run folder has the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self.place += 1
        if self.place > len(self.rows):
            self.rows.append((dict(metrics), step))
