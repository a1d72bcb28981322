"""What a search finds for a setting does not depend on what trains beside it, on pruning, or on kills."""

import signal
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.signals import StoppedError
from d2l_lightning.search import pack as packs_module
from d2l_lightning.search.checks import check_space
from d2l_lightning.search.pack import Pack, PackFit, PackStates, make_packs, memory_of
from d2l_lightning.search.search import run_search as search
from d2l_lightning.search.settings import SearchSettings
from d2l_lightning.search.space import parse_space
from d2l_lightning.search.study import TrialToDo
from d2l_lightning.search.task import CrossValidationTask, derived_seed
from d2l_lightning.search.trials import SearchResult

SPACE = {
    "lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
    "weight_decay": {"distribution": "log_uniform_values", "min": 1e-6, "max": 0.1},
    "dropout": {"min": 0.1, "max": 0.5},
    "optimizer": {"value": "adamw"},
}
FLAGS: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 12}
SETTINGS: dict[str, Any] = {"trials": 8, "first_rung": 2, "sampler": "random", "confirm": 0}


def make_model(**settings: Any) -> TableRegressor:
    """Return a small perceptron; at the module's top, because workers import it."""
    # Sizes of 16 floats: BLAS rounds differently where a member does not begin at a multiple of 64 bytes.
    return TableRegressor(16, **{"hidden_sizes": [16], "schedule": "cosine", "loss": "huber", **settings})


def make_task(n: int = 103) -> CrossValidationTask:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(n, 16, generator=generator)
    y = 2 * X[:, 0] - X[:, 1].abs() + 0.3 * torch.randn(n, generator=generator)
    return CrossValidationTask(make_model, X, y, metric="rmse", k=3, batch_size=16)


