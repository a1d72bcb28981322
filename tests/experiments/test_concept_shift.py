"""The job on concept shift: each row is predicted before it is learned from, and learning on pays."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, run_results

experiment = load_experiment("concept_shift")


def test_online_beats_frozen_in_the_median_of_five_seeds(tmp_path: Path) -> None:
    found = [run_results("concept_shift", tmp_path / str(seed), "--seed", str(seed)) for seed in range(5)]
    online, frozen, truth = (
        statistics.median(told[f"{name}_error"] for told in found) for name in ("online", "frozen", "truth")
    )
    assert truth == pytest.approx(0.01, rel=0.05)  # the noise, which nobody can predict
    assert truth < online < 1.3 * truth
    # Weights that turn from 9 to 90 degrees are this far, in the mean, from those at 9.
    angles = torch.linspace(0.1, 1, 901) * torch.pi / 2
    assert frozen == pytest.approx((2 - 2 * (angles - angles[0]).cos()).mean().item() + 0.01, rel=0.1)


def test_without_drift_frozen_is_as_good(tmp_path: Path) -> None:
    told = run_results("concept_shift", tmp_path / "run", "--turn", "0")
    assert told["frozen_error"] == pytest.approx(told["online_error"], rel=0.1)


def test_errors_are_those_of_a_bare_loop(trainer: Callable[..., Trainer]) -> None:
    data, model = DriftingStream(num_rows=205), LinearRegression(5, lr=0.1)
    w, b = model.net.weight.detach()[0].clone(), model.net.bias.detach()[0].clone()
    watch = experiment.TestThenTrain(start=10)
    trainer(max_epochs=1, callbacks=[watch]).fit(model, data)
    assert len(watch.errors) == 21
    w_frozen, b_frozen = w, b
    for place, (X, y) in enumerate(data.train_dataloader()):
        if place <= 10:
            w_frozen, b_frozen = w, b
        e = X @ w + b - y
        expected = ((X @ w_frozen + b_frozen - y) ** 2, e**2)
        torch.testing.assert_close(watch.errors[place], expected, rtol=1e-4, atol=1e-5)
        w, b = w - 0.1 * 2 * X.T @ e / len(y), b - 0.1 * 2 * e.mean()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frozen_after", "1"], "frozen_after must be between 0 and 1"),
        (["--frozen_after", "0.0001"], "leaves one side of 500 batches empty"),
        (["--num_inputs", "1"], "num_inputs must be at least 2"),
        (["--lr", "0"], "lr must be positive"),
        (["--limit_train_batches", "7"], "the flags end the stream early"),
    ],
)
def test_bad_input(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()
