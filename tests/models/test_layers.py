"""Parts of perceptrons: activations, initial weights and the variances of hidden layers."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models import layers
from d2l_lightning.models.layers import (
    Activation,
    Dropout,
    NTKLinear,
    add_activation,
    initialize,
    layer_variances,
)
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.cli import flag_parser


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_the_ntk_parametrization_divides_its_weights(bias: bool) -> None:
    layer = NTKLinear(5, 3, bias).double()
    X = torch.randn(7, 5, dtype=torch.float64)
    expected = X @ (layer.weight / 5**0.5).T + (layer.bias if bias else 0)
    torch.testing.assert_close(layer(X), expected)
    own = torch.autograd.grad(layer(X).square().sum(), layer.weight)
    torch.testing.assert_close(own, torch.autograd.grad(expected.square().sum(), layer.weight))


def test_dropout_has_the_statistics_of_pytorch_for_each_member_of_a_stack() -> None:
    torch.manual_seed(0)
    p, n = torch.tensor([0.0, 0.1, 0.3, 0.9]), 200_000
    X = torch.full((4, n), 2.0, requires_grad=True)
    layer = Dropout(0.5)

    def dropped(own: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"p": own}, (x,))

    H = torch.vmap(dropped, randomness="different")(p, X)
    share = (H == 0).float().mean(dim=1)
    # Five standard deviations of the share of zeros, and of means and variances that follow from it.
    torch.testing.assert_close(share, p, rtol=0, atol=5 * 0.46 / n**0.5)
    torch.testing.assert_close(H.mean(dim=1), torch.full((4,), 2.0), rtol=0, atol=5 * 2 * 3 / n**0.5)
    torch.testing.assert_close(H.var(dim=1), 4 * p / (1 - p), rtol=0.04, atol=1e-3)
    (gradient,) = torch.autograd.grad(H.sum(), X)
    assert torch.equal(gradient, H.detach() / 2)
    scale = (1 / (1 - p))[:, None]
    torch.testing.assert_close(H, torch.where(H == 0, 0, X * scale))
    for own, members in zip(p, (H != 0).view(4, 2, -1), strict=True):  # members and halves are independent
        if own > 0:
            both = (members[0] & members[1]).float().mean()
            assert both.item() == pytest.approx((1 - own.item()) ** 2, abs=5 * 0.5 / (n / 2) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dropout_in_half_precision_drops_the_share_that_it_should(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 1_000_000
    for p in (0.001, 0.05, 0.37, 0.99):
        H = Dropout(p)(torch.ones(n, dtype=dtype))
        assert H.dtype == dtype
        # The share has a standard deviation of this size.
        assert abs((H == 0).double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
        assert torch.equal(H[H != 0], (H[H != 0] * 0 + 1 / (1 - p)))


def test_dropout_does_nothing_in_evaluation_and_has_no_state() -> None:
    layer, X = Dropout(0.5), torch.randn(3, 4)
    assert layer.eval()(X) is X
    assert not layer.state_dict()
    assert (layer.train()(X.double()) == 0).any()


def test_initial_weights_have_their_standard_deviation() -> None:
    torch.manual_seed(0)
    n_in, n_out = 400, 300
    deviations = {
        "normal": 0.05,
        "xavier_uniform": (2 / (n_in + n_out)) ** 0.5,
        "xavier_normal": (2 / (n_in + n_out)) ** 0.5,
        "kaiming": (2 / n_in) ** 0.5,
        "default": (1 / (3 * n_in)) ** 0.5,
    }
    for name, deviation in deviations.items():
        layer = nn.Linear(n_in, n_out)
        initialize(layer, cast(Any, name), sigma=0.05)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02), name
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.001)
        assert (layer.bias.abs().sum() == 0) == (name != "default")
        if name == "xavier_uniform":  # eq. 4.8.6
            bound = (6 / (n_in + n_out)) ** 0.5
            assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.001)


@pytest.mark.parametrize("initialization", ["xavier_uniform", "xavier_normal", "kaiming", "default"])
def test_variances_of_linear_layers_are_those_of_the_equation(initialization: Any) -> None:
    torch.manual_seed(0)
    X, y = torch.rand(400, 28, 28), torch.randint(10, (400,))
    model = MLP(hidden_sizes=[784] * 6, activation="identity", initialization=initialization)
    for layer in model.net:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    variances = layer_variances(model.net, X, y)
    # n sigma^2, forwards and backwards: the layers are square.
    factor = {"kaiming": 2.0, "default": 1 / 3}.get(initialization, 1.0)
    # The tolerances are four standard deviations over seeds. There are ten classes, so gradients vary more.
    activations, gradients = variances["activation_variance"], variances["gradient_variance"]
    assert activations[0] == pytest.approx(factor, rel=0.02)
    assert activations[-1] / activations[0] == pytest.approx(factor**5, rel=0.045)
    assert gradients[-1] / gradients[0] == pytest.approx(factor**-5, rel=0.19)


def test_gradients_are_those_of_the_loss_of_each_example() -> None:
    model, X, y = MLP(hidden_sizes=[5], activation="tanh"), torch.rand(7, 28, 28), torch.arange(7)
    variances = layer_variances(model.net, X, y)
    X = X.double()
    H = model.net[1](model.net[0](((X - X.mean()) / X.std()).flatten(1))).detach()
    W = cast(nn.Linear, model.net[2]).weight.detach()
    logits = model.net[2](H).detach()
    gradient = (logits.softmax(dim=1) - nn.functional.one_hot(y, 10)) @ W
    assert variances["gradient_variance"] == [pytest.approx(gradient.var().item())]
    assert variances["activation_variance"] == [pytest.approx(H.var().item())]


class Doubled(nn.Module):
    """An activation of one's own."""

    def forward(self, X: Tensor) -> Tensor:
        return 2 * X


