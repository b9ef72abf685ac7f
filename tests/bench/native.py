"""A model version as MLflow itself would log it: XGBoost, scikit-learn or ONNX in its own flavour.

MLflow is measured at its best, without the coding of inputs that Anabranch's pyfunc does.
"""

import json
from pathlib import Path
from typing import Any

from anabranch.stores.models.scoring import TRUSTED, SkopsModel


def save_native(version: Path, place: Path, features: tuple[str, ...]) -> str:
    """Save the model in the folder `version` (of numeric inputs alone) to `place`; returns its URI."""
    import mlflow

    if (version / "model.ubj").exists():
        import xgboost

        booster = xgboost.Booster({"nthread": 1}, model_file=str(version / "model.ubj"))
        booster.feature_names = list(features)
        mlflow.xgboost.save_model(booster, str(place), pip_requirements=["mlflow"])
    elif (version / "model.skops").exists():
        estimator = SkopsModel(version / "model.skops", "class")._estimator
        mlflow.sklearn.save_model(
            estimator,
            str(place),
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED),
            pyfunc_predict_fn="predict_proba",
            pip_requirements=["mlflow"],
        )
    else:
        import onnx

        mlflow.onnx.save_model(onnx.load(version / "model.onnx"), str(place), pip_requirements=["mlflow"])
    return place.as_uri()


def probability(answer: Any, version: Path) -> float:
    """The score in the first row of an answer of MLflow's server, whichever flavour gave it."""
    row = answer["predictions"][0] if isinstance(answer["predictions"], list) else answer["predictions"]
    if isinstance(row, dict):
        output = json.loads((version / "features.json").read_text(encoding="utf-8"))["output"]
        row = row.get(output, next(iter(row.values())))
    while isinstance(row, list):
        row = row[-1]
    return float(row)
