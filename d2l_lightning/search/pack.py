"""Packs: settings that train side by side, each on all folds, and leave the stack when they are pruned."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.ensemble.alike import require_alike
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.run import Run
from d2l_lightning.search.states import PackStates as PackStates
from d2l_lightning.search.states import SavedPack
from d2l_lightning.search.task import FoldData, SearchTask, derived_seed

if TYPE_CHECKING:
    from d2l_lightning.search.study import SearchStudy, TrialToDo

# Where Linux says how much memory is free, and how much a container may use.
MEMORY, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# The entry of a checkpoint with what the module keeps between epochs.
ENTRY = "d2l_lightning"


@dataclass(eq=False)
class Candidate:
    """A trial in a pack, and its K models until they are in the stack."""

    trial: "TrialToDo"
    models: list[SupervisedModule]


@dataclass(eq=False)
class Pack:
    """Trials that train side by side.

    Attributes:
        candidates: The trials and their models.
        data: Their data.
        max_epochs: Their number of epochs.
        saved: The state from which they go on; None if they begin.
    """

    candidates: list[Candidate]
    data: FoldData
    max_epochs: int
    saved: SavedPack | None = None

    def __post_init__(self) -> None:
        self.name = f"pack_{min(each.trial.number for each in self.candidates)}"

    @property
    def trials(self) -> list["TrialToDo"]:
        """The trials."""
        return [each.trial for each in self.candidates]


def make_packs(
    task: SearchTask,
    trials: Sequence["TrialToDo"],
    max_epochs: int,
    states: PackStates,
    budget: int,
    refuse: Callable[["TrialToDo", str], None],
) -> list[Pack]:
    """Group trials that can share a stack; those that go on come first, then the largest groups.

    The order matters: a trial is compared with those that reached a rung before.

    Args:
        task: What is trained.
        trials: The trials.
        max_epochs: The number of epochs of settings that have none of their own.
        states: Where trials that were begun may go on.
        budget: The most bytes that the training of a pack may need; one setting may need more.
        refuse: Called with each trial whose setting the task refuses, and the reason.
    """
    found = states.find(trials)
    resumed: dict[str, list[TrialToDo]] = {}
    packs: list[Pack] = []
    for trial in trials:
        if trial.number in found:
            resumed.setdefault(found[trial.number].path, []).append(trial)
            continue
        epochs = trial.settings.get("max_epochs", max_epochs)
        try:
            require_positive(max_epochs=epochs)
            data = task.data(trial.settings)
            candidate = Candidate(trial, task.members(trial.settings, data))
            require_alike(candidate.models, [f"fold {fold + 1}" for fold in range(len(candidate.models))])
            size = memory_of(candidate.models, data)
        except InputError as error:
            refuse(trial, str(error))
            continue
        for pack in packs:
            own = pack.data is data and pack.max_epochs == epochs
            if own and (len(pack.candidates) + 1) * size <= budget and _alike(pack, candidate):
                pack.candidates.append(candidate)
                break
        else:
            packs.append(Pack([candidate], data, epochs))
    goes_on: list[Pack] = []
    for own_trials in resumed.values():
        saved = found[own_trials[0].number]
        candidates = [Candidate(trial, []) for trial in own_trials]
        goes_on.append(Pack(candidates, task.data(own_trials[0].settings), saved.max_epochs, saved))
    return [*goes_on, *sorted(packs, key=lambda pack: -len(pack.candidates))]


def _alike(pack: Pack, candidate: Candidate) -> bool:
    try:
        require_alike([pack.candidates[0].models[0], candidate.models[0]], ["the first", "the next"])
    except InputError:
        return False
    return True


def memory_of(models: Sequence[SupervisedModule], data: FoldData) -> int:
    """Return the bytes that training needs for the models of a setting, as an estimate.

    These are weights, gradients, two moments and two copies of the weights, as in an evaluation; what
    backpropagation keeps of a batch, and the batch.
    """
    model = models[0]
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    rows = data.train_rows[0][: data.batch_size]
    batch = ((data.X[0] if data.per_fold else data.X)[rows], data.y[rows])
    X, y = (tensor.to(model.dtype) if tensor.is_floating_point() else tensor for tensor in batch)
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        model.training_loss(X, y)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return len(models) * (6 * weights + 2 * sum(kept) + 2 * X.nbytes)


class PackFit(NoStepHooks, Callback):  # type: ignore[misc]
    """Reports the settings of a pack at the rungs, and takes those that are pruned out of the stack.

    Args:
        pack: The pack.
        task: What is trained.
        study: The study.
        states: Where the state is saved after each rung.
        run: The run, whose signals stop the fit.
        changed: Called after trials were reported.
    """

    def __init__(
        self,
        pack: Pack,
        task: SearchTask,
        study: "SearchStudy",
        states: PackStates,
        run: Run,
        changed: Callable[[], None],
    ) -> None:
        self.pack, self.task, self.study, self.states, self.run = pack, task, study, states, run
        self.changed = changed
        self.k = len(pack.data.train_rows)
        self.rungs = {rung for rung in study.rungs() if rung < pack.max_epochs}
        self._values: dict[int, list[float]] = {}  # in the end, by the number of the trial

    def train(self) -> None:
        """Train the pack; each of its trials is complete or pruned then."""
        path = self.states.claim(self.pack)
        if path is None:
            self.pack.saved = None  # from the beginning
        settings = self._make_module()
        self.stacked_data = stacked_data(self.pack.data, settings, self.task.seed)
        checkpoint = None if path is None else str(path)
        self.run.train("search", self.module, self.stacked_data, [self], self.pack.max_epochs, checkpoint)
        if self.pack.candidates:
            self._complete()
        self.states.remove(self.pack)
        self.changed()

    def _make_module(self) -> int:
        """Make the stack, which leaves no models beside it in memory; return the number of its settings."""
        saved, candidates = self.pack.saved, self.pack.candidates
        settings = [each.trial.settings for each in candidates] if saved is None else saved.settings
        made = [each.models for each in candidates]
        if saved is not None or not made[0]:
            made = [self.task.members(each, self.pack.data) for each in settings]
        self.module = stacked_module([model for models in made for model in models], len(settings))
        for each in candidates:
            each.models = []
        return len(settings)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the pack after a rung, save its state, and begin the next epoch."""
        epoch, saved = trainer.current_epoch, self.pack.saved
        if saved is not None and saved.epoch == epoch:
            self._go_on(trainer, saved)
        elif epoch > 0:
            leaving = self._prune_diverged(epoch)
            if epoch in self.rungs:
                leaving |= self._report(epoch, leaving)
            self._leave(leaving)
            if epoch in self.rungs or self.run.stopping:
                self.states.save(trainer, self.pack)
        self.run.check_signals()
        # Not the state of the generator: a setting has the same random numbers in any pack.
        torch.manual_seed(derived_seed(self.task.seed, 3, epoch))

    def _go_on(self, trainer: Trainer, saved: SavedPack) -> None:
        """Put Lightning's loops into the state before the epoch; keep the trials that this worker has."""
        for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop):
            loop.on_iteration_done()
        own = {trial.root for trial in self.pack.trials}
        kept = [i for i, root in enumerate(saved.roots) if root in own]
        order = {root: i for i, root in enumerate(saved.roots)}
        self.pack.candidates.sort(key=lambda each: order[each.trial.root])
        self._keep(kept)

    def _keep(self, kept: Sequence[int]) -> None:
        """Keep settings in the stack, by their place."""
        self.module.keep([i * self.k + fold for i in kept for fold in range(self.k)])

    def _leave(self, leaving: Collection[int]) -> None:
        """Take trials out of the stack; raise a StopIteration, which ends the fit, if none is left."""
        if leaving:
            kept = [i for i, trial in enumerate(self.pack.trials) if trial.number not in leaving]
            self.pack.candidates = [self.pack.candidates[i] for i in kept]
            self.changed()
            if not kept:
                raise StopIteration
            self._keep(kept)

    def _prune_diverged(self, epoch: int) -> set[int]:
        """Prune the trials whose loss in a fold is not finite; return their numbers."""
        pruned = set()
        for i, trial in enumerate(self.pack.trials):
            names = self.module.names[i * self.k : (i + 1) * self.k]
            wrong = [self.module.diverged[name] for name in names if name in self.module.diverged]
            if wrong:
                self.study.prune(trial.number, epochs=epoch, reason=wrong[0])
                pruned.add(trial.number)
        return pruned

    def _evaluate(self) -> dict[int, list[float]]:
        """Return the metric of each fold, by the number of the trial."""
        values = self.module.evaluate(self.stacked_data, "val")[f"val/{self.task.metric}"]
        numbers = [trial.number for trial in self.pack.trials]
        return dict(zip(numbers, values.view(-1, self.k).tolist(), strict=True))

    def _report(self, epoch: int, without: Collection[int]) -> set[int]:
        """Report the trials at a rung; return the numbers of those that are pruned."""
        folds = {number: each for number, each in self._evaluate().items() if number not in without}
        pruned = self.study.report({number: sum(each) / self.k for number, each in folds.items()}, epoch)
        for number in pruned:
            self.study.prune(number, folds=folds[number], epochs=epoch)
        return pruned

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trials that are left."""
        if self.pack.candidates:
            self._values = self._evaluate()

    def _complete(self) -> None:
        """Complete the trials that are left, except those that diverged."""
        epoch = self.pack.max_epochs
        diverged = self._prune_diverged(epoch)
        values = {number: folds for number, folds in self._values.items() if number not in diverged}
        means = {number: sum(folds) / self.k for number, folds in values.items()}
        self.study.report(means, epoch)
        for number, folds in values.items():
            self.study.complete(number, means[number], folds=folds, epochs=epoch)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the module keeps between epochs."""
        checkpoint[ENTRY] = self.module.fit_state()
        checkpoint.pop(pl_module.CHECKPOINT_HYPER_PARAMS_KEY, None)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Restore what the module keeps between epochs."""
        self.module.load_fit_state(checkpoint[ENTRY])


def stacked_module(models: Sequence[SupervisedModule], settings: int) -> StackedModule:
    """Return the models of settings times folds as a stack, in which each fold has its random numbers."""
    k = len(models) // settings
    names = [f"setting_{s + 1}_fold_{fold + 1}" for s in range(settings) for fold in range(k)]
    stack = StackedModule(models, names, streams=[*range(k)] * settings, raise_on_divergence=False)
    stack.replay_from = 0  # a step of many members by vmap takes longer than the trace
    return stack


def stacked_data(data: FoldData, settings: int, seed: int) -> StackedData:
    """Return the data of settings times folds; the settings share the rows of each fold and their orders."""
    k = len(data.train_rows)
    rows = {"train": [*data.train_rows] * settings, "val": [*data.val_rows] * settings}
    streams = [*range(k)] * settings
    y = data.y.expand(k, -1) if data.per_fold else data.y
    return StackedData(data.X, y, rows, data.batch_size, seed, streams=streams, drop_last=data.drop_last)


def available_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device, as far as this is known; else 4 GB.

    On a CPU, this is the least of what the machine and a container's limit leave.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        free.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # without a limit, the file has the word max
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free.append(max(limit - used, 0))
    return min(free, default=4 * 10**9)
