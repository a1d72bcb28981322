"""Lightning's flags have their effects; those that must not change results change no bit of them."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import make_trainer
from tests.conftest import empty_file, load_experiment, run_outputs
from tests.experiments.test_settings import houses

QUICK = ["--max_epochs", "2", "--k", "3", "--batch_size", "16"]
Outputs = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return houses(tmp_path_factory.mktemp("flags") / "data", 0)


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Outputs]:
    """Yield a function that runs the house experiment, once for each list of flags."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def outputs(*flags: str) -> dict[str, Any]:
        if flags not in found:
            at = folder.parent / str(len(found))
            found[flags] = {
                **run_outputs("kaggle_house", at, *QUICK, "--data_dir", str(folder), *flags),
                "folder": at,
            }
        return found[flags]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", empty_file)
        yield outputs


def of(outputs: dict[str, Any], *kinds: str) -> dict[str, Any]:
    return {key: value for key, value in outputs.items() if key.startswith(kinds)}


@pytest.mark.parametrize(
    "flags",
    [
        ["--enable_progress_bar", "false"],
        ["--num_sanity_val_steps", "1"],
        ["--profiler", "simple"],
        ["--deterministic", "true"],
        ["--enable_model_summary", "true"],
    ],
    ids=" ".join,
)
def test_flags_that_do_not_change_results(run: Outputs, flags: list[str]) -> None:
    kinds = ("results", "metrics", "weights", "hparams", "csv")
    assert of(run(*flags), *kinds) == of(run(), *kinds)


