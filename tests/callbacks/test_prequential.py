"""Prequential errors are those of a model that predicts each batch before it trains on it."""

from collections.abc import Callable

import torch
from lightning.pytorch import Trainer

from d2l_lightning.callbacks.prequential import PrequentialErrors
from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.models.linear_regression import LinearRegression


def test_errors_are_those_of_a_plain_loop(trainer: Callable[..., Trainer]) -> None:
    data, model = DriftingStream(num_rows=205), LinearRegression(5, lr=0.1)
    w, b = model.net.weight.detach()[0].clone(), model.net.bias.detach()[0].clone()
    recorder = PrequentialErrors(start=10)
    trainer(max_epochs=1, callbacks=[recorder]).fit(model, data)
    assert len(recorder.errors) == 21
    w_frozen, b_frozen = w, b
    for place, (X, y) in enumerate(data.train_dataloader()):
        if place <= 10:
            w_frozen, b_frozen = w, b
        e = X @ w + b - y
        expected = ((X @ w_frozen + b_frozen - y) ** 2, e**2)
        torch.testing.assert_close(recorder.errors[place], expected, rtol=1e-4, atol=1e-5)
        w, b = w - 0.1 * 2 * X.T @ e / len(y), b - 0.1 * 2 * e.mean()
