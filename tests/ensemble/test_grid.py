"""Candidates in a cross-validation, side by side."""

import torch

from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.grid import cross_validation
from d2l_lightning.functional.polynomial import nested_features
from d2l_lightning.models.linear_regression import LinearRegression
from tests.conftest import lean_trainer


def test_every_candidate_trains_on_every_fold_with_its_own_features() -> None:
    X, y = torch.randn(11, 2), torch.randn(11)
    features = nested_features(X)
    members, data = cross_validation(["a", "b"], lambda: LinearRegression(2, 0.1), features, y, 3, 4, seed=1)
    assert members.names == [f"{name}_fold_{fold}" for name in "ab" for fold in (1, 2, 3)]
    train_rows, _ = k_fold(11, 3)
    for batch_X, batch_y, weight in data.train_dataloader():
        for member in range(6):
            real = weight[member] > 0
            for x, target in zip(batch_X[member][real], batch_y[member][real], strict=True):
                row = int((y == target).nonzero())
                assert row in train_rows[member % 3]
                assert torch.equal(x, features[member // 3, row])


def test_a_feature_of_zero_keeps_its_initial_weight() -> None:
    X, y = torch.randn(11, 2), torch.randn(11)
    make = lambda: LinearRegression(2, 0.1, sigma=0.0)  # noqa: E731
    members, data = cross_validation(["one", "both"], make, nested_features(X), y, 2, 4, seed=1)
    lean_trainer(max_epochs=2).fit(members, data)
    weights = torch.stack([member.get_w_b()[0] for member in members.unstack()])  # type: ignore[operator]
    assert (weights[:2, 1] == 0).all()
    assert (weights[:2, 0] != 0).all()
    assert (weights[2:] != 0).all()
