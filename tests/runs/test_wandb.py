"""Weights & Biases gets all that a run logs, and an error there is a plain message."""

import csv
import io
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk.launch.sweeps.utils import (
    create_sweep_command,
    create_sweep_command_args,
    load_sweep_config,
)

from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.runs.cli import Experiment, run_experiment
from d2l_lightning.runs.journal import Journal
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trackers import Tracker
from tests.conftest import HOUSE_FIGURES, ROOT, load_experiment
from tests.data.test_fashion_mnist import write
from tests.experiments.test_correct_shift import write_tables

experiment = load_experiment("kaggle_house")
SWEEP = ROOT / "configs" / "sweeps" / "kaggle_house.yaml"
FLAGS = ["--logger=wandb", "--accelerator=cpu", "--max_epochs=3", "--k=3", "--log_price=true", "--lr=0.01"]
OFFLINE = ["--wandb_mode", "offline"]
# Looks like a key, is none.
KEY = "0123456789abcdef" * 3
# Nobody listens here.
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Job:
    """A finished offline run: its folder, what W&B wrote, what was printed, and the home folder it had."""

    folder: Path
    records: list[Record]
    printed: str
    home: Path

    def of(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    def history(self) -> list[dict[str, Any]]:
        """Return the logged rows; what has parts, such as an image, is there as ``name/part``."""
        return [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
            for row in self.of("history")
        ]


def read_records(folder: Path) -> list[Record]:
    """Read a run's .wandb file: a LevelDB log, in which each record is one piece or several in turn."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, block, header = path.read_bytes(), 32768, struct.Struct("<IHB")
    assert content.startswith(b":W&B")
    records, position, pieces = [], 7, b""
    while position < len(content):
        left = block - position % block
        if left < header.size:  # padding
            position += left
            continue
        _, size, piece = header.unpack_from(content, position)
        position += header.size
        pieces += content[position : position + size]
        position += size
        if piece in (1, 4):  # whole, or the last piece
            records.append(Record.FromString(pieces))
            pieces = b""
    assert pieces == b""
    return records


def wandb_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Leave nothing of the user's account and settings, no terminal to ask at, and no network."""
    for name in os.environ:
        if name.startswith(("WANDB_", "XDG_")):
            monkeypatch.delenv(name)
    home.mkdir()
    (home / "cwd").mkdir()
    monkeypatch.chdir(home / "cwd")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """Run the house job offline, once for all tests that look at what it left."""
    flags = [*FLAGS, *OFFLINE, "--wandb_project=houses", "--lr=1e-05"]
    yield from run_offline(experiment.main, flags, tmp_path_factory.mktemp("offline"))


def run_offline(main: Callable[..., None], flags: list[str], place: Path) -> Iterator[Job]:
    """Run an experiment offline, with nothing around it but a home folder of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, place / "home")
        printed = io.StringIO()
        with redirect_stdout(printed):
            run_experiment(main, [*flags, f"--run_dir={place / 'run'}"])
        assert wandb_variables() == {}
        yield Job(place / "run", read_records(place / "run"), printed.getvalue(), place / "home")


def test_every_metric_of_the_csv_is_in_the_offline_file(job: Job) -> None:
    with (job.folder / "metrics.csv").open() as file:
        written = sorted(
            (name, int(row["epoch"]), float(value))
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name not in ("epoch", "step")
        )
    names = {name for name, _, _ in written}
    logged = sorted(
        (name, row["epoch"], value)
        for row in job.history()
        for name, value in row.items()
        if name.startswith(("train/", "val/"))
    )
    assert logged == written
    stages = ["train/loss", "train/log_rmse", "val/log_rmse"]
    by_fold = {f"{stage}/fold_{fold}" for stage in stages for fold in (1, 2, 3)}
    assert names == {*stages, *by_fold, "train/loss/final", "train/log_rmse/final"}
    assert len(written) == 3 * len(names)


def test_no_step_is_lost_or_goes_back(job: Job) -> None:
    steps = [row["_step"] for row in job.history()]
    assert steps == list(range(len(steps)))


def test_panels_have_epochs_on_their_axis_and_none_is_of_the_axis_itself(job: Job) -> None:
    metrics = job.of("metric")
    assert {m.glob_name: m.step_metric for m in metrics if m.glob_name} == {"*": "epoch"}
    assert {m.name for m in metrics if m.options.hidden} == {"epoch", "trainer/global_step"}


def test_the_configuration_is_the_run_folders(job: Job) -> None:
    (run,) = job.of("run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    del config["_wandb"]
    assert config == yaml.safe_load((job.folder / "config.yaml").read_text())
    assert config["lr"] == 1e-5
    assert run.project == "houses"
    assert run.run_group == "kaggle_house"
    assert run.display_name == "kaggle_house/run"


def figures_of(job: Job) -> set[str]:
    """Return the names of a run's figures, all of which W&B has got."""
    figures = {path.stem: path.read_bytes() for path in (job.folder / "figures").glob("*.png")}
    (files,) = job.folder.glob("wandb/offline-run-*/files")
    shown = {
        name.split("/")[1]: (files / path).read_bytes()
        for row in job.history()
        for name, path in row.items()
        if name.startswith("figures/") and name.endswith("/path")
    }
    assert shown == figures
    return set(figures)


def test_the_figures_are_there(job: Job) -> None:
    assert figures_of(job) == HOUSE_FIGURES


def test_a_classifier_shows_curves_confusion_and_predictions(tmp_path: Path) -> None:
    data = str(write(tmp_path / "data"))
    flags = ["--logger=wandb", "--accelerator=cpu", "--max_epochs=3", "--batch_size=16", "--data_dir", data]
    (job,) = run_offline(load_experiment("mlp").main, [*flags, *OFFLINE], tmp_path)
    kinds = ("confusion", "predictions")
    assert figures_of(job) == {
        "learning_curves",
        *(f"{kind}_{model}" for kind in kinds for model in ("scratch", "concise")),
    }
    history = job.history()
    for model in ("scratch", "concise"):
        for metric in ("train/loss", "val/loss", "val/accuracy"):
            epochs = [row["epoch"] for row in history if f"{model}/{metric}" in row]
            assert epochs == [0, 1, 2], metric
        assert sum(f"{model}/test/accuracy" in row for row in history) == 1
    assert sum("tables/multilayer_perceptron/path" in row for row in history) == 1
    assert job.of("exit")[0].exit_code == 0


def test_a_corrected_shift_shows_its_tables_pictures_and_files(tmp_path: Path) -> None:
    flags = ["--logger=wandb", "--accelerator=cpu", "--steps=9", "--domain_steps=9", "--num_permutations=9"]
    (job,) = run_offline(
        load_experiment("correct_shift").main,
        [*flags, *OFFLINE, *write_tables(tmp_path, n=100)["flags"]],
        tmp_path,
    )
    keys = {key for row in job.history() for key in row}
    assert {"figures/weights/path", "figures/balance/path", "tables/source_and_target/path"} <= keys
    assert {"train/loss", "val/loss/corrected_all", "fold/val/accuracy", "test/val/accuracy"} <= keys
    artifacts = {artifact.type: artifact for artifact in job.of("artifact")}
    for name in ("weights", "predictions"):
        (entry,) = artifacts[name].manifest.contents
        assert Path(entry.local_path).read_bytes() == (job.folder / f"{name}.csv").read_bytes()


def test_the_fold_table_holds_this_runs_figures(job: Job) -> None:
    paths = [row["tables/log_rmse/path"] for row in job.history() if "tables/log_rmse/path" in row]
    (files,) = job.folder.glob("wandb/offline-run-*/files")
    (table,) = (json.loads((files / path).read_text()) for path in paths)
    results = json.loads((job.folder / "results.json").read_text())["results"]
    assert table["columns"][:3] == ["rows", "training", "validation"]
    assert [row[:3] for row in table["data"]] == [
        *(
            [f"fold {n}", fold["train_log_rmse"], fold["val_log_rmse"]]
            for n, fold in enumerate(results["folds"], start=1)
        ),
        ["average", results["train_log_rmse"], results["val_log_rmse"]],
        ["all rows", results["final_train_log_rmse"], None],
    ]


def test_the_submission_is_an_artifact_that_waits_in_the_run_folder(job: Job) -> None:
    (artifact,) = (a for a in job.of("artifact") if a.type == "submission")
    (entry,) = artifact.manifest.contents
    assert artifact.name == "kaggle_house-submission"
    assert entry.path == "submission.csv"
    assert Path(entry.local_path).is_relative_to(job.folder)
    assert Path(entry.local_path).read_bytes() == (job.folder / "submission.csv").read_bytes()


def test_the_run_ended_well_and_prints_how_to_send_it(job: Job) -> None:
    (ended,) = job.of("exit")
    assert ended.exit_code == 0
    last = job.printed.splitlines()[-1]
    assert last.startswith("to send it to Weights & Biases: wandb sync ")
    assert list(Path(last.split("wandb sync ")[1]).glob("run-*.wandb"))
    assert "wandb:" not in job.printed


def test_nothing_lies_outside_the_run_folder(job: Job) -> None:
    assert (job.folder / "wandb").is_dir()
    assert list((job.home / "cwd").iterdir()) == []
    assert [path for path in job.home.rglob("*") if "wandb" in str(path.relative_to(job.home))] == []


@pytest.mark.usefixtures("alone")
def test_a_diverged_run_is_closed_as_a_failed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, *OFFLINE, "--lr", "1e30", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="2"):
        run_experiment(experiment.main, flags)
    assert "the training loss of fold_1 became" in capsys.readouterr().err
    (ended,) = Job(tmp_path / "run", read_records(tmp_path / "run"), "", tmp_path).of("exit")
    assert ended.exit_code == 1


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("error", "code"), [(RuntimeError, 1), (KeyboardInterrupt, 130)])
def test_a_run_that_breaks_off_is_closed_as_a_failed_one(
    tmp_path: Path, error: type[BaseException], code: int
) -> None:
    def break_off(folder: Path) -> None:
        with Run("broken", "k: 1", logger="wandb", wandb_mode="offline", run_dir=str(folder)) as run:
            run.start()
            raise error

    folder = tmp_path / "run"
    with pytest.raises(error):
        break_off(folder)
    (ended,) = Job(folder, read_records(folder), "", tmp_path).of("exit")
    assert ended.exit_code == code


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make W&B give up on the network after two seconds."""
    init = wandb.init

    def hurried(*, settings: wandb.Settings, **arguments: Any) -> Any:
        settings.init_timeout = 2
        return init(settings=settings, **arguments)

    monkeypatch.setattr(wandb, "init", hurried)


@pytest.mark.usefixtures("alone", "hurry")
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "No API key configured"),
        ({"WANDB_API_KEY": "abc"}, "WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOWHERE}, "127.0.0.1:9"),
        ({"WANDB_BASE_URL": "nonsense"}, "base_url"),
    ],
    ids=["no account", "malformed key", "no network", "malformed address"],
)
def test_a_failed_login_is_a_message_with_advice_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    reason: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(SystemExit, match="2"):
        run_experiment(experiment.main, [*FLAGS, "--run_dir", str(tmp_path / "run")])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kaggle_house: ")]
    assert reason in line
    for advice in ("nothing was trained", "`wandb login`", "--wandb_mode offline"):
        assert advice in line
    assert not (tmp_path / "run").exists()
    assert wandb_variables() == variables


@pytest.mark.usefixtures("alone")
def test_a_failed_login_keeps_the_earlier_results(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run("test", run_dir=str(folder)) as run:
        run.finish({"value": 1}, figures={"empty": Figure})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="2"):
        run_experiment(experiment.main, [*FLAGS, "--overwrite", "true", "--run_dir", str(folder)])
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = folder / "manifest.json"
    files = json.loads(after.pop(manifest))["files"]
    assert files == [*json.loads(before.pop(manifest))["files"], "wandb/"]  # where it would have written
    assert after == before


@pytest.mark.usefixtures("alone")
def test_a_project_that_cannot_be_is_named_and_no_login_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS, *OFFLINE, "--wandb_project", "a/b", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="2"):
        run_experiment(experiment.main, flags)
    said = capsys.readouterr().err
    assert "'a/b'" in said
    assert "wandb login" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("alone")
def test_disabled_writes_nothing_of_wandbs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_experiment(experiment.main, [*FLAGS, "--wandb_mode", "disabled", "--run_dir", str(folder)])
    written = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "results.json", "metrics.csv", "submission.csv"} <= written
    assert "wandb" not in written
    assert list((tmp_path / "home").rglob("*wandb*")) == []


def run_under(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path, **given: Any) -> Any:
    """Make a run with environment variables, and return what W&B wrote about it, if it wrote anything."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Run("test", "k: 1", logger="wandb", run_dir=folder / "run", **given) as run:
        run.finish({"value": 1})
    place = Path(variables.get("WANDB_DIR", folder / "run"))
    records = read_records(place) if list(place.glob("wandb/offline-run-*")) else []
    return next((record.run for record in records if record.WhichOneof("record_type") == "run"), None)


