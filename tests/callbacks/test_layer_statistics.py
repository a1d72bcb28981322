"""Callbacks that record statistics of layers."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from d2l_lightning.callbacks.layer_statistics import ActivationVariance, UnitSpread
from d2l_lightning.models.dropout_mlp import DropoutMLP
from tests.models.test_classifiers import SIZES, Blobs


def test_variances_are_those_of_hidden_layers_with_dropout(trainer: Callable[..., Trainer]) -> None:
    model, data = DropoutMLP(**SIZES, hidden_sizes=[16, 8], dropouts=[0.0, 0.5]), Blobs()
    recorder = ActivationVariance(data.X[:50])
    trainer(max_epochs=3, callbacks=[recorder]).fit(model, data)
    assert len(recorder.variances) == 3
    first, second = recorder.variances[-1]
    with torch.no_grad():
        H1 = model.net[:2](data.X[:50].flatten(1))
        H2 = model.net[3:5](H1)
    assert first == pytest.approx(H1.var().item())
    assert second > H2.var().item()  # dropout adds variance
    assert recorder.variances[0][0] != first
    assert not any(module._forward_hooks for module in model.modules())


def test_spread_is_recorded_after_each_step(trainer: Callable[..., Trainer]) -> None:
    model = DropoutMLP(**SIZES, hidden_sizes=[16, 8])
    layer = cast(nn.Linear, model.net[0])
    nn.init.constant_(layer.weight, 0.1)
    recorder = UnitSpread(layer)
    trainer(max_epochs=2, callbacks=[recorder]).fit(model, Blobs())
    assert len(recorder.spread) == 2 * 7
    assert recorder.spread[-1] == layer.weight.std(dim=0).mean().item() > 0
