"""The results of the house experiment are those of its models on features made by pandas."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.models.price_regressor import PriceRegressor
from tests.conftest import run_results
from tests.experiments.test_settings import houses

FOLDS = 3


def features(folder: Path, known: slice | np.ndarray[Any, Any]) -> torch.Tensor:
    """Return the features of all houses, standardized with the statistics of the known rows."""
    read = partial(pd.read_csv, keep_default_na=False, na_values=["NA"])  # "None" is a category of veneer
    bundled = read(BUNDLED / "kaggle_house_pred_train.csv.gz")
    numeric = bundled.drop(columns=["Id", "SalePrice"]).select_dtypes("number").columns
    train, test = (read(folder / f"{name}.csv") for name in ("train", "test"))
    raw = pd.concat([train.drop(columns=["Id", "SalePrice"]), test.drop(columns="Id")], ignore_index=True)
    numbers = raw[numeric]
    deviation = numbers.iloc[known].std()
    standardized = (numbers - numbers.iloc[known].mean()) / deviation.where(deviation > 1e-9)
    categories = raw.drop(columns=numeric)
    indicators = pd.get_dummies(categories, columns=list(categories), dummy_na=True)
    table = pd.concat([standardized.fillna(0), indicators], axis=1)
    return torch.tensor(table.to_numpy(np.float32))


def log_rmse(model: PriceRegressor, X: torch.Tensor, prices: np.ndarray[Any, Any]) -> float:
    with torch.no_grad():
        predicted = model(X).double().clamp(min=1).numpy()
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(prices)) ** 2)))


@pytest.mark.parametrize("statistics", ["all", "train"])
def test_folds_and_final_fit_have_the_statistics_of_the_right_rows(tmp_path: Path, statistics: str) -> None:
    folder = houses(tmp_path / "data", 0)
    flags = ["--k", str(FOLDS), "--max_epochs", "3", "--lr", "0.02", "--log_price", "true"]
    flags += ["--data_dir", str(folder), "--statistics", statistics]
    results = run_results("kaggle_house", tmp_path / "run", *flags)

    def model(name: str) -> PriceRegressor:
        return PriceRegressor.load_from_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.ckpt").eval()

    prices = pd.read_csv(folder / "train.csv")["SalePrice"].to_numpy()
    n = len(prices)
    for fold, held_out in enumerate(np.array_split(np.arange(n), FOLDS), start=1):
        trained_on = np.setdiff1d(np.arange(n), held_out)
        X = features(folder, slice(None) if statistics == "all" else trained_on)
        found = results["folds"][fold - 1]
        for key, rows in (("train_log_rmse", trained_on), ("val_log_rmse", held_out)):
            assert found[key] == pytest.approx(
                log_rmse(model(f"fold_{fold}"), X[rows], prices[rows]), rel=1e-5
            )

    X = features(folder, slice(None) if statistics == "all" else slice(n))
    assert results["final_train_log_rmse"] == pytest.approx(log_rmse(model("final"), X[:n], prices), rel=1e-5)
    submission = pd.read_csv(tmp_path / "run" / "submission.csv")
    with torch.no_grad():
        predicted = model("final")(X[n:])
    assert submission["SalePrice"].to_numpy() == pytest.approx(predicted.numpy(), rel=1e-5)
    assert submission["Id"].tolist() == pd.read_csv(folder / "test.csv")["Id"].tolist()


def test_categories_of_the_test_file_alone_are_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = houses(tmp_path / "data", 0)
    test = pd.read_csv(folder / "test.csv", dtype=str, keep_default_na=False)
    test["CentralAir"] = test["CentralAir"].str.lower()
    test["Id"] += ".0"
    test.to_csv(folder / "test.csv", index=False)
    with (folder / "test.csv").open("a") as file:
        file.write("," * (len(test.columns) - 1) + "\n")
    flags = ["--k", "2", "--max_epochs", "1", "--data_dir", str(folder)]
    run_results("kaggle_house", tmp_path / "run", *flags)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    share = (test["CentralAir"] == "y").mean()
    (note,) = (line for line in notes if "CentralAir" in line)
    assert note.startswith("Note: 100.0% of the test rows have a category that no training row has in the ")
    assert f"column CentralAir: 'y' ({share:.1%}), 'n' (" in note
    ids = pd.read_csv(tmp_path / "run" / "submission.csv", dtype=str)["Id"]
    assert ids.tolist() == test["Id"].str.removesuffix(".0").tolist()
