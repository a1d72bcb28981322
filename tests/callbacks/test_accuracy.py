"""The callback that records a classifier's accuracy on some rows."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.callbacks.accuracy import RowAccuracy
from d2l_lightning.models.dropout_mlp import DropoutMLP
from tests.models.test_classifiers import SIZES, Blobs


def test_the_accuracy_is_that_without_dropout_and_training_goes_on(trainer: Callable[..., Trainer]) -> None:
    fitted, data = [], Blobs()
    X, y = data.X[:90], data.y[:90]
    for callbacks in ([], [recorder := RowAccuracy(X, y)]):
        torch.manual_seed(0)
        model = DropoutMLP(**SIZES, hidden_sizes=[16, 8], dropouts=[0.0, 0.8], sigma=0.3)
        trainer(max_epochs=3, callbacks=callbacks).fit(model, Blobs())
        fitted.append(model)
    for with_it, without in zip(*(model.parameters() for model in fitted), strict=True):
        assert torch.equal(with_it, without)
    expected = (model.eval()(X).argmax(dim=1) == y).float().mean().item()
    assert len(recorder.accuracies) == 3
    assert recorder.accuracies[-1] == pytest.approx(expected)
