"""Everything random depends on the seed; each is tested alone, so that another cannot hide it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2l_lightning.data.counts import SyntheticCountData
from d2l_lightning.data.exercises import DependentFeaturesData, ExponentialNoiseData
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.data.physical_laws import OhmData, PlanckData
from d2l_lightning.data.regression import HighDimensionalData, PolynomialData, SyntheticRegressionData
from d2l_lightning.data.shifted_houses import ShiftedHouses
from d2l_lightning.data.shifted_images import ShiftedFashionMNIST
from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.data.synthetic_shift import SyntheticCovariateShift
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.shift.covariate import detect, estimate
from d2l_lightning.shift.domain import domain_classifier
from tests.conftest import lean_trainer
from tests.data.test_fashion_mnist import write

Consumer = Callable[[int, Path], Any]


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


def first(loader: Any, epoch: int = 0) -> Tensor:
    """Return the first tensors of all batches of an epoch, concatenated."""
    loader.sampler.set_epoch(epoch)
    return torch.cat([batch[0] for batch in loader])


def numbered(data: Any, n: int = 30) -> Tensor:
    """Return the order of n source rows in an epoch, with data that do not depend on the seed."""
    data.X, data.y = torch.arange(float(n))[:, None], torch.zeros(n)
    data.rows = {"source": torch.arange(n)}
    return first(data.train_dataloader())


def images(seed: int, folder: Path, kind: Any, amount: float, share: float) -> ShiftedFashionMNIST:
    return ready(ShiftedFashionMNIST(str(folder), kind, amount, share, share, num_source=30, seed=seed))


def of_images(side: str) -> Consumer:
    def numbers(seed: int, folder: Path) -> Tensor:
        data = images(seed, folder, "brightness", 0.5, 0.0)
        return data.X[data.rows[side]][:, 0]

    return numbers


def darkened(seed: int, folder: Path) -> Tensor:
    return images(seed, folder, "brightness", 0.0, 0.5).X.amax(dim=1) == 0


def image_noise(seed: int, folder: Path) -> Tensor:
    # These pixels are 0 in all images.
    return images(seed, folder, "noise", 0.5, 1.0).X[:, 3:8]


def label_shifted(seed: int, folder: Path, concentration: float) -> LabelShiftedFashionMNIST:
    return ready(
        LabelShiftedFashionMNIST(str(folder), concentration=concentration, num_target=500, seed=seed)
    )


def label_order(seed: int, folder: Path) -> Tensor:
    data = label_shifted(seed, folder, 1.0)
    data.rows["train"] = torch.arange(50)
    return first(data.train_dataloader())


def flips(seed: int, folder: Path) -> Tensor:
    data = ready(FashionMNIST(str(folder), validate_on_test=True, seed=seed, flip=True))
    return first(data.train_dataloader())[:, 0, 26] == 255


def table_order(seed: int, folder: Path) -> Tensor:
    for name, header in (("source", "a,y"), ("target", "a")):
        rows = [f"{i},{i}"[: None if name == "source" else -len(f",{i}")] for i in range(30)]
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]))
    data = ready(ShiftedTables(str(folder / "source.csv"), str(folder / "target.csv"), "y", seed=seed))
    return first(data.train_dataloader())


def stream_noise(seed: int, _: Path) -> Tensor:
    data = DriftingStream(num_rows=50, noise=1.0, seed=seed)
    # Without the noiseless part of the targets, which depends on the seed too.
    still = DriftingStream(num_rows=50, noise=0.0, seed=seed)
    return (data.y - still.y).round(decimals=3)


def regression_noise(seed: int, _: Path) -> Tensor:
    return SyntheticRegressionData([0.0], 0.0, noise=1.0, num_train=20, num_val=0, seed=seed).y


def regression_order(seed: int, _: Path) -> Tensor:
    data = SyntheticRegressionData([1.0], 0.0, num_train=30, num_val=0, seed=seed)
    data.X = torch.arange(30.0)[:, None]
    return first(data.train_dataloader())


def stacked_order(same: bool, member: int) -> Consumer:
    def order(seed: int, _: Path) -> Tensor:
        rows = {"train": [torch.arange(30)] * 2}
        data = StackedData(torch.arange(30.0)[:, None], torch.zeros(30), rows, 30, seed, same_order=same)
        data.trainer = None
        return next(iter(data.train_dataloader()))[0][member]

    return order


SIDES = torch.arange(40.0).view(20, 2) / 10, torch.arange(40.0, 76).view(18, 2) / 10
LOGISTIC = domain_classifier(2)


def shift(function: Any, take: Callable[[Any], Any]) -> Consumer:
    """Return a consumer that takes something from the data on which a function trains its classifiers."""

    def taken(seed: int, _: Path) -> Any:
        seen: list[Any] = []

        def fit(model: Any, data: Any) -> None:
            seen.append(data)

        function(fit, *SIDES, LOGISTIC, seed=seed)
        return take(seen[0])

    return taken


def orders(data: Any) -> Tensor:
    data.trainer = None
    # Rows are numbered by their place in their member, so that the order does not depend on the folds.
    rows = data.rows["train"][0]
    places = {tuple(data.X[row].tolist()): place for place, row in enumerate(rows)}
    X = next(iter(data.train_dataloader()))[0][0]
    return torch.tensor([places[tuple(row.tolist())] for row in X[: len(rows)]])


def permutations(seed: int, _: Path) -> float:
    """Return the p-value of two sides with one value each, so that halves and orders have no effect."""
    torch.manual_seed(0)
    sides = torch.zeros(4, 1), torch.ones(4, 1)
    (found,) = detect(
        lean_trainer(max_epochs=50).fit, *sides, domain_classifier(1, lr=0.1), num_permutations=500, seed=seed
    )
    assert found.auc == 1
    assert found.p_value == pytest.approx(1 / 6, abs=0.06)  # one of the 6 splits into 2 and 2 rows is as good
    return found.p_value


CONSUMERS: dict[str, Consumer] = {
    "synthetic shift, direction": lambda s, _: ready(SyntheticCovariateShift(seed=s)).direction,
    "synthetic shift, features": lambda s, _: ready(SyntheticCovariateShift(1, num_test=9, seed=s)).X.abs(),
    "synthetic shift, noise": lambda s, _: (
        ready(
            SyntheticCovariateShift(1, 0.0, 0.0, noise=1e6, num_source=9, num_target=9, num_test=9, seed=s)
        ).y
    ),
    "synthetic shift, order": lambda s, _: numbered(ready(SyntheticCovariateShift(seed=s))),
    "shifted images, source": of_images("source"),
    "shifted images, target": of_images("target"),
    "shifted images, changed ones": darkened,
    "shifted images, noise": image_noise,
    "shifted images, order": lambda s, folder: numbered(images(s, folder, "noise", 1.0, 0.0)),
    "shifted houses, halves": lambda s, _: ready(ShiftedHouses(seed=s)).rows["target"],
    "shifted houses, order": lambda s, _: numbered(ready(ShiftedHouses(seed=s))),
    "label shift, shares": lambda s, folder: label_shifted(s, folder, 1.0).target_shares,
    "label shift, counts": lambda s, folder: label_shifted(s, folder, 1e9).target_shares,
    "label shift, rows": lambda s, folder: label_shifted(s, folder, 1e9).rows["test"][:20],
    "label shift, split": lambda s, folder: label_shifted(s, folder, 1.0).rows["val"],
    "label shift, order": label_order,
    "tables, order": table_order,
    "stream, weights": lambda s, _: DriftingStream(num_rows=50, seed=s).w,
    "stream, features": lambda s, _: DriftingStream(num_rows=50, seed=s).X,
    "stream, noise": stream_noise,
    "regression, features": lambda s, _: SyntheticRegressionData(num_train=9, num_val=0, seed=s).X,
    "regression, noise": regression_noise,
    "regression, order": regression_order,
    "polynomials, features": lambda s, _: PolynomialData(1, num_train=9, num_val=0, seed=s).X,
    "many features": lambda s, _: HighDimensionalData(seed=s).X,
    "Fashion-MNIST, split": lambda s, folder: ready(FashionMNIST(str(folder), seed=s)).rows["val"],
    "Fashion-MNIST, order": lambda s, folder: first(
        ready(FashionMNIST(str(folder), validate_on_test=True, seed=s)).train_dataloader()
    ),
    "Fashion-MNIST, flips": flips,
    "counts, features": lambda s, _: SyntheticCountData(num_train=9, num_val=0, seed=s).X,
    "counts": lambda s, _: SyntheticCountData([0.0], num_train=50, num_val=0, seed=s).y,
    "dependent features": lambda s, _: DependentFeaturesData(num_train=9, seed=s).X,
    "dependent features, weights": lambda s, _: DependentFeaturesData(seed=s).w,
    "exponential noise": lambda s, _: ExponentialNoiseData(num_train=9, seed=s).y,
    "currents": lambda s, _: OhmData(num_train=9, seed=s).X,
    "voltages, noise": lambda s, _: (OhmData(1e-6, num_train=9, seed=s).y * 100).round(),
    "wavelengths": lambda s, _: PlanckData(num_train=9, seed=s).X,
    "houses, order": lambda s, _: first(ready(KaggleHouse(seed=s)).train_dataloader()),
    "folds": lambda s, _: k_fold(30, 3, s)[1][0],
    "stacked data, order": stacked_order(False, 0),
    "stacked data, order of the second": stacked_order(False, 1),
    "stacked data, one order for all": stacked_order(True, 1),
    "estimate, folds of the source": shift(
        estimate, lambda data: data.rows["val"][0][data.rows["val"][0] < 20]
    ),
    "estimate, folds of the target": shift(
        estimate, lambda data: data.rows["val"][0][data.rows["val"][0] >= 20]
    ),
    "estimate, order": shift(estimate, orders),
    "detector, half of the source": shift(
        detect, lambda data: data.rows["train"][0][data.rows["train"][0] < 20].sort().values
    ),
    "detector, half of the target": shift(
        detect, lambda data: data.rows["train"][0][data.rows["train"][0] >= 20].sort().values
    ),
    "detector, order": shift(detect, orders),
    "detector, permutations": permutations,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("images"), (100, 100))


@pytest.mark.parametrize("consumer", CONSUMERS.values(), ids=CONSUMERS)
def test_values_depend_only_on_the_seed(consumer: Consumer, folder: Path) -> None:
    once, again, other = (torch.as_tensor(consumer(seed, folder)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert once.shape != other.shape or not torch.equal(once, other)