def run_search(
    folder: Path,
    space: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    resume: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search in a run of its own."""
    with Run("search", run_dir=folder, resume=resume, **{**FLAGS, **(flags or {})}) as run:
        found = search(
            run, make_task(), parse_space(space or SPACE), SearchSettings(**{**SETTINGS, **settings})
        )
        run.finish({})
    return found


def values(found: SearchResult) -> dict[int, tuple[Any, ...]]:
    """Return all that training gave for each setting."""
    return {trial.index: (trial.settings, trial.folds, trial.intermediate) for trial in found.trials}


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run_search(tmp_path_factory.mktemp("unpruned") / "run", pruner="none")


@pytest.mark.parametrize(
    "settings", [{"pack": 1, "pruner": "none"}, {"pack": 3}, {"pruner": "hyperband", "reduction": 2}]
)
def test_the_value_of_a_setting_does_not_depend_on_the_pack_or_on_pruning(
    unpruned: SearchResult, tmp_path: Path, settings: dict[str, Any]
) -> None:
    found = values(run_search(tmp_path / "run", **settings))
    expected = values(unpruned)
    assert len(found) == len(expected) == 8
    completed = 0
    for index, (setting, folds, reported) in found.items():
        assert setting == expected[index][0]
        if 12 in reported:
            completed += 1
            assert folds == expected[index][1]
            assert reported[12] == expected[index][2][12]
    assert completed >= 1
    assert (completed == 8) == (settings.get("pruner") == "none")


def stop_at(monkeypatch: pytest.MonkeyPatch, stop: Any, at: int) -> None:
    """Call ``stop`` as a pack begins an epoch, the ``at``-th time that any pack does so."""
    begin, count = PackFit.on_train_epoch_start, [0]

    def counted(self: PackFit, *arguments: Any) -> None:
        count[0] += 1
        if count[0] == at:
            stop()
        begin(self, *arguments)

    monkeypatch.setattr(PackFit, "on_train_epoch_start", counted)


def killed() -> None:
    raise MemoryError("killed")


def terminated() -> None:
    signal.raise_signal(signal.SIGTERM)


# The last ones are not drawn at random.
STOPPED: dict[str, Any] = {"trials": 15, "pack": 6, "sampler": "tpe"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run_search(tmp_path_factory.mktemp("whole") / "run", **STOPPED)


@pytest.mark.parametrize(("stop", "at"), [(killed, 2), (terminated, 6), (killed, 6), (terminated, 20)])
def test_a_search_that_was_stopped_goes_on_to_the_same_result(
    whole: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: Any, at: int
) -> None:
    settings, expected = STOPPED, values(whole)
    with monkeypatch.context() as patch:
        stop_at(patch, stop, at)
        with pytest.raises((MemoryError, StoppedError)):
            run_search(tmp_path / "stopped", **settings)
    trained: list[int] = []
    begin = PackFit.on_train_epoch_start
    monkeypatch.setattr(
        PackFit,
        "on_train_epoch_start",
        lambda self, trainer, module: (trained.append(trainer.current_epoch), begin(self, trainer, module)),
    )
    found = run_search(tmp_path / "stopped", resume=True, **settings)
    assert values(found) == expected
    assert [trial.number for trial in found.trials] == list(range(15))
    if at > 3:  # the state after the first rung, or after the epoch in which the signal came
        assert trained[0] >= 2
    assert not (tmp_path / "stopped" / "state").exists()


def test_a_setting_that_diverges_or_is_refused_ends_alone(tmp_path: Path) -> None:
    space = {"lr": {"values": [0.01, 1e30]}, "optimizer": {"values": ["adam", "adamw"]}}
    space["l1"] = {"values": [0.0, 0.1]}
    found = run_search(tmp_path / "run", space, trials=8, pruner="none")
    assert len(found.trials) == 8
    for trial in found.trials:
        lr, optimizer, l1 = trial.settings.values()
        if optimizer == "adam" and l1 > 0:
            assert trial.reason == "l1 goes with the optimizer adamw, not with adam"
            assert (trial.state, trial.epochs) == ("pruned", 0)
        elif lr == 1e30:
            assert trial.reason.startswith("the training loss became nan in epoch 1")
            assert (trial.state, trial.value, trial.epochs) == ("pruned", None, 1)
        else:
            assert (trial.state, trial.epochs) == ("complete", 12)
    alone = run_search(tmp_path / "alone", {**space, "lr": {"values": [0.01, 0.02]}}, trials=8, pruner="none")
    expected = {str(trial.settings): trial.folds for trial in alone.trials}
    for trial in found.trials:
        if trial.state == "complete":
            assert trial.folds == expected[str(trial.settings)]


def to_do(number: int, **settings: Any) -> TrialToDo:
    return TrialToDo(number, number, number, settings, settings)


def test_settings_share_a_pack_if_they_differ_elementwise_alone(tmp_path: Path) -> None:
    settings = [
        {"lr": 0.1, "dropout": 0.1},
        {"lr": 0.2, "dropout": 0.3, "weight_decay": 0.5},
        {"lr": 0.1, "dropout": 0.0},
        {"lr": 0.1, "hidden_sizes": [32]},
        {"lr": 0.1, "dropout": 0.1, "batch_size": 8},
        {"lr": 0.1, "dropout": 0.1, "max_epochs": 3},
        {"lr": 0.3, "dropout": 0.0, "max_epochs": 12},
        {"lr": 0.1, "dropout": 2.0},
    ]
    trials = [to_do(number, **each) for number, each in enumerate(settings)]
    refused: dict[int, str] = {}
    packs = make_packs(
        make_task(),
        trials,
        12,
        PackStates(tmp_path),
        10**9,
        lambda trial, why: refused.update({trial.number: why}),
    )
    assert [[trial.number for trial in pack.trials] for pack in packs] == [[0, 1], [2, 6], [3], [4], [5]]
    assert [pack.max_epochs for pack in packs] == [12, 12, 12, 12, 3]
    assert refused == {7: "dropout must be in [0, 1), not 2.0"}


def test_packs_fit_the_memory(tmp_path: Path) -> None:
    task = make_task()
    trials = [to_do(number, lr=0.1) for number in range(7)]
    data = task.data({})
    size = memory_of(task.members({}, data), data)
    weights = sum(parameter.nbytes for parameter in make_model().parameters())
    assert size > 3 * 4 * weights
    packs = make_packs(task, trials, 12, PackStates(tmp_path), 3 * size, lambda *_: None)
    assert [len(pack.candidates) for pack in packs] == [3, 3, 1]
    packs = make_packs(task, trials, 12, PackStates(tmp_path), 1, lambda *_: None)
    assert [len(pack.candidates) for pack in packs] == [1] * 7


def half_of(found: SearchResult, states: PackStates, monkeypatch: pytest.MonkeyPatch) -> list[TrialToDo]:
    """Save the state of a pack of all settings after the rung of epoch 2; return every second trial."""
    trials = [to_do(trial.number, **trial.settings) for trial in found.trials]
    ((pack,), study) = make_packs(make_task(), trials, 12, states, 10**9, fail), FakeStudy()
    with monkeypatch.context() as patch:
        stop_at(patch, killed, 4)
        with pytest.raises(MemoryError):
            train(pack, study, states)
    # Tried again by another worker.
    return [replace(trial, number=trial.number + 100) for trial in trials[::2]]


def fail(trial: TrialToDo, reason: str) -> None:
    raise AssertionError(reason)


class FakeStudy:
    """A study that ends trials at the first rung, such as those that another worker took over."""

    def __init__(self, ended: Collection[int] = ()) -> None:
        self.ended = {*ended}
        self.folds: dict[int, list[float]] = {}
        self.epochs: list[int] = []

    def rungs(self) -> list[int]:
        return [2, 6, 12]

    def report(self, means: Mapping[int, float], epoch: int) -> set[int]:
        self.epochs.append(epoch)
        return self.ended & means.keys()

    def prune(self, number: int, **_: Any) -> bool:
        return number not in self.ended

    def complete(self, number: int, value: float, folds: list[float], epochs: int) -> bool:
        self.folds[number] = folds
        return True


def train(pack: Pack, study: FakeStudy, states: PackStates) -> None:
    folder = states.folder.parent / f"run_{len(list(states.folder.parent.iterdir()))}"
    with Run("search", run_dir=folder, **FLAGS) as run:
        PackFit(pack, make_task(), study, states, run, lambda: None).train()  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", [[0, 1, 5], range(8)])
def test_trials_that_another_worker_took_over_leave_the_pack(
    unpruned: SearchResult, tmp_path: Path, lost: Collection[int]
) -> None:
    trials = [to_do(trial.number, **trial.settings) for trial in unpruned.trials]
    states, study = PackStates(tmp_path / "packs"), FakeStudy(lost)
    (pack,) = make_packs(make_task(), trials, 12, states, 10**9, fail)
    train(pack, study, states)
    expected = values(unpruned)
    assert study.folds == {number: [*expected[number][1]] for number in range(8) if number not in lost}
    assert study.epochs == ([2, 6, 12] if study.folds else [2])
    assert not list(tmp_path.glob("packs/*"))


def remove(states: PackStates) -> None:
    (checkpoint,) = states.folder.glob("*.ckpt")
    checkpoint.unlink()


def damage(states: PackStates) -> None:
    (checkpoint,) = states.folder.glob("*.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [None, remove, damage])
def test_another_worker_goes_on_with_a_part_of_a_pack(
    unpruned: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any
) -> None:
    states = PackStates(tmp_path / "packs")
    trials = half_of(unpruned, states, monkeypatch)
    (states.folder / "damaged.json").write_text('{"roots": 1}')
    (states.folder / "worse.json").write_text("[")
    ((pack,), study) = make_packs(make_task(), trials, 12, states, 10**9, fail), FakeStudy()
    assert pack.trials == trials
    if harm is not None:  # after the state was found
        harm(states)
    train(pack, study, states)
    expected = values(unpruned)
    assert study.folds == {trial.number: [*expected[trial.root][1]] for trial in trials}
    assert study.epochs == ([6, 12] if harm is None else [2, 6, 12])
    # It removes what is its own.
    assert not list(states.folder.glob("pack_100_*"))


def test_a_state_of_another_setting_is_not_used(
    unpruned: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = PackStates(tmp_path / "packs")
    first, second, *_ = half_of(unpruned, states, monkeypatch)
    # As in a new study in place of one that was lost.
    other = replace(second, settings={**second.settings, "lr": 0.05})
    assert states.find([first, other]).keys() == {first.number}
    # The latest state counts, whatever its name.
    (file,) = states.folder.glob("*.json")
    for name, epoch in (("a", 6), ("z", 1)):
        (states.folder / f"{name}.json").write_text(
            file.read_text().replace('"epoch": 2', f'"epoch": {epoch}')
        )
    assert states.find([first])[first.number].epoch == 6


def test_a_setting_may_have_fewer_epochs_than_the_first_rung(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the search space has max_epochs 0: max_epochs must be positive"):
        run_search(tmp_path / "none", {"max_epochs": {"values": [0, 1]}})
    space = {"max_epochs": {"values": [1, 2, 9]}}
    found = run_search(tmp_path / "run", space, trials=3)
    ended = {trial.settings["max_epochs"]: trial for trial in found.trials}
    assert [ended[epochs].epochs for epochs in (1, 2, 9)] == [1, 2, 9]
    assert ended[9].value is not None
    assert ended[1].value is not None
    assert ended[9].value < ended[1].value


class Bare(SupervisedModule):
    """A model of images that has no shape yet."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

    def example_losses(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.net(X), y, reduction="none")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Images(Bare):
    """A model of images."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.Linear(16, 3)


class OwnStep(Images):
    """A model whose step is not the usual one."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx)


def test_models_of_images_and_classes_are_searched_and_others_are_refused_in_one_line(tmp_path: Path) -> None:
    task = make_task()
    task = replace(task, model=Images, X=task.X.view(-1, 1, 4, 4), y=(task.y > 0).long(), metric="loss")
    space = parse_space({"batch_size": {"values": [50, 60]}, "max_epochs": {"value": 3}})
    for model, metric, reason in (
        (Images, "loss", None),
        (Images, "rmse", "the model has no metric rmse; known are loss"),
        (Bare, "loss", "no setting could be trained to the end: net.1.weight has no shape yet; call each"),
        (OwnStep, "loss", "no setting could be trained to the end: training_step of OwnStep is not called"),
    ):
        folder, settings = tmp_path / f"{model.__name__}_{metric}", SearchSettings(**SETTINGS)
        with Run("search", run_dir=folder, **FLAGS) as run:
            if reason is None:
                assert len(search(run, replace(task, model=model), space, settings).best.folds) == 3
                continue
            with pytest.raises(InputError, match=f"^{reason}"):
                search(run, replace(task, model=model, metric=metric), space, settings)


def test_a_search_in_double_precision_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"trials": 2, "flags": {"precision": "64-true", "max_epochs": 4}}
    expected = run_search(tmp_path / "whole", **settings)
    assert float(torch.tensor(expected.best.folds[0])) != expected.best.folds[0]
    with monkeypatch.context() as patch:
        stop_at(patch, killed, 4)
        with pytest.raises(MemoryError):
            run_search(tmp_path / "stopped", **settings)
    found = run_search(tmp_path / "stopped", resume=True, **settings)
    assert values(found) == values(expected)


