"""Metrics of an epoch are means over its examples alone, for single models and for stacked members."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.callbacks.history import History
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.weight_decay import WeightDecayScratch

Batch = tuple[Tensor, Tensor, Tensor]
MODELS: dict[str, Callable[[], Any]] = {
    "linear": lambda: LinearRegression(6, lr=0.1, loss="absolute"),
    "price": lambda: PriceRegressor(6, [5], log_price=True, lr=0.05),
    "perceptron": lambda: MLP(6, 3, [5], lr=0.5, sigma=0.5),
    "gradients by hand": lambda: BackpropagationMLP(6, 3, 5, lr=0.5, sigma=0.5),
}


def examples(model: Any, n: int = 29) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(n, 6, generator=generator)
    if isinstance(model, MLP | BackpropagationMLP):
        return X, torch.randint(3, (n,), generator=generator)
    return X, X[:, 0].exp()


def weighted_batches(model: Any) -> list[Batch]:
    """Return batches of 8, 8, 8 and 5 rows: the second is padded, the third has no examples."""
    X, y = examples(model)
    weight = 3 * torch.rand(29, generator=torch.Generator().manual_seed(4)) ** 2
    weight[12:16] = 0
    weight[16:24] = 0
    return list(zip(X.split(8), y.split(8), weight.split(8), strict=True))


def loader_of(batches: Any) -> Any:
    return DataLoader(batches, batch_size=None)


def losses_of_epochs(model: Any, batches: list[Batch], num_epochs: int) -> list[float]:
    """Train a copy of a model in a plain loop; return the mean loss of each epoch's examples."""
    model = copy.deepcopy(model).train()
    optimizer = model.configure_optimizers()
    means = []
    for _ in range(num_epochs):
        losses, weights = [], []
        for X, y, weight in batches:
            of_batch = model.example_losses(X, y)
            optimizer.zero_grad()
            ((weight * of_batch).sum() / max(1, (weight > 0).sum())).backward()
            optimizer.step()
            losses += of_batch.tolist()
            weights += weight.tolist()
        means.append(sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights))
    return means


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_training_loss_is_the_weighted_mean_over_each_epochs_examples(
    make: Callable[[], Any], trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    model = make()
    batches, history = weighted_batches(model), History()
    expected = losses_of_epochs(model, batches, 3)
    trainer(max_epochs=3, logger=[history]).fit(model, loader_of(batches))
    epochs, losses = history.curve("train/loss")
    assert epochs == [1, 2, 3]
    assert losses == pytest.approx(expected, rel=1e-5)
    # If an epoch included the examples of the previous one, its loss would differ.
    assert abs(losses[1] - (losses[0] + losses[1]) / 2) > 1e-3 * losses[1]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_without_weights_every_example_counts_once(accumulated: int, trainer: Callable[..., Trainer]) -> None:
    torch.manual_seed(0)
    model, history = LinearRegression(6, lr=1e-12), History()
    X, y = examples(model)
    loader = DataLoader(TensorDataset(X, y), batch_size=8)
    fit = trainer(max_epochs=2, logger=[history], accumulate_grad_batches=accumulated)
    fit.fit(model, loader)
    expected = F.mse_loss(model(X), y).item()
    assert history.curve("train/loss")[1] == pytest.approx([expected] * 2, rel=1e-5)
    of_batches = [F.mse_loss(model(a), b).item() for a, b in loader]
    assert sum(of_batches) / 4 != pytest.approx(expected, rel=0.01)


def test_the_training_loss_includes_the_penalty(trainer: Callable[..., Trainer]) -> None:
    model = WeightDecayScratch(6, 0.7, lr=1e-12, sigma=1.0)
    X, y = examples(model)
    fit = trainer(max_epochs=1)
    fit.fit(model, DataLoader(TensorDataset(X, y), batch_size=8))
    expected = F.mse_loss(model(X), y) / 2 + 0.7 * model.w.square().sum() / 2
    torch.testing.assert_close(fit.callback_metrics["train/loss"], expected.detach())


class Interrupts(Callback):
    """Raises an error at the third batch of the first epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            raise InputError("out of data")


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_an_interrupted_epoch_does_not_change_later_metrics(
    make: Callable[[], Any], trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    model = make()
    batches, history = weighted_batches(model), History()
    with pytest.raises(InputError, match="out of data"):
        trainer(max_epochs=1, callbacks=[Interrupts()]).fit(model, loader_of(batches))
    expected = losses_of_epochs(model, batches, 2)
    trainer(max_epochs=2, logger=[history]).fit(model, loader_of(batches))
    assert history.curve("train/loss")[1] == pytest.approx(expected, rel=1e-5)


def means_of(model: Any, X: Tensor, y: Tensor, weight: Tensor) -> dict[str, float]:
    """Return the weighted mean of the cross-entropy and the accuracy of logistic regression."""
    h = (X @ model.net.weight[0] + model.net.bias).detach().double()
    loss = -(y * h.sigmoid().log() + (1 - y) * (1 - h.sigmoid()).log())
    hit = (h.sigmoid() > 0.5).long() == y
    return {
        name: ((weight * values).sum() / weight.sum()).item()
        for name, values in {"loss": loss, "accuracy": hit.double()}.items()
    }


def test_each_stage_has_its_metrics_of_each_epoch(trainer: Callable[..., Trainer]) -> None:
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(40, 6, generator=generator)
    y = (X[:, 0] + torch.randn(40, generator=generator) > 0).long()
    weights = {stage: torch.rand(40, generator=generator) for stage in ("train", "val", "other")}
    weights["val"][:25] = 0
    evaluated = [
        (X[rows], y[rows], {stage: weight[rows] for stage, weight in weights.items()})
        for rows in torch.arange(40).split(17)
    ]
    expected: list[dict[str, dict[str, float]]] = []

    class Expected(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            expected.append({stage: means_of(pl_module, X, y, weight) for stage, weight in weights.items()})

    history, model = History(), LogisticRegression(6, lr=0.2)
    fit = trainer(max_epochs=3, logger=[history], callbacks=[Expected()], num_sanity_val_steps=2)
    fit.fit(model, DataLoader(TensorDataset(X, y), batch_size=16), loader_of(evaluated))
    for stage, metric in [
        (s, m) for s in weights for m in ("loss", "accuracy") if (s, m) != ("train", "loss")
    ]:
        epochs, values = history.curve(f"{stage}/{metric}")
        assert epochs == [1, 2, 3]
        of_epochs = [epoch[stage][metric] for epoch in expected]
        assert values == pytest.approx(of_epochs, rel=1e-5), (stage, metric)
        assert model.evaluated[f"{stage}/{metric}"].item() == pytest.approx(of_epochs[-1], rel=1e-5)
    assert "train/loss" not in model.evaluated
    fit.test(model, loader_of([(X, y, weights["val"])]), verbose=False)
    tested = means_of(model, X, y, weights["val"])
    assert {name: value.item() for name, value in model.evaluated.items()} == pytest.approx(
        {f"test/{name}": value for name, value in tested.items()}, rel=1e-5
    )


def stacked_data(num_members: int = 3) -> StackedData:
    """Return the data of members with 16, 17 and 9 rows, so that batches are padded."""
    generator = torch.Generator().manual_seed(6)
    X = torch.randn(29, 6, generator=generator)
    y = (2 + X[:, 0]).exp()
    sizes = [16, 17, 9][:num_members]
    train = [torch.randperm(29, generator=generator)[:size] for size in sizes]
    weights = {stage: 0.1 + torch.rand(num_members, 29, generator=generator) for stage in ("train", "val")}
    rows = {"train": train, "val": [torch.arange(k, 29, 3) for k in range(num_members)]}
    return StackedData(X, y, rows, batch_size=8, seed=2, weights=weights)


@pytest.mark.parametrize("interrupted", [False, True], ids=["whole", "after an interrupted epoch"])
def test_metrics_of_members_are_means_over_each_epochs_examples(
    interrupted: bool, trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    data = stacked_data()
    stacked = StackedModule(
        [PriceRegressor(6, [4], log_price=True, lr=0.1, activation="tanh") for _ in range(3)], ["a", "b", "c"]
    )
    stacked.log_prefix = "house/"
    if interrupted:
        with pytest.raises(InputError, match="out of data"):
            trainer(max_epochs=1, callbacks=[Interrupts()]).fit(stacked, data)
    alone: list[Any] = stacked.unstack()
    history = History()
    trainer(max_epochs=3, logger=[history]).fit(stacked, data)
    expected: dict[str, list[list[float]]] = {f"{stage}": [] for stage in ("train/loss", "train", "val")}
    optimizers = [model.configure_optimizers() for model in alone]
    for epoch in range(3):
        data.batches.set_epoch(epoch)
        sums = torch.zeros(2, 3)
        for X, y, weight in data.train_dataloader():
            for k, (model, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
                kept = weight[k] > 0
                if not kept.any():  # the member has had all its rows in this epoch
                    continue
                losses = (model.net(X[k][kept]).squeeze(1) - y[k][kept].log()).square() / 2
                weighted = weight[k][kept] * losses
                optimizer.zero_grad()
                weighted.mean().backward()
                optimizer.step()
                sums[:, k] += torch.stack([weighted.sum().detach(), weight[k].sum()])
        expected["train/loss"].append((sums[0] / sums[1]).tolist())
        for stage in ("train", "val"):
            of_stage = []
            for k, model in enumerate(alone):
                rows = data.rows[stage][k]
                w = data.weights[stage][k, rows]
                errors = (model(data.X[rows]).log() - data.y[rows].log()).square()
                of_stage.append(((w * errors).sum() / w.sum()).sqrt().item())
            expected[stage].append(of_stage)
    for metric, of_epochs in expected.items():
        name = metric if "/" in metric else f"{metric}/log_rmse"
        for k, member in enumerate("abc"):
            epochs, values = history.curve(f"house/{name}/{member}")
            assert epochs == [1, 2, 3]
            assert values == pytest.approx([row[k] for row in of_epochs], rel=1e-4), (name, member)
        means = [sum(row) / 3 for row in of_epochs]
        assert history.curve(f"house/{name}")[1] == pytest.approx(means, rel=1e-4)


class Rows(Logger):
    """Keeps every row that is logged, with its step."""

    name = version = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))


@pytest.mark.parametrize("stack", [False, True], ids=["alone", "stacked"])
def test_a_sanity_check_is_not_logged_and_changes_no_metric(
    stack: bool, trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    members = [PriceRegressor(6, log_price=True, lr=0.5) for _ in range(2)]
    data = stacked_data(2)
    X, y, weight = next(iter(data.val_dataloader()))
    loaders = [data] if stack else [
        DataLoader(TensorDataset(X, y), batch_size=8), loader_of([(X, y, weight["val"][0])])
    ]  # fmt: skip
    found = []
    for num_checks in (0, 2):
        model: Any = StackedModule(copy.deepcopy(members)) if stack else copy.deepcopy(members[0])
        logger = Rows()
        fit = trainer(max_epochs=2, logger=[logger], num_sanity_val_steps=num_checks, log_every_n_steps=1)
        fit.fit(model, *loaders)
        found.append(logger.rows)
        epochs = [row["epoch"] for _, row in logger.rows if "val/log_rmse" in row]
        assert epochs == [0, 1]
    assert found[0] == found[1]
