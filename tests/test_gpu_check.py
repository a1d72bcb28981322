"""tests/tools/gpu_check.sh ends at once where there is no GPU, and for unknown options."""

import subprocess

import pytest
import torch

from tests.conftest import ROOT


def check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "tests" / "tools" / "gpu_check.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the script would check it")
def test_without_a_gpu_it_ends_with_one_line_and_status_2() -> None:
    done = check()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu_check: there is no GPU here")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--frob", "1"], ["--report"], ["--accelerator", "tpu"]], ids=" ".join)
def test_an_unknown_option_is_one_line_and_status_2(words: list[str]) -> None:
    done = check(*words)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"gpu_check: {' '.join([*words, ''][:2])}: the options are --report FILE and --accelerator gpu or cpu"
    ]
