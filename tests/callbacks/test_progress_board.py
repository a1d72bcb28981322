"""The board draws the curves of fits, live and into a whole file."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib.image
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from d2l_lightning.callbacks import progress_board
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from tests.models.test_linear_regression import StepLosses


def test_points_are_averaged_and_none_is_lost() -> None:
    board = ProgressBoard(live=False)
    for i in range(7):
        board.draw(i, math.sin(i), "sin")
        board.draw(i, i**2, "square", every_n=3)
    assert board.curve("sin")[0] == list(range(7))
    assert board.curve("square") == ([1, 4, 6], [5 / 3, 50 / 3, 36])
    with pytest.raises(InputError, match="no curve 'cos'; there are sin, square"):
        board.curve("cos")


@pytest.mark.parametrize("every_n", [1, 5])
def test_the_curves_of_a_fit_are_its_losses(trainer: Callable[..., Trainer], every_n: int) -> None:
    board, watch = ProgressBoard(every_n=every_n, live=False), StepLosses()
    model, data = LinearRegression(2), SyntheticRegressionData(num_train=70, num_val=40, batch_size=10)
    trainer(max_epochs=3, callbacks=[board, watch]).fit(model, data)
    label = "loss of a batch" if every_n == 1 else "loss of a batch, mean of 5"
    x, y = board.curve(label)
    groups = [watch.losses[i : i + every_n] for i in range(0, 21, every_n)]
    assert y == pytest.approx([sum(group) / len(group) for group in groups])
    assert x[-1] == pytest.approx(3)
    if every_n == 1:
        assert x == pytest.approx([(i + 1) / 7 for i in range(21)])
    epochs, losses = board.curve("val/loss")
    assert epochs == [1, 2, 3]
    assert losses[-1] == pytest.approx(model.evaluated["val/loss"].item())
    assert losses[0] > losses[-1]


def test_accumulated_and_stacked_losses_are_those_of_a_batch(trainer: Callable[..., Trainer]) -> None:
    data = SyntheticRegressionData(num_train=40, num_val=4, batch_size=10)
    start = LinearRegression(2, lr=1e-9).state_dict()
    curves = []
    for flags in ({}, {"accumulate_grad_batches": 4}):
        board, model = ProgressBoard(), LinearRegression(2, lr=1e-9)
        model.load_state_dict(start)
        trainer(max_epochs=1, callbacks=[board], **flags).fit(model, data)
        curves.append(board.curve("loss of a batch")[1])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    members = [LinearRegression(2, lr=1e-9) for _ in range(3)]
    for member in members:
        member.load_state_dict(start)
    rows = {stage: [of_stage] * 3 for stage, of_stage in data.rows.items()}
    board = ProgressBoard()
    stacked = StackedData(data.X, data.y, rows, 10, seed=0, same_order=True)
    trainer(max_epochs=1, callbacks=[board]).fit(StackedModule(members), stacked)
    assert board.curve("loss of a batch")[1] == pytest.approx(curves[0], rel=1e-5)


def test_validation_within_an_epoch_is_drawn_at_its_time(trainer: Callable[..., Trainer]) -> None:
    board = ProgressBoard()
    data = SyntheticRegressionData(num_train=40, num_val=4, batch_size=10)
    model = LinearRegression(2)
    model.log_prefix = "pretrained/"
    trainer(max_epochs=2, callbacks=[board], val_check_interval=0.5).fit(model, data)
    assert board.curve("pretrained/val/loss")[0] == [0.5, 1.0, 1.5, 2.0]


def test_a_board_draws_several_fits_and_chosen_metrics(trainer: Callable[..., Trainer]) -> None:
    board = ProgressBoard(metrics=["b/val/loss"], live=False)
    for prefix in ("a/", "b/"):
        model = LinearRegression(2)
        model.log_prefix = prefix
        trainer(max_epochs=1, callbacks=[board]).fit(model, SyntheticRegressionData(num_train=40))
    (panel,) = board.figure().axes
    names = [line.get_label() for line in panel.lines]
    assert names == ["a/loss of a batch", "b/val/loss", "b/loss of a batch"]


def test_validation_outside_a_fit_and_sanity_checks_draw_nothing(trainer: Callable[..., Trainer]) -> None:
    board = ProgressBoard(live=False)
    fit = trainer(max_epochs=1, callbacks=[board], num_sanity_val_steps=2)
    model, data = LinearRegression(2), SyntheticRegressionData(num_train=40, num_val=40)
    fit.fit(model, data)
    assert board.curve("val/loss")[0] == [1]
    fit.validate(model, data, verbose=False)
    assert board.curve("val/loss")[0] == [1]


def test_a_script_writes_a_png(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    path = tmp_path / "figures" / "board.png"
    board = ProgressBoard(
        path=path, title="Regression", xlabel="epochs", ylabel="squared error", yscale="log"
    )
    assert not board.live
    trainer(max_epochs=2, callbacks=[board]).fit(LinearRegression(2), SyntheticRegressionData(num_train=64))
    assert [file.name for file in path.parent.iterdir()] == ["board.png"]
    assert matplotlib.image.imread(path).std() > 0.01
    (panel,) = board.figure().axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("linear", "log")
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("epochs", "squared error")
    assert board.figure().get_suptitle() == "Regression"
    assert len(panel.lines) == 2


class Breaks(LinearRegression):
    """Fails in its second epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.current_epoch == 1 and batch_idx == 1:
            raise InputError("out of data")
        return super().training_step(batch, batch_idx)


