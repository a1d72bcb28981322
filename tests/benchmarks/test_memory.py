"""Live memory equals the computed sizes."""

from itertools import pairwise

import torch
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.benchmarks.memory import LiveMemory, memory_of, memory_of_parts
from d2l_lightning.models.mlp import MLP


def test_tensors_count_as_long_as_they_are_alive() -> None:
    with LiveMemory() as live:
        a = torch.zeros(100)
        assert (live.now, live.peak) == (400, 400)
        b = a + 1
        assert live.now == 800
        del a
        assert (live.now, live.peak) == (400, 800)
        b.add_(1)
        c = b.view(10, 10)[3]
        assert live.now == 400  # in-place operations and views allocate nothing
        del b
        assert live.now == 400  # the view keeps it alive
        del c
        assert (live.now, live.peak) == (0, 800)


def test_earlier_tensors_do_not_count() -> None:
    a = torch.ones(50, dtype=torch.float64)
    with LiveMemory() as live:
        a.mul_(2)
        b = a[:10]
        assert live.now == 0
        del b
        c = a * 2
        assert live.now == 400
    assert c.sum() == 200


def test_autograd_keeps_intermediates_until_the_backward_pass() -> None:
    w = torch.ones(100, requires_grad=True)
    with LiveMemory() as live:
        kept = w.exp().sum()
        assert live.now == 400 + 4  # exp keeps its result
        not_kept = (w * 2).sum()
        assert live.now == 400 + 4 + 4
        kept.backward()
        del kept, not_kept
        assert live.now == 400  # the gradient


def test_memory_of_a_perceptron_is_that_of_the_section() -> None:
    def measured(batch_size: int, depth: int) -> dict[str, int]:
        model = MLP(36, 4, hidden_sizes=[32] * depth)
        X, y = torch.rand(batch_size, 36), torch.zeros(batch_size, dtype=torch.int64)
        return memory_of(model, torch.nn.functional.cross_entropy, X, y)

    for batch_size in (8, 64):
        # Each hidden layer keeps its output, float32.
        layers = [measured(batch_size, depth)["intermediates"] for depth in range(1, 6)]
        assert {b - a for a, b in pairwise(layers)} == {batch_size * 32 * 4}
        # A prediction needs the input and output of one layer at a time.
        predictions = {measured(batch_size, depth)["prediction"] for depth in (1, 2, 5)}
        assert predictions == {2 * batch_size * 32 * 4}
    # Proportional to the batch size, except for the loss: a number and its count of rows.
    small, large = measured(10, 3)["intermediates"] - 8, measured(70, 3)["intermediates"] - 8
    assert large == 7 * small
    deep = measured(64, 5)
    assert deep["parameters"] == 4 * (36 * 32 + 32 + 4 * (32 * 32 + 32) + 32 * 4 + 4)
    assert deep["training"] >= deep["parameters"]  # the gradients at the end
    assert deep["training"] > deep["intermediates"] > deep["prediction"]


def test_a_gradient_from_parts_is_the_same_and_takes_less_memory() -> None:
    torch.manual_seed(0)
    model = MLP(20, 3, [8], sigma=0.3)
    X, y = torch.rand(50, 20), torch.arange(50) % 3
    (whole, expected), (parts, gradient) = (
        memory_of_parts(model, F.cross_entropy, X, y, number) for number in (1, 7)
    )
    model.zero_grad()
    F.cross_entropy(model(X), y).backward()
    plain = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(expected, plain)
    torch.testing.assert_close(gradient, plain)
    gradients = plain.numel() * 4
    assert gradients < parts < whole
    assert whole >= gradients + 50 * 8 * 4  # with the hidden units of all rows
