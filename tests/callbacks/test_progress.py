"""The bar of a fit: its epochs, its metrics, and how often it is drawn."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.callbacks import progress
from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.errors import InputError

LOADER = DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)


class Logs(LightningModule):
    """Logs given metrics at the end of each validation, times the number of the epoch."""

    def __init__(self, metrics: dict[str, float], prefix: str = "") -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.metrics, self.log_prefix = metrics, prefix

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.w

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.log_dict({name: value * (self.current_epoch + 1) for name, value in self.metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Clock(Callback):
    """Sets the bar's clock to given seconds after the start, one number for each epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
        self.seconds, self.now = seconds, 100.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.now = 100 + self.seconds[trainer.current_epoch]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich draw as in a terminal of 200 columns: every frame, not only the last."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def frames(text: str) -> list[tuple[str, str, str]]:
    """Return title, epochs and metrics of the bars that were drawn; equal successive bars count once."""
    drawn: list[tuple[str, str, str]] = []
    for bar in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\n", "\r").split("\r"):
        if found := re.fullmatch(r"(.+) [━╸╺]+ +(\d+/\S+) +epochs *[-\d:]* *(.*)", bar.strip()):
            title, epochs, metrics = found.groups()
            if not drawn or drawn[-1] != (title, epochs, metrics):
                drawn.append((title, epochs, metrics))
    return drawn


Capture = pytest.CaptureFixture[str]


def fit_with_bar(
    trainer: Callable[..., Trainer],
    clock: Clock,
    metrics: dict[str, float],
    bar: EpochProgressBar | None = None,
    prefix: str = "",
    **flags: Any,
) -> None:
    callbacks = [clock, bar or EpochProgressBar("house prices"), *flags.pop("callbacks", [])]
    fit = trainer(enable_progress_bar=True, callbacks=callbacks, **flags)
    fit.fit(Logs(metrics, prefix), LOADER, LOADER)


