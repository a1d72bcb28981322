"""A run: its fits, the order in which it writes, and errors that must not cost results."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from matplotlib.figure import Figure

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.signals import StoppedError
from d2l_lightning.runs.trackers import Tracker

FLAGS: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _global_seed() -> Iterator[None]:
    yield
    seed_everything(0, verbose=False)


def small_data() -> SyntheticRegressionData:
    return SyntheticRegressionData(num_train=64, num_val=32)


def broken(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("it is\nbroken")


class Recorder(Tracker):
    """A tracker that keeps the names of what it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, list[str]()

    def add_figure(self, name: str, figure: Figure, path: Path) -> None:
        self.seen.append(f"figure {name}")
        assert path.is_file()
        assert (self.folder / "results.json").is_file()

    def add_table(self, table: Table) -> None:
        self.seen.append(f"table {table.name}")
        assert (self.folder / "results.json").is_file()

    def add_artifact(self, path: Path, name: str, kind: str) -> None:
        self.seen.append(f"artifact {name} {kind}")
        assert path.is_file()

    def add_summary(self, results: Any) -> None:
        self.seen.append(f"summary {results}")

    def close(self, failed: bool) -> None:
        self.seen.append(f"close {failed}")


def finished(run: Run, **shown: Any) -> dict[str, Any]:
    """Finish a run with a result, a product and a checkpoint, and check that all three are there."""
    run.finish(
        {"value": 1.0},
        products={"product.csv": pd.DataFrame({"x": [1]})},
        checkpoints={"model": PriceRegressor(3)},
        **shown,
    )
    assert (run.folder / "product.csv").read_text() == "x\n1\n"
    assert (
        PriceRegressor.load_from_checkpoint(run.folder / "checkpoints/model.ckpt", weights_only=True).hparams[
            "num_features"
        ]
        == 3
    )
    report: dict[str, Any] = json.loads((run.folder / "results.json").read_text())
    assert report["results"] == {"value": 1.0}
    return report


def test_products_and_results_come_before_figures_and_tables(tmp_path: Path) -> None:
    with Run("test", run_dir=str(tmp_path / "run")) as run:
        run.start()
        recorder = Recorder(run.folder)
        run._trackers = [recorder]

        def draw() -> Figure:
            assert (run.folder / "results.json").is_file()
            return Figure()

        def tables() -> Iterator[Table]:
            assert (run.folder / "results.json").is_file()
            yield Table("The figures: all", ("", "value"), [("x", 1.0)])

        finished(run, figures={"curve": draw}, tables=tables())
    assert recorder.seen == [
        "summary {'value': 1.0}",
        "artifact test-product product",
        "figure curve",
        "table the_figures",
        "close 0",
    ]
    assert (run.folder / "figures/curve.png").is_file()


def test_a_product_that_cannot_be_written_leaves_no_results(tmp_path: Path) -> None:
    class Full(pd.DataFrame):
        def to_csv(self, *_: Any, **__: Any) -> NoReturn:
            raise OSError(28, "No space left on device")

    with Run("test", run_dir=str(tmp_path / "run")) as run, pytest.raises(OSError, match="No space left"):
        run.finish({}, products={"product.csv": Full()})
    assert not (run.folder / "results.json").exists()
    assert not list(run.folder.rglob("*product*"))


