"""Lightning's flags have their effects; those that must not change results change no bit of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import run_outputs
from tests.experiments.test_settings import houses

QUICK = ["--max_epochs", "2", "--k", "3", "--batch_size", "16"]
Outputs = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return houses(tmp_path_factory.mktemp("flags") / "data", 0)


@pytest.fixture(scope="module")
def run(folder: Path) -> Outputs:
    """Return a function that runs the house experiment, once for each list of flags."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def outputs(*flags: str) -> dict[str, Any]:
        if flags not in found:
            at = folder.parent / str(len(found))
            found[flags] = {
                **run_outputs("kaggle_house", at, *QUICK, "--data_dir", str(folder), *flags),
                "folder": at,
            }
        return found[flags]

    return outputs


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
        (["--fast_dev_run", "true"], ["--max_epochs", "1", "--limit_train_batches", "1"]),
        (["--batch_size", "5000"], ["--batch_size", "122"]),
        (["--limit_train_batches", "0.5"], ["--limit_train_batches", "0.55"]),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_equivalent_flags_train_the_same_models(run: Outputs, flags: list[str], others: list[str]) -> None:
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
        assert double[name] == pytest.approx(value, rel=1e-4)


def test_validation_every_second_epoch(run: Outputs) -> None:
    every, second = run("--max_epochs", "4"), run("--max_epochs", "4", "--check_val_every_n_epoch", "2")
    assert of(every, "weights/fold", "results/folds") == of(second, "weights/fold", "results/folds")
    for outputs, epochs in ((every, ["0", "1", "2", "3"]), (second, ["1", "3"])):
        column = zip(outputs["metrics/epoch"], outputs["metrics/val/log_rmse"], strict=True)
        assert [epoch for epoch, value in column if value] == epochs
