"""The initialization experiment: its results, and its errors for bad input."""

from pathlib import Path

import pytest

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("initialization")
QUICK = ["--max_epochs", "1", "--batch_size", "16", "--num_layers", "4", "--width", "12", "--depths", "2"]


@pytest.mark.figures
def test_results_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    results = run_results("initialization", tmp_path / "run", "--data_dir", folder, *QUICK, "--sigmas", "0.5")
    schemes = ["default", "normal_0.5", "xavier_uniform", "xavier_normal", "kaiming"]
    assert list(results["schemes"]) == list(results["training"]) == schemes
    for by_activation in results["schemes"].values():
        assert list(by_activation) == ["identity", "relu", "tanh", "sigmoid"]
        for variances in by_activation.values():
            assert set(variances) == {"activation_variance", "gradient_variance"}
            assert all(set(ends) == {"first", "last"} for ends in variances.values())
            assert all(min(ends.values()) > 0 for ends in variances.values())
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {
        *("sigmoid", "activation_variance", "gradient_variance", "over_depth", "learning_curves"),
    }
    assert "4.8.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_layers", "1"], "num_layers must be at least 2"),
        (["--width", "0"], "width must be positive"),
        (["--sigmas", "1", "-1"], "sigmas must be positive"),
        (["--sigmas", "1", "1.0"], "sigmas must be positive and differ"),
        (["--activations"], "activations must name each once"),
        (["--activation", "step"], "activation: "),
        (["--depths", "0"], "depths must be positive"),
        (["--depths", "300"], "take smaller --depths or other --sigmas"),
        (["--sigmas", "1e200"], "take smaller --depths or other --sigmas"),
        (["--sigmas", "0.1234567", "0.1234568"], "sigmas must differ in their first six digits"),
        (["--limit_test_batches", "0"], "leaves nothing to test on"),
        (["--lr", "-1"], "lr must be positive"),
    ],
)
def test_bad_input_is_an_error(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data")), "--sigmas", "1.0", "--width", "64"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*data, *flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_invalid_flag_does_not_delete_earlier_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), *QUICK, "--activations", "relu"]
    run_results("initialization", tmp_path / "run", *flags)
    before = (tmp_path / "run" / "results.json").read_bytes()
    again = [*flags, "--run_dir", str(tmp_path / "run"), "--overwrite", "true", "--limit_val_batches", "0"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, again)
    assert stop.value.code == 2
    assert "leaves nothing to evaluate on" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == before


@pytest.mark.slow
@needs_fashion_mnist
def test_the_claims_of_the_section_hold_on_the_real_data(tmp_path: Path) -> None:
    flags = ["--max_epochs", "1", "--depths", "5", "--activations", "relu"]
    results = run_results("initialization", tmp_path / "run", *flags)
    training = results["training"]
    assert training["kaiming"]["test_accuracy"] > 0.7
    assert training["normal_0.01"]["test_accuracy"] == pytest.approx(0.1, abs=0.01)  # gradients vanished
    diverged = {"diverged": True, "test_accuracy": None, "test_loss": None}
    assert training["normal_1"] == diverged  # gradients exploded
    relu = {name: v["relu"]["gradient_variance"]["first"] for name, v in results["schemes"].items()}
    assert relu["normal_0.01"] < 1e-15 < relu["xavier_normal"] < relu["kaiming"] < 1e10 < relu["normal_1"]
