"""A run that is killed and resumed ends as one that was not killed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from d2l_lightning.callbacks.layer_statistics import ActivationVariance, UnitSpread
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs import state
from d2l_lightning.runs.rng import rng_state, set_rng_state
from d2l_lightning.runs.run import Run
from tests.tools.kill_loop import outcome

FLAGS: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 5}


class Noisy(SupervisedModule):
    """A model with what a state must hold: dropout, momentum, schedules, a buffer that training changes."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)
        )

    def forward(self, X: Tensor) -> Tensor:
        out: Tensor = self.net(X).squeeze(-1)
        return out

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return (self(X) - y).square()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)
        by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
        steps = min(self.num_training_steps(), 6)  # the same with more epochs
        by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [by_epoch, {"scheduler": by_step, "interval": "step"}]


class Killed(BaseException):
    """Ends a run at once."""


class Kill(Callback):
    """Ends the run when a hook is called for the n-th time in the process."""

    def __init__(self, hook: str, calls: int) -> None:
        self.calls = calls
        setattr(self, hook, self.count)

    def count(self, *_: Any) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise Killed


class Data(SyntheticRegressionData):
    """Data that are tested on the validation rows, and whose loaders take random numbers."""

    def val_dataloader(self) -> Any:
        torch.rand(())
        return super().val_dataloader()

    def test_dataloader(self) -> Any:
        return self.val_dataloader()


def data() -> Data:
    return Data(num_train=20, num_val=10, batch_size=8)


def job(folder: Path, kill: Callback | None = None, resume: bool = False, **flags: Any) -> dict[str, Any]:
    """Run two fits; return what the run folder and the fits hold."""
    callbacks = [] if kill is None else [kill]
    flags = {**FLAGS, "logger": "csv", "checkpoint_every": 0, **flags}
    with Run("job", run_dir=str(folder), resume=resume, **flags) as run:
        curves = []
        models: dict[str, LightningModule] = {}
        for name in ("first", "second"):
            models[name] = model = Noisy()
            fit = run.fit(name, model, data(), callbacks=callbacks)
            fit.test()
            fit.validate()
            curves += [fit.curve("train/loss"), fit.curve("val/loss")]
        run.finish({"curves": curves, "random": torch.rand(()).item()}, checkpoints=models)
    return outcome(folder)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"check_val_every_n_epoch": 2},
    {"check_val_every_n_epoch": 3},
    {"reload_dataloaders_every_n_epochs": 2},
    {"num_sanity_val_steps": 1},
    {"val_check_interval": 0.5},
    {"accumulate_grad_batches": 2},
    {"max_steps": 11, "max_epochs": -1},
    {"precision": "64-true"},
    {"precision": "16-mixed"},
    {"checkpoint_every": 1e9},
    {"logger": "tensorboard"},
    {"logger": "none"},
]


@pytest.mark.parametrize("flags", VARIANTS, ids=str)
def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(tmp_path: Path, flags: dict[str, Any]) -> None:
    expected = job(tmp_path / "whole", **flags)
    for hook, calls in (("on_train_batch_start", 7), ("on_train_epoch_end", 6), ("on_test_start", 1)):
        folder = tmp_path / hook
        with pytest.raises(Killed):
            job(folder, Kill(hook, calls), **flags)
        with suppress(Killed):  # not if all is trained
            job(folder, Kill("on_train_epoch_start", 1), resume=True, **flags)
        with suppress(InputError):  # it is finished
            job(folder, resume=True, **flags)
        assert outcome(folder) == expected


def test_a_fit_that_is_done_is_not_trained_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 6))
    # Of the second fit, the epochs after the first are left.
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 3), resume=True)
    job(tmp_path, Kill("on_train_epoch_end", 1), resume=True)


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_by_flipping(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_flipping, damage_by_emptying])
def test_damaged_state_is_named_and_the_state_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = job(tmp_path / "whole")
    for damaged in (["02_second.ckpt"], ["02_second.ckpt", "02_second.previous.ckpt"], ["01_first.ckpt"]):
        folder = tmp_path / "_".join(damaged)
        with pytest.raises(Killed):
            job(folder, Kill("on_train_epoch_end", 8))
        assert len(list((folder / "state").glob("*.ckpt"))) == 4
        for name in damaged:
            damage(folder / "state" / name)
        capsys.readouterr()
        assert job(folder, resume=True) == expected
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == len(damaged)
        for name, line in zip(damaged, warnings, strict=True):
            assert f"state/{name} is damaged" in line
        assert warnings[-1].endswith(
            "the beginning of the fit" if len(damaged) > 1 else "from the state before it"
        )


