"""Exported models compute what PyTorch computes, for any number of rows, on the features of real houses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.errors import InputError
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.tabular import export
from d2l_lightning.tabular.export import METADATA, export_onnx, export_program, require_export
from d2l_lightning.tabular.models import MeanOfModels, Target
from d2l_lightning.tabular.predictor import PricePredictor
from tests.tools.house_runs import TEST

ROWS = (1, 7, 100)


@pytest.fixture(params=["three linear models", "one perceptron"])
def predictor(request: pytest.FixtureRequest) -> PricePredictor:
    name, kind = {
        "three linear models": ("house_run", "folds"),
        "one perceptron": ("run_of_own_statistics", "final"),
    }[request.param]
    return PricePredictor.load(request.getfixturevalue(name), kind)


def test_the_onnx_file_predicts_as_pytorch_does(predictor: PricePredictor, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    export_onnx(predictor.mean_of_models(), predictor.feature_names, file)
    session = InferenceSession(file)
    for rows in ROWS:
        table = read_table(TEST).iloc[:rows]
        (found,) = session.run(["predictions"], {"features": predictor.features(table).numpy()})
        assert (found.dtype, found.shape) == (np.float32, (rows,))
        np.testing.assert_allclose(found, predictor.predict(table)["prediction"], rtol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["features"]) == predictor.feature_names
    assert json.loads(metadata["label"]) == "SalePrice"


def test_the_program_predicts_as_pytorch_does(predictor: PricePredictor, tmp_path: Path) -> None:
    export_program(predictor.mean_of_models(), predictor.feature_names, tmp_path / "model.pt2")
    extra_files = {METADATA: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra_files).module()
    for rows in ROWS:
        table = read_table(TEST).iloc[:rows]
        found = program(predictor.features(table))
        assert found.shape == (rows,)
        np.testing.assert_allclose(found.detach(), predictor.predict(table)["prediction"], rtol=1e-5)
    assert json.loads(extra_files[METADATA])["features"] == predictor.feature_names


def test_models_of_classes_return_probabilities(tmp_path: Path) -> None:
    models = [SoftmaxRegression(3, 2) for _ in range(2)]
    mean_of_models = MeanOfModels(models, Target("kind", classes=["a", "b"]))
    export_program(mean_of_models, ["x", "y", "z"], tmp_path / "model.pt2")
    X = torch.randn(5, 3)
    found = torch.export.load(tmp_path / "model.pt2").module()(X)
    expected = sum(model(X).softmax(dim=1) for model in models) / 2
    torch.testing.assert_close(found, expected)


def test_onnx_without_its_packages_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"the packages onnx and onnxscript; .*'d2l_lightning\[export\]'"):
        require_export("onnx")
    require_export("torch")
    require_export(None)
