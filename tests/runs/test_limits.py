"""Settings that ask for more than the machine can do."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.runs.limits import machine_limits

SETTINGS: dict[str, Any] = {"rows": [3, 10**15], "model": partial(dict, width=7), "seed": 2**31, "name": "x"}


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(10**15),
        lambda: torch.empty(2**62, 2**62),
        lambda: torch.zeros(10, 784).repeat(4 * 10**18, 1),
        lambda: np.empty(10**16),
        lambda: np.empty(2**62),
        lambda: [0.0] * 10**17,
        lambda: range(10).__getitem__(0) if len(range(10**30)) else 0,
        lambda: torch.empty(1).split(10**19),
    ],
)
def test_too_large_a_size_is_an_error_that_names_the_largest_setting(allocate: Any) -> None:
    with (
        pytest.raises(
            InputError, match=r"more memory than there is.*largest setting is rows 10{15}$"
        ) as raised,
        machine_limits(SETTINGS),
    ):
        allocate()
    assert len(str(raised.value).splitlines()) == 1


def test_a_number_beyond_single_precision_is_an_error_that_names_the_largest() -> None:
    settings = {"lr": 1e300, "noise": 0.5, "rows": 10**15, "model": partial(dict, sigma=1e200)}
    message = r"^lr 1e\+300 is too large for single precision$"
    for compute in (
        lambda: torch.zeros(2).add_(torch.ones(2), alpha=1e300),
        lambda: torch.nn.functional.softshrink(torch.zeros(2), 1e300),
    ):
        with pytest.raises(InputError, match=message), machine_limits(settings):
            compute()


def test_the_message_says_how_much_was_asked_for() -> None:
    for allocate in (lambda: torch.empty(10**15), lambda: np.empty(10**15, np.float32)):
        with (
            pytest.raises(InputError, match=r"\((4,000,000.0 GB|3.55 PiB) in one piece\)"),
            machine_limits({}),
        ):
            allocate()


@pytest.mark.parametrize(
    "settings", [{"n": 10**20}, {"n": [1, 2**63]}, {"m": partial(dict, n=2**63)}], ids=str
)
def test_a_setting_of_more_than_64_bits_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"n must be less than 2\^63, not"), machine_limits(settings):
        raise AssertionError("it must not begin")


def test_a_gpus_memory_counts() -> None:
    with pytest.raises(InputError, match="more memory than there is; take less data"), machine_limits({}):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning", "ignore:Anomaly Detection")
def test_an_anomaly_is_a_divergence() -> None:
    w = torch.tensor(-1.0, requires_grad=True)
    with (
        pytest.raises(DivergenceError, match=r"a gradient is not a number \(--detect_anomaly\); a lower lr"),
        machine_limits({}),
        torch.autograd.detect_anomaly(check_nan=True),
    ):
        w.sqrt().backward()


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ValueError("a bug"), OverflowError("math range error")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)) as raised, machine_limits({}):
        raise error
    assert raised.value is error


def test_an_input_error_stays_what_it_is() -> None:
    with pytest.raises(InputError, match=r"^out of memory, says the file$"), machine_limits({}):
        raise InputError("out of memory, says the file")
