"""The training batches of members: their rows, their weights, and who takes part in a step."""

import pytest
import torch
from torch import Tensor

from d2l_lightning.ensemble.data import StackedData


def make_data(own: bool) -> StackedData:
    """Return the data of three members, with features of their own or shared ones; member 3 has few rows."""
    X, y = torch.randn(3, 20, 2, 4), torch.arange(60.0).view(3, 20)
    rows = [torch.arange(14), torch.arange(5, 20), torch.arange(3)]
    weights = {"train": torch.rand(3, 20)}
    weights["train"][0] = 0
    return StackedData(*((X, y) if own else (X[0], y[0])), {"train": rows}, 4, seed=2, weights=weights)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reuse", [True, False])
def test_batches_have_each_member_s_rows_and_weights(own: bool, reuse: bool) -> None:
    data = make_data(own)
    loader = data.train_dataloader()
    loader.reuse = reuse
    batches = list(data.batches)
    data.batches.set_epoch(0)
    for (rows, filled), (X, y, weight) in zip(batches, loader, strict=True):
        for k in range(3):
            features, targets = (data.X[k], data.y[k]) if own else (data.X, data.y)
            assert torch.equal(X[k], features[rows[k]])
            assert torch.equal(y[k], targets[rows[k]])
            assert torch.equal(weight[k], filled[k] * data.weights["train"][k, rows[k]])


def test_a_batch_is_written_over_the_one_before_only_on_request() -> None:
    def addresses(reuse: bool) -> set[tuple[int, int]]:
        loader = make_data(own=False).train_dataloader()
        loader.reuse = reuse
        kept: list[Tensor] = []
        for X, y, _ in loader:
            kept += [X, y]
        return {(X.data_ptr(), y.data_ptr()) for X, y in zip(kept[::2], kept[1::2], strict=True)}

    assert len(addresses(reuse=True)) == 1
    assert len(addresses(reuse=False)) == 4


def test_a_member_whose_rows_weigh_nothing_takes_its_steps() -> None:
    assert make_data(own=False).batches.steps == [4, 4, 1]