def test_a_fit_that_fails_is_drawn_up_to_the_error(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    board = ProgressBoard(path=tmp_path / "board.png")
    data = SyntheticRegressionData(num_train=64, num_val=8)
    with pytest.raises(InputError, match="out of data"):
        trainer(max_epochs=3, callbacks=[board]).fit(Breaks(2), data)
    assert (tmp_path / "board.png").exists()
    assert board.curve("loss of a batch")[0] == [0.5, 1.0, 1.5]


def test_a_board_without_curves_writes_nothing(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    board = ProgressBoard(path=tmp_path / "board.png")
    trainer(max_epochs=0, callbacks=[board]).fit(LinearRegression(2), SyntheticRegressionData())
    assert list(tmp_path.iterdir()) == []
    assert len(board.figure().axes) == 1


def test_a_module_of_another_library_can_be_drawn(trainer: Callable[..., Trainer]) -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx == 0 else self.net(batch[0]).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.net(batch[0]).mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    board = ProgressBoard(live=False)
    data = SyntheticRegressionData(num_train=64, num_val=8)
    trainer(max_epochs=2, callbacks=[board]).fit(Foreign(), data)
    assert len(board.curve("loss of a batch")[0]) == 2  # a step may be skipped
    assert board.curve("val_loss")[0] == [1, 2]


class Notebook(ModuleType):
    """Stands in for IPython in a notebook, and keeps the shown images."""

    def __init__(self, kind: str) -> None:
        super().__init__("IPython")
        self.shown: list[bytes] = []
        self.after_cell: list[Callable[..., None]] = []
        shell = type(kind, (), {"events": self})()
        self.get_ipython = lambda: shell
        display = ModuleType("IPython.display")
        display.Image = lambda data: data  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        self.modules = {"IPython": self, "IPython.display": display}

    def display(self, image: bytes, display_id: bool) -> "Notebook":
        self.shown.append(image)
        return self

    def update(self, image: bytes) -> None:
        self.shown.append(image)

    def register(self, event: str, call: Callable[..., None]) -> None:
        assert event == "post_run_cell"
        self.after_cell.append(call)

    def unregister(self, event: str, call: Callable[..., None]) -> None:
        self.after_cell.remove(call)


def test_in_a_notebook_the_figure_grows(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook("ZMQInteractiveShell")
    for name, module in notebook.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    board = ProgressBoard(refresh_seconds=0)
    assert board.live
    trainer(max_epochs=3, callbacks=[board]).fit(LinearRegression(2), SyntheticRegressionData(num_train=64))
    assert len(notebook.shown) == 4  # after each epoch and at the end
    assert len(set(notebook.shown[:3])) == 3
    assert all(image.startswith(b"\x89PNG") for image in notebook.shown)
    slow = ProgressBoard(refresh_seconds=3600)
    for i in range(50):
        slow.draw(i, i, "line")
    assert len(notebook.shown) == 5
    for _ in range(2):  # this cell and another one are done
        for call in list(notebook.after_cell):
            call(None)
    assert len(notebook.shown) == 6  # with the points that came too soon
    assert notebook.after_cell == []


@pytest.mark.parametrize("kind", ["TerminalInteractiveShell", "NoneType"])
def test_outside_a_notebook_no_figure_is_shown(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", Notebook(kind))
    assert not ProgressBoard().live


def test_a_step_calls_one_hook() -> None:
    # Each callable hook costs 2 microseconds; a step of a small model takes 500.
    board = ProgressBoard()
    hooks = (
        "train_batch_start",
        "before_zero_grad",
        "before_backward",
        "after_backward",
        "before_optimizer_step",
    )
    assert not any(callable(getattr(board, f"on_{hook}")) for hook in hooks)


def test_the_first_argument_is_the_label_of_the_x_axis_as_in_the_book() -> None:
    board = ProgressBoard("x")
    board.draw(0, 0, "sin", every_n=2)
    board.write()
    assert (board.figure().axes[0].get_xlabel(), board.path) == ("x", None)


def test_a_path_that_is_none_of_a_picture_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"path must end in .png, .pdf, .svg, not 'x'"):
        ProgressBoard(path="x")
    with pytest.raises(InputError, match=r"the first argument is the label of the x axis; pass path='b.png'"):
        ProgressBoard("b.png")


def test_a_live_board_without_ipython_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_board, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="live=True needs IPython; install it by `pip install ipython`"):
        ProgressBoard(live=True)


@pytest.mark.parametrize("every_n", [0, -1])
def test_a_bad_every_n_is_an_error(every_n: int) -> None:
    with pytest.raises(InputError, match="every_n must be positive"):
        ProgressBoard(every_n=every_n)


def test_the_first_point_of_a_curve_sets_how_many_points_are_averaged() -> None:
    board = ProgressBoard(live=False)
    for i in range(5):
        board.draw(i, 10 * i, "line", every_n=2 if i == 0 else 1)
    assert board.curve("line") == ([0.5, 2.5, 4], [5, 25, 40])


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("val/loss", True),
        ("a/val/loss", True),
        ("other/loss", True),
        ("val_loss", True),
        ("a/val_loss", True),
        ("train/loss", False),
        ("a/train/loss", False),
        ("val/loss/fold_1", False),
        ("val/accuracy", False),
        ("val/squared_loss", False),
        ("train_loss", False),
    ],
)
def test_by_default_the_losses_of_all_stages_except_training_are_drawn(
    name: str, drawn: bool, trainer: Callable[..., Trainer]
) -> None:
    class Logs(LinearRegression):
        def on_validation_epoch_end(self) -> None:
            self.log(name, 0.25)

    board = ProgressBoard(live=False)
    data = SyntheticRegressionData(num_train=40, num_val=8)
    trainer(max_epochs=2, callbacks=[board]).fit(Logs(2), data)
    assert len(board.figure().axes[0].lines) == 1 + drawn
    if drawn:
        assert board.curve(name) == ([1, 2], [0.25, 0.25])


