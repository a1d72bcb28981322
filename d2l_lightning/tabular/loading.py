"""The models in the folder of a run."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

import d2l_lightning
from d2l_lightning.data.reading import first_of, names_in, reading
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.tabular.models import Target

ModelKind = Literal["folds", "final"]
# The names of checkpoints: the corrected model of covariate shift is trained on all rows.
NAMES = {"folds": r"fold_\d+(_repeat_\d+)?", "final": r"final(_\d+)?|corrected"}
RESULTS = "results.json"
AGAIN = "run the experiment again, and predict from the new run"


def require_finished(folder: Path) -> None:
    """Raise an InputError if a folder is not that of a finished run."""
    if RESULTS not in names_in(folder):
        raise InputError(f"{folder} is not the folder of a finished run: it has no {RESULTS}")
    with reading(folder / RESULTS):
        report = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if not isinstance(report, dict) or not isinstance(report.get("results"), dict):
        raise InputError(f"{folder / RESULTS} is not that of a run")


def load_models(folder: Path, kind: ModelKind | None = None) -> dict[str, SupervisedModule]:
    """Return models of a run by name, in evaluation mode on the CPU: those of its folds, or of all rows.

    Args:
        folder: The run folder.
        kind: Which models; if not given, those of the folds, or of all rows if there are no folds.

    Raises:
        InputError: If there are no such models, or one cannot be loaded.
    """
    files = folder / "checkpoints"
    present = [name[:-5] for name in names_in(files) if name.endswith(".ckpt")] if files.is_dir() else []
    if not present:
        raise InputError(f"the run in {folder} has no models; {AGAIN}")
    found = {of: [name for name in present if re.fullmatch(NAMES[of], name)] for of in NAMES}
    names = found[kind] if kind else found["folds"] or found["final"]
    if not names:
        other = next((of for of in found if found[of]), None)
        remedy = f"give --model {other}" if other else f"its checkpoints are {first_of(present, 3)}"
        what = {"folds": "models of folds", "final": "model of all rows", None: "model of a table"}[kind]
        raise InputError(f"the run in {folder} has no {what}; {remedy}")
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    with torch.random.fork_rng(devices=[]):  # a new model draws initial weights
        return {name: load_model(files / f"{name}.ckpt") for name in names}


def load_model(file: Path) -> SupervisedModule:
    """Return the model of a checkpoint with the encoder of its table, in evaluation mode on the CPU.

    Raises:
        InputError: If the file is damaged, has no encoder, is of an unknown class, or its settings or weights
            do not suit this class.
    """
    checkpoint = _read(file)
    encoding = checkpoint.get("encoding")
    if not isinstance(encoding, dict) or "target" not in encoding:
        raise InputError(
            f"{file} does not say what it predicts: it is of an older version of d2l_lightning; {AGAIN}"
        )
    name = str(checkpoint.get("class_name"))
    kind = getattr(d2l_lightning, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SupervisedModule)):
        raise InputError(f"{file} is of the class {name}, which this version of d2l_lightning does not have")
    try:
        TableEncoder.from_state(encoding)
        Target(**encoding["target"])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"the encoder in {file} is incomplete; {AGAIN}") from error
    try:
        model: SupervisedModule = kind(**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, RuntimeError, InputError) as error:
        raise InputError(f"{file} does not suit the class {name} of this version; {AGAIN}") from error
    model.encoding = encoding
    return model.eval()


def _read(file: Path) -> Mapping[str, Any]:
    with reading(file):
        content = io.BytesIO(file.read_bytes())
    try:
        checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # the parts of a damaged file raise errors of many kinds
        raise InputError(f"{file} is damaged or not a checkpoint; copy it again, or {AGAIN}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{file} is not a checkpoint")
    return checkpoint