@pytest.mark.parametrize("part", ["figures", "savefig", "tables", "rows", "notes", "tracker"])
def test_what_only_shows_results_becomes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    shown: dict[str, Any] = {
        "figures": {"figures": {"risk": broken}},
        "savefig": {"figures": {"risk": Figure}},
        "tables": {"tables": (broken() for _ in range(1))},
        "rows": {"tables": [Table("a table", ("",), [("more", "cells", "than columns")])]},
        "notes": {"notes": (broken() for _ in range(1))},
        "tracker": {},
    }[part]
    if part == "savefig":
        monkeypatch.setattr(Figure, "savefig", broken)
    with Run("test", run_dir=str(tmp_path / "run")) as run:
        run.start()
        if part == "tracker":
            tracker = Recorder(run.folder)
            for method in ("add_summary", "add_artifact", "close"):
                monkeypatch.setattr(tracker, method, broken)
            run._trackers = [tracker]
        if part == "rows":
            monkeypatch.setattr("rich.table.Table.add_row", broken)
        finished(run, **shown)
    said = capsys.readouterr()
    warnings = said.err.splitlines()
    assert len(warnings) == (3 if part == "tracker" else 1)
    for line in warnings:
        assert line.startswith("warning: could not ")
        assert line.endswith(": it is broken")
    assert "done in" in said.out
    assert not list(run.folder.rglob(".partial*"))


def test_a_users_matplotlibrc_does_not_change_or_break_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    with Run("test", run_dir=str(tmp_path / "run")) as run:
        run.start()
        pictures = []
        for name, usetex in (("plain", False), ("latex", True)):
            monkeypatch.setitem(matplotlib.rcParams, "text.usetex", usetex)
            monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "red" if usetex else "white")
            run._files.clear("results.json")

            def draw() -> Figure:
                figure = Figure(figsize=(2, 2))
                figure.subplots().set_title("a title_with an underscore")
                return figure

            finished(run, figures={name: draw})
            pictures.append((run.folder / f"figures/{name}.png").read_bytes())
            assert matplotlib.rcParams["text.usetex"] is usetex
    assert pictures[0] == pictures[1]


def test_results_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with (
        Run("test", run_dir=str(tmp_path / "run")) as run,
        pytest.raises(DivergenceError, match=r"^the result fits\.1\.loss is nan; take a lower lr"),
    ):
        run.finish({"fits": [{"loss": 1.0}, {"loss": float("nan")}]}, products={"table.csv": pd.DataFrame()})
    assert not (run.folder / "results.json").exists()
    assert not (run.folder / "table.csv").exists()


def test_a_fit_returns_curves_and_metrics(tmp_path: Path) -> None:
    with Run("test", run_dir=str(tmp_path / "run"), max_epochs=3, **FLAGS) as run:
        data = small_data()
        fit = run.fit("line", LinearRegression(2), data)
        other = run.fit("other", LinearRegression(2), data, prefix="", max_epochs=2)
        validated = fit.validate()
        run.finish({})
    metrics = pd.read_csv(run.folder / "metrics.csv")
    for of_fit, prefix, epochs in ((fit, "line/", 3), (other, "", 2)):
        for metric in ("train/loss", "val/squared_loss"):
            logged = metrics[prefix + metric].dropna()
            x, y = of_fit.curve(metric)
            assert x == list(range(1, epochs + 1))
            assert y == pytest.approx(logged.tolist(), rel=1e-6)
    assert validated["val/squared_loss"].item() == pytest.approx(fit.curve("val/squared_loss")[1][-1])


def test_a_fit_that_is_not_logged_leaves_no_metrics(tmp_path: Path) -> None:
    with Run("test", run_dir=str(tmp_path / "run"), max_epochs=1, **FLAGS) as run:
        fit = run.fit("line", LinearRegression(2), small_data(), logged=False)
        run.finish({})
    assert fit.curve("train/loss") == ([], [])
    assert not (run.folder / "metrics.csv").exists()


def test_two_fits_of_one_name_are_refused(tmp_path: Path) -> None:
    with Run("test", run_dir=str(tmp_path / "run"), max_epochs=1, **FLAGS) as run:
        run.fit("line", LinearRegression(2), small_data())
        with pytest.raises(ValueError, match="'line' already"):
            run.fit("line", LinearRegression(2), small_data())


