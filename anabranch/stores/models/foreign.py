"""Model versions registered outside Anabranch: any MLflow pyfunc that loads without unpickling anything.

Such a version can only mass-score: it has no features.json and no ONNX form, and the gate has not judged it.
Mass scoring loads it by MLflow. Its inputs are those of its signature, by name: numbers, texts and booleans,
DATE as days and TIMESTAMP as microseconds since 1970. Its score is the last number of each row that it
returns, so a classifier is logged with ``pyfunc_predict_fn="predict_proba"``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.stores.models.connection import mlflow_module
from anabranch.stores.models.inputs import column_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import TRUSTED
from anabranch.stores.models.versions import Scorer
from anabranch.values.names import listed

_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill")
_DATA = {"mlflow.xgboost": "xgboost", "mlflow.onnx": "onnx", "mlflow.sklearn": "sklearn"}
_CODE = "mlflow.pyfunc.loaders.code_model"
_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class ForeignVersion:
    """A model version that was registered outside Anabranch, described for scoring; it is not loaded here."""

    version: str
    task: str
    threshold: float
    features: tuple[str, ...]
    kinds: Mapping[str, str]
    types: Mapping[str, str]
    """Spark's type of each input, from the signature."""


_SPARK_TYPES = {
    "boolean": "boolean",
    "integer": "int",
    "long": "bigint",
    "float": "float",
    "double": "double",
    "string": "string",
}


def scoring_version(models: Models, project: Project, version: str | None = None) -> Scorer | ForeignVersion:
    """The version (the champion when None) to score rows with.

    Raises MisuseError for a version registered outside Anabranch that is unsafe to load or does not fit the
    project.
    """
    if version is not None:
        with models.version_folder(project.name, version) as folder:
            if not (folder / "artifacts" / "model").is_dir():
                return _registered(project, version, folder)
    return models.scorer(project.name, version)


def _registered(project: Project, version: str, folder: Path) -> ForeignVersion:
    mlflow_module()
    from mlflow.models import Model

    place = f"version {version} of {project.name!r}"
    found = Model.load(str(folder))
    _check_safe(place, folder, found.flavors)
    given = found.signature.inputs if found.signature is not None else None
    if given is None or not given.has_input_names():
        raise MisuseError(
            f"{place} has no signature that names its inputs: "
            "log it again with one, mlflow.models.infer_signature(rows, scores)"
        )
    types = {
        str(column.name): _SPARK_TYPES.get(getattr(column.type, "name", ""), "") for column in given.inputs
    }
    unknown = [name for name in types if name not in project.inputs]
    if unknown:
        raise MisuseError(
            f"{place} reads {unknown[0]!r}, which is no feature: "
            f"{listed(unknown[0], project.inputs, 'there are')}"
        )
    kinds = {one.name: one.kind for one in column_inputs(project, types)}
    odd = [name for name, kind in types.items() if not kind or (kind == "string") != (kinds[name] == "text")]
    if odd:
        raise MisuseError(
            f"{place}: input {odd[0]!r} is no {kinds[odd[0]]} in its signature: "
            "declare texts as strings and others as numbers"
        )
    if project.task == "classes":
        raise MisuseError(
            f"{place} was registered outside Anabranch, and the label has several classes, "
            "whose order it does not tell: train it with the trainer 'sklearn' or your own 'module:function'"
        )
    task = "class" if project.model is None else project.model.task
    return ForeignVersion(
        version=version, task=task, threshold=_THRESHOLD, features=tuple(types), kinds=kinds, types=types
    )


def _check_safe(place: str, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises MisuseError unless the version is stored as data, or as code that can be read."""
    mend = (
        'log it again as data (mlflow.sklearn with serialization_format="skops", mlflow.xgboost, '
        'mlflow.onnx) or from code (python_model="model.py")'
    )
    pickles = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in _PICKLES
    )
    if pickles:
        raise MisuseError(
            f"{place} is kept as a pickle ({pickles[0]}), which runs whatever is in it: it is not loaded; "
            f"{mend}"
        )
    loader = str(flavors.get("python_function", {}).get("loader_module", ""))
    if loader == _CODE:
        return
    flavor = flavors.get(_DATA.get(loader, ""))
    if flavor is None:
        raise MisuseError(
            f"{place} is loaded by {loader or 'no pyfunc'}, which may unpickle what it reads: "
            f"it is not loaded; {mend}"
        )
    trusted = set(flavor.get("skops_trusted_types") or ()) - set(TRUSTED)
    if loader == "mlflow.sklearn" and (flavor.get("serialization_format") != "skops" or trusted):
        what = (
            f"trusts {min(trusted)}"
            if trusted
            else f"is kept as {flavor.get('serialization_format', 'a pickle')}"
        )
        raise MisuseError(f"{place} {what}, which may run whatever is in it: it is not loaded; {mend}")
    if not str(flavor.get("model_class", "xgboost.")).startswith("xgboost.") and loader == "mlflow.xgboost":
        raise MisuseError(
            f"{place} is of the class {flavor['model_class']}, which is none of XGBoost's: "
            f"it is not loaded; {mend}"
        )
