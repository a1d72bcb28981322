"""The command line: flags, config files, results, exit statuses."""

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch

from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import Experiment, run_experiment
from d2l_lightning.runs.run import Run
from tests.conftest import load_experiment

main = load_experiment("kaggle_house").main
QUICK = ["--accelerator", "cpu", "--max_epochs", "2", "--k", "3"]

Cli = Callable[..., int]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the house job in an empty folder and return its exit status."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> int:
        try:
            run_experiment(main, flags)
        except SystemExit as stop:
            return cast(int, stop.code)
        return 0

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that holds a finished run."""
    folder = tmp_path_factory.mktemp("run") / "first"
    run_experiment(main, [*QUICK, "--run_dir", str(folder)])
    return folder


def read_results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that was said, which is no traceback."""
    said = capsys.readouterr().err.strip()
    assert said.startswith("kaggle_house: ")
    assert len(said.splitlines()) == 1
    return said


def test_a_run_leaves_what_the_contract_says(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    figures = {"learning_curves", "final_fit", "predicted_prices"}
    checkpoints = {"fold_1", "fold_2", "fold_3", "final"}
    assert names == {
        "config.yaml",
        "manifest.json",
        "metrics.csv",
        "results.json",
        "submission.csv",
        *(f"figures/{name}.png" for name in figures),
        *(f"checkpoints/{name}.ckpt" for name in checkpoints),
    }


def test_results_report_versions_device_and_seed(finished: Path) -> None:
    report = read_results(finished)
    assert report["experiment"] == "kaggle_house"
    assert report["seconds"] > 0
    environment = report["environment"]
    assert environment["device"] == "cpu"
    assert environment["seed"] == 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"features", "folds", "train_log_rmse", "val_log_rmse", "final_train_log_rmse"} == set(
        report["results"]
    )


def test_metrics_hold_every_fold_and_the_final_fit_at_every_epoch(finished: Path) -> None:
    metrics = pd.read_csv(finished / "metrics.csv")
    folds = ["", "/fold_1", "/fold_2", "/fold_3"]
    expected = {f"{m}{f}" for m in ("train/loss", "train/log_rmse", "val/log_rmse") for f in folds}
    expected |= {"final/train/loss", "final/train/log_rmse"}
    assert expected == set(metrics.columns) - {"epoch", "step"}
    for name in expected:
        assert metrics.loc[metrics[name].notna(), "epoch"].tolist() == [0, 1], name
    results = read_results(finished)["results"]
    assert metrics["val/log_rmse"].dropna().iloc[-1] == pytest.approx(results["val_log_rmse"], rel=1e-6)


def test_the_submission_is_what_kaggle_wants(finished: Path) -> None:
    with (finished / "submission.csv").open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    assert header == ["Id", "SalePrice"]
    assert [int(row[0]) for row in rows] == list(range(1461, 2920))
    assert all(0 < float(row[1]) < float("inf") for row in rows)


def test_the_checkpoints_are_the_models_of_the_results(finished: Path) -> None:
    model = PriceRegressor.load_from_checkpoint(finished / "checkpoints" / "final.ckpt", weights_only=True)
    data = load_experiment("kaggle_house").KaggleHouse()
    data.setup()
    prices = model(data.features()[data.num_train :])
    submitted = pd.read_csv(finished / "submission.csv")["SalePrice"]
    torch.testing.assert_close(
        prices.clamp(min=1).double().detach(), torch.tensor(submitted.to_numpy()), rtol=1e-6, atol=0
    )