@pytest.mark.usefixtures("alone")
def test_variables_of_weights_and_biases_beat_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place").mkdir()
    variables = {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "mine",
        "WANDB_NAME": "my name",
        "WANDB_RUN_GROUP": "my group",
        "WANDB_DIR": str(tmp_path / "place"),
        "WANDB_INIT_TIMEOUT": "77",
        "WANDB_CONSOLE": "wrap",
        "WANDB_SILENT": "false",
    }
    settings = []
    init = wandb.init

    def recorded(**arguments: Any) -> Any:
        run = init(**arguments)
        settings.append(run.settings)
        return run

    monkeypatch.setattr(wandb, "init", recorded)
    run = run_under(variables, monkeypatch, tmp_path)
    assert (run.project, run.display_name, run.run_group) == ("mine", "my name", "my group")
    assert (settings[0].init_timeout, settings[0].console, settings[0].silent) == (77, "wrap", False)
    assert wandb_variables() == variables


@pytest.mark.usefixtures("alone")
def test_arguments_beat_the_variables_of_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"WANDB_MODE": "disabled", "WANDB_PROJECT": "mine"}
    run = run_under(variables, monkeypatch, tmp_path, wandb_mode="offline", wandb_project="given")
    assert run.project == "given"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("mode", "written"), [("disabled", False), ("dryrun", True)])
