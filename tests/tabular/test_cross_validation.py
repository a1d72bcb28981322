"""Cross-validation of a table: no model sees its validation rows, and all figures follow from the models."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.errors import InputError
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import CrossValidation, cross_validate
from d2l_lightning.tabular.loading import load_models
from d2l_lightning.tabular.predictor import PricePredictor
from tests.tools.tables import make_table, write_tables

FLAGS: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "logger": "none",
    "max_epochs": 2,
}
# What depends on the labels of the training rows: the scale of the target and the range of predictions.
MODEL: dict[str, Any] = {"hidden_sizes": [4], "standardize": True, "clip": True, "dropout": 0.2, "lr": 0.05}


def validated(
    tables: Path, folder: Path, *, model: dict[str, Any] | None = None, k: int = 3, **settings: Any
) -> CrossValidation:
    """Cross-validate on the tables of a folder, and write what the experiment writes, without figures."""
    own = {name: settings.pop(name) for name in ("metric", "statistics") if name in settings}
    files = (tables / "train.csv", tables / "test.csv")
    data = KaggleTable(*files, "id", "rent", ignore=["note", "street"], batch_size=16, **own)
    model = {**MODEL, "metric": data.metric, **(model or {})}
    with Run("kaggle_table", run_dir=folder, **FLAGS) as run:
        cv = cross_validate(run, data, partial(TableRegressor, **model), k, **settings)
        assert cv.predictions is not None
        products = {
            "oof_predictions.csv": cv.out_of_fold(),
            "submission.csv": data.submission(cv.predictions),
        }
        run.finish(cv.results(), products=products, checkpoints=cv.members)
    return cv


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))[0].parent


@torch.no_grad()
def outputs(folder: Path, kind: Any, table: pd.DataFrame) -> dict[str, Tensor]:
    """Return the predictions of each checkpoint of a run for the rows of a table, by its own encoder."""
    found = {}
    for name, model in load_models(folder, kind).items():
        assert model.encoding is not None
        found[name] = model(TableEncoder.from_state(model.encoding).transform(table))
    return found


@pytest.mark.parametrize("statistics", ["all", "train"])
@pytest.mark.parametrize(
    "settings",
    [
        {"folds": "contiguous"},
        {"folds": "shuffled"},
        {"folds": "stratified", "k": 4},
        {"folds": "group:street", "repeats": 2},
        {"folds": "shuffled", "repeats": 3, "metric": "log_rmse"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_each_row_is_predicted_by_the_checkpoint_of_its_fold(
    tables: Path, tmp_path: Path, settings: dict[str, Any], statistics: str
) -> None:
    cv = validated(tables, tmp_path / "run", statistics=statistics, **settings)
    k, repeats, rows = settings.get("k", 3), settings.get("repeats", 1), cv.data.raw.iloc[:60]
    by_model = outputs(tmp_path / "run", "folds", rows)
    models = load_models(tmp_path / "run", "folds")
    table = pd.read_csv(tmp_path / "run" / "oof_predictions.csv")
    streets = cv.data.groups("street")
    held_out = torch.empty(repeats, 60)
    for r in range(repeats):
        fold_of = torch.tensor(table["fold" if repeats == 1 else f"fold_{r + 1}"].to_numpy(copy=True))
        assert sorted(set(fold_of.tolist())) == list(range(1, k + 1))
        if settings["folds"] == "group:street":
            assert len({*zip(streets, fold_of.tolist(), strict=True)}) == len(set(streets))
        for fold in range(1, k + 1):
            name = f"fold_{fold}" if repeats == 1 else f"fold_{fold}_repeat_{r + 1}"
            own = fold_of == fold
            held_out[r, own] = by_model[name][own]
            targets = cv.data.labels[~own].double()
            mean = targets.log().mean() if cv.data.metric == "log_rmse" else targets.mean()
            torch.testing.assert_close(models[name].mean, mean.float())
    assert len(models) == k * repeats
    torch.testing.assert_close(cv.held_out, held_out, rtol=1e-5, atol=0)
    assert table["id"].tolist() == make_table(80)["id"][:60].tolist()
    assert table["rent"].astype(np.float32).tolist() == cv.data.labels.tolist()
    mean_of_repeats = held_out.log().mean(0).exp() if cv.data.metric == "log_rmse" else held_out.mean(0)
    np.testing.assert_allclose(table["prediction"], mean_of_repeats, rtol=1e-5)


@pytest.mark.parametrize("column", ["rent", "area"])
def test_a_model_does_not_depend_on_its_validation_rows(tables: Path, tmp_path: Path, column: str) -> None:
    changed = make_table(80)
    changed.loc[:19, column] = [f"{value * 10:g}" for value in range(300, 320)]  # the rows of the first fold
    changed.iloc[:60].to_csv(tmp_path / "train.csv", index=False, na_rep="NA")
    (tmp_path / "test.csv").write_bytes((tables / "test.csv").read_bytes())
    weights = []
    for number, of_tables in enumerate((tables, tmp_path)):
        cv = validated(of_tables, tmp_path / str(number), statistics="train")
        weights.append({name: model.state_dict() for name, model in cv.members.items()})
    for name in ("fold_1", "fold_2", "fold_3", "final"):
        same = all(torch.equal(value, weights[1][name][key]) for key, value in weights[0][name].items())
        assert same == (name == "fold_1")


@pytest.mark.parametrize("metric", ["rmse", "log_rmse", "mae"])
def test_the_figures_of_all_rows_follow_from_the_predictions(
    tables: Path, tmp_path: Path, metric: str
) -> None:
    cv = validated(tables, tmp_path / "run", metric=metric, folds="shuffled", repeats=2, final_models=2)
    results = cv.results()

    def pooled(predictions: np.ndarray[Any, Any]) -> float:
        y = cv.data.labels.numpy()
        errors = np.log(predictions / y) if metric == "log_rmse" else predictions - y
        return float(np.abs(errors).mean() if metric == "mae" else np.sqrt((errors**2).mean()))

    each = cv.held_out.numpy()
    assert results[f"pooled_val_{metric}"] == pytest.approx([pooled(each[0]), pooled(each[1])], rel=1e-5)
    mean = np.exp(np.log(each).mean(0)) if metric == "log_rmse" else each.mean(0)
    assert results[f"mean_pooled_val_{metric}"] == pytest.approx(pooled(mean), rel=1e-5)
    # Folds of equal size: the pooled figure is the mean of the folds, of squares but for mae.
    power = 1 if metric == "mae" else 2
    of_folds = np.array([fold[f"val_{metric}"] for fold in results["folds"]]).reshape(2, 3)
    assert results[f"pooled_val_{metric}"] == pytest.approx(
        list((of_folds**power).mean(1) ** (1 / power)), rel=1e-4
    )
    assert results[f"val_{metric}"] == pytest.approx(of_folds.mean())
    assert results[f"train_{metric}"] == pytest.approx(
        np.mean([f[f"train_{metric}"] for f in results["folds"]])
    )
    assert list(results) == [
        *(
            "shapes",
            "columns",
            "features",
            "metric",
            "folds",
            f"train_{metric}",
            f"val_{metric}",
            f"final_train_{metric}",
        ),
        *(f"pooled_val_{metric}", f"mean_pooled_val_{metric}"),
    ]
    assert cv.final_names == ["final_1", "final_2"]


@pytest.mark.parametrize("statistics", ["all", "train"])
@pytest.mark.parametrize(("metric", "final_models"), [("rmse", 2), ("log_rmse", 3), ("log_rmse", 1)])
def test_the_submission_is_the_mean_of_the_models_of_all_rows(
    tables: Path, tmp_path: Path, metric: str, final_models: int, statistics: str
) -> None:
    settings = {"metric": metric, "final_models": final_models, "statistics": statistics}
    cv = validated(tables, tmp_path / "run", **settings)
    submission = pd.read_csv(tmp_path / "run" / "submission.csv")
    assert submission["id"].tolist() == make_table(80)["id"][60:].tolist()
    of_models = torch.stack(list(outputs(tmp_path / "run", "final", cv.data.raw.iloc[60:]).values())).double()
    assert len(of_models) == final_models == len(of_models.unique(dim=0))
    mean = of_models.log().mean(0).exp() if metric == "log_rmse" else of_models.mean(0)
    np.testing.assert_allclose(submission["rent"], mean, rtol=1e-6)
    predictor = PricePredictor.load(tmp_path / "run", "final")
    predicted = predictor.predict(tables / "test.csv")["prediction"]
    np.testing.assert_allclose(submission["rent"], predicted, rtol=1e-12)


def test_predictions_below_the_least_label_count_as_it(tables: Path, tmp_path: Path) -> None:
    settings = {"standardize": False, "clip": False, "log_target": False, "lr": 1e-6, "hidden_sizes": []}
    cv = validated(tables, tmp_path / "run", metric="log_rmse", model=settings)
    assert cv.predictions is not None
    assert (cv.held_out < 1).any()  # without training, predictions are about 0
    table = pd.read_csv(tmp_path / "run" / "oof_predictions.csv")
    assert table["prediction"].tolist() == cv.held_out[0].clamp(min=1).tolist()
    assert (cv.predictions == 1).any()
    predicted = PricePredictor.load(tmp_path / "run", "final").predict(tables / "test.csv")
    np.testing.assert_allclose(cv.predictions, predicted["prediction"], rtol=1e-12)


def test_each_model_has_the_encoder_of_its_training_rows(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    monkeypatch.setattr(
        TableEncoder, "_fit", lambda *given, fit=TableEncoder._fit: fitted.append(given[2]) or fit(*given)
    )
    settings = {"statistics": "train", "folds": "shuffled", "final_models": 3}
    cv = validated(tables, tmp_path / "run", **settings)
    assert len(fitted) == 4  # for each fold, and once for all rows
    means = []
    for name, model in load_models(tmp_path / "run", "folds").items():
        assert model.encoding is not None
        rows = torch.ones(60, dtype=torch.bool).index_fill(0, cv.val_rows[cv.names.index(name)], False)
        areas = cv.data.raw["area"].iloc[:60][rows.numpy()].astype(float)
        means.append(model.encoding["scalers"][0]["mean"][0].item())
        assert means[-1] == pytest.approx(areas.mean())
    assert len(set(means)) == 3
    assert all(encoder is cv.data.encoder for encoder in cv.encoders[3:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_models": 0}, "final_models must be positive, not 0"),
        ({"repeats": 0}, "repeats must be positive, not 0"),
        ({"repeats": 2}, "contiguous folds are the same in all 2 repeats; use shuffled folds"),
        ({"k": 61}, "k must be from 2 to the number of training rows, 60; it is 61"),
    ],
    ids=lambda value: str(value),
)
def test_settings_out_of_their_range_leave_no_folder(
    tables: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        validated(tables, tmp_path / "run", **settings)
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()
