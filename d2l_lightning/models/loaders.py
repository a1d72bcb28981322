"""The loaders of a fit: generator functions, generators that are used up, and modules without shapes yet."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.parameter import is_lazy

from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    from d2l_lightning.models.base import SupervisedModule


class EachEpoch:
    """Yields the batches of a generator function, which is called for each epoch.

    Args:
        generate: The generator function.
    """

    def __init__(self, generate: Callable[[], Iterator[Any]]) -> None:
        self.generate = generate

    def __iter__(self) -> Iterator[Any]:
        return self.generate()


def _sources(trainer: Any) -> list[Any]:
    """Return where the Trainer takes its loaders from: the first one is that of training, in a fit."""
    if trainer.state.fn == TrainerFn.FITTING:
        return [trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source]
    loops = {
        TrainerFn.VALIDATING: trainer.validate_loop,
        TrainerFn.TESTING: trainer.test_loop,
        TrainerFn.PREDICTING: trainer.predict_loop,
    }
    return [loops[trainer.state.fn]._data_source]


def take_generator_functions(trainer: Trainer) -> None:
    """Let a generator function in place of a loader begin anew in each epoch.

    It may be passed to the Trainer, or be a method such as ``train_dataloader`` of a module.
    """
    for source in _sources(trainer):
        function = getattr(source.instance, source.name, None) if source.is_module() else source.instance
        if inspect.isgeneratorfunction(function):
            source.instance = EachEpoch(function)


def require_repeatable(trainer: Trainer, loader: Any, stage: str) -> None:
    """Raise an InputError for a list of batches, and a generator that a second epoch would find used up."""
    if stage == "training" and isinstance(loader, list):
        what = "the training loader is a list, which the Trainer takes for several loaders"
        raise InputError(f"{what}; pass DataLoader(batches, batch_size=None)")
    if trainer.state.fn != TrainerFn.FITTING or not isinstance(loader, Iterator):
        return
    if trainer.max_epochs != 1 or trainer.sanity_checking:
        what = f"the {stage} loader is a {type(loader).__name__} object, which is used up after one epoch"
        remedy = (
            "pass the generator function itself, or return the object from get_dataloader of a DataModule"
        )
        raise InputError(f"{what}; {remedy}")


def give_shapes(module: "SupervisedModule", trainer: Trainer) -> None:
    """Give the parameters of lazy layers their shapes, by a forward pass of the first batch.

    An optimizer needs the shapes. The loader's random numbers are as if nothing had read the batch.
    """
    if not any(is_lazy(parameter) for parameter in module.parameters()):
        return
    loader = _sources(trainer)[0].dataloader()
    if isinstance(loader, Iterator):
        return  # the first step does
    with _same_random_numbers(loader):
        batch = next(iter(loader), None)
    if batch is None:
        return
    X = batch[0] if isinstance(batch, list | tuple) else batch
    modes = [(each, each.training) for each in module.modules()]
    module.eval()  # no dropout, so that the only random numbers are the weights
    try:
        with torch.no_grad():
            module(X.to(module.device))
    finally:
        for each, training in modes:
            each.training = training


@contextmanager
def _same_random_numbers(loader: Any) -> Iterator[None]:
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    owners = [loader, *samplers, *(getattr(sampler, "sampler", None) for sampler in samplers)]
    generators = [getattr(owner, "generator", None) for owner in owners]
    own = [(each, each.get_state()) for each in generators if isinstance(each, torch.Generator)]
    states = random.getstate(), np.random.get_state(legacy=False)
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for generator, state in own:
            generator.set_state(state)
