"""A history keeps every metric of every epoch, in the order of the epochs."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.models.linear_regression import LinearRegression
from tests.models.test_epoch_metrics import Rows


def test_a_metric_has_the_epochs_at_which_it_was_logged() -> None:
    history = History()
    for epoch in range(4):
        history.log_metrics({"a": torch.tensor(epoch / 2), "epoch": epoch}, step=10 * epoch)
        if epoch % 2:
            history.log_metrics({"epoch": torch.tensor(float(epoch)), "b": -epoch})
    assert history.curve("a") == ([1, 2, 3, 4], [0.0, 0.5, 1.0, 1.5])
    assert history.curve("b") == ([2, 4], [-1.0, -3.0])
    assert all(type(value) is float for value in history.curve("a")[1] + history.curve("b")[1])
    assert history.curve("epoch") == history.curve("unknown") == ([], [])


def test_the_last_value_of_an_epoch_is_kept() -> None:
    history = History()
    for value in (1.0, 2.0):
        history.log_metrics({"a": value, "epoch": 0})
    assert history.curve("a") == ([1], [2.0])


@pytest.mark.parametrize("every_n", [1, 2])
def test_a_history_keeps_what_a_fit_logs(every_n: int, trainer: Callable[..., Trainer]) -> None:
    history, rows, model = History(), Rows(), LinearRegression(2)
    model.log_prefix = "a/"
    data = SyntheticRegressionData(num_train=40, num_val=8)
    trainer(max_epochs=4, logger=[history, rows], check_val_every_n_epoch=every_n).fit(model, data)
    for name, epochs in (
        ("a/train/loss", [1, 2, 3, 4]),
        ("a/val/loss", [1, 2, 3, 4][every_n - 1 :: every_n]),
    ):
        logged = [row[name] for _, row in rows.rows if name in row]
        assert history.curve(name) == (epochs, logged)
        assert len(set(logged)) == len(epochs)
    assert history.curve("a/val/loss")[1][-1] == model.evaluated["val/loss"].item()
    assert history.curve("train/loss") == ([], [])
