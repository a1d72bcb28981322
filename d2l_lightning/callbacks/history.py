"""A logger that keeps the metrics of a fit in memory, for tables and figures."""

from typing import Any

from lightning.pytorch.loggers import Logger


class History(Logger):
    """A logger that keeps the value of every metric at every epoch."""

    name, version = "history", ""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, dict[int, float]] = {}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the run folder has the configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep the metrics of an epoch."""
        for name, value in metrics.items():
            if name != "epoch":
                self._values.setdefault(name, {})[int(metrics["epoch"])] = float(value)

    def latest(self) -> dict[str, float]:
        """Return the latest value of each metric."""
        return {name: values[max(values)] for name, values in self._values.items()}

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs, counted from 1, at which a metric was logged, and its values."""
        values = self._values.get(metric, {})
        return [epoch + 1 for epoch in values], list(values.values())