def test_axes_are_linear_by_default_and_a_figure_has_a_legend() -> None:
    for xscale, yscale in (("linear", "linear"), ("log", "linear"), ("linear", "log"), ("log", "log")):
        board = ProgressBoard(xscale=xscale, yscale=yscale, live=False)  # type: ignore[arg-type]
        for i in range(1, 200):
            board.draw(i, i, "line")
        (panel,) = board.figure().axes
        assert (panel.get_xscale(), panel.get_yscale()) == (xscale, yscale)
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["line"]
    default = ProgressBoard(live=False)
    default.draw(1, 1, "line")
    (panel,) = default.figure().axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("linear", "linear")
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("epoch", "loss")


def test_a_board_without_a_path_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Callable[..., Trainer]
) -> None:
    monkeypatch.chdir(tmp_path)
    board = ProgressBoard(live=False)
    trainer(max_epochs=1, callbacks=[board]).fit(LinearRegression(2), SyntheticRegressionData(num_train=40))
    board.write()
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_redrawn_at_most_once_in_the_refresh_time(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook("ZMQInteractiveShell")
    for name, module in notebook.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    now = 50.0
    monkeypatch.setattr(progress_board, "time", SimpleNamespace(monotonic=lambda: now))
    board = ProgressBoard(refresh_seconds=2)
    shown = []
    for now in (50.0, 51.0, 52.0, 52.5, 54.0, 54.75):
        board.draw(now, now, "line")
        shown.append(len(notebook.shown))
    assert shown == [1, 1, 1, 2, 2, 3]
    (after_cell,) = notebook.after_cell
    after_cell()
    assert len(notebook.shown) == 3  # all points are drawn already
