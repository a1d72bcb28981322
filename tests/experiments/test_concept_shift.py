"""The experiment on concept shift: a model that keeps training beats a frozen one."""

import statistics
from pathlib import Path

import pytest
import torch

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment, run_results

experiment = load_experiment("concept_shift")


def test_online_training_beats_a_frozen_model_in_the_median_of_five_seeds(tmp_path: Path) -> None:
    found = [run_results("concept_shift", tmp_path / str(seed), "--seed", str(seed)) for seed in range(5)]
    online, frozen, truth = (
        statistics.median(results[f"{name}_error"] for results in found)
        for name in ("online", "frozen", "truth")
    )
    assert truth == pytest.approx(0.01, rel=0.05)  # the variance of the noise
    assert truth < online < 1.3 * truth
    # The mean squared distance of weights at 9 to 90 degrees from those at 9 degrees.
    angles = torch.linspace(0.1, 1, 901) * torch.pi / 2
    assert frozen == pytest.approx((2 - 2 * (angles - angles[0]).cos()).mean().item() + 0.01, rel=0.1)


@pytest.mark.figures
def test_without_drift_the_frozen_model_is_as_good(tmp_path: Path) -> None:
    results = run_results("concept_shift", tmp_path / "run", "--turn", "0")
    assert results["frozen_error"] == pytest.approx(results["online_error"], rel=0.1)
    assert (tmp_path / "run" / "figures" / "errors.png").exists()


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
def test_bad_input_is_one_line_and_no_results(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()