def test_a_kill_between_two_states_leaves_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = job(tmp_path / "whole")
    replace, calls = Path.replace, iter(range(1000))

    def kill(self: Path, target: Path) -> Path:
        if "state" in self.parts and next(calls) == at:
            raise Killed
        return replace(self, target)

    for at in range(6):
        calls = iter(range(1000))
        monkeypatch.setattr(Path, "replace", kill)
        with pytest.raises(Killed):
            job(tmp_path / str(at))
        monkeypatch.undo()
        assert job(tmp_path / str(at), resume=True) == expected


def test_more_epochs_go_on_with_the_fits_that_were_done(tmp_path: Path) -> None:
    job(tmp_path / "whole", max_epochs=7, check_val_every_n_epoch=1)
    with pytest.raises(Killed):
        job(tmp_path / "killed", Kill("on_train_epoch_end", 8))
    found = job(tmp_path / "killed", resume=True, max_epochs=7)
    whole = outcome(tmp_path / "whole")
    assert found["results.json"] == whole["results.json"]
    assert found["metrics.csv"] == whole["metrics.csv"]
    assert found["checkpoints/first.ckpt"] == whole["checkpoints/first.ckpt"]


@pytest.mark.parametrize("calls", [0, 2])  # in the first of two more epochs, and in the fit after them
def test_a_kill_in_more_epochs_loses_none_of_them(tmp_path: Path, calls: int) -> None:
    expected = job(tmp_path / "whole", max_epochs=7, check_val_every_n_epoch=1)
    folder, more = tmp_path / "killed", {"max_epochs": 7, "check_val_every_n_epoch": 1}
    with pytest.raises(Killed):
        job(folder, Kill("on_train_epoch_end", 8), check_val_every_n_epoch=1)
    with pytest.raises(Killed):
        job(folder, Kill("on_train_epoch_end", calls), resume=True, **more)
    found = job(folder, resume=True, **more)
    for name in ("results.json", "metrics.csv", "checkpoints/second.ckpt"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("text", ["{[", "lr: [1", "- 1", "hello", "", "\xff"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 3))
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.yaml is damaged; the run cannot be resumed; start"):
        job(tmp_path, resume=True)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml is missing; the run cannot be resumed; start"):
        job(tmp_path, resume=True)


def test_other_files_among_the_states_do_no_harm(tmp_path: Path) -> None:
    expected = job(tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        job(folder, Kill("on_train_epoch_end", 8))
    (folder / "state/notes.ckpt").write_text("mine")
    torch.save({"d2l_lightning": {}}, folder / "state/01_first.ckpt")
    assert job(folder, resume=True) == expected


def test_a_damaged_state_does_not_take_the_place_of_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 3))
    good = (tmp_path / "state/01_first.previous.ckpt").read_bytes()
    damage_by_cutting(tmp_path / "state/01_first.ckpt")
    replace = Path.replace

    def kill(self: Path, target: Path) -> Path:
        if target.name == "01_first.ckpt":
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        job(tmp_path, resume=True)
    assert (tmp_path / "state/01_first.previous.ckpt").read_bytes() == good


def test_a_fit_without_an_epoch_left_leaves_the_random_numbers_as_they_were(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"max_steps": 6}
    expected = job(tmp_path / "whole", **flags)
    with pytest.raises(Killed):
        job(tmp_path / "killed", Kill("on_train_epoch_end", 2), **flags)
    found = job(tmp_path / "killed", resume=True, **{**flags, "max_epochs": 7})
    assert found["results.json"] == expected["results.json"]


