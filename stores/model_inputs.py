"""What a model is fed and what a trainer hands over: plain values, the same for every kind of model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from features import Project
from features.errors import DeclarationError
from features.schema import DataType
from stores import model_scoring
from stores.model_scoring import Matrix, Scores, open_models

_KINDS = {"BOOLEAN": "boolean", "DATE": "date", "TIMESTAMP": "timestamp", "STRING": "text"}


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """One feature column as the model sees it: ``number``, ``boolean``, ``date``, ``timestamp`` or ``text``.

    `categories` are the sorted texts seen in training; see model_code.py for how values are coded.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()

    def learnt(self, values: Iterable[Any]) -> "ModelInput":
        """This input with the categories of training values `values`, when it is a text."""
        if self.kind != "text":
            return self
        return replace(self, categories=tuple(sorted({str(value) for value in values if value is not None})))

    def described(self) -> dict[str, Any]:
        """The entry in features.json."""
        categories = {"categories": list(self.categories)} if self.kind == "text" else {}
        return {"name": self.name, "kind": self.kind, **categories}


def model_inputs(project: Project) -> tuple[ModelInput, ...]:
    """Inputs of the project's model, in order; texts have no categories yet. Raises DeclarationError for BINARY."""
    types = {column.name: column.type for column in project.columns}
    return tuple(ModelInput(name=name, kind=_kind(name, types[name])) for name in project.model_features)


def _kind(name: str, kind: DataType) -> str:
    if kind.name == "BINARY":
        raise DeclarationError(f"model: feature {name!r} is BINARY, which no trainer takes: leave it out with Model(features=...)")
    return _KINDS.get(kind.name, "number")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model as bytes. `native` is ``xgboost`` or ``onnx``; `onnx` is the twin or the model itself.

    `output` names the ONNX output with the scores; `parameters` are what the trainer really used.
    """

    native: str
    inputs: tuple[ModelInput, ...]
    task: str
    ubj: bytes | None = None
    onnx: bytes | None = None
    output: str = ""
    threshold: float = 0.5
    parameters: Mapping[str, object]
    pip_requirements: tuple[str, ...]

    def scores(self, matrix: Matrix) -> Scores:
        """What the written version will say about coded rows."""
        with TemporaryDirectory(prefix="anabranch-model-") as folder:
            self.write(Path(folder))
            return open_models(Path(folder), {"native": self.native, "output": self.output})[0].predict(matrix)

    def write(self, folder: Path) -> None:
        """Write the version's files into `folder`."""
        described = {
            "format": 1,
            "native": self.native,
            "task": self.task,
            "threshold": self.threshold,
            "output": self.output,
            "inputs": [given.described() for given in self.inputs],
        }
        (folder / "features.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
        (folder / "scoring.py").write_bytes(Path(model_scoring.__file__).read_bytes())
        for name, content in (("model.ubj", self.ubj), ("model.onnx", self.onnx)):
            if content is not None:
                (folder / name).write_bytes(content)