def test_num_validations_spreads_validations_over_a_long_fit(tmp_path: Path) -> None:
    epochs: dict[str, list[int]] = {}
    for name, flags in {"spread": {}, "flag": {"check_val_every_n_epoch": 3}}.items():
        with Run("test", run_dir=str(tmp_path / name), **FLAGS, **flags) as run:
            fit = run.fit("line", LinearRegression(2), small_data(), max_epochs=8, num_validations=2)
            epochs[name], _ = fit.curve("val/squared_loss")
    assert epochs == {"spread": [4, 8], "flag": [3, 6]}


@pytest.mark.parametrize("flags", [{"max_steps": 1}, {"max_steps": 3}], ids=str)
def test_a_complete_fit_refuses_flags_that_end_it_early(tmp_path: Path, flags: dict[str, Any]) -> None:
    with (
        Run("test", run_dir=str(tmp_path / "run"), **FLAGS, **flags) as run,
        pytest.raises(InputError, match="the flags end the fit of the line early"),
    ):
        run.fit("line", LinearRegression(2), small_data(), max_epochs=2, complete=True)


def test_metrics_that_are_not_finite_are_errors(tmp_path: Path) -> None:
    class Infinite(LinearRegression):
        def example_metrics(self, X: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": torch.full_like(y, torch.inf)}

    with Run("test", run_dir=str(tmp_path / "run"), max_epochs=1, **FLAGS) as run:
        data = small_data()
        data.test_dataloader = data.val_dataloader  # type: ignore[method-assign]
        fit = run.fit("line", Infinite(2), data, title="endless line")
        with pytest.raises(InputError, match="val/loss of the endless line is not finite"):
            fit.validate()
        with pytest.raises(DivergenceError, match="test/loss of the endless line is not finite"):
            fit.test()


def test_the_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        with Run("test", seed=seed, run_dir=str(tmp_path / "run")):
            weights.append(PriceRegressor(4).net[-1].weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_flags_that_contradict_each_other_are_refused_before_the_run_starts(tmp_path: Path) -> None:
    run = Run("test", run_dir=str(tmp_path / "run"), gradient_clip_algorithm="scissors", **FLAGS)
    with run, pytest.raises(InputError, match="gradient_clip"):
        run.fit("line", LinearRegression(2), small_data())
    assert not (tmp_path / "run").exists()


class Interrupt(Callback):
    """Sends Ctrl-C to the process when a hook is called for the second time."""

    def __init__(self, hook: str) -> None:
        self.calls = 0
        setattr(self, hook, self.count)

    def count(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stage", ["fit", "validate"])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_a_fit_with_how_far_it_was(tmp_path: Path, stage: str) -> None:
    hook = {"fit": "on_train_epoch_start", "validate": "on_validation_start"}[stage]
    trainers: list[Trainer] = []

    def stop(run: Run) -> Fit:
        fit = run.fit("line", LinearRegression(2), small_data(), callbacks=[Interrupt(hook)])
        trainers.append(fit.trainer)
        fit.validate()
        return fit

    with (
        Run("test", run_dir=str(tmp_path / "run"), max_epochs=2 if stage == "fit" else 1, **FLAGS) as run,
        pytest.raises(StoppedError, match=r"stopped after epoch (1|2) of (1|2) of the line"),
    ):
        stop(run)
    assert bool(trainers) is (stage == "validate")


def test_metrics_are_on_the_disk_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    class Read(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            path = tmp_path / "metrics.csv"
            found.append(path.read_text().count("\n") if path.exists() else 0)

    monkeypatch.setattr("d2l_lightning.runs.trackers.FLUSH_SECONDS", 0.0)
    with Run("test", run_dir=tmp_path, max_epochs=4, **FLAGS) as run:
        members = StackedModule([LinearRegression(2) for _ in range(2)])  # Lightning saves rows of others
        rows = {stage: [torch.arange(6)] * 2 for stage in ("train", "val")}
        data = StackedData(torch.randn(6, 2), torch.randn(6), rows, batch_size=3, seed=0)
        run.fit("line", members, data, callbacks=[Read()])
    assert found == [0, 3, 5, 7]  # the header, and two rows an epoch