def test_a_loss_that_grows_without_bound_is_seen_across_a_kill(tmp_path: Path) -> None:
    def fit(folder: Path, resume: bool = False, kill: Callback | None = None) -> str:
        flags = {**FLAGS, "max_epochs": 12}
        with Run("job", run_dir=str(folder), resume=resume, checkpoint_every=0, **flags) as run:
            with pytest.raises(DivergenceError) as raised:
                run.fit("line", LinearRegression(2, lr=1.0), data(), callbacks=[] if kill is None else [kill])
            return str(raised.value)

    whole = fit(tmp_path / "whole")
    assert "grew from" in whole
    with pytest.raises(Killed):
        fit(tmp_path / "killed", kill=Kill("on_train_epoch_end", 10))
    assert fit(tmp_path / "killed", resume=True) == whole


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("lr: 0.1\nk: 5\n", "lr: 0.2\nk: 4\n", "has --lr 0.1, not 0.2"),
        ("max_epochs: 5\n", "max_epochs: 4\n", "has --max_epochs 5, not 4"),
        ("max_epochs: 5\n", "max_epochs: null\n", "has --max_epochs 5, not None"),
        ("max_epochs: -1\n", "max_epochs: 5\n", "has --max_epochs -1, not 5"),
        ("a: 1\n", "a: 1\nb: 2\n", "has --b None, not 2"),
        ("a: 1\nb: 2\n", "a: 1\n", "has --b 2, not None"),
    ],
)
def test_another_configuration_is_refused_by_its_first_difference(
    tmp_path: Path, before: str, now: str, message: str
) -> None:
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 1), config=before)
    with pytest.raises(InputError, match=message):
        job(tmp_path, resume=True, config=now)
    job(tmp_path, resume=True, config=f"{before}checkpoint_every: 3\n")


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_fit_that_diverged_is_not_trained_again(tmp_path: Path, epochs: int) -> None:
    def two_fits(resume: bool, kill: Callback | None = None, lr: float = 1e20) -> list[str]:
        with Run("job", run_dir=str(tmp_path), resume=resume, checkpoint_every=0, **FLAGS) as run:
            with pytest.raises(DivergenceError) as raised:
                run.fit("first", LinearRegression(2, lr), data())
            run.fit("second", LinearRegression(2), data(), callbacks=[] if kill is None else [kill])
            run.finish({})
        return [str(raised.value), (tmp_path / "metrics.csv").read_text()]

    with pytest.raises(Killed):
        two_fits(False, Kill("on_train_epoch_end", epochs))
    # With this lr the first fit would not diverge, if it were trained.
    resumed = two_fits(True, lr=0.01)
    shutil.rmtree(tmp_path)
    assert two_fits(False) == resumed


def test_callbacks_keep_what_they_recorded(tmp_path: Path) -> None:
    def recorded(folder: Path, resume: bool = False, kill: Callback | None = None) -> list[Any]:
        with Run("job", run_dir=str(folder), resume=resume, checkpoint_every=0, **FLAGS) as run:
            model = Noisy()
            layer = model.net[0]
            assert isinstance(layer, nn.Linear)
            variance, spread = ActivationVariance(torch.ones(3, 2)), UnitSpread(layer)
            boards = [
                ProgressBoard(title="one", live=False),
                ProgressBoard(title="two", live=False, every_n=2),
            ]
            extra = [] if kill is None else [kill]
            run.fit("noisy", model, data(), callbacks=[variance, spread, *boards, *extra])
            run.finish({})
            labels = ["noisy/loss of a batch", "noisy/val/loss"]
            return [
                variance.variances,
                spread.spread,
                [boards[0].curve(label) for label in labels],
                boards[1].curve("noisy/loss of a batch, mean of 2"),
            ]

    expected = recorded(tmp_path / "whole")
    with pytest.raises(Killed):
        recorded(tmp_path / "killed", kill=Kill("on_train_batch_start", 8))
    assert recorded(tmp_path / "killed", resume=True) == expected


def test_a_checkpoint_of_the_users_own_stays_as_it_is(tmp_path: Path) -> None:
    class Own(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "own.ckpt")

    with Run("job", run_dir=str(tmp_path / "run"), **FLAGS) as run:
        run.fit("noisy", Noisy(lr=0.03), data(), callbacks=[Own()])
    assert Noisy.load_from_checkpoint(tmp_path / "own.ckpt").hparams["lr"] == 0.03
    assert "d2l_lightning" not in torch.load(tmp_path / "own.ckpt", weights_only=True)


def test_the_random_numbers_go_on_after_their_state_was_set() -> None:
    import random

    import numpy as np

    def numbers() -> list[float]:
        return [
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.rand(()).item(),
        ]

    numbers()  # gauss and randn keep a second number
    state = rng_state()
    expected = numbers() + numbers()
    set_rng_state(state)
    assert numbers() + numbers() == expected


@pytest.fixture(autouse=True)
def no_rng_leak() -> Iterator[None]:
    state = rng_state()
    yield
    set_rng_state(state)


def test_other_versions_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        job(tmp_path, Kill("on_train_epoch_end", 8))
    now = state.versions()
    monkeypatch.setattr(state, "versions", lambda: {**now, "torch": "99"})
    job(tmp_path, resume=True)
    (line,) = capsys.readouterr().err.splitlines()
    before = now["torch"]
    assert line.startswith(f"warning: the resumed run began with other versions (torch {before} -> 99)")
