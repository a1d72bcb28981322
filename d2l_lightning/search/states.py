"""The states of packs: files from which a pack goes on after its worker was stopped or killed."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from d2l_lightning.runs.folder import whole_file
from d2l_lightning.runs.resumable_fit import unless_the_disk_is_full

if TYPE_CHECKING:
    from d2l_lightning.search.pack import Pack
    from d2l_lightning.search.study import TrialToDo


@dataclass(frozen=True)
class SavedPack:
    """The state of a pack: a checkpoint, and what it is of.

    Attributes:
        path: The checkpoint.
        epoch: The number of epochs that the pack was trained for.
        max_epochs: Its number of epochs in all.
        roots: Of each setting in the stack, the number of the trial's first attempt.
        settings: The settings.
    """

    path: str
    epoch: int
    max_epochs: int
    roots: list[int]
    settings: list[dict[str, Any]]


class PackStates:
    """The states of packs in a folder, which the workers of one machine share.

    Each attempt at a trial has a number of its own, so packs have different names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Trainer, pack: "Pack") -> None:
        """Write the state of a pack, and remove an earlier one."""
        path = self.folder / f"{pack.name}_epoch_{trainer.current_epoch}.ckpt"
        roots, settings = zip(*((each.root, each.settings) for each in pack.trials), strict=True)
        saved = SavedPack(path.name, trainer.current_epoch, pack.max_epochs, list(roots), list(settings))
        earlier = set(self._files(pack))
        with unless_the_disk_is_full():
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                trainer.save_checkpoint(partial)
            # The description comes last: where there is one, the checkpoint is whole.
            with whole_file(path.with_suffix(".json")) as partial:
                partial.write_text(json.dumps(asdict(saved)), encoding="utf-8")
            self._remove(earlier - {path, path.with_suffix(".json")})

    def remove(self, pack: "Pack") -> None:
        """Remove the state of a pack that is done."""
        self._remove(self._files(pack))

    def _files(self, pack: "Pack") -> Iterable[Path]:
        return self.folder.glob(f"{pack.name}_epoch_*")

    def _remove(self, files: Iterable[Path]) -> None:
        for file in sorted(files, reverse=True):  # the description before the checkpoint
            file.unlink(missing_ok=True)

    def find(self, trials: Iterable["TrialToDo"]) -> dict[int, SavedPack]:
        """Return the latest state of each of these trials that has one, by the trial's number."""
        found: dict[int, SavedPack] = {}
        # As JSON has them. In a new study in place of a lost one, a trial may have another setting.
        wanted = {trial.number: (trial.root, json.loads(json.dumps(trial.settings))) for trial in trials}
        for file in sorted(self.folder.glob("*.json")):
            try:
                saved = SavedPack(**json.loads(file.read_text(encoding="utf-8")))
                settings = dict(zip(saved.roots, saved.settings, strict=True))
            except (OSError, ValueError, TypeError):  # removed meanwhile, or damaged
                continue
            for number, (root, setting) in wanted.items():
                if settings.get(root) == setting and (
                    number not in found or found[number].epoch < saved.epoch
                ):
                    found[number] = saved
        return found

    def claim(self, pack: "Pack") -> Path | None:
        """Return the checkpoint that a pack goes on from, under the pack's name; None if it cannot be read.

        Another worker may remove the file under its first name: one that was paused, and not dead.
        """
        if pack.saved is None:
            return None
        path = self.folder / f"{pack.name}_epoch_{pack.saved.epoch}.ckpt"
        try:
            if path.name != pack.saved.path:
                shutil.copyfile(self.folder / pack.saved.path, path)
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError):
            return None
        return path
