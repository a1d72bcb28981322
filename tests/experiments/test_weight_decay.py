"""The weight decay experiment reports the norms and losses of its fits."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import Ridge

from d2l_lightning.data.regression import HighDimensionalData
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch
from tests.conftest import lean_trainer, run_results

HIGH = HighDimensionalData(num_val=4)


def by_model(results: dict[str, Any]) -> dict[tuple[str, float], dict[str, Any]]:
    return {(fit["model"], fit["lambda"]): fit for fit in results["fits"]}


@pytest.mark.figures
def test_norms_and_losses_of_section_3_7_are_those_of_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trainer: Callable[..., Trainer]
) -> None:
    results = run_results("weight_decay", tmp_path / "run")
    fits = by_model(results)
    for model in ("scratch", "concise"):
        none, much = fits[model, 0.0], fits[model, 3.0]
        assert much["w_norm"] < none["w_norm"]
        assert much["val_loss"] < none["val_loss"]
        assert much["train_loss"] > none["train_loss"]
        assert none["l2_penalty"] == pytest.approx(none["w_norm"] ** 2 / 2)
    # The tests of the models compare these norms with the book's.
    makers: dict[str, Callable[[float], Any]] = {
        "scratch": lambda lambd: WeightDecayScratch(200, lambd),
        "concise": lambda lambd: WeightDecay(200, lambd, sigma=None),
        "l1 subgradient": lambda lambd: WeightDecayScratch(200, lambd, penalty="l1"),
        "l1 proximal": lambda lambd: Lasso(200, lambd),
    }
    assert len(fits) == 6
    for (model, lambd), fit in fits.items():
        torch.manual_seed(0)
        alone = makers[model](lambd)
        trainer(max_epochs=10).fit(alone, HighDimensionalData(watch_train=True))
        assert fit["w_norm"] == pytest.approx(alone.get_w_b()[0].norm().item(), rel=1e-5), (model, lambd)
        for stage in ("train", "val"):
            loss = alone.evaluated[f"{stage}/squared_loss"].item()
            assert fit[f"{stage}_loss"] == pytest.approx(loss, rel=1e-4), (model, lambd, stage)
    assert fits["l1 proximal", 0.05]["zero_weights"] > 80
    assert fits["l1 subgradient", 0.05]["zero_weights"] == 0
    printed = capsys.readouterr().out
    assert "0.009949" in printed
    assert "initial weights of PyTorch's layer" in " ".join(printed.split())
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"learning_curves", "path"}


def test_weights_shrink_along_the_path_over_lambda(tmp_path: Path) -> None:
    path = run_results("weight_decay", tmp_path / "run", "--lambdas", "0", "--l1_lambdas")["path"]
    assert len(path["lambda"]) == 32
    assert path["lambda"][0] == pytest.approx(0.03)
    assert path["lambda"][-1] == pytest.approx(30)
    assert path["w_norm"] == sorted(path["w_norm"], reverse=True)
    assert path["train_loss"][-1] > 10 * path["train_loss"][0]
    assert path["val_loss"][-1] < path["val_loss"][0]


def test_validation_sets_choose_lambdas_and_the_prior_of_each_lambda_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--l1_lambdas", "--path_members", "3", "--num_val", "4", "--max_epochs", "2"]
    results = run_results("weight_decay", tmp_path / "run", *flags)
    path, choice = results["path"], results["choice"]
    new = HighDimensionalData(num_train=100, num_val=0, seed=1)
    assert len(choice["lambda"]) == len(choice["excess"]) == 25
    assert set(choice["lambda"]) <= set(path["lambda"])
    least = min(path["new_loss"])
    by_lambda = dict(zip(path["lambda"], path["new_loss"], strict=True))
    for lambd, excess in zip(choice["lambda"], choice["excess"], strict=True):
        assert excess == pytest.approx(by_lambda[lambd] / least - 1, abs=1e-12)
    # The loss of a model on new rows is that of the same model, trained alone.
    torch.manual_seed(0)
    alone = WeightDecayScratch(200, path["lambda"][0])
    lean_trainer(max_epochs=2).fit(alone, HighDimensionalData(num_val=4, watch_train=True))
    with torch.no_grad():
        loss = ((alone(new.X) - new.y) ** 2).mean().item() / 2
    assert path["new_loss"][0] == pytest.approx(loss, rel=1e-4)
    (prior,) = results["priors"]  # of lambda 3
    assert prior["prior_std"] == pytest.approx(0.01 / math.sqrt(60), rel=0.4)
    ridge = Ridge(3 * 20).fit(*(each[:20].double().numpy() for each in (HIGH.X, HIGH.y)))
    assert prior["w_norm"] == pytest.approx(np.linalg.norm(ridge.coef_), rel=1e-6)
    printed = capsys.readouterr().out
    assert "25 other validation sets of 4 rows choose lambdas from" in printed
    assert "weight decay as a prior" in printed


def test_a_member_of_the_path_has_the_results_of_a_fit_of_its_own(tmp_path: Path) -> None:
    flags = ["--l1_lambdas", "--path_members", "2", "--path_from", "0.5", "--path_to", "3"]
    results = run_results("weight_decay", tmp_path / "run", "--lambdas", "0.5", "3", *flags)
    fits = by_model(results)
    for k, lambd in enumerate((0.5, 3.0)):
        for name in ("w_norm", "train_loss", "val_loss"):
            assert results["path"][name][k] == pytest.approx(fits["scratch", lambd][name], rel=1e-4)


@pytest.mark.figures
def test_the_other_config_gives_the_norms_of_section_4_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", "configs/weight_decay_4_5.yaml"]
    fits = by_model(run_results("weight_decay", tmp_path / "run", *config, "--path_members", "0"))
    for model in ("scratch", "concise"):
        assert 12 < fits[model, 0.0]["w_norm"] < 16
        assert 0.2 < fits[model, 3.0]["w_norm"] < 0.6
        assert fits[model, 3.0]["val_loss"] < fits[model, 0.0]["val_loss"] / 100
    for lambd in (0.0, 3.0):  # the same loss and initial weights give the same fit
        for name in ("w_norm", "val_loss"):
            assert fits["scratch", lambd][name] == pytest.approx(fits["concise", lambd][name], rel=1e-4)
    assert fits["l1 proximal", 1.5]["zero_weights"] > 150
    assert "13.26" in capsys.readouterr().out
    assert not (tmp_path / "run" / "figures" / "path.png").exists()