def test_the_resolved_configuration_gives_the_same_bits(finished: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("--config", str(finished / "config.yaml"), "--run_dir", "again") == 0
    again = tmp_path / "again"
    assert read_results(again)["results"] == read_results(finished)["results"]
    for name in ("submission.csv", "metrics.csv", "config.yaml"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_another_seed_gives_other_figures(finished: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("--config", str(finished / "config.yaml"), "--run_dir", "other", "--seed", "1") == 0
    assert read_results(tmp_path / "other")["results"] != read_results(finished)["results"]


def test_the_table_shows_the_books_figures_where_the_folds_are_the_books(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--accelerator", "cpu", "--max_epochs", "1") == 0
    said = capsys.readouterr().out
    for figure in ("0.157272", "0.182737", "0.165080", "0.170157", "0.162503", "331 features"):
        assert figure in said
    (folder,) = Path("runs/kaggle_house").iterdir()
    assert str(folder) in said.replace("\n", "")


BAD_FLAGS = {
    "k of 0": (["--k", "0"], "k must be from 2 to"),
    "k of 1": (["--k", "1"], "it is 1"),
    "more folds than rows": (["--k", "1461"], "number of training rows, 1460; it is 1461"),
    "unknown flag": (["--learning_rate", "1"], "--learning_rate"),
    "wrong type": (["--k", "five"], "k: "),
    "wrong choice": (["--statistics", "some"], "statistics: "),
    "wrong logger": (["--logger", "paper"], "logger: "),
    "wrong list": (["--hidden_sizes", "3", "x"], "hidden_sizes: "),
    "negative size": (["--hidden_sizes", "-3"], "hidden_sizes must be positive"),
    "batch of 0": (["--batch_size", "0"], "batch_size must be positive, not 0"),
    "negative seed": (["--seed", "-1"], "seed"),
    "dropout of 1": (["--dropout", "1"], "dropout must be in [0, 1)"),
    "no such folder": (["--data_dir", "nowhere"], "nowhere"),
    "no such config": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "no such accelerator": (["--accelerator", "abacus"], "abacus"),
    "no such precision": (["--precision", "7"], "precision"),
    "two devices": (["--accelerator", "cpu", "--devices", "2"], "ask for 2 devices"),
    "wrong clipping": (["--gradient_clip_algorithm", "scissors"], "scissors"),
}


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_a_bad_flag_is_one_line_and_nothing_is_written(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert cli("--run_dir", "run", *flags) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("accelerator", ["gpu", "mps", "tpu"])
def test_an_accelerator_that_is_not_there(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], accelerator: str
) -> None:
    there = {
        "gpu": torch.cuda.is_available() or torch.mps.is_available(),
        "mps": torch.mps.is_available(),
        "tpu": False,
    }
    if there[accelerator]:
        assert cli(*QUICK, "--accelerator", accelerator) == 0
    else:
        assert cli("--run_dir", "run", "--accelerator", accelerator) == 2
        assert accelerator in error_line(capsys).lower()
        assert list(tmp_path.iterdir()) == []


def test_bad_yaml_is_one_line(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("k: 5\nfolds: 3\n", "folds"),
        ("k: [", "bad.yaml"),
        ("k: five\n", "k: "),
        ("trainer:\n  max_epochs: 3\n", "trainer"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        assert cli("--config", "bad.yaml", "--run_dir", "run") == 2
        assert message in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_flags_after_a_config_override_it(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("k: 7\nlr: 0.5\n")
    flags = Experiment(main).parser.parse_args(["--config", str(tmp_path / "my.yaml"), "--lr", "0.25"])
    assert (flags.k, flags.lr, flags.batch_size) == (7, 0.25, 64)


@pytest.mark.parametrize(
    "words", [["--hidden_sizes", "32", "16"], ["--hidden_sizes", "[32,16]"], ["--hidden_sizes=[32, 16]"]]
)
def test_hidden_sizes_make_a_perceptron(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    flags = (
        "--log_price",
        "true",
        "--lr",
        "0.01",
        "--dropout",
        "0.1",
        "--activation",
        "gelu",
        "--run_dir",
        "mlp",
    )
    assert cli(*words, *QUICK, *flags) == 0
    model = PriceRegressor.load_from_checkpoint(tmp_path / "mlp/checkpoints/fold_2.ckpt", weights_only=True)
    assert model.hparams["hidden_sizes"] == [32, 16]
    assert model.hparams["activation"] == "gelu"


def test_shuffled_folds_differ_from_contiguous_ones(finished: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli(*QUICK, "--shuffle_folds", "true", "--run_dir", "run") == 0
    shuffled = read_results(tmp_path / "run")["results"]
    plain = read_results(finished)["results"]
    assert shuffled["folds"] != plain["folds"]
    assert shuffled["final_train_log_rmse"] == plain["final_train_log_rmse"]


def test_a_loss_that_is_not_finite_ends_the_run_with_epoch_and_fold(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*QUICK, "--enable_progress_bar", "false", "--lr", "1e30", "--run_dir", "run") == 2
    said = error_line(capsys)
    assert "fold_1" in said
    assert "epoch 1" in said
    assert not (tmp_path / "run/results.json").exists()
    assert not (tmp_path / "run/submission.csv").exists()


def test_a_metric_that_is_not_finite_at_the_end_is_an_error(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--enable_progress_bar", "false", "--log_price", "true", "--lr", "20", "--run_dir", "run"]
    assert cli(*QUICK, *flags) == 2
    assert "log_rmse of the 3-fold cross-validation is not finite" in error_line(capsys)
    assert not (tmp_path / "run/results.json").exists()


@pytest.fixture
def handler() -> Iterator[None]:
    """Lightning ignores SIGINT once it has seen one: let the next test have its own."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handler")
def test_ctrl_c_prints_how_far_the_run_was_and_leaves_no_result(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    original = StackedModule.on_train_epoch_end

    def interrupt(self: StackedModule) -> None:
        original(self)
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StackedModule, "on_train_epoch_end", interrupt)
    assert cli("--accelerator", "cpu", "--max_epochs", "50", "--run_dir", "run") == 130
    said = capsys.readouterr().err
    assert "kaggle_house: stopped after epoch 1 of 50 of the 5-fold cross-validation" in said
    assert "Traceback" not in said
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.yaml", "manifest.json", "metrics.csv"}
    # What is left is no finished run, so its folder can be used again.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli(*QUICK, "--run_dir", "run") == 0


def test_help_lists_every_flag(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    own = "k lr weight_decay batch_size shuffle_folds log_price hidden_sizes dropout activation statistics"
    common = "data_dir config seed logger run_dir overwrite wandb_project wandb_mode"
    lightning = (
        "accelerator devices num_nodes strategy precision max_epochs gradient_clip_val deterministic max_time"
    )
    for flag in f"{own} {common} {lightning}".split():
        assert f"--{flag} " in said
    assert "Number of folds." in said
    assert "Width of each hidden layer" in said
    assert "default: 5" in said


class Widget:
    """A part.

    Args:
        size: Given by the experiment.
        colour: The colour of the widget.
        lr: The learning rate.
        seed: Given by the run.
    """

    def __init__(self, size: int, colour: str = "red", lr: float = 0.1, seed: int = 0) -> None:
        self.values = (size, colour, lr, seed)


def fixed(size: int, **other: Any) -> Widget:
    """Return a widget of a fixed colour."""
    return Widget(size, colour="blue", **other)


def experiment_of_parts(
    run: Run,
    repeats: int = 1,
    names: Sequence[str] = ("a",),
    first: Callable[..., Widget] = Widget,
    second: Callable[..., Widget] = fixed,
) -> None:
    """Make widgets.

    Args:
        run: The run.
        repeats: How many.
        names: Their names.
        first: A widget.
        second: Another.
    """
    run.finish(
        {
            "repeats": repeats,
            "names": list(names),
            "first": first(1, seed=run.seed).values,
            "second": second(2).values,
        }
    )


def test_parts_get_their_settings_from_flags(tmp_path: Path) -> None:
    experiment = Experiment(experiment_of_parts)
    flags = ["--repeats", "2", "--names", "1", "b,c", "--colour", "green", "--lr", "0.5", "--seed", "7"]
    experiment.run([*flags, "--run_dir", str(tmp_path / "run")])
    results = read_results(tmp_path / "run")["results"]
    assert results["repeats"] == 2
    assert results["names"] == ["1", "b,c"]
    assert results["first"] == [1, "green", 0.5, 7]
    # The colour is fixed, the flag lr is shared, and the seed is the experiment's to pass on.
    assert results["second"] == [2, "blue", 0.5, 0]
    experiment.run([*flags, "--run_dir", str(tmp_path / "run"), "--overwrite", "true"])
    config = (tmp_path / "run/config.yaml").read_text()
    assert "colour: green" in config
    assert "run_dir" not in config
    assert "overwrite" not in config
    assert "first" not in config


def test_help_shows_the_parts_own_descriptions_and_defaults() -> None:
    text = " ".join(Experiment(experiment_of_parts).parser.format_help().split())
    assert "Make widgets." in text
    assert "The colour of the widget. (type: str, default: red)" in text
    assert "--size" not in text
    assert "Args:" not in text


def test_an_experiment_is_a_function_that_python_calls(tmp_path: Path) -> None:
    with Run("parts", run_dir=str(tmp_path / "parts")) as run:
        experiment_of_parts(run, second=Widget)
    assert read_results(tmp_path / "parts")["results"]["second"] == [2, "red", 0.1, 0]
    with Run("kaggle_house", run_dir=str(tmp_path / "run"), max_epochs=2, accelerator="cpu") as run:
        main(run, k=3)
    from_python = read_results(tmp_path / "run")["results"]
    run_experiment(main, [*QUICK, "--run_dir", str(tmp_path / "flags")])
    assert from_python == read_results(tmp_path / "flags")["results"]
