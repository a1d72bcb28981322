"""In a training epoch, the CPU waits for the device twice: for the order of rows, and for the results."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.layer_statistics import UnitSpread
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.models.weight_decay import Lasso
from tests.conftest import lean_trainer
from tests.tools.far_device import DEVICE, FarDevice, FarTensor, far_trainer_flags

Case = Callable[[], tuple[SupervisedModule, LightningDataModule]]
EPOCHS = 3


def houses(batch_size: int = 4, **settings: Any) -> StackedData:
    """Return the data of three folds and of a member that trains on few rows and is idle for most steps."""
    generator = torch.Generator().manual_seed(7)
    X = torch.randn(47, 6, generator=generator)
    y = (X @ torch.linspace(-0.4, 0.5, 6) + 2).exp()
    train, val = k_fold(47, 3)
    rows = {"train": [*train, torch.arange(9)], "val": [*val, torch.arange(9, 20)]}
    if "streams" in settings:
        X, y = X.expand(2, -1, -1), y.expand(2, -1)
        rows = {stage: [of_members[0]] * 4 for stage, of_members in rows.items()}
    return StackedData(X, y, rows, batch_size, seed=0, **settings)


def stacked(make: Callable[[], SupervisedModule], data: StackedData, **settings: Any) -> Any:
    return StackedModule([make() for _ in range(4)], **settings), data


class Normalized(PriceRegressor):
    """A network with batch normalization."""

    def __init__(self) -> None:
        super().__init__(6)
        self.net.insert(0, nn.BatchNorm1d(6))


class Chatty(PriceRegressor):
    """A model that reads the loss of every batch."""

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        loss = super().loss(X, y, weight)
        assert isinstance(loss.item(), float)
        return loss


def table(**settings: Any) -> TableRegressor:
    return TableRegressor(6, [5], log_target=True, standardize=True, lr=0.01, **settings)


def images(kind: type[FashionMNIST], **settings: Any) -> FashionMNIST:
    """Return random images of ten classes, without files."""
    generator = torch.Generator().manual_seed(1)
    data = kind(batch_size=8, seed=3, **settings)
    data.images = torch.randint(256, (40, 28, 28), generator=generator, dtype=torch.uint8)
    data.labels = torch.arange(40) % 10
    data.rows = dict(zip(("train", "val", "test"), torch.arange(40).split([29, 5, 6]), strict=True))
    data._ready = True
    return data


def shifted() -> FashionMNIST:
    data: Any = images(LabelShiftedFashionMNIST)
    data.class_weights = torch.linspace(0.5, 1.5, 10).double()
    return data


def regression(**settings: Any) -> SyntheticRegressionData:
    return SyntheticRegressionData(num_train=23, num_val=10, batch_size=5, **settings)


CASES: dict[str, Case] = {
    "folds and an idle member": lambda: stacked(lambda: PriceRegressor(6), houses()),
    "weights of rows": lambda: stacked(
        lambda: PriceRegressor(6), houses(weights={"train": torch.arange(188.0).view(4, 47) % 3})
    ),
    "streams, dropout, noise": lambda: stacked(
        lambda: table(dropout=0.2, label_noise=0.1), houses(streams=[0, 1, 0, 1]), streams=[0, 1, 0, 1]
    ),
    "AdamW, l1 and a schedule": lambda: stacked(
        lambda: table(optimizer="adamw", l1=0.1, weight_decay=0.1, schedule="cosine"), houses()
    ),
    "batch normalization": lambda: stacked(Normalized, houses(7)),
    "SGD from scratch": lambda: stacked(lambda: LinearRegressionScratch(6, 0.01), houses(50)),
    "SGD": lambda: stacked(lambda: MLP(6, 2, [3]), classes()),
    "one model": lambda: (LinearRegression(2), regression()),
    "one model, plain loader": lambda: (LinearRegressionScratch(2, 0.01), regression(loader="scratch")),
    "proximal steps": lambda: (Lasso(2, 0.1, 0.01), regression(watch_train=True)),
    "images": lambda: (MLP(784, 10, [3], dropouts=[0.1]), images(FashionMNIST, flip=True)),
    "weights of classes": lambda: (MLP(784, 10, [3]), shifted()),
}


def classes() -> StackedData:
    data = houses()
    return StackedData(data.X, (data.y > data.y.median()).long(), data.rows, 4, seed=0)


class Marks(Callback):
    """Notes how often the CPU had waited at the start of each epoch."""

    def __init__(self, device: FarDevice | None) -> None:
        self.device = device
        self.starts: list[int] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.device is not None:
            self.starts.append(len(self.device.waits))

    def epoch(self, index: int) -> list[str]:
        assert self.device is not None
        return self.device.waits[self.starts[index] : self.starts[index + 1]]


def fit(case: Case, device: FarDevice | None, **flags: Any) -> tuple[Any, Marks]:
    """Return a model that was trained on the CPU or on the device, and the waits of its epochs."""
    seed_everything(0, verbose=False)
    model, data = case()
    marks = Marks(device)
    callbacks = [marks, *flags.pop("callbacks", [])]
    if device is not None:
        flags |= far_trainer_flags()
    model.steps_per_execution = flags.pop("steps_per_execution", "auto")
    logger = [History()]
    trainer = lean_trainer(
        max_epochs=EPOCHS, logger=logger, callbacks=callbacks, log_every_n_steps=1, **flags
    )
    trainer.fit(model, data)
    return model, marks


def values(model: SupervisedModule) -> dict[str, Tensor]:
    state = {**model.state_dict(), **model.evaluated, "loss": model._epoch_loss}
    return {name: x.values if isinstance(x, FarTensor) else x for name, x in state.items() if x is not None}


def check(case: Case, moved: int = 1, **flags: Any) -> None:
    """Compare fits on both devices; check that so many tensors are moved to the device, and one back."""
    expected, _ = fit(case, None, **flags)
    with FarDevice() as device:
        model, marks = fit(case, device, **flags)
    for name, value in values(expected).items():
        assert torch.equal(values(model)[name].nan_to_num(), value.nan_to_num()), name
    for index in range(1, EPOCHS - 1):
        *to_device, to_cpu = marks.epoch(index)
        assert len(to_device) == moved, marks.epoch(index)
        assert all(".to(" in line for line in to_device), to_device
        assert "functional/transfer.py" in to_cpu


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_waits_for_its_order_and_its_results(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 3)  # the first batches are computed by vmap
    # The weights of rows are moved with the order, and so are the flips of images.
    check(CASES[case], moved=2 if case in ("weights of rows", "images") else 1)


@pytest.mark.parametrize(
    "flags",
    [
        {"steps_per_execution": 1, "gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", ["folds and an idle member", "one model"])
def test_flags_do_not_make_it_wait(case: str, flags: dict[str, Any]) -> None:
    check(CASES[case], **flags)  # without a graph: it would begin after 50 batches


class Debugged(Callback):
    """Lets CUDA raise an error for an operation that waits, from the first step of an epoch to its last."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        step = type(pl_module).on_execution_start
        mode = "error" if trainer.current_epoch else "default"  # in the first epoch, graphs are traced

        def start() -> None:
            step(pl_module)
            torch.cuda.set_sync_debug_mode(mode)

        pl_module.on_execution_start = start

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    on_train_epoch_end = on_exception = on_validation_start


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("case", CASES)
def test_cuda_does_not_wait_in_a_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 3)
    model, data = CASES[case]()
    lean_trainer(max_epochs=EPOCHS, accelerator="gpu", devices=1, callbacks=[Debugged()]).fit(model, data)


