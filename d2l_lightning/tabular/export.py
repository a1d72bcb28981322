"""Models as files that need neither this package nor its classes: ONNX, and programs of torch.export."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from d2l_lightning.errors import InputError
from d2l_lightning.tabular.models import MeanOfModels

ExportFormat = Literal["onnx", "torch"]
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
METADATA = "d2l_lightning.json"


def require_export(export: ExportFormat | None) -> None:
    """Raise an InputError if a package that a format needs is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if export == "onnx" and missing:
        what = "packages" if len(missing) > 1 else "package"
        remedy = "pip install 'd2l_lightning[export]' installs them"
        raise InputError(f"the export to ONNX needs the {what} {' and '.join(missing)}; {remedy}")


def export_program(models: MeanOfModels, feature_names: Sequence[str], path: str | Path) -> None:
    """Write a program for ``torch.export.load``, by convention with the suffix .pt2.

    Its input is float32 features of shape ``(n, d)``, for any n, and its output that of the models. It has an
    extra file ``d2l_lightning.json`` with the names of the features, the label and the classes.

    Args:
        models: The models, in evaluation mode.
        feature_names: The names of the d features.
        path: The file to write.
    """
    program = _program(models, len(feature_names))
    torch.export.save(
        program, Path(path), extra_files={METADATA: json.dumps(_metadata(models, feature_names))}
    )


def export_onnx(models: MeanOfModels, feature_names: Sequence[str], path: str | Path) -> None:
    """Write an ONNX file, with the input ``features`` and the output ``predictions`` of the models.

    The input is float32 of shape ``(n, d)``, for any n. The names of the features, the label and the classes
    are in the metadata of the file, as JSON.

    Args:
        models: The models, in evaluation mode.
        feature_names: The names of the d features.
        path: The file to write.

    Raises:
        InputError: If onnx or onnxscript is not installed.
    """
    require_export("onnx")
    program = torch.onnx.export(
        _program(models, len(feature_names)),
        input_names=["features"],
        output_names=["predictions"],
        verbose=False,
    )
    if program is None:  # what the exporter returns if it is given a file
        raise AssertionError("the exporter returned no program")
    for name, value in _metadata(models, feature_names).items():
        program.model.metadata_props[name] = json.dumps(value)
    program.save(Path(path))


def _program(models: MeanOfModels, num_features: int) -> torch.export.ExportedProgram:
    rows = {"X": {0: torch.export.Dim("n")}}
    # Two rows: the exporter takes a size of 1 for a constant.
    return torch.export.export(models.eval(), (torch.zeros(2, num_features),), dynamic_shapes=rows)


def _metadata(models: MeanOfModels, feature_names: Sequence[str]) -> dict[str, str | list[str]]:
    target = models.target
    return {"label": target.label, "features": list(feature_names), "classes": list(target.classes)}
