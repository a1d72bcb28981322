"""The perceptron of Section 4.3 on Fashion-MNIST: this project, a PyTorch loop, torchvision's pipeline."""

import copy
import statistics
import tempfile
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2l_lightning.benchmarks.base import GivenOrder, Job, Metrics, epochs_of, output_of, without_lightning
from d2l_lightning.data.batches import ShuffledBatches
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.mlp import MLP

# Runs a script up to its first training step; prints the seconds since these three libraries were imported.
STARTUP = """
import os, runpy, sys, time
import torch, lightning.pytorch, torchvision
start = time.perf_counter()
from d2l_lightning.models.base import SupervisedModule

def first_step(*_):
    os.write(1, str(time.perf_counter() - start).encode())
    os._exit(0)

SupervisedModule.training_step = first_step
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Perceptron(Job):
    """The perceptron, validated on the test rows after each epoch."""

    title = "a perceptron on Fashion-MNIST"
    baselines: ClassVar = {"bare_loop": "bare loop", "torchvision_pipeline": "image by image"}
    default_epochs = 1
    on_gpu = True
    lr, batch_size = 0.1, 256

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.data = FashionMNIST(batch_size=self.batch_size, validate_on_test=True, seed=self.seed)
        self.data.prepare_data()
        self.data.setup()
        self.X, self.y = self.data.examples(slice(None))
        self.X = self.X.flatten(1)
        self.model = MLP(lr=self.lr)
        self.implementations = {
            "this project": self.run_fit,
            "bare loop": self.pytorch_loop,
            "image by image": self.torchvision_pipeline,
        }
        if self.device.type != "cpu":  # it would time the CPU
            del self.implementations["image by image"]

    def other_seconds(self, repeats: int) -> dict[str, float]:
        """Return the time from the start of `mlp.py` to its first step, without the libraries' import."""
        script = str(self.scripts / "mlp.py")
        seconds = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                command = ["-c", STARTUP, script, "--run_dir", folder, "--accelerator", self.accelerator]
                seconds.append(float(output_of(command)))
        return {"startup_seconds": statistics.median(seconds)}

    def run_fit(self) -> Metrics:
        """Train it as `mlp.py` does."""
        model = copy.deepcopy(self.model)
        self.fit_in_run("perceptron", model, self.data)
        return {name: model.evaluated[f"val/{name}"].item() for name in ("loss", "accuracy")}

    @without_lightning()
    def pytorch_loop(self) -> Metrics:
        """Train it by PyTorch alone, on tensors in the memory of the device, without logging."""
        net = copy.deepcopy(self.model.net).to(self.device)
        all_X, all_y = self.X.to(self.device), self.y.to(self.device)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.lr)
        train, test = (self.data.rows[stage].to(self.device) for stage in ("train", "test"))
        metrics = {}
        for batches in epochs_of(ShuffledBatches(len(train), self.batch_size, self.seed), self.epochs):
            for rows in torch.cat(batches).to(self.device).split(self.batch_size):
                loss = nn.functional.cross_entropy(net(all_X[rows]), all_y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                logits, y = net(all_X[test]), all_y[test]
                accuracy = (logits.argmax(dim=1) == y).float().mean()
                metrics = {"loss": nn.functional.cross_entropy(logits, y).item(), "accuracy": accuracy.item()}
        return metrics

    def torchvision_pipeline(self) -> Metrics:
        """Train it by a Trainer on torchvision's dataset with `ToTensor`, as in Lightning's tutorials."""
        model = PlainPerceptron(copy.deepcopy(self.model.net), self.lr)
        train, test = (self._torchvision(stage) for stage in ("train", "test"))
        batches = ShuffledBatches(len(train), self.batch_size, self.seed)
        order = GivenOrder([torch.cat(each) for each in epochs_of(batches, self.epochs)])
        loader = DataLoader(train, self.batch_size, sampler=order)
        trainer = self.trainer("image_by_image")
        trainer.fit(model, loader, DataLoader(test, self.batch_size))
        return {name: trainer.callback_metrics[f"val/{name}"].item() for name in ("loss", "accuracy")}

    def _torchvision(self, stage: str) -> Any:
        from torchvision import datasets, transforms

        # Built without its constructor, which wants a copy of the files in folders of its own.
        data = datasets.FashionMNIST.__new__(datasets.FashionMNIST)
        rows = self.data.rows[stage]
        data.data, data.targets = self.data.images[rows], self.data.labels[rows]
        data.transform, data.target_transform = transforms.ToTensor(), None
        return data


class PlainPerceptron(LightningModule):
    """The perceptron of Section 4.3 in plain Lightning."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        from torchmetrics.classification import MulticlassAccuracy

        super().__init__()
        self.net, self.lr = net, lr
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return and log the loss."""
        X, y = batch
        loss = nn.functional.cross_entropy(self.net(X.flatten(1)), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to loss and accuracy."""
        X, y = batch
        logits = self.net(X.flatten(1))
        self.accuracy(logits, y)
        self.log("val/loss", nn.functional.cross_entropy(logits, y))
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)