@pytest.fixture
def added() -> Iterator[None]:
    """Add activations, and remove them after the test."""
    known, names = dict(layers._ACTIVATIONS), get_args(Activation)
    add_activation("doubled", Doubled)
    add_activation("steep", lambda: nn.Softplus(beta=3))
    yield
    layers._ACTIVATIONS.clear()
    layers._ACTIVATIONS.update(known)
    Activation.__args__ = names  # type: ignore[attr-defined]


@pytest.mark.usefixtures("added")
def test_an_added_activation_is_known_to_models_flags_and_checkpoints(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    X, y = torch.rand(6, 2, 2), torch.tensor([0, 1, 2] * 2)
    model: Any = MLP(4, 3, [5], "doubled", lr=0.1)  # type: ignore[arg-type]
    torch.testing.assert_close(model(X), model.net[2](2 * model.net[0](X.flatten(1))))
    StackedModule([model, copy.deepcopy(model)])
    fits = trainer(max_epochs=1)
    fits.fit(model, DataLoader(TensorDataset(X, y), batch_size=3))
    fits.save_checkpoint(tmp_path / "model.ckpt")
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded(X).equal(model(X))
    assert TableRegressor(3, [2], "steep").net[1].beta == 3  # type: ignore[arg-type, union-attr]
    assert flag_parser(MLP)("activation", "steep") == "steep"
    del layers._ACTIVATIONS["doubled"]  # as in a program that did not add it
    with pytest.raises(InputError, match=r"not 'doubled'; add_activation\(\"softplus\", nn.Softplus\) makes"):
        MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)


@pytest.mark.parametrize("make", [MLP, TableRegressor])
def test_a_module_as_activation_is_an_error(make: Any) -> None:
    with pytest.raises(InputError, match=r"not Softplus\(.*; add_activation\(\"softplus\", nn.Softplus\)"):
        make(3, hidden_sizes=[2], activation=nn.Softplus())


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("relu", nn.Softplus, "a text other than relu, prelu, .*, not 'relu'"),
        ("", nn.Softplus, "a text other than"),
        ("softplus", nn.Softplus(), r"needs a class or function without arguments .*, not Softplus"),
        ("softplus", torch.relu, "needs a class or function without arguments"),
        ("softplus", lambda: 3, "needs a class or function without arguments"),
    ],
)
def test_what_cannot_be_added_is_an_error(name: str, make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_activation(name, make)
    assert "softplus" not in layers._ACTIVATIONS
