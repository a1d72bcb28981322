"""The command line: flags, config files, results, exit statuses."""

import csv
import errno
import io
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.hub import cache_folder
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots import style
from d2l_lightning.runs.cli import Experiment, run_experiment
from d2l_lightning.runs.run import Run
from tests.conftest import HOUSE_FIGURES, empty_file, load_experiment

main = load_experiment("kaggle_house").main
QUICK = ["--accelerator", "cpu", "--max_epochs", "2", "--k", "3"]

Cli = Callable[..., int]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the house job in an empty folder and return its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", empty_file)

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
    lines = [line for line in said.splitlines() if not line.startswith("warning: the state of the run")]
    assert len(lines) == 1
    assert lines[0].startswith("kaggle_house: ")
    return lines[0]


def test_a_run_leaves_what_the_contract_says(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    checkpoints = {"fold_1", "fold_2", "fold_3", "final"}
    assert names == {
        "config.yaml",
        "importance.csv",
        "manifest.json",
        "metrics.csv",
        "oof_predictions.csv",
        "results.json",
        "submission.csv",
        *(f"figures/{name}.png" for name in HOUSE_FIGURES),
        *(f"checkpoints/{name}.ckpt" for name in checkpoints),
    }


def test_results_report_versions_device_and_seed(finished: Path) -> None:
    report = read_results(finished)
    assert report["experiment"] == "kaggle_house"
    assert report["seconds"] > 0
    environment = report["environment"]
    assert environment["device"] == "cpu"
    assert environment["threads"] in (1, torch.get_num_threads())  # that of OMP_NUM_THREADS
    assert environment["seed"] == 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    figures = {"train_log_rmse", "val_log_rmse", "final_train_log_rmse"}
    figures |= {"pooled_val_log_rmse", "mean_pooled_val_log_rmse"}
    data = {"shapes", "columns", "features", "folds", "metric"}
    assert data | figures == set(report["results"])


def test_metrics_hold_every_fold_and_the_final_fit_at_every_epoch(finished: Path) -> None:
    metrics = pd.read_csv(finished / "metrics.csv")
    folds = ["", "/fold_1", "/fold_2", "/fold_3"]
    expected = {f"{m}{f}" for m in ("train/loss", "train/log_rmse", "val/log_rmse") for f in folds}
    expected |= {"train/loss/final", "train/log_rmse/final"}
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
    "too many devices": (["--accelerator", "cpu", "--devices", "4096"], "more than the CPUs of this machine"),
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


def test_a_flag_beats_a_variable_that_beats_a_config_that_beats_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.yaml").write_text("k: 7\nlr: 0.5\nbatch_size: 8\n")
    monkeypatch.setenv("D2L_LIGHTNING_LR", "0.3")
    monkeypatch.setenv("D2L_LIGHTNING_BATCH_SIZE", "16")
    config = ["--config", str(tmp_path / "my.yaml")]
    for argv in ([*config, "--lr", "0.25"], ["--lr=0.25", *config], ["--lr", "0.25", "=".join(config)]):
        flags = yaml.safe_load(Experiment(main).parse(argv)[2])
        assert (flags["k"], flags["lr"], flags["batch_size"], flags["dropout"]) == (7, 0.25, 16, 0)


def test_a_wrong_variable_is_named(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2L_LIGHTNING_LR", "fast")
    assert cli("--k", "3") == 2
    assert "environment variable D2L_LIGHTNING_LR: lr: Expected" in error_line(capsys)


@pytest.mark.parametrize("flag", ["wandb_mode", "wandb_project"])
def test_variables_of_weights_and_biases_beat_config_files(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.yaml").write_text(f"{flag}: offline\n")
    config, given = ["--config", str(tmp_path / "my.yaml")], [f"--{flag}", "disabled"]

    def value(*argv: str) -> Any:
        return Experiment(main).parse(argv)[1][flag]

    assert (value(), value(*config), value(*given, *config)) == (None, "offline", "disabled")
    # None leaves the choice to the variable, see test_wandb.py.
    monkeypatch.setenv(flag.upper(), "online")
    assert (value(), value(*config), value(*given, *config)) == (None, None, "disabled")


@pytest.mark.parametrize("write", ["flag", "flag=", "config"])
def test_none_is_null_where_null_is_allowed(write: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("data_dir: ~\n")
    for flag in ("data_dir", "gradient_clip_val", "max_epochs", "profiler", "deterministic", "wandb_mode"):
        (tmp_path / "my.yaml").write_text(f"{flag}: None\n")
        argv = {
            "flag": [f"--{flag}", "None"],
            "flag=": [f"--{flag}=None"],
            "config": ["--config", str(tmp_path / "my.yaml")],
        }[write]
        assert yaml.safe_load(Experiment(main).parse(argv)[2])[flag] is None
    correct_shift = Experiment(load_experiment("correct_shift").main)
    own = correct_shift.parse(["--source=a.csv", "--target=b.csv", "--label=None"])[0]
    assert own["label"] == "None"


@pytest.mark.parametrize("name", ["lr=5::a", "~/x"])
def test_everything_lands_in_the_one_run_folder(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delattr(style, "default_style")  # no figures, which take most of the time
    monkeypatch.setenv("HOME", str(home))
    folder = home / "x" if name == "~/x" else tmp_path / name
    flags = ["--max_epochs", "1", "--k", "2", "--accelerator", "cpu", "--logger", "tensorboard"]
    assert cli(*flags, f"--run_dir={name}") == 0
    left = {path.name for path in folder.iterdir()}
    assert {"metrics.csv", "results.json", "checkpoints", "tensorboard", "submission.csv"} <= left
    assert {path.name for path in tmp_path.iterdir()} == {"home", folder.name} - {"x"}
    assert [path.name for path in home.iterdir()] == [folder.name] * (name == "~/x")


def test_paths_are_absolute_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    correct_shift = load_experiment("correct_shift").main
    for given, path in (("~/x", "home/x"), ("x", "x"), (str(tmp_path / "x"), "x")):
        absolute = str(tmp_path / path)
        Path("my.yaml").write_text(f"data_dir: {given}")
        for argv in (["--data_dir", given], [f"--data_dir={given}"], ["--config", "my.yaml"]):
            assert yaml.safe_load(Experiment(main).parse(argv)[2])["data_dir"] == absolute
        assert KaggleHouse(given).data_dir == KaggleHouse(Path(given)).data_dir == absolute
        assert FashionMNIST(given).data_dir == Run("test", run_dir=given).folder == Path(absolute)
        Path("my.yaml").write_text(f"source: {given}")
        own = Experiment(correct_shift).parse(["--config", "my.yaml", "--target", given, "--label", "y"])[0]
        assert (own["source"], own["target"]) == (absolute, absolute)
    monkeypatch.setenv("D2L_LIGHTNING_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "home/cache"


BAD_PATHS = {
    "no home": ("~nobody_of_this_name/x", "run_dir: there is no home folder for ~nobody"),
    "empty": ("", "run_dir: a path must not be empty"),
    "not UTF-8": ("a\udcff", "run_dir: 'a\\udcff' is not text in UTF-8"),
}


@pytest.mark.parametrize(("path", "message"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_path_that_cannot_be_is_one_line(
    path: str, message: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--run_dir", path) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


BAD_CONFIGS = {
    "binary": (bytes(range(256)), "is not text in UTF-8 (byte 0x80 at position 128)"),
    "zeros": (bytes(9), "is not YAML"),
    "Latin-1": ("# Häuser\nk: 5".encode("latin-1"), "is not text in UTF-8"),
    "UTF-16": ("k: 5".encode("utf-16"), "is not text in UTF-8"),
    "deep flow": (b"k: " + b"[" * 5000 + b"]" * 5000, "nested deeper than"),
    "deeper than the stack": (b"k: " + b"[" * 200_000, "nested deeper than"),
    "deep blocks": ("".join(f"{' ' * n}k:\n" for n in range(1000)).encode(), "nested deeper than"),
    "no mapping": (b"- 5", "must hold lines such as"),
    "a text": (b"five", "must hold lines such as"),
    "aliases": (b"hidden_sizes: &a [1, 2]\ndevices: *a", "alias *a"),
    "two documents": (b"k: 5\n---\nk: 6", "single document"),
    "a number as key": (b"5: 5", "Key must be a string"),
    "unknown key": (b"k: 5\nfold: 3", "fold is no setting of this experiment; did you mean folds"),
    "strange key": (b"k: 5\nzzzz: 3", "Option 'zzzz' is not accepted"),
    "the book's key": (
        b"learning_rate: 5",
        "learning_rate is no setting of this experiment; did you mean lr?",
    ),
    "unknown section": (b"trainer:\n  max_epochs: 3", "Option 'trainer"),
    "wrong type": (b"k: five", "k: Expected"),
    "wrong union": (b"data_dir: 5", "data_dir: Expected Path or null. Got value: 5"),
    "itself": (b"config: bad.yaml", "names itself"),
    "too large": (b"# " + b"x" * 1_000_000, "is larger than"),
    "a class": (b"profiler: {class_path: antigravity.Profiler}", "profiler: Expected str or null"),
    "a plugin": (b"plugins: [{class_path: antigravity.Plugin}]", "plugins: Expected"),
    "a strategy": (b"strategy: {class_path: antigravity.Strategy}", "strategy: Expected"),
    "an accelerator": (b"accelerator: {class_path: antigravity.Accelerator}", "accelerator: Expected"),
    "a class for a number": (b"lr: {class_path: antigravity.lr, init_args: {}}", "lr: Expected"),
    "a callback": (b"callbacks: {class_path: antigravity.Callback}", "callbacks"),
    "a tag": (b"k: !!python/object/apply:antigravity.f []", "could not determine a constructor"),
}


@pytest.mark.parametrize(("content", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_config_is_one_line_with_the_files_name(
    content: bytes, message: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    assert cli("--config", "bad.yaml", "--run_dir", "run") == 2
    error = error_line(capsys)
    assert "the config file bad.yaml: " in error
    assert message in error
    assert len(error) < 1100
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
    assert "antigravity" not in sys.modules
    # The same as the config of an experiment.
    (tmp_path / "experiments").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/bad.yaml").write_bytes(content)
    experiment = load_from(tmp_path / "experiments/bad.py")
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment, [])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("bad: the config file ")
    assert str(tmp_path / "configs/bad.yaml") in error
    assert len(error.splitlines()) == 1


def load_from(path: Path) -> Callable[..., None]:
    """Write an experiment to a file and import it."""
    path.write_text("def main(run, k: int = 5, lr: float = 0.1, text: str = 'a') -> None:\n    pass\n")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Callable[..., None], module.main)


def test_the_help_shows_the_defaults_of_the_config(tmp_path: Path) -> None:
    for folder in ("experiments", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs/own.yaml").write_text("# none\n")
    experiment = Experiment(load_from(tmp_path / "experiments/own.py"))
    assert "(default: 5)" in experiment.parser.format_help()
    (tmp_path / "configs/own.yaml").write_text("k: 7\n")
    assert "(default: 7)" in experiment.parser.format_help()
    assert experiment.parse([])[0]["k"] == 7


@pytest.mark.parametrize("byte_order_mark", [b"", b"\xef\xbb\xbf"])
def test_configs_are_utf_8_in_any_locale(
    byte_order_mark: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("experiments", "configs"):
        (tmp_path / folder).mkdir()
    opened = io.open

    def in_latin_1(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *other: Any) -> Any:
        return opened(file, mode, buffering, encoding or (None if "b" in mode else "iso-8859-1"), *other)

    # What a locale does.
    monkeypatch.setattr("builtins.open", in_latin_1)
    monkeypatch.setattr("io.open", in_latin_1)
    for config in (tmp_path / "configs/own.yaml", tmp_path / "my.yaml"):
        config.write_bytes(byte_order_mark + "text: Häuser €".encode())
    experiment = load_from(tmp_path / "experiments/own.py")
    for argv in ([], ["--config", str(tmp_path / "my.yaml")]):
        own, _, text = Experiment(experiment).parse(argv)
        assert own["text"] == "Häuser €"
        with Run("own", text, run_dir=str(tmp_path / "run"), overwrite=True) as run:
            run.finish({})
        assert "text: Häuser €\n".encode() in (tmp_path / "run/config.yaml").read_bytes()
        (tmp_path / "configs/own.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("flag", ["profiler", "strategy", "plugins", "accelerator", "lr", "hidden_sizes"])
@pytest.mark.parametrize(
    "value", ["{class_path: antigravity.X}", '{"class_path": "antigravity.X"}', "antigravity.X"]
)
def test_no_flag_imports_a_class(
    flag: str, value: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(f"--{flag}", value, "--run_dir", "run") == 2
    error_line(capsys)
    assert "antigravity" not in sys.modules
    assert list(tmp_path.iterdir()) == []


def test_settings_of_classes_are_refused_and_settings_of_any_type_are_plain() -> None:
    def of_class(run: Run, widget: Widget | None, call: Callable[..., int] | None = None) -> None: ...

    def of_any(run: Run, value: Any = 1, other=2) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    with pytest.raises(InputError, match=r"widget:\s+Expected"):
        Experiment(of_class).parse(["--widget", "x"])
    with pytest.raises(InputError, match=r"call:\s+Expected"):
        Experiment(of_class).parse(["--widget", "null", "--call", "antigravity.fly"])
    assert Experiment(of_any).parse(["--value", "[1, a]"])[0]["value"] == [1, "a"]
    for flag in ("value", "other"):
        with pytest.raises(InputError, match=rf"{flag}:\s+Expected"):
            parse_config(Experiment(of_any), f"{flag}: {{class_path: antigravity.X}}")
    assert "antigravity" not in sys.modules


def parse_config(experiment: Experiment, text: str) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return experiment.parse(["--config", file.name])


@pytest.mark.parametrize("flag", ["lr", "hidden_sizes", "max_time", "data_dir"])
def test_a_flag_that_is_nested_deeply_is_one_line(
    flag: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(f"--{flag}", "[" * 200_000) == 2
    assert f"{flag}: nested deeper than" in error_line(capsys)


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
    assert cli(*QUICK, "--folds", "shuffled", "--run_dir", "run") == 0
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
    assert "log_rmse of the 3 folds and all rows is not finite" in error_line(capsys)
    assert not (tmp_path / "run/results.json").exists()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_prints_how_far_the_run_was_and_how_to_resume_it(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StackedModule.on_train_epoch_end

    def interrupt(self: StackedModule) -> None:
        original(self)
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StackedModule, "on_train_epoch_end", interrupt)
    assert cli("--accelerator", "cpu", "--max_epochs", "50", "--run_dir", "run") == 130
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("kaggle_house: ")]
    assert line.startswith(
        "kaggle_house: stopped after epoch 2 of 50 of the 5 folds and all rows; to go on: "
    )
    assert "Traceback" not in said
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.yaml", "manifest.json", "metrics.csv", "state"}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    # The line is a command that works.
    python, script, *flags = shlex.split(line.split("to go on: ")[1])
    assert (python, Path(script).name) == ("python", "kaggle_house.py")
    flags[flags.index("--max_epochs") + 1] = "51"
    assert cli(*flags) == 0
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 1 + 2 * 51


def test_help_lists_every_flag(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    own = "k lr weight_decay batch_size folds repeats log_price hidden_sizes dropout activation statistics"
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
    assert "--colour TEXT The colour of the widget. (default: red)" in text
    assert "--size" not in text
    assert "Args:" not in text


def test_a_notebook_has_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment(run: Run, repeats: int = 1) -> None:
        run.finish({"repeats": repeats})

    def repeats(*argv: list[str]) -> Any:
        shutil.rmtree("runs", ignore_errors=True)
        run_experiment(experiment, *argv)
        (folder,) = Path("runs").glob("*/*")
        return read_results(folder)["results"]["repeats"]

    monkeypatch.chdir(tmp_path)
    kernel = ["/somewhere/ipykernel_launcher.py", "-f", "/somewhere/kernel.json"]
    monkeypatch.setattr("sys.argv", kernel)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        assert repeats() == 1
        assert repeats(["--repeats", "2"]) == 2
        patch.setattr("sys.argv", ["-c", "--repeats", "3"])
        assert repeats() == 3
    script = ModuleType("__main__")
    script.__file__ = "script.py"
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr("sys.argv", ["script.py", "--repeats", "4"])
    assert repeats() == 4


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/metrics.csv"),
            "cannot write /x/metrics.csv: No space left on device; free some space, or choose",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/train.csv"),
            "cannot read or write /x/train.csv: Permission denied; change its permissions, or choose",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            "cannot write /x: Read-only file system; choose",
        ),
        (ConnectionError("no network"), "no network"),
        (InputError("\x1b[31mred\x07"), "\\x1b[31mred\\x07"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_system_name_the_file_and_say_what_to_do(
    error: Exception,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def experiment(run: Run) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment, [])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"test_cli: {line}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "epochs", "file"),
    [(900, "1", "config.yaml"), (3000, "30", "metrics.csv"), (20_000, "1", "submission.csv")],
)
def test_a_full_disk_is_one_line_with_the_file(
    limit: int, epochs: str, file: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--accelerator=cpu",
        "--k=2",
        "--max_epochs",
        epochs,
        "--enable_progress_bar=false",
        "--run_dir=run",
    ]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        status = cli(*flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    assert error_line(capsys) == f"kaggle_house: cannot write {tmp_path / 'run' / file}: File too large"
    assert not list(tmp_path.rglob(".partial-*"))


def test_an_experiment_is_a_function_that_python_calls(tmp_path: Path) -> None:
    with Run("parts", run_dir=str(tmp_path / "parts")) as run:
        experiment_of_parts(run, second=Widget)
    assert read_results(tmp_path / "parts")["results"]["second"] == [2, "red", 0.1, 0]
    with Run("kaggle_house", run_dir=str(tmp_path / "run"), max_epochs=2, accelerator="cpu") as run:
        main(run, k=3)
    from_python = read_results(tmp_path / "run")["results"]
    run_experiment(main, [*QUICK, "--run_dir", str(tmp_path / "flags")])
    assert from_python == read_results(tmp_path / "flags")["results"]
