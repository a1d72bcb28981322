"""Training and testing classifiers on data that is not Fashion-MNIST."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.runs.classification import (
    learning_curves,
    require_rows_for_batch_norm,
    train_and_test,
)
from d2l_lightning.runs.run import Run
from tests.models.test_classifiers import SIZES, Blobs


class NamedBlobs(Blobs):
    """Images of four classes; the last 50 of 200 are for testing."""

    class_names: tuple[str, ...] = ("a", "b", "c", "d")
    validate_on_test = False

    def setup(self, stage: str | None = None) -> None:
        self.labels = self.y
        self.rows = {"train": torch.arange(150), "test": torch.arange(150, 200)}

    def examples(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.X[rows], self.y[rows]

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(self.X[150:], self.y[150:]), batch_size=20)

    predict_dataloader = test_dataloader


def make_run(folder: Path, **flags: object) -> Run:
    return Run("blobs", run_dir=str(folder), accelerator="cpu", max_epochs=2, **flags)  # type: ignore[arg-type]


def test_results_are_those_of_the_test_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = SoftmaxRegression(**SIZES, lr=0.5), NamedBlobs()
    with make_run(tmp_path / "run") as run:
        trained = train_and_test(run, data, {"one": model}, "blobs", "A note.")
        assert capsys.readouterr().out == ""
        run.finish(**vars(trained))
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]["models"]["one"]
    X, y = data.examples(data.rows["test"])
    logits = model(X)
    correct = (logits.argmax(dim=1) == y).float()
    assert results["test_accuracy"] == pytest.approx(correct.mean().item())
    assert results["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item())
    expected = {name: correct[y == k].mean().item() for k, name in enumerate(data.class_names)}
    assert results["class_accuracy"] == pytest.approx(expected)
    X, y = data.examples(data.rows["train"])
    in_training = results["train_accuracy"]
    assert len(in_training) == 2
    assert in_training[-1] == pytest.approx((model(X).argmax(dim=1) == y).float().mean().item())
    files = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert files == {"confusion_one.png", "predictions_one.png", "learning_curves.png"}
    printed = " ".join(capsys.readouterr().out.split())
    assert "held out of the training rows; the test rows were used once. A note." in printed


def test_a_model_that_diverges_is_an_error_and_can_be_drawn(tmp_path: Path) -> None:
    with (
        make_run(tmp_path / "run") as run,
        pytest.raises(DivergenceError, match="training loss became"),
    ):
        train_and_test(run, NamedBlobs(), {"one": SoftmaxRegression(**SIZES, lr=1e38)}, "blobs")
    figure = learning_curves({"one": None}, "blobs", validate_on_test=True)()
    labels = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["one (diverged)"]


@pytest.mark.parametrize(("num_train", "batch_size"), [(5, 1), (9, 4)])
def test_batch_norm_on_a_single_row_is_an_error_before_training(num_train: int, batch_size: int) -> None:
    require_rows_for_batch_norm(MLP(**SIZES, batch_norm=False), num_train, batch_size)
    require_rows_for_batch_norm(MLP(**SIZES, batch_norm=True), num_train, 3)
    with pytest.raises(InputError, match=f"another batch_size than {batch_size}"):
        require_rows_for_batch_norm(MLP(**SIZES, batch_norm=True), num_train, batch_size)