def test_the_bar_moves_with_the_epochs_and_shows_their_metrics(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fit_with_bar(trainer, Clock(monkeypatch, [1, 2, 3]), {"val/log_rmse": 0.12345678}, max_epochs=3)
    printed = capsys.readouterr()
    assert frames(printed.err) == [
        ("house prices", "0/3", ""),
        ("house prices", "1/3", "val/log_rmse 0.1235"),
        ("house prices", "2/3", "val/log_rmse 0.2469"),
        ("house prices", "3/3", "val/log_rmse 0.3704"),
    ]
    assert "epochs" not in printed.out  # standard output is for results


@pytest.mark.parametrize(
    ("metrics", "prefix", "shown"),
    [
        ({"val/b": 1.0, "train/b": 2.0, "val/loss": 3.0, "val/a": 4.0}, "", "val/b 1  val/a 4"),
        ({"train/loss": 1.0, "val/loss": 2.0}, "", "val/loss 2"),
        ({"train/accuracy": 1.0, "val/loss": 2.0}, "", "train/accuracy 1"),
        ({"train/loss": 1.0}, "", "train/loss 1"),
        ({"x/val/a": 1.0, "y/val/a": 2.0, "x/train/a": 3.0, "x/val/loss": 4.0}, "x/", "val/a 1"),
        ({"val/large": 123456.0, "val/small": 0.000012345}, "", "val/large 1.235e+05  val/small 1.234e-05"),
        ({}, "", ""),
    ],
)
def test_the_metrics_that_are_shown(
    metrics: dict[str, float],
    prefix: str,
    shown: str,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    fit_with_bar(trainer, Clock(monkeypatch, [1]), metrics, prefix=prefix, max_epochs=1)
    assert frames(capsys.readouterr().err)[-1] == ("house prices", "1/1", shown)


def test_the_bar_is_drawn_every_tenth_of_a_second_and_at_the_last_epoch(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    clock = Clock(monkeypatch, [0.09, 0.11, 0.2, 0.22, 0.23])
    fit_with_bar(trainer, clock, {"val/a": 1.0}, max_epochs=5)
    assert [frame[1:] for frame in frames(capsys.readouterr().err)] == [
        ("0/5", ""),
        ("2/5", "val/a 2"),
        ("4/5", "val/a 4"),
        ("5/5", "val/a 5"),
    ]


def test_the_bar_counts_epochs_without_a_total(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    flags = {"max_epochs": -1, "max_steps": 6}
    fit_with_bar(trainer, Clock(monkeypatch, [1, 2, 2.01]), {"val/a": 1.0}, **flags)
    assert [frame[1:] for frame in frames(capsys.readouterr().err)] == [
        ("0/?", ""),
        ("1/?", "val/a 1"),
        ("2/?", "val/a 2"),
        ("3/?", "val/a 3"),
    ]


def test_the_last_training_loss_is_that_of_the_last_epoch(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    class LogsTraining(Logs):
        on_train_epoch_end = Logs.on_validation_epoch_end

    bar = EpochProgressBar("house prices")
    fit = trainer(max_epochs=3, enable_progress_bar=True, callbacks=[Clock(monkeypatch, [1, 2, 3]), bar])
    fit.fit(LogsTraining({"train/loss": 1.0}), LOADER)
    assert frames(capsys.readouterr().err)[-1] == ("house prices", "3/3", "train/loss 3")


def test_the_bar_of_a_resumed_fit_starts_at_the_epoch_of_the_checkpoint(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    fit = trainer(max_epochs=2)
    fit.fit(Logs({}), LOADER, LOADER)
    fit.save_checkpoint(tmp_path / "m.ckpt")
    clock, bar = Clock(monkeypatch, [1, 2, 3]), EpochProgressBar("house prices")
    on = trainer(max_epochs=3, enable_progress_bar=True, callbacks=[clock, bar])
    on.fit(Logs({}), LOADER, LOADER, ckpt_path=tmp_path / "m.ckpt", weights_only=True)
    assert [epochs for _, epochs, _ in frames(capsys.readouterr().err)] == ["2/3", "3/3"]


def test_a_disabled_bar_shows_nothing(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    bar = EpochProgressBar("house prices")
    bar.disable()
    fit_with_bar(trainer, Clock(monkeypatch, [1, 2]), {"val/a": 1.0}, bar, max_epochs=2)
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "house prices" not in printed
    bar.enable()
    fit_with_bar(trainer, Clock(monkeypatch, [1, 2]), {"val/a": 1.0}, bar, max_epochs=2)
    assert [epochs for _, epochs, _ in frames(capsys.readouterr().err)] == ["0/2", "1/2", "2/2"]


def test_an_error_leaves_the_bar_on_a_line_of_its_own(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1:
                raise InputError("out of data")

    flags = {"max_epochs": 3, "callbacks": [Breaks()]}
    with pytest.raises(InputError, match="out of data"):
        fit_with_bar(trainer, Clock(monkeypatch, [1, 2, 3]), {"val/a": 1.0}, **flags)
    printed = capsys.readouterr().err
    assert [frame[1:] for frame in frames(printed)] == [("0/3", ""), ("1/3", "val/a 1")]
    assert re.search(r"val/a 1\s*\n\x1b\[\?25h", printed)  # the last code shows the cursor again


def test_an_error_before_the_first_epoch_is_not_hidden(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(Callback):
        def on_fit_start(self, *_: Any) -> None:
            raise InputError("no data")

    with pytest.raises(InputError, match="no data"):
        fit_with_bar(trainer, Clock(monkeypatch, [1]), {}, max_epochs=1, callbacks=[Breaks()])


def test_the_bar_is_one_line_in_a_file(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("FORCE_COLOR")
    fit_with_bar(trainer, Clock(monkeypatch, [1, 2, 3]), {"val/a": 1.0}, max_epochs=3)
    printed = capsys.readouterr().err
    assert frames(printed) == [("house prices", "3/3", "val/a 3")]
    assert printed.count("house prices") == 1


def test_the_bar_has_no_hook_within_a_step() -> None:
    bar = EpochProgressBar("house prices")
    hooks = ("before_zero_grad", "before_backward", "after_backward", "before_optimizer_step")
    assert not any(callable(getattr(bar, f"on_{hook}")) for hook in hooks)