@pytest.mark.parametrize(
    ("flags", "others"),
    [
        (["--batch_size", "5000"], ["--batch_size", "122"]),
        (["--limit_train_batches", "0.5"], ["--limit_train_batches", "0.55"]),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_equivalent_flags_train_the_same_models(run: Outputs, flags: list[str], others: list[str]) -> None:
    # A trial run writes no product.
    kinds = ("weights", "csv")
    assert of(run(*flags), *kinds) == of(run(*others), *kinds)
    for name, weights in of(run(), "weights").items():
        assert run(*flags)[name] != weights


def test_max_steps_stops_training_within_an_epoch(run: Outputs) -> None:
    ended, limited = run("--max_steps", "3"), run("--max_epochs", "1", "--limit_train_batches", "3")
    assert of(ended, "weights/fold") == of(limited, "weights/fold")
    assert all(value != ended[name] for name, value in of(run(), "weights").items())


def test_clipped_gradients_take_small_steps(run: Outputs) -> None:
    # Adam's epsilon makes the steps of tiny gradients tiny.
    start, clipped = run("--lr", "1e-30"), run("--gradient_clip_val", "1e-20")
    for name, weights in of(start, "weights").items():
        for key, values in weights.items():
            before, after = torch.tensor(values), torch.tensor(clipped[name][key])
            torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
            assert (torch.tensor(run()[name][key]) - before).abs().max() > 1


def test_double_precision_reaches_the_weights(run: Outputs) -> None:
    single, double = run(), run("--precision", "64-true")
    for outputs, dtype in ((single, torch.float32), (double, torch.float64)):
        final = torch.load(outputs["folder"] / "checkpoints" / "final.ckpt", weights_only=True)
        assert {values.dtype for values in final["state_dict"].values()} == {dtype}
    for name, value in of(single, "results").items():
        assert double[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4))


def test_validation_every_second_epoch(run: Outputs) -> None:
    every, second = run("--max_epochs", "4"), run("--max_epochs", "4", "--check_val_every_n_epoch", "2")
    assert of(every, "weights/fold", "results/folds") == of(second, "weights/fold", "results/folds")
    for outputs, epochs in ((every, ["0", "1", "2", "3"]), (second, ["1", "3"])):
        column = zip(outputs["metrics/epoch"], outputs["metrics/val/log_rmse"], strict=True)
        assert [epoch for epoch, value in column if value] == epochs


# Flags and what the error says; numbers are out of range, in a wrong form, or do not suit the machine.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_epochs": 0}, "--max_epochs must be positive, not 0"),
    ({"max_epochs": -3}, "--max_epochs must be positive, not -3"),
    ({"max_epochs": -1}, "--max_epochs -1 trains without end"),
    ({"max_epochs": 10**20}, "--max_epochs must be less than 2^63"),
    ({"max_steps": 0}, "--max_steps must be positive, not 0"),
    ({"min_epochs": -3}, "--min_epochs must not be negative; it is -3"),
    ({"min_epochs": 5, "max_epochs": 2}, "--min_epochs 5 is more than --max_epochs 2"),
    ({"min_steps": -1}, "--min_steps must not be negative; it is -1"),
    ({"max_time": "00:00:00:00"}, "--max_time 00:00:00:00 leaves no time to train"),
    ({"max_time": {"days": -1}}, "leaves no time to train"),
    ({"max_time": "soon"}, "--max_time soon: "),
    ({"max_time": {"years": 1}}, "--max_time {'years': 1}: "),
    ({"fast_dev_run": -1}, "--fast_dev_run must not be negative; it is -1"),
    ({"limit_train_batches": 0}, "--limit_train_batches leaves nothing to train on"),
    ({"limit_train_batches": 1e-9}, "--limit_train_batches 1e-09 is less than one of 2 batches"),
    ({"limit_train_batches": float("nan")}, "--limit_train_batches nan: "),
    ({"limit_val_batches": 0.0}, "--limit_val_batches leaves nothing to evaluate on"),
    ({"limit_val_batches": 0.4}, "--limit_val_batches 0.4 is less than one of 1 batches"),
    ({"limit_test_batches": 0}, "--limit_test_batches leaves nothing to test on"),
    ({"limit_predict_batches": 0}, "--limit_predict_batches leaves nothing to predict"),
    ({"limit_predict_batches": -1}, "--limit_predict_batches -1: "),
    ({"overfit_batches": 1}, "--overfit_batches does not go with"),
    ({"val_check_interval": 0}, "--val_check_interval must be positive, not 0"),
    ({"val_check_interval": 100000}, "--val_check_interval 100000 is more than the 2 batches"),
    (
        {"val_check_interval": 2, "limit_train_batches": 1},
        "--val_check_interval 2 is more than the 1 batches",
    ),
    ({"val_check_interval": 1.5}, "--val_check_interval 1.5: "),
    ({"check_val_every_n_epoch": 0}, "--check_val_every_n_epoch must be positive, not 0"),
    ({"num_sanity_val_steps": -3}, "--num_sanity_val_steps must not be negative; it is -3"),
    ({"log_every_n_steps": -1}, "--log_every_n_steps must not be negative; it is -1"),
    ({"accumulate_grad_batches": 0}, "--accumulate_grad_batches must be positive, not 0"),
    ({"accumulate_grad_batches": -1}, "--accumulate_grad_batches must be positive, not -1"),
    ({"gradient_clip_val": -1.0}, "--gradient_clip_val must be positive, not -1"),
    ({"gradient_clip_val": 0}, "--gradient_clip_val must be positive, not 0"),
    ({"gradient_clip_val": float("nan")}, "--gradient_clip_val must be positive, not nan"),
    ({"gradient_clip_val": float("inf")}, "--gradient_clip_val must be positive and finite, not inf"),
    ({"reload_dataloaders_every_n_epochs": -1}, "--reload_dataloaders_every_n_epochs must not be negative"),
    ({"devices": "all"}, "--devices all: "),
    ({"devices": -1}, "--devices -1: "),
    ({"cuda_graphs": True}, "cuda_graphs does not go with a fit on the device cpu"),
    ({"devices": 0}, "--devices must be a number of devices from 1 on, or auto, not 0"),
    ({"devices": "0"}, "--devices must be a number of devices from 1 on, or auto, not 0"),
    ({"devices": 4096}, "--devices 4096 is more than the CPUs of this machine ("),
    ({"devices": 2, "profiler": "simple"}, "--profiler is for one process, not for 2; take --devices 1"),
    ({"num_nodes": 0}, "--num_nodes 0: "),
    ({"num_nodes": 2}, "--num_nodes 2 needs the environment variable MASTER_ADDR on every node"),
    ({"strategy": "ddp_spawn"}, "--strategy ddp_spawn cannot be used; take ddp"),
    ({"strategy": "ddp_notebook"}, "--strategy ddp_notebook cannot be used; take ddp"),
    ({"strategy": "fsdp"}, "--strategy fsdp cannot be used; take ddp"),
    ({"precision": "7"}, "--precision 7: "),
    ({"profiler": "xla"}, "--profiler must be one of simple, advanced, pytorch, not 'xla'"),
    ({"model_registry": "mine"}, "--model_registry has no effect"),
    ({"gradient_clip_algorithm": "norm"}, "--gradient_clip_algorithm has no effect without"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[str(flags) for flags, _ in REFUSED])
def test_a_refused_flag_is_named_before_the_run_starts(
    flags: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError, match=re.escape(message)),
        Run("test", run_dir=str(tmp_path / "run"), accelerator="cpu", **flags) as run,
    ):
        run.fit("line", LinearRegression(2), SyntheticRegressionData(num_train=64, num_val=32))
    assert not (tmp_path / "run").exists()


