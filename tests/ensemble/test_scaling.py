"""Members in half precision, whose gradients are scaled: each as if it were alone."""

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.scaling import StackedScaler
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.optim.sgd import SGD
from tests.conftest import lean_trainer

FACTORS = (1.0, 300.0, 0.01)  # of the members' losses: the gradients of the second overflow for a while
# With a larger eps, rounding cannot change the direction of a step.
OPTIMIZERS: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=0.1),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.5),
    "sgd from scratch": lambda p: SGD(p, lr=0.001),
}


class Net(SupervisedModule):
    """A small network with a loss that is multiplied."""

    factor: Tensor
    buffer_hparams = frozenset({"factor"})

    def __init__(self, factor: float, optimizer: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("factor", torch.tensor(factor))
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.b = nn.Parameter(torch.zeros(()))

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return self.factor * (self.net(X).squeeze(-1) + self.b - y).square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.hparams["optimizer"]](self.parameters())


def fit(model: SupervisedModule, data: Any, clip: float | None = None) -> Any:
    """Train a model in 16-mixed precision; return the scaler's state."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=5))
    trainer = lean_trainer(max_epochs=6, plugins=[plugin], limit_val_batches=0, gradient_clip_val=clip)
    trainer.fit(model, data)
    return plugin.state_dict()


@pytest.mark.parametrize("replay_from", [0, 10**9], ids=["replayed", "not replayed"])
@pytest.mark.parametrize(("optimizer", "clip"), [*[(name, None) for name in OPTIMIZERS], ("adam", 0.1)])
def test_members_take_and_skip_the_steps_that_they_do_alone(
    optimizer: str, clip: float | None, replay_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", replay_from)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 6, generator=generator)
    y = X.sum(dim=1)
    seed_everything(1, verbose=False)
    members = [Net(factor, optimizer) for factor in FACTORS]
    alone = [copy.deepcopy(member) for member in members]
    stacked = StackedModule(members)  # type: ignore[arg-type]
    state = fit(stacked, StackedData(X, y, {"train": [torch.arange(40)] * 3}, 40, seed=0), clip)
    for k, model in enumerate(alone):
        own = fit(model, DataLoader(TensorDataset(X, y), 40), clip)
        assert (state["scale"][k], state["_growth_tracker"][k]) == (own["scale"], own["_growth_tracker"])
        for name, weights in model.state_dict().items():
            tolerance = {"rtol": 2e-3, "atol": 2e-4 if "adam" in optimizer else 2e-5}  # a step of Adam: 3e-3
            torch.testing.assert_close(stacked.unstack()[k].state_dict()[name], weights, **tolerance)
    assert len(set(state["scale"])) > 1


def test_an_idle_member_keeps_its_scale_and_members_leave_with_theirs() -> None:
    scaler = StackedScaler(torch.amp.GradScaler("cpu", growth_interval=1), 3, torch.device("cpu"))
    parameter = nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.grad = torch.tensor([[1.0, 2], [torch.inf, 0], [1, 1]])
    scaler.active = [False, True, True]
    scaler.step(optimizer)
    scaler.update()
    assert not parameter.any()  # plain SGD cannot leave out a member, so none takes a step
    assert scaler.scales.tolist() == [2.0**16, 2.0**15, 2.0**17]
    assert parameter.grad.tolist()[2] == [2.0**-16] * 2
    scaler.keep([0, 2])
    other = StackedScaler(torch.amp.GradScaler("cpu"), 2, torch.device("cpu"))
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    assert other.scales.tolist() == [2.0**16, 2.0**17]