def test_the_spread_of_units_is_read_after_the_fit() -> None:
    def spread(device: FarDevice | None) -> list[float]:
        seed_everything(0, verbose=False)
        model, data = CASES["weights of classes"]()
        callback = UnitSpread(next(m for m in model.modules() if isinstance(m, nn.Linear)))
        flags = {} if device is None else far_trainer_flags()
        marks = Marks(device)
        lean_trainer(max_epochs=3, callbacks=[callback, marks], **flags).fit(model, data)
        assert device is None or len(marks.epoch(1)) == 2
        return callback.spread

    with FarDevice() as device:
        far = spread(device)
    assert far == spread(None)
    assert len(far) == 12


def test_a_value_that_is_read_in_each_step_is_found() -> None:
    with FarDevice() as device:
        _, marks = fit(lambda: (Chatty(2), regression()), device)
    assert len(marks.epoch(1)) == 2 + 5
    assert sum("_local_scalar_dense" in wait for wait in marks.epoch(1)) == 5


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put_((x > 0,), torch.zeros(2).to(x)),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_for_the_device_is_counted(read: Callable[[Tensor], Any]) -> None:
    with FarDevice() as device:
        x = torch.tensor([1.0, 0.0, 2.0]).to(DEVICE)
        device.waits.clear()
        read(x)
        assert device.waits


def test_what_stays_on_the_device_is_not_counted() -> None:
    with FarDevice() as device:
        x = torch.tensor([1.0, 0.0, 2.0]).to(DEVICE)
        device.waits.clear()
        y = torch.stack([x, x.where(x > 1, 0)]).index_select(
            0, torch.zeros(1, dtype=torch.long, device=DEVICE)
        )
        torch.full((2,), 3.0, device=DEVICE).mul_(2).add_(y.sum())
        assert device.waits == []
        with pytest.raises(RuntimeError, match="far device and of the CPU"):
            y + torch.ones(3)
