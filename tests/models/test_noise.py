"""Noise in layers: its mean, its variance, and members and processes that share it."""

import pytest
import torch
from torch import Tensor, nn

from d2l_lightning.distributed.draws import SharedDraws
from d2l_lightning.distributed.shares import Share
from d2l_lightning.errors import InputError
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.noise import DropConnect, GaussianDropout, UniformDropout


@pytest.mark.parametrize("kind", [GaussianDropout, UniformDropout])
def test_noise_has_the_mean_and_the_variance_of_dropout(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    n, X = 200_000, torch.full((200_000,), 2.0, requires_grad=True)
    for p in (0.0, 0.2, 0.5):
        H = kind(p)(X)
        variance = 4 * p / (1 - p)
        assert H.mean().item() == pytest.approx(2, abs=5 * (variance / n) ** 0.5)
        # The variance of the variance is at most (3 - 1) / n times its square, as for normal numbers.
        assert H.var().item() == pytest.approx(variance, rel=5 * (2 / n) ** 0.5, abs=1e-9)
        (gradient,) = torch.autograd.grad(H.sum(), X)
        torch.testing.assert_close(gradient, H.detach() / 2)
    layer = kind(0.5)
    assert layer.eval()(X) is X
    assert not layer.state_dict()
    assert layer.train()(X.half()).dtype == torch.float16


def test_gaussian_and_uniform_noise_have_their_distributions() -> None:
    torch.manual_seed(0)
    ones = torch.ones(100_000)
    normal, uniform = GaussianDropout(0.5)(ones) - 1, UniformDropout(0.5)(ones) - 1
    # A normal number is beyond two standard deviations with a probability of 0.0455, a uniform one never is.
    assert (normal.abs() > 2).float().mean().item() == pytest.approx(0.0455, abs=0.0035)
    assert uniform.abs().max().item() == pytest.approx(3**0.5, abs=1e-3)


def test_dropconnect_drops_weights_and_scales_the_others() -> None:
    torch.manual_seed(0)
    layer, X = DropConnect(300, 200, p=0.3), torch.eye(300)
    weights = (layer(X) - layer.bias).T  # the outputs of unit vectors are the columns of the matrix
    dropped = weights == 0
    share = dropped.float().mean().item()
    assert share == pytest.approx(0.3, abs=5 * (0.21 / 60_000) ** 0.5)
    torch.testing.assert_close(weights[~dropped], layer.weight[~dropped] / 0.7, rtol=0, atol=1e-5)
    assert not torch.equal(layer(X), layer(X))  # each batch has a mask of its own
    expected = nn.functional.linear(X, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(X), expected)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_processes_use_the_same_mask_of_weights() -> None:
    layer, X = DropConnect(4, 6, p=0.5), torch.randn(12, 4)
    torch.manual_seed(1)
    expected = layer(X)
    halves: list[Tensor] = []
    for rank in range(2):  # each has six rows, as many as the layer has outputs
        torch.manual_seed(1)
        with SharedDraws(Share.of_process(12, rank, 2), dim=0):
            halves.append(layer(X[6 * rank : 6 * rank + 6]))
    torch.testing.assert_close(torch.cat(halves), expected)


def test_members_have_masks_and_probabilities_of_their_own() -> None:
    torch.manual_seed(0)
    layer, p = DropConnect(50, 40, p=0.5), torch.tensor([0.0, 0.5, 0.5])
    weights = layer.weight.detach().expand(3, -1, -1)

    def outputs(own: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"p": own, "weight": weight}, (torch.eye(50),))

    first, second, third = torch.vmap(outputs, randomness="different")(p, weights) - layer.bias
    torch.testing.assert_close(first, layer.weight.T, rtol=0, atol=1e-6)
    assert not torch.equal(second == 0, third == 0)


def test_a_perceptron_has_the_noise_where_dropout_would_be() -> None:
    kinds = {
        noise: [type(layer).__name__ for layer in DropoutMLP(4, 3, [5, 6], [0.2, 0.5], noise=noise).net]
        for noise in ("dropout", "dropconnect", "gaussian", "uniform")  # type: ignore[misc]
    }
    for noise, name in {
        "dropout": "Dropout",
        "gaussian": "GaussianDropout",
        "uniform": "UniformDropout",
    }.items():
        assert kinds[noise] == ["Linear", "ReLU", name, "Linear", "ReLU", name, "Linear"]
    assert kinds["dropconnect"] == ["Linear", "ReLU", "DropConnect", "ReLU", "DropConnect"]
    layers = DropoutMLP(4, 3, [5, 6], [0.25, 0.5], noise="dropconnect").net
    assert [layer.p.item() for layer in layers if isinstance(layer, DropConnect)] == [0.25, 0.5]
    assert not any(isinstance(layer, DropConnect) for layer in MLP(4, 3, [5], noise="dropconnect").net)


def test_a_probability_of_1_and_an_unknown_noise_are_errors() -> None:
    for noise in ("dropconnect", "gaussian", "uniform"):
        with pytest.raises(InputError, match="dropouts must be from 0 to below 1 with this noise, not 1"):
            MLP(4, 3, [5], dropouts=[1.0], noise=noise)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="noise must be one of dropout, dropconnect, gaussian, uniform"):
        MLP(noise="salt")  # type: ignore[arg-type]
