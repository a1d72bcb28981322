"""Training beside other processes that keep every core busy: this project and PyTorch loops."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from d2l_lightning.benchmarks.base import Job
from d2l_lightning.benchmarks.fashion_mnist import Perceptron
from d2l_lightning.benchmarks.kaggle_house import HouseFolds
from d2l_lightning.benchmarks.load import busy_cores

BUSY = ", busy"


class SharedMachine(Job):
    """The house cross-validation and, for a hundredth of its epochs, the perceptron on Fashion-MNIST."""

    title = "training beside a busy process on each core"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        run, epochs, scripts = args
        perceptron = Perceptron(run, max(1, epochs // 100), scripts)
        houses = HouseFolds(run, epochs, scripts)
        self.implementations = {
            "houses": houses.run_fit,
            "houses, loop": houses.pytorch_loop,
            f"houses{BUSY}": houses.run_fit,
            f"houses, loop{BUSY}": houses.pytorch_loop,
            "perceptron": perceptron.run_fit,
            "perceptron, loop": perceptron.pytorch_loop,
            f"perceptron{BUSY}": perceptron.run_fit,
            f"perceptron, loop{BUSY}": perceptron.pytorch_loop,
        }

    def surroundings(self, name: str) -> AbstractContextManager[Any]:
        """Return a context in which all cores are busy, if the implementation is timed beside others."""
        return busy_cores() if name.endswith(BUSY) else super().surroundings(name)

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return the cross-validation over itself without load, and both jobs over the loops under load."""
        houses, perceptron = medians[f"houses{BUSY}"], medians[f"perceptron{BUSY}"]
        return {
            "house_busy_over_idle": houses / medians["houses"],
            "house_over_bare_busy": houses / medians[f"houses, loop{BUSY}"],
            "fashion_mnist_over_bare_busy": perceptron / medians[f"perceptron, loop{BUSY}"],
        }
