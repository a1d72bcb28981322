"""House prices in plain PyTorch: a script for comparison with `kaggle_house.py`, which does the same work.

K-fold cross-validation with the log RMSE of both parts after every epoch, a fit on all rows, a plot and
submission.csv. It uses nothing of this package.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn


def read(path: str) -> pd.DataFrame:
    """Read a CSV file; "None" is a category, not a missing value."""
    return pd.read_csv(path, keep_default_na=False, na_values=["", "NA"])


def encode(features: pd.DataFrame) -> Tensor:
    """Return standardised numbers and indicators of categories: shape ``(n, d)``."""
    numeric = features.select_dtypes("number").columns
    numbers = features[numeric]
    features[numeric] = ((numbers - numbers.mean()) / numbers.std()).fillna(0)
    return torch.tensor(pd.get_dummies(features, dummy_na=True).to_numpy("float32"))


def log_rmse(net: nn.Module, X: Tensor, y: Tensor) -> float:
    """Return the root mean squared error of the logarithms of prices."""
    with torch.no_grad():
        prices = net(X).clamp(min=1)
    return nn.functional.mse_loss(prices.log(), y.log()).sqrt().item()


def fit(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None, args: argparse.Namespace
) -> tuple[nn.Module, list[float], list[float]]:
    """Train a linear model; return it with the log RMSE in training and validation after each epoch."""
    X, y = train
    net = nn.Linear(X.shape[1], 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    generator = torch.Generator().manual_seed(args.seed)
    train_errors, val_errors = [], []
    for _ in range(args.epochs):
        order = torch.randperm(len(X), generator=generator)
        batches = (rows.split(args.batch_size) for rows in (X[order], y[order]))
        for X_batch, y_batch in zip(*batches, strict=True):
            loss = nn.functional.mse_loss(net(X_batch), y_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        train_errors.append(log_rmse(net, X, y))
        if val is not None:
            val_errors.append(log_rmse(net, *val))
    return net, train_errors, val_errors


def plot(train_errors: Tensor, val_errors: Tensor, path: Path) -> None:
    """Draw the mean log RMSE of the folds, each of shape ``(k, epochs)``, by epoch."""
    plt.switch_backend("Agg")
    figure, axes = plt.subplots()
    epochs = range(1, train_errors.shape[1] + 1)
    axes.plot(epochs, train_errors.mean(0), label="training rows")
    axes.plot(epochs, val_errors.mean(0), label="validation rows")
    axes.set(xlabel="epoch", ylabel="log RMSE, mean of folds", yscale="log")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Train, print the errors and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="the CSV file of houses with prices")
    parser.add_argument("test", help="the CSV file of houses without")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for the plot and submission.csv")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=5.0)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    train, test = read(args.train), read(args.test)
    features = encode(pd.concat([train.drop(columns=["Id", "SalePrice"]), test.drop(columns="Id")]))
    X, X_test = features.split([len(train), len(test)])
    y = torch.tensor(train["SalePrice"].to_numpy("float32")).reshape(-1, 1)
    print(f"features: {X.shape[1]}")

    train_errors, val_errors = [], []
    for fold in torch.arange(len(X)).tensor_split(args.k):
        rest = torch.ones(len(X), dtype=torch.bool)
        rest[fold] = False
        _, train_curve, val_curve = fit((X[rest], y[rest]), (X[fold], y[fold]), args)
        train_errors.append(train_curve)
        val_errors.append(val_curve)
        print(f"fold {len(val_errors)}: training {train_curve[-1]:.6f}, validation {val_curve[-1]:.6f}")
    train_means, val_means = torch.tensor(train_errors), torch.tensor(val_errors)
    plot(train_means, val_means, args.out / "learning_curves.png")
    train_mean, val_mean = train_means[:, -1].mean(), val_means[:, -1].mean()
    print(f"average: training {train_mean:.6f}, validation {val_mean:.6f}")

    net, errors, _ = fit((X, y), None, args)
    print(f"all rows: training {errors[-1]:.6f}")
    with torch.no_grad():
        prices = net(X_test).squeeze(1).clamp(min=1)
    pd.DataFrame({"Id": test["Id"], "SalePrice": prices}).to_csv(args.out / "submission.csv", index=False)


if __name__ == "__main__":
    main()