def test_the_variable_sets_the_mode(
    mode: str,
    written: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_under({"WANDB_MODE": mode}, monkeypatch, tmp_path)
    assert (run is not None) == written
    assert ("wandb sync" in capsys.readouterr().out) == written


def sweep() -> dict[str, Any]:
    """Load the sweep file as `wandb sweep` does."""
    config = load_sweep_config(str(SWEEP))
    assert config is not None
    return config


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """Return every value that a parameter of a sweep may take, or the ends of its range."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


TRIALS = [
    (name, value) for name, parameter in sweep()["parameters"].items() for value in values_of(parameter)
]


def test_the_sweep_has_the_form_that_wandb_takes() -> None:
    # W&B's schema is the server's, and that of the package `sweeps`, which found no fault with this file.
    config = sweep()
    assert set(config) == {"program", "command", "method", "metric", "parameters"}
    assert config["method"] in ("grid", "random", "bayes")
    assert (ROOT / config["program"]).is_file()
    forms = [{"value"}, {"values"}, {"distribution", "min", "max"}]
    for parameter in config["parameters"].values():
        assert set(parameter) in forms
        if "distribution" in parameter:
            assert parameter["distribution"] in ("uniform", "log_uniform_values")
            assert 0 <= parameter["min"] < parameter["max"]
            assert parameter["min"] > 0 or parameter["distribution"] == "uniform"


def test_the_sweep_minimises_the_mean_of_the_folds_validation_figure(job: Job) -> None:
    metric = sweep()["metric"]
    assert metric["goal"] == "minimize"
    logged = [row[metric["name"]] for row in job.history() if metric["name"] in row]
    results = json.loads((job.folder / "results.json").read_text())["results"]
    assert logged[-1] == pytest.approx(results["val_log_rmse"], rel=1e-6)


@pytest.mark.parametrize(("name", "value"), TRIALS, ids=str)
def test_a_trial_of_the_sweep_is_one_that_the_script_takes(name: str, value: Any) -> None:
    config = sweep()
    arguments = {key: {"value": values_of(p)[0]} for key, p in config["parameters"].items()}
    arguments[name] = {"value": value}
    command = create_sweep_command(config["command"])
    place = command.index("${args}")
    command[place : place + 1] = create_sweep_command_args({"args": arguments})["args"]
    argv = command[command.index("${program}") + 1 :]
    own, of_run, config = Experiment(experiment.main).parse(argv)
    assert of_run["logger"] == "wandb"
    flags = yaml.safe_load(config)
    assert {key: flags[key] for key in arguments} == {key: a["value"] for key, a in arguments.items()}
    model = own["model"](10)
    assert {key: model.hparams[key] for key in arguments if key != "batch_size"} == {
        key: a["value"] for key, a in arguments.items() if key != "batch_size"
    }


def rows_of(job: Job) -> list[dict[str, Any]]:
    """Return the logged metrics without what depends on the time."""
    return [
        {name: value for name, value in row.items() if name not in ("_timestamp", "_runtime")}
        for row in job.history()
        if not any(name.startswith(("tables/", "figures/")) for name in row)
    ]


def wandb_processes() -> set[int]:
    """Return the processes of Weights & Biases on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"wandb-core" in path.read_bytes().split(b"\0")[0]:
                found.add(int(path.parent.name))
    return found


@pytest.mark.parametrize("signum", [signal.SIGTERM, None], ids=["stopped", "killed"])
def test_a_resumed_run_is_the_same_run_with_the_same_rows(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int | None
) -> None:
    isolate(monkeypatch, tmp_path / "home")
    before = wandb_processes()
    flags = [*FLAGS, *OFFLINE, "--wandb_project=houses", "--lr=1e-05", "--checkpoint_every=0"]
    flags.append(f"--run_dir={tmp_path / 'run'}")
    original, calls = StackedModule.on_train_epoch_end, iter(range(100))

    def end(self: StackedModule) -> None:
        original(self)
        if next(calls) == 1:
            if signum is None:
                raise RuntimeError("as a kill")
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(StackedModule, "on_train_epoch_end", end)
    with pytest.raises(RuntimeError if signum is None else SystemExit):
        run_experiment(experiment.main, flags)
    # A process that was waited for may be there for a moment.
    deadline = time.monotonic() + 10
    while (left := wandb_processes() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    first = Job(tmp_path / "run", read_records(tmp_path / "run"), "", tmp_path)
    (ended,) = first.of("exit")
    assert ended.exit_code == (1 if signum is None else 143)
    assert len(first.of("preempting")) == (0 if signum is None else 1)

    run_experiment(experiment.main, [*flags, "--resume=true"])
    resumed = Job(tmp_path / "run", read_records(tmp_path / "run"), "", tmp_path)
    assert resumed.of("run")[0].run_id == first.of("run")[0].run_id
    assert rows_of(resumed) == rows_of(job)
    assert resumed.of("exit")[0].exit_code == 0


def test_a_tracker_that_keeps_what_it_has_gets_each_row_once() -> None:
    """A server may have got more rows than the saved state has, or fewer."""

    class Server(Logger):
        name, version = "server", ""

        def __init__(self) -> None:
            super().__init__()
            self.got: list[Any] = []

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            pass

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.got.append((metrics, step))

    class ServerTracker(Tracker, Server):
        pass

    rows: list[Any] = [({"epoch": float(n)}, n) for n in range(9)]
    for on_server in range(10):
        for saved in range(10):
            journal, tracker = Journal(), ServerTracker()
            journal.rows, tracker.num_logged = rows[:saved], on_server
            tracker.catch_up(journal)
            for metrics, step in rows:
                journal.log_metrics(metrics, step)
                tracker.log_metrics(metrics, step)
            assert rows[:on_server] + tracker.got == rows
