"""How a search is done: the flags of a search."""

from dataclasses import dataclass

from d2l_lightning.errors import InputError, require_known, require_positive
from d2l_lightning.search.decisions import PrunerName, SamplerName


@dataclass(frozen=True)
class SearchSettings:
    """How a search is done.

    Args:
        trials: Number of settings to try. Each setting of a finite space is tried once at most.
        pack: Number of settings that a worker trains side by side, at most.
        workers: Number of processes that search on this machine. Each computes with one thread, or on a GPU
            of its own.
        storage: The URL of the database of the study, such as `postgresql+psycopg://USER:PASSWORD@HOST/NAME`,
            which workers on other machines share; if not given, a file in the run folder. The password is
            written nowhere.
        study: The name of the study in the database. Workers with the same storage and study search together.
        sampler: How settings are chosen: by Optuna's tree-structured Parzen estimator (tpe), at random
            (random), or all of a finite space (grid). If not given, as the line `method` of the space's file
            says.
        pruner: How settings that lag behind are ended at the comparisons: by successive halving (halving), by
            Hyperband (hyperband), or not at all (none).
        first_rung: The epoch after which settings are compared for the first time.
        reduction: At each comparison, about one setting in so many goes on, to the next comparison after so
            many times the epochs.
        heartbeat: Seconds between two signs of life of a worker. The trials of a worker without one for three
            times as long are trained again by others.
        confirm: Number of times that the best setting is cross-validated again, on other folds and with
            other seeds.

    Raises:
        InputError: If a number is out of its range.
    """

    trials: int = 64
    pack: int = 16
    workers: int = 1
    storage: str | None = None
    study: str | None = None
    sampler: SamplerName | None = None
    pruner: PrunerName = "halving"
    first_rung: int = 5
    reduction: int = 3
    heartbeat: int = 20
    confirm: int = 3

    def __post_init__(self) -> None:
        names = ("trials", "pack", "workers", "first_rung", "heartbeat")
        require_positive(**{f"--{name}": getattr(self, name) for name in names})
        if self.reduction < 2:
            raise InputError(f"--reduction must be at least 2, not {self.reduction}")
        if self.confirm < 0:
            raise InputError(f"--confirm must not be negative; it is {self.confirm}")
        if self.sampler is not None:
            require_known("--sampler", self.sampler, SamplerName)
        require_known("--pruner", self.pruner, PrunerName)