def test_the_flag_that_spoils_the_others_is_named() -> None:
    flags = {"accelerator": "cpu", "precision": "transformer-engine", "max_epochs": 1}
    with pytest.raises(InputError, match=r"^--precision transformer-engine: "):
        make_trainer(Path(), [], **flags)


def test_a_fit_without_a_step_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_: None)
    with Run("test", run_dir=str(tmp_path / "run"), accelerator="cpu", max_epochs=1) as run:
        data = SyntheticRegressionData(num_train=64, num_val=32)
        with pytest.raises(InputError, match="end the fit of the line before its first step"):
            run.fit("line", LinearRegression(2), data)


@pytest.mark.parametrize("flags", [{}, {"check_val_every_n_epoch": None, "val_check_interval": 3}], ids=str)
def test_flags_within_their_range_are_taken(flags: dict[str, Any], tmp_path: Path) -> None:
    flags = {"max_epochs": -1, "max_steps": 4, "num_sanity_val_steps": -1, "gradient_clip_val": 5, **flags}
    flags |= {"limit_train_batches": 2, "limit_val_batches": 1.0, "min_epochs": 0, "log_every_n_steps": 0}
    with Run("test", run_dir=str(tmp_path / "run"), accelerator="cpu", **flags) as run:
        fit = run.fit("line", LinearRegression(2), SyntheticRegressionData(num_train=64, num_val=32))
    assert fit.trainer.global_step == 4


@pytest.mark.parametrize(
    "flags",
    ["--max_epochs 0", "--max_steps 0", "--limit_train_batches 0", "--limit_predict_batches 0.1"],
)
def test_a_run_that_would_not_train_or_predict_writes_nothing(
    flags: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--data_dir", str(folder), "--run_dir", str(tmp_path / "run"), *flags.split()]
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("kaggle_house").main, words)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"kaggle_house: {flags.split()[0]}")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trial", [True, False])
def test_a_trial_run_says_so_and_writes_no_product(
    trial: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run("test", run_dir=str(tmp_path / "run"), accelerator="cpu", fast_dev_run=trial) as run:
        run.finish(
            {},
            products={"submission.csv": pd.DataFrame({"x": [1]})},
            checkpoints={"model": LinearRegression(2)},
            notes=["a note"],
        )
    said = capsys.readouterr().out
    note = "This is a trial run (--fast_dev_run): the results mean nothing; submission.csv is not written."
    assert "a note" in said
    assert (note in said) is trial
    assert (tmp_path / "run/submission.csv").exists() is not trial
    assert (tmp_path / "run/checkpoints").exists() is not trial
    assert json.loads((tmp_path / "run/results.json").read_text()).get("trial", False) is trial
    assert (tmp_path / "run/results.json").exists()


def test_the_profilers_reports_are_in_the_run_folder_by_the_name_of_the_fit(
    run: Outputs, tmp_path: Path
) -> None:
    profiled = run("--profiler", "simple")["folder"]
    for name in ("fit-folds", "validate-folds", "predict-folds"):
        assert "run_training_batch" in (profiled / f"profiler/{name}.txt").read_text() or "fit" not in name
    assert "profiler/" in (profiled / "manifest.json").read_text()
    for profiler in ("advanced", "pytorch"):
        at = tmp_path / profiler
        with Run("test", run_dir=str(at), accelerator="cpu", profiler=profiler, max_epochs=1) as own:
            own.fit("line", LinearRegression(2), SyntheticRegressionData(num_train=64, num_val=32))
        assert (at / "profiler/fit-line.txt").stat().st_size > 100
        assert {path.name for path in at.iterdir()} <= {
            *("manifest.json", "config.yaml", "metrics.csv", "profiler", "state"),
        }


@pytest.mark.parametrize(
    "name", ["activations", "bandits", "benchmark", "normal_distribution", "vectorization"]
)
@pytest.mark.parametrize("flags", [["--max_epochs", "3"], ["--precision", "16-true"]], ids=" ".join)
def test_an_experiment_that_trains_nothing_refuses_the_trainers_flags(
    name: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["kaggle_house"] if name == "benchmark" else []
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment(name).main, [*job, *flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"{' '.join(flags)} has no effect: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
