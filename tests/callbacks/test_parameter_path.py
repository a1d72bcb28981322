"""The path of a parameter has its values before the fit and after each step, also after a resumed fit."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from d2l_lightning.callbacks.parameter_path import ParameterPath
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.models.linear_regression import LinearRegression


def fit(trainer: Callable[..., Trainer], epochs: int, folder: Path, resume: bool = False) -> torch.Tensor:
    torch.manual_seed(0)
    model = LinearRegression(2)
    path = ParameterPath(model.net.weight)
    a_trainer = trainer(max_epochs=epochs, callbacks=[path], limit_val_batches=0)
    data = SyntheticRegressionData(num_train=20, num_val=0, batch_size=8)
    a_trainer.fit(model, data, ckpt_path=folder / "fit.ckpt" if resume else None, weights_only=resume or None)
    a_trainer.save_checkpoint(folder / "fit.ckpt")
    assert torch.equal(path.values[-1], model.net.weight)
    return path.values


def test_a_resumed_fit_has_the_path_of_one_that_was_not_stopped(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    whole = fit(trainer, 2, tmp_path)
    assert whole.shape == (1 + 2 * 3, 1, 2)
    assert (whole[1:] != whole[:-1]).all()
    first = fit(trainer, 1, tmp_path)
    assert torch.equal(first, whole[:4])
    assert torch.equal(fit(trainer, 2, tmp_path, resume=True), whole)
