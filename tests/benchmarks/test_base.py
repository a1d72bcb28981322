"""Implementations are timed in turn, and rows come in the given order."""

import torch

from d2l_lightning.benchmarks.base import GivenOrder, Metrics, mean_metrics, time_in_turn


def test_every_other_turn_goes_backwards() -> None:
    calls: list[str] = []

    def implementation(name: str) -> Metrics:
        calls.append(name)
        return {"count": len(calls)}

    by_name = {name: lambda name=name: implementation(name) for name in "abc"}
    seconds, metrics = time_in_turn(by_name, range(3))
    assert calls == list("abccbaabc")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert metrics == {"a": {"count": 7}, "b": {"count": 8}, "c": {"count": 9}}


def test_the_order_of_rows_depends_on_the_epoch() -> None:
    sampler = GivenOrder([torch.tensor([2, 0, 1]), torch.tensor([1, 0])])
    assert list(sampler) == [2, 0, 1]
    sampler.set_epoch(1)
    assert list(sampler) == [1, 0]
    assert len(sampler) == 2


def test_metrics_are_averaged_over_fits() -> None:
    assert mean_metrics([(1.0, 4.0), (2.0, 8.0)]) == {"train": 1.5, "val": 6.0}
