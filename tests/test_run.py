"""The run: flags, folder, results, and what is said when something is wrong."""

import contextlib
import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from lightning.pytorch import seed_everything

from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.run import Run, run_experiment, run_parser
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
        "metrics.csv",
        "results.json",
        "submission.csv",
        *(f"figures/{name}.png" for name in figures),
        *(f"checkpoints/{name}.ckpt" for name in checkpoints),
    }


def test_results_tell_what_ran_where(finished: Path) -> None:
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


def test_a_finished_run_is_kept_unless_told_otherwise(
    finished: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert cli(*QUICK, "--run_dir", str(finished)) == 2
    assert "holds a finished run; choose another folder or --overwrite true" in error_line(capsys)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_overwrite_replaces_a_finished_run(cli: Cli, tmp_path: Path) -> None:
    assert cli(*QUICK, "--run_dir", "here") == 0
    first = read_results(tmp_path / "here")["results"]
    assert cli(*QUICK, "--run_dir", "here", "--overwrite", "true", "--k", "2") == 0
    assert len(first["folds"]) == 3
    assert len(read_results(tmp_path / "here")["results"]["folds"]) == 2
    assert not (tmp_path / "here/checkpoints/fold_3.ckpt").exists()


def test_folders_that_cannot_be_a_run_folder(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "submission.csv").write_text("mine")
    for folder, message in (
        ("file", "is a file, not a folder"),
        ("file/below", "is a file, not a folder"),
        ("mine", "holds files that are no run's"),
        ("/proc/1/run", ""),  # where not even root writes
    ):
        assert cli(*QUICK, "--run_dir", folder) == 2
        said = error_line(capsys)
        assert folder in said
        assert message in said
    assert (tmp_path / "file").read_text() == (tmp_path / "mine" / "submission.csv").read_text() == "mine"


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
def test_bad_flags_are_told_in_one_line_and_nothing_is_written(
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


def test_bad_yaml_is_told_in_one_line(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    parser = run_parser(main, "kaggle_house")
    flags = parser.parse_args(["--config", str(tmp_path / "my.yaml"), "--lr", "0.25"])
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


def test_loggers(cli: Cli, tmp_path: Path) -> None:
    assert cli(*QUICK, "--logger", "none", "--run_dir", "none") == 0
    assert not (tmp_path / "none/metrics.csv").exists()
    assert cli(*QUICK, "--logger", "tensorboard", "--run_dir", "board") == 0
    assert (tmp_path / "board/metrics.csv").exists()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board/tensorboard"))
    events.Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    assert {"val/log_rmse", "val/log_rmse/fold_3", "final/train/log_rmse"} <= set(scalars)
    assert "learning_curves" in images
    logged = [event.value for event in events.Scalars("val/log_rmse")]
    assert logged == pytest.approx(
        pd.read_csv(tmp_path / "board/metrics.csv")["val/log_rmse"].dropna().tolist()
    )


def test_a_loss_that_is_no_number_ends_the_run_with_epoch_and_fold(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*QUICK, "--enable_progress_bar", "false", "--lr", "1e30", "--run_dir", "run") == 2
    said = error_line(capsys)
    assert "fold_1" in said
    assert "epoch 1" in said
    assert not (tmp_path / "run/results.json").exists()
    assert not (tmp_path / "run/submission.csv").exists()


def test_an_infinite_figure_at_the_end_is_told(
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
def test_ctrl_c_says_where_the_run_stands_and_leaves_no_result(
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
    assert left == {"config.yaml", "metrics.csv"}
    # What is left is no finished run, so its folder can be used again.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli(*QUICK, "--run_dir", "run") == 0


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    run = Run("test", run_dir=str(tmp_path / "run"))
    run.start()
    with contextlib.suppress(RuntimeError), run.file("half.txt") as path:
        path.write_text("half")
        raise RuntimeError
    with run.file("sub/whole.txt") as path:
        path.write_text("whole")
        assert not (run.folder / "sub/whole.txt").exists()
    assert (run.folder / "sub/whole.txt").read_text() == "whole"
    assert not list(run.folder.rglob("*half*"))
    assert not list(run.folder.rglob(".partial*"))


def test_runs_at_the_same_second_have_folders_of_their_own(cli: Cli) -> None:
    first, second = Run("test"), Run("test")
    first.start()
    second.start()
    assert first.folder != second.folder
    assert Run("test").folder not in (first.folder, second.folder)


def test_help_tells_every_flag(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        with Run("test", seed=seed, run_dir=str(tmp_path / "run")):
            weights.append(PriceRegressor(4).net[-1].weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    seed_everything(0, verbose=False)


def test_flags_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gradient_clip"):
        Run("test", run_dir=str(tmp_path / "run"), gradient_clip_algorithm="scissors").trainer("a fit")
    assert not (tmp_path / "run").exists()