def test_the_memory_of_packs_is_what_machine_and_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(packs_module, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(packs_module, "CGROUP", tmp_path)
    assert packs_module.available_memory(cpu) == 4 * 10**9
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    assert packs_module.available_memory(cpu) == 2000 * 1024
    (tmp_path / "memory.current").write_text("600\n")
    for limit, free in (("max", 2000 * 1024), ("1000", 400), ("500", 0), ("9999999999", 2000 * 1024)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        assert packs_module.available_memory(cpu) == free


def test_the_best_setting_is_cross_validated_on_other_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"trials": 3, "pruner": "none", "confirm": 2}
    found = run_search(tmp_path / "run", **settings)
    task = make_task()
    assert len(found.confirmed) == 2
    assert all(len(folds) == 3 for folds in found.confirmed)
    flat = [*found.best.folds, *(value for folds in found.confirmed for value in folds)]
    assert len(set(flat)) == 9
    first = task.with_seeds(derived_seed(task.seed, 4, 1)).data({})
    assert not torch.equal(first.val_rows[0], task.data({}).val_rows[0])
    # Alone, with the same folds and initial weights, the model is about as good.
    assert max(flat) < 3 * min(flat)

    def killed(*arguments: Any, **flags: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "fit", killed)
        with pytest.raises(MemoryError):
            run_search(tmp_path / "killed", **settings)
    assert run_search(tmp_path / "killed", resume=True, **settings).confirmed == found.confirmed


def test_flags_that_end_a_fit_elsewhere_are_refused(tmp_path: Path) -> None:
    for flag, value in {"max_steps": 3, "limit_val_batches": 1, "fast_dev_run": 1}.items():
        with pytest.raises(InputError, match=f"--{flag} {value} has no effect"):
            run_search(tmp_path / flag, flags={flag: value})
    with pytest.raises(InputError, match="a search needs --max_epochs"):
        run_search(tmp_path / "none", flags={"max_epochs": None})
    assert not list(tmp_path.iterdir())


def test_a_value_that_the_model_always_refuses_is_found_before_the_search(tmp_path: Path) -> None:
    space = {**SPACE, "dropout": {"min": 0.1, "max": 1.5}}
    with pytest.raises(InputError, match=r"the search space has dropout 1.5: dropout must be in \[0, 1\)"):
        run_search(tmp_path / "run", space)
    with pytest.raises(InputError, match="the search space has max_epochs 0: max_epochs must be positive"):
        run_search(tmp_path / "run", {**SPACE, "max_epochs": {"values": [0, 4]}})
    with pytest.raises(InputError, match=r"^hidden_sizes must be positive, not \[-1\]"):
        run_search(tmp_path / "run", {**SPACE, "hidden_sizes": {"value": [-1]}})
    with pytest.raises(InputError, match="for the metric val/loss, but the search minimizes val/rmse"):
        check_space(make_task(), replace(parse_space(SPACE), metric="val/loss"))
    with pytest.raises(InputError, match="the model has no metric loss; known are rmse"):
        check_space(replace(make_task(), metric="loss"), parse_space(SPACE))
    assert not (tmp_path / "run").exists()


def test_settings_with_epochs_of_their_own_have_rungs_up_to_the_most(tmp_path: Path) -> None:
    space = {**SPACE, "max_epochs": {"values": [4, 20]}}
    found = run_search(tmp_path / "run", space, flags={"max_epochs": 3}, reduction=2, trials=4)
    assert all(trial.epochs <= trial.settings["max_epochs"] for trial in found.trials)
    assert {epoch for trial in found.trials for epoch in trial.intermediate} == {2, 4, 8, 16, 20}
