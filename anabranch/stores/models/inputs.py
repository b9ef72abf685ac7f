"""The inputs of a model and the trained model as bytes: plain values, alike for every kind of model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anabranch.declare.projects import Project
from anabranch.errors import DeclarationError, MisuseError
from anabranch.stores.models import scoring as model_scoring
from anabranch.stores.models.explaining.kept import FILE
from anabranch.stores.models.scoring import (
    Interval,
    Matrix,
    NativeModel,
    OnnxModel,
    Scores,
    SkopsModel,
    open_models,
)
from anabranch.values.types import DataType


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """One feature column as the model reads it: ``number``, ``boolean``, ``date``, ``timestamp`` or ``text``.

    `categories` are the sorted texts seen in training; scoring.py describes how values are coded.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()

    def learnt(self, values: Iterable[Any]) -> "ModelInput":
        """This input with the categories of the training values, when it is a text."""
        if self.kind != "text":
            return self
        return replace(self, categories=tuple(sorted({str(value) for value in values if value is not None})))

    def described(self) -> dict[str, Any]:
        """The entry in features.json."""
        categories = {"categories": list(self.categories)} if self.kind == "text" else {}
        return {"name": self.name, "kind": self.kind, **categories}


def model_inputs(project: Project) -> tuple[ModelInput, ...]:
    """Inputs of the project's model, in order; texts have no categories yet.

    Raises DeclarationError for BINARY.
    """
    return column_inputs(project, project.model_features)


def slice_inputs(project: Project) -> tuple[ModelInput, ...]:
    """Features that slices are made by and that the model does not read."""
    slices = project.model.declared_slices if project.model else ()
    return column_inputs(
        project, dict.fromkeys(one.feature for one in slices if one.feature not in project.model_features)
    )


def column_inputs(project: Project, names: Iterable[str]) -> tuple[ModelInput, ...]:
    """Feature columns of the project as inputs of a model."""
    types = project.inputs
    return tuple(ModelInput(name=name, kind=_kind(name, types[name])) for name in names)


def check_fits(project: Project, version: str, kinds: Mapping[str, str]) -> None:
    """Raises MisuseError unless the inputs of a version, by name and kind, are declared with these kinds."""
    declared = {name: kind.model_kind for name, kind in project.inputs.items()}
    for name, kind in kinds.items():
        if name not in declared:
            raise MisuseError(
                f"version {version} of {project.name!r} reads {name!r}, which is declared no more: "
                "train again"
            )
        if declared[name] != kind:
            raise MisuseError(
                f"version {version} of {project.name!r} reads {name!r} as a {kind}, "
                f"but it is declared as a {declared[name]}: train again"
            )


def _kind(name: str, kind: DataType) -> str:
    if not kind.trainable:
        raise DeclarationError(
            f"model: feature {name!r} is {kind}, which no trainer takes: "
            "leave it out with Model(features=...)"
        )
    return kind.model_kind


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model as bytes. `native` is ``xgboost``, ``skops`` or ``onnx``; `onnx` is its ONNX form.

    `output` names the ONNX output with the scores. XGBoost reads `columns`, None for the inputs as they are,
    and `shift` is added to its predictions. `parameters` are those that the trainer used. `explainer` is what
    its scores are explained by (explaining/kept.py). `classes` are those of a model of several classes, in
    the order of its scores' columns. `interval` is that of numbers.
    """

    native: str
    inputs: tuple[ModelInput, ...]
    task: str
    ubj: bytes | None = None
    skops: bytes | None = None
    onnx: bytes | None = None
    output: str = ""
    columns: Mapping[str, Any] | None = None
    shift: float = 0.0
    threshold: float = 0.5
    explainer: bytes | None = None
    classes: tuple[str | int, ...] = ()
    interval: Interval | None = None
    parameters: Mapping[str, object]
    pip_requirements: tuple[str, ...]

    def scores(self, matrix: Matrix) -> Scores:
        """Scores of coded rows, as the written version will compute them for many rows."""
        return self.both_scores(matrix)[0]

    def both_scores(self, matrix: Matrix) -> tuple[Scores, Scores | None]:
        """Scores of coded rows by the model itself and by its ONNX form, None when it has none."""
        many, few = self.opened()
        return many.predict(matrix), None if few is None else few.predict(matrix)

    def opened(self) -> tuple[NativeModel | SkopsModel | OnnxModel, OnnxModel | None]:
        """The model and its ONNX form, as a written version opens them."""
        with TemporaryDirectory(prefix="anabranch-model-") as folder:
            self.write(Path(folder))
            return open_models(Path(folder), self.described)

    @property
    def described(self) -> dict[str, Any]:
        """The content of features.json."""
        columns: dict[str, Any] = {} if self.columns is None else {"columns": dict(self.columns)}
        columns |= {"shift": self.shift} if self.shift else {}
        columns |= {"classes": list(self.classes)} if self.classes else {}
        columns |= {"interval": self.interval._asdict()} if self.interval else {}
        return {
            "format": 1,
            "native": self.native,
            "task": self.task,
            "threshold": self.threshold,
            "output": self.output,
            **columns,
            "inputs": [given.described() for given in self.inputs],
        }

    def write(self, folder: Path) -> None:
        """Write the version's files into `folder`."""
        (folder / "features.json").write_text(json.dumps(self.described, indent=2), encoding="utf-8")
        (folder / "scoring.py").write_bytes(Path(model_scoring.__file__).read_bytes())
        for name, content in self._files.items():
            if content is not None:
                (folder / name).write_bytes(content)

    @property
    def _files(self) -> dict[str, bytes | None]:
        return {
            "model.ubj": self.ubj,
            "model.skops": self.skops,
            "model.onnx": self.onnx,
            FILE: self.explainer,
        }

    @classmethod
    def read(
        cls, folder: Path, parameters: Mapping[str, object], pip_requirements: Iterable[str]
    ) -> "Fitted":
        """The model that `write` wrote into `folder`."""
        described = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        inputs = tuple(
            ModelInput(name=given["name"], kind=given["kind"], categories=tuple(given.get("categories", ())))
            for given in described["inputs"]
        )
        content = {
            name: (folder / name).read_bytes() if (folder / name).exists() else None
            for name in ("model.ubj", "model.skops", "model.onnx", FILE)
        }
        return cls(
            native=described["native"],
            inputs=inputs,
            task=described["task"],
            ubj=content["model.ubj"],
            skops=content["model.skops"],
            onnx=content["model.onnx"],
            output=described["output"],
            columns=described.get("columns"),
            shift=described.get("shift", 0.0),
            threshold=described["threshold"],
            explainer=content[FILE],
            classes=tuple(described.get("classes", ())),
            interval=Interval(**described["interval"]) if "interval" in described else None,
            parameters=parameters,
            pip_requirements=tuple(pip_requirements),
        )
