"""Rows on disk: every row once an epoch, few reads, and errors for bad files."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor

from d2l_lightning.data.on_disk import OnDiskData, write_rows
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression


def numbered(folder: Path, n: int, **arguments: Any) -> OnDiskData:
    """Return data whose targets are the numbers of their rows, and whose features are twice that."""
    y = torch.arange(float(n))
    write_rows(folder / "X.npy", folder / "y.npy", n, zip((2 * y[:, None]).split(7), y.split(7), strict=True))
    return OnDiskData(folder / "X.npy", folder / "y.npy", **arguments)


def rows_of(loader: Any, epoch: int) -> list[Tensor]:
    """Return the numbers of the rows in each batch of an epoch."""
    loader.order.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(torch.equal(X, 2 * y[:, None]) for X, y in batches)
    return [y for _, y in batches]


SIZES = st.integers(1, 60)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=SIZES, val=SIZES, batch=SIZES, block=SIZES, window=SIZES, drop=st.booleans(), seed=st.integers(0, 9))
def test_every_row_comes_once_in_every_epoch(
    tmp_path: Path, n: int, val: int, batch: int, block: int, window: int, drop: bool, seed: int
) -> None:
    sizes = {"batch_size": batch, "block_rows": block, "window_rows": window}
    data = numbered(tmp_path, n + val, num_train=n, drop_last=drop, seed=seed, **sizes)
    for epoch in (0, 1):
        batches = rows_of(data.train_dataloader(), epoch)
        assert [len(each) for each in batches[:-1]] == [batch] * (len(batches) - 1)
        rows = torch.cat(batches).long().tolist()
        assert len({*rows}) == len(rows) == (n // batch * batch or n if drop else n)
        assert {*rows} <= {*range(n)}
        assert torch.equal(torch.cat(rows_of(data.train_dataloader(), epoch)).long(), torch.tensor(rows))
    assert torch.cat(rows_of(data.val_dataloader(), 0)).tolist() == list(range(n, n + val))


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    def order(seed: int, epoch: int) -> tuple[float, ...]:
        data = numbered(tmp_path, 50, num_train=50, seed=seed, block_rows=4, window_rows=12)
        return tuple(torch.cat(rows_of(data.train_dataloader(), epoch)).tolist())

    assert order(1, 1) == order(1, 1)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    of_one_window = numbered(tmp_path, 50, num_train=50, block_rows=1, window_rows=50).order
    (_, first), (_, second) = (next(iter(of_one_window)) for _ in range(2))
    assert not first.equal(second)
    in_file = numbered(tmp_path, 50, num_train=50, shuffle=False, block_rows=4, window_rows=12)
    assert torch.cat(rows_of(in_file.train_dataloader(), 3)).tolist() == list(range(50))


def test_a_loop_of_ones_own_has_another_order_in_each_epoch(tmp_path: Path) -> None:
    data = numbered(tmp_path, 50, num_train=50)
    orders = [torch.cat([y for _, y in data.train_dataloader()]) for _ in range(3)]
    expected = [torch.cat(rows_of(data.train_dataloader(), epoch)) for epoch in range(3)]
    assert all(map(torch.equal, orders, expected))


def test_an_epoch_reads_each_block_once_and_a_window_is_all_that_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = numbered(tmp_path, 1000, num_train=1000, block_rows=10, window_rows=55, batch_size=8)
    windows = [sum(end - begin for begin, end in ranges) for ranges, _ in data.train_dataloader().order]
    assert max(windows) <= 50
    assert sum(windows) == 1000
    rows_of(data.train_dataloader(), 0)
    assert data.files.reads in (100, 101)  # the first and last block may be parts of one
    # A row is 4 bytes in each file. A read of 40 bytes takes a page of each, or two.
    pages = data.files.bytes_read / 4096
    assert 200 <= pages <= 210


def test_blocks_begin_at_other_rows_in_each_epoch_and_windows_mix_them(tmp_path: Path) -> None:
    data = numbered(tmp_path, 1000, num_train=1000, block_rows=10, window_rows=100, batch_size=100)
    shifts = []
    for epoch in range(4):
        data.order.set_epoch(epoch)
        begins = {begin for ranges, _ in data.order for begin, _ in ranges} - {0}
        (shift,) = {begin % 10 for begin in begins}
        shifts.append(shift)
    assert len({*shifts}) > 1
    # The mean row of a batch varies as if blocks of 10 were drawn: 10 times the variance of single rows.
    every = [batch for epoch in range(2) for batch in rows_of(data.train_dataloader(), epoch)]
    means = torch.stack([batch.mean() for batch in every if len(batch) == 100])
    assert means.std().item() == pytest.approx(math.sqrt(1000**2 / 12 / 10), rel=0.4)


def test_a_model_trains_from_disk_as_from_memory(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    memory = SyntheticRegressionData(num_train=500, num_val=100, seed=3)
    write_rows(tmp_path / "X.npy", tmp_path / "y.npy", 600, memory.parts(100))
    disk = OnDiskData(tmp_path / "X.npy", tmp_path / "y.npy", num_train=500, block_rows=16, window_rows=64)
    for data in (memory, disk):
        model = LinearRegression(2, lr=0.1)
        trainer(max_epochs=3).fit(model, data)
        torch.testing.assert_close(model.get_w_b()[0], memory.w, rtol=0, atol=0.005)
    assert model.evaluated["val/squared_loss"].item() == pytest.approx(0.01**2 / 2, rel=0.3)


def test_bad_files_and_arguments_are_errors(tmp_path: Path) -> None:
    X, y = tmp_path / "X.npy", tmp_path / "y.npy"
    numbered(tmp_path, 20, num_train=20)

    def fails(message: str, X: Path = X, num_train: int = 20, **arguments: Any) -> None:
        with pytest.raises(InputError, match=message) as error:
            list(OnDiskData(X, y, num_train, **arguments).train_dataloader())
        assert len(str(error.value).splitlines()) == 1

    def saved(name: str, array: Any) -> Path:
        np.save(tmp_path / f"{name}.npy", array)
        return tmp_path / f"{name}.npy"

    fails("X must be a .npy file of numbers; .*No such file", X=tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("1,2\n")
    fails("X must be a .npy file of numbers", X=tmp_path / "text.npy")
    np.savez(tmp_path / "several.npz", X=np.zeros((20, 1)))
    fails("X must be a .npy file of numbers", X=tmp_path / "several.npz")
    fails("X must be a .npy file of numbers", X=saved("objects", np.array([{}] * 20)))
    fails("X must be a .npy file of numbers", X=saved("words", np.array(["a"] * 20)))
    fails("in C order", X=saved("columns", np.asfortranarray(np.zeros((20, 2)))))
    fails("has 19 rows and .* has 20", X=saved("short", np.zeros((19, 1))))
    fails("num_train is 21, and there are 20 rows", num_train=21)
    fails("seed must not be negative", seed=-1)
    for name in ("num_train", "batch_size", "block_rows", "window_rows"):
        fails(f"{name} must be positive, not 0", **{name: 0})
    wrong = np.zeros((20, 2))
    wrong[13, 1] = math.nan
    fails("X of row 13 in .* must be finite", X=saved("wrong", wrong), block_rows=4, window_rows=4)
    for rows, message in ((19, "more rows"), (21, "the parts have 20 rows")):
        with pytest.raises(InputError, match=message):
            write_rows(
                tmp_path / "a.npy", tmp_path / "b.npy", rows, [(torch.zeros(10, 1), torch.zeros(10))] * 2
            )
    short, y = (torch.zeros(1, 1), torch.zeros(10))
    for parts, message in (
        ([(short, y)], r"y of the part from row 0 on is float32 of shape \(10,\)"),
        ([(y[:, None], y), (y[:, None].double(), y)], "X of the part from row 10 on is float64"),
    ):
        with pytest.raises(InputError, match=message):
            write_rows(tmp_path / "a.npy", tmp_path / "b.npy", 20, parts)
    with pytest.raises(InputError, match="X and y must be two files"):
        write_rows(tmp_path / "a.npy", tmp_path / "a.npy", 10, [(y[:, None], y)])
    assert not [path for path in tmp_path.iterdir() if path.stem in "ab" or path.name.startswith(".")]


def test_a_copy_of_the_data_opens_the_files_and_does_not_hold_the_rows(tmp_path: Path) -> None:
    data = numbered(tmp_path, 5000, num_train=5000)
    assert len(pickle.dumps(data.files)) < 1000
    copied = copy.deepcopy(data)
    assert all(map(torch.equal, rows_of(copied.train_dataloader(), 1), rows_of(data.train_dataloader(), 1)))


def test_files_that_are_read_can_be_replaced(tmp_path: Path) -> None:
    """A map of a file that became shorter would end the process by a signal."""
    data = numbered(tmp_path, 5000, num_train=5000, block_rows=10, window_rows=10)
    batches = iter(data.train_dataloader())
    first = next(batches)[1]
    numbered(tmp_path, 10, num_train=10)
    assert torch.cat([first, *(y for _, y in batches)]).sort().values.equal(torch.arange(5000.0))
